//! Jobs that were running when a worker died. Mostly somebody killed it, and they are innocent: they run again at once,
//! side by side. One that was there when a second worker died runs alone in its process: if that dies as well, it is found
//! out, and the jobs beside it are not blamed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use roost_shared::jobs::{self, ClaimedJob, Queue, Suspicion, limits};
use sqlx::Connection;
use tokio::sync::{RwLockWriteGuard, Semaphore};

use super::{Engine, Ticket, lock};
use crate::postgres::{self, STATEMENT_TIMEOUT};

/// So many that crashed once run at a time: what a dead worker held is soon done, and if one of them did it, no more
/// others than these are blamed with it.
const SIDE_BY_SIDE: usize = 32;
/// One that crashed twice begins alone in its process: after this long for the others to end …
const CLEARING: Duration = Duration::from_secs(1);
/// … and nothing else begins for so long.
const ALONE: Duration = Duration::from_secs(2);
/// Of a queue whose limits had no room for it, the next try is after so long: each holds up the others here.
const TRIED_AGAIN_AFTER: Duration = Duration::from_secs(10);
const CLEARED_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// While it is held nothing begins here.
type Alone<'a> = RwLockWriteGuard<'a, ()>;

pub(super) async fn run(engine: Arc<Engine>) {
    let places = Arc::new(Semaphore::new(SIDE_BY_SIDE));
    let mut alone_from = Instant::now();
    loop {
        tokio::select! {
            () = engine.suspected.notified() => {}
            () = engine.draining.cancelled() => return,
        }
        while !engine.draining.is_cancelled() {
            match engine.run_suspects(&places, &mut alone_from).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    tracing::warn!(%error, "could not look for jobs of dead workers");
                    break;
                }
            }
        }
    }
}

impl Engine {
    /// Begins what may run side by side, and if nothing does, runs one that has to be alone. Whether there was any.
    async fn run_suspects(
        self: &Arc<Self>,
        places: &Arc<Semaphore>,
        alone_from: &mut Instant,
    ) -> Result<bool, sqlx::Error> {
        let waiting = self.waiting_suspects().await?;
        let (slight, grave): (Vec<_>, Vec<_>) = waiting
            .into_iter()
            .partition(|(_, suspicion)| *suspicion == Suspicion::Slight);
        if self.begin_side_by_side(slight, places).await? {
            return Ok(true);
        }
        // If one of those that run side by side ended this process, that one would be blamed.
        let may_be_alone = places.available_permits() == SIDE_BY_SIDE && *alone_from <= Instant::now();
        if !may_be_alone || grave.is_empty() {
            return Ok(false);
        }
        let ran = self.run_alone(grave).await?;
        if !ran {
            *alone_from = Instant::now() + TRIED_AGAIN_AFTER;
        }
        Ok(ran)
    }

    /// The queues that have suspects which this worker knows and has a slot for.
    async fn waiting_suspects(&self) -> Result<Vec<(Queue, Suspicion)>, sqlx::Error> {
        let open = self
            .slots
            .iter()
            .filter(|(queue, slots)| !self.is_paused(**queue) && slots.available_permits() > 0);
        let names: Vec<String> = open.map(|(queue, _)| queue.name().to_owned()).collect();
        let mut connection = postgres::connection(self.pool()).await?;
        let looking = jobs::waiting_suspects(&mut *connection, &names, &self.claimant);
        let answer = tokio::time::timeout(STATEMENT_TIMEOUT, looking).await;
        let found = postgres::answer(connection, answer)?;
        let known = |(name, suspicion): (String, Suspicion)| Some((Queue::by_name(&name)?, suspicion));
        Ok(found.into_iter().filter_map(known).collect())
    }

    async fn begin_side_by_side(
        self: &Arc<Self>,
        queues: Vec<(Queue, Suspicion)>,
        places: &Arc<Semaphore>,
    ) -> Result<bool, sqlx::Error> {
        let mut begun = false;
        for (queue, suspicion) in queues {
            let mut tickets = self.tickets(queue, places.available_permits());
            if tickets.is_empty() || self.draining.is_cancelled() {
                continue;
            }
            for job in self.claim_suspects(queue, suspicion, tickets.len()).await? {
                begun = true;
                let (slot, place) = tickets.pop().unzip();
                let among_suspects = Arc::clone(places).try_acquire_owned().ok();
                let ticket = Ticket {
                    id: job.id,
                    queue,
                    slot,
                    place,
                };
                let run = self.spawn(job, ticket);
                let engine = Arc::clone(self);
                self.tasks.spawn(async move {
                    // A panic of the task itself is told by the runtime.
                    let _ = run.await;
                    drop(among_suspects);
                    engine.look_for_suspects();
                });
            }
        }
        Ok(begun)
    }

    async fn run_alone(self: &Arc<Self>, queues: Vec<(Queue, Suspicion)>) -> Result<bool, sqlx::Error> {
        // First, so that its claim is made when it can begin: a worker that dies before that is not its fault, and no lock is
        // held meanwhile.
        let alone = self.clear().await;
        for (queue, suspicion) in queues {
            let Some(job) = self.claim_suspects(queue, suspicion, 1).await?.pop() else {
                continue;
            };
            // Claimed already: it runs at once, beyond the bound if somebody took the last slot just now.
            let (slot, place) = self.tickets(queue, 1).pop().unzip();
            let ticket = Ticket {
                id: job.id,
                queue,
                slot,
                place,
            };
            let mut run = self.spawn(job, ticket);
            let _ = tokio::time::timeout(ALONE, &mut run).await;
            drop(alone);
            if !run.is_finished() {
                let _ = run.await;
            }
            return Ok(true);
        }
        Ok(false)
    }

    /// Claims suspects of a queue: one at a time if it has a limit, at most `most` otherwise.
    async fn claim_suspects(
        &self,
        queue: Queue,
        suspicion: Suspicion,
        most: usize,
    ) -> Result<Vec<ClaimedJob>, sqlx::Error> {
        let mut connection = postgres::connection(self.pool()).await?;
        let claiming = async {
            let mut tx = connection.begin().await?;
            let claimed = if self.limited.contains(queue) {
                let claimant = self.claimant_of(queue);
                let claimed = limits::claim_suspect_within(&mut tx, queue, &claimant, suspicion).await?;
                claimed.into_iter().collect()
            } else {
                jobs::claim_suspects(&mut *tx, &[queue.name().to_owned()], &self.claimant, suspicion, most).await?
            };
            tx.commit().await?;
            Ok::<_, sqlx::Error>(claimed)
        };
        let answer = tokio::time::timeout(STATEMENT_TIMEOUT, claiming).await;
        postgres::answer(connection, answer)
    }

    /// Lets what runs here end, and nothing else begin.
    async fn clear(&self) -> Alone<'_> {
        let gate = self.gate.write().await;
        let cleared = async {
            while !lock(&self.running).is_empty() {
                tokio::time::sleep(CLEARED_AGAIN_AFTER).await;
            }
        };
        // Long jobs beside it are not waited for: they lose an attempt's work at worst.
        let _ = tokio::time::timeout(CLEARING, cleared).await;
        gate
    }
}
