//! The only file that names apalis: one apalis worker per queue brings job ids from Redis to the engine.
//!
//! apalis acknowledges a message as soon as the engine has taken the id. Whether the job is done is Postgres'
//! business, so a message that is lost, doubled or late does no harm.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use apalis::layers::WorkerBuilderExt;
use apalis::prelude::{BackendExt, BoxDynError, Data, PollSnapshot, PollStrategy, WorkerBuilder, WorkerError};
use apalis_redis::RedisStorage;
use futures::{FutureExt, StreamExt};
use roost_shared::jobs::{Queue, Transport, ids_of};
use roost_shared::redis::Redis;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;

use crate::engine::Engine;

/// How often a queue is looked at when no doorbell rings.
const SLOW_TICK: Duration = Duration::from_secs(1);
/// A ring during a fetch must not be missed: looks again so long after it.
const SECOND_LOOK: Duration = Duration::from_millis(3);

/// Messages whose ids wait here for a slot, so that there is always a batch to claim. The others stay in Redis, where
/// other workers find them.
const AHEAD: usize = 16;

/// Consumes `queue` until `stop`. When Redis fails, starts again as soon as it is back.
pub(crate) async fn consume(engine: Arc<Engine>, redis: Redis, queue: Queue, owner: String, stop: CancellationToken) {
    let bell = Arc::new(Notify::new());
    let listener = tokio::spawn(listen(redis.clone(), queue, Arc::clone(&bell), stop.clone()));
    let mut start = 0_u32;
    while !stop.is_cancelled() {
        // Names are never used twice: a dead worker's name would keep its heartbeat alive.
        let name = format!("{owner}-{start}");
        start = start.wrapping_add(1);
        match run(&engine, &redis, queue, &name, &bell, &stop).await {
            Ok(()) => break,
            Err(error) => {
                metrics::counter!("roost_consumer_restarts_total", "queue" => queue.name()).increment(1);
                tracing::warn!(queue = queue.name(), error, "consumer failed, starting again");
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_millis(500)) => {}
                    () = stop.cancelled() => {}
                }
            }
        }
    }
    listener.abort();
}

async fn run(
    engine: &Arc<Engine>,
    redis: &Redis,
    queue: Queue,
    name: &str,
    bell: &Arc<Notify>,
    stop: &CancellationToken,
) -> Result<(), String> {
    let connection = redis
        .separate_connection(Duration::from_secs(5))
        .map_err(|error| error.to_string())?;
    let storage: RedisStorage<String> = RedisStorage::new(connection).with_config(Transport::config(redis, queue));
    let worker = WorkerBuilder::new(name)
        .backend(storage.poll_with_strategy(Doorbell::new(Arc::clone(bell))))
        .data(Arc::clone(engine))
        .data(queue)
        .concurrency(AHEAD)
        .build(take);
    let stopped = stop.clone();
    let until = async move {
        stopped.cancelled().await;
        Ok::<(), WorkerError>(())
    };
    worker.run_until(until).await.map_err(|error| error.to_string())
}

/// What apalis calls a task is a few ids to us; it is done when the engine has them.
async fn take(message: String, engine: Data<Arc<Engine>>, queue: Data<Queue>) -> Result<(), BoxDynError> {
    let Some(ids) = ids_of(&message) else {
        metrics::counter!("roost_messages_malformed_total", "queue" => queue.name()).increment(1);
        tracing::warn!(queue = queue.name(), "a message in Redis is no job id, dropped");
        return Ok(());
    };
    for id in ids {
        engine.take(*queue, id).await;
    }
    Ok(())
}

/// Rings `bell` for each push that is announced.
async fn listen(redis: Redis, queue: Queue, bell: Arc<Notify>, stop: CancellationToken) {
    let channel = Transport::doorbell(&redis, queue);
    while !stop.is_cancelled() {
        if let Ok(mut subscriber) = redis.subscriber().await
            && subscriber.subscribe(&channel).await.is_ok()
        {
            // What was pushed before the subscription stood.
            bell.notify_one();
            let mut rings = subscriber.on_message();
            while rings.next().await.is_some() {
                bell.notify_one();
            }
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// When apalis looks for messages: at once when the bell rings, shortly after it once more, and on a slow tick.
struct Doorbell {
    bell: Arc<Notify>,
    rung: Pin<Box<OwnedNotified>>,
    next: Pin<Box<Sleep>>,
}

impl Doorbell {
    fn new(bell: Arc<Notify>) -> Self {
        let rung = Box::pin(Arc::clone(&bell).notified_owned());
        Self {
            bell,
            rung,
            next: Box::pin(tokio::time::sleep(SLOW_TICK)),
        }
    }
}

impl PollStrategy for Doorbell {
    // Leaves both wakers registered: apalis polls the backend whatever this returns.
    fn poll_drive(&mut self, cx: &mut TaskContext<'_>, _: &PollSnapshot) -> Poll<Option<()>> {
        let mut ready = false;
        while self.rung.poll_unpin(cx).is_ready() {
            self.rung = Box::pin(Arc::clone(&self.bell).notified_owned());
            self.next.as_mut().reset(Instant::now() + SECOND_LOOK);
            ready = true;
        }
        while self.next.poll_unpin(cx).is_ready() {
            self.next.as_mut().reset(Instant::now() + SLOW_TICK);
            ready = true;
        }
        if ready { Poll::Ready(Some(())) } else { Poll::Pending }
    }
}
