//! The clocks of the workers are five minutes before and behind. What the engine decides, it decides by Postgres' clock: no
//! lease is given twice, no job begins before it is due, no tick of the cron table fires twice. And nothing is captured
//! before its booking is confirmed and approved.

mod watch;

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use rand::Rng;
use uuid::Uuid;

use super::{
    Run, audit,
    audit::Fate,
    jobs::{self, Mark},
    load::DRAIN_LIMIT,
    market::{Answer, Asked, Market},
    testbed::{Testbed, WorkerPlan},
};

/// Seconds.
const OFFSETS: [i64; 2] = [300, -300];
/// Longer than a lease, so that it must be renewed.
const LONG_MS: u64 = 12_000;
/// Lines of the cron table whose jobs do the same by every clock here: they look back by days.
const SCHEDULES: [&str; 2] = ["outbox.prune", "stays.complete"];

pub async fn play(testbed: &mut Testbed, run: &mut Run) -> Result<()> {
    let bookings = run.size.of(16, 400);
    watch::install(testbed).await?;
    testbed.start_api().await?;
    for clock_offset in OFFSETS.repeat(run.size.of(1, 3)) {
        testbed.start_worker(&WorkerPlan {
            clock_offset,
            ..WorkerPlan::own()
        })?;
        run.verdict.faults += 1;
    }
    testbed.workers_ready().await?;
    let market = Market::open(testbed, 20, 2).await?;
    let mut nonces = jobs::enqueue(&testbed.db()?, run.size.of(20, 200), |_| LONG_MS).await?;
    nonces.extend(schedule(testbed, run).await?);
    let requests = ask_the_host(testbed, &market, run).await?;
    let mut asked = market.ask_steadily(0, bookings, Duration::from_millis(50)).await?;
    let (early_ticks, all_ticks) = run.size.of((1, 3), (5, 11));
    let mut ticks = tick(testbed, 0..early_ticks).await?;
    audit::drain(testbed, DRAIN_LIMIT, &mut run.verdict).await?;
    nothing_taken_yet(testbed, run, &requests).await?;
    for one in &requests {
        if let Answer::Booked(id) = one.answer {
            market.approve(id).await?;
        }
    }
    asked.extend(requests);
    audit::drain(testbed, DRAIN_LIMIT, &mut run.verdict).await?;
    expiries(testbed, run).await?;
    dismiss_the_leader(testbed).await?;
    ticks.extend(tick(testbed, early_ticks..all_ticks).await?);
    audit::drain(testbed, DRAIN_LIMIT, &mut run.verdict).await?;

    audit::jobs(testbed, &mut run.verdict).await?;
    audit::marks(testbed, &nonces, &mut run.verdict).await?;
    // Their holds had more minutes left than any clock is ahead: a worker that is late or early has authorised them all.
    audit::bookings(testbed, &asked, |_| Fate::Captured, &mut run.verdict).await?;
    on_time(testbed, run).await?;
    watch::leases(testbed, run).await?;
    watch::ticks(testbed, run, &ticks).await
}

/// Jobs for moments of the next seconds.
async fn schedule(testbed: &Testbed, run: &mut Run) -> Result<Vec<Uuid>> {
    let db = testbed.db()?;
    let mut tx = db.begin().await?;
    let mut nonces = Vec::new();
    for _ in 0..run.size.of(60, 2_000) {
        let (nonce, after) = (Uuid::new_v4(), run.dice.random_range(500..5_000));
        let due = tx.now() + TimeDelta::milliseconds(after);
        tx.enqueue_at(&Mark { nonce, hold_ms: 0 }, due);
        nonces.push(nonce);
    }
    tx.commit().await?;
    Ok(nonces)
}

/// Bookings that the host has to approve, and that therefore nothing may be taken for.
async fn ask_the_host(testbed: &Testbed, market: &Market, run: &mut Run) -> Result<Vec<Asked>> {
    let requests = market.ask_a_careful_host(run.size.of(4, 30)).await?;
    let began = Instant::now();
    audit::drain(testbed, DRAIN_LIMIT, &mut run.verdict).await?;
    run.verdict
        .figure("requests_ready_after_seconds", began.elapsed().as_secs_f64());
    Ok(requests)
}

async fn nothing_taken_yet(testbed: &Testbed, run: &mut Run, requests: &[Asked]) -> Result<()> {
    let ids: Vec<Uuid> = requests
        .iter()
        .filter_map(|one| match one.answer {
            Answer::Booked(id) => Some(id),
            Answer::Refused(..) => None,
        })
        .collect();
    let intents: Vec<String> = sqlx::query_scalar(
        "SELECT stripe_payment_intent_id FROM payments JOIN bookings ON bookings.id = booking_id
         WHERE booking_id = ANY($1) AND bookings.state = 'pending_approval' AND payments.state = 'authorized'",
    )
    .bind(&ids)
    .fetch_all(&testbed.pool)
    .await?;
    run.verdict.require(intents.len() == requests.len(), || {
        format!("{} of {} requests wait for the host", intents.len(), requests.len())
    });
    let record = testbed.sandbox("/_control/record").await?;
    let record = record["payment_intents"].as_array().context("no record")?;
    let early = record
        .iter()
        .filter(|intent| intents.iter().any(|id| intent["id"] == id.as_str()) && intent["captured"] != 0)
        .count();
    run.verdict.require(early == 0, || {
        format!("{early} payments were captured before the host approved")
    });
    Ok(())
}

