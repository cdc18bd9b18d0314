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
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;
use uuid::Uuid;

use crate::context::Context;
use crate::handler::{Done, Registry};

const CLAIM_BATCH: usize = 256;
const SETTLE_BATCH: usize = 256;
/// Batches under way at the same time, so that Postgres has work while a commit reaches its disk.
const BATCHES: usize = 2;
/// Jobs between their claim and their settlement, all queues together. Beyond it Postgres is too slow for what runs here.
const IN_HAND: usize = 1_024;
const RENEW_EVERY: Duration = Duration::from_secs(3);
/// A statement that takes longer than this is given up and tried again: the connection may be dead without saying so.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);
const RENEW_TIMEOUT: Duration = Duration::from_secs(2);
/// Without a renewal for this long somebody else may have the job by now.
const LEASE_AT_RISK: Duration = Duration::from_secs(8);

/// An id that came through Redis, and the right to run it here.
pub(crate) struct Ticket {
    id: Uuid,
    queue: Queue,
    slot: OwnedSemaphorePermit,
    place: OwnedSemaphorePermit,
}

struct Running {
    lease: Lease,
    stop: CancellationToken,
    cancelled: CancellationToken,
}

struct Finished {
    settlement: Settlement,
    kind: &'static str,
    place: OwnedSemaphorePermit,
}

