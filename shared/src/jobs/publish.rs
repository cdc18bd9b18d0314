//! What happens right after a commit: the due jobs' ids go to Redis, and waiters learn that a booking changed.
//!
//! A background task does it in batches, so a slow or dead Redis never delays a reply. What it cannot push it
//! marks as unpublished; the relay pushes that later. What is enqueued in the moment after that is written as unpublished
//! from the start, which saves a write per job just when there are too many.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::PgPool;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::Queue;
use super::transport::Transport;
use crate::redis::Redis;

const BATCH: usize = 2_000;
/// Notices that wait for the publishing task. More than a second's worth only while Redis does not answer.
const BACKLOG: usize = 200_000;
const PUSH_TIMEOUT: Duration = Duration::from_millis(500);
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
const UNMARK_TIMEOUT: Duration = Duration::from_secs(5);
/// After a failure Redis is left alone for so long: what comes meanwhile goes straight to the relay.
const FAILED_PAUSE: Duration = Duration::from_secs(1);
/// A queue that had no room is left alone for so long.
const FULL_PAUSE: Duration = Duration::from_millis(500);

/// A job that is due, and where it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobRef {
    /// The job.
    pub id: Uuid,
    /// Its queue.
    pub queue: Queue,
}

enum Notice {
    Job(JobRef),
    BookingChanged(Uuid),
    /// Answered when all before it is out.
    Flush(oneshot::Sender<()>),
}

/// Until when queues are left alone.
#[derive(Clone, Default)]
struct Pauses(Arc<Mutex<HashMap<Queue, Instant>>>);

impl Pauses {
    fn begin(&self, queues: &[Queue], pause: Duration) {
        let until = Instant::now() + pause;
        let mut pauses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pauses.extend(queues.iter().map(|queue| (*queue, until)));
    }

    fn hold(&self, queue: Queue) -> bool {
        let pauses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pauses.get(&queue).is_some_and(|until| Instant::now() < *until)
    }
}

/// The way to the publishing task.
#[derive(Clone)]
pub struct Publisher {
    notices: mpsc::Sender<Notice>,
    pauses: Pauses,
}

impl Publisher {
    /// Starts the publishing task. It ends when the last publisher is dropped.
    ///
    /// # Errors
    /// The Redis client's settings are refused.
    pub fn spawn(pool: PgPool, redis: &Redis) -> Result<Self, redis::RedisError> {
        let (notices, receiver) = mpsc::channel(BACKLOG);
        let transport = Transport::new(redis)?;
        let pauses = Pauses::default();
        tokio::spawn(run(pool, redis.clone(), transport, receiver, pauses.clone()));
        Ok(Self { notices, pauses })
    }

    /// Whether jobs of this queue go to Redis right after their commit, and not by way of the relay.
    #[must_use]
    pub fn takes(&self, queue: Queue) -> bool {
        !self.pauses.hold(queue)
    }

    /// The channel on which changed bookings are announced, by id.
    #[must_use]
    pub fn booking_channel(redis: &Redis) -> String {
        redis.key("bookings:changed")
    }

    /// Hands over without waiting. When the task is far behind, the notices are dropped: the relay finds the jobs,
    /// and who waits for a booking looks again by itself.
    pub fn publish(&self, jobs: Vec<JobRef>, changed_bookings: Vec<Uuid>) {
        for notice in jobs
            .into_iter()
            .map(Notice::Job)
            .chain(changed_bookings.into_iter().map(Notice::BookingChanged))
        {
            if self.notices.try_send(notice).is_err() {
                metrics::counter!("roost_publish_dropped_total").increment(1);
            }
        }
    }

    /// Waits until all that was handed over so far has been sent or given to the relay, for the end of a process.
    pub async fn flush(&self) {
        let (answer, done) = oneshot::channel();
        let flushed = async {
            if self.notices.send(Notice::Flush(answer)).await.is_ok() {
                // The task may end before it answers: there is nothing left to wait for.
                let _ = done.await;
            }
        };
        if tokio::time::timeout(FLUSH_TIMEOUT, flushed).await.is_err() {
            tracing::warn!("not all jobs were published before the end, the relay will");
        }
    }
}

async fn run(
    pool: PgPool,
    redis: Redis,
    mut transport: Transport,
    mut receiver: mpsc::Receiver<Notice>,
    pauses: Pauses,
) {
    let channel = Publisher::booking_channel(&redis);
    let mut connection = redis.connection();
    let mut notices = Vec::with_capacity(BATCH);
    while receiver.recv_many(&mut notices, BATCH).await > 0 {
        let mut due: HashMap<Queue, Vec<Uuid>> = HashMap::new();
        let mut bookings = redis::pipe();
        let mut any_booking = false;
        let mut flushed = Vec::new();
        for notice in notices.drain(..) {
            match notice {
                Notice::Job(job) => due.entry(job.queue).or_default().push(job.id),
                Notice::BookingChanged(id) => {
                    bookings.publish(&channel, id.to_string()).ignore();
                    any_booking = true;
                }
                Notice::Flush(answer) => flushed.push(answer),
            }
        }
        for (queue, ids) in due {
            if pauses.hold(queue) {
                unmark(&pool, queue, &ids, "redis did not take any a moment ago").await;
                continue;
            }
            match push(&mut transport, queue, &ids).await {
                Ok(count) if count == ids.len() => {}
                Ok(count) => {
                    pauses.begin(&[queue], FULL_PAUSE);
                    unmark(&pool, queue, &ids[count..], "the queue is full").await;
                }
                Err(error) => {
                    tracing::warn!(error, "redis does not take jobs, the relay will bring them");
                    pauses.begin(&Queue::ALL, FAILED_PAUSE);
                    unmark(&pool, queue, &ids, &error).await;
                }
            }
        }
        if any_booking {
            let sent: Result<Result<(), _>, _> =
                tokio::time::timeout(PUSH_TIMEOUT, bookings.query_async(&mut connection)).await;
            if !matches!(sent, Ok(Ok(()))) {
                metrics::counter!("roost_booking_notices_lost_total").increment(1);
            }
        }
        for answer in flushed {
            let _ = answer.send(());
        }
    }
}

async fn push(transport: &mut Transport, queue: Queue, ids: &[Uuid]) -> Result<usize, String> {
    match tokio::time::timeout(PUSH_TIMEOUT, transport.push(queue, ids)).await {
        Ok(pushed) => pushed.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer from redis in {PUSH_TIMEOUT:?}")),
    }
}

async fn unmark(pool: &PgPool, queue: Queue, ids: &[Uuid], error: &str) {
    metrics::counter!("roost_publish_failed_total", "queue" => queue.name()).increment(ids.len() as u64);
    tracing::debug!(
        queue = queue.name(),
        jobs = ids.len(),
        error,
        "jobs not published, the relay will"
    );
    let unmarked = tokio::time::timeout(UNMARK_TIMEOUT, super::relay::unpublish(pool, ids)).await;
    if let Some(error) = match unmarked {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("no answer from postgres in {UNMARK_TIMEOUT:?}")),
    } {
        // The relay still finds them, as published long ago and never claimed.
        tracing::warn!(error, "could not mark jobs as unpublished");
    }
}
