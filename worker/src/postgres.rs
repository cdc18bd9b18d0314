//! The engine's way to Postgres: few connections, and none that does not answer is kept.

use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{PgPool, Postgres};
use tokio::time::error::Elapsed;

/// A statement that takes longer than this is given up and tried again: the connection may be dead without saying so.
pub(crate) const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections of the engine in one process: claims, settlements, leases, suspects and the relay use one each at a time.
pub(crate) const CONNECTIONS: u32 = 5;

/// A connection, within the three seconds that the pool waits for one.
pub(crate) async fn connection(pool: &PgPool) -> Result<PoolConnection<Postgres>, sqlx::Error> {
    pool.acquire().await
}

/// The answer of a statement that was given some time. Without one its connection is closed: back in the pool, the next
/// statement would wait behind this one's reply.
pub(crate) fn answer<T, E: From<sqlx::Error>>(
    connection: PoolConnection<Postgres>,
    answer: Result<Result<T, E>, Elapsed>,
) -> Result<T, E> {
    answer.unwrap_or_else(|_| {
        drop(connection.detach());
        Err(sqlx::Error::Io(std::io::Error::from(std::io::ErrorKind::TimedOut)).into())
    })
}
