//! An operator's action on all jobs that match a filter: counted first, then worked off by a job in batches.
//!
//! A batch, its audit entries and the cursor are one transaction, and the cursor only goes on: whatever happens to the
//! worker, each job is acted on at most once.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use super::actions::{ActionError, By, JobAction};
use super::catalogue::RunBulkAction;
use super::list::{self, JobFilter, ListError};
use super::preview::needs_reason;
use super::state::JobState;
use super::{Lease, LeaseError, kinds};
use crate::db::Tx;
use crate::ids;
use crate::operators::audit::{self, Entry};

/// Jobs that one transaction acts on.
const BATCH: i64 = 500;
/// In the audit log, of an action's beginning and of its end by an operator. The target is the action's id.
const BEGIN: &str = "jobs.bulk";
const STOP: &str = "jobs.bulk.stop";

/// Whether the target of an entry of the audit log is a bulk action.
#[must_use]
pub fn is_target_of(entry: &str) -> bool {
    matches!(entry, BEGIN | STOP)
}

/// Whether an entry of the audit log tells of the beginning of a bulk action: what it did is told under it.
#[must_use]
pub fn begins(entry: &str) -> bool {
    entry == BEGIN
}

/// An action on many jobs and how far it came.
#[derive(Clone, Debug)]
pub struct BulkAction {
    /// The action's id.
    pub id: Uuid,
    /// `retry`, `run`, `cancel` or `delete`.
    pub action: String,
    /// Which jobs.
    pub filter: Value,
    /// Who.
    pub actor: String,
    /// Why.
    pub reason: Option<String>,
    /// How many matched when it was asked for.
    pub expected: i64,
    /// How many it was done to.
    pub done: i64,
    /// How many had moved on meanwhile.
    pub refused: i64,
    /// `running`, `finished` or `stopped`: by an operator, or because its job has ended before it was done.
    pub state: String,
    /// When it was asked for.
    pub created_at: DateTime<Utc>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// The job that works it off, if that is still kept.
    pub job_id: Option<Uuid>,
    /// That job's state.
    pub job_state: Option<String>,
    /// Whether it is stopped only because that job has ended: a retry of the job goes on with it.
    pub can_go_on: bool,
}

impl BulkAction {
    /// How much of it is done, in hundredths.
    #[must_use]
    pub fn percent(&self) -> i64 {
        if self.state == "finished" {
            return 100;
        }
        let worked = self.done + self.refused;
        (worked * 100).checked_div(self.expected).unwrap_or(0).clamp(0, 99)
    }
}

