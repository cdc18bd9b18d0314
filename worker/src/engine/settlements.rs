//! Settling: how attempts ended goes to Postgres, in batches.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use metrics::counter;
use roost_shared::jobs::crash_point::{self, Boundary};
use roost_shared::jobs::state::Ending;
use roost_shared::jobs::{self, Lease, Outcome, Settlement};
use sqlx::PgPool;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::{Engine, Finished, count_attempt};
use crate::postgres::{self, STATEMENT_TIMEOUT};

const SETTLE_BATCH: usize = 256;

/// One batch after the other: what ends meanwhile is the next one, so batches grow with the load.
pub(super) async fn run(engine: Arc<Engine>, mut ended: mpsc::UnboundedReceiver<Finished>) {
    let mut batch = Vec::with_capacity(SETTLE_BATCH);
    loop {
        let received = tokio::select! {
            biased;
            received = ended.recv_many(&mut batch, SETTLE_BATCH) => received,
            () = engine.settled.cancelled() => 0,
        };
        if received == 0 {
            break;
        }
        settle_batch(&engine, std::mem::take(&mut batch)).await;
    }
}

async fn settle_batch(engine: &Engine, batch: Vec<Finished>) {
    let (settlements, places): (Vec<Settlement>, Vec<_>) = batch
        .into_iter()
        .map(|one| (one.settlement, (one.kind, one.place)))
        .unzip();
    let leases: Vec<Lease> = settlements.iter().map(|one| one.lease).collect();
    let done: HashMap<Uuid, Ending> = settle_surely(engine.pool(), settlements).await.into_iter().collect();
    for (lease, (kind, _)) in leases.iter().zip(&places) {
        crash_point::reach(lease.job_id, Boundary::BeforeAck);
        // Renewed until here: while Postgres is away the job must not be taken for lost.
        engine.forget(lease);
        if let Some(ending) = done.get(&lease.job_id) {
            count_attempt(*kind, ending.name());
        } else {
            engine.refuse([lease.job_id]);
            counter!("roost_stale_settlements_total", "kind" => *kind).increment(1);
            tracing::warn!(job_id = %lease.job_id, kind, "too late: the claim is lost");
        }
    }
}

/// Settles, however long Postgres is away: the work is done and must not be forgotten while this process lives. A
/// settlement that Postgres cannot store ends its own job, not the settling of the others. Returns how each ended that
/// was not too late.
async fn settle_surely(pool: &PgPool, settlements: Vec<Settlement>) -> Vec<(Uuid, Ending)> {
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
async fn settle_or_refuse(pool: &PgPool, settlements: &[Settlement]) -> Result<Vec<(Uuid, Ending)>, sqlx::Error> {
    let mut wait = Duration::from_millis(50);
    loop {
        let error = match settle_once(pool, settlements).await {
            Ok(settled) => {
                let settled: HashSet<Uuid> = settled.into_iter().collect();
                let of_these = settlements.iter().filter(|one| settled.contains(&one.lease.job_id));
                return Ok(of_these.map(|one| (one.lease.job_id, one.outcome.ending())).collect());
            }
            Err(error) if is_about_the_data(&error) => return Err(error),
            Err(error) => error,
        };
        counter!("roost_settle_errors_total").increment(1);
        tracing::warn!(%error, jobs = settlements.len(), "settling failed, trying again");
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(Duration::from_secs(2));
    }
}

async fn settle_once(pool: &PgPool, settlements: &[Settlement]) -> Result<Vec<Uuid>, sqlx::Error> {
    for one in settlements {
        crash_point::reach(one.lease.job_id, Boundary::BeforeCommit);
    }
    let mut connection = postgres::connection(pool).await?;
    let settled = tokio::time::timeout(STATEMENT_TIMEOUT, jobs::settle(&mut connection, settlements)).await;
    postgres::answer(connection, settled)
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
