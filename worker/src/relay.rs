//! What keeps jobs moving when nobody is looking: the relay publishes what is due, the reaper frees what dead workers
//! held, the janitor keeps Redis small, and the gauges say how it all stands. Every worker runs this; replicas share
//! the work through `SKIP LOCKED`.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::{counter, gauge};
use rand::Rng;
use roost_shared::jobs::{self, LEASE, MAX_DEPTH, Queue, Transport, relay};
use roost_shared::redis::Redis;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::engine::Engine;

const TICK: Duration = Duration::from_secs(1);
/// While Redis has no room for all that is due, it is filled up this often.
const TOP_UP: Duration = Duration::from_millis(40);
/// Ids of one queue that one worker adds at a time. Bounded, because others may add theirs at the same time.
const MOST_AT_ONCE: usize = 1_000;
/// A round that takes longer hangs on a connection that is dead without saying so.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);
/// Scheduled jobs that become due in one statement.
const PROMOTE_BATCH: u64 = 5_000;
/// Ids that go to Redis in one script.
const PUSH_BATCH: usize = 500;
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
    let mut outage: Option<Instant> = None;
    let mut tick = 0_u64;
    while !stop.is_cancelled() {
        let round = step(&engine, &redis, &mut transport, &mut outage, tick);
        let mut more = match tokio::time::timeout(STEP_TIMEOUT, round)
            .await
            .unwrap_or_else(|_| Err("no end in time".into()))
        {
            Ok(more) => more,
            Err(error) => {
                counter!("roost_relay_errors_total").increment(1);
                tracing::warn!(error, "relay step failed");
                false
            }
        };
        tick += 1;
        let next = Instant::now() + TICK.mul_f64(rand::rng().random_range(0.9..1.1));
        let mut wait = TOP_UP;
        while !stop.is_cancelled() && Instant::now() < next {
            let rest = next.saturating_duration_since(Instant::now());
            tokio::select! {
                () = tokio::time::sleep(if more { rest.min(wait) } else { rest }) => {}
                () = stop.cancelled() => {}
            }
            if more {
                let filled = tokio::time::timeout(STEP_TIMEOUT, top_up(&engine, &mut transport)).await;
                // A failure is told by the next step, which meets it too.
                let filled = filled.unwrap_or_else(|_| Err(String::new())).unwrap_or_default();
                more = filled.more;
                // Where nobody takes anything there is no hurry.
                wait = if filled.published > 0 { TOP_UP } else { wait * 2 };
            }
        }
    }
}

/// What a round of publishing did.
#[derive(Clone, Copy, Debug, Default)]
struct Filled {
    published: usize,
    /// There may be more than Redis has room for.
    more: bool,
}

async fn top_up(engine: &Engine, transport: &mut Transport) -> Result<Filled, String> {
    relay::promote_due(engine.pool(), PROMOTE_BATCH.cast_signed())
        .await
        .map_err(|error| error.to_string())?;
    let depths = depths(transport).await?;
    publish(engine, transport, &depths).await
}

