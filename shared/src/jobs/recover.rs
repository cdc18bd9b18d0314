//! What becomes of jobs whose attempt did not end by itself: handed back by their worker, or taken from a dead one.

use sqlx::PgExecutor;
use uuid::Uuid;

use super::lease::{LEASE, Lease};
use super::state::MAX_CRASHES;

/// Gives jobs back that a worker stopped: queued again, the attempt not counted. Returns the kind of each.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn hand_back(db: impl PgExecutor<'_>, leases: &[Lease]) -> Result<Vec<String>, sqlx::Error> {
    let ids: Vec<Uuid> = leases.iter().map(|lease| lease.job_id).collect();
    let fences: Vec<i64> = leases.iter().map(|lease| lease.fence).collect();
    sqlx::query_scalar!(
        r#"WITH given AS (
             UPDATE jobs SET state = 'queued', attempt = attempt - 1, published_at = NULL, lease_until = NULL
             FROM unnest($1::uuid[], $2::bigint[]) AS held (id, fence)
             WHERE jobs.id = held.id AND jobs.fence = held.fence AND coalesce(jobs.state, '') = 'running'
             RETURNING jobs.id, jobs.kind, jobs.fence, jobs.attempt + 1 AS attempt, jobs.lease_owner, jobs.started_at)
         INSERT INTO job_attempts (job_id, job_kind, fence, attempt, worker, started_at, ended_at, outcome)
         SELECT id, kind, fence, attempt, coalesce(lease_owner, ''), coalesce(started_at, now()), now(), 'handed_back' FROM given
         RETURNING job_kind AS "kind!""#,
        &ids,
        &fences
    )
    .fetch_all(db)
    .await
}

/// What [`reap`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reaped {
    /// Jobs that are queued again.
    pub requeued: i64,
    /// Jobs that have crashed too often.
    pub quarantined: i64,
    /// The kind of each of them.
    pub kinds: Vec<String>,
}

/// Takes jobs away from workers whose lease ended: queued again, or quarantined at the third crash.
///
/// A worker's jobs are looked at together, when the leases of all have ended. Was one of them there a suspect, it is to
/// blame and the others are not. Right after a start of Postgres nobody is judged: nobody could renew.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn reap(db: impl PgExecutor<'_>) -> Result<Reaped, sqlx::Error> {
    sqlx::query_as!(
        Reaped,
        r#"WITH overdue AS (
               SELECT id, lease_owner, crash_count FROM jobs
               WHERE state = 'running' AND lease_until < now() AND pg_postmaster_start_time() < now() - make_interval(secs => $2)
               ORDER BY lease_until LIMIT 2000 FOR UPDATE SKIP LOCKED),
           expired AS (
               SELECT id, crash_count > 0 OR NOT EXISTS (
                   SELECT 1 FROM overdue AS suspect WHERE suspect.lease_owner = overdue.lease_owner AND suspect.crash_count > 0) AS blamed
               FROM overdue
               WHERE NOT EXISTS (
                   SELECT 1 FROM jobs AS held WHERE held.state = 'running' AND held.lease_owner = overdue.lease_owner
                   AND held.lease_until >= now() AND held.lease_until < now() + make_interval(secs => $2 / 2))),
           reaped AS (
               UPDATE jobs SET crash_count = crash_count + CASE WHEN blamed THEN 1 ELSE 0 END, published_at = NULL, lease_until = NULL,
                   state = CASE WHEN blamed AND crash_count + 1 >= $1 THEN 'quarantined' ELSE 'queued' END,
                   finished_at = CASE WHEN blamed AND crash_count + 1 >= $1 THEN now() END,
                   last_error = 'the worker stopped renewing its lease'
               FROM expired WHERE jobs.id = expired.id
               RETURNING jobs.id, jobs.kind, jobs.fence, jobs.state, jobs.attempt, jobs.lease_owner, jobs.started_at),
           attempts AS (
               INSERT INTO job_attempts (job_id, job_kind, fence, attempt, worker, started_at, ended_at, outcome, error)
               SELECT id, kind, fence, attempt, coalesce(lease_owner, ''), coalesce(started_at, now()), now(), 'lost', 'the worker stopped renewing its lease' FROM reaped)
           SELECT count(*) FILTER (WHERE state = 'queued') AS "requeued!", count(*) FILTER (WHERE state = 'quarantined') AS "quarantined!",
                  coalesce(array_agg(kind), '{}') AS "kinds!" FROM reaped"#,
        MAX_CRASHES,
        LEASE.as_secs_f64()
    )
    .fetch_one(db)
    .await
}
