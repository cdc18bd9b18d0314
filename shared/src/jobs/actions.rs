//! What an operator does to jobs, queues and schedules: each a function on a transaction that also writes the audit
//! log, so that pages, the JSON API and the command line have the same rules.

use serde_json::{Value, json};
use uuid::Uuid;

use super::kinds;
use super::settings::queue_moves_money;
use super::state::{JobState, MORE_ATTEMPTS};
use crate::db::{Tx, violated_constraint};
use crate::operators::audit::{self, Entry};

const LONGEST_REASON: usize = 500;

/// Who acts, and why.
#[derive(Clone, Copy, Debug)]
pub struct By<'a> {
    /// As the audit log names them.
    pub actor: &'a str,
    /// In their words.
    pub reason: Option<&'a str>,
}

impl By<'_> {
    pub(super) fn reason(&self) -> Option<&str> {
        self.reason.map(str::trim).filter(|reason| !reason.is_empty())
    }

    /// Refuses to go on without a reason where there must be one, and a reason that nobody would read.
    ///
    /// # Errors
    /// [`ActionError::ReasonNeeded`], [`ActionError::InvalidReason`].
    pub fn answerable(&self, moves_money: bool) -> Result<(), ActionError> {
        match self.reason() {
            None if moves_money => Err(ActionError::ReasonNeeded),
            Some(reason) if reason.chars().count() > LONGEST_REASON || reason.contains('\0') => {
                Err(ActionError::InvalidReason)
            }
            _ => Ok(()),
        }
    }
}

/// Why an action is refused.
#[derive(Debug, thiserror::Error)]
pub enum ActionError {
    /// There is no such job, queue or schedule.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// The job has moved on, or never could.
    #[error("the job is {state}, so it cannot be {verb}")]
    WrongState {
        /// Its state.
        state: String,
        /// What was asked for.
        verb: &'static str,
    },
    /// The job moves money, so the log has to say why.
    #[error("this touches money: say why, in 1 to {LONGEST_REASON} characters")]
    ReasonNeeded,
    /// The reason is longer than anybody reads, or cannot be stored.
    #[error("a reason has {LONGEST_REASON} characters at most, and no U+0000 among them")]
    InvalidReason,
    /// The job has done nothing at Stripe about which one could ask there.
    #[error("the job has no effect at Stripe to ask about")]
    NothingToAsk,
    /// Another job does the same work already.
    #[error("another job with the same dedupe key has not ended yet")]
    Duplicate,
    /// This build does not know the kind, so nobody can say whether arguments fit it.
    #[error("this build does not know the kind {0:?}")]
    UnknownKind(String),
    /// The arguments do not fit the kind.
    #[error("the arguments do not fit {kind}: {message}")]
    InvalidArgs {
        /// The kind.
        kind: String,
        /// Which field, and why.
        message: String,
    },
    /// A setting is out of its range.
    #[error("{field} {message}")]
    InvalidSetting {
        /// Which.
        field: &'static str,
        /// What it has to be.
        message: String,
    },
    /// Postgres refused or could not be reached.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// A single change of one job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobAction {
    /// Run once more what has ended without success.
    Retry,
    /// Run at once what waits for its time.
    RunNow,
    /// Do not run it; stop it if it runs.
    Cancel,
    /// Remove it with its attempts. Its effects stay.
    Delete,
}

impl JobAction {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Retry, Self::RunNow, Self::Cancel, Self::Delete];

    /// In paths and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::RunNow => "run",
            Self::Cancel => "cancel",
            Self::Delete => "delete",
        }
    }

    /// The action of that name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.name() == name)
    }

    /// In the audit log.
    const fn entry(self) -> &'static str {
        match self {
            Self::Retry => "job.retry",
            Self::RunNow => "job.run",
            Self::Cancel => "job.cancel",
            Self::Delete => "job.delete",
        }
    }

    const fn verb(self) -> &'static str {
        match self {
            Self::Retry => "retried",
            Self::RunNow => "run now",
            Self::Cancel => "cancelled",
            Self::Delete => "deleted",
        }
    }

    /// The states in which it makes sense.
    pub fn from_states(self) -> impl Iterator<Item = JobState> {
        JobState::ALL.into_iter().filter(move |state| state.permits(self))
    }

    /// Whether a job in this state can have it.
    #[must_use]
    pub fn fits(self, state: &str) -> bool {
        JobState::by_name(state).is_some_and(|state| state.permits(self))
    }
}

