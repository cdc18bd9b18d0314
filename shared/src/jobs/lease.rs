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
use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

use super::crash_point::{self, Boundary};
use super::outcome::Outcome;
use crate::db::Tx;

/// How long a claim holds without being renewed.
pub const LEASE: Duration = Duration::from_secs(5);
/// So often one attempt may be interrupted at no cost. A job that itself brings Postgres down must come to an end.
const FREE_INTERRUPTIONS: i64 = 10;

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
    /// The name of this claim: higher than those of the claims before it.
    pub fence: i64,
    /// W3C `traceparent` of what enqueued it.
    pub trace_context: Option<String>,
    /// When it became due.
    pub run_at: DateTime<Utc>,
    /// How long it waited from due to claimed, in seconds, by Postgres' clock.
    pub waited: f64,
    /// How many workers ended while they ran it, one after the other.
    pub crash_count: i32,
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
            crash_point::reach(self.job_id, Boundary::BeforeCommit);
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
        row.ok_or(LeaseError::Lost)?;
        crash_point::reach(self.job_id, Boundary::BeforeStep);
        Ok(())
    }
}

/// What a worker may claim.
#[derive(Clone, Debug, Default)]
pub struct Claimant {
    /// Its name, which no other process and no earlier start has.
    pub owner: String,
    /// The kinds that its build knows.
    pub kinds: Vec<String>,
}

/// Claims those of `ids` that are queued and of a kind that this worker knows. The others are somebody else's, done,
/// suspected of ending their workers (see [`claim_suspects`]), or for a newer worker.
///
/// `adoptable` are those of the ids that an earlier call may have claimed whose answer was lost.
///
/// The commit does not wait for the disk, which would take longer than all the rest. Whatever the claim leads to and is on
/// disk (the intent of a call, its settlement) was written after it and takes it there. A claim that a crash of Postgres
/// forgets has left nothing, its job is queued again, and its fence is nobody else's (`next_fence` in migration 0042), so what its
/// worker still tries is refused.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn claim(
    db: impl PgExecutor<'_>,
    ids: &[Uuid],
    claimant: &Claimant,
    adoptable: &[Uuid],
) -> Result<Vec<ClaimedJob>, sqlx::Error> {
    sqlx::query_as!(
        ClaimedJob,
        r#"WITH free AS (
               SELECT id FROM jobs, set_config('synchronous_commit', 'off', true) WHERE id = ANY($1) AND kind = ANY($2)
                   AND (coalesce(state, '') = 'queued' AND crash_count = 0
                        OR coalesce(state, '') = 'running' AND lease_owner = $3 AND id = ANY($5))
               FOR UPDATE OF jobs SKIP LOCKED)
           UPDATE jobs SET state = 'running', attempt = attempt + CASE WHEN state = 'queued' THEN 1 ELSE 0 END, fence = next_fence(fence),
                  lease_owner = $3, lease_until = now() + make_interval(secs => $4), started_at = now(), rerun = false, progress = NULL
           FROM free WHERE jobs.id = free.id
           RETURNING jobs.id, kind, queue, args, attempt, max_attempts, fence, trace_context, run_at,
                  extract(epoch FROM clock_timestamp() - run_at)::float8 AS "waited!", crash_count"#,
        ids,
        &claimant.kinds,
        &claimant.owner,
        LEASE.as_secs_f64(),
        adoptable
    )
    .fetch_all(db)
    .await
}

/// A job that waits and could not be claimed.
#[derive(Clone, Copy, Debug)]
pub struct StillQueued {
    /// The job.
    pub id: Uuid,
    /// Somebody was only just writing it, as an enqueue of the same key does. Else it is of a kind that this worker does
    /// not know.
    pub known: bool,
}

/// Those of `ids` that could not be claimed and wait for a worker all the same.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn still_queued(
    db: impl PgExecutor<'_>,
    ids: &[Uuid],
    claimant: &Claimant,
) -> Result<Vec<StillQueued>, sqlx::Error> {
    sqlx::query_as!(
        StillQueued,
        r#"SELECT id, kind = ANY($2) AS "known!" FROM jobs WHERE id = ANY($1) AND coalesce(state, '') = 'queued' AND crash_count = 0"#,
        ids,
        &claimant.kinds
    )
    .fetch_all(db)
    .await
}

