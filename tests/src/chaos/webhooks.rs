//! Stripe's events arrive five times each, shuffled, many at once, and again three days later: the same final state as
//! when each arrives once and in order.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use chrono::TimeDelta;
use futures::{StreamExt, stream};
use rand::seq::SliceRandom;
use roost_shared::{clock::Clock, jobs::catalogue::PruneOutbox};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    Run, audit,
    load::DRAIN_LIMIT,
    market::{Answer, Market},
    money,
    testbed::{Testbed, WorkerPlan},
};
use crate::stripe::signature_header;

/// How often each event arrives.
const TIMES: usize = 5;
const AT_ONCE: usize = 16;
/// One after the other: paid at once, refused, authenticated by the guest, and given up after payment.
const CARDS: [&str; 4] = [
    "pm_card_visa",
    "pm_card_visa_chargeDeclined",
    "pm_card_threeDSecureRequired",
    "pm_card_mastercard",
];
const GIVEN_UP: usize = 3;

pub async fn play(testbed: &mut Testbed, run: &mut Run) -> Result<()> {
    let count = run.size.of(12, 400);
    testbed.start_api().await?;
    testbed.start_worker(&WorkerPlan::default())?;
    testbed.workers_ready().await?;
    // We are the only one who delivers.
    let endpoints = testbed.sandbox_url("/_control/webhook_endpoints");
    testbed
        .http
        .put(endpoints)
        .json(&json!([]))
        .send()
        .await?
        .error_for_status()?;
    let market = Market::open(testbed, 20, 2).await?;

    let orderly = book(testbed, &market, 0, count, run).await?;
    let events = events(testbed, 0).await?;
    for event in &events {
        deliver(testbed, event).await?;
    }
    audit::drain(testbed, DRAIN_LIMIT, &mut run.verdict).await?;
    let expected = summary(testbed, &orderly).await?;

    let stormy = book(testbed, &market, count, count, run).await?;
    let late = self::events(testbed, events.len()).await?;
    run.verdict.figure("events", late.len() as f64);
    let began = Instant::now();
    storm(testbed, run, &late).await?;
    let settled = began.elapsed().as_secs_f64() * 1000.0;
    let got = summary(testbed, &stormy).await?;
    same(run, &expected, &got, "after a storm of events");
    money::agrees_with_stripe(testbed, &mut run.verdict).await?;

    three_days_later(testbed).await?;
    audit::drain(testbed, DRAIN_LIMIT, &mut run.verdict).await?;
    // The tidying by the worker's clock tells that it has moved: replies are kept for a day.
    let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM idempotency_keys")
        .fetch_one(&testbed.pool)
        .await?;
    run.verdict.require(kept == 0, || {
        format!("{kept} replies of three days ago are kept: the clock has not moved")
    });
    storm(testbed, run, &late).await?;
    let again = summary(testbed, &stormy).await?;
    same(run, &got, &again, "after the same storm three days later");
    let orderly = summary(testbed, &orderly).await?;
    same(
        run,
        &expected,
        &orderly,
        "three days later, though nothing came for them",
    );
    money::agrees_with_stripe(testbed, &mut run.verdict).await?;
    money::books(testbed, &mut run.verdict).await?;

    run.verdict.recovered(&[settled], 60_000.0);
    once_each(testbed, run, events.len() + late.len()).await?;
    audit::jobs(testbed, &mut run.verdict).await
}

/// Bookings with every kind of card, and what guest and bank do about them.
async fn book(testbed: &Testbed, market: &Market, first: usize, count: usize, run: &mut Run) -> Result<Vec<Uuid>> {
    let mut bookings = Vec::with_capacity(count);
    for number in 0..count {
        let mut wish = market.wish(first + number);
        wish.card = CARDS.get(number % CARDS.len()).copied().unwrap_or_default();
        let asked = market.ask(first + number, wish).await?;
        let Answer::Booked(id) = asked.answer else {
            anyhow::bail!("not booked: {asked:?}");
        };
        bookings.push(id);
    }
    audit::drain(testbed, DRAIN_LIMIT, &mut run.verdict).await?;
    for (number, booking) in bookings.iter().enumerate() {
        if number % CARDS.len() == GIVEN_UP {
            market.cancel(first + number, *booking).await?;
        }
    }
    let waiting: Vec<String> = sqlx::query_scalar(
        "SELECT stripe_payment_intent_id FROM payments WHERE state = 'requires_action' AND booking_id = ANY($1)",
    )
    .bind(&bookings)
    .fetch_all(&testbed.pool)
    .await?;
    ensure!(!waiting.is_empty(), "no card asked for authentication");
    for intent in waiting {
        testbed
            .tell_sandbox(&format!("/_control/payment_intents/{intent}/complete_3ds"), &json!({}))
            .await?;
    }
    audit::drain(testbed, DRAIN_LIMIT, &mut run.verdict).await?;
    Ok(bookings)
}

