//! Sign-ins a second, against argon2 alone with the same parameters on as many threads as there are cores.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use argon2::{
    Argon2,
    password_hash::{PasswordVerifier, phc::PasswordHash},
};
use serde_json::json;

use super::{
    Plan,
    dataset::PASSWORD,
    figure::{Figure, Report, median},
    jobs::rounds,
    machine::{Machine, Running},
    wrk::{self, Load, Tally},
};

/// Enough to keep every core busy, few enough that nobody is turned away.
const CONNECTIONS: usize = 8;
const ACCOUNTS: u64 = 10_000;

/// Signs in accounts of the data set, each by its e-mail and password.
pub async fn measure(machine: &Machine, api: &Running, plan: &Plan, report: &mut Report) -> Result<()> {
    let stored: String = sqlx::query_scalar("SELECT password_hash FROM users LIMIT 1")
        .fetch_one(&machine.pool(1)?)
        .await?;
    let request = |number| {
        let body = json!({"email": plan.dataset.guest_email(number), "password": PASSWORD}).to_string();
        wrk::post(api.address, "/auth/login", "", &body)
    };
    let requests = (0..ACCOUNTS).map(request).collect();
    let load = Load::again(machine.folder(), api.address, CONNECTIONS, requests);
    let (mut tallies, mut limits) = (vec![], vec![]);
    load.run(plan.warm_up).await?;
    let ((), peak) = api
        .peak(async {
            for _ in 0..plan.rounds {
                let (stored, round) = (stored.clone(), plan.round);
                limits.push(tokio::task::spawn_blocking(move || verify_alone(&stored, round)).await??);
                tallies.push(load.run(plan.round).await?);
            }
            Ok(())
        })
        .await?;
    let values: Vec<f64> = tallies.iter().map(Tally::per_second).collect();
    let replies = tallies.iter().map(|tally| tally.replies).sum();
    report.add(
        Figure::new("login", median(&values), "requests/s", replies)
            .against("argon2 alone", median(&limits))
            .note(format!("{CONNECTIONS} kept connections, {peak:.0} MB at most"))
            .note(rounds(&values, &limits)),
    )
}

fn verify_alone(stored: &str, duration: Duration) -> Result<f64> {
    let hash = PasswordHash::new(stored).map_err(|error| anyhow!("{error}"))?;
    let parameters = argon2::Params::try_from(&hash).map_err(|error| anyhow!("{error}"))?;
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let done = AtomicU64::new(0);
    let began = Instant::now();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    let argon2 = Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, parameters.clone());
                    while began.elapsed() < duration {
                        argon2
                            .verify_password(PASSWORD.as_bytes(), &hash)
                            .map_err(|error| anyhow!("{error}"))?;
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                })
            })
            .collect();
        for worker in workers {
            worker.join().map_err(|_| anyhow!("a thread panicked"))??;
        }
        anyhow::Ok(())
    })
    .context("argon2 alone")?;
    Ok(done.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64())
}
