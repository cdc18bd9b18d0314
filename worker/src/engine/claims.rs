//! Claiming: ids that arrived become jobs that run here, in batches.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use metrics::counter;
use roost_shared::jobs::{self, ClaimedJob, StillQueued};
use sqlx::PgPool;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::{CLAIM_BATCH, Engine, Ticket};
use crate::postgres::{self, STATEMENT_TIMEOUT};

/// Looks at jobs that somebody was writing, and the pause before each: an enqueue of the same key holds one for milliseconds.
const SECOND_LOOKS: u32 = 5;
const SECOND_LOOK_AFTER: Duration = Duration::from_millis(4);

/// One batch after the other: what arrives meanwhile is the next one, so batches grow with the load.
pub(super) async fn run(engine: Arc<Engine>, mut tickets: mpsc::Receiver<Ticket>) {
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
    // Ids that were taken in and not claimed: let another worker have them.
    tickets.close();
    while let Ok(ticket) = tickets.try_recv() {
        engine.refuse([ticket.id]);
    }
}

impl Engine {
    async fn claim(self: &Arc<Self>, tickets: Vec<Ticket>) {
        let mut wanted: HashMap<Uuid, Ticket> = HashMap::with_capacity(tickets.len());
        for ticket in tickets {
            if self.is_paused(ticket.queue) || self.limited.contains(ticket.queue) {
                self.refuse([ticket.id]);
            } else {
                wanted.insert(ticket.id, ticket);
            }
        }
        if self.look(&mut wanted).await {
            let engine = Arc::clone(self);
            self.tasks.spawn(async move {
                for _ in 0..SECOND_LOOKS {
                    tokio::time::sleep(SECOND_LOOK_AFTER).await;
                    if engine.draining.is_cancelled() {
                        break;
                    }
                    if !engine.look(&mut wanted).await {
                        return;
                    }
                }
                engine.refuse(wanted.into_keys());
            });
        }
    }

    /// Runs those that can be claimed, gives back those of kinds that are unknown here, and keeps those that somebody was
    /// writing. True: there are some.
    async fn look(self: &Arc<Self>, wanted: &mut HashMap<Uuid, Ticket>) -> bool {
        // While a job that is suspected of ending its worker begins, nothing else does.
        let _gate = self.gate.read().await;
        let ids: Vec<Uuid> = wanted.keys().copied().collect();
        if ids.is_empty() {
            return false;
        }
        let Some(claimed) = self.claim_surely(&ids).await else {
            self.refuse(ids);
            return false;
        };
        for job in claimed {
            if let Some(ticket) = wanted.remove(&job.id) {
                self.spawn(job, ticket);
            }
        }
        if wanted.is_empty() {
            return false;
        }
        let left: Vec<Uuid> = wanted.keys().copied().collect();
        let waiting = self.still_queued(&left).await.unwrap_or_default();
        counter!("roost_messages_dropped_total").increment(left.len().saturating_sub(waiting.len()) as u64);
        let (known, unknown): (Vec<StillQueued>, Vec<StillQueued>) = waiting.into_iter().partition(|job| job.known);
        wanted.retain(|id, _| known.iter().any(|job| job.id == *id));
        if !unknown.is_empty() {
            self.refuse(unknown.into_iter().map(|job| job.id));
            self.give_back().await;
        }
        !wanted.is_empty()
    }

    /// Until Postgres answers: meanwhile the intake is full, and apalis leaves the messages in Redis. None: the worker
    /// stops.
    async fn claim_surely(&self, ids: &[Uuid]) -> Option<Vec<ClaimedJob>> {
        let mut adoptable = Vec::new();
        loop {
            let error = match self.claim_once(ids, &adoptable).await {
                Ok(claimed) => return Some(claimed),
                Err(error) => error,
            };
            counter!("roost_claim_errors_total").increment(1);
            tracing::warn!(%error, jobs = ids.len(), "claim failed, trying again");
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(300)) => {}
                () = self.draining.cancelled() => return None,
            }
            // The statement may have had its effect, and only the answer was lost.
            adoptable = ids.iter().copied().filter(|id| !self.runs(*id)).collect();
        }
    }

    async fn claim_once(&self, ids: &[Uuid], adoptable: &[Uuid]) -> Result<Vec<ClaimedJob>, sqlx::Error> {
        let mut connection = postgres::connection(self.pool()).await?;
        let claiming = jobs::claim(&mut *connection, ids, &self.claimant, adoptable);
        let claimed = tokio::time::timeout(STATEMENT_TIMEOUT, claiming).await;
        postgres::answer(connection, claimed)
    }

    async fn still_queued(&self, ids: &[Uuid]) -> Result<Vec<StillQueued>, sqlx::Error> {
        let pool: &PgPool = self.pool();
        let mut connection = postgres::connection(pool).await?;
        let looking = jobs::still_queued(&mut *connection, ids, &self.claimant);
        let found = tokio::time::timeout(STATEMENT_TIMEOUT, looking).await;
        postgres::answer(connection, found)
    }
}