/// The sandbox's events so far but for the first of them, oldest first.
async fn events(testbed: &Testbed, skip: usize) -> Result<Vec<Value>> {
    let events = testbed.sandbox("/_control/events").await?;
    let events = events.as_array().context("no events")?;
    Ok(events.iter().skip(skip).cloned().collect())
}

async fn deliver(testbed: &Testbed, event: &Value) -> Result<()> {
    let body = event.to_string();
    let secrets = [testbed.webhook_secret.clone()];
    let signature = signature_header(&body, &secrets, Clock::default().now().timestamp());
    let reply = testbed
        .http
        .post(testbed.api_url("/webhooks/stripe"))
        .header("Stripe-Signature", signature)
        .header("content-type", "application/json")
        .body(body)
        .send()
        .await?;
    ensure!(reply.status().is_success(), "a webhook was answered {}", reply.status());
    Ok(())
}

async fn storm(testbed: &Testbed, run: &mut Run, events: &[Value]) -> Result<()> {
    let mut many: Vec<&Value> = events.iter().cycle().take(events.len() * TIMES).collect();
    many.shuffle(&mut run.dice);
    run.verdict.faults += many.len() as u64;
    let mut delivered = stream::iter(many.into_iter().map(|event| deliver(testbed, event))).buffer_unordered(AT_ONCE);
    while let Some(done) = delivered.next().await {
        done?;
    }
    drop(delivered);
    // Handling an event may ask for another look in a moment.
    tokio::time::sleep(Duration::from_millis(500)).await;
    audit::drain(testbed, DRAIN_LIMIT, &mut run.verdict).await
}

/// The clocks of the worker and of Stripe move on by three days, and the hourly tidying comes by.
async fn three_days_later(testbed: &mut Testbed) -> Result<()> {
    let worker = testbed.workers.pop().context("no worker")?;
    // Asks it to stop, and waits.
    tokio::task::spawn_blocking(move || drop(worker)).await?;
    let seconds = TimeDelta::hours(72).num_seconds();
    testbed
        .tell_sandbox("/_control/clock/advance", &json!({"seconds": seconds}))
        .await?;
    testbed.start_worker(&WorkerPlan {
        clock_offset: seconds,
        ..WorkerPlan::own()
    })?;
    testbed.workers_ready().await?;
    let mut tx = testbed.db()?.begin().await?;
    tx.enqueue(&PruneOutbox {});
    tx.commit().await?;
    Ok(())
}

/// What became of each booking, in the order of the bookings.
async fn summary(testbed: &Testbed, bookings: &[Uuid]) -> Result<Vec<String>> {
    Ok(sqlx::query_scalar(
        "SELECT concat_ws(' ', bookings.state, payments.state, captured_minor, refunded_minor, failure_code,
                (SELECT string_agg(event, ',' ORDER BY event) FROM booking_events WHERE booking_id = bookings.id),
                (SELECT string_agg(account || amount_minor, ',' ORDER BY key, account) FROM ledger_transactions
                 JOIN ledger_entries ON transaction_id = ledger_transactions.id WHERE booking_id = bookings.id))
         FROM unnest($1::uuid[]) WITH ORDINALITY AS wanted (id, place)
         JOIN bookings USING (id) JOIN payments ON payments.booking_id = bookings.id ORDER BY place",
    )
    .bind(bookings)
    .fetch_all(&testbed.pool)
    .await?)
}

fn same(run: &mut Run, expected: &[String], got: &[String], when: &str) {
    let differ: Vec<_> = expected.iter().zip(got).filter(|(one, other)| one != other).collect();
    run.verdict
        .require(differ.is_empty() && expected.len() == got.len(), || {
            format!("{} bookings differ {when}: {:?}", differ.len(), differ.first())
        });
}

/// Each event is on record once and was handled by one job.
async fn once_each(testbed: &Testbed, run: &mut Run, sent: usize) -> Result<()> {
    let (stored, jobs): (i64, i64) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM stripe_events), (SELECT count(*) FROM jobs WHERE kind = 'stripe.event.handle')",
    )
    .fetch_one(&testbed.pool)
    .await?;
    run.verdict.figure("events_stored", stored as f64);
    run.verdict.require(stored > 0 && stored <= i64::try_from(sent)?, || {
        format!("{stored} of {sent} events are on record")
    });
    run.verdict
        .double((jobs - stored).max(0).unsigned_abs(), "jobs of events");
    run.verdict
        .lose((stored - jobs).max(0).unsigned_abs(), "jobs of events");
    Ok(())
}
