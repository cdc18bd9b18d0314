//! Ids on their way through Redis: the format that apalis-redis keeps, and the doorbell that wakes its workers.
//!
//! Only ids travel, several in one message when there are many. A message may be lost or doubled without harm: the worker
//! claims the jobs in Postgres.

use std::collections::HashSet;
use std::time::Duration;

use apalis_core::task::builder::TaskBuilder;
use apalis_redis::Config;
use redis::RedisError;
use redis::aio::ConnectionManager;
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

/// Pushes ids to the queues.
pub struct Transport {
    redis: Redis,
    connection: ConnectionManager,
    full: HashSet<Queue>,
}

/// Why ids were not pushed. They wait in Postgres for the relay.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The queue holds [`MAX_DEPTH`] messages already.
    #[error("the queue {} is full", .0.name())]
    Full(Queue),
    /// Redis refused or is not reachable.
    #[error("redis: {0}")]
    Redis(#[from] RedisError),
    /// The apalis script refused.
    #[error("redis: {0}")]
    Push(#[from] apalis_redis::Error),
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
            full: HashSet::new(),
        })
    }

    /// The settings of a queue, the same for whoever pushes and whoever consumes.
    #[must_use]
    pub fn config(redis: &Redis, queue: Queue) -> Config {
        Config::default()
            .queue(redis.key(queue.name()).as_str())
            .batch_size(16)
            // Locks, events and orphans are Postgres' business: a message only says "look at this id".
            .lock_tasks(false)
            .emit_events(false)
            .heartbeat_interval(Duration::from_secs(5))
            .missed_heartbeats(60)
    }

    /// The channel on which a push to `queue` is announced.
    #[must_use]
    pub fn doorbell(redis: &Redis, queue: Queue) -> String {
        redis.key(&format!("doorbell:{}", queue.name()))
    }

    /// How many messages wait in Redis.
    ///
    /// # Errors
    /// Redis is not reachable.
    pub async fn depth(&mut self, queue: Queue) -> Result<usize, RedisError> {
        let key = self.redis.key(queue.name());
        let (due, active): (usize, usize) = redis::pipe()
            .zcard(format!("{key}:scheduled"))
            .llen(format!("{key}:active"))
            .query_async(&mut self.connection)
            .await?;
        Ok(due + active)
    }

    /// Whether the last push met a full queue.
    #[must_use]
    pub fn is_full(&self, queue: Queue) -> bool {
        self.full.contains(&queue)
    }

    /// Pushes `ids` and rings the doorbell. Each message has a task id of its own, so a republished job is not dropped.
    ///
    /// # Errors
    /// See [`TransportError`]; some of the ids may have arrived then.
    pub async fn push(&mut self, queue: Queue, ids: &[Uuid]) -> Result<(), TransportError> {
        if self.full.contains(&queue) {
            if self.depth(queue).await? >= MAX_DEPTH {
                return Err(TransportError::Full(queue));
            }
            self.full.remove(&queue);
        }
        let config = Self::config(&self.redis, queue);
        let together = if ids.len() < MANY { 1 } else { IDS_PER_MESSAGE };
        let tasks: Vec<_> = ids
            .chunks(together)
            .map(|ids| TaskBuilder::new(message(ids)).build())
            .collect();
        apalis_redis::queries::push_tasks(&mut self.connection, &config, &tasks).await?;
        let key = self.redis.key(queue.name());
        // apalis-redis puts every push into the scheduled set and moves it to the active list at the next fetch.
        let (due, active): (usize, usize) = redis::pipe()
            .publish(Self::doorbell(&self.redis, queue), ids.len())
            .ignore()
            .zcard(format!("{key}:scheduled"))
            .llen(format!("{key}:active"))
            .query_async(&mut self.connection)
            .await?;
        if due + active >= MAX_DEPTH {
            self.full.insert(queue);
        }
        Ok(())
    }

    /// Removes what apalis-redis keeps of messages that were taken: 485 bytes each, for ever.
    ///
    /// # Errors
    /// Redis is not reachable.
    pub async fn prune(&mut self, queue: Queue) -> Result<(), RedisError> {
        let key = self.redis.key(queue.name());
        // A worker's description outlives it by a day instead of for ever.
        let workers: Vec<String> = redis::cmd("ZRANGE")
            .arg(format!("{key}:workers"))
            .arg(0)
            .arg(-1)
            .query_async(&mut self.connection)
            .await?;
        let mut pipe = redis::pipe();
        for worker in &workers {
            pipe.expire(format!("{key}:workers:metadata:{worker}"), 24 * 60 * 60)
                .ignore();
        }
        pipe.query_async::<()>(&mut self.connection).await?;
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
pub fn ids_of(message: &str) -> Option<Vec<Uuid>> {
    message.split(' ').map(|id| id.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_back_out_of_a_message() {
        let ids: Vec<Uuid> = (0..3).map(|_| Uuid::new_v4()).collect();
        for count in 1..=3 {
            let text: String = serde_json::from_slice(&message(&ids[..count])).unwrap();
            assert_eq!(ids_of(&text).as_deref(), Some(&ids[..count]));
        }
    }

    #[test]
    fn what_is_no_list_of_ids_is_none() {
        for text in [
            "",
            " ",
            "no id",
            "0190c6f0-0000-7000-8000-000000000000 x",
            "0190c6f0-0000-7000-8000-000000000000 ",
        ] {
            assert_eq!(ids_of(text), None, "{text:?}");
        }
    }
}
