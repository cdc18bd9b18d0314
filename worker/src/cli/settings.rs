//! `roost-worker jobs …` for what is set: limits, how long jobs are kept, workers.

use std::str::FromStr;

use clap::{Args, ValueEnum};
use roost_shared::db::Db;
use roost_shared::jobs::actions::By;
use roost_shared::jobs::settings::{self, Keep, Limits, WorkerWish};
use roost_shared::jobs::{Queue, batches, overview, retention};
use uuid::Uuid;

use super::{actor, plain};

const SECONDS_OF_A_DAY: i32 = 86_400;

/// What of a queue or kind is to change; the rest stays as it is.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct LimitChange {
    /// A queue, or a kind: payment.capture
    name: String,
    /// Jobs that run at the same time on all workers together, or none
    #[arg(long, value_name = "COUNT")]
    concurrency: Option<Count>,
    /// Jobs that begin in a span of seconds: 20 (a second), 100/60, or none
    #[arg(long, value_name = "COUNT[/SECONDS]")]
    rate: Option<Pace>,
    /// A due job begins within so many seconds (queues only)
    #[arg(long, value_name = "SECONDS")]
    target: Option<i32>,
    /// 1 to 100: lighter queues yield while this one is late (queues only)
    #[arg(long)]
    weight: Option<i32>,
    /// Why; needed to limit what moves money
    #[arg(long)]
    reason: Option<String>,
}

/// A limit, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Count(Option<i32>);

impl FromStr for Count {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self(None)),
            number => match number.parse() {
                Ok(count) => Ok(Self(Some(count))),
                Err(_) => Err("a number, or none".to_owned()),
            },
        }
    }
}

/// A rate, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pace {
    limit: Option<i32>,
    seconds: i32,
}

impl FromStr for Pace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (limit, seconds) = text.split_once('/').unwrap_or((text, "1"));
        let Count(limit) = limit.parse()?;
        let seconds = seconds.parse().map_err(|_| "seconds as a number".to_owned())?;
        Ok(Self { limit, seconds })
    }
}

/// What a worker is to do.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// quiet, resume or stop
    #[arg(value_enum)]
    wish: Wish,
    /// As `workers` prints it
    name: String,
    /// Why
    #[arg(long)]
    reason: Option<String>,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    /// Take nothing new
    Quiet,
    /// Take jobs again
    Resume,
    /// End as on SIGTERM
    Stop,
}

/// How long jobs are kept.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// succeeded, cancelled, dead or quarantined; with no state, print how long each is kept
    #[arg(requires = "days")]
    state: Option<String>,
    /// So many days after the end
    days: Option<i32>,
    /// Why
    #[arg(long)]
    reason: Option<String>,
}

impl LimitChange {
    fn apply(&self, limits: Limits) -> Limits {
        let Count(concurrency) = self.concurrency.unwrap_or(Count(limits.concurrency));
        let rate = self.rate.unwrap_or(Pace {
            limit: limits.rate_limit,
            seconds: limits.rate_seconds,
        });
        Limits {
            concurrency,
            rate_limit: rate.limit,
            rate_seconds: rate.seconds,
        }
    }
}

/// Sets limits and prints what they are now.
pub(super) async fn limit(db: &Db, change: &LimitChange) -> anyhow::Result<()> {
    let actor = actor();
    let by = By {
        actor: &actor,
        reason: change.reason.as_deref(),
    };
    let mut tx = db.begin().await?;
    let limits = if Queue::by_name(&change.name).is_some() {
        let mut wanted = settings::queue(&mut tx, &change.name).await?;
        wanted.limits = change.apply(wanted.limits);
        wanted.target_seconds = change.target.unwrap_or(wanted.target_seconds);
        wanted.weight = change.weight.unwrap_or(wanted.weight);
        settings::set_queue(&mut tx, &change.name, wanted, by).await?;
        wanted.limits
    } else {
        if change.target.is_some() || change.weight.is_some() {
            anyhow::bail!("a kind has neither a target nor a weight: its queue has");
        }
        let wanted = change.apply(settings::kind(&mut tx, &change.name).await?);
        settings::set_kind(&mut tx, &change.name, wanted, by).await?;
        wanted
    };
    tx.commit().await?;
    say!(
        "{}  {}",
        change.name,
        told(limits.concurrency, limits.rate_limit, limits.rate_seconds)
    );
    Ok(())
}