/// How much a job that was running when a worker died is suspected of having ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspicion {
    /// One worker died. Probably somebody killed it, and all that ran there are innocent: they run again side by side.
    Slight,
    /// Two died, one after the other. It runs alone, so that nobody else is blamed for the third.
    Grave,
}

/// Which of `queues` have jobs that were running when a worker died, of kinds that this worker knows.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn waiting_suspects(
    db: impl PgExecutor<'_>,
    queues: &[String],
    claimant: &Claimant,
) -> Result<Vec<(String, Suspicion)>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT DISTINCT queue, crash_count > 1 AS "grave!" FROM jobs
           WHERE state = 'queued' AND crash_count > 0 AND queue = ANY($1) AND kind = ANY($2)"#,
        queues,
        &claimant.kinds
    )
    .fetch_all(db)
    .await?;
    let suspicion = |grave| if grave { Suspicion::Grave } else { Suspicion::Slight };
    Ok(rows.into_iter().map(|row| (row.queue, suspicion(row.grave))).collect())
}

/// Claims the oldest jobs of `queues` that were running when a worker died, `most` of them.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn claim_suspects(
    db: impl PgExecutor<'_>,
    queues: &[String],
    claimant: &Claimant,
    suspicion: Suspicion,
    most: usize,
) -> Result<Vec<ClaimedJob>, sqlx::Error> {
    sqlx::query_as!(
        ClaimedJob,
        r#"WITH free AS (
               SELECT id FROM jobs WHERE state = 'queued' AND crash_count > 0 AND queue = ANY($1) AND kind = ANY($2)
                   AND (crash_count > 1) = $5
               ORDER BY run_at LIMIT $6 FOR UPDATE SKIP LOCKED)
           UPDATE jobs SET state = 'running', attempt = attempt + 1, fence = next_fence(fence), lease_owner = $3,
                  lease_until = now() + make_interval(secs => $4), started_at = clock_timestamp(), rerun = false, progress = NULL
           FROM free WHERE jobs.id = free.id
           RETURNING jobs.id, kind, queue, args, attempt, max_attempts, fence, trace_context, run_at,
                  extract(epoch FROM clock_timestamp() - run_at)::float8 AS "waited!", crash_count"#,
        queues,
        &claimant.kinds,
        &claimant.owner,
        LEASE.as_secs_f64(),
        suspicion == Suspicion::Grave,
        i64::try_from(most).unwrap_or(i64::MAX)
    )
    .fetch_all(db)
    .await
}

/// What [`renew`] found about a lease that still holds.
#[derive(Debug)]
pub struct Renewed {
    /// The job.
    pub id: Uuid,
    /// The claim.
    pub fence: i64,
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
pub async fn renew(db: impl PgExecutor<'_>, leases: &[Lease]) -> Result<Vec<Renewed>, sqlx::Error> {
    let ids: Vec<Uuid> = leases.iter().map(|lease| lease.job_id).collect();
    let fences: Vec<i64> = leases.iter().map(|lease| lease.fence).collect();
    sqlx::query_as!(
        Renewed,
        "WITH held AS (
             SELECT jobs.id, jobs.fence, jobs.cancel_requested
             FROM jobs JOIN unnest($1::uuid[], $2::bigint[]) AS held (id, fence) ON jobs.id = held.id AND jobs.fence = held.fence
             WHERE coalesce(jobs.state, '') = 'running'),
         free AS (
             SELECT jobs.id FROM jobs JOIN held ON jobs.id = held.id AND jobs.fence = held.fence
             WHERE coalesce(jobs.state, '') = 'running' FOR NO KEY UPDATE OF jobs SKIP LOCKED),
         renewed AS (
             UPDATE jobs SET lease_until = now() + make_interval(secs => $3) FROM free WHERE jobs.id = free.id)
         SELECT id, fence, cancel_requested FROM held",
        &ids,
        &fences,
        LEASE.as_secs_f64()
    )
    .fetch_all(db)
    .await
}