/// One process's engine.
pub(crate) struct Engine {
    ctx: Arc<Context>,
    registry: Registry,
    owner: String,
    /// A job has a slot of its queue until its handler ends,
    slots: HashMap<Queue, Arc<Semaphore>>,
    /// and a place until it is settled, so that the next one need not wait for that.
    places: Arc<Semaphore>,
    intake: mpsc::Sender<Ticket>,
    finished: mpsc::UnboundedSender<Finished>,
    running: Mutex<HashMap<Uuid, Running>>,
    paused: Mutex<HashSet<Queue>>,
    tasks: TaskTracker,
    /// No new jobs from here on.
    draining: CancellationToken,
    /// Nothing more to settle from here on.
    settled: CancellationToken,
    /// Ids that arrived too late to be run here.
    refused: Mutex<Vec<Uuid>>,
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
            places: Arc::new(Semaphore::new(IN_HAND)),
            intake,
            finished,
            running: Mutex::default(),
            paused: Mutex::default(),
            tasks: TaskTracker::new(),
            draining: CancellationToken::new(),
            settled: CancellationToken::new(),
            refused: Mutex::default(),
            ctx,
        });
        let loops = Loops {
            claimer: tokio::spawn(claim_loop(Arc::clone(&engine), tickets)),
            settler: tokio::spawn(settle_loop(engine.pool().clone(), ended, engine.settled.clone())),
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
        let permits = async {
            let slot = Arc::clone(slots).acquire_owned().await.ok()?;
            Some((slot, Arc::clone(&self.places).acquire_owned().await.ok()?))
        };
        let permits = tokio::select! {
            permits = permits => permits,
            () = self.draining.cancelled() => None,
        };
        let sent = match permits {
            Some((slot, place)) => {
                let ticket = Ticket { id, queue, slot, place };
                self.intake.send(ticket).await.is_ok()
            }
            None => false,
        };
        if !sent {
            lock(&self.refused).push(id);
        }
    }

    /// Lets other workers have at once what arrived too late to be run here.
    pub async fn give_back(&self) {
        let ids = std::mem::take(&mut *lock(&self.refused));
        if !ids.is_empty() {
            let done = tokio::time::timeout(RENEW_TIMEOUT, relay::unpublish(self.pool(), &ids)).await;
            if !matches!(done, Ok(Ok(()))) {
                tracing::warn!(
                    jobs = ids.len(),
                    "could not put unclaimed jobs back, the relay will find them"
                );
            }
        }
    }

    pub fn set_paused(&self, paused: HashSet<Queue>) {
        *lock(&self.paused) = paused;
    }

    pub fn is_paused(&self, queue: Queue) -> bool {
        lock(&self.paused).contains(&queue)
    }

    /// Stops: nothing new, `grace` for what runs, the rest is handed back without costing it an attempt.
    pub async fn stop(&self, loops: Loops, grace: Duration) {
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
            match tokio::time::timeout(STATEMENT_TIMEOUT, jobs::hand_back(self.pool(), &leases)).await {
                Ok(Ok(count)) => tracing::info!(count, "unfinished jobs handed back"),
                Ok(Err(error)) => tracing::warn!(%error, "could not hand jobs back, their leases will expire"),
                Err(_) => tracing::warn!("could not hand jobs back in time, their leases will expire"),
            }
        }
        loops.renewer.abort();
        self.settled.cancel();
        if tokio::time::timeout(STATEMENT_TIMEOUT, loops.settler).await.is_err() {
            tracing::warn!("finished jobs could not be settled, they will run again");
        }
        self.give_back().await;
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
        let kinds = self.registry.kinds();
        // Until Postgres answers: meanwhile the intake is full, and apalis leaves the messages in Redis.
        let claimed = loop {
            let claiming = jobs::claim(self.pool(), &ids, &kinds, &self.owner);
            let error = match tokio::time::timeout(STATEMENT_TIMEOUT, claiming).await {
                Ok(Ok(claimed)) => break claimed,
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no answer in {STATEMENT_TIMEOUT:?}"),
            };
            counter!("roost_claim_errors_total").increment(1);
            tracing::warn!(error, jobs = ids.len(), "claim failed, trying again");
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(300)) => {}
                () = self.draining.cancelled() => {
                    lock(&self.refused).extend(ids);
                    return;
                }
            }
        };
        let mut tickets: HashMap<Uuid, Ticket> = wanted.into_iter().map(|ticket| (ticket.id, ticket)).collect();
        let dropped = tickets.len().saturating_sub(claimed.len());
        counter!("roost_messages_dropped_total").increment(dropped as u64);
        for job in claimed {
            if let Some(ticket) = tickets.remove(&job.id) {
                self.spawn(job, ticket);
            }
        }
    }

    fn spawn(self: &Arc<Self>, job: ClaimedJob, ticket: Ticket) {
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
                if let Some(finished) = engine.attempt(job, lease, context, &stop, &cancelled, ticket).await {
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
        ticket: Ticket,
    ) -> Option<Finished> {
        let Ticket { slot, place, .. } = ticket;
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
        drop(slot);
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
            place,
        })
    }
}

async fn claim_loop(engine: Arc<Engine>, mut tickets: mpsc::Receiver<Ticket>) {
    let mut batch = Vec::with_capacity(CLAIM_BATCH);
    let mut claims = JoinSet::new();
    loop {
        let received = tokio::select! {
            received = tickets.recv_many(&mut batch, CLAIM_BATCH) => received,
            () = engine.draining.cancelled() => 0,
        };
        if received == 0 {
            break;
        }
        let (engine, tickets) = (Arc::clone(&engine), std::mem::take(&mut batch));
        claims.spawn(async move { engine.claim(tickets).await });
        if claims.len() == BATCHES {
            claims.join_next().await;
        }
    }
    while claims.join_next().await.is_some() {}
    // Ids that were taken in and not claimed: let another worker have them.
    tickets.close();
    while let Ok(ticket) = tickets.try_recv() {
        lock(&engine.refused).push(ticket.id);
    }
}

async fn settle_loop(pool: PgPool, mut ended: mpsc::UnboundedReceiver<Finished>, settled: CancellationToken) {
    let mut batch = Vec::with_capacity(SETTLE_BATCH);
    let mut settling = JoinSet::new();
    loop {
        let received = tokio::select! {
            biased;
            received = ended.recv_many(&mut batch, SETTLE_BATCH) => received,
            () = settled.cancelled() => 0,
        };
        if received == 0 {
            break;
        }
        settling.spawn(settle_batch(pool.clone(), std::mem::take(&mut batch)));
        if settling.len() == BATCHES {
            settling.join_next().await;
        }
    }
    while settling.join_next().await.is_some() {}
}

