//! `make chaos`: breaks a running Roost and checks from outside what is left of its promises.
//!
//! [`testbed`] starts servers and programs, [`market`] books over HTTP, [`jobs`] are kinds that leave witnesses,
//! [`proxy`] stands between programs and servers, [`audit`], [`money`] and [`cpu`] look, [`verdict`] says what was found. One file a
//! scenario or family of scenarios. Times and victims of faults are drawn from the seed before the first of them.

mod api_crash;
mod audit;
mod burst;
mod clock;
mod cpu;
pub mod crash_points;
mod double_booking;
pub mod jobs;
mod kill9;
mod load;
mod market;
mod money;
mod poison;
mod postgres;
pub mod proxy;
mod redis;
mod rolling;
mod sigstop;
mod stripe_faults;
mod testbed;
mod verdict;
mod webhooks;

use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use rand::{SeedableRng, rngs::StdRng};

use crate::services::Durability;
use testbed::Testbed;
pub use verdict::Verdict;

/// What is done to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// Workers are killed at random moments.
    Kill9,
    /// Redis forgets everything.
    RedisFlush,
    /// Redis crashes and comes back, again and again.
    RedisRestart,
    /// Redis is away for long: first refusing, then silent.
    RedisDown,
    /// Redis is full.
    RedisMaxmemory,
    /// Postgres is restarted, crashes, and connections to it are cut.
    PostgresRestart,
    /// Postgres is away for long: first refusing, then silent.
    PostgresDown,
    /// Many guests want the same nights.
    DoubleBooking,
    /// Stripe answers late, wrongly or not at all, at every call.
    StripeFaults,
    /// A worker stands still for longer than its leases.
    Sigstop,
    /// A job takes every worker down that runs it.
    Poison,
    /// Workers are replaced one by one, by such that know more.
    Rolling,
    /// Stripe's events arrive again and again, in any order.
    Webhooks,
    /// The API is killed, at random and at every message to Postgres.
    ApiCrash,
    /// Very many jobs become due at once.
    Burst,
    /// The clocks of the workers are wrong.
    Clock,
}

impl Scenario {
    /// As `SCENARIO=` names it.
    fn name(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }

    /// Where Postgres keeps its promises to the disk, as in production; the short form leaves that to those who need it.
    fn durability(self, size: Size) -> Durability {
        match self {
            Self::PostgresRestart | Self::PostgresDown => Durability::Durable,
            _ => size.of(Durability::Scratch, Durability::Durable),
        }
    }
}

/// How much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// As much as shows that the promise holds.
    Short,
    /// The figures that the README gives.
    Full,
}

impl Size {
    fn of<T>(self, short: T, full: T) -> T {
        match self {
            Self::Short => short,
            Self::Full => full,
        }
    }
}

/// What a scenario has to go by.
struct Run {
    size: Size,
    /// The same numbers for the same seed.
    dice: StdRng,
    verdict: Verdict,
}

/// Within this the short form of a scenario is over.
const SHORT_LIMIT: Duration = Duration::from_secs(60);

/// Plays a scenario. What kept it from being played to its end is a violation too: nobody knows what it would have found.
pub async fn run(scenario: Scenario, seed: u64, size: Size) -> Verdict {
    let name = scenario.name();
    let mut run = Run {
        size,
        dice: StdRng::seed_from_u64(seed),
        verdict: Verdict::new(&name, seed),
    };
    let played = match Testbed::start(scenario.durability(size)).await {
        Ok(testbed) => play_on(testbed, scenario, &mut run).await,
        Err(error) => Err(error.context("starting the servers")),
    };
    run.verdict.require(played.is_ok(), || {
        let error = played.err().map(|error| format!("{error:#}"));
        format!("not played to its end: {}", error.unwrap_or_default())
    });
    run.verdict.finished(size.of(Some(SHORT_LIMIT), None))
}

async fn play_on(mut testbed: Testbed, scenario: Scenario, run: &mut Run) -> Result<()> {
    let played = play(&mut testbed, scenario, run).await;
    for dead in testbed.dead()? {
        run.verdict.require(false, || dead);
    }
    // A connection that went back to its pool inside of a transaction: what others wrote there was not committed.
    let log = testbed.logs("postgres")?;
    let left_open = log.matches("there is already a transaction in progress").count();
    run.verdict.require(left_open == 0, || {
        format!("{left_open} transactions were begun where one had been left open")
    });
    if played.is_err() || !run.verdict.is_clean() {
        let name = &run.verdict.scenario;
        let kept = testbed.keep_logs(&format!("{name}-{}", run.verdict.seed))?;
        eprintln!("{name}: the logs are kept in {}", kept.display());
    }
    tokio::task::spawn_blocking(move || drop(testbed)).await?;
    played
}

async fn play(testbed: &mut Testbed, scenario: Scenario, run: &mut Run) -> Result<()> {
    match scenario {
        Scenario::Kill9 => kill9::play(testbed, run).await,
        Scenario::RedisFlush => redis::flush(testbed, run).await,
        Scenario::RedisRestart => redis::restart(testbed, run).await,
        Scenario::RedisDown => redis::down(testbed, run).await,
        Scenario::RedisMaxmemory => redis::maxmemory(testbed, run).await,
        Scenario::PostgresRestart => postgres::restart(testbed, run).await,
        Scenario::PostgresDown => postgres::down(testbed, run).await,
        Scenario::DoubleBooking => double_booking::play(testbed, run).await,
        Scenario::StripeFaults => stripe_faults::play(testbed, run).await,
        Scenario::Sigstop => sigstop::play(testbed, run).await,
        Scenario::Poison => poison::play(testbed, run).await,
        Scenario::Rolling => rolling::play(testbed, run).await,
        Scenario::Webhooks => webhooks::play(testbed, run).await,
        Scenario::ApiCrash => api_crash::play(testbed, run).await,
        Scenario::Burst => burst::play(testbed, run).await,
        Scenario::Clock => clock::play(testbed, run).await,
    }
}
