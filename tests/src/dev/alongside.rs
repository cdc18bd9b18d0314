//! A command beside private servers of its own: the tests, a benchmark.

use std::process::Command;

use anyhow::{Context, Result};

use super::StopSignals;
use crate::services::{Durability, Services, process::Signal};

/// Runs a command with `DATABASE_URL` and `REDIS_URL` set, tears the servers down whatever happens, and returns the
/// command's exit code.
pub async fn alongside(durability: Durability, command: &[String]) -> Result<u8> {
    let mut signals = StopSignals::listen()?;
    let services = tokio::task::spawn_blocking(move || Services::scratch(durability)).await??;
    let (program, arguments) = command.split_first().context("no command given")?;
    let mut child = Command::new(program);
    child
        .args(arguments)
        .env("DATABASE_URL", services.database_url())
        .env("REDIS_URL", services.redis_url());
    let mut process = services
        .instance()
        .supervisor()
        .spawn(program, Signal::Term, &mut child)?;

    let mut interrupted = false;
    let status = loop {
        if let Some(status) = process.exited()? {
            break Some(status);
        }
        tokio::select! {
            () = signals.next() => {
                interrupted = true;
                break None;
            }
            () = tokio::time::sleep(std::time::Duration::from_millis(50)) => {}
        }
    };
    signals.exit_on(if interrupted { 1 } else { 2 });
    tokio::task::spawn_blocking(move || {
        drop(process);
        drop(services);
    })
    .await?;
    Ok(match status {
        _ if interrupted => 130,
        Some(status) => status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1),
        None => 1,
    })
}
