//! Notices that Redis has forgotten its messages: flushed, replaced, or restarted from what it had saved some time ago.
//!
//! A mark in Redis names the server that it was set on. When it is missing or another server has it, what was published
//! before is published again, in the order that it was published in. In Postgres these jobs stay as they are: to write each of
//! them twice would take longer than all the rest.

use chrono::{DateTime, Utc};
use redis::RedisError;
use roost_shared::jobs::{Queue, Transport, relay};
use roost_shared::redis::Redis;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::relay::PUSH_BATCH;

/// Sets the mark, unless what was set before the messages were pushed is gone: Redis has forgotten these as well then.
const FINISH: &str = "if redis.call('get', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('set', KEYS[1], ARGV[2])
return 1";
/// Jobs that are read from Postgres at a time.
const PAGE: i64 = 5_000;

/// Publishes everything again if Redis is not the one that it was published to. True: it did.
///
/// `closed` are queues whose jobs do not go through Redis now.
///
/// # Errors
/// Redis or Postgres cannot be reached. The next round, of whoever leads then, begins anew.
pub(crate) async fn watch<E: From<RedisError> + From<sqlx::Error>>(
    redis: &Redis,
    transport: &mut Transport,
    db: &mut PgConnection,
    closed: &[&str],
) -> Result<bool, E> {
    let mut connection = redis.connection();
    let key = redis.key("epoch");
    let (info, mark): (String, Option<String>) = redis::pipe()
        .cmd("INFO")
        .arg("server")
        .get(&key)
        .query_async(&mut connection)
        .await?;
    let run_id = info
        .lines()
        .find_map(|line| line.strip_prefix("run_id:"))
        .unwrap_or("unknown")
        .trim();
    if mark.as_deref() == Some(run_id) {
        return Ok(false);
    }
    let begun = format!("publishing {}", Uuid::new_v4());
    redis::cmd("SET")
        .arg(&key)
        .arg(&begun)
        .exec_async(&mut connection)
        .await?;
    let now = sqlx::query_scalar!(r#"SELECT now() AS "now!""#)
        .fetch_one(&mut *db)
        .await?;
    let (mut published, mut left) = (0, 0);
    for queue in Queue::ALL {
        let open = !closed.contains(&queue.name());
        let again: Again = publish_again::<E>(transport, db, queue, now, open).await?;
        published += again.published;
        left += again.left;
    }
    redis::Script::new(FINISH)
        .key(&key)
        .arg(begun)
        .arg(run_id)
        .invoke_async::<()>(&mut connection)
        .await?;
    tracing::warn!(published, left, "Redis is not what it was, published again");
    Ok(true)
}

/// What was to be published again.
#[derive(Default)]
struct Again {
    published: u64,
    /// There was no room for these: they are published when there is, as if for the first time.
    left: u64,
}

async fn publish_again<E: From<RedisError> + From<sqlx::Error>>(
    transport: &mut Transport,
    db: &mut PgConnection,
    queue: Queue,
    until: DateTime<Utc>,
    open: bool,
) -> Result<Again, E> {
    let mut again = Again::default();
    let mut has_room = open;
    let mut last = None;
    loop {
        let page = relay::published(&mut *db, queue, until, last, PAGE).await?;
        let Some(end) = page.last() else { return Ok(again) };
        last = Some((end.published_at, end.id));
        let ids: Vec<Uuid> = page.iter().map(|job| job.id).collect();
        let mut arrived = 0;
        while has_room && arrived < ids.len() {
            let batch = &ids[arrived..ids.len().min(arrived + PUSH_BATCH)];
            let pushed = transport.push(queue, batch).await?;
            arrived += pushed;
            has_room = pushed == batch.len();
        }
        if arrived < ids.len() {
            relay::unpublish(&mut *db, &ids[arrived..]).await?;
        }
        again.published += arrived as u64;
        again.left += (ids.len() - arrived) as u64;
    }
}
