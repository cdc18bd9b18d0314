//! The statements of the relay: what is due moves to `queued`, what is not in Redis gets published again.

use sqlx::PgPool;
use uuid::Uuid;

use super::{JobRef, Queue};

/// Moves scheduled and retrying jobs whose time has come to `queued`. Returns how many.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn promote_due(pool: &PgPool, limit: i64) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        "WITH due AS (
             SELECT id FROM jobs WHERE state IN ('scheduled', 'retrying') AND run_at <= now()
             ORDER BY run_at LIMIT $1 FOR UPDATE SKIP LOCKED)
         UPDATE jobs SET state = 'queued', published_at = NULL FROM due WHERE jobs.id = due.id",
        limit
    )
    .execute(pool)
    .await?;
    Ok(done.rows_affected())
}

/// Takes up to `room` unpublished jobs of each queue, the most urgent first, and marks them as published.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn take_unpublished(pool: &PgPool, room: &[(Queue, usize)]) -> Result<Vec<JobRef>, sqlx::Error> {
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
                   ORDER BY priority, run_at LIMIT room.free FOR UPDATE SKIP LOCKED) AS due)
           UPDATE jobs SET published_at = now() FROM taken WHERE jobs.id = taken.id RETURNING jobs.id, jobs.queue"#,
        &queues,
        &limits
    )
    .fetch_all(pool)
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
pub async fn unpublish(pool: &PgPool, ids: &[Uuid]) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE jobs SET published_at = NULL WHERE id = ANY($1) AND coalesce(state, '') = 'queued'",
        ids
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Unmarks the queued jobs that were published longer ago than their queue's age in seconds: their messages are gone.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn unpublish_stale(pool: &PgPool, ages: &[(Queue, f64)]) -> Result<u64, sqlx::Error> {
    let queues: Vec<String> = ages.iter().map(|(queue, _)| queue.name().to_owned()).collect();
    let seconds: Vec<f64> = ages.iter().map(|(_, seconds)| *seconds).collect();
    let done = sqlx::query!(
        "UPDATE jobs SET published_at = NULL WHERE id IN (
             SELECT lost.id FROM unnest($1::text[], $2::float8[]) AS stale (queue, seconds)
             CROSS JOIN LATERAL (
                 SELECT id FROM jobs WHERE state = 'queued' AND jobs.queue = stale.queue
                 AND published_at <= now() - make_interval(secs => stale.seconds)
                 ORDER BY published_at LIMIT 20000 FOR UPDATE SKIP LOCKED) AS lost)",
        &queues,
        &seconds
    )
    .execute(pool)
    .await?;
    Ok(done.rows_affected())
}
