//! Who works: each worker renews a row of its own every second and learns from the same statement what operators want
//! and whether it is the one that looks after the queues. Liveness is told by Postgres' clock alone.

use sqlx::PgExecutor;

use super::Queue;
use super::pressure::PRESSED;

/// A worker as it presents itself.
#[derive(Clone, Debug)]
pub struct Presence {
    /// The lease owner of what it runs.
    pub name: String,
    /// Its machine.
    pub host: String,
    /// Its build.
    pub version: String,
    /// What it works on.
    pub queues: Vec<Queue>,
    /// The kinds that its build knows.
    pub kinds: Vec<String>,
    /// Jobs of one queue at a time.
    pub concurrency: usize,
}

/// What a worker learns by showing itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Looks after the queues for all. Two may for a second when workers come and go, which costs nothing but work.
    pub leads: bool,
    /// The kinds that some living worker knows.
    pub fleet_kinds: Vec<String>,
    /// Queue and kind, as in `payments payment.capture`, where some living worker of the queue does not know the kind, as
    /// while a new version comes: such jobs do not go through Redis, who knows them takes them from Postgres.
    pub apart: Vec<String>,
    /// Queues that are paused.
    pub paused: Vec<String>,
    /// Queues with a limit, their own or that of a kind: their jobs do not go through Redis.
    pub limited: Vec<String>,
    /// All queues, by name,
    pub queues: Vec<String>,
    /// the weight of each,
    pub weights: Vec<i32>,
    /// and whether one of its jobs has waited for most of its target, without a limit that makes it wait.
    pub pressed: Vec<bool>,
    /// An operator wants it to take nothing new.
    pub quiet: bool,
    /// An operator wants it to end.
    pub stop: bool,
    /// Jobs wait that were running when a worker died.
    pub suspects: bool,
}

impl Standing {
    /// Queues whose jobs do not go through Redis: paused or limited.
    pub fn closed(&self) -> impl Iterator<Item = &str> {
        self.paused.iter().chain(&self.limited).map(String::as_str)
    }
}

/// Shows that the worker lives and runs `running` jobs.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn show(db: impl PgExecutor<'_>, worker: &Presence, running: usize) -> Result<Standing, sqlx::Error> {
    let queues: Vec<String> = worker.queues.iter().map(|queue| queue.name().to_owned()).collect();
    sqlx::query_as!(
        Standing,
        r#"WITH me AS (
               INSERT INTO workers (name, host, version, queues, kinds, concurrency, running, started_at, seen_at)
               VALUES ($1, $2, $3, $4, $5, $6, $7, now(), now())
               ON CONFLICT (name) DO UPDATE SET seen_at = now(), running = EXCLUDED.running, stopped_at = NULL
               RETURNING quiet, stop),
           living AS (
               SELECT queues, kinds FROM workers WHERE seen_at > now() - interval '10 seconds' AND stopped_at IS NULL AND name <> $1
               UNION ALL SELECT $4::text[], $5::text[])
           SELECT quiet AS "quiet!", stop AS "stop!",
               NOT EXISTS (SELECT 1 FROM workers AS other WHERE other.seen_at > now() - interval '3 seconds'
                   AND other.stopped_at IS NULL AND other.name < $1) AS "leads!",
               ARRAY(SELECT DISTINCT unnest(kinds) FROM living ORDER BY 1) AS "fleet_kinds!",
               CASE WHEN (SELECT count(DISTINCT kinds) > 1 FROM living) THEN ARRAY(
                   SELECT DISTINCT queue || ' ' || kind FROM living, unnest(queues) AS queue, (SELECT DISTINCT unnest(kinds) FROM living) AS known (kind)
                   WHERE kind <> ALL(kinds) ORDER BY 1) ELSE '{}' END AS "apart!",
               ARRAY(SELECT name FROM queues WHERE paused ORDER BY 1) AS "paused!",
               ARRAY(SELECT name FROM queues WHERE concurrency IS NOT NULL OR rate_limit IS NOT NULL
                   UNION SELECT queue FROM kinds ORDER BY 1) AS "limited!",
               ARRAY(SELECT name FROM queues ORDER BY name) AS "queues!",
               ARRAY(SELECT weight FROM queues ORDER BY name) AS "weights!",
               ARRAY(SELECT coalesce(oldest_due_at < now() - make_interval(secs => target_seconds * $8::float8), false) AND NOT paused
                   AND concurrency IS NULL AND rate_limit IS NULL AND NOT EXISTS (SELECT 1 FROM kinds WHERE kinds.queue = queues.name)
                   FROM queues ORDER BY name) AS "pressed!",
               EXISTS (SELECT 1 FROM jobs WHERE state = 'queued' AND crash_count > 0 AND queue = ANY($4)) AS "suspects!"
           FROM me"#,
        worker.name,
        worker.host,
        worker.version,
        &queues,
        &worker.kinds,
        i32::try_from(worker.concurrency).unwrap_or(i32::MAX),
        i32::try_from(running).unwrap_or(i32::MAX),
        PRESSED
    )
    .fetch_one(db)
    .await
}

/// Says goodbye.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn leave(db: impl PgExecutor<'_>, name: &str) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE workers SET stopped_at = now(), seen_at = now(), running = 0 WHERE name = $1",
        name
    )
    .execute(db)
    .await?;
    Ok(())
}

/// The names of the workers that live.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn living(db: impl PgExecutor<'_>) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar!("SELECT name FROM workers WHERE seen_at > now() - interval '5 seconds' AND stopped_at IS NULL")
        .fetch_all(db)
        .await
}

/// Forgets workers that were last heard of a week ago.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn forget(db: impl PgExecutor<'_>) -> Result<(), sqlx::Error> {
    sqlx::query!("DELETE FROM workers WHERE seen_at < now() - interval '7 days'")
        .execute(db)
        .await?;
    Ok(())
}