/// Why a bulk action cannot begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum BulkError {
    /// The filter.
    #[error(transparent)]
    List(#[from] ListError),
    /// The action.
    #[error(transparent)]
    Action(#[from] ActionError),
    /// A later build's, and not known to this one.
    #[error("this build does not know the action {0:?}")]
    UnknownAction(String),
    /// It cannot be stopped any more.
    #[error("the action is {0}, so it cannot be stopped")]
    Ended(String),
    /// The job that works it off lost its lease.
    #[error("the lease of the job was lost")]
    LeaseLost,
    /// Postgres.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

impl From<LeaseError> for BulkError {
    fn from(error: LeaseError) -> Self {
        match error {
            LeaseError::Lost => Self::LeaseLost,
            LeaseError::Database(error) => Self::Database(error),
        }
    }
}

/// Whether an action on many jobs takes those of a state when the filter names none. What is scheduled waits for a time
/// that was chosen, the end of a hold or of a patience: it is run before that only when the filter asks for it.
fn takes_unasked(action: JobAction, state: JobState) -> bool {
    action != JobAction::RunNow || state == JobState::Retrying
}

/// Whether jobs that are scheduled match and are left alone all the same.
pub(super) fn leaves_scheduled(filter: &JobFilter, action: JobAction) -> bool {
    filter.states.is_empty() && filter.ids.is_empty() && !takes_unasked(action, JobState::Scheduled)
}

/// The filter, narrowed to the states in which the action makes sense. Without a state, jobs that are scheduled are not
/// run now, unless they are named one by one: only those that have failed and wait for their next attempt.
#[must_use]
pub fn narrowed(filter: &JobFilter, action: JobAction) -> JobFilter {
    let mut narrowed = filter.clone();
    narrowed.states = action
        .from_states()
        .filter(|state| {
            if filter.states.is_empty() {
                !filter.ids.is_empty() || takes_unasked(action, *state)
            } else {
                filter.states.iter().any(|wanted| wanted == state.name())
            }
        })
        .map(|state| state.name().to_owned())
        .collect();
    if narrowed.states.is_empty() {
        // No state is left: a state that no job has keeps the filter from meaning all of them.
        narrowed.states = vec!["succeeded".to_owned()];
        narrowed.attempts = Some(i32::MAX);
    }
    narrowed
}

/// Writes the action and enqueues the job that works it off. `expected` is what the operator was shown.
///
/// # Errors
/// See [`BulkError`]. Without a reason only where no job of money can be among those that match.
pub async fn begin(
    tx: &mut Tx,
    filter: &JobFilter,
    action: JobAction,
    expected: i64,
    by: By<'_>,
) -> Result<Uuid, BulkError> {
    filter.check().map_err(ListError::from)?;
    let narrowed = narrowed(filter, action);
    let matching = if filter.ids.is_empty() {
        Vec::new()
    } else {
        list::count_by_kind(tx.conn(), &narrowed).await?
    };
    by.answerable(needs_reason(filter, &matching))?;
    let now = tx.now();
    let id = ids::new(now);
    let filter = serde_json::to_value(narrowed).map_err(|error| sqlx::Error::Encode(error.into()))?;
    // The action's own id is younger than every job that was there.
    sqlx::query!(
        "INSERT INTO bulk_actions (id, action, filter, actor, reason, cursor, expected, created_at) VALUES ($1, $2, $3, $4, $5, $1, $6, $7)",
        id,
        action.name(),
        filter,
        by.actor,
        by.reason(),
        expected,
        now
    )
    .execute(tx.conn())
    .await?;
    let entry = Entry::new(by.actor, BEGIN, &id.to_string())
        .after(json!({"action": action.name(), "filter": filter, "expected": expected}))
        .because(by.reason());
    audit::append(tx, entry).await?;
    tx.enqueue(&RunBulkAction { action_id: id });
    Ok(id)
}

/// Does the next batch and commits nothing itself. False: the action has ended.
///
/// # Errors
/// See [`BulkError`].
pub async fn step(tx: &mut Tx, lease: &Lease, id: Uuid) -> Result<bool, BulkError> {
    lease.guard(tx).await?;
    let now = tx.now();
    let Some(bulk) = sqlx::query!(
        "SELECT action, filter, actor, reason, cursor FROM bulk_actions WHERE id = $1 AND state = 'running' FOR UPDATE",
        id
    )
    .fetch_optional(tx.conn())
    .await?
    else {
        return Ok(false);
    };
    let filter: JobFilter = serde_json::from_value(bulk.filter).map_err(|error| sqlx::Error::Decode(error.into()))?;
    let action = JobAction::by_name(&bulk.action).ok_or_else(|| BulkError::UnknownAction(bulk.action.clone()))?;
    let jobs = list::ids(tx.conn(), &filter, bulk.cursor, BATCH).await?;
    let Some(cursor) = jobs.last().copied() else {
        sqlx::query!(
            "UPDATE bulk_actions SET state = 'finished', finished_at = $2 WHERE id = $1",
            id,
            now
        )
        .execute(tx.conn())
        .await?;
        return Ok(false);
    };
    // Its own job is not among those it acts on.
    let jobs: Vec<Uuid> = jobs.into_iter().filter(|job| *job != lease.job_id).collect();
    let changed = match action {
        JobAction::Retry => retry(tx, &jobs).await?,
        JobAction::RunNow => run(tx, &jobs).await?,
        JobAction::Cancel => cancel(tx, &jobs).await?,
        JobAction::Delete => delete(tx, &jobs).await?,
    };
    let done = i64::try_from(changed.len()).unwrap_or(i64::MAX);
    let refused = i64::try_from(jobs.len()).unwrap_or(i64::MAX) - done;
    record(tx, id, &bulk.action, &bulk.actor, bulk.reason.as_deref(), &changed).await?;
    sqlx::query!(
        "UPDATE bulk_actions SET cursor = $2, done = done + $3, refused = refused + $4 WHERE id = $1",
        id,
        cursor,
        done,
        refused
    )
    .execute(tx.conn())
    .await?;
    Ok(true)
}

/// A job and how it was.
struct Changed {
    id: Uuid,
    kind: String,
    state: String,
    attempt: i32,
    /// What is kept of one that is gone: its arguments and its error.
    args: Option<Value>,
    last_error: Option<String>,
}

impl Changed {
    fn facts(&self) -> Value {
        let mut facts = json!({"kind": self.kind, "state": self.state, "attempt": self.attempt});
        if let Some(args) = &self.args {
            facts["args"] = kinds::masked(&self.kind, args);
        }
        if let Some(error) = &self.last_error {
            facts["last_error"] = json!(error);
        }
        facts
    }
}

/// The action that a job carries on, if it is one of many jobs: who retries or runs it does that.
///
/// # Errors
/// Postgres could not be reached.
pub async fn carried_on_by(tx: &mut Tx, job_id: Uuid) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar!(
        "SELECT bulk_actions.action FROM jobs JOIN bulk_actions ON bulk_actions.id = (args ->> 'action_id')::uuid
         WHERE jobs.id = $1 AND jobs.kind = 'ops.bulk'",
        job_id
    )
    .fetch_optional(tx.conn())
    .await
}

/// Of several that wait under one dedupe key the newest is retried, and none while another has not ended. Actions on many
/// jobs are carried on one by one, by who may begin them.
async fn retry(tx: &mut Tx, jobs: &[Uuid]) -> Result<Vec<Changed>, sqlx::Error> {
    sqlx::query_as!(
        Changed,
        "WITH chosen AS (
             SELECT id, kind, state, attempt, dedupe_key FROM jobs
             WHERE id = ANY($1) AND coalesce(state, '') IN ('dead', 'quarantined', 'cancelled') AND kind <> 'ops.bulk'
             FOR NO KEY UPDATE SKIP LOCKED),
         free AS (
             SELECT DISTINCT ON (coalesce(dedupe_key, id::text)) id, kind, state, attempt FROM chosen
             WHERE NOT EXISTS (SELECT 1 FROM jobs AS other WHERE other.dedupe_key = chosen.dedupe_key
                 AND other.state IN ('scheduled', 'queued', 'running', 'retrying'))
             ORDER BY coalesce(dedupe_key, id::text), id DESC)
         UPDATE jobs SET state = 'queued', run_at = now(), published_at = NULL, finished_at = NULL, crash_count = 0,
             cancel_requested = false, max_attempts = greatest(jobs.max_attempts, jobs.attempt + 3)
         FROM free WHERE jobs.id = free.id
         RETURNING jobs.id, free.kind, free.state, free.attempt, NULL::jsonb AS args, NULL::text AS last_error",
        jobs
    )
    .fetch_all(tx.conn())
    .await
}

