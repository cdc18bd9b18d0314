//! Claiming, renewing and settling: the statements that a worker runs about jobs it works on.
//!
//! Times of leases are Postgres' own, so workers whose clocks differ agree about them. Every write names the fence
//! of its claim: a worker that lost its lease changes nothing.
//!
//! Jobs are found by their ids. `coalesce(state, '')` keeps the planner from the partial indexes by state, which it
//! takes for nearly empty between two looks at the statistics: a batch then reads every running job once per job.

use std::time::Duration;

use chrono::{DateTime, Utc};
use rand::Rng;
use serde_json::Value;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::outcome::Outcome;
use crate::db::Tx;

/// How long a claim holds without being renewed.
pub const LEASE: Duration = Duration::from_secs(10);
/// Expired leases before a job is taken for one that kills its worker.
const MAX_CRASHES: i32 = 3;

/// A job that this process may now run.
#[derive(Clone, Debug)]
pub struct ClaimedJob {
    /// The job.
    pub id: Uuid,
    /// Which handler it wants.
    pub kind: String,
    /// Its queue.
    pub queue: String,
    /// The payload.
    pub args: Value,
    /// This attempt, from 1.
    pub attempt: i32,
    /// How many there are.
    pub max_attempts: i32,
    /// The count of claims: this one's name.
    pub fence: i64,
    /// W3C `traceparent` of what enqueued it.
    pub trace_context: Option<String>,
    /// When it became due.
    pub run_at: DateTime<Utc>,
    /// How long it waited from due to claimed, in seconds, by Postgres' clock.
    pub waited: f64,
}

/// Why a guarded write did not happen.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Somebody else has the job now.
    #[error("the lease of the job was lost")]
    Lost,
    /// Postgres.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// The right to write for a job, valid as long as nobody else has claimed it.
#[derive(Clone, Copy, Debug)]
pub struct Lease {
    /// The job.
    pub job_id: Uuid,
    /// The claim.
    pub fence: i64,
    /// This attempt.
    pub attempt: i32,
    /// How many there are.
    pub max_attempts: i32,
}

impl Lease {
    /// Marks the job as succeeded in the transaction that holds its work: both happen or neither.
    ///
    /// # Errors
    /// [`LeaseError::Lost`]: the caller must not commit.
    pub async fn complete(&self, tx: &mut Tx) -> Result<(), LeaseError> {
        let settlement = Settlement {
            lease: *self,
            outcome: Outcome::Done(Vec::new()),
        };
        let settled = settle(tx.conn(), &[settlement]).await?;
        if settled.is_empty() {
            Err(LeaseError::Lost)
        } else {
            Ok(())
        }
    }

    /// Holds the lease until the transaction ends, for one that writes without ending the job.
    ///
    /// # Errors
    /// [`LeaseError::Lost`]: the caller must not commit.
    pub async fn guard(&self, tx: &mut Tx) -> Result<(), LeaseError> {
        let row = sqlx::query!(
            "SELECT id FROM jobs WHERE id = $1 AND fence = $2 AND coalesce(state, '') = 'running' FOR NO KEY UPDATE",
            self.job_id,
            self.fence
        )
        .fetch_optional(tx.conn())
        .await?;
        row.map(|_| ()).ok_or(LeaseError::Lost)
    }
}

/// Claims those of `ids` that are queued and of a kind that this worker knows. The others are somebody else's, done,
/// or for a newer worker.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn claim(pool: &PgPool, ids: &[Uuid], kinds: &[String], owner: &str) -> Result<Vec<ClaimedJob>, sqlx::Error> {
    sqlx::query_as!(
        ClaimedJob,
        r#"WITH free AS (
               SELECT id FROM jobs WHERE id = ANY($1) AND coalesce(state, '') = 'queued' AND kind = ANY($2) FOR UPDATE SKIP LOCKED)
           UPDATE jobs SET state = 'running', attempt = attempt + 1, fence = fence + 1, lease_owner = $3,
                  lease_until = now() + make_interval(secs => $4), started_at = now()
           FROM free WHERE jobs.id = free.id
           RETURNING jobs.id, kind, queue, args, attempt, max_attempts, fence, trace_context, run_at,
                  extract(epoch FROM clock_timestamp() - run_at)::float8 AS "waited!""#,
        ids,
        kinds,
        owner,
        LEASE.as_secs_f64()
    )
    .fetch_all(pool)
    .await
}

