//! What operators set while all runs: limits, weights and targets of queues, limits of kinds, how long jobs are kept, and
//! what workers are to do. Each change is written to the audit log in its transaction; workers heed it within two seconds.

use serde_json::{Value, json};

use super::Rate;
use super::actions::{ActionError, By};
use super::kinds;
use crate::db::Tx;
use crate::operators::audit::{self, Entry};

/// The most jobs at a time, or in a span of time, that a limit may allow.
const HIGHEST_LIMIT: i32 = 1_000_000;
const LONGEST_RATE_SECONDS: i32 = 86_400;
const LONGEST_TARGET_SECONDS: i32 = 7 * 86_400;
const HIGHEST_WEIGHT: i32 = 100;
/// From an hour to ten years.
const KEPT_SECONDS: std::ops::RangeInclusive<i32> = 3_600..=315_360_000;
const KEPT_DAYS: std::ops::RangeInclusive<i32> = 1..=3_650;
const SECONDS_OF_A_DAY: i32 = 86_400;

/// Limits of a queue or a kind, across all workers. None: no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// So many jobs run at the same time.
    pub concurrency: Option<i32>,
    /// So many jobs begin …
    pub rate_limit: Option<i32>,
    /// … in any span of so many seconds.
    pub rate_seconds: i32,
}

impl Limits {
    fn check(&self) -> Result<(), ActionError> {
        within("concurrency", self.concurrency.unwrap_or(1), 1..=HIGHEST_LIMIT)?;
        within("rate_limit", self.rate_limit.unwrap_or(1), 1..=HIGHEST_LIMIT)?;
        within("rate_seconds", self.rate_seconds, 1..=LONGEST_RATE_SECONDS)?;
        match self.rate_limit {
            Some(limit) if Rate::new(limit, self.rate_seconds).is_none() => Err(invalid("rate_limit", "is no rate")),
            _ => Ok(()),
        }
    }

    fn any(&self) -> bool {
        self.concurrency.is_some() || self.rate_limit.is_some()
    }

    /// Whether these limit as the others do.
    fn differ(&self, other: &Self) -> bool {
        let rate = |limits: &Self| limits.rate_limit.map(|limit| (limit, limits.rate_seconds));
        self.concurrency != other.concurrency || rate(self) != rate(other)
    }

    fn facts(&self) -> Value {
        json!({ "concurrency": self.concurrency, "rate_limit": self.rate_limit, "rate_seconds": self.rate_seconds })
    }
}

/// What can be set of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueSettings {
    /// Its limits.
    pub limits: Limits,
    /// A due job should begin within so many seconds.
    pub target_seconds: i32,
    /// While a heavier queue comes near its target, this one has its share of the slots only. 1 to 100.
    pub weight: i32,
}

impl QueueSettings {
    fn facts(&self) -> Value {
        let mut facts = self.limits.facts();
        facts["target_seconds"] = json!(self.target_seconds);
        facts["weight"] = json!(self.weight);
        facts
    }
}

/// What an operator wants of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerWish {
    /// Take nothing new; what runs goes on.
    Quiet,
    /// Take jobs again.
    Resume,
    /// End as on SIGTERM.
    Stop,
}

impl WorkerWish {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Quiet, Self::Resume, Self::Stop];

    /// In paths and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Quiet => "quiet",
            Self::Resume => "resume",
            Self::Stop => "stop",
        }
    }

    /// The wish of that name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|wish| wish.name() == name)
    }

    const fn entry(self) -> &'static str {
        match self {
            Self::Quiet => "worker.quiet",
            Self::Resume => "worker.resume",
            Self::Stop => "worker.stop",
        }
    }
}

fn invalid(field: &'static str, message: impl Into<String>) -> ActionError {
    ActionError::InvalidSetting {
        field,
        message: message.into(),
    }
}

