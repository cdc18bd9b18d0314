//! Runs jobs: claims ids that arrive, runs each in a task of its own, settles them in batches.
//!
//! Nothing that happens to Redis or apalis reaches a job that runs. What ends one early is its time-out, the loss
//! of its lease, an operator's wish, or the end of the grace on a stop.

mod arriving;
mod claims;
mod leases;
mod limited;
mod settlements;
mod shares;
mod suspects;
mod taken;
mod warm_up;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::RangeInclusive;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt;
use metrics::{SharedString, counter, histogram};
use roost_shared::jobs::crash_point::{self, Boundary};
use roost_shared::jobs::state::Ending;
use roost_shared::jobs::{Claimant, ClaimedJob, LEASE, Lease, Outcome, Queue, Settlement, relay};
use roost_shared::telemetry::TraceContext;
use sqlx::PgPool;
use tokio::sync::{Notify, OwnedSemaphorePermit, RwLock, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;
use uuid::Uuid;

use crate::context::Context;
use crate::handler::{Done, Registry};
use crate::postgres::{self, STATEMENT_TIMEOUT};
pub(crate) use arriving::Arriving;
use taken::Taken;

const CLAIM_BATCH: usize = 256;
/// Jobs between their claim and their settlement, all queues together. Beyond it Postgres is too slow for what runs here.
const IN_HAND: usize = 1_024;
/// Of the time that a stop may take, what is kept for settling and handing back after the grace.
const LAST_STATEMENTS: Duration = Duration::from_secs(3);

/// An id that came through Redis, and the right to run it here.
pub(crate) struct Ticket {
    id: Uuid,
    queue: Queue,
    slot: Option<OwnedSemaphorePermit>,
    place: Option<OwnedSemaphorePermit>,
}

struct Running {
    lease: Lease,
    queue: Queue,
    stop: CancellationToken,
    cancelled: CancellationToken,
}

struct Finished {
    settlement: Settlement,
    kind: &'static str,
    place: Option<OwnedSemaphorePermit>,
}

/// How an attempt left the engine.
enum End {
    /// To be settled.
    Settle(Finished),
    /// The handler settled it, or has no right to.
    Gone,
    /// Stopped from outside: still this engine's to give back, unless the lease is lost.
    Stopped,
}

/// One process's engine.
pub(crate) struct Engine {
    ctx: Arc<Context>,
    registry: Registry,
    /// Apart from the handlers' connections: a lease must not wait for a slow query of somebody else.
    pool: PgPool,
    claimant: Claimant,
    /// A job has a slot of its queue until its handler ends,
    slots: HashMap<Queue, Arc<Semaphore>>,
    /// and a place until it is settled, so that the next one need not wait for that.
    places: Arc<Semaphore>,
    intake: mpsc::Sender<Ticket>,
    finished: mpsc::UnboundedSender<Finished>,
    /// By job and fence, until settled: a claim that was lost can run on for a moment beside its successor.
    running: Mutex<BTreeMap<(Uuid, i64), Running>>,
    paused: Mutex<HashSet<Queue>>,
    limited: limited::Limited,
    held_back: shares::AllHeldBack,
    /// Slots of each queue.
    concurrency: usize,
    tasks: TaskTracker,
    /// Read by whoever claims; written by a suspect that begins alone.
    gate: RwLock<()>,
    suspected: Notify,
    /// There is a lease to renew or to give back.
    held: Notify,
    /// No new jobs from here on.
    draining: CancellationToken,
    /// Nothing more to settle from here on.
    settled: CancellationToken,
    /// Ids that arrived and cannot be run here.
    refused: Mutex<Vec<Uuid>>,
    /// Claims whose attempt was stopped by this engine.
    stopped: Mutex<Vec<Lease>>,
    /// When Postgres was last found not to answer.
    outage: Mutex<Option<Instant>>,
}

/// The engine's loops, to be waited for when it stops.
pub(crate) struct Loops {
    claimer: JoinHandle<()>,
    limited: JoinHandle<()>,
    settler: JoinHandle<()>,
    renewer: JoinHandle<()>,
    suspects: JoinHandle<()>,
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
            claimant: Claimant {
                owner,
                kinds: registry.kinds(),
            },
            registry,
            pool: roost_shared::db::engine_pool(ctx.db.pool(), postgres::CONNECTIONS),
            slots: queues
                .iter()
                .map(|queue| (*queue, Arc::new(Semaphore::new(concurrency))))
                .collect(),
            places: Arc::new(Semaphore::new(IN_HAND)),
            intake,
            finished,
            running: Mutex::default(),
            paused: Mutex::default(),
            limited: limited::Limited::default(),
            held_back: Mutex::default(),
            concurrency,
            tasks: TaskTracker::new(),
            gate: RwLock::default(),
            suspected: Notify::new(),
            held: Notify::new(),
            draining: CancellationToken::new(),
            settled: CancellationToken::new(),
            refused: Mutex::default(),
            stopped: Mutex::default(),
            outage: Mutex::default(),
            ctx,
        });
        let loops = Loops {
            claimer: tokio::spawn(claims::run(Arc::clone(&engine), tickets)),
            limited: tokio::spawn(limited::run(Arc::clone(&engine))),
            settler: tokio::spawn(settlements::run(Arc::clone(&engine), ended)),
            renewer: tokio::spawn(leases::run(Arc::clone(&engine))),
            suspects: tokio::spawn(suspects::run(Arc::clone(&engine))),
        };
        (engine, loops)
    }

    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    pub fn owner(&self) -> &str {
        &self.claimant.owner
    }

    pub fn kinds(&self) -> &[String] {
        &self.claimant.kinds
    }

    pub fn kinds_of(&self, queue: Queue) -> Vec<String> {
        self.registry.kinds_of(queue)
    }

    /// Jobs that could begin at once, by queue.
    pub fn room(&self) -> Vec<(Queue, usize)> {
        self.slots
            .iter()
            .filter(|(queue, _)| !self.is_paused(**queue) && !self.limited.contains(**queue))
            .map(|(queue, slots)| (*queue, slots.available_permits()))
            .collect()
    }

    pub fn running_count(&self) -> usize {
        lock(&self.running).len()
    }

    fn runs(&self, id: Uuid) -> bool {
        lock(&self.running).range(claims_of(id)).next().is_some()
    }

    fn forget(&self, lease: &Lease) {
        let ended = lock(&self.running).remove(&(lease.job_id, lease.fence));
        if ended.is_some_and(|job| self.limited.contains(job.queue)) {
            self.limited.ring();
        }
    }

    /// Postgres did not answer just now.
    pub fn note_outage(&self) {
        *lock(&self.outage) = Some(Instant::now());
    }

    /// Whether all workers had the time to renew since Postgres was last away.
    pub fn all_could_renew(&self) -> bool {
        lock(&self.outage).is_none_or(|at| at.elapsed() > LEASE)
    }

    pub fn look_for_suspects(&self) {
        self.suspected.notify_one();
    }

    /// Takes an id in as soon as a slot of its queue is free.
    pub async fn take(&self, queue: Queue, id: Uuid) {
        let Some(slots) = self.slots.get(&queue) else { return };
        if self.limited.contains(queue) {
            self.refuse([id]);
            self.limited.ring();
            return;
        }
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
                let ticket = Ticket {
                    id,
                    queue,
                    slot: Some(slot),
                    place: Some(place),
                };
                self.intake.send(ticket).await.is_ok()
            }
            None => false,
        };
        if !sent {
            self.refuse([id]);
        }
    }

    /// Notes ids that cannot be run here, for [`Self::give_back`]. Also those whose claim is lost: should a crash of Postgres
    /// have forgotten it, the job is queued again, counts as published, and has no message any more.
    pub fn refuse(&self, ids: impl IntoIterator<Item = Uuid>) {
        lock(&self.refused).extend(ids);
    }

    /// Lets other workers have at once what cannot be run here.
    pub async fn give_back(&self) {
        let refused = Taken::all(&self.refused);
        if refused.items.is_empty() {
            return;
        }
        let given = async {
            let mut connection = postgres::connection(&self.pool).await?;
            let answer =
                tokio::time::timeout(STATEMENT_TIMEOUT, relay::unpublish(&mut *connection, &refused.items)).await;
            postgres::answer::<_, sqlx::Error>(connection, answer)
        };
        match given.await {
            Ok(()) => refused.done(),
            Err(error) => {
                tracing::warn!(%error, jobs = refused.items.len(), "could not put unclaimed jobs back yet");
            }
        }
    }

    pub fn set_paused(&self, paused: HashSet<Queue>) {
        *lock(&self.paused) = paused;
    }

    pub fn set_limited(&self, limited: HashSet<Queue>) {
        self.limited.set(limited);
    }

    pub fn is_paused(&self, queue: Queue) -> bool {
        lock(&self.paused).contains(&queue)
    }

    /// Stops: nothing new, `grace` for what runs, the rest is handed back without costing it an attempt. Takes a few
    /// seconds more than the grace at most, whatever Postgres does.
    pub async fn stop(&self, loops: Loops, grace: Duration) {
        let grace_ends = tokio::time::Instant::now() + grace;
        let end = grace_ends + LAST_STATEMENTS;
        self.draining.cancel();
        if tokio::time::timeout_at(grace_ends, loops.claimer).await.is_err() {
            tracing::warn!("claims under way were left, their leases will expire");
        }
        if tokio::time::timeout_at(grace_ends, loops.limited).await.is_err() {
            tracing::warn!("a claim within limits was left, its leases will expire");
        }
        // It may just be claiming: what it begins is waited for as well.
        let mut suspects = loops.suspects;
        let all_begun = tokio::time::timeout_at(grace_ends, &mut suspects).await.is_ok();
        self.tasks.close();
        if tokio::time::timeout_at(grace_ends, self.tasks.wait()).await.is_err() {
            lock(&self.running).values().for_each(|job| job.stop.cancel());
            // They end at once, unless a handler blocks its thread.
            let _ = tokio::time::timeout_at(end, self.tasks.wait()).await;
        }
        if !all_begun && tokio::time::timeout_at(end, suspects).await.is_err() {
            tracing::warn!("the last suspect was left, its lease will expire");
        }
        self.settled.cancel();
        if tokio::time::timeout_at(end, loops.settler).await.is_err() {
            tracing::warn!("finished jobs could not be settled, they will run again");
        }
        loops.renewer.abort();
        // What it was just handing back is there again once it has ended.
        let _ = loops.renewer.await;
        let back = async {
            self.hand_back_stopped().await;
            self.give_back().await;
        };
        let _ = tokio::time::timeout_at(end, back).await;
    }

    fn spawn(self: &Arc<Self>, job: ClaimedJob, ticket: Ticket) -> JoinHandle<()> {
        let lease = Lease {
            job_id: job.id,
            fence: job.fence,
            attempt: job.attempt,
            max_attempts: job.max_attempts,
        };
        let (stop, cancelled) = (CancellationToken::new(), CancellationToken::new());
        {
            let mut running = lock(&self.running);
            // An earlier claim of the same job has lost its lease, or it could not have been claimed again.
            running
                .range(claims_of(job.id))
                .for_each(|(_, earlier)| earlier.stop.cancel());
            running.insert(
                (job.id, job.fence),
                Running {
                    lease,
                    queue: ticket.queue,
                    stop: stop.clone(),
                    cancelled: cancelled.clone(),
                },
            );
        }
        self.held.notify_one();
        histogram!("roost_job_wait_seconds", "queue" => job.queue.clone()).record(job.waited.max(0.0));
        let engine = Arc::clone(self);
        let context = TraceContext::from_header(job.trace_context.as_deref()).of_job(job.id);
        let span = tracing::info_span!("job", id = %job.id, kind = job.kind, attempt = job.attempt, trace_id = context.trace_id());
        self.tasks.spawn(
            async move {
                match engine.attempt(job, lease, context, &stop, &cancelled, ticket).await {
                    // Its lease is renewed until it is settled.
                    End::Settle(finished) => {
                        let _ = engine.finished.send(finished);
                    }
                    End::Gone => engine.forget(&lease),
                    End::Stopped => {
                        engine.forget(&lease);
                        lock(&engine.stopped).push(lease);
                        engine.held.notify_one();
                    }
                }
            }
            .instrument(span),
        )
    }

    /// Runs one attempt to its end.
    async fn attempt(
        &self,
        job: ClaimedJob,
        lease: Lease,
        context: TraceContext,
        stop: &CancellationToken,
        cancelled: &CancellationToken,
        ticket: Ticket,
    ) -> End {
        let Ticket { slot, place, .. } = ticket;
        let Some((kind, entry)) = self.registry.entry(&job.kind) else {
            return End::Stopped;
        };
        crash_point::begin(lease.job_id, kind);
        let started = Instant::now();
        let run = AssertUnwindSafe(context.scope(entry.start(job.args, Arc::clone(&self.ctx), lease))).catch_unwind();
        let outcome = tokio::select! {
            biased;
            () = stop.cancelled() => {
                tracing::warn!("stopped: the lease is lost or the grace is over");
                return End::Stopped;
            }
            () = cancelled.cancelled() => Some(Outcome::Cancelled),
            result = tokio::time::timeout(entry.timeout, run) => match result {
                Ok(Ok(Ok(Done::Settled))) => {
                    crash_point::reach(lease.job_id, Boundary::BeforeAck);
                    count_attempt(kind, Ending::Succeeded.name());
                    None
                }
                Ok(Ok(Ok(Done::With(effects)))) => Some(Outcome::Done(effects)),
                Ok(Ok(Err(error))) => {
                    let outcome = error.into_outcome();
                    if outcome.is_none() {
                        self.refuse([lease.job_id]);
                    }
                    outcome
                }
                Ok(Err(_panic)) => Some(Outcome::Retry("the handler panicked".to_owned())),
                Err(_) => Some(Outcome::Retry(format!("no end after {:?}", entry.timeout))),
            },
        };
        drop(slot);
        let seconds = started.elapsed().as_secs_f64();
        histogram!("roost_job_duration_seconds", "kind" => kind).record(seconds);
        match &outcome {
            Some(Outcome::Fail(error)) => tracing::error!(seconds, error, "job failed"),
            Some(Outcome::Retry(error) | Outcome::Interrupted(error)) => {
                tracing::warn!(seconds, error, "attempt failed");
            }
            Some(outcome) => tracing::info!(seconds, outcome = outcome.ending().name(), "attempt ended"),
            None => tracing::info!(seconds, "attempt ended"),
        }
        outcome.map_or(End::Gone, |outcome| {
            End::Settle(Finished {
                settlement: Settlement { lease, outcome },
                kind,
                place,
            })
        })
    }
}

/// Counts an attempt when its end is in Postgres, so that none counts that was too late.
pub(crate) fn count_attempt(kind: impl Into<SharedString>, outcome: &'static str) {
    counter!("roost_job_attempts_total", "kind" => kind.into(), "outcome" => outcome).increment(1);
}

/// The keys that claims of a job have.
fn claims_of(id: Uuid) -> RangeInclusive<(Uuid, i64)> {
    (id, i64::MIN)..=(id, i64::MAX)
}

/// A panic while holding one of these locks leaves the maps whole: every change is a single call.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
