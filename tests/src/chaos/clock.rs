//! The clocks of the workers are five minutes before and behind: nothing is done early, no lease is given twice.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use chrono::TimeDelta;
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

pub async fn play(testbed: &mut Testbed, run: &mut Run) -> Result<()> {
    let bookings = run.size.of(16, 400);
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
    tokio::time::sleep(Duration::from_secs(6)).await;
    audit::drain(testbed, DRAIN_LIMIT, &mut run.verdict).await?;
    nothing_taken_yet(testbed, run, &requests).await?;
    for one in &requests {
        if let Answer::Booked(id) = one.answer {
            market.approve(id).await?;
        }
    }
    asked.extend(requests);
    audit::drain(testbed, DRAIN_LIMIT, &mut run.verdict).await?;

    audit::jobs(testbed, &mut run.verdict).await?;
    audit::marks(testbed, &nonces, &mut run.verdict).await?;
    audit::bookings(testbed, &asked, |_| Fate::Captured, &mut run.verdict).await?;
    leases(testbed, run).await
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

/// None before its time, none on two workers.
async fn leases(testbed: &Testbed, run: &mut Run) -> Result<()> {
    let late: Vec<f64> = sqlx::query_scalar(
        "SELECT (extract(epoch FROM at - run_at) * 1000)::float8 FROM chaos_starts JOIN jobs ON args->>'nonce' = nonce::text
         WHERE run_at > jobs.created_at + interval '400 milliseconds'",
    )
    .fetch_all(&testbed.pool)
    .await?;
    run.verdict
        .require(!late.is_empty(), || "no job was scheduled for later".to_owned());
    run.verdict.recovered(&late, 10_000.0);
    let (early, twice): (i64, i64) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM chaos_starts JOIN jobs ON args->>'nonce' = nonce::text WHERE at < run_at),
                (SELECT count(*) FROM (SELECT FROM chaos_starts GROUP BY nonce HAVING count(*) > 1) AS again)",
    )
    .fetch_one(&testbed.pool)
    .await?;
    run.verdict
        .require(early == 0, || format!("{early} jobs were begun before their time"));
    run.verdict.double(twice.unsigned_abs(), "leases");
    let workers: i64 = sqlx::query_scalar("SELECT count(DISTINCT pid) FROM chaos_starts")
        .fetch_one(&testbed.pool)
        .await?;
    run.verdict.require(workers >= 2, || {
        format!("only {workers} worker did anything: this proves nothing")
    });
    Ok(())
}