/// Says how far a job has come, in per cent.
///
/// # Errors
/// [`LeaseError::Lost`]: another worker has the job.
pub async fn report_progress(db: impl PgExecutor<'_>, lease: &Lease, percent: u8) -> Result<(), LeaseError> {
    let done = sqlx::query!(
        "UPDATE jobs SET progress = $3 WHERE id = $1 AND fence = $2 AND coalesce(state, '') = 'running'",
        lease.job_id,
        lease.fence,
        i16::from(percent.min(100))
    )
    .execute(db)
    .await?;
    if done.rows_affected() == 1 {
        Ok(())
    } else {
        Err(LeaseError::Lost)
    }
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
/// A job that was wanted again while it ran does not end: it is queued anew, with all its attempts.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn settle(conn: &mut PgConnection, settlements: &[Settlement]) -> Result<Vec<Uuid>, sqlx::Error> {
    let interrupted_often = interrupted_often(conn, settlements).await?;
    let mut ids = Vec::with_capacity(settlements.len());
    let mut fences = Vec::with_capacity(settlements.len());
    let (mut states, mut outcomes, mut errors, mut delays, mut give_backs) = (vec![], vec![], vec![], vec![], vec![]);
    let mut attempts = Vec::with_capacity(settlements.len());
    let (mut keys, mut effect_jobs, mut entities, mut external_ids, mut responses) =
        (vec![], vec![], vec![], vec![], vec![]);
    for Settlement { lease, outcome } in settlements {
        let one_too_many = interrupted_often.contains(&lease.job_id);
        let next = outcome.next_state(lease.attempt, lease.max_attempts, rand::rng().random(), one_too_many);
        ids.push(lease.job_id);
        fences.push(lease.fence);
        attempts.push(lease.attempt);
        states.push(next.state.name().to_owned());
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
               SELECT e.*, state NOT IN ('scheduled', 'retrying') AS over
               FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::float8[], $7::bool[], $13::int[])
                   AS e (id, fence, state, outcome, error, delay, give_back, attempt)),
           settled AS (
               UPDATE jobs SET
                   state = CASE WHEN ended.over AND jobs.rerun THEN 'queued' WHEN ended.over THEN ended.state
                                WHEN jobs.cancel_requested THEN 'cancelled' ELSE ended.state END,
                   attempt = CASE WHEN ended.over AND jobs.rerun THEN 0 WHEN ended.give_back THEN jobs.attempt - 1 ELSE jobs.attempt END,
                   run_at = CASE WHEN NOT ended.over THEN now() + make_interval(secs => ended.delay) WHEN jobs.rerun THEN now() ELSE jobs.run_at END,
                   published_at = NULL, lease_until = NULL, last_error = ended.error, crash_count = 0, rerun = false, cancel_requested = false,
                   finished_at = CASE WHEN (ended.over AND NOT jobs.rerun) OR (jobs.cancel_requested AND NOT ended.over) THEN now() END
               FROM ended
               WHERE jobs.id = ended.id AND jobs.fence = ended.fence AND coalesce(jobs.state, '') = 'running'
               RETURNING jobs.id, jobs.kind, jobs.fence, ended.attempt, jobs.lease_owner, jobs.started_at, ended.outcome, ended.error),
           attempts AS (
               INSERT INTO job_attempts (job_id, job_kind, fence, attempt, worker, started_at, ended_at, outcome, error)
               SELECT id, kind, fence, attempt, coalesce(lease_owner, ''), coalesce(started_at, now()), now(), outcome, error FROM settled),
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
        &attempts,
    )
    .fetch_all(conn)
    .await
}

/// Those of the interrupted attempts for which this is one time too many. Attempts that are not counted have the number of
/// the one that was.
async fn interrupted_often(conn: &mut PgConnection, settlements: &[Settlement]) -> Result<Vec<Uuid>, sqlx::Error> {
    let interrupted = settlements
        .iter()
        .filter(|one| matches!(one.outcome, Outcome::Interrupted(_)));
    let (ids, attempts): (Vec<Uuid>, Vec<i32>) = interrupted.map(|one| (one.lease.job_id, one.lease.attempt)).unzip();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    sqlx::query_scalar!(
        r#"SELECT job_id FROM job_attempts JOIN unnest($1::uuid[], $2::int[]) AS ended (id, number) ON job_id = ended.id AND attempt = ended.number
           WHERE outcome = 'interrupted' GROUP BY job_id HAVING count(*) >= $3"#,
        &ids,
        &attempts,
        FREE_INTERRUPTIONS
    )
    .fetch_all(conn)
    .await
}
