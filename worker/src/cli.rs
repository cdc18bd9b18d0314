//! `roost-worker jobs …`: the operators' view of the jobs on a terminal, with the rules and the audit log of the
//! dashboard. Whoever may reach the database may do everything; the log names them as `cli:<user>`.

/// Prints a line. Who reads only the first of them, as `head` does, has what it wants: the program ends well.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::cli::print_line(format_args!($($text)*))?
    };
}

mod settings;

use std::fmt::Arguments;
use std::io::{ErrorKind, Write, stdout};

use anyhow::{Context as _, bail};
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use roost_shared::clock::Clock;
use roost_shared::config::{DatabaseArgs, RedisArgs};
use roost_shared::db::Db;
use roost_shared::jobs::actions::{self, By, JobAction};
use roost_shared::jobs::catalogue::UNTIL_DONE;
use roost_shared::jobs::inspect;
use roost_shared::jobs::inspections;
use roost_shared::jobs::kinds;
use roost_shared::jobs::list::{self, JobFilter};
use roost_shared::jobs::{Publisher, Queue};
use uuid::Uuid;

use settings::{Kept, LimitChange, Told};

/// What to do with jobs.
#[derive(Subcommand, Clone, Debug, PartialEq, Eq)]
pub enum JobsCommand {
    /// Print the newest jobs that match, one a line
    List(Filter),
    /// Print a job, its attempts and effects, and what a retry would do
    Show {
        /// The job
        id: Uuid,
    },
    /// Ask Stripe how a job's effects stand; `show` prints the answer once a worker has looked
    Ask(Target),
    /// Run a dead, quarantined or cancelled job once more
    Retry(Target),
    /// Do not run a job; stop it if it runs
    Cancel(Target),
    /// Let workers leave a queue alone
    Pause(PausedQueue),
    /// Let workers take a queue's jobs again
    Resume(PausedQueue),
    /// Print the queues: what waits, what runs, time to breach, limits
    Queues,
    /// Limit a queue or kind across all workers, or set a queue's target and weight
    Limit(LimitChange),
    /// Print the workers
    Workers,
    /// Tell a worker to take nothing new, to go on, or to end
    Worker(Told),
    /// Print or set how long jobs are kept after their end
    Keep(Kept),
    /// Print how far a batch is
    Batch {
        /// The batch
        id: Uuid,
    },
}

/// Which jobs.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// States, separated by commas: dead,quarantined
    #[arg(long, value_delimiter = ',')]
    state: Vec<String>,
    /// A kind: payment.capture
    #[arg(long)]
    kind: Option<String>,
    /// A queue
    #[arg(long)]
    queue: Option<Queue>,
    /// Enqueued at or after: 2030-06-01T12:00:00Z
    #[arg(long)]
    from: Option<DateTime<Utc>>,
    /// Enqueued before
    #[arg(long)]
    to: Option<DateTime<Utc>>,
    /// So many attempts at least
    #[arg(long)]
    attempts: Option<i32>,
    /// unknown: with a call to the outside whose outcome nobody knows
    #[arg(long)]
    effect: Option<String>,
    /// Running, and on this worker
    #[arg(long)]
    worker: Option<String>,
    /// The newest before this job
    #[arg(long)]
    before: Option<Uuid>,
    /// How many
    #[arg(long, default_value_t = 20)]
    limit: u16,
    /// An id of a job, booking, payment, user or event; a JSON object that the arguments contain; or text of an error
    query: Option<String>,
}

/// Which job, and why.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The job
    id: Uuid,
    /// Why; needed where money is touched
    #[arg(long)]
    reason: Option<String>,
}

/// Which queue, and why.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct PausedQueue {
    /// The queue
    queue: Queue,
    /// Why; needed for payments and confirmation
    #[arg(long)]
    reason: Option<String>,
}

/// Does what was asked for and prints what it came to.
///
/// # Errors
/// It was refused, or Postgres could not be reached.
pub async fn run(command: &JobsCommand, database: &DatabaseArgs, redis: &RedisArgs) -> anyhow::Result<()> {
    let pool = database.connect()?;
    let publisher = Publisher::spawn(pool.clone(), &redis.connect()?).context("REDIS_URL")?;
    let db = Db::new(pool, publisher, Clock::default());
    match command {
        JobsCommand::List(filter) => print_list(&db, filter).await,
        JobsCommand::Show { id } => print_job(&db, *id).await,
        JobsCommand::Ask(target) => ask(&db, target).await,
        JobsCommand::Retry(target) => act(&db, target, JobAction::Retry).await,
        JobsCommand::Cancel(target) => act(&db, target, JobAction::Cancel).await,
        JobsCommand::Pause(paused) => set_paused(&db, paused, true).await,
        JobsCommand::Resume(paused) => set_paused(&db, paused, false).await,
        JobsCommand::Queues => settings::print_queues(&db).await,
        JobsCommand::Limit(change) => settings::limit(&db, change).await,
        JobsCommand::Workers => settings::print_workers(&db).await,
        JobsCommand::Worker(told) => settings::tell(&db, told).await,
        JobsCommand::Keep(kept) => settings::keep(&db, kept).await,
        JobsCommand::Batch { id } => settings::print_batch(&db, *id).await,
    }
}

fn print_line(text: Arguments<'_>) -> anyhow::Result<()> {
    match writeln!(stdout(), "{text}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        written => written.context("writing to standard output"),
    }
}

