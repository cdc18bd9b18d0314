//! A new version comes: workers are replaced one by one under load, and old and new run side by side for a while.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use uuid::Uuid;

use super::{
    Run, audit,
    audit::Fate,
    jobs::{self, Newer},
    load::DRAIN_LIMIT,
    market::Market,
    testbed::{Testbed, WorkerPlan},
};
use crate::services::process::Signal;

/// What the production default of `WORKER_GRACE` allows.
const EXIT_LIMIT: Duration = Duration::from_secs(25);

/// Between two of the jobs that come in all the time.
const EVERY: Duration = Duration::from_millis(50);

pub async fn play(testbed: &mut Testbed, run: &mut Run) -> Result<()> {
    let workers = run.size.of(3, 8);
    // Less than one of the jobs takes, so that there is something to hand back.
    let grace = Some(run.size.of(4, 20));
    // The real program has no kinds but those of production; the other one knows them as well.
    let plans: Vec<WorkerPlan> = (0..workers)
        .map(|number| WorkerPlan {
            own_kinds: number % 3 != 2,
            queues: (number % 3 == 2).then_some("confirmation,payments,notifications,cache"),
            grace,
            ..WorkerPlan::default()
        })
        .collect();
    testbed.start_api().await?;
    for plan in &plans {
        testbed.start_worker(plan)?;
    }
    testbed.workers_ready().await?;
    let market = Market::open(testbed, 20, 2).await?;
    let stop = tokio_util::sync::CancellationToken::new();
    let marking = {
        let (db, stop) = (testbed.db()?, stop.clone());
        tokio::spawn(async move {
            let (mut nonces, mut ticks): (Vec<Uuid>, _) = (Vec::new(), tokio::time::interval(EVERY));
            while !stop.is_cancelled() {
                ticks.tick().await;
                nonces.extend(jobs::enqueue(&db, 2, |number| 20 + 400 * number as u64).await?);
            }
            anyhow::Ok(nonces)
        })
    };
    let bookings = run.size.of(20, 300);
    let booking = {
        let market = market.clone();
        tokio::spawn(async move { market.ask_steadily(0, bookings, Duration::from_millis(200)).await })
    };
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (mut exits, mut nonces) = (Vec::new(), Vec::new());
    for (place, plan) in plans.iter().enumerate() {
        let next = testbed.new_worker(plan)?;
        next.ready(testbed).await?;
        // The real program is busy with bookings.
        if plan.own_kinds {
            let hold_ms = run.size.of(12_000, 30_000);
            nonces.extend(busy_for_long(testbed, place, hold_ms).await?);
        }
        let worker = testbed.workers.get_mut(place).context("no such worker")?;
        let mut old = std::mem::replace(worker, next);
        let began = Instant::now();
        old.process.signal(Signal::Term);
        let status = loop {
            let status = old.process.exited()?;
            if status.is_some() || began.elapsed() >= 2 * EXIT_LIMIT {
                break status;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        run.verdict.require(status.is_some_and(|status| status.success()), || {
            format!("a worker that was asked to stop ended with {status:?}")
        });
        exits.push(began.elapsed().as_secs_f64() * 1000.0);
        run.verdict.faults += 1;
    }
    stop.cancel();
    let asked = booking.await??;
    nonces.extend(marking.await??);
    audit::drain(testbed, DRAIN_LIMIT, &mut run.verdict).await?;
    let limit = EXIT_LIMIT.as_secs_f64() * 1000.0;
    let slowest = exits.iter().copied().fold(0.0, f64::max);
    run.verdict.figure("slowest_exit_ms", slowest);
    run.verdict.in_time(slowest, limit, "the slowest exit");
    nothing_burned(testbed, run).await?;
    audit::marks(testbed, &nonces, &mut run.verdict).await?;
    audit::bookings(testbed, &asked, |_| Fate::Captured, &mut run.verdict).await?;
    side_by_side(testbed, run).await?;
    audit::jobs(testbed, &mut run.verdict).await
}

/// Enqueues jobs that take longer than a worker's grace until this one runs one of them.
async fn busy_for_long(testbed: &Testbed, place: usize, hold_ms: u64) -> Result<Vec<Uuid>> {
    let db = testbed.db()?;
    let pid = i32::try_from(testbed.workers.get(place).context("no such worker")?.pid())?;
    let deadline = Instant::now() + DRAIN_LIMIT;
    let mut nonces = Vec::new();
    loop {
        let busy: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM chaos_starts JOIN jobs ON args->>'nonce' = nonce::text
             WHERE pid = $1 AND nonce = ANY($2) AND state = 'running')",
        )
        .bind(pid)
        .bind(&nonces)
        .fetch_one(&testbed.pool)
        .await?;
        if busy {
            return Ok(nonces);
        }
        anyhow::ensure!(
            Instant::now() < deadline,
            "worker {place} begins none of {} jobs",
            nonces.len()
        );
        nonces.extend(jobs::enqueue(&db, 2, |_| hold_ms).await?);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// No job paid for the change with an attempt, and there was always somebody at work.
async fn nothing_burned(testbed: &Testbed, run: &mut Run) -> Result<()> {
    let (burned, handed_back): (i64, i64) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM jobs WHERE kind LIKE 'chaos.%' AND attempt <> 1 AND state = 'succeeded')
              + (SELECT count(*) FROM job_attempts WHERE outcome IN ('lost', 'retry', 'failed')),
                (SELECT count(*) FROM job_attempts WHERE outcome = 'handed_back')",
    )
    .fetch_one(&testbed.pool)
    .await?;
    run.verdict
        .require(burned == 0, || format!("{burned} attempts were burned"));
    run.verdict.figure("handed_back", handed_back as f64);
    run.verdict.require(handed_back > 0, || {
        "nothing was running when a worker's grace was over: this proves little".to_owned()
    });
    let gap: f64 = sqlx::query_scalar(
        "SELECT coalesce(max(extract(epoch FROM gap)), 0)::float8 * 1000 FROM (
             SELECT at - lag(at) OVER (ORDER BY at) AS gap FROM chaos_starts) AS starts",
    )
    .fetch_one(&testbed.pool)
    .await?;
    run.verdict.figure("longest_gap_ms", gap);
    run.verdict
        .in_time(gap, 1_000.0, "from one job that was begun to the next");
    Ok(())
}

