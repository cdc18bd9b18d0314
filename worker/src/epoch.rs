//! Notices that Redis has forgotten its messages: flushed, replaced, or restarted from what it had saved some time ago.
//!
//! A mark in Redis names the server that it was set on. When it is missing or another server has it, what was published
//! before is published again.

use redis::RedisError;
use roost_shared::jobs::relay;
use roost_shared::redis::Redis;
use sqlx::PgConnection;

/// Sets the mark and tells what it was before, in one step, so that one worker acts on a change.
const SWAP: &str = "local before = redis.call('get', KEYS[1])
if before == ARGV[1] then return 0 end
redis.call('set', KEYS[1], ARGV[1])
return 1";

/// Publishes everything again if Redis is not the one that it was published to.
///
/// # Errors
/// Redis or Postgres cannot be reached. The next round tries again.
pub(crate) async fn watch<E: From<RedisError> + From<sqlx::Error>>(
    redis: &Redis,
    db: &mut PgConnection,
) -> Result<(), E> {
    let mut connection = redis.connection();
    let info: String = redis::cmd("INFO").arg("server").query_async(&mut connection).await?;
    let run_id = info
        .lines()
        .find_map(|line| line.strip_prefix("run_id:"))
        .unwrap_or("unknown")
        .trim();
    let changed: bool = redis::Script::new(SWAP)
        .key(redis.key("epoch"))
        .arg(run_id)
        .invoke_async(&mut connection)
        .await?;
    if !changed {
        return Ok(());
    }
    match unpublish_all(db).await {
        Ok(lost) => {
            tracing::warn!(lost, "Redis is not what it was, publishing again");
            Ok(())
        }
        Err(error) => {
            // Whoever looks next does it.
            redis::cmd("DEL")
                .arg(redis.key("epoch"))
                .query_async::<()>(&mut connection)
                .await?;
            Err(error.into())
        }
    }
}

async fn unpublish_all(db: &mut PgConnection) -> Result<u64, sqlx::Error> {
    let now = sqlx::query_scalar!(r#"SELECT now() AS "now!""#)
        .fetch_one(&mut *db)
        .await?;
    let mut lost = 0;
    loop {
        let batch = relay::unpublish_before(&mut *db, now).await?;
        lost += batch;
        if batch == 0 {
            return Ok(lost);
        }
    }
}