/// What [`renew`] found about a lease that still holds.
#[derive(Debug)]
pub struct Renewed {
    /// The job.
    pub id: Uuid,
    /// An operator wants it stopped.
    pub cancel_requested: bool,
}

/// Renews leases. Those missing from the answer are lost.
///
/// Rows that somebody is just writing are passed over and only looked at: their writer settles them, and waiting for
/// it in another order of rows could deadlock.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn renew(pool: &PgPool, leases: &[Lease]) -> Result<Vec<Renewed>, sqlx::Error> {
    let ids: Vec<Uuid> = leases.iter().map(|lease| lease.job_id).collect();
    let fences: Vec<i64> = leases.iter().map(|lease| lease.fence).collect();
    let mut renewed = sqlx::query_as!(
        Renewed,
        "WITH free AS (
             SELECT jobs.id FROM jobs JOIN unnest($1::uuid[], $2::bigint[]) AS held (id, fence)
                 ON jobs.id = held.id AND jobs.fence = held.fence
             WHERE coalesce(jobs.state, '') = 'running' FOR NO KEY UPDATE OF jobs SKIP LOCKED)
         UPDATE jobs SET lease_until = now() + make_interval(secs => $3) FROM free WHERE jobs.id = free.id
         RETURNING jobs.id, jobs.cancel_requested",
        &ids,
        &fences,
        LEASE.as_secs_f64()
    )
    .fetch_all(pool)
    .await?;
    if renewed.len() < leases.len() {
        let held = sqlx::query_as!(
            Renewed,
            "SELECT jobs.id, jobs.cancel_requested FROM jobs JOIN unnest($1::uuid[], $2::bigint[]) AS held (id, fence)
                 ON jobs.id = held.id AND jobs.fence = held.fence
             WHERE coalesce(jobs.state, '') = 'running'",
            &ids,
            &fences
        )
        .fetch_all(pool)
        .await?;
        for one in held {
            if !renewed.iter().any(|known| known.id == one.id) {
                renewed.push(one);
            }
        }
    }
    Ok(renewed)
}

/// The end of an attempt.
#[derive(Debug)]
pub struct Settlement {
    /// Whose.
    pub lease: Lease,
    /// How.
    pub outcome: Outcome,
}

/// Writes how attempts ended, with their effects, in one statement. Returns the jobs for which the lease still held.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn settle(conn: &mut PgConnection, settlements: &[Settlement]) -> Result<Vec<Uuid>, sqlx::Error> {
    let mut ids = Vec::with_capacity(settlements.len());
    let mut fences = Vec::with_capacity(settlements.len());
    let (mut states, mut outcomes, mut errors, mut delays, mut give_backs) = (vec![], vec![], vec![], vec![], vec![]);
    let (mut keys, mut effect_jobs, mut entities, mut external_ids, mut responses) =
        (vec![], vec![], vec![], vec![], vec![]);
    for Settlement { lease, outcome } in settlements {
        let next = outcome.next_state(lease.attempt, lease.max_attempts, rand::rng().random());
        ids.push(lease.job_id);
        fences.push(lease.fence);
        states.push(next.state.to_owned());
        outcomes.push(next.outcome.to_owned());
        errors.push(next.error);
        delays.push(next.delay.as_secs_f64());
        give_backs.push(next.give_back);
        if let Outcome::Done(effects) = outcome {
            for effect in effects {
                keys.push(effect.key.clone());
                effect_jobs.push(lease.job_id);
                entities.push(effect.entity_id);
                external_ids.push(effect.external_id.clone());
                responses.push(effect.response.clone());
            }
        }
    }
    sqlx::query_scalar!(
        r#"WITH ended AS (
               SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::float8[], $7::bool[])
                   AS e (id, fence, state, outcome, error, delay, give_back)),
           settled AS (
               UPDATE jobs SET state = ended.state,
                   attempt = jobs.attempt - CASE WHEN ended.give_back THEN 1 ELSE 0 END,
                   run_at = CASE WHEN ended.state IN ('scheduled', 'retrying') THEN now() + make_interval(secs => ended.delay) ELSE jobs.run_at END,
                   published_at = NULL, lease_until = NULL, last_error = ended.error, crash_count = 0,
                   finished_at = CASE WHEN ended.state IN ('scheduled', 'retrying') THEN NULL ELSE now() END
               FROM ended
               WHERE jobs.id = ended.id AND jobs.fence = ended.fence AND coalesce(jobs.state, '') = 'running'
               RETURNING jobs.id, jobs.fence, jobs.attempt + CASE WHEN ended.give_back THEN 1 ELSE 0 END AS attempt, jobs.lease_owner, jobs.started_at,
                   ended.outcome, ended.error),
           attempts AS (
               INSERT INTO job_attempts (job_id, fence, attempt, worker, started_at, ended_at, outcome, error)
               SELECT id, fence, attempt, coalesce(lease_owner, ''), coalesce(started_at, now()), now(), outcome, error FROM settled),
           recorded AS (
               INSERT INTO effects (key, job_id, fence, entity_id, state, external_id, response, first_sent_at, updated_at)
               SELECT done.key, settled.id, settled.fence, done.entity_id, 'done', done.external_id, done.response, now(), now()
               FROM unnest($8::text[], $9::uuid[], $10::uuid[], $11::text[], $12::jsonb[]) AS done (key, job_id, entity_id, external_id, response)
               JOIN settled ON settled.id = done.job_id
               ON CONFLICT (key) DO UPDATE SET state = 'done', fence = EXCLUDED.fence, external_id = EXCLUDED.external_id,
                   response = EXCLUDED.response, error = NULL, updated_at = now())
           SELECT id FROM settled"#,
        &ids,
        &fences,
        &states,
        &outcomes,
        &errors as &[Option<String>],
        &delays,
        &give_backs,
        &keys,
        &effect_jobs,
        &entities as &[Option<Uuid>],
        &external_ids as &[Option<String>],
        &responses as &[Option<Value>],
    )
    .fetch_all(conn)
    .await
}

