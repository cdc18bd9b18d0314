//! What eight workers with nothing to do cost.

use std::time::Duration;

use anyhow::{Context, Result};
use sqlx::PgPool;

use super::{
    Plan,
    figure::{Figure, Report, Target},
    machine::{Machine, Running},
};

const WORKERS: u64 = 8;
/// Until the first of them leads and all have shown themselves.
const SETTLED: Duration = Duration::from_secs(8);

/// Processor time and transactions of an idle fleet.
pub async fn idle(machine: &Machine, plan: &Plan, report: &mut Report) -> Result<()> {
    let pool = machine.pool(1)?;
    let mut workers = Vec::new();
    for _ in 0..WORKERS {
        workers.push(machine.worker().await?);
    }
    tokio::time::sleep(SETTLED).await;
    let used = || -> Result<f64> { workers.iter().map(Running::processor_seconds).sum() };
    let (before, transactions_before) = (used()?, transactions(&pool).await?);
    tokio::time::sleep(plan.fleet).await;
    let (after, transactions_after) = (used()?, transactions(&pool).await?);
    let seconds = plan.fleet.as_secs_f64();
    let note = format!("{WORKERS} workers of all queues, over {seconds} s");
    report.add(
        Figure::new(
            "idle_fleet_core",
            (after - before) / seconds * 100.0,
            "% of a core",
            WORKERS,
        )
        .target(Target::AtMost(1.0))
        .note(&note),
    )?;
    report.add(
        Figure::new(
            "idle_fleet_transactions",
            (transactions_after - transactions_before) as f64 / seconds,
            "transactions/s",
            WORKERS,
        )
        .target(Target::AtMost(20.0))
        .note(note)
        .note("a look at the count included"),
    )?;
    for worker in workers {
        worker.stop().await?;
    }
    Ok(())
}

async fn transactions(pool: &PgPool) -> Result<i64> {
    // Backends tell what they did when they next wait for a statement, some only after a second.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    sqlx::query_scalar("SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()")
        .fetch_one(pool)
        .await
        .context("counting transactions")
}
