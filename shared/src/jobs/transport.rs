//! Ids on their way through Redis: the format that apalis-redis keeps, and the doorbell that wakes its workers.
//!
//! Only ids travel, several in one message when there are many. A message may be lost or doubled without harm: the worker
//! claims the jobs in Postgres. No clock has a say: messages go straight to the list that workers fetch from, and who is
//! alive is known to Postgres.

use std::sync::LazyLock;
use std::time::Duration;

use apalis_redis::Config;
use redis::aio::ConnectionManager;
use redis::{RedisError, Script};
use uuid::Uuid;

use super::Queue;
use crate::redis::Redis;

/// The most messages that wait in one queue of Redis; the rest waits in Postgres. apalis-redis wedges on much more.
pub const MAX_DEPTH: usize = 4_000;

const PRUNE_BATCH: usize = 1_000;

/// Ids that share a message when there are many to push: a message costs Redis and apalis more than a job costs Postgres.
const IDS_PER_MESSAGE: usize = 8;
/// Fewer ids than this travel one by one, so that all workers get some.
const MANY: usize = 64;
/// Messages at the head of a queue that are looked at: one of them names a job that still waits.
const HEAD: isize = 8;

static PUSH: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/push.lua")));
static DRAIN: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/drain.lua")));
static SWEEP: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/sweep.lua")));

/// Pushes ids to the queues.
pub struct Transport {
    redis: Redis,
    connection: ConnectionManager,
}

/// What waits in a queue of Redis.
#[derive(Clone, Debug, Default)]
pub struct Waiting {
    /// How many messages.
    pub depth: usize,
    /// Jobs that are fetched next.
    pub next: Vec<Uuid>,
}

impl Transport {
    /// A transport over its own connection.
    ///
    /// # Errors
    /// The client's settings are refused.
    pub fn new(redis: &Redis) -> Result<Self, RedisError> {
        Ok(Self {
            redis: redis.clone(),
            connection: redis.separate_connection(Duration::from_secs(1))?,
        })
    }

    /// The settings of a queue, the same for whoever pushes and whoever consumes.
    #[must_use]
    pub fn config(redis: &Redis, queue: Queue) -> Config {
        Config::default()
            .queue(redis.key(queue.name()).as_str())
            .batch_size(16)
            // Locks and events are Postgres' business: a message only says "look at this id".
            .lock_tasks(false)
            .emit_events(false)
            // apalis-redis compares clocks of different machines to tell who is dead. It never gets to, see `drain`: to show
            // itself often would cost an idle fleet a third of its processor time.
            .heartbeat_interval(Duration::from_secs(30))
            .missed_heartbeats(10_000_000)
    }

    /// The channel on which a push to `queue` is announced.
    #[must_use]
    pub fn doorbell(redis: &Redis, queue: Queue) -> String {
        redis.key(&format!("doorbell:{}", queue.name()))
    }

    /// Pushes `ids` as far as there is room, and rings the doorbell. Each message has a task id of its own, so a republished
    /// job is not dropped. Returns how many of the ids, from the first, have arrived.
    ///
    /// # Errors
    /// Redis refused or is not reachable.
    pub async fn push(&mut self, queue: Queue, ids: &[Uuid]) -> Result<usize, RedisError> {
        let config = Self::config(&self.redis, queue);
        let together = if ids.len() < MANY { 1 } else { IDS_PER_MESSAGE };
        let mut push = PUSH.key(config.active_jobs_list());
        push.key(config.scheduled_jobs_set())
            .key(config.job_data_hash())
            .arg(MAX_DEPTH)
            .arg(config.job_meta_hash())
            .arg(Self::doorbell(&self.redis, queue));
        for ids in ids.chunks(together) {
            push.arg(Uuid::new_v4().to_string()).arg(message(ids));
        }
        let pushed: usize = push.invoke_async(&mut self.connection).await?;
        Ok((pushed * together).min(ids.len()))
    }

    /// What waits in `queue`.
    ///
    /// # Errors
    /// Redis is not reachable.
    pub async fn waiting(&mut self, queue: Queue) -> Result<Waiting, RedisError> {
        let config = Self::config(&self.redis, queue);
        let (scheduled, active, head): (usize, usize, Vec<String>) = redis::pipe()
            .zcard(config.scheduled_jobs_set())
            .llen(config.active_jobs_list())
            .lrange(config.active_jobs_list(), 0, HEAD - 1)
            .query_async(&mut self.connection)
            .await?;
        let mut waiting = Waiting {
            depth: scheduled + active,
            next: Vec::new(),
        };
        if !head.is_empty() {
            let messages: Vec<Option<Vec<u8>>> = redis::cmd("HMGET")
                .arg(config.job_data_hash())
                .arg(&head)
                .query_async(&mut self.connection)
                .await?;
            waiting.next = messages
                .iter()
                .flatten()
                .filter_map(|message| ids_of(message))
                .flatten()
                .collect();
        }
        Ok(waiting)
    }

