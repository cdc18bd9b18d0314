//! Tells Postgres that this worker lives, what it works on and which build it is, for the job dashboard.

use std::time::Duration;

use roost_shared::jobs::Queue;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

const EVERY: Duration = Duration::from_secs(3);
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(2);

/// Shows itself until `stop`, then says goodbye.
pub(crate) async fn run(pool: PgPool, name: String, queues: Vec<Queue>, concurrency: usize, stop: CancellationToken) {
    let queues: Vec<String> = queues.iter().map(|queue| queue.name().to_owned()).collect();
    let concurrency = i32::try_from(concurrency).unwrap_or(i32::MAX);
    loop {
        attempt(show(&pool, &name, &queues, concurrency)).await;
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = stop.cancelled() => break,
        }
    }
    attempt(leave(&pool, &name)).await;
}

/// Nothing depends on it, so a failure is only told.
async fn attempt(statement: impl Future<Output = Result<(), sqlx::Error>>) {
    match tokio::time::timeout(STATEMENT_TIMEOUT, statement).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "presence not told"),
        Err(_) => tracing::debug!("presence not told in time"),
    }
}

async fn show(pool: &PgPool, name: &str, queues: &[String], concurrency: i32) -> Result<(), sqlx::Error> {
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "worker".to_owned());
    sqlx::query!(
        "WITH forgotten AS (DELETE FROM workers WHERE seen_at < now() - interval '7 days')
         INSERT INTO workers (name, host, version, queues, concurrency, started_at, seen_at) VALUES ($1, $2, $3, $4, $5, now(), now())
         ON CONFLICT (name) DO UPDATE SET seen_at = now()",
        name,
        host,
        env!("CARGO_PKG_VERSION"),
        queues,
        concurrency
    )
    .execute(pool)
    .await?;
    Ok(())
}

async fn leave(pool: &PgPool, name: &str) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE workers SET stopped_at = now(), seen_at = now() WHERE name = $1",
        name
    )
    .execute(pool)
    .await?;
    Ok(())
}
