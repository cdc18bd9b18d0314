//! How it all stands: counters, queues, kinds, workers and what needs somebody, from Postgres alone. What passed in
//! the last day is in [`super::history`].
//!
//! Every number is bounded in what it reads: counts stop at [`COUNTED`], durations are of the newest attempts of each kind.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor, PgPool};

use super::list::kinds_present;
use super::state::JobState;
use crate::operators::audit::checks;

/// Counts beyond this are not made; a page says "10,000+".
pub const COUNTED: i64 = 10_000;
/// Attempts that the figures of a kind are taken from at most, so that one that is busy hides no other.
pub const SAMPLED: i64 = 1_000;
/// How long those figures stand: with twenty kinds they take twenty milliseconds, more than all else on the overview.
const FIGURES_STAND: Duration = Duration::from_secs(10);
/// A worker that has not shown itself for so long is taken for dead, in seconds.
pub const WORKER_SILENT_SECONDS: f64 = 15.0;

/// Jobs of a kind in a state.
#[derive(Clone, Debug)]
pub struct KindState {
    /// The kind.
    pub kind: String,
    /// The state.
    pub state: String,
    /// How many, up to [`COUNTED`].
    pub count: i64,
}

/// Counts by kind and state, of these states, without pairs that there are none of. What it sets holds until the transaction
/// ends that the caller has begun.
///
/// # Errors
/// Postgres could not be reached.
pub async fn counts(
    conn: &mut PgConnection,
    states: impl IntoIterator<Item = JobState>,
) -> Result<Vec<KindState>, sqlx::Error> {
    let kinds = kinds_present(&mut *conn).await?;
    let (running, at_rest): (Vec<_>, Vec<_>) = states.into_iter().partition(|state| *state == JobState::Running);
    let at_rest: Vec<String> = at_rest.into_iter().map(|state| state.name().to_owned()).collect();
    // Where most jobs are of one kind and state, the planner expects to find ten thousand of any pair soon, and reads the
    // whole table for each pair that there are fewer of. The index answers all of it within two milliseconds. Running
    // jobs are not in it; there are as many as the workers have hands.
    sqlx::raw_sql("SET LOCAL enable_seqscan = off")
        .execute(&mut *conn)
        .await?;
    let counts = sqlx::query_as!(
        KindState,
        r#"SELECT k AS "kind!", s AS "state!", counted.count AS "count!"
           FROM unnest($1::text[]) AS k CROSS JOIN unnest($2::text[]) AS s
           CROSS JOIN LATERAL (
               SELECT count(*) FROM (
                   SELECT 1 FROM jobs WHERE jobs.kind = k AND jobs.state = s AND jobs.state <> 'running' LIMIT $3) AS bounded) AS counted
           WHERE counted.count > 0
           UNION ALL
           SELECT kind, 'running', least(count(*), $3) FROM jobs WHERE $4 AND state = 'running' GROUP BY kind
           ORDER BY 1, 2"#,
        &kinds,
        &at_rest,
        COUNTED,
        !running.is_empty()
    )
    .fetch_all(conn)
    .await?;
    Ok(counts)
}

/// A queue.
#[derive(Clone, Debug)]
pub struct QueueState {
    /// Its name.
    pub name: String,
    /// Whether workers leave it alone.
    pub paused: bool,
    /// Due jobs, up to [`COUNTED`]: also those whose time has come and that no worker has moved to `queued` yet.
    pub due: i64,
    /// Not handed to Redis, up to [`COUNTED`]; they are among those that are due.
    pub unpublished: i64,
    /// How long the oldest of the due jobs that would run next has waited, in seconds.
    pub oldest_due_seconds: f64,
    /// How long the oldest unpublished one has waited, in seconds.
    pub publish_lag_seconds: f64,
    /// Running jobs, up to [`COUNTED`].
    pub running: i64,
    /// Whether it or one of its kinds has a limit: its jobs do not go through Redis then.
    pub limited: bool,
    /// So many jobs run at the same time at most.
    pub concurrency: Option<i32>,
    /// So many jobs begin at most …
    pub rate_limit: Option<i32>,
    /// … in any span of so many seconds.
    pub rate_seconds: i32,
    /// A due job should begin within so many seconds.
    pub target_seconds: i32,
    /// While a heavier queue comes near its target, this one has its share of the slots only.
    pub weight: i32,
}

impl QueueState {
    /// How long the job that would run next may still wait, in seconds; negative: the target is missed.
    #[must_use]
    pub fn seconds_to_breach(&self) -> f64 {
        f64::from(self.target_seconds) - self.oldest_due_seconds
    }
}

