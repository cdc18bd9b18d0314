//! Runs jobs: claims ids that arrive, runs each in a task of its own, settles them in batches.
//!
//! Nothing that happens to Redis or apalis reaches a job that runs. What ends one early is its time-out, the loss
//! of its lease, an operator's wish, or the end of the grace on a stop.

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt;
use metrics::{counter, gauge, histogram};
use roost_shared::jobs::{self, ClaimedJob, Lease, Outcome, Queue, Settlement, relay};
use roost_shared::telemetry::TraceContext;
use sqlx::PgPool;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;
use uuid::Uuid;

use crate::context::Context;
use crate::handler::{Done, Registry};

const CLAIM_BATCH: usize = 64;
const SETTLE_BATCH: usize = 128;
const RENEW_EVERY: Duration = Duration::from_secs(3);
/// Without a renewal for this long somebody else may have the job by now.
const LEASE_AT_RISK: Duration = Duration::from_secs(8);

/// An id that came through Redis, and the right to run it here.
pub(crate) struct Ticket {
    id: Uuid,
    queue: Queue,
    slot: OwnedSemaphorePermit,
}

struct Running {
    lease: Lease,
    stop: CancellationToken,
    cancelled: CancellationToken,
}

struct Finished {
    settlement: Settlement,
    kind: &'static str,
    _slot: OwnedSemaphorePermit,
}

/// One process's engine.
pub(crate) struct Engine {
    ctx: Arc<Context>,
    registry: Registry,
    owner: String,
    slots: HashMap<Queue, Arc<Semaphore>>,
    intake: mpsc::Sender<Ticket>,
    finished: mpsc::UnboundedSender<Finished>,
    running: Mutex<HashMap<Uuid, Running>>,
    paused: Mutex<HashSet<Queue>>,
    tasks: TaskTracker,
    /// No new jobs from here on.
    draining: CancellationToken,
}

/// The engine's loops, to be waited for when it stops.
pub(crate) struct Loops {
    claimer: tokio::task::JoinHandle<()>,
    settler: tokio::task::JoinHandle<()>,
    renewer: tokio::task::JoinHandle<()>,
}

impl Engine {
    pub fn start(
        ctx: Arc<Context>,
        registry: Registry,
        queues: &[Queue],
        concurrency: usize,
        owner: String,
    ) -> (Arc<Self>, Loops) {
        let (intake, tickets) = mpsc::channel(CLAIM_BATCH);
        let (finished, ended) = mpsc::unbounded_channel();
        let engine = Arc::new(Self {
            registry,
            owner,
            slots: queues
                .iter()
                .map(|queue| (*queue, Arc::new(Semaphore::new(concurrency))))
                .collect(),
            intake,
            finished,
            running: Mutex::default(),
            paused: Mutex::default(),
            tasks: TaskTracker::new(),
            draining: CancellationToken::new(),
            ctx,
        });
        let loops = Loops {
            claimer: tokio::spawn(claim_loop(Arc::clone(&engine), tickets)),
            settler: tokio::spawn(settle_loop(engine.pool().clone(), ended)),
            renewer: tokio::spawn(renew_loop(Arc::clone(&engine))),
        };
        (engine, loops)
    }

    pub fn pool(&self) -> &PgPool {
        self.ctx.db.pool()
    }

    /// Takes an id in as soon as a slot of its queue is free.
    pub async fn take(&self, queue: Queue, id: Uuid) {
        let Some(slots) = self.slots.get(&queue) else { return };
        let slot = tokio::select! {
            slot = Arc::clone(slots).acquire_owned() => slot,
            // Its message is gone, its row is not: the relay publishes it again for another worker.
            () = self.draining.cancelled() => return,
        };
        if let Ok(slot) = slot {
            // Fails only when the claimer has ended, on a stop.
            let _ = self.intake.send(Ticket { id, queue, slot }).await;
        }
    }

    pub fn set_paused(&self, paused: HashSet<Queue>) {
        *lock(&self.paused) = paused;
    }

    pub fn is_paused(&self, queue: Queue) -> bool {
        lock(&self.paused).contains(&queue)
    }

    /// Stops: nothing new, `grace` for what runs, the rest is handed back without costing it an attempt.
    pub async fn stop(self: Arc<Self>, loops: Loops, grace: Duration) {
        self.draining.cancel();
        let _ = loops.claimer.await;
        self.tasks.close();
        if tokio::time::timeout(grace, self.tasks.wait()).await.is_err() {
            let leases: Vec<Lease> = {
                let running = lock(&self.running);
                running.values().for_each(|job| job.stop.cancel());
                running.values().map(|job| job.lease).collect()
            };
            self.tasks.wait().await;
            match jobs::hand_back(self.pool(), &leases).await {
                Ok(count) => tracing::info!(count, "unfinished jobs handed back"),
                Err(error) => tracing::warn!(%error, "could not hand jobs back, their leases will expire"),
            }
        }
        loops.renewer.abort();
        // The settler ends when the last sender is gone; it has written everything by then.
        drop(self);
        let _ = loops.settler.await;
    }

