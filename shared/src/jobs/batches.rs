//! Batches: a set of jobs with one that is enqueued when all of them have ended.
//!
//! A batch ends when none of its jobs waits or runs any more, however they ended: one that is dead, quarantined or
//! cancelled counts as failed and does not hold up the job after the last, which can read [`find`]. That job is enqueued
//! in the transaction that ends the batch, so once. A dead job that is retried before that counts anew; one that is
//! retried later changes nothing. A job of a batch may add others to it: it runs, so the batch has not ended.

use chrono::{DateTime, Utc};
use sqlx::{Connection, PgConnection, PgPool};
use uuid::Uuid;

use super::Job;
use crate::db::Tx;
use crate::ids;
use crate::telemetry::TraceContext;

/// Batches that one look ends at most.
const AT_ONCE: i64 = 200;

/// A batch and how far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The batch.
    pub id: Uuid,
    /// Its jobs. One whose dedupe key was taken is not among them: another job does its work.
    pub total: i64,
    /// Those that succeeded.
    pub done: i64,
    /// Those that ended otherwise.
    pub failed: i64,
    /// The job after the last; it is there once the batch has ended.
    pub after_id: Uuid,
    /// Its kind.
    pub after_kind: String,
    /// When the batch was made.
    pub created_at: DateTime<Utc>,
    /// When the last of its jobs had ended.
    pub finished_at: Option<DateTime<Utc>>,
}

/// Begins a batch whose last job is followed by `after`. [`Tx::enqueue_in`] adds jobs; without any, `after` runs at once.
/// The dedupe key of `after` does not count.
///
/// # Errors
/// Postgres refused or could not be reached.
pub async fn begin<J: Job>(tx: &mut Tx, after: &J) -> Result<Uuid, sqlx::Error> {
    let now = tx.now();
    let (id, after_id) = (ids::new(now), ids::new(now));
    let args = serde_json::to_value(after).map_err(|error| sqlx::Error::Encode(error.into()))?;
    let context = TraceContext::current();
    sqlx::query!(
        "INSERT INTO job_batches (id, after_id, kind, queue, priority, max_attempts, args, trace_context, actor, parent_id)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        id,
        after_id,
        J::KIND,
        J::QUEUE.name(),
        J::PRIORITY,
        J::MAX_ATTEMPTS,
        args,
        context.as_ref().map(|context| context.traceparent.as_str()),
        context.as_ref().and_then(|context| context.actor.as_deref()),
        context.as_ref().and_then(|context| context.job_id)
    )
    .execute(tx.conn())
    .await?;
    Ok(id)
}

/// Counts jobs that were just inserted, by batch. Holds the batches until the transaction ends, so that none ends before
/// its new jobs are seen.
pub(super) async fn grow(conn: &mut PgConnection, ids: &[Uuid], added: &[i32]) -> Result<(), sqlx::Error> {
    let grown = sqlx::query!(
        "UPDATE job_batches SET total = total + new.added FROM unnest($1::uuid[], $2::int[]) AS new (id, added)
         WHERE job_batches.id = new.id AND finished_at IS NULL",
        ids,
        added
    )
    .execute(conn)
    .await?;
    if grown.rows_affected() == ids.len() as u64 {
        Ok(())
    } else {
        Err(sqlx::Error::Protocol(
            "a batch that has ended takes no more jobs".to_owned(),
        ))
    }
}

/// Ends the batches whose jobs have all ended and enqueues what comes after them. Returns how many.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn finish(conn: &mut PgConnection) -> Result<u64, sqlx::Error> {
    let ended = sqlx::query_scalar!(
        "SELECT id FROM job_batches WHERE finished_at IS NULL AND NOT EXISTS (
             SELECT 1 FROM jobs WHERE batch_id = job_batches.id AND state IN ('scheduled', 'queued', 'running', 'retrying'))
         ORDER BY id LIMIT $1",
        AT_ONCE
    )
    .fetch_all(&mut *conn)
    .await?;
    if ended.is_empty() {
        return Ok(0);
    }
    let mut tx = conn.begin().await?;
    // Whoever adds jobs holds the row; one that is free here is as the next statement sees it.
    let ended = sqlx::query_scalar!(
        "SELECT id FROM job_batches WHERE id = ANY($1) AND finished_at IS NULL ORDER BY id FOR UPDATE SKIP LOCKED",
        &ended
    )
    .fetch_all(&mut *tx)
    .await?;
    let finished = sqlx::query!(
        "WITH ended AS (
             UPDATE job_batches SET finished_at = now(),
                 failed = (SELECT count(*) FROM jobs WHERE batch_id = job_batches.id AND state IN ('dead', 'quarantined', 'cancelled'))
             WHERE id = ANY($1) AND NOT EXISTS (
                 SELECT 1 FROM jobs WHERE batch_id = job_batches.id AND state IN ('scheduled', 'queued', 'running', 'retrying'))
             RETURNING after_id, kind, queue, priority, max_attempts, args, trace_context, actor, parent_id)
         INSERT INTO jobs (id, kind, queue, priority, args, max_attempts, state, run_at, trace_context, actor, parent_id)
         SELECT after_id, kind, queue, priority, args, max_attempts, 'queued', now(), trace_context, actor, parent_id FROM ended",
        &ended
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(finished.rows_affected())
}

/// The batch, with its progress as of now.
///
/// # Errors
/// Postgres could not be reached.
pub async fn find(pool: &PgPool, id: Uuid) -> Result<Option<Batch>, sqlx::Error> {
    sqlx::query_as!(
        Batch,
        r#"SELECT batch.id, batch.total::bigint AS "total!", batch.after_id, batch.kind AS after_kind, batch.created_at, batch.finished_at,
                  coalesce(batch.failed, seen.failed) AS "failed!",
                  greatest(batch.total - coalesce(batch.failed, seen.failed) - seen.open, 0) AS "done!"
           FROM job_batches AS batch, LATERAL (
               SELECT count(*) FILTER (WHERE state IN ('scheduled', 'queued', 'running', 'retrying')) AS open,
                      count(*) FILTER (WHERE state IN ('dead', 'quarantined', 'cancelled')) AS failed
               FROM jobs WHERE batch_id = batch.id AND batch.finished_at IS NULL) AS seen
           WHERE batch.id = $1"#,
        id
    )
    .fetch_optional(pool)
    .await
}

/// The batch that a job follows, if it follows one.
///
/// # Errors
/// Postgres could not be reached.
pub(super) async fn before(pool: &PgPool, after_id: Uuid) -> Result<Option<Uuid>, sqlx::Error> {
    sqlx::query_scalar!("SELECT id FROM job_batches WHERE after_id = $1", after_id)
        .fetch_optional(pool)
        .await
}
