//! Very many jobs become due in the same second, and very many more are scheduled for later.

use std::time::{Duration, Instant};

use anyhow::Result;
use chrono::TimeDelta;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::{
    Run, audit, cpu,
    jobs::Mark,
    load::DRAIN_LIMIT,
    testbed::{Testbed, WorkerPlan},
};

/// What counts as nothing, in per cent of a core: a millisecond of each second.
const MEASURABLE: f64 = 0.1;
/// In a debug build, over a short time.
const SHORT_COST: f64 = 0.5;

pub async fn play(testbed: &mut Testbed, run: &mut Run) -> Result<()> {
    let (burst, later, ahead) = run.size.of((2_000, 50_000, 8), (50_000, 1_000_000, 30));
    testbed.start_worker(&WorkerPlan::own())?;
    testbed.workers_ready().await?;
    // What a start brings with it is over by then.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let quiet = idle_cost(testbed, run).await?;
    schedule_for_later(testbed, later).await?;
    let crowded = idle_cost(testbed, run).await?;
    // A look at all of them would take many milliseconds of every second.
    let most = run.size.of(SHORT_COST, MEASURABLE);
    run.verdict.figure("scheduled_for_later", f64::from(later));
    run.verdict.figure("idle_core_permille_without", quiet * 10.0);
    run.verdict.figure("idle_core_permille_with", crowded * 10.0);
    run.verdict.require(crowded - quiet <= most, || {
        format!("an idle worker and its connections went from {quiet:.2} to {crowded:.2} % of a core")
    });

    let nonces = enqueue_for(testbed, run, burst, ahead).await?;
    for _ in 1..run.size.of(2, 4) {
        testbed.start_worker(&WorkerPlan::own())?;
    }
    testbed.workers_ready().await?;
    let early: i64 = sqlx::query_scalar("SELECT count(*) FROM chaos_starts")
        .fetch_one(&testbed.pool)
        .await?;
    // Nothing is due yet, so an empty queue says nothing: wait for the burst itself.
    wait_for_all(testbed, nonces.len()).await?;
    audit::drain(testbed, DRAIN_LIMIT, &mut run.verdict).await?;
    run.verdict.faults = 1;
    run.verdict.figure("begun_before_the_workers_were_ready", early as f64);
    audit::marks(testbed, &nonces, &mut run.verdict).await?;
    on_time(testbed, run, burst).await?;
    without_time_limit(testbed, "DELETE FROM jobs WHERE state = 'scheduled'").await?;
    audit::jobs(testbed, &mut run.verdict).await
}

/// The least that idle workers and their connections took in some looks, in per cent of a core: what else happens on a
/// machine adds to it, and takes nothing away.
async fn idle_cost(testbed: &Testbed, run: &Run) -> Result<f64> {
    let (looks, window) = run.size.of((2, Duration::from_secs(6)), (3, Duration::from_secs(60)));
    let mut least = f64::INFINITY;
    for _ in 0..looks {
        least = least.min(cpu::of_workers(testbed, window).await?);
    }
    Ok(least)
}

async fn schedule_for_later(testbed: &Testbed, count: i32) -> Result<()> {
    let rows = format!(
        r#"INSERT INTO jobs (id, kind, queue, priority, args, max_attempts, state, run_at)
           SELECT gen_random_uuid(), 'chaos.mark', 'maintenance', 50, '{{"nonce": "00000000-0000-0000-0000-000000000000", "hold_ms": 0}}', 3,
                  'scheduled', now() + interval '30 days' + make_interval(secs => n)
           FROM generate_series(1, {count}) AS n"#
    );
    without_time_limit(testbed, &rows).await?;
    // At once, rather than by autovacuum in the middle of what is measured.
    without_time_limit(testbed, "VACUUM (ANALYZE) jobs").await
}

/// A pool's statements end after seconds; a million rows take longer.
async fn without_time_limit(testbed: &Testbed, statement: &str) -> Result<()> {
    let mut connection = testbed.pool.acquire().await?;
    sqlx::raw_sql("SET statement_timeout = 0")
        .execute(&mut *connection)
        .await?;
    sqlx::raw_sql(AssertSqlSafe(statement.to_owned()))
        .execute(&mut *connection)
        .await?;
    connection.close().await?;
    Ok(())
}

/// All for the same second, so many seconds from now, and all before it: otherwise they would come one after the other.
async fn enqueue_for(testbed: &Testbed, run: &mut Run, count: usize, ahead: i64) -> Result<Vec<Uuid>> {
    let db = testbed.db()?;
    let due = db.clock().now() + TimeDelta::seconds(ahead);
    let mut nonces = Vec::with_capacity(count);
    while nonces.len() < count {
        let mut tx = db.begin().await?;
        for _ in 0..500.min(count - nonces.len()) {
            let nonce = Uuid::new_v4();
            tx.enqueue_at(&Mark { nonce, hold_ms: 0 }, due);
            nonces.push(nonce);
        }
        tx.commit().await?;
    }
    let left = (due - db.clock().now()).num_milliseconds();
    run.verdict.figure("enqueued_ahead_ms", left as f64);
    run.verdict.require(left > 0, || {
        format!(
            "the last job was enqueued {} ms after all were due: that is no burst",
            -left
        )
    });
    Ok(nonces)
}

async fn wait_for_all(testbed: &Testbed, count: usize) -> Result<()> {
    let deadline = Instant::now() + DRAIN_LIMIT;
    loop {
        let done: i64 = sqlx::query_scalar("SELECT count(*) FROM chaos_effects")
            .fetch_one(&testbed.pool)
            .await?;
        if done >= i64::try_from(count)? || Instant::now() > deadline {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// None before its time; how long it took until the last.
async fn on_time(testbed: &Testbed, run: &mut Run, burst: usize) -> Result<()> {
    let rows: Vec<f64> = sqlx::query_scalar(
        "SELECT (extract(epoch FROM chaos_starts.at - jobs.run_at) * 1000)::float8 FROM chaos_starts JOIN jobs ON args->>'nonce' = nonce::text
         WHERE jobs.kind = 'chaos.mark' AND jobs.state = 'succeeded'",
    )
    .fetch_all(&testbed.pool)
    .await?;
    let early = rows.iter().filter(|late| **late < 0.0).count();
    run.verdict
        .require(early == 0, || format!("{early} jobs were begun before their time"));
    run.verdict.recovered(&rows, DRAIN_LIMIT.as_secs_f64() * 1000.0);
    let seconds = run.verdict.recovery_ms.max / 1000.0;
    run.verdict.figure("jobs_per_second", burst as f64 / seconds.max(0.001));
    Ok(())
}