async fn settle_batch(pool: PgPool, batch: Vec<Finished>) {
    let (settlements, places): (Vec<Settlement>, Vec<_>) = batch
        .into_iter()
        .map(|one| (one.settlement, (one.kind, one.place)))
        .unzip();
    let jobs: Vec<Uuid> = settlements.iter().map(|one| one.lease.job_id).collect();
    let done: HashSet<Uuid> = settle_surely(&pool, settlements).await.into_iter().collect();
    for (job_id, (kind, _)) in jobs.iter().zip(&places) {
        if !done.contains(job_id) {
            counter!("roost_stale_settlements_total", "kind" => *kind).increment(1);
            tracing::warn!(%job_id, kind, "too late: another worker has the job");
        }
    }
}

/// Settles, however long Postgres is away: the work is done and must not be forgotten while this process lives. A
/// settlement that Postgres cannot store ends its own job, not the settling of the others.
async fn settle_surely(pool: &PgPool, settlements: Vec<Settlement>) -> Vec<Uuid> {
    match settle_or_refuse(pool, &settlements).await {
        Ok(settled) => settled,
        Err(_) if settlements.len() > 1 => {
            let mut settled = Vec::with_capacity(settlements.len());
            for one in settlements {
                settled.extend(Box::pin(settle_surely(pool, vec![one])).await);
            }
            settled
        }
        Err(refusal) => {
            tracing::error!(error = %refusal, "a job's end could not be stored");
            let failed: Vec<Settlement> = settlements
                .into_iter()
                .map(|one| Settlement {
                    lease: one.lease,
                    outcome: Outcome::Fail("its outcome could not be stored".to_owned()),
                })
                .collect();
            settle_or_refuse(pool, &failed).await.unwrap_or_default()
        }
    }
}

/// Tries until Postgres has answered; an answer about the data itself is returned.
async fn settle_or_refuse(pool: &PgPool, settlements: &[Settlement]) -> Result<Vec<Uuid>, sqlx::Error> {
    let mut wait = Duration::from_millis(50);
    loop {
        let attempt = async {
            let mut connection = pool.acquire().await?;
            jobs::settle(&mut connection, settlements).await
        };
        let error = match tokio::time::timeout(STATEMENT_TIMEOUT, attempt).await {
            Ok(Ok(settled)) => return Ok(settled),
            Ok(Err(error)) if is_about_the_data(&error) => return Err(error),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer in {STATEMENT_TIMEOUT:?}"),
        };
        counter!("roost_settle_errors_total").increment(1);
        tracing::warn!(error, jobs = settlements.len(), "settling failed, trying again");
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(Duration::from_secs(2));
    }
}

/// Cardinality, data and constraint violations: they come again however often one tries.
fn is_about_the_data(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(database) => database
            .code()
            .is_some_and(|code| ["21", "22", "23"].iter().any(|class| code.starts_with(class))),
        sqlx::Error::Encode(_) => true,
        _ => false,
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
        let begun = Instant::now();
        let error = match tokio::time::timeout(RENEW_TIMEOUT, jobs::renew(engine.pool(), &leases)).await {
            Ok(Ok(renewed)) => {
                renewed_at = begun;
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
                continue;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer in {RENEW_TIMEOUT:?}"),
        };
        tracing::warn!(error, "leases not renewed");
        if renewed_at.elapsed() > LEASE_AT_RISK {
            lock(&engine.running).values().for_each(|job| job.stop.cancel());
        }
    }
}

/// A panic while holding one of these locks leaves the maps whole: every change is a single call.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
