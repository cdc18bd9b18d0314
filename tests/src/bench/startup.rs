//! How soon the processes are there, and what memory they take with nothing to do.

use std::time::Duration;

use anyhow::Result;

use super::{
    Plan,
    figure::{Figure, Report, Target, median},
    machine::Machine,
};

const STARTS: usize = 5;

/// Cold starts, and memory at rest.
pub async fn measure(machine: &Machine, plan: &Plan, report: &mut Report) -> Result<()> {
    let (mut api_starts, mut worker_starts) = (vec![], vec![]);
    for _ in 0..STARTS {
        let api = machine.api().await?;
        api_starts.push(api.start.as_secs_f64() * 1000.0);
        api.stop().await?;
        let worker = machine.worker().await?;
        worker_starts.push(worker.start.as_secs_f64() * 1000.0);
        worker.stop().await?;
    }
    report.add(
        Figure::new("api_cold_start", median(&api_starts), "ms", STARTS as u64)
            .note("from the start of the process to /readyz answering 200"),
    )?;
    report.add(
        Figure::new("worker_cold_start", median(&worker_starts), "ms", STARTS as u64)
            .note("from the start of the process to /healthz answering 200"),
    )?;

    let (api, worker) = (machine.api().await?, machine.worker().await?);
    tokio::time::sleep(plan.idle).await;
    for (figure, process) in [("api_memory_idle", &api), ("worker_memory_idle", &worker)] {
        report.add(
            Figure::new(figure, process.memory()?, "MB", 1)
                .target(Target::AtMost(60.0))
                .note(format!("resident, {} s after the start", Duration::as_secs(&plan.idle))),
        )?;
    }
    api.stop().await?;
    worker.stop().await
}
