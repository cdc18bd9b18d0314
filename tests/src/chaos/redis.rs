//! Redis forgets, crashes, is away, is full: it costs time and nothing else.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use rand::Rng;

use super::{
    Run, audit, jobs,
    load::{DRAIN_LIMIT, Load, everything_is_there},
    market::Market,
    proxy::Mode,
    testbed::{Testbed, WorkerPlan},
};
use crate::services::process::Signal;

/// The API answers without Redis as with it, but that people have to sign in again when their sessions are gone.
const WITHOUT_REDIS: [u16; 2] = [201, 401];

/// FLUSHALL while many jobs wait, some of them in Redis.
pub async fn flush(testbed: &mut Testbed, run: &mut Run) -> Result<()> {
    let (pending, flushes, workers) = run.size.of((3_000_usize, 2_u32, 2), (100_000, 5, 4));
    testbed.start_api().await?;
    let market = Market::open(testbed, 10, 2).await?;
    let mut nonces = jobs::enqueue(&testbed.db()?, pending, |_| 2).await?;
    for _ in 0..workers {
        testbed.start_worker(&WorkerPlan {
            concurrency: Some(8),
            ..WorkerPlan::own()
        })?;
    }
    testbed.workers_ready().await?;
    let bookings = run.size.of(20, 300);
    let booking = {
        let market = market.clone();
        tokio::spawn(async move { market.ask_steadily(0, bookings, Duration::from_millis(100)).await })
    };
    let (mut forgotten, mut times) = (0, Vec::new());
    for number in 0..flushes {
        // At a random moment while there is still much to do.
        let share = (f64::from(number) + run.dice.random_range(0.1..0.9)) / f64::from(flushes + 1);
        wait_until_done(testbed, (pending as f64 * share) as i64).await?;
        // Workers fetch ahead: for these messages to be in Redis when it forgets, they stand still for a moment.
        all_workers(testbed, Signal::Stop);
        nonces.extend(jobs::enqueue(&testbed.db()?, 500, |_| 2).await?);
        let (depth, at) = forget(testbed).await?;
        all_workers(testbed, Signal::Cont);
        forgotten += depth;
        run.verdict.faults += 1;
        times.push(published_again(testbed, at).await?);
    }
    let asked = booking.await??;
    audit::drain(testbed, DRAIN_LIMIT, &mut run.verdict).await?;
    everything_is_there(testbed, run, &asked, &nonces, &WITHOUT_REDIS).await?;
    run.verdict.figure("messages_forgotten", forgotten as f64);
    run.verdict.require(forgotten >= 100 * u64::from(flushes), || {
        format!("only {forgotten} messages were in Redis when it was flushed: this proves little")
    });
    run.verdict.recovered(&times, 15_000.0);
    Ok(())
}

fn all_workers(testbed: &mut Testbed, signal: Signal) {
    for worker in &mut testbed.workers {
        worker.process.signal(signal);
    }
}

/// Flushes. How many messages were forgotten, and when.
async fn forget(testbed: &Testbed) -> Result<(u64, DateTime<Utc>)> {
    let redis = testbed.redis()?;
    let queue = redis.key("maintenance");
    let depth = || async {
        let (due, active): (u64, u64) = redis::pipe()
            .zcard(format!("{queue}:scheduled"))
            .llen(format!("{queue}:active"))
            .query_async(&mut redis.connection())
            .await?;
        anyhow::Ok(due + active)
    };
    // Publishing follows the commit.
    let deadline = Instant::now() + Duration::from_secs(5);
    while depth().await? == 0 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let forgotten = depth().await?;
    let at = testbed.now().await?;
    redis::cmd("FLUSHALL").exec_async(&mut redis.connection()).await?;
    Ok((forgotten, at))
}