/// All queues, by name.
///
/// What is due and still `scheduled` or `retrying` has an index by time only. It is read once for all queues, up to
/// [`COUNTED`] for each of them; without it a fleet that is down would look idle.
///
/// # Errors
/// Postgres could not be reached.
pub async fn queues(db: impl PgExecutor<'_>) -> Result<Vec<QueueState>, sqlx::Error> {
    sqlx::query_as!(
        QueueState,
        r#"WITH busy AS (SELECT queue, count(*) AS running FROM (SELECT queue FROM jobs WHERE state = 'running' LIMIT $1) AS bounded GROUP BY queue),
           waiting AS MATERIALIZED (
               SELECT queue, run_at FROM jobs WHERE state IN ('scheduled', 'retrying') AND run_at <= now()
               ORDER BY run_at LIMIT $1 * (SELECT count(*) FROM queues))
           SELECT queues.name AS "name!", queues.paused AS "paused!", least(count(due.run_at), $1) AS "due!",
                  least(count(due.run_at) FILTER (WHERE due.unpublished), $1) AS "unpublished!",
                  greatest(coalesce(extract(epoch FROM now() - min(due.run_at)), 0), 0)::float8 AS "oldest_due_seconds!",
                  greatest(coalesce(extract(epoch FROM now() - min(due.run_at) FILTER (WHERE due.unpublished)), 0), 0)::float8 AS "publish_lag_seconds!",
                  coalesce(max(busy.running), 0) AS "running!",
                  queues.concurrency IS NOT NULL OR queues.rate_limit IS NOT NULL
                      OR EXISTS (SELECT 1 FROM kinds WHERE kinds.queue = queues.name) AS "limited!",
                  queues.concurrency, queues.rate_limit, queues.rate_seconds AS "rate_seconds!",
                  queues.target_seconds AS "target_seconds!", queues.weight AS "weight!"
           FROM queues LEFT JOIN busy ON busy.queue = queues.name LEFT JOIN LATERAL (
               (SELECT run_at, false AS unpublished FROM jobs WHERE jobs.queue = queues.name AND state = 'queued' AND published_at IS NOT NULL
                ORDER BY published_at LIMIT $1)
               UNION ALL
               (SELECT run_at, true FROM jobs WHERE jobs.queue = queues.name AND state = 'queued' AND published_at IS NULL
                ORDER BY run_at - timestamptz 'epoch' + make_interval(secs => priority) LIMIT $1)
               UNION ALL
               (SELECT run_at, true FROM waiting WHERE waiting.queue = queues.name LIMIT $1)) AS due ON true
           GROUP BY queues.name ORDER BY queues.name"#,
        COUNTED
    )
    .fetch_all(db)
    .await
}

/// A kind with limits of its own.
#[derive(Clone, Debug)]
pub struct LimitedKind {
    /// The kind.
    pub name: String,
    /// So many jobs run at the same time at most.
    pub concurrency: Option<i32>,
    /// So many jobs begin at most …
    pub rate_limit: Option<i32>,
    /// … in any span of so many seconds.
    pub rate_seconds: i32,
}

/// The kinds that have limits, by name.
///
/// # Errors
/// Postgres could not be reached.
pub async fn limited_kinds(pool: &PgPool) -> Result<Vec<LimitedKind>, sqlx::Error> {
    sqlx::query_as!(
        LimitedKind,
        "SELECT name, concurrency, rate_limit, rate_seconds FROM kinds ORDER BY name"
    )
    .fetch_all(pool)
    .await
}

/// How a kind did lately.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct KindFigures {
    /// The kind.
    pub kind: String,
    /// Attempts looked at.
    pub attempts: i64,
    /// Of those that succeeded or failed, the share that succeeded, 0 to 1.
    pub success: f64,
    /// Durations of attempts in seconds.
    pub p50: f64,
    /// The slower ones.
    pub p95: f64,
    /// The slowest.
    pub p99: f64,
}

macro_rules! select_kind_figures {
    () => {
        "SELECT present.kind, count(*) AS attempts,
                coalesce(count(*) FILTER (WHERE outcome = 'succeeded')::float8
                    / nullif(count(*) FILTER (WHERE outcome IN ('succeeded', 'retry', 'failed', 'lost')), 0), 1) AS success,
                percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds) AS p50,
                percentile_cont(0.95) WITHIN GROUP (ORDER BY seconds) AS p95,
                percentile_cont(0.99) WITHIN GROUP (ORDER BY seconds) AS p99
         FROM unnest($1::text[]) AS present (kind) CROSS JOIN LATERAL (
             SELECT outcome, extract(epoch FROM ended_at - started_at)::float8 AS seconds FROM job_attempts
             WHERE job_kind = present.kind AND ended_at > now() - interval '1 hour'
             ORDER BY ended_at DESC LIMIT $2) AS newest
         GROUP BY present.kind ORDER BY present.kind"
    };
}

/// How each kind did in its newest attempts of the last hour, [`SAMPLED`] at most.
///
/// # Errors
/// Postgres could not be reached.
pub async fn kinds(conn: &mut PgConnection) -> Result<Vec<KindFigures>, sqlx::Error> {
    let present = kinds_present(&mut *conn).await?;
    sqlx::query_as(select_kind_figures!())
        .bind(present)
        .bind(SAMPLED)
        .fetch_all(conn)
        .await
}