fn within(field: &'static str, value: i32, range: std::ops::RangeInclusive<i32>) -> Result<(), ActionError> {
    if range.contains(&value) {
        Ok(())
    } else {
        Err(invalid(field, format!("is from {} to {}", range.start(), range.end())))
    }
}

/// Whether changing how a queue is worked off needs a reason.
#[must_use]
pub fn queue_moves_money(queue: &str) -> bool {
    matches!(queue, "payments" | "confirmation")
}

/// Whether keeping a worker of these queues from its jobs needs a reason.
#[must_use]
pub fn worker_moves_money(queues: &[String]) -> bool {
    queues.iter().any(|queue| queue_moves_money(queue))
}

/// How a queue is set.
///
/// # Errors
/// There is no such queue.
pub async fn queue(tx: &mut Tx, name: &str) -> Result<QueueSettings, ActionError> {
    let row = sqlx::query!(
        "SELECT concurrency, rate_limit, rate_seconds, target_seconds, weight FROM queues WHERE name = $1 FOR UPDATE",
        name
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(ActionError::NotFound("queue"))?;
    Ok(QueueSettings {
        limits: Limits {
            concurrency: row.concurrency,
            rate_limit: row.rate_limit,
            rate_seconds: row.rate_seconds,
        },
        target_seconds: row.target_seconds,
        weight: row.weight,
    })
}

/// Sets a queue. What runs goes on.
///
/// # Errors
/// There is no such queue, a value is out of its range, or the limits of a queue that moves money change without a reason:
/// set they keep cards waiting, lifted they charge all that have waited.
pub async fn set_queue(tx: &mut Tx, name: &str, settings: QueueSettings, by: By<'_>) -> Result<(), ActionError> {
    settings.limits.check()?;
    within("target_seconds", settings.target_seconds, 1..=LONGEST_TARGET_SECONDS)?;
    within("weight", settings.weight, 1..=HIGHEST_WEIGHT)?;
    let before = queue(tx, name).await?;
    by.answerable(queue_moves_money(name) && settings.limits.differ(&before.limits))?;
    sqlx::query!(
        "UPDATE queues SET concurrency = $2, rate_limit = $3, rate_seconds = $4, target_seconds = $5, weight = $6 WHERE name = $1",
        name,
        settings.limits.concurrency,
        settings.limits.rate_limit,
        settings.limits.rate_seconds,
        settings.target_seconds,
        settings.weight
    )
    .execute(tx.conn())
    .await?;
    let entry = Entry::new(by.actor, "queue.set", name)
        .before(before.facts())
        .after(settings.facts())
        .because(by.reason());
    audit::append(tx, entry).await?;
    Ok(())
}

/// The limits of a kind; none are set for most.
///
/// # Errors
/// There is no such kind.
pub async fn kind(tx: &mut Tx, name: &str) -> Result<Limits, ActionError> {
    kinds::kind(name).ok_or(ActionError::NotFound("kind"))?;
    let row = sqlx::query!(
        "SELECT concurrency, rate_limit, rate_seconds FROM kinds WHERE name = $1 FOR UPDATE",
        name
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(row.map_or(NO_LIMITS, |row| Limits {
        concurrency: row.concurrency,
        rate_limit: row.rate_limit,
        rate_seconds: row.rate_seconds,
    }))
}

/// Nothing is limited.
pub const NO_LIMITS: Limits = Limits {
    concurrency: None,
    rate_limit: None,
    rate_seconds: 1,
};

/// Limits a kind, or lifts its limits.
///
/// # Errors
/// This build does not know the kind, a value is out of its range, or the limits of a kind that moves money change without
/// a reason.
pub async fn set_kind(tx: &mut Tx, name: &str, limits: Limits, by: By<'_>) -> Result<(), ActionError> {
    let known = kinds::kind(name).ok_or(ActionError::NotFound("kind"))?;
    limits.check()?;
    let before = kind(tx, name).await?;
    by.answerable(known.moves_money && limits.differ(&before))?;
    if limits.any() {
        sqlx::query!(
            "INSERT INTO kinds (name, queue, concurrency, rate_limit, rate_seconds) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (name) DO UPDATE SET queue = EXCLUDED.queue, concurrency = EXCLUDED.concurrency,
                 rate_limit = EXCLUDED.rate_limit, rate_seconds = EXCLUDED.rate_seconds",
            name,
            known.queue.name(),
            limits.concurrency,
            limits.rate_limit,
            limits.rate_seconds
        )
        .execute(tx.conn())
        .await?;
    } else {
        sqlx::query!("DELETE FROM kinds WHERE name = $1", name)
            .execute(tx.conn())
            .await?;
    }
    let entry = Entry::new(by.actor, "kind.set", name)
        .before(before.facts())
        .after(limits.facts())
        .because(by.reason());
    audit::append(tx, entry).await?;
    Ok(())
}

/// How long jobs are to be kept, in the unit that was asked for: a refusal names that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// 3,600 to 315,360,000.
    Seconds(i32),
    /// 1 to 3,650.
    Days(i32),
}

impl Keep {
    fn seconds(self) -> Result<i32, ActionError> {
        match self {
            Self::Seconds(seconds) => within("keep_seconds", seconds, KEPT_SECONDS).map(|()| seconds),
            Self::Days(days) => within("days", days, KEPT_DAYS).map(|()| days * SECONDS_OF_A_DAY),
        }
    }
}

/// Sets how long jobs that ended in `state` are kept with their attempts. What is too old goes with the next hourly
/// pruning.
///
/// # Errors
/// Jobs do not end in such a state, or the time is out of its range.
pub async fn set_retention(tx: &mut Tx, state: &str, keep: Keep, by: By<'_>) -> Result<(), ActionError> {
    by.answerable(false)?;
    let keep_seconds = keep.seconds()?;
    let before = sqlx::query_scalar!(
        "SELECT keep_seconds FROM job_retention WHERE state = $1 FOR UPDATE",
        state
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(ActionError::NotFound("state in which jobs are kept"))?;
    sqlx::query!(
        "UPDATE job_retention SET keep_seconds = $2 WHERE state = $1",
        state,
        keep_seconds
    )
    .execute(tx.conn())
    .await?;
    let entry = Entry::new(by.actor, "retention.set", state)
        .before(json!({ "keep_seconds": before }))
        .after(json!({ "keep_seconds": keep_seconds }))
        .because(by.reason());
    audit::append(tx, entry).await?;
    Ok(())
}

/// Tells a worker what to do, and returns whether it is to be quiet and to stop now.
///
/// # Errors
/// No such worker is there any more; to quiet or stop one that serves a queue that moves money needs a reason, as a pause of
/// that queue does.
pub async fn tell_worker(tx: &mut Tx, name: &str, wish: WorkerWish, by: By<'_>) -> Result<(bool, bool), ActionError> {
    let before = sqlx::query!(
        "SELECT quiet, stop, queues FROM workers WHERE name = $1 AND stopped_at IS NULL FOR UPDATE",
        name
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(ActionError::NotFound("worker"))?;
    by.answerable(wish != WorkerWish::Resume && worker_moves_money(&before.queues))?;
    let (quiet, stop) = match wish {
        WorkerWish::Quiet => (true, before.stop),
        WorkerWish::Resume => (false, before.stop),
        WorkerWish::Stop => (before.quiet, true),
    };
    sqlx::query!(
        "UPDATE workers SET quiet = $2, stop = $3 WHERE name = $1",
        name,
        quiet,
        stop
    )
    .execute(tx.conn())
    .await?;
    let entry = Entry::new(by.actor, wish.entry(), name)
        .before(json!({ "quiet": before.quiet, "stop": before.stop }))
        .after(json!({ "quiet": quiet, "stop": stop }))
        .because(by.reason());
    audit::append(tx, entry).await?;
    Ok((quiet, stop))
}