/// One round. True: there is more than Redis has room for.
async fn step(
    engine: &Engine,
    redis: &Redis,
    transport: &mut Transport,
    outage: &mut Option<Instant>,
    tick: u64,
) -> Result<bool, String> {
    let pool = engine.pool();
    let say = |error: &dyn std::fmt::Display| error.to_string();
    let promoted = match relay::promote_due(pool, PROMOTE_BATCH.cast_signed()).await {
        Ok(promoted) => promoted,
        Err(error) => {
            *outage = Some(Instant::now());
            return Err(error.to_string());
        }
    };
    if tick.is_multiple_of(FLAGS_EVERY) {
        engine.set_paused(paused_queues(pool).await.map_err(|error| say(&error))?);
    }
    // After an outage the living get a chance to renew before their jobs are taken from them.
    let all_could_renew = outage.is_none_or(|ended| ended.elapsed() >= LEASE);
    if tick.is_multiple_of(REAP_EVERY) && all_could_renew {
        let (requeued, quarantined) = jobs::reap(pool).await.map_err(|error| say(&error))?;
        if requeued + quarantined > 0 {
            counter!("roost_lease_expiries_total").increment((requeued + quarantined).unsigned_abs());
            tracing::warn!(requeued, quarantined, "jobs taken from workers that stopped renewing");
        }
    }
    if tick.is_multiple_of(GAUGES_EVERY) {
        report(pool).await.map_err(|error| say(&error))?;
    }
    let depths = depths(transport).await?;
    for (queue, depth) in &depths {
        gauge!("roost_redis_depth", "queue" => queue.name()).set(*depth as f64);
    }
    if was_flushed(redis).await? {
        match relay::unpublish_stale(pool, &Queue::ALL.map(|queue| (queue, 0.0))).await {
            Ok(lost) => tracing::warn!(lost, "Redis has forgotten its messages, publishing again"),
            Err(error) => {
                // Whoever looks next does it.
                forget_epoch(redis).await?;
                return Err(error.to_string());
            }
        }
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
        tidy(transport, redis).await;
    }
    let filled = publish(engine, transport, &depths).await?;
    Ok(filled.more || promoted >= PROMOTE_BATCH)
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
async fn publish(engine: &Engine, transport: &mut Transport, depths: &[(Queue, usize)]) -> Result<Filled, String> {
    let room: Vec<(Queue, usize)> = depths
        .iter()
        .filter(|(queue, _)| !engine.is_paused(*queue))
        .map(|(queue, depth)| (*queue, MAX_DEPTH.saturating_sub(*depth).min(MOST_AT_ONCE)))
        .collect();
    let due = relay::take_unpublished(engine.pool(), &room)
        .await
        .map_err(|error| error.to_string())?;
    let mut more = false;
    for (queue, free) in room {
        let ids: Vec<Uuid> = due.iter().filter(|job| job.queue == queue).map(|job| job.id).collect();
        more |= ids.len() >= free;
        for begun in (0..ids.len()).step_by(PUSH_BATCH) {
            let chunk = &ids[begun..ids.len().min(begun + PUSH_BATCH)];
            if let Err(error) = transport.push(queue, chunk).await {
                let left = &ids[begun..];
                counter!("roost_publish_failed_total", "queue" => queue.name()).increment(left.len() as u64);
                tracing::warn!(queue = queue.name(), jobs = left.len(), %error, "relay could not publish");
                if let Err(error) = relay::unpublish(engine.pool(), left).await {
                    tracing::warn!(%error, "could not mark jobs as unpublished, they will be found as stale");
                }
                break;
            }
        }
    }
    Ok(Filled {
        published: due.len(),
        more,
    })
}

/// Whether Redis was flushed and it fell to this worker to publish everything again: the mark was gone, and this one
/// set it.
async fn was_flushed(redis: &Redis) -> Result<bool, String> {
    let mark = Uuid::new_v4().to_string();
    let set: bool = redis::cmd("SETNX")
        .arg(redis.key("epoch"))
        .arg(mark)
        .query_async(&mut redis.connection())
        .await
        .map_err(|error| format!("redis: {error}"))?;
    Ok(set)
}

async fn forget_epoch(redis: &Redis) -> Result<(), String> {
    let deleted: Result<(), _> = redis::cmd("DEL")
        .arg(redis.key("epoch"))
        .query_async(&mut redis.connection())
        .await;
    deleted.map_err(|error| format!("redis: {error}"))
}

/// Removes what apalis-redis keeps for ever: finished messages, and the traces of workers that are gone.
async fn tidy(transport: &mut Transport, redis: &Redis) {
    for queue in Queue::ALL {
        if let Err(error) = transport.prune(queue).await {
            tracing::debug!(queue = queue.name(), %error, "could not tidy {}", redis.key(queue.name()));
        }
    }
}

/// Sets the gauges that alarms and autoscalers look at: per queue the due jobs, counted up to ten thousand, and the age
/// of the oldest of those that would run next.
async fn report(pool: &PgPool) -> Result<(), sqlx::Error> {
    // Each half has a partial index of its own.
    let rows = sqlx::query!(
        r#"SELECT name AS "name!", extract(epoch FROM now() - min(due.run_at))::float8 AS age, count(due.run_at) AS "due!"
           FROM queues LEFT JOIN LATERAL (
               (SELECT run_at FROM jobs WHERE jobs.queue = queues.name AND state = 'queued' AND published_at IS NOT NULL
                ORDER BY published_at LIMIT 5000)
               UNION ALL
               (SELECT run_at FROM jobs WHERE jobs.queue = queues.name AND state = 'queued' AND published_at IS NULL
                ORDER BY priority, run_at LIMIT 5000)) AS due ON true
           GROUP BY name"#
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