/// Gives jobs back on a graceful stop: queued again, the attempt not counted.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn hand_back(pool: &PgPool, leases: &[Lease]) -> Result<u64, sqlx::Error> {
    let ids: Vec<Uuid> = leases.iter().map(|lease| lease.job_id).collect();
    let fences: Vec<i64> = leases.iter().map(|lease| lease.fence).collect();
    let done = sqlx::query!(
        "WITH given AS (
             UPDATE jobs SET state = 'queued', attempt = attempt - 1, published_at = NULL, lease_until = NULL
             FROM unnest($1::uuid[], $2::bigint[]) AS held (id, fence)
             WHERE jobs.id = held.id AND jobs.fence = held.fence AND coalesce(jobs.state, '') = 'running'
             RETURNING jobs.id, jobs.fence, jobs.attempt + 1 AS attempt, jobs.lease_owner, jobs.started_at)
         INSERT INTO job_attempts (job_id, fence, attempt, worker, started_at, ended_at, outcome)
         SELECT id, fence, attempt, coalesce(lease_owner, ''), coalesce(started_at, now()), now(), 'handed_back' FROM given",
        &ids,
        &fences
    )
    .execute(pool)
    .await?;
    Ok(done.rows_affected())
}

/// Takes jobs away from workers whose lease ended: queued again, or quarantined at the third crash. Returns how many
/// of each.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn reap(pool: &PgPool) -> Result<(i64, i64), sqlx::Error> {
    let row = sqlx::query!(
        r#"WITH expired AS (
               SELECT id FROM jobs WHERE state = 'running' AND lease_until < now()
               ORDER BY lease_until LIMIT 1000 FOR UPDATE SKIP LOCKED),
           reaped AS (
               UPDATE jobs SET crash_count = crash_count + 1, published_at = NULL, lease_until = NULL,
                   state = CASE WHEN crash_count + 1 >= $1 THEN 'quarantined' ELSE 'queued' END,
                   finished_at = CASE WHEN crash_count + 1 >= $1 THEN now() END,
                   last_error = 'the worker stopped renewing its lease'
               FROM expired WHERE jobs.id = expired.id
               RETURNING jobs.id, jobs.fence, jobs.state, jobs.attempt, jobs.lease_owner, jobs.started_at),
           attempts AS (
               INSERT INTO job_attempts (job_id, fence, attempt, worker, started_at, ended_at, outcome, error)
               SELECT id, fence, attempt, coalesce(lease_owner, ''), coalesce(started_at, now()), now(), 'lost', 'the worker stopped renewing its lease' FROM reaped)
           SELECT count(*) FILTER (WHERE state = 'queued') AS "requeued!", count(*) FILTER (WHERE state = 'quarantined') AS "quarantined!" FROM reaped"#,
        MAX_CRASHES
    )
    .fetch_one(pool)
    .await?;
    Ok((row.requeued, row.quarantined))
}