/// What [`kinds`] said last, for all who look.
#[derive(Debug, Default)]
pub struct KindsLately {
    read: Option<(Instant, Vec<KindFigures>)>,
}

impl KindsLately {
    /// The figures as they were ten seconds before `now` or later.
    ///
    /// # Errors
    /// Postgres could not be reached.
    pub async fn renewed(&mut self, pool: &PgPool, now: Instant) -> Result<&[KindFigures], sqlx::Error> {
        let read = match self.read.take() {
            Some(read) if now.saturating_duration_since(read.0) < FIGURES_STAND => read,
            _ => (now, kinds(&mut *pool.acquire().await?).await?),
        };
        Ok(&self.read.insert(read).1)
    }
}

/// How Postgres would find the figures of these kinds: for tests.
///
/// # Errors
/// Postgres could not be reached.
pub async fn plan_of_kinds(conn: &mut PgConnection, kinds: &[String]) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(concat!("EXPLAIN ", select_kind_figures!()))
        .bind(kinds)
        .bind(SAMPLED)
        .fetch_all(conn)
        .await
}

/// A worker process.
#[derive(Clone, Debug)]
pub struct WorkerState {
    /// Its name, the owner of its leases.
    pub name: String,
    /// The machine.
    pub host: String,
    /// Its build.
    pub version: String,
    /// What it works on.
    pub queues: Vec<String>,
    /// Jobs of one queue at a time.
    pub concurrency: i32,
    /// Its start.
    pub started_at: DateTime<Utc>,
    /// When it was last heard of.
    pub seen_at: DateTime<Utc>,
    /// When it said that it stops.
    pub stopped_at: Option<DateTime<Utc>>,
    /// Seconds since it was last heard of.
    pub silent_seconds: f64,
    /// What it runs now.
    pub running: i64,
    /// An operator wants it to take nothing new.
    pub quiet: bool,
    /// An operator wants it to end.
    pub stop: bool,
}

impl WorkerState {
    /// Whether it has shown itself lately and has not said that it stops.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.stopped_at.is_none() && !self.is_silent()
    }

    /// Whether it is gone without a word: dead, or cut off.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.stopped_at.is_none() && self.silent_seconds >= WORKER_SILENT_SECONDS
    }

    /// Whether it can be expected to take jobs: it is alive, and nobody has told it to take nothing new or to end.
    #[must_use]
    pub fn takes_jobs(&self) -> bool {
        self.is_alive() && !self.quiet && !self.stop
    }
}

/// The workers heard of within a day, the newest first; 200 at most.
///
/// # Errors
/// Postgres could not be reached.
pub async fn workers(pool: &PgPool) -> Result<Vec<WorkerState>, sqlx::Error> {
    sqlx::query_as!(
        WorkerState,
        r#"SELECT name, host, version, queues, concurrency, started_at, seen_at, stopped_at,
                  extract(epoch FROM now() - seen_at)::float8 AS "silent_seconds!",
                  coalesce(running.count, 0) AS "running!", quiet, stop
           FROM workers LEFT JOIN (
               SELECT lease_owner, count(*) FROM jobs WHERE state = 'running' GROUP BY lease_owner) AS running ON running.lease_owner = workers.name
           WHERE seen_at > now() - interval '1 day' ORDER BY seen_at DESC, name LIMIT 200"#
    )
    .fetch_all(pool)
    .await
}

/// Counts of what needs a person.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trouble {
    /// Calls to the outside whose outcome nobody knows.
    pub unknown_effects: i64,
    /// Jobs that died within a day, up to [`COUNTED`].
    pub died_today: i64,
    /// Running jobs whose worker has stopped renewing.
    pub overdue_leases: i64,
    /// The entry of the operators' log that was not as it was written when it was last checked.
    pub audit_broken: Option<i64>,
    /// Since it was last checked.
    pub audit_unchecked_seconds: f64,
}

/// See [`Trouble`].
///
/// # Errors
/// Postgres could not be reached.
pub async fn trouble(pool: &PgPool) -> Result<Trouble, sqlx::Error> {
    let audit = checks::standing(pool).await?;
    let counts = sqlx::query!(
        r#"SELECT (SELECT count(*) FROM (SELECT 1 FROM effects WHERE state = 'unknown' LIMIT $1) AS bounded) AS "unknown_effects!",
                  (SELECT count(*) FROM (SELECT 1 FROM jobs WHERE state IN ('dead', 'quarantined') AND finished_at > now() - interval '1 day' LIMIT $1) AS bounded) AS "died_today!",
                  (SELECT count(*) FROM (SELECT 1 FROM jobs WHERE state = 'running' AND lease_until < now() LIMIT $1) AS bounded) AS "overdue_leases!""#,
        COUNTED
    )
    .fetch_one(pool)
    .await?;
    Ok(Trouble {
        unknown_effects: counts.unknown_effects,
        died_today: counts.died_today,
        overdue_leases: counts.overdue_leases,
        audit_broken: audit.broken_seq,
        audit_unchecked_seconds: audit.unchecked_seconds,
    })
}