    async fn claim(self: &Arc<Self>, tickets: Vec<Ticket>) {
        let (held, wanted): (Vec<Ticket>, Vec<Ticket>) =
            tickets.into_iter().partition(|ticket| self.is_paused(ticket.queue));
        if !held.is_empty() {
            let ids: Vec<Uuid> = held.iter().map(|ticket| ticket.id).collect();
            if let Err(error) = relay::unpublish(self.pool(), &ids).await {
                tracing::warn!(%error, "could not put jobs of a paused queue back");
            }
        }
        let ids: Vec<Uuid> = wanted.iter().map(|ticket| ticket.id).collect();
        if ids.is_empty() {
            return;
        }
        let claimed = match jobs::claim(self.pool(), &ids, &self.registry.kinds(), &self.owner).await {
            Ok(claimed) => claimed,
            Err(error) => {
                counter!("roost_claim_errors_total").increment(1);
                tracing::warn!(%error, jobs = ids.len(), "claim failed, the relay will publish the jobs again");
                tokio::time::sleep(Duration::from_millis(200)).await;
                return;
            }
        };
        let mut slots: HashMap<Uuid, OwnedSemaphorePermit> =
            wanted.into_iter().map(|ticket| (ticket.id, ticket.slot)).collect();
        let dropped = slots.len().saturating_sub(claimed.len());
        counter!("roost_messages_dropped_total").increment(dropped as u64);
        for job in claimed {
            if let Some(slot) = slots.remove(&job.id) {
                self.spawn(job, slot);
            }
        }
    }

    fn spawn(self: &Arc<Self>, job: ClaimedJob, slot: OwnedSemaphorePermit) {
        let lease = Lease {
            job_id: job.id,
            fence: job.fence,
            attempt: job.attempt,
            max_attempts: job.max_attempts,
        };
        let (stop, cancelled) = (CancellationToken::new(), CancellationToken::new());
        lock(&self.running).insert(
            job.id,
            Running {
                lease,
                stop: stop.clone(),
                cancelled: cancelled.clone(),
            },
        );
        histogram!("roost_job_wait_seconds", "queue" => job.queue.clone()).record(job.waited.max(0.0));
        let engine = Arc::clone(self);
        let context = TraceContext::from_header(job.trace_context.as_deref());
        let span = tracing::info_span!("job", id = %job.id, kind = job.kind, attempt = job.attempt, trace_id = context.trace_id());
        self.tasks.spawn(
            async move {
                let job_id = job.id;
                if let Some(finished) = engine.attempt(job, lease, context, &stop, &cancelled, slot).await {
                    let _ = engine.finished.send(finished);
                }
                lock(&engine.running).remove(&job_id);
            }
            .instrument(span),
        );
    }

    /// Runs one attempt to its end. None: there is nothing to settle, or no right to.
    async fn attempt(
        &self,
        job: ClaimedJob,
        lease: Lease,
        context: TraceContext,
        stop: &CancellationToken,
        cancelled: &CancellationToken,
        slot: OwnedSemaphorePermit,
    ) -> Option<Finished> {
        let (kind, entry) = self.registry.entry(&job.kind)?;
        let _limit = match &entry.limit {
            Some(limit) => Arc::clone(limit).acquire_owned().await.ok(),
            None => None,
        };
        let started = Instant::now();
        let run = AssertUnwindSafe(context.scope(entry.start(job.args, Arc::clone(&self.ctx), lease))).catch_unwind();
        let outcome = tokio::select! {
            biased;
            () = stop.cancelled() => {
                tracing::warn!("stopped: the lease is lost or the grace is over");
                return None;
            }
            () = cancelled.cancelled() => Some(Outcome::Cancelled),
            result = tokio::time::timeout(entry.timeout, run) => match result {
                Ok(Ok(Ok(Done::Settled))) => None,
                Ok(Ok(Ok(Done::With(effects)))) => Some(Outcome::Done(effects)),
                Ok(Ok(Err(error))) => error.into_outcome(),
                Ok(Err(_panic)) => Some(Outcome::Retry("the handler panicked".to_owned())),
                Err(_) => Some(Outcome::Retry(format!("no end after {:?}", entry.timeout))),
            },
        };
        let seconds = started.elapsed().as_secs_f64();
        histogram!("roost_job_duration_seconds", "kind" => kind).record(seconds);
        let name = match &outcome {
            None | Some(Outcome::Done(_)) => "succeeded",
            Some(Outcome::Retry(_)) => "retry",
            Some(Outcome::Snooze(_)) => "snoozed",
            Some(Outcome::Fail(_)) => "failed",
            Some(Outcome::Cancelled) => "cancelled",
        };
        counter!("roost_job_attempts_total", "kind" => kind, "outcome" => name).increment(1);
        match &outcome {
            Some(Outcome::Fail(error)) => tracing::error!(seconds, error, "job failed"),
            Some(Outcome::Retry(error)) => tracing::warn!(seconds, error, "attempt failed"),
            _ => tracing::info!(seconds, outcome = name, "attempt ended"),
        }
        outcome.map(|outcome| Finished {
            settlement: Settlement { lease, outcome },
            kind,
            _slot: slot,
        })
    }
}