async fn run(tx: &mut Tx, jobs: &[Uuid]) -> Result<Vec<Changed>, sqlx::Error> {
    sqlx::query_as!(
        Changed,
        "WITH chosen AS (
             SELECT id, kind, state, attempt FROM jobs
             WHERE id = ANY($1) AND coalesce(state, '') IN ('scheduled', 'retrying') AND kind <> 'ops.bulk'
             FOR NO KEY UPDATE SKIP LOCKED)
         UPDATE jobs SET state = 'queued', run_at = now(), published_at = NULL FROM chosen WHERE jobs.id = chosen.id
         RETURNING jobs.id, chosen.kind, chosen.state, chosen.attempt, NULL::jsonb AS args, NULL::text AS last_error",
        jobs
    )
    .fetch_all(tx.conn())
    .await
}

async fn cancel(tx: &mut Tx, jobs: &[Uuid]) -> Result<Vec<Changed>, sqlx::Error> {
    sqlx::query_as!(
        Changed,
        "WITH chosen AS (
             SELECT id, kind, state, attempt FROM jobs
             WHERE id = ANY($1) AND coalesce(state, '') IN ('scheduled', 'queued', 'retrying', 'running') FOR NO KEY UPDATE SKIP LOCKED)
         UPDATE jobs SET state = CASE WHEN chosen.state = 'running' THEN 'running' ELSE 'cancelled' END,
             cancel_requested = chosen.state = 'running',
             finished_at = CASE WHEN chosen.state = 'running' THEN NULL ELSE now() END
         FROM chosen WHERE jobs.id = chosen.id
         RETURNING jobs.id, chosen.kind, chosen.state, chosen.attempt, NULL::jsonb AS args, NULL::text AS last_error",
        jobs
    )
    .fetch_all(tx.conn())
    .await
}

async fn delete(tx: &mut Tx, jobs: &[Uuid]) -> Result<Vec<Changed>, sqlx::Error> {
    sqlx::query_as!(
        Changed,
        r#"WITH chosen AS (
             SELECT id FROM jobs WHERE id = ANY($1) AND coalesce(state, '') IN ('succeeded', 'dead', 'quarantined', 'cancelled')
             FOR UPDATE SKIP LOCKED),
         attempts AS (DELETE FROM job_attempts WHERE job_id IN (SELECT id FROM chosen))
         DELETE FROM jobs USING chosen WHERE jobs.id = chosen.id
         RETURNING jobs.id, jobs.kind, jobs.state, jobs.attempt, jobs.args AS "args?", jobs.last_error"#,
        jobs
    )
    .fetch_all(tx.conn())
    .await
}

