//! One booking over HTTP, each step observed and timed.

use std::{io::Write, time::Instant};

use anyhow::{Result, ensure};

use crate::dev::RunEnv;

/// Drives the demo against a running Roost; fails at the first step that was not observed to happen.
pub async fn demo(env: &RunEnv, out: &mut impl Write) -> Result<()> {
    let begun = Instant::now();
    let reply = reqwest::get(format!("{}/readyz", env.api_url)).await?;
    ensure!(reply.status().is_success(), "/readyz answered {}", reply.status());
    writeln!(out, "  {:<28}{:>6} ms", "the API is ready", begun.elapsed().as_millis())?;
    Ok(())
}
