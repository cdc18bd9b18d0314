//! What processes cost, as the kernel counts it: that others are on the machine as well does not make it more.

use std::{collections::HashMap, fs, process::Command, time::Duration};

use anyhow::{Context, Result};

use super::testbed::Testbed;

/// What the workers and their connections to Postgres take, over this long, in per cent of a core.
pub async fn of_workers(testbed: &Testbed, window: Duration) -> Result<f64> {
    let before = taken(testbed).await?;
    tokio::time::sleep(window).await;
    let after = taken(testbed).await?;
    // A connection that was opened meanwhile counts from its start.
    let spent: f64 = after
        .iter()
        .map(|(pid, seconds)| seconds - before.get(pid).copied().unwrap_or(0.0))
        .sum();
    Ok(spent / window.as_secs_f64() * 100.0)
}

/// Seconds on a CPU since the start, by process.
async fn taken(testbed: &Testbed) -> Result<HashMap<u32, f64>> {
    // No checkpointer, no autovacuum: they tidy up after the harness.
    let backends: Vec<i32> = sqlx::query_scalar(
        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()",
    )
    .fetch_all(&testbed.pool)
    .await?;
    let backends = backends.into_iter().map(i32::cast_unsigned);
    let mut taken = HashMap::new();
    for pid in backends.chain(testbed.workers.iter().map(super::testbed::Program::pid)) {
        // It may have ended since.
        if let Some(seconds) = seconds(pid)? {
            taken.insert(pid, seconds);
        }
    }
    Ok(taken)
}

fn seconds(pid: u32) -> Result<Option<f64>> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return seconds_by_ps(pid);
    };
    let mut nanoseconds = 0.0;
    for thread in threads {
        // In nanoseconds; the clock ticks of `stat` are as long as what is to be seen here.
        let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) else {
            continue;
        };
        let on_cpu = text.split(' ').next().context("an empty schedstat")?;
        nanoseconds += on_cpu.parse::<f64>()?;
    }
    Ok(Some(nanoseconds / 1e9))
}

/// Where there is no `/proc`: `[[days-]hours:]minutes:seconds`.
fn seconds_by_ps(pid: u32) -> Result<Option<f64>> {
    let out = Command::new("ps")
        .args(["-o", "time=", "-p", &pid.to_string()])
        .output()?;
    let text = String::from_utf8(out.stdout)?;
    let (days, time) = text.trim().split_once('-').unwrap_or(("0", text.trim()));
    if time.is_empty() {
        return Ok(None);
    }
    let mut seconds = 0.0;
    for part in time.split(':') {
        seconds = seconds * 60.0 + part.parse::<f64>()?;
    }
    Ok(Some(seconds + days.parse::<f64>()? * 86_400.0))
}