/// `3 at once, 20 in 1 s`
fn told(concurrency: Option<i32>, rate_limit: Option<i32>, rate_seconds: i32) -> String {
    let parts: Vec<String> = [
        concurrency.map(|most| format!("{most} at once")),
        rate_limit.map(|limit| format!("{limit} in {rate_seconds} s")),
    ]
    .into_iter()
    .flatten()
    .collect();
    if parts.is_empty() {
        "no limit".to_owned()
    } else {
        parts.join(", ")
    }
}

/// Prints the queues and the limits of kinds, one a line.
pub(super) async fn print_queues(db: &Db) -> anyhow::Result<()> {
    for queue in overview::queues(db.pool()).await? {
        say!(
            "{:<14}  {:<7}  due {:>5}  running {:>4}  to breach {:>8.1} s  target {} s  publish lag {:.1} s  weight {}  {}",
            queue.name,
            if queue.paused { "paused" } else { "works" },
            queue.due,
            queue.running,
            queue.seconds_to_breach(),
            queue.target_seconds,
            queue.publish_lag_seconds,
            queue.weight,
            told(queue.concurrency, queue.rate_limit, queue.rate_seconds),
        );
    }
    for kind in overview::limited_kinds(db.pool()).await? {
        say!(
            "{:<14}  {}",
            plain(&kind.name),
            told(kind.concurrency, kind.rate_limit, kind.rate_seconds)
        );
    }
    Ok(())
}

/// Prints the workers, one a line.
pub(super) async fn print_workers(db: &Db) -> anyhow::Result<()> {
    for worker in overview::workers(db.pool()).await? {
        let state = match (worker.is_alive(), worker.stop, worker.quiet) {
            (false, _, _) => "gone",
            (true, true, _) => "stopping",
            (true, false, true) => "quiet",
            (true, false, false) => "works",
        };
        say!(
            "{}  {state:<8}  {}  {}  running {}  {}",
            plain(&worker.name),
            plain(&worker.host),
            plain(&worker.version),
            worker.running,
            worker.queues.join(",")
        );
    }
    Ok(())
}

/// Tells a worker what to do.
pub(super) async fn tell(db: &Db, told: &Told) -> anyhow::Result<()> {
    let actor = actor();
    let by = By {
        actor: &actor,
        reason: told.reason.as_deref(),
    };
    let wish = match told.wish {
        Wish::Quiet => WorkerWish::Quiet,
        Wish::Resume => WorkerWish::Resume,
        Wish::Stop => WorkerWish::Stop,
    };
    let mut tx = db.begin().await?;
    settings::tell_worker(&mut tx, &told.name, wish, by).await?;
    tx.commit().await?;
    say!("{}  {}", plain(&told.name), wish.name());
    Ok(())
}

/// Sets how long jobs are kept, and prints it for all states.
pub(super) async fn keep(db: &Db, kept: &Kept) -> anyhow::Result<()> {
    if let (Some(state), Some(days)) = (&kept.state, kept.days) {
        let actor = actor();
        let by = By {
            actor: &actor,
            reason: kept.reason.as_deref(),
        };
        let mut tx = db.begin().await?;
        settings::set_retention(&mut tx, state, Keep::Days(days), by).await?;
        tx.commit().await?;
    }
    for kept in retention::kept(db.pool()).await? {
        say!(
            "{:<11}  {:.1} days",
            kept.state,
            f64::from(kept.seconds) / f64::from(SECONDS_OF_A_DAY)
        );
    }
    Ok(())
}

/// Prints how far a batch is.
pub(super) async fn print_batch(db: &Db, id: Uuid) -> anyhow::Result<()> {
    let Some(batch) = batches::find(db.pool(), id).await? else {
        anyhow::bail!("there is no such batch");
    };
    let state = if batch.finished_at.is_some() {
        "ended"
    } else {
        "under way"
    };
    say!(
        "{}  {state}  {} of {} done, {} failed  after the last: {} {}",
        batch.id,
        batch.done,
        batch.total,
        batch.failed,
        plain(&batch.after_kind),
        batch.after_id
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_limits_are_read_as_they_are_written() {
        assert_eq!(
            "20".parse(),
            Ok(Pace {
                limit: Some(20),
                seconds: 1
            })
        );
        assert_eq!(
            "100/60".parse(),
            Ok(Pace {
                limit: Some(100),
                seconds: 60
            })
        );
        assert_eq!(
            "none".parse(),
            Ok(Pace {
                limit: None,
                seconds: 1
            })
        );
        assert_eq!("none".parse(), Ok(Count(None)));
        for text in ["", "many", "1/", "/1", "1/s"] {
            assert!(text.parse::<Pace>().is_err(), "{text}");
        }
        assert_eq!(told(Some(3), Some(20), 1), "3 at once, 20 in 1 s");
        assert_eq!(told(None, None, 1), "no limit");
    }
}
