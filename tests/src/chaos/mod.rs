//! `make chaos`: breaks a running Roost and checks from outside what is left of its promises.
//!
//! [`testbed`] starts servers and programs, [`market`] books over HTTP, [`jobs`] are kinds that leave witnesses,
//! [`proxy`] stands between programs and servers, [`audit`] looks, [`verdict`] says what was found. One file a
//! scenario or family of scenarios. Times and victims of faults are drawn from the seed before the first of them.

mod api_crash;
mod audit;
mod burst;
mod clock;
pub mod crash_points;
mod double_booking;
pub mod jobs;
mod kill9;
mod load;
mod market;
mod poison;
mod postgres;
mod proxy;
mod redis;
mod rolling;
mod sigstop;
mod stripe_faults;
mod testbed;
mod verdict;
mod webhooks;

use anyhow::{Context, Result};
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

/// Plays a scenario. An error means that it could not be played, not that a promise was broken.
pub async fn run(scenario: Scenario, seed: u64, size: Size) -> Result<Verdict> {
    let name = scenario.name();
    let mut run = Run {
        size,
        dice: StdRng::seed_from_u64(seed),
        verdict: Verdict::new(&name, seed),
    };
    let mut testbed = Testbed::start(scenario.durability(size)).await?;
    let played = match scenario {
        Scenario::Kill9 => kill9::play(&mut testbed, &mut run).await,
        Scenario::RedisFlush => redis::flush(&mut testbed, &mut run).await,
        Scenario::RedisRestart => redis::restart(&mut testbed, &mut run).await,
        Scenario::RedisDown => redis::down(&mut testbed, &mut run).await,
        Scenario::RedisMaxmemory => redis::maxmemory(&mut testbed, &mut run).await,
        Scenario::PostgresRestart => postgres::restart(&mut testbed, &mut run).await,
        Scenario::PostgresDown => postgres::down(&mut testbed, &mut run).await,
        Scenario::DoubleBooking => double_booking::play(&mut testbed, &mut run).await,
        Scenario::StripeFaults => stripe_faults::play(&mut testbed, &mut run).await,
        Scenario::Sigstop => sigstop::play(&mut testbed, &mut run).await,
        Scenario::Poison => poison::play(&mut testbed, &mut run).await,
        Scenario::Rolling => rolling::play(&mut testbed, &mut run).await,
        Scenario::Webhooks => webhooks::play(&mut testbed, &mut run).await,
        Scenario::ApiCrash => api_crash::play(&mut testbed, &mut run).await,
        Scenario::Burst => burst::play(&mut testbed, &mut run).await,
        Scenario::Clock => clock::play(&mut testbed, &mut run).await,
    };
    for dead in testbed.dead()? {
        run.verdict.require(false, || dead);
    }
    let verdict = run.verdict.finished();
    if played.is_err() || !verdict.is_clean() {
        let kept = testbed.keep_logs(&format!("{name}-{seed}"))?;
        eprintln!("{name}: the logs are kept in {}", kept.display());
    }
    tokio::task::spawn_blocking(move || drop(testbed)).await?;
    played.with_context(|| format!("{name} with seed {seed}"))?;
    Ok(verdict)
}
