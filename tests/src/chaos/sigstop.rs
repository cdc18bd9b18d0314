//! A worker stands still for longer than its leases, wakes up and goes on: too late, and it changes nothing.

use std::time::Duration;

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use rand::Rng;
use roost_shared::{clock::Clock, jobs::LEASE};

use super::{
    Run, audit,
    audit::Fate,
    jobs,
    load::DRAIN_LIMIT,
    market::Market,
    testbed::{Testbed, WorkerPlan},
};
use crate::services::process::Signal;

/// Beyond the lease: somebody else must have had time to do the work.
const STANDSTILL: Duration = LEASE.saturating_add(Duration::from_secs(5));

/// The jobs that come in before a worker is stopped.
const ROUND: usize = 60;

pub async fn play(testbed: &mut Testbed, run: &mut Run) -> Result<()> {
    let (workers, rounds) = run.size.of((2, 1), (4, 8));
    testbed.start_api().await?;
    for _ in 0..workers {
        // So few at once that no worker has room for all of a round.
        testbed.start_worker(&WorkerPlan {
            concurrency: Some(64 / workers),
            ..WorkerPlan::own()
        })?;
    }
    testbed.workers_ready().await?;
    let market = Market::open(testbed, 20, 2).await?;
    let (mut asked, mut nonces, mut stopped) = (Vec::new(), Vec::new(), Vec::new());
    let clock = Clock::default();
    for round in 0..rounds {
        let victim = run.dice.random_range(0..workers);
        let holds: Vec<u64> = (0..ROUND).map(|_| run.dice.random_range(500..2_000)).collect();
        let db = testbed.db()?;
        nonces.extend(jobs::enqueue(&db, holds.len(), |number| holds.get(number).copied().unwrap_or(0)).await?);
        let booking = {
            let (market, first) = (market.clone(), round * 10);
            tokio::spawn(async move { market.ask_steadily(first, 10, Duration::from_millis(30)).await })
        };
        tokio::time::sleep(Duration::from_millis(run.dice.random_range(250..450))).await;
        let worker = testbed.workers.get_mut(victim).context("no such worker")?;
        worker.process.signal(Signal::Stop);
        stopped.push((worker.pid(), clock.now()));
        tokio::time::sleep(STANDSTILL).await;
        worker.process.signal(Signal::Cont);
        run.verdict.faults += 1;
        asked.extend(booking.await??);
    }
    audit::drain(testbed, DRAIN_LIMIT, &mut run.verdict).await?;
    // A worker that woke up late has said its last word by now.
    tokio::time::sleep(Duration::from_secs(2)).await;
    audit::jobs(testbed, &mut run.verdict).await?;
    audit::marks(testbed, &nonces, &mut run.verdict).await?;
    audit::bookings(testbed, &asked, |_| Fate::Captured, &mut run.verdict).await?;
    let times = audit::recovery(testbed, &stopped).await?;
    run.verdict.recovered(&times, 20_000.0);
    stale_writes(testbed, run, &stopped).await
}

/// Claims that were lost by standing still, and what was written under them all the same: nothing.
async fn stale_writes(testbed: &Testbed, run: &mut Run, stopped: &[(u32, DateTime<Utc>)]) -> Result<()> {
    let stopped: Vec<i32> = stopped.iter().map(|(pid, _)| pid.cast_signed()).collect();
    let (lost, written): (i64, i64) = sqlx::query_as(
        "WITH lost AS (
             SELECT args->>'nonce' AS nonce, job_attempts.fence FROM job_attempts JOIN jobs ON jobs.id = job_id
             WHERE outcome = 'lost' AND kind LIKE 'chaos.%' AND split_part(reverse(worker), '-', 2) = ANY(SELECT reverse(pid::text) FROM unnest($1::int[]) AS pid))
         SELECT (SELECT count(*) FROM lost),
                (SELECT count(*) FROM lost JOIN chaos_effects AS effect ON effect.nonce::text = lost.nonce AND effect.fence = lost.fence)
              + (SELECT count(*) FROM lost JOIN effects AS effect ON effect.key = 'chaos:' || lost.nonce AND effect.fence = lost.fence)",
    )
    .bind(stopped)
    .fetch_one(&testbed.pool)
    .await?;
    run.verdict.figure("leases_lost", lost as f64);
    run.verdict.require(lost > 0, || {
        "nobody lost a lease by standing still: this proves nothing".to_owned()
    });
    run.verdict
        .double(written.unsigned_abs(), "effects written under a lost lease");
    // They did try: after they woke up, and not because somebody had stopped them before.
    let (tried, changed): (i64, i64) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM chaos_refused),
                (SELECT count(*) FROM chaos_refused AS refused JOIN chaos_effects AS effect USING (nonce, fence))",
    )
    .fetch_one(&testbed.pool)
    .await?;
    run.verdict.figure("stale_writes_refused", tried as f64);
    run.verdict.require(tried > 0, || {
        "nobody tried to write under a lost lease: this proves nothing".to_owned()
    });
    run.verdict
        .double(changed.unsigned_abs(), "effects of writes that were refused");
    Ok(())
}