/// A kind that only the new version knows waits for it, and comes to no harm from the old one.
async fn side_by_side(testbed: &mut Testbed, run: &mut Run) -> Result<()> {
    let count = run.size.of(20, 500);
    let mut tx = testbed.db()?.begin().await?;
    for _ in 0..count {
        tx.enqueue(&Newer { nonce: Uuid::new_v4() });
    }
    tx.commit().await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let touched: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM jobs WHERE kind = 'chaos.newer' AND (state <> 'queued' OR attempt > 0 OR fence > 0)",
    )
    .fetch_one(&testbed.pool)
    .await?;
    run.verdict.require(touched == 0, || {
        format!("{touched} jobs of a kind that no worker knows were touched")
    });
    let newer = testbed.start_worker(&WorkerPlan {
        newer: true,
        ..WorkerPlan::own()
    })?;
    let began = Instant::now();
    audit::drain(testbed, DRAIN_LIMIT, &mut run.verdict).await?;
    let took = began.elapsed().as_secs_f64() * 1000.0;
    run.verdict.recovered(&[took], 10_000.0);
    let burned: i64 = sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM jobs WHERE kind = 'chaos.newer' AND attempt <> 1)
              + (SELECT count(*) FROM job_attempts JOIN jobs ON jobs.id = job_id
                 WHERE kind = 'chaos.newer' AND outcome IN ('lost', 'retry', 'failed'))",
    )
    .fetch_one(&testbed.pool)
    .await?;
    run.verdict.require(burned == 0, || {
        format!("{burned} attempts of the newer kind were burned")
    });
    let pid = i32::try_from(testbed.workers.get(newer).context("no such worker")?.pid())?;
    let done: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM chaos_effects JOIN jobs ON args->>'nonce' = nonce::text WHERE kind = 'chaos.newer' AND pid = $1",
    )
    .bind(pid)
    .fetch_one(&testbed.pool)
    .await?;
    run.verdict
        .lose((i64::from(count) - done).unsigned_abs(), "jobs of the newer kind");
    Ok(())
}