/// An audit entry for each job.
async fn record(
    tx: &mut Tx,
    bulk: Uuid,
    action: &str,
    actor: &str,
    reason: Option<&str>,
    changed: &[Changed],
) -> Result<(), sqlx::Error> {
    let now = tx.now();
    let ids: Vec<Uuid> = changed.iter().map(|job| job.id).collect();
    let before: Vec<Value> = changed.iter().map(Changed::facts).collect();
    sqlx::query!(
        "INSERT INTO operator_audit (at, actor, action, target, job_id, before, after, reason)
         SELECT $1, $2, 'job.' || $3, id::text, id, before, jsonb_build_object('bulk', $4::uuid), $5
         FROM unnest($6::uuid[], $7::jsonb[]) AS changed (id, before) ORDER BY changed.id",
        now,
        actor,
        action,
        bulk,
        reason,
        &ids,
        &before
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Stops an action for good: once this is committed no job more is acted on. What was done stays done.
///
/// # Errors
/// It has ended, or there is none; a reason is needed as it was to begin. See [`BulkError`].
pub async fn stop(tx: &mut Tx, id: Uuid, by: By<'_>) -> Result<(), BulkError> {
    by.answerable(true)?;
    let now = tx.now();
    // Waits for the batch that is being done.
    let before = sqlx::query!(
        "SELECT action, state, done, refused FROM bulk_actions WHERE id = $1 FOR UPDATE",
        id
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(ActionError::NotFound("bulk action"))?;
    if before.state != "running" {
        return Err(BulkError::Ended(before.state));
    }
    sqlx::query!(
        "UPDATE bulk_actions SET state = 'stopped', finished_at = $2 WHERE id = $1",
        id,
        now
    )
    .execute(tx.conn())
    .await?;
    let entry = Entry::new(by.actor, STOP, &id.to_string())
        .before(json!({"action": before.action, "state": before.state, "done": before.done, "refused": before.refused}))
        .after(json!({"state": "stopped"}))
        .because(by.reason());
    audit::append(tx, entry).await?;
    Ok(())
}

/// An action by its id.
///
/// # Errors
/// Postgres could not be reached.
pub async fn find(pool: &PgPool, id: Uuid) -> Result<Option<BulkAction>, sqlx::Error> {
    let found = read(pool, id, 1).await?;
    Ok(found.into_iter().find(|bulk| bulk.id == id))
}

/// The newest actions.
///
/// # Errors
/// Postgres could not be reached.
pub async fn newest(pool: &PgPool, limit: i64) -> Result<Vec<BulkAction>, sqlx::Error> {
    read(pool, Uuid::max(), limit).await
}

/// The newest actions up to one. Whether one goes on is what its job says: an action whose job was cancelled, died or was
/// deleted is not running, and is again when that job is retried.
async fn read(pool: &PgPool, up_to: Uuid, limit: i64) -> Result<Vec<BulkAction>, sqlx::Error> {
    sqlx::query_as!(
        BulkAction,
        r#"SELECT bulk.id, action, filter, actor, reason, expected, done, refused, bulk.created_at,
                  CASE WHEN bulk.state = 'running' AND NOT alive THEN 'stopped' ELSE bulk.state END AS "state!",
                  CASE WHEN bulk.state = 'running' AND NOT alive THEN job.finished_at ELSE bulk.finished_at END AS finished_at,
                  job.id AS "job_id?", job.state AS "job_state?", bulk.state = 'running' AND NOT alive AS "can_go_on!"
           FROM bulk_actions AS bulk
           LEFT JOIN LATERAL (
               SELECT jobs.id, jobs.state, jobs.finished_at FROM job_terms JOIN jobs ON jobs.id = job_terms.job_id
               WHERE job_terms.term = bulk.id::text AND jobs.kind = 'ops.bulk' ORDER BY job_terms.job_id DESC LIMIT 1) AS job ON true
           CROSS JOIN LATERAL (SELECT coalesce(job.state IN ('scheduled', 'queued', 'running', 'retrying'), false) AS alive) AS worked
           WHERE bulk.id <= $1 ORDER BY bulk.id DESC LIMIT $2"#,
        up_to,
        limit
    )
    .fetch_all(pool)
    .await
}
