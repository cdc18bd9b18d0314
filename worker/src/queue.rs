//! The only file that names apalis: one apalis worker per queue brings job ids from Redis to the engine.
//!
//! apalis acknowledges a message as soon as the engine has taken the id. Whether the job is done is Postgres'
//! business, so a message that is lost, doubled or late does no harm.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use apalis::layers::WorkerBuilderExt;
use apalis::prelude::{BackendExt, BoxDynError, Data, PollSnapshot, PollStrategy, WorkerBuilder, WorkerError};
use apalis_core::backend::codec::Codec;
use apalis_redis::RedisStorage;
use futures::{FutureExt, StreamExt};
use roost_shared::jobs::presence::Standing;
use roost_shared::jobs::{JobRef, Queue, Transport, ids_of};
use roost_shared::redis::Redis;
use tokio::sync::futures::OwnedNotified;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;

use crate::engine::{Arriving, Engine};

/// How often a queue is looked at when no doorbell rings: should a ring be lost. Each look costs an idle worker more than
/// all it asks of Postgres.
const SLOW_TICK: Duration = Duration::from_secs(5);
/// A ring during a fetch must not be missed: looks again so long after it.
const SECOND_LOOK: Duration = Duration::from_millis(3);

/// Messages whose ids wait here for a slot, so that there is always a batch to claim. The others stay in Redis, where
/// other workers find them.
const AHEAD: usize = 16;

const RESTART_AFTER: Duration = Duration::from_millis(500);
const CLEAR_TIMEOUT: Duration = Duration::from_secs(2);
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(2);
const PING_AFTER: Duration = Duration::from_secs(15);

/// Consumes `queue` until `stop`, but not while it is paused or the worker quiet: what a consumer has fetched, others wait
/// for. When Redis fails, starts again as soon as it is back.
pub(crate) async fn consume(
    engine: Arc<Engine>,
    redis: Redis,
    queue: Queue,
    mut standing: watch::Receiver<Option<Standing>>,
    stop: CancellationToken,
) {
    let mut transport = match Transport::new(&redis) {
        Ok(transport) => transport,
        Err(error) => {
            tracing::error!(%error, queue = queue.name(), "the consumer cannot start");
            return;
        }
    };
    let bell = Arc::new(Notify::new());
    let listener = tokio::spawn(listen(redis.clone(), queue, Arc::clone(&bell), stop.clone()));
    let mut start = 0_u32;
    let mut ended = Vec::new();
    loop {
        // Nor before it is known which queues are paused.
        tokio::select! {
            open = standing.wait_for(|standing| is_open(standing.as_ref(), queue)) => if open.is_err() { break },
            () = stop.cancelled() => break,
        }
        // Names are never used twice: a dead consumer's name would keep its messages from being found.
        let name = format!("{}-{}-{start}", engine.owner(), queue.name());
        start = start.wrapping_add(1);
        // For what came while nobody looked.
        bell.notify_one();
        let run = tokio::select! {
            run = run(&engine, &redis, queue, &name, &bell, &stop) => run,
            _ = standing.wait_for(|standing| !is_open(standing.as_ref(), queue)) => Ok(()),
        };
        ended.push(name);
        if let Err(error) = run {
            metrics::counter!("roost_consumer_restarts_total", "queue" => queue.name()).increment(1);
            // The alarm is the relay's, which finds out whether it is Redis.
            tracing::info!(queue = queue.name(), error, "consumer failed, starting again");
            tokio::select! {
                () = tokio::time::sleep(RESTART_AFTER) => {}
                () = stop.cancelled() => {}
            }
        }
        clear(&engine, &mut transport, queue, &mut ended).await;
    }
    listener.abort();
}

/// Whether this worker may take jobs of the queue.
fn is_open(standing: Option<&Standing>, queue: Queue) -> bool {
    standing.is_some_and(|standing| {
        !standing.quiet && !standing.stop && standing.paused.iter().all(|name| name != queue.name())
    })
}

/// Takes back what consumers that have ended fetched and did not hand over, and removes what made them end.
async fn clear(engine: &Engine, transport: &mut Transport, queue: Queue, ended: &mut Vec<String>) {
    while let Some(name) = ended.last() {
        match tokio::time::timeout(CLEAR_TIMEOUT, transport.drain(queue, name)).await {
            Ok(Ok(ids)) => engine.refuse(ids),
            // Tried again after the next start; and should this process end, the leading worker does it.
            Ok(Err(_)) | Err(_) => return,
        }
        ended.pop();
    }
    if let Ok(Ok(removed @ 1..)) = tokio::time::timeout(CLEAR_TIMEOUT, transport.sweep(queue)).await {
        metrics::counter!("roost_messages_malformed_total", "queue" => queue.name()).increment(removed);
        tracing::warn!(queue = queue.name(), removed, "messages whose content is gone, dropped");
    }
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
    let storage: RedisStorage<Vec<u8>> = RedisStorage::new(connection).with_config(Transport::config(redis, queue));
    let worker = WorkerBuilder::new(name)
        .backend(
            storage
                .with_codec(Bytes)
                .poll_with_strategy(Doorbell::new(Arc::clone(bell))),
        )
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

/// Leaves a message as it is: one that does not decode would end the consumer.
struct Bytes;

impl Codec<Vec<u8>> for Bytes {
    type Error = Infallible;
    type Compact = Vec<u8>;

    fn encode(&self, message: &Vec<u8>) -> Result<Vec<u8>, Infallible> {
        Ok(message.clone())
    }

    fn decode(&self, message: &Vec<u8>) -> Result<Vec<u8>, Infallible> {
        Ok(message.clone())
    }
}

/// What apalis calls a task is a few ids to us; it is done when the engine has them.
async fn take(message: Vec<u8>, engine: Data<Arc<Engine>>, queue: Data<Queue>) -> Result<(), BoxDynError> {
    let Some(ids) = ids_of(&message) else {
        metrics::counter!("roost_messages_malformed_total", "queue" => queue.name()).increment(1);
        tracing::warn!(queue = queue.name(), "a message in Redis is no job id, dropped");
        return Ok(());
    };
    let jobs = ids.into_iter().map(|id| JobRef { id, queue: *queue }).collect();
    Arriving::new(&engine, jobs).arrive().await;
    Ok(())
}

/// Rings `bell` for each push that is announced.
async fn listen(redis: Redis, queue: Queue, bell: Arc<Notify>, stop: CancellationToken) {
    let channel = Transport::doorbell(&redis, queue);
    while !stop.is_cancelled() {
        let subscribed = tokio::time::timeout(SUBSCRIBE_TIMEOUT, async {
            let mut subscriber = redis.subscriber().await?;
            subscriber.subscribe(&channel).await?;
            Ok::<_, redis::RedisError>(subscriber)
        });
        if let Ok(Ok(subscriber)) = subscribed.await {
            // What was pushed before the subscription stood.
            bell.notify_one();
            let (mut sink, mut rings) = subscriber.split();
            loop {
                match tokio::time::timeout(PING_AFTER, rings.next()).await {
                    Ok(Some(_)) => bell.notify_one(),
                    Ok(None) => break,
                    // Silence may be a connection that is dead without saying so.
                    Err(_) => match tokio::time::timeout(SUBSCRIBE_TIMEOUT, sink.ping::<redis::Value>()).await {
                        Ok(Ok(_)) => {}
                        Ok(Err(_)) | Err(_) => break,
                    },
                }
            }
        }
        tokio::time::sleep(RESTART_AFTER).await;
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
