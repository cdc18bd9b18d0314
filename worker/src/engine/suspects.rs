//! Jobs that were running when a worker died. One of them may be what killed it, so a process runs them one at a time:
//! whoever dies again is found out, and the jobs beside it are not blamed.

use std::sync::Arc;
use std::time::Duration;

use roost_shared::jobs::{self, ClaimedJob, Queue};

use super::{Engine, Ticket, lock};
use crate::postgres::{self, STATEMENT_TIMEOUT};

/// A job that crashed twice begins alone in its process: after this long for the others to end …
const CLEARING: Duration = Duration::from_secs(1);
/// … and nothing else begins for so long.
const ALONE: Duration = Duration::from_secs(2);
const CLEARED_AGAIN_AFTER: Duration = Duration::from_millis(20);

pub(super) async fn run(engine: Arc<Engine>) {
    loop {
        tokio::select! {
            () = engine.suspected.notified() => {}
            () = engine.draining.cancelled() => return,
        }
        while !engine.draining.is_cancelled() {
            match engine.next_suspect().await {
                Ok(Some((job, ticket))) => engine.run_suspect(job, ticket).await,
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(%error, "could not look for jobs of dead workers");
                    break;
                }
            }
        }
    }
}

impl Engine {
    async fn next_suspect(&self) -> Result<Option<(ClaimedJob, Ticket)>, sqlx::Error> {
        let (limited, queues): (Vec<Queue>, Vec<Queue>) = self
            .slots
            .iter()
            .filter(|(queue, slots)| !self.is_paused(**queue) && slots.available_permits() > 0)
            .map(|(queue, _)| *queue)
            .partition(|queue| self.limited.contains(*queue));
        for queue in limited {
            if let Some(job) = self.claim_limited_suspect(queue).await? {
                return Ok(self.with_ticket(job));
            }
        }
        let names: Vec<String> = queues.iter().map(|queue| queue.name().to_owned()).collect();
        let mut connection = postgres::connection(self.pool()).await?;
        let claiming = jobs::claim_suspect(&mut *connection, &names, &self.claimant);
        let answer = tokio::time::timeout(STATEMENT_TIMEOUT, claiming).await;
        Ok(postgres::answer(connection, answer)?.and_then(|job| self.with_ticket(job)))
    }

    /// Claimed already: it runs at once, beyond the bound if somebody took the last slot just now.
    fn with_ticket(&self, job: ClaimedJob) -> Option<(ClaimedJob, Ticket)> {
        let queue = Queue::by_name(&job.queue)?;
        let ticket = Ticket {
            id: job.id,
            queue,
            slot: self
                .slots
                .get(&queue)
                .and_then(|slots| Arc::clone(slots).try_acquire_owned().ok()),
            place: Arc::clone(&self.places).try_acquire_owned().ok(),
        };
        Some((job, ticket))
    }

    async fn run_suspect(self: &Arc<Self>, job: ClaimedJob, ticket: Ticket) {
        let gate = if job.crash_count > 1 {
            let gate = self.gate.write().await;
            let cleared = async {
                while !lock(&self.running).is_empty() {
                    tokio::time::sleep(CLEARED_AGAIN_AFTER).await;
                }
            };
            // Long jobs beside it are not waited for: they lose an attempt's work at worst.
            let _ = tokio::time::timeout(CLEARING, cleared).await;
            Some(gate)
        } else {
            None
        };
        let mut run = self.spawn(job, ticket);
        if gate.is_some() {
            let _ = tokio::time::timeout(ALONE, &mut run).await;
        }
        drop(gate);
        if !run.is_finished() {
            // A panic of the task itself is told by the runtime.
            let _ = run.await;
        }
    }
}
