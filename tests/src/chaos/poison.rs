//! A job that takes its process with it is put aside after three of them; the others hardly notice.

use std::time::{Duration, Instant};

use anyhow::Result;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{
    Run, audit,
    jobs::{self, Poison},
    load::DRAIN_LIMIT,
    testbed::{Testbed, WorkerPlan},
};
use crate::bench::figure::percentile;

/// Between two of the other jobs.
const EVERY: Duration = Duration::from_millis(25);
const HOLD_MS: u64 = 5;
/// Each crash is noticed when its lease is over.
const CRASHES_LIMIT: Duration = DRAIN_LIMIT;

pub async fn play(testbed: &mut Testbed, run: &mut Run) -> Result<()> {
    let (workers, poisons, window) = run.size.of((3, 1, 8_u64), (6, 10, 120));
    for _ in 0..workers {
        testbed.start_worker(&WorkerPlan::own())?;
    }
    testbed.workers_ready().await?;
    let stop = tokio_util::sync::CancellationToken::new();
    let others = {
        let (db, stop) = (testbed.db()?, stop.clone());
        tokio::spawn(async move {
            let (mut nonces, mut ticks): (Vec<Uuid>, _) = (Vec::new(), tokio::time::interval(EVERY));
            while !stop.is_cancelled() {
                ticks.tick().await;
                nonces.extend(jobs::enqueue(&db, 2, |_| HOLD_MS).await?);
            }
            anyhow::Ok(nonces)
        })
    };
    // The first of them warm everything up.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = testbed.now().await?;
    tokio::time::sleep(Duration::from_secs(window)).await;
    let poisoned = testbed.now().await?;
    // Spread over as long as was looked at before: the same number of samples, and always somebody about to crash.
    let mut crashes = 0;
    for number in 1..=poisons {
        let mut tx = testbed.db()?.begin().await?;
        tx.enqueue(&Poison { nonce: Uuid::new_v4() });
        tx.commit().await?;
        crashes += replace_the_dead(
            testbed,
            number,
            crashes,
            Duration::from_secs(window / poisons.unsigned_abs()),
        )
        .await?;
    }
    let after = testbed.now().await?;
    stop.cancel();
    let nonces = others.await??;
    audit::drain(testbed, DRAIN_LIMIT, &mut run.verdict).await?;

    run.verdict.faults = crashes;
    run.verdict.figure("worker_crashes", crashes as f64);
    let quarantined: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM jobs WHERE kind = 'chaos.poison' AND state = 'quarantined' AND crash_count = 3",
    )
    .fetch_one(&testbed.pool)
    .await?;
    run.verdict.require(quarantined == poisons, || {
        format!("{quarantined} of {poisons} poisonous jobs are in quarantine after 3 crashes")
    });
    let starts: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM chaos_starts JOIN jobs ON args->>'nonce' = nonce::text WHERE kind = 'chaos.poison'",
    )
    .fetch_one(&testbed.pool)
    .await?;
    run.verdict.require(starts == 3 * poisons, || {
        format!("{poisons} poisonous jobs were begun {starts} times")
    });
    let mut times = noticed(testbed).await?;
    let crashed: Vec<(i32, DateTime<Utc>)> = sqlx::query_as(
        "SELECT pid, at FROM chaos_starts JOIN jobs ON args->>'nonce' = nonce::text WHERE kind = 'chaos.poison'",
    )
    .fetch_all(&testbed.pool)
    .await?;
    let crashed: Vec<_> = crashed.into_iter().map(|(pid, at)| (pid.cast_unsigned(), at)).collect();
    let neighbours = audit::recovery(testbed, &crashed).await?;
    run.verdict.figure("neighbours_hit", neighbours.len() as f64);
    times.extend(neighbours);
    run.verdict.recovered(&times, 15_000.0);
    // It is meant to be given up, the others are not.
    sqlx::query("DELETE FROM jobs WHERE kind = 'chaos.poison'")
        .execute(&testbed.pool)
        .await?;
    audit::jobs(testbed, &mut run.verdict).await?;
    audit::marks(testbed, &nonces, &mut run.verdict).await?;
    let quiet = latency(testbed, before, poisoned).await?;
    let poisonous = latency(testbed, poisoned, after).await?;
    run.verdict.figure("others_p99_before_ms", quiet);
    run.verdict.figure("others_p99_meanwhile_ms", poisonous);
    run.verdict
        .require(quiet > 0.0, || "no other job ran before the poison".to_owned());
    // The short form has so few others that those which the dead workers ran count: they wait for a lost lease.
    let limit = quiet * 1.2 + run.size.of(4_000.0, 0.0);
    run.verdict.in_time(poisonous, limit, "the p99 of the other jobs");
    Ok(())
}

/// Starts a worker for each one that died, as a supervisor does, for so long at least, and until so many poisonous jobs are
/// put aside. How many died, without those `before`.
async fn replace_the_dead(testbed: &mut Testbed, poisons: i64, before: u64, at_least: Duration) -> Result<u64> {
    let (mut crashes, began) = (0, Instant::now());
    loop {
        crashes += testbed.new_worker_for_dead(&WorkerPlan::own())?;
        // Read from an index: it is asked so often that more than that would slow down those whose latency is looked at.
        let aside: i64 =
            sqlx::query_scalar("SELECT count(*) FROM jobs WHERE kind = 'chaos.poison' AND state = 'quarantined'")
                .fetch_one(&testbed.pool)
                .await?;
        let done = aside == poisons && before + crashes >= 3 * poisons.unsigned_abs() && began.elapsed() >= at_least;
        if done || began.elapsed() > CRASHES_LIMIT {
            return Ok(crashes);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The milliseconds from each crash to the next try of its job, or to its being put aside.
async fn noticed(testbed: &Testbed) -> Result<Vec<f64>> {
    Ok(sqlx::query_scalar(
        "SELECT (extract(epoch FROM coalesce(lead(at) OVER (PARTITION BY nonce ORDER BY at), finished_at) - at) * 1000)::float8
         FROM chaos_starts JOIN jobs ON args->>'nonce' = nonce::text WHERE kind = 'chaos.poison' AND finished_at IS NOT NULL",
    )
    .fetch_all(&testbed.pool)
    .await?)
}

/// The p99 from due to done, in milliseconds, of the jobs that became due in between.
async fn latency(testbed: &Testbed, from: DateTime<Utc>, to: DateTime<Utc>) -> Result<f64> {
    let times: Vec<f64> = sqlx::query_scalar(
        "SELECT (extract(epoch FROM finished_at - run_at) * 1000)::float8 FROM jobs
         WHERE kind IN ('chaos.mark', 'chaos.batched') AND created_at BETWEEN $1 AND $2 AND finished_at IS NOT NULL",
    )
    .bind(from)
    .bind(to)
    .fetch_all(&testbed.pool)
    .await?;
    Ok(percentile(&times, 0.99))
}