    /// The names of the consumers that have fetched from `queue` and were not drained.
    ///
    /// # Errors
    /// Redis is not reachable.
    pub async fn consumers(&mut self, queue: Queue) -> Result<Vec<String>, RedisError> {
        redis::cmd("ZRANGE")
            .arg(Self::config(&self.redis, queue).workers_set())
            .arg(0)
            .arg(-1)
            .query_async(&mut self.connection)
            .await
    }

    /// Takes from a consumer that is no more the ids that it fetched and did not acknowledge.
    ///
    /// # Errors
    /// Redis is not reachable.
    pub async fn drain(&mut self, queue: Queue, consumer: &str) -> Result<Vec<Uuid>, RedisError> {
        let config = Self::config(&self.redis, queue);
        let messages: Vec<Vec<u8>> = DRAIN
            .key(config.workers_set())
            .key(format!("{}:{consumer}", config.inflight_jobs_set()))
            .key(config.job_data_hash())
            .key(format!("{}:workers:metadata:{consumer}", self.redis.key(queue.name())))
            .arg(consumer)
            .arg(config.job_meta_hash())
            .invoke_async(&mut self.connection)
            .await?;
        Ok(messages
            .iter()
            .filter_map(|message| ids_of(message))
            .flatten()
            .collect())
    }

    /// Removes from `queue` the ids of messages that are gone.
    ///
    /// # Errors
    /// Redis is not reachable.
    pub async fn sweep(&mut self, queue: Queue) -> Result<u64, RedisError> {
        let config = Self::config(&self.redis, queue);
        SWEEP
            .key(config.active_jobs_list())
            .key(config.job_data_hash())
            .arg(config.job_meta_hash())
            .invoke_async(&mut self.connection)
            .await
    }

    /// Whether Redis takes writes.
    ///
    /// # Errors
    /// It does not, or is not reachable.
    pub async fn probe(&mut self) -> Result<(), RedisError> {
        redis::cmd("SET")
            .arg(self.redis.key("probe"))
            .arg(1)
            .arg("EX")
            .arg(60)
            .query_async(&mut self.connection)
            .await
    }

    /// Removes what apalis-redis keeps of messages that were taken: 485 bytes each, for ever.
    ///
    /// # Errors
    /// Redis is not reachable.
    pub async fn prune(&mut self, queue: Queue) -> Result<(), RedisError> {
        let key = self.redis.key(queue.name());
        loop {
            let taken: Vec<String> = redis::cmd("SPOP")
                .arg(format!("{key}:done"))
                .arg(PRUNE_BATCH)
                .query_async(&mut self.connection)
                .await?;
            if taken.is_empty() {
                return Ok(());
            }
            let mut pipe = redis::pipe();
            pipe.hdel(format!("{key}:data"), &taken).ignore();
            for id in &taken {
                pipe.unlink(format!("{key}:meta:{id}")).ignore();
            }
            pipe.query_async::<()>(&mut self.connection).await?;
        }
    }
}

/// The payload of a message, as apalis' JSON codec reads it: a string of ids.
fn message(ids: &[Uuid]) -> Vec<u8> {
    let ids: Vec<String> = ids.iter().map(Uuid::to_string).collect();
    format!("\"{}\"", ids.join(" ")).into_bytes()
}

/// The ids in a message, or none if it is not one of ours.
#[must_use]
pub fn ids_of(message: &[u8]) -> Option<Vec<Uuid>> {
    let ids: String = serde_json::from_slice(message).ok()?;
    ids.split(' ').map(|id| id.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_back_out_of_a_message() {
        let ids: Vec<Uuid> = (0..3).map(|_| Uuid::new_v4()).collect();
        for count in 1..=3 {
            assert_eq!(ids_of(&message(&ids[..count])).as_deref(), Some(&ids[..count]));
        }
    }

    #[test]
    fn what_is_no_list_of_ids_is_none() {
        for text in [
            "",
            "{",
            "7",
            r#""""#,
            r#"" ""#,
            r#""no id""#,
            "0190c6f0-0000-7000-8000-000000000000",
            r#""0190c6f0-0000-7000-8000-000000000000 x""#,
            r#""0190c6f0-0000-7000-8000-000000000000 ""#,
        ] {
            assert_eq!(ids_of(text.as_bytes()), None, "{text:?}");
        }
    }
}