/// The milliseconds until no job counts as published that was published before the flush.
async fn published_again(testbed: &Testbed, flushed: DateTime<Utc>) -> Result<f64> {
    let began = Instant::now();
    loop {
        let waiting: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM jobs WHERE state = 'queued' AND queue = 'maintenance' AND published_at <= $1)",
        )
        .bind(flushed)
        .fetch_one(&testbed.pool)
        .await?;
        let took = began.elapsed();
        if !waiting || took > DRAIN_LIMIT {
            return Ok(took.as_secs_f64() * 1000.0);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn wait_until_done(testbed: &Testbed, count: i64) -> Result<()> {
    let deadline = Instant::now() + DRAIN_LIMIT;
    loop {
        let done: i64 = sqlx::query_scalar("SELECT count(*) FROM chaos_starts")
            .fetch_one(&testbed.pool)
            .await?;
        if done >= count {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < deadline, "only {done} jobs have begun, not {count}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The server is killed and started again, empty.
pub async fn restart(testbed: &mut Testbed, run: &mut Run) -> Result<()> {
    let restarts = run.size.of(3, 20);
    let gaps: Vec<(Duration, Duration)> = (0..restarts)
        .map(|_| {
            let up = Duration::from_millis(run.dice.random_range(500..2_000));
            let down = Duration::from_millis(run.dice.random_range(0..1_500));
            (up, down)
        })
        .collect();
    let span = gaps.iter().map(|(up, down)| *up + *down).sum();
    let load = Load::start(testbed, span).await?;
    for (up, down) in gaps {
        tokio::time::sleep(up).await;
        testbed.services.redis_mut()?.kill()?;
        tokio::time::sleep(down).await;
        testbed.services.redis_mut()?.start_again()?;
        run.verdict.faults += 1;
    }
    load.finish(testbed, run, Instant::now(), &WITHOUT_REDIS).await
}

/// The server is away for a minute: first it refuses connections, then it accepts them and says nothing.
pub async fn down(testbed: &mut Testbed, run: &mut Run) -> Result<()> {
    let half = run.size.of(Duration::from_secs(4), Duration::from_secs(30));
    let load = Load::start(testbed, half * 2).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    testbed.services.redis_mut()?.kill()?;
    tokio::time::sleep(half).await;
    testbed.redis_proxy.set(Mode::Hang);
    testbed.services.redis_mut()?.start_again()?;
    tokio::time::sleep(half).await;
    testbed.redis_proxy.set(Mode::Pass);
    run.verdict.faults += 2;
    load.finish(testbed, run, Instant::now(), &WITHOUT_REDIS).await
}

/// The server has no room for another byte.
pub async fn maxmemory(testbed: &mut Testbed, run: &mut Run) -> Result<()> {
    let span = run.size.of(Duration::from_secs(5), Duration::from_secs(60));
    let load = Load::start(testbed, span).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let redis = testbed.redis()?;
    limit_memory(&redis, "1mb").await?;
    tokio::time::sleep(span).await;
    let api = testbed.api.as_ref().context("no API")?;
    let failed = api.metric(&testbed.http, "roost_publish_failed_total").await?;
    limit_memory(&redis, "0").await?;
    let back = Instant::now();
    run.verdict.faults += 1;
    run.verdict.figure("publish_failed_total", failed);
    run.verdict.require(failed > 0.0, || {
        "no metric tells that Redis is full: roost_publish_failed_total is zero".to_owned()
    });
    let told = testbed.logs("api")?.matches("OOM").count();
    run.verdict.figure("log_lines_naming_oom", told as f64);
    run.verdict.require(told > 0, || {
        "no line of the API's log tells that Redis is full".to_owned()
    });
    load.finish(testbed, run, back, &WITHOUT_REDIS).await
}

async fn limit_memory(redis: &roost_shared::redis::Redis, most: &str) -> Result<()> {
    redis::cmd("CONFIG")
        .arg("SET")
        .arg("maxmemory")
        .arg(most)
        .exec_async(&mut redis.connection())
        .await?;
    Ok(())
}
