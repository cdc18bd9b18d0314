//! The statements of the relay: what is due moves to `queued`, what is not in Redis gets published again.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use uuid::Uuid;

use super::{JobRef, Queue};

/// How long a worker may hold a message before it claims the job, in seconds. Beyond it the job is published once more.
const IN_HAND_SECONDS: f64 = 5.0;
/// Where the messages that are next are all of jobs that have moved on, only much older ones are taken for lost.
const UNKNOWN_HEAD_SECONDS: f64 = 60.0;

/// Moves scheduled and retrying jobs whose time has come to `queued`. Returns how many.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn promote_due(db: impl PgExecutor<'_>, limit: i64) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        "WITH due AS (
             SELECT id FROM jobs WHERE state IN ('scheduled', 'retrying') AND run_at <= now()
             ORDER BY run_at LIMIT $1 FOR UPDATE SKIP LOCKED)
         UPDATE jobs SET state = 'queued', published_at = NULL FROM due WHERE jobs.id = due.id",
        limit
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

/// Takes up to `room` unpublished jobs of each queue, those first that are nearest to when they ought to have begun, and marks them as published: of `kinds`, but
/// for those `apart` (see [`super::presence::Standing::apart`]). Left alone are jobs that were running when a worker died:
/// workers claim those by themselves.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn take_unpublished(
    db: impl PgExecutor<'_>,
    room: &[(Queue, usize)],
    kinds: &[String],
    apart: &[String],
) -> Result<Vec<JobRef>, sqlx::Error> {
    let queues: Vec<String> = room.iter().map(|(queue, _)| queue.name().to_owned()).collect();
    let limits: Vec<i64> = room
        .iter()
        .map(|(_, limit)| i64::try_from(*limit).unwrap_or(i64::MAX))
        .collect();
    let rows = sqlx::query!(
        r#"WITH taken AS (
               SELECT due.id FROM unnest($1::text[], $2::bigint[]) AS room (queue, free)
               CROSS JOIN LATERAL (
                   SELECT id FROM jobs WHERE state = 'queued' AND published_at IS NULL AND jobs.queue = room.queue
                       AND crash_count = 0 AND kind = ANY($3) AND room.queue || ' ' || kind <> ALL($4)
                   ORDER BY run_at - timestamptz 'epoch' + make_interval(secs => priority) LIMIT room.free FOR UPDATE SKIP LOCKED) AS due)
           UPDATE jobs SET published_at = now() FROM taken WHERE jobs.id = taken.id RETURNING jobs.id, jobs.queue"#,
        &queues,
        &limits,
        kinds,
        apart
    )
    .fetch_all(db)
    .await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| Queue::by_name(&row.queue).map(|queue| JobRef { id: row.id, queue }))
        .collect())
}

/// Takes the mark off, so that the relay publishes these jobs again.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn unpublish(db: impl PgExecutor<'_>, ids: &[Uuid]) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE jobs SET published_at = NULL WHERE id = ANY($1) AND coalesce(state, '') = 'queued'",
        ids
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Messages of one queue that are next in Redis.
#[derive(Clone, Debug)]
pub struct Head {
    /// The queue.
    pub queue: Queue,
    /// The jobs in them; none: the queue is empty.
    pub next: Vec<Uuid>,
}

/// Unmarks queued jobs whose messages are gone, up to 20,000 of each queue. Redis hands messages out in their order: what was published
/// well before the job that is next, or at all when nothing waits, has been taken and not been claimed.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn unpublish_stale(db: impl PgExecutor<'_>, heads: &[Head]) -> Result<u64, sqlx::Error> {
    let queues: Vec<String> = heads.iter().map(|head| head.queue.name().to_owned()).collect();
    let (mut next, mut next_queues) = (Vec::new(), Vec::new());
    for head in heads {
        next.extend_from_slice(&head.next);
        next_queues.extend(head.next.iter().map(|_| head.queue.name().to_owned()));
    }
    let done = sqlx::query!(
        "WITH next AS (
             SELECT next.queue, max(jobs.published_at) AS published_at
             FROM unnest($2::uuid[], $3::text[]) AS next (id, queue) LEFT JOIN jobs ON jobs.id = next.id AND coalesce(jobs.state, '') = 'queued'
             GROUP BY next.queue),
         stale AS (
             SELECT queue, CASE WHEN next.queue IS NULL THEN now()
                                ELSE coalesce(next.published_at, now() - make_interval(secs => $5)) END - make_interval(secs => $4) AS before
             FROM unnest($1::text[]) AS given (queue) LEFT JOIN next USING (queue))
         UPDATE jobs SET published_at = NULL WHERE id IN (
             SELECT lost.id FROM stale CROSS JOIN LATERAL (
                 SELECT id FROM jobs WHERE state = 'queued' AND jobs.queue = stale.queue AND published_at <= stale.before
                 ORDER BY published_at LIMIT 20000 FOR UPDATE SKIP LOCKED) AS lost)",
        &queues,
        &next,
        &next_queues,
        IN_HAND_SECONDS,
        UNKNOWN_HEAD_SECONDS
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

/// A queued job whose id went to Redis.
#[derive(Clone, Copy, Debug)]
pub struct Published {
    /// The job.
    pub id: Uuid,
    /// When.
    pub published_at: DateTime<Utc>,
}

/// The queued jobs of a queue that were published up to `until`, in that order: the next `limit` after `after`.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn published(
    db: impl PgExecutor<'_>,
    queue: Queue,
    until: DateTime<Utc>,
    after: Option<(DateTime<Utc>, Uuid)>,
    limit: i64,
) -> Result<Vec<Published>, sqlx::Error> {
    let (at, id) = after.unwrap_or((DateTime::UNIX_EPOCH, Uuid::nil()));
    sqlx::query_as!(
        Published,
        r#"SELECT id, published_at AS "published_at!" FROM jobs
           WHERE state = 'queued' AND queue = $1 AND published_at BETWEEN $3 AND $2 AND (published_at, id) > ($3, $4)
           ORDER BY published_at, id LIMIT $5"#,
        queue.name(),
        until,
        at,
        id,
        limit
    )
    .fetch_all(db)
    .await
}

/// How many due jobs are of a kind that is not among `kinds`, by kind; counted up to a thousand in all.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn unknown_kinds(db: impl PgExecutor<'_>, kinds: &[String]) -> Result<Vec<(String, i64)>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT kind, count(*) AS "count!" FROM (
               SELECT kind FROM jobs WHERE state = 'queued' AND published_at IS NULL AND kind <> ALL($1) LIMIT 1000) AS unknown
           GROUP BY kind"#,
        kinds
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(|row| (row.kind, row.count)).collect())
}
