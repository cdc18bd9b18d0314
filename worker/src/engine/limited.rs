//! Queues with a limit: their due jobs are claimed from Postgres, as far as the limits go, and not by the ids that come
//! through Redis. While no limit is set, nothing here runs.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use metrics::counter;
use roost_shared::jobs::limits::{self, ClaimedWithin};
use roost_shared::jobs::{Claimant, Queue};
use sqlx::Connection;
use tokio::sync::{Notify, OwnedSemaphorePermit};

use super::{CLAIM_BATCH, Engine, Ticket, lock};
use crate::postgres::{self, STATEMENT_TIMEOUT};

/// What is due is looked for this often when nothing else says that there may be something: jobs that other workers end
/// make room as well.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Which queues have a limit, and the bell for whoever claims their jobs.
#[derive(Default)]
pub(super) struct Limited {
    any: AtomicBool,
    queues: Mutex<HashSet<Queue>>,
    bell: Notify,
}

impl Limited {
    pub fn set(&self, queues: HashSet<Queue>) {
        let any = !queues.is_empty();
        *lock(&self.queues) = queues;
        if self.any.swap(any, Ordering::AcqRel) != any {
            self.bell.notify_one();
        }
    }

    pub fn contains(&self, queue: Queue) -> bool {
        self.any.load(Ordering::Acquire) && lock(&self.queues).contains(&queue)
    }

    /// Something has become due, or has ended.
    pub fn ring(&self) {
        self.bell.notify_one();
    }
}

pub(super) async fn run(engine: Arc<Engine>) {
    while !engine.draining.is_cancelled() {
        let next = engine.claim_limited().await;
        let pause = async {
            match next {
                Some(next) => tokio::time::sleep(next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = pause => {}
            () = engine.limited.bell.notified() => {}
            () = engine.draining.cancelled() => {}
        }
    }
}

impl Engine {
    /// Claims what the limits leave room for. Returns when to look again; none: no queue has a limit.
    async fn claim_limited(self: &Arc<Self>) -> Option<Duration> {
        let queues: Vec<Queue> = lock(&self.limited.queues).iter().copied().collect();
        let mut next = (!queues.is_empty()).then_some(LOOK_EVERY);
        for queue in queues {
            if self.is_paused(queue) {
                continue;
            }
            match self.claim_queue(queue).await {
                Ok(Some(again)) => next = next.map(|next| next.min(again)),
                Ok(None) => {}
                Err(error) => {
                    counter!("roost_claim_errors_total").increment(1);
                    tracing::warn!(%error, queue = queue.name(), "claim within limits failed, trying again");
                }
            }
        }
        next
    }

    async fn claim_queue(self: &Arc<Self>, queue: Queue) -> Result<Option<Duration>, sqlx::Error> {
        // While a job that is suspected of ending its worker begins, nothing else does.
        let _gate = self.gate.read().await;
        let mut tickets = self.tickets(queue, CLAIM_BATCH);
        if tickets.is_empty() || self.draining.is_cancelled() {
            return Ok(None);
        }
        let claimant = self.claimant_of(queue);
        let most = tickets.len();
        let mut connection = postgres::connection(self.pool()).await?;
        let claiming = async {
            let mut tx = connection.begin().await?;
            let claimed = limits::claim_within(&mut tx, queue, &claimant, most).await?;
            tx.commit().await?;
            Ok::<ClaimedWithin, sqlx::Error>(claimed)
        };
        let answer = tokio::time::timeout(STATEMENT_TIMEOUT, claiming).await;
        let claimed = postgres::answer(connection, answer)?;
        for job in claimed.jobs {
            if let Some((slot, place)) = tickets.pop() {
                let ticket = Ticket {
                    id: job.id,
                    queue,
                    slot: Some(slot),
                    place: Some(place),
                };
                self.spawn(job, ticket);
            }
        }
        Ok(claimed.again_after)
    }

    /// The right to run as many jobs of a queue as it has slots free, but not more than `most`.
    pub(super) fn tickets(&self, queue: Queue, most: usize) -> Vec<(OwnedSemaphorePermit, OwnedSemaphorePermit)> {
        let Some(slots) = self.slots.get(&queue) else {
            return Vec::new();
        };
        std::iter::from_fn(|| {
            let slot = Arc::clone(slots).try_acquire_owned().ok()?;
            Some((slot, Arc::clone(&self.places).try_acquire_owned().ok()?))
        })
        .take(most)
        .collect()
    }

    /// The kinds of a queue, for this worker.
    pub(super) fn claimant_of(&self, queue: Queue) -> Claimant {
        Claimant {
            owner: self.claimant.owner.clone(),
            kinds: self.registry.kinds_of(queue),
        }
    }
}