async fn claim_loop(engine: Arc<Engine>, mut tickets: mpsc::Receiver<Ticket>) {
    let mut batch = Vec::with_capacity(CLAIM_BATCH);
    loop {
        let received = tokio::select! {
            received = tickets.recv_many(&mut batch, CLAIM_BATCH) => received,
            () = engine.draining.cancelled() => 0,
        };
        if received == 0 {
            break;
        }
        engine.claim(std::mem::take(&mut batch)).await;
    }
    // Ids that were taken in and not claimed: let another worker have them at once.
    tickets.close();
    let mut left = Vec::new();
    while let Ok(ticket) = tickets.try_recv() {
        left.push(ticket.id);
    }
    if !left.is_empty()
        && let Err(error) = relay::unpublish(engine.pool(), &left).await
    {
        tracing::warn!(%error, "could not put unclaimed jobs back, the relay will find them");
    }
}

async fn settle_loop(pool: PgPool, mut ended: mpsc::UnboundedReceiver<Finished>) {
    let mut batch = Vec::with_capacity(SETTLE_BATCH);
    while ended.recv_many(&mut batch, SETTLE_BATCH).await > 0 {
        let mut finished: Vec<Finished> = std::mem::take(&mut batch);
        let settlements: Vec<Settlement> = finished
            .iter_mut()
            .map(|one| Settlement {
                lease: one.settlement.lease,
                outcome: std::mem::replace(&mut one.settlement.outcome, Outcome::Cancelled),
            })
            .collect();
        let settled = settle_surely(&pool, &settlements).await;
        for one in &finished {
            if !settled.contains(&one.settlement.lease.job_id) {
                counter!("roost_stale_settlements_total", "kind" => one.kind).increment(1);
                tracing::warn!(job_id = %one.settlement.lease.job_id, kind = one.kind, "too late: another worker has the job");
            }
        }
    }
}

/// Settles, however long Postgres is away: the work is done and must not be forgotten while this process lives.
async fn settle_surely(pool: &PgPool, settlements: &[Settlement]) -> Vec<Uuid> {
    let mut wait = Duration::from_millis(50);
    loop {
        let result = match pool.acquire().await {
            Ok(mut connection) => jobs::settle(&mut connection, settlements).await,
            Err(error) => Err(error),
        };
        match result {
            Ok(settled) => return settled,
            Err(error) => {
                counter!("roost_settle_errors_total").increment(1);
                tracing::warn!(%error, jobs = settlements.len(), "settling failed, trying again");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(Duration::from_secs(2));
            }
        }
    }
}

async fn renew_loop(engine: Arc<Engine>) {
    let mut interval = tokio::time::interval(RENEW_EVERY);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut renewed_at = Instant::now();
    loop {
        interval.tick().await;
        let leases: Vec<Lease> = lock(&engine.running).values().map(|job| job.lease).collect();
        gauge!("roost_jobs_running").set(leases.len() as f64);
        if leases.is_empty() {
            renewed_at = Instant::now();
            continue;
        }
        match jobs::renew(engine.pool(), &leases).await {
            Ok(renewed) => {
                renewed_at = Instant::now();
                let running = lock(&engine.running);
                for lease in &leases {
                    let Some(job) = running.get(&lease.job_id).filter(|job| job.lease.fence == lease.fence) else {
                        continue;
                    };
                    match renewed.iter().find(|one| one.id == lease.job_id) {
                        None => job.stop.cancel(),
                        Some(one) if one.cancel_requested => job.cancelled.cancel(),
                        Some(_) => {}
                    }
                }
            }
            Err(error) => {
                tracing::warn!(%error, "leases not renewed");
                if renewed_at.elapsed() > LEASE_AT_RISK {
                    lock(&engine.running).values().for_each(|job| job.stop.cancel());
                }
            }
        }
    }
}

/// A panic while holding one of these locks leaves the maps whole: every change is a single call.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
