//! What keeps jobs moving when nobody is looking: the relay publishes what is due, the reaper frees what dead workers
//! held, the janitor keeps Redis small, and the gauges say how it all stands. Every worker runs this; replicas share
//! the work through `SKIP LOCKED`.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, gauge};
use rand::Rng;
use redis::aio::ConnectionManager;
use roost_shared::jobs::{self, MAX_DEPTH, Queue, Transport, relay};
use roost_shared::redis::Redis;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::engine::Engine;

const TICK: Duration = Duration::from_secs(1);
/// Ticks between one look at expired leases and the next.
const REAP_EVERY: u64 = 2;
const FLAGS_EVERY: u64 = 2;
const STALE_EVERY: u64 = 3;
const GAUGES_EVERY: u64 = 10;
/// A job that is published and not claimed for so long was lost with its message, if its queue is nearly empty …
const STALE_SECONDS: f64 = 5.0;
/// … or else is waiting its turn; after this long it is published once more all the same.
const STALE_IN_BACKLOG_SECONDS: f64 = 300.0;
/// Up to this depth every message is taken within seconds.
const NEARLY_EMPTY: usize = 50;

/// Runs until `stop`.
pub(crate) async fn run(engine: Arc<Engine>, redis: Redis, stop: CancellationToken) {
    let mut transport = match Transport::new(&redis) {
        Ok(transport) => transport,
        Err(error) => {
            tracing::error!(%error, "the relay cannot start");
            return;
        }
    };
    let mut epoch = Epoch::default();
    let mut tick = 0_u64;
    while !stop.is_cancelled() {
        let again = match step(&engine, &redis, &mut transport, &mut epoch, tick).await {
            Ok(again) => again,
            Err(error) => {
                counter!("roost_relay_errors_total").increment(1);
                tracing::warn!(error, "relay step failed");
                false
            }
        };
        tick += 1;
        if !again {
            let jitter = rand::rng().random_range(0.9..1.1);
            tokio::select! {
                () = tokio::time::sleep(TICK.mul_f64(jitter)) => {}
                () = stop.cancelled() => {}
            }
        }
    }
}

/// One round. True: there is more to publish at once.
async fn step(
    engine: &Engine,
    redis: &Redis,
    transport: &mut Transport,
    epoch: &mut Epoch,
    tick: u64,
) -> Result<bool, String> {
    let pool = engine.pool();
    let say = |error: &dyn std::fmt::Display| error.to_string();
    if tick.is_multiple_of(FLAGS_EVERY) {
        engine.set_paused(paused_queues(pool).await.map_err(|error| say(&error))?);
    }
    if tick.is_multiple_of(REAP_EVERY) {
        let (requeued, quarantined) = jobs::reap(pool).await.map_err(|error| say(&error))?;
        if requeued + quarantined > 0 {
            counter!("roost_lease_expiries_total").increment((requeued + quarantined).unsigned_abs());
            tracing::warn!(requeued, quarantined, "jobs taken from workers that stopped renewing");
        }
    }
    let promoted = relay::promote_due(pool, 5_000).await.map_err(|error| say(&error))?;
    let depths = depths(transport).await?;
    if epoch.changed(redis).await? {
        let lost = relay::unpublish_stale(pool, &Queue::ALL.map(|queue| (queue, 0.0)))
            .await
            .map_err(|error| say(&error))?;
        tracing::warn!(lost, "Redis has forgotten its messages, publishing again");
    } else if tick.is_multiple_of(STALE_EVERY) {
        let ages: Vec<(Queue, f64)> = depths
            .iter()
            .map(|(queue, depth)| {
                (
                    *queue,
                    if *depth <= NEARLY_EMPTY {
                        STALE_SECONDS
                    } else {
                        STALE_IN_BACKLOG_SECONDS
                    },
                )
            })
            .collect();
        let lost = relay::unpublish_stale(pool, &ages).await.map_err(|error| say(&error))?;
        if lost > 0 {
            tracing::info!(lost, "published jobs that nobody claimed, publishing again");
        }
    }
    if tick.is_multiple_of(GAUGES_EVERY) {
        report(pool, &depths).await.map_err(|error| say(&error))?;
        tidy(transport, redis).await;
    }
    let published = publish(engine, transport, &depths).await?;
    Ok(published >= 1_000 || promoted >= 5_000)
}