/// Whether the arguments of a job in this state may be changed.
#[must_use]
pub fn editable(state: &str) -> bool {
    JobState::by_name(state).is_some_and(JobState::is_editable)
}

struct Locked {
    kind: String,
    state: String,
    args: Value,
    attempt: i32,
    max_attempts: i32,
    dedupe_key: Option<String>,
    last_error: Option<String>,
}

impl Locked {
    fn facts(&self) -> Value {
        json!({
            "kind": self.kind, "state": self.state, "attempt": self.attempt, "max_attempts": self.max_attempts,
            "args": kinds::masked(&self.kind, &self.args),
        })
    }
}

async fn lock(tx: &mut Tx, id: Uuid) -> Result<Locked, ActionError> {
    sqlx::query_as!(
        Locked,
        "SELECT kind, state, args, attempt, max_attempts, dedupe_key, last_error FROM jobs WHERE id = $1 FOR NO KEY UPDATE",
        id
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(ActionError::NotFound("job"))
}

fn duplicate(error: sqlx::Error) -> ActionError {
    match violated_constraint(&error) {
        Some("jobs_dedupe") => ActionError::Duplicate,
        _ => ActionError::Database(error),
    }
}

/// Does `action` to a job and returns the state that it has now; `deleted` if it is gone.
///
/// A worker's relay publishes what becomes due within about a second. A running job is asked to stop, and does so
/// within its lease's next renewal.
///
/// # Errors
/// See [`ActionError`]. After [`ActionError::Duplicate`] the transaction is of no more use.
pub async fn act(tx: &mut Tx, id: Uuid, action: JobAction, by: By<'_>) -> Result<String, ActionError> {
    let job = lock(tx, id).await?;
    if !action.fits(&job.state) {
        return Err(ActionError::WrongState {
            state: job.state,
            verb: action.verb(),
        });
    }
    by.answerable(kinds::moves_money(&job.kind))?;
    let state = match action {
        JobAction::Retry => {
            sqlx::query!(
                "UPDATE jobs SET state = 'queued', run_at = now(), published_at = NULL, finished_at = NULL, crash_count = 0,
                     cancel_requested = false, max_attempts = greatest(max_attempts, attempt + $2) WHERE id = $1",
                id,
                MORE_ATTEMPTS
            )
            .execute(tx.conn())
            .await
            .map_err(duplicate)?;
            "queued"
        }
        JobAction::RunNow => {
            sqlx::query!(
                "UPDATE jobs SET state = 'queued', run_at = now(), published_at = NULL WHERE id = $1",
                id
            )
            .execute(tx.conn())
            .await?;
            "queued"
        }
        JobAction::Cancel if job.state == "running" => {
            sqlx::query!("UPDATE jobs SET cancel_requested = true WHERE id = $1", id)
                .execute(tx.conn())
                .await?;
            "running"
        }
        JobAction::Cancel => {
            sqlx::query!(
                "UPDATE jobs SET state = 'cancelled', finished_at = now(), published_at = NULL WHERE id = $1",
                id
            )
            .execute(tx.conn())
            .await?;
            "cancelled"
        }
        JobAction::Delete => {
            sqlx::query!("DELETE FROM job_attempts WHERE job_id = $1", id)
                .execute(tx.conn())
                .await?;
            sqlx::query!("DELETE FROM jobs WHERE id = $1", id)
                .execute(tx.conn())
                .await?;
            "deleted"
        }
    };
    let mut before = job.facts();
    if let Some(error) = &job.last_error {
        before["last_error"] = json!(error);
    }
    let mut after = json!({ "state": state });
    if action == JobAction::Cancel && job.state == "running" {
        after["cancel_requested"] = json!(true);
    }
    let entry = Entry::on_job(by.actor, action.entry(), id)
        .before(before)
        .after(after)
        .because(by.reason());
    audit::append(tx, entry).await?;
    Ok(state.to_owned())
}

/// Replaces the arguments of a job that nobody runs. The old ones stay in the audit log.
///
/// # Errors
/// See [`ActionError`].
pub async fn edit_args(tx: &mut Tx, id: Uuid, args: &Value, by: By<'_>) -> Result<(), ActionError> {
    let job = lock(tx, id).await?;
    by.answerable(kinds::moves_money(&job.kind))?;
    if !editable(&job.state) {
        return Err(ActionError::WrongState {
            state: job.state,
            verb: "edited",
        });
    }
    let kind = kinds::kind(&job.kind).ok_or_else(|| ActionError::UnknownKind(job.kind.clone()))?;
    let (args, dedupe_key) = kind.check(args).map_err(|message| ActionError::InvalidArgs {
        kind: job.kind.clone(),
        message,
    })?;
    let dedupe_key = job.dedupe_key.as_ref().and(dedupe_key);
    sqlx::query!(
        "UPDATE jobs SET args = $2, dedupe_key = $3 WHERE id = $1",
        id,
        args,
        dedupe_key
    )
    .execute(tx.conn())
    .await
    .map_err(duplicate)?;
    let entry = Entry::on_job(by.actor, "job.edit", id)
        .before(json!({ "kind": job.kind, "args": job.args }))
        .after(json!({ "args": args }))
        .because(by.reason());
    audit::append(tx, entry).await?;
    Ok(())
}

/// Pauses or resumes a queue. Workers look every two seconds; what runs goes on.
///
/// # Errors
/// There is no such queue; one that moves money needs a reason: a pause keeps holds from being paid, and after it all
/// cards that have waited are charged.
pub async fn set_paused(tx: &mut Tx, queue: &str, paused: bool, by: By<'_>) -> Result<(), ActionError> {
    by.answerable(queue_moves_money(queue))?;
    let before = sqlx::query_scalar!("SELECT paused FROM queues WHERE name = $1 FOR UPDATE", queue)
        .fetch_optional(tx.conn())
        .await?
        .ok_or(ActionError::NotFound("queue"))?;
    sqlx::query!("UPDATE queues SET paused = $2 WHERE name = $1", queue, paused)
        .execute(tx.conn())
        .await?;
    let action = if paused { "queue.pause" } else { "queue.resume" };
    let entry = Entry::new(by.actor, action, queue)
        .before(json!({ "paused": before }))
        .after(json!({ "paused": paused }))
        .because(by.reason());
    audit::append(tx, entry).await?;
    Ok(())
}

/// Makes the next tick of a schedule due: a worker fires it within five seconds, once, also if it is paused.
///
/// # Errors
/// There is no such schedule; one whose job moves money needs a reason.
pub async fn run_schedule(tx: &mut Tx, name: &str, by: By<'_>) -> Result<(), ActionError> {
    let now = tx.now();
    let before = sqlx::query_scalar!("SELECT next_tick FROM cron_schedules WHERE name = $1 FOR UPDATE", name)
        .fetch_optional(tx.conn())
        .await?
        .ok_or(ActionError::NotFound("schedule"))?;
    // A schedule has the name of the kind that it enqueues.
    by.answerable(kinds::moves_money(name))?;
    sqlx::query!(
        "UPDATE cron_schedules SET next_tick = least(next_tick, $2) WHERE name = $1",
        name,
        now
    )
    .execute(tx.conn())
    .await?;
    let entry = Entry::new(by.actor, "schedule.run", name)
        .before(json!({ "next_tick": before }))
        .after(json!({ "next_tick": before.map_or(now, |before| before.min(now)) }))
        .because(by.reason());
    audit::append(tx, entry).await?;
    Ok(())
}