fn actor() -> String {
    format!("cli:{}", std::env::var("USER").unwrap_or_else(|_| "unknown".to_owned()))
}

/// On a terminal a text from a job may not move the cursor or change colours.
fn plain(text: &str) -> String {
    text.chars()
        .map(|one| if one.is_control() { ' ' } else { one })
        .collect()
}

async fn print_list(db: &Db, filter: &Filter) -> anyhow::Result<()> {
    let wanted = JobFilter {
        ids: Vec::new(),
        states: filter.state.clone(),
        kind: filter.kind.clone(),
        queue: filter.queue.map(|queue| queue.name().to_owned()),
        from: filter.from,
        to: filter.to,
        attempts: filter.attempts,
        effect: filter.effect.clone(),
        worker: filter.worker.clone(),
        q: filter.query.clone(),
    };
    let page = list::page(db.pool(), &wanted, filter.before, i64::from(filter.limit)).await?;
    for job in page.jobs {
        say!(
            "{}  {:<11}  {:<20}  {:>3}/{:<3}  {}  {}  {}",
            job.id,
            job.state,
            plain(&job.kind),
            job.attempt,
            most_attempts(job.max_attempts),
            job.created_at.format("%Y-%m-%d %H:%M:%SZ"),
            plain(&kinds::masked(&job.kind, &job.args).to_string()),
            plain(&job.last_error.unwrap_or_default()),
        );
    }
    if page.cut {
        eprintln!("{}", list::CUT);
    }
    Ok(())
}

/// How many there may be.
fn most_attempts(most: i32) -> String {
    if most >= UNTIL_DONE {
        "∞".to_owned()
    } else {
        most.to_string()
    }
}

async fn print_job(db: &Db, id: Uuid) -> anyhow::Result<()> {
    let Some(detail) = inspect::inspect(db.pool(), id).await? else {
        bail!("there is no such job");
    };
    let job = &detail.job;
    say!("{}  {}  {}", job.id, plain(&job.kind), job.state);
    say!("  queue     {}", job.queue);
    say!("  attempts  {} of {}", job.attempt, most_attempts(job.max_attempts));
    say!("  due       {}", job.run_at);
    say!(
        "  args      {}",
        plain(&kinds::masked(&job.kind, &job.args).to_string())
    );
    if let Some(booking) = detail.booking_id {
        say!("  booking   {booking}");
    }
    if let Some(parent) = job.parent_id {
        say!("  parent    {parent}");
    }
    for child in &detail.children {
        say!("  child     {}  {}  {}", child.id, child.state, plain(&child.kind));
    }
    if let Some(batch) = &detail.batch {
        say!(
            "  batch     {}  {} of {} done, {} failed",
            batch.id,
            batch.done,
            batch.total,
            batch.failed
        );
    }
    if let Some(batch) = &detail.follows {
        say!(
            "  follows   {}  {} of {} done, {} failed",
            batch.id,
            batch.done,
            batch.total,
            batch.failed
        );
    }
    if let Some(trace) = job.trace_id() {
        say!("  trace     {}", plain(trace));
    }
    for line in &detail.outlook {
        say!("  {:<8}  {}", line.tone.name(), line.text);
    }
    for attempt in &detail.attempts {
        say!(
            "  attempt {}  {}  {}  {}",
            attempt.attempt,
            attempt.ended_at,
            attempt.outcome,
            plain(attempt.error.as_deref().unwrap_or_default())
        );
    }
    for effect in &detail.effects {
        say!(
            "  effect  {}  {}  {}",
            effect.state,
            effect.key,
            effect.external_id.as_deref().unwrap_or_default()
        );
        if let Some(inspection) = detail.inspection_of(effect) {
            let words = inspection.words();
            say!(
                "    asked {}: {}",
                inspection.asked_at,
                plain(words.as_deref().unwrap_or("no answer yet"))
            );
        }
    }
    Ok(())
}

async fn ask(db: &Db, target: &Target) -> anyhow::Result<()> {
    let Some(detail) = inspect::inspect(db.pool(), target.id).await? else {
        bail!("there is no such job");
    };
    let actor = actor();
    let by = By {
        actor: &actor,
        reason: target.reason.as_deref(),
    };
    let mut tx = db.begin().await?;
    let effects = inspections::ask(&mut tx, &detail, by).await?;
    tx.commit().await?;
    for effect in effects {
        say!("{}  asked about {effect}", target.id);
    }
    Ok(())
}

async fn act(db: &Db, target: &Target, action: JobAction) -> anyhow::Result<()> {
    let actor = actor();
    let by = By {
        actor: &actor,
        reason: target.reason.as_deref(),
    };
    let mut tx = db.begin().await?;
    let state = actions::act(&mut tx, target.id, action, by).await?;
    tx.commit().await?;
    say!("{}  {state}", target.id);
    Ok(())
}

async fn set_paused(db: &Db, paused: &PausedQueue, on: bool) -> anyhow::Result<()> {
    let actor = actor();
    let by = By {
        actor: &actor,
        reason: paused.reason.as_deref(),
    };
    let mut tx = db.begin().await?;
    actions::set_paused(&mut tx, paused.queue.name(), on, by).await?;
    tx.commit().await?;
    let word = if on { "paused" } else { "resumed" };
    say!("{}  {word}", paused.queue.name());
    Ok(())
}
