//! `make bench`: figures of speed and size, each beside the limit of the same machine in the same minutes.
//!
//! [`machine`] starts servers and binaries, [`dataset`] fills the database, [`wrk`] and [`pgbench`] drive; [`reads`],
//! [`bookings`], [`webhooks`], [`logins`], [`jobs`], [`fleet`],
//! [`dashboard`] and [`startup`] measure. Limits and figures take turns, so that noise meets both.

pub mod bare;
mod bookings;
mod dashboard;
mod dataset;
pub(crate) mod figure;
mod fleet;
pub mod jobs;
mod logins;
mod machine;
mod pgbench;
mod reads;
mod startup;
mod statements;
mod webhooks;
mod wrk;

use std::time::{Duration, Instant};

use anyhow::Result;
use chrono::NaiveDate;
use clap::ValueEnum;
use roost_shared::clock::Clock;

use dataset::Dataset;
use figure::{Figure, Report, Target};
use machine::Machine;

/// What can be measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Cold starts and memory at rest.
    Startup,
    /// One property, cached and not.
    Detail,
    /// Searches.
    Search,
    /// Bookings.
    Bookings,
    /// Stripe's events.
    Webhooks,
    /// Sign-ins.
    Login,
    /// Jobs enqueued, run and settled.
    Jobs,
    /// From commit to start of a job.
    Latency,
    /// Eight workers with nothing to do.
    Fleet,
    /// 3,000 jobs a second for ten minutes; only when it is named.
    Sustained,
    /// The operators' list of jobs.
    Dashboard,
}

/// How much of everything.
#[derive(Clone, Debug)]
pub struct Plan {
    dataset: Dataset,
    rounds: u64,
    round: Duration,
    warm_up: Duration,
    /// Jobs a round.
    jobs: u64,
    /// Jobs that the dashboard is looked at over, and how often in each way.
    dashboard_jobs: u64,
    looks: u64,
    latency: Duration,
    idle: Duration,
    fleet: Duration,
    sustained: Duration,
    today: NaiveDate,
    /// Whether to say how long PostgreSQL takes for a job, by statement.
    pub statements: bool,
}

impl Plan {
    /// The whole, or as little as shows that everything works.
    pub fn new(quick: bool, jobs: Option<u64>) -> Self {
        let today = Clock::default().now().date_naive();
        if quick {
            return Self {
                dataset: Dataset { properties: 2_000 },
                rounds: 1,
                round: Duration::from_secs(2),
                warm_up: Duration::from_millis(500),
                jobs: jobs.unwrap_or(4_000),
                dashboard_jobs: 20_000,
                looks: 5,
                latency: Duration::from_secs(5),
                idle: Duration::from_secs(3),
                fleet: Duration::from_secs(5),
                sustained: Duration::from_secs(20),
                today,
                statements: false,
            };
        }
        Self {
            dataset: Dataset { properties: 100_000 },
            rounds: 3,
            round: Duration::from_secs(6),
            warm_up: Duration::from_secs(2),
            jobs: jobs.unwrap_or(100_000),
            dashboard_jobs: 1_000_000,
            looks: 100,
            latency: Duration::from_secs(40),
            idle: Duration::from_secs(10),
            fleet: Duration::from_secs(60),
            sustained: Duration::from_secs(600),
            today,
            statements: false,
        }
    }
}

/// Measures `parts`, all of them if none is named. False: a target was missed.
pub async fn run(plan: &Plan, parts: &[Part]) -> Result<bool> {
    let machine = Machine::start(plan.statements).await?;
    let mut report = Report::default();
    let outcome = measure(&machine, plan, parts, &mut report).await;
    machine.finish().await?;
    outcome?;
    eprint!("\n{}", report.table());
    Ok(report.all_met())
}

async fn measure(machine: &Machine, plan: &Plan, parts: &[Part], report: &mut Report) -> Result<()> {
    let wanted = |part: Part| parts.is_empty() || parts.contains(&part);
    let began = Instant::now();
    let say = |what: &str| eprintln!("{:>5.0} s  {what}", began.elapsed().as_secs_f64());
    say(&format!(
        "making {} properties and {} bookings",
        plan.dataset.properties,
        plan.dataset.properties * 5
    ));
    let seconds = plan.dataset.make(machine.database_url()).await?;
    report.add(
        Figure::new("dataset", seconds, "s", plan.dataset.properties * 5)
            .target(Target::AtMost(120.0))
            .note("users, properties, bookings under the exclusion constraint, and payments"),
    )?;
    if wanted(Part::Startup) {
        say("cold starts and memory");
        startup::measure(machine, plan, report).await?;
    }
    if wanted(Part::Fleet) {
        say("an idle fleet");
        fleet::idle(machine, plan, report).await?;
    }
    if wanted(Part::Latency) {
        say("commit to start");
        jobs::latency(machine, plan, report).await?;
    }
    if wanted(Part::Jobs) {
        say("jobs");
        jobs::throughput(machine, plan, report).await?;
        jobs::warm(machine, plan, report).await?;
    }
    // Longer than all the others together.
    if parts.contains(&Part::Sustained) {
        say("jobs without end");
        jobs::sustained(machine, plan, report).await?;
    }
    let served = [Part::Detail, Part::Search, Part::Bookings, Part::Webhooks, Part::Login];
    if served.into_iter().any(wanted) {
        requests(machine, plan, &wanted, report, &say).await?;
    }
    // Its million jobs would be in the way of the others.
    if wanted(Part::Dashboard) {
        say(&format!("the dashboard over {} jobs", plan.dashboard_jobs));
        dashboard::measure(machine, plan, report).await?;
    }
    Ok(())
}

/// What clients of the API wait for.
async fn requests(
    machine: &Machine,
    plan: &Plan,
    wanted: &impl Fn(Part) -> bool,
    report: &mut Report,
    say: &impl Fn(&str),
) -> Result<()> {
    let api = machine.api().await?;
    let ((), peak) = api
        .peak(async {
            if wanted(Part::Detail) {
                say("one property");
                reads::detail(machine, &api, plan, report).await?;
            }
            if wanted(Part::Search) {
                say("searches");
                reads::search(machine, &api, plan, report).await?;
            }
            if wanted(Part::Bookings) {
                say("bookings");
                bookings::measure(machine, &api, plan, report).await?;
            }
            if wanted(Part::Webhooks) {
                say("webhooks");
                webhooks::measure(machine, &api, plan, report).await?;
            }
            Ok(())
        })
        .await?;
    report.add(
        Figure::new("api_memory_loaded", peak, "MB", 1).note("most resident memory under the reads and bookings above"),
    )?;
    if wanted(Part::Login) {
        say("sign-ins");
        logins::measure(machine, &api, plan, report).await?;
    }
    api.stop().await
}