/// Ticks of these numbers that are due by every clock here, one after the other, each fired by whoever leads. The ticks.
///
/// They are of one schedule and the other in turn: whoever fires the one looks at the other, which has just been fired.
async fn tick(testbed: &Testbed, numbers: Range<usize>) -> Result<Vec<DateTime<Utc>>> {
    let mut ticks = Vec::new();
    for number in numbers {
        let name = SCHEDULES.get(number % SCHEDULES.len()).copied().unwrap_or_default();
        let deadline = Instant::now() + DRAIN_LIMIT;
        let tick: DateTime<Utc> = loop {
            let due = sqlx::query_scalar(
                "UPDATE cron_schedules SET next_tick = now() - interval '10 minutes' WHERE name = $1 RETURNING next_tick",
            );
            if let Some(tick) = due.bind(name).fetch_optional(&testbed.pool).await? {
                break tick;
            }
            ensure!(Instant::now() < deadline, "nobody has looked at the cron table");
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        until(testbed, "SELECT EXISTS (SELECT FROM chaos_ticks WHERE tick = $1)", tick).await?;
        ticks.push(tick);
    }
    Ok(ticks)
}

/// The holds of all bookings end in a moment, which is long past for a worker whose clock is ahead.
async fn expiries(testbed: &Testbed, run: &mut Run) -> Result<()> {
    let ends: Vec<DateTime<Utc>> = sqlx::query_scalar(
        "UPDATE jobs SET run_at = now() + interval '4 seconds' WHERE kind = 'booking.expire_hold' AND state = 'scheduled' RETURNING run_at",
    )
    .fetch_all(&testbed.pool)
    .await?;
    let end = *ends.first().context("no hold has a job that ends it")?;
    run.verdict.figure("holds_ended", ends.len() as f64);
    let done = "SELECT NOT EXISTS (SELECT FROM jobs WHERE kind = 'booking.expire_hold' AND run_at = $1 AND state <> 'succeeded')";
    until(testbed, done, end).await
}

/// Asks about this instant until the answer is yes.
async fn until(testbed: &Testbed, question: &'static str, instant: DateTime<Utc>) -> Result<()> {
    let deadline = Instant::now() + DRAIN_LIMIT;
    while !sqlx::query_scalar::<_, bool>(question)
        .bind(instant)
        .fetch_one(&testbed.pool)
        .await?
    {
        ensure!(Instant::now() < deadline, "still not after {DRAIN_LIMIT:?}: {question}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Stops the leader and all whose clocks go like its own: one of the others leads from here on.
async fn dismiss_the_leader(testbed: &mut Testbed) -> Result<()> {
    let leader: String = sqlx::query_scalar("SELECT name FROM workers WHERE stopped_at IS NULL ORDER BY name LIMIT 1")
        .fetch_one(&testbed.pool)
        .await?;
    // host-pid-start
    let pid: u32 = leader.rsplit('-').nth(1).context("a worker without a pid")?.parse()?;
    let place = testbed.workers.iter().position(|worker| worker.pid() == pid);
    let like = place.context("the leader is none of ours")? % OFFSETS.len();
    let all = std::mem::take(&mut testbed.workers).into_iter().enumerate();
    let (gone, stay): (Vec<_>, Vec<_>) = all.partition(|(place, _)| place % OFFSETS.len() == like);
    testbed.workers = stay.into_iter().map(|(_, worker)| worker).collect();
    // Asks them to stop, and waits.
    tokio::task::spawn_blocking(move || drop(gone)).await?;
    Ok(())
}

/// No job was begun before it was due by Postgres' clock: those of the harness, ends of holds, retries, whatever there is.
async fn on_time(testbed: &Testbed, run: &mut Run) -> Result<()> {
    let late: Vec<f64> = sqlx::query_scalar(
        "SELECT (extract(epoch FROM at - run_at) * 1000)::float8 FROM chaos_starts JOIN jobs ON args->>'nonce' = nonce::text
         WHERE run_at > jobs.created_at + interval '400 milliseconds'",
    )
    .fetch_all(&testbed.pool)
    .await?;
    run.verdict
        .require(!late.is_empty(), || "no job was scheduled for later".to_owned());
    run.verdict.recovered(&late, 10_000.0);
    let early: Vec<(String, f64)> = sqlx::query_as(
        "SELECT kind, extract(epoch FROM run_at - last.started_at)::float8 FROM jobs
         CROSS JOIN LATERAL (SELECT started_at FROM job_attempts WHERE job_id = jobs.id ORDER BY fence DESC LIMIT 1) AS last
         WHERE state = 'succeeded' AND last.started_at < run_at",
    )
    .fetch_all(&testbed.pool)
    .await?;
    run.verdict.require(early.is_empty(), || {
        format!("{} jobs were begun before their time: {:?}", early.len(), early.first())
    });
    Ok(())
}
