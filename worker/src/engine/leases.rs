//! Renewing leases, and stopping what has lost one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::{counter, gauge};
use roost_shared::jobs::{self, Lease, Renewed};
use uuid::Uuid;

use super::taken::Taken;
use super::{Engine, count_attempt, lock};
use crate::postgres;

const RENEW_EVERY: Duration = Duration::from_millis(1_500);
const RENEW_TIMEOUT: Duration = Duration::from_millis(1_200);
const RENEW_AGAIN_AFTER: Duration = Duration::from_millis(250);
/// Without a renewal for this long somebody else may have the job soon. Leaves time for two tries before.
const LEASE_AT_RISK: Duration = Duration::from_secs(4);

pub(super) async fn run(engine: Arc<Engine>) {
    let mut interval = tokio::time::interval(RENEW_EVERY);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut renewed_at = Instant::now();
    loop {
        interval.tick().await;
        engine.hand_back_stopped().await;
        let leases: Vec<Lease> = lock(&engine.running).values().map(|job| job.lease).collect();
        gauge!("roost_jobs_running").set(leases.len() as f64);
        if leases.is_empty() {
            // An idle worker is not woken to find that there is nothing to do.
            if lock(&engine.stopped).is_empty() {
                engine.held.notified().await;
                interval.reset();
            }
            renewed_at = Instant::now();
            continue;
        }
        let begun = Instant::now();
        match engine.renew(&leases).await {
            Ok(renewed) => {
                renewed_at = begun;
                let renewed: HashMap<(Uuid, i64), bool> = renewed
                    .into_iter()
                    .map(|one| ((one.id, one.fence), one.cancel_requested))
                    .collect();
                let running = lock(&engine.running);
                for lease in &leases {
                    let claim = (lease.job_id, lease.fence);
                    let Some(job) = running.get(&claim) else { continue };
                    match renewed.get(&claim) {
                        None => {
                            job.stop.cancel();
                            engine.refuse([lease.job_id]);
                        }
                        Some(true) => job.cancelled.cancel(),
                        Some(false) => {}
                    }
                }
            }
            Err(error) => {
                engine.note_outage();
                tracing::warn!(%error, "leases not renewed");
                if renewed_at.elapsed() >= LEASE_AT_RISK {
                    lock(&engine.running).values().for_each(|job| job.stop.cancel());
                }
                interval.reset_after(RENEW_AGAIN_AFTER);
            }
        }
    }
}

impl Engine {
    async fn renew(&self, leases: &[Lease]) -> Result<Vec<Renewed>, sqlx::Error> {
        let end = tokio::time::Instant::now() + RENEW_TIMEOUT;
        let acquired = tokio::time::timeout_at(end, postgres::connection(self.pool())).await;
        let mut connection = acquired.unwrap_or(Err(sqlx::Error::PoolTimedOut))?;
        let renewed = tokio::time::timeout_at(end, jobs::renew(&mut *connection, leases)).await;
        postgres::answer(connection, renewed)
    }

    /// Gives back what this engine stopped itself, so that it does not count as a crash. Does nothing to those that were
    /// taken away meanwhile.
    pub(super) async fn hand_back_stopped(&self) {
        let stopped = Taken::all(&self.stopped);
        if stopped.items.is_empty() {
            return;
        }
        let handed = async {
            let mut connection = postgres::connection(self.pool()).await?;
            let answer = tokio::time::timeout(RENEW_TIMEOUT, jobs::hand_back(&mut *connection, &stopped.items)).await;
            postgres::answer(connection, answer)
        };
        match handed.await {
            Ok(kinds) => {
                stopped.done();
                counter!("roost_jobs_handed_back_total").increment(kinds.len() as u64);
                tracing::info!(count = kinds.len(), "unfinished jobs handed back");
                for kind in kinds {
                    count_attempt(kind, "handed_back");
                }
            }
            Err(error) => {
                tracing::warn!(%error, jobs = stopped.items.len(), "could not hand jobs back yet");
            }
        }
    }
}