async fn paused_queues(pool: &PgPool) -> Result<HashSet<Queue>, sqlx::Error> {
    let names = sqlx::query_scalar!("SELECT name FROM queues WHERE paused")
        .fetch_all(pool)
        .await?;
    Ok(names.iter().filter_map(|name| Queue::by_name(name)).collect())
}

async fn depths(transport: &mut Transport) -> Result<Vec<(Queue, usize)>, String> {
    let mut depths = Vec::with_capacity(Queue::ALL.len());
    for queue in Queue::ALL {
        depths.push((
            queue,
            transport
                .depth(queue)
                .await
                .map_err(|error| format!("redis: {error}"))?,
        ));
    }
    Ok(depths)
}

/// Publishes what is due and not in Redis, as far as the queues have room.
async fn publish(engine: &Engine, transport: &mut Transport, depths: &[(Queue, usize)]) -> Result<usize, String> {
    let room: Vec<(Queue, usize)> = depths
        .iter()
        .filter(|(queue, _)| !engine.is_paused(*queue))
        .map(|(queue, depth)| (*queue, MAX_DEPTH.saturating_sub(*depth).min(2_000)))
        .filter(|(_, room)| *room > 0)
        .collect();
    let due = relay::take_unpublished(engine.pool(), &room)
        .await
        .map_err(|error| error.to_string())?;
    for queue in Queue::ALL {
        let ids: Vec<Uuid> = due.iter().filter(|job| job.queue == queue).map(|job| job.id).collect();
        for chunk in ids.chunks(500) {
            if let Err(error) = transport.push(queue, chunk).await {
                counter!("roost_publish_failed_total", "queue" => queue.name()).increment(chunk.len() as u64);
                relay::unpublish(engine.pool(), chunk)
                    .await
                    .map_err(|error| error.to_string())?;
                tracing::warn!(queue = queue.name(), jobs = chunk.len(), %error, "relay could not publish");
                break;
            }
        }
    }
    Ok(due.len())
}

/// A mark in Redis that a flush takes away.
#[derive(Default)]
struct Epoch {
    seen: Option<String>,
}

impl Epoch {
    /// Whether Redis was flushed and it fell to this worker to publish everything again.
    async fn changed(&mut self, redis: &Redis) -> Result<bool, String> {
        let mut connection: ConnectionManager = redis.connection();
        let key = redis.key("epoch");
        let fresh = Uuid::new_v4().to_string();
        let (set, value): (bool, String) = redis::pipe()
            .set_nx(&key, &fresh)
            .get(&key)
            .query_async(&mut connection)
            .await
            .map_err(|error| format!("redis: {error}"))?;
        self.seen = Some(value);
        Ok(set)
    }
}

/// Removes what apalis-redis keeps for ever: finished messages, and the traces of workers that are gone.
async fn tidy(transport: &mut Transport, redis: &Redis) {
    for queue in Queue::ALL {
        if let Err(error) = transport.prune(queue).await {
            tracing::debug!(queue = queue.name(), %error, "could not tidy {}", redis.key(queue.name()));
        }
    }
}

/// Sets the gauges that alarms and autoscalers look at.
async fn report(pool: &PgPool, depths: &[(Queue, usize)]) -> Result<(), sqlx::Error> {
    for (queue, depth) in depths {
        gauge!("roost_redis_depth", "queue" => queue.name()).set(*depth as f64);
    }
    let rows = sqlx::query!(
        r#"SELECT name AS "name!", (SELECT extract(epoch FROM now() - min(run_at))::float8 FROM jobs WHERE jobs.queue = queues.name AND state = 'queued') AS age,
                  (SELECT count(*) FROM (SELECT 1 FROM jobs WHERE jobs.queue = queues.name AND state = 'queued' LIMIT 10000) AS due) AS "due!"
           FROM queues"#
    )
    .fetch_all(pool)
    .await?;
    for row in rows {
        gauge!("roost_queue_oldest_due_seconds", "queue" => row.name.clone()).set(row.age.unwrap_or(0.0));
        gauge!("roost_queue_due_jobs", "queue" => row.name).set(row.due as f64);
    }
    let unknown = sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM effects WHERE state = 'unknown'"#)
        .fetch_one(pool)
        .await?;
    gauge!("roost_effects_unknown").set(unknown as f64);
    Ok(())
}
