//! Jobs that were running when a worker died. One of them may be what killed it, so a process runs them one at a time:
//! whoever dies again is found out, and the jobs beside it are not blamed.

use std::sync::Arc;
use std::time::Duration;

use roost_shared::jobs::{self, ClaimedJob, Queue};
use sqlx::Connection;
use tokio::sync::RwLockWriteGuard;

use super::{Engine, Ticket, lock};
use crate::postgres::{self, STATEMENT_TIMEOUT};

/// A job that crashed twice begins alone in its process: after this long for the others to end …
const CLEARING: Duration = Duration::from_secs(1);
/// … and nothing else begins for so long.
const ALONE: Duration = Duration::from_secs(2);
const CLEARED_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// While it is held nothing begins here.
type Alone<'a> = RwLockWriteGuard<'a, ()>;

pub(super) async fn run(engine: Arc<Engine>) {
    loop {
        tokio::select! {
            () = engine.suspected.notified() => {}
            () = engine.draining.cancelled() => return,
        }
        while !engine.draining.is_cancelled() {
            match engine.next_suspect().await {
                Ok(Some((job, ticket, alone))) => engine.run_suspect(job, ticket, alone).await,
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
    async fn next_suspect(&self) -> Result<Option<(ClaimedJob, Ticket, Option<Alone<'_>>)>, sqlx::Error> {
        let (limited, queues): (Vec<Queue>, Vec<Queue>) = self
            .slots
            .iter()
            .filter(|(queue, slots)| !self.is_paused(**queue) && slots.available_permits() > 0)
            .map(|(queue, _)| *queue)
            .partition(|queue| self.limited.contains(*queue));
        for queue in limited {
            if let Some(job) = self.claim_limited_suspect(queue).await? {
                let alone = if job.crash_count > 1 {
                    Some(self.clear().await)
                } else {
                    None
                };
                return Ok(self.with_ticket(job).map(|(job, ticket)| (job, ticket, alone)));
            }
        }
        let names: Vec<String> = queues.iter().map(|queue| queue.name().to_owned()).collect();
        let mut connection = postgres::connection(self.pool()).await?;
        let claiming = async {
            let mut tx = connection.begin().await?;
            let claimed = jobs::claim_suspect(&mut *tx, &names, &self.claimant).await?;
            // Its claim is committed when it can begin: a worker that dies before that is not its fault.
            let alone = match &claimed {
                Some(job) if job.crash_count > 1 => Some(self.clear().await),
                _ => None,
            };
            tx.commit().await?;
            Ok::<_, sqlx::Error>(claimed.map(|job| (job, alone)))
        };
        let answer = tokio::time::timeout(STATEMENT_TIMEOUT, claiming).await;
        let Some((job, alone)) = postgres::answer(connection, answer)? else {
            return Ok(None);
        };
        Ok(self.with_ticket(job).map(|(job, ticket)| (job, ticket, alone)))
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

    async fn run_suspect(self: &Arc<Self>, job: ClaimedJob, ticket: Ticket, alone: Option<Alone<'_>>) {
        let mut run = self.spawn(job, ticket);
        if alone.is_some() {
            let _ = tokio::time::timeout(ALONE, &mut run).await;
        }
        drop(alone);
        if !run.is_finished() {
            // A panic of the task itself is told by the runtime.
            let _ = run.await;
        }
    }
}
