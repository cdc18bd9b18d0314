//! Stripe's events arrive five times each, shuffled, many at once, after the jobs of their bookings, beside them, and again
//! three days later: the same final state as when each arrives once and in order.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use chrono::TimeDelta;
use futures::{StreamExt, stream};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};
use roost_api::{
    server::{self, Bounds, Running},
    state::{AppConfig, AppState, Settings},
};
use roost_shared::{clock::Clock, config::Secret, db, jobs::catalogue::PruneOutbox, stripe::events::is_about_payments};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Run, audit,
    load::DRAIN_LIMIT,
    market::{Answer, Market},
    money,
    testbed::{Testbed, WorkerPlan},
};
use crate::{services::random_hex, stripe::signature_header};

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

    let door = Door::of(testbed);
    let orderly = book(testbed, &market, 0, count, run).await?;
    let mut sent = events(testbed, 0).await?;
    for event in &sent {
        door.deliver(event).await?;
    }
    audit::drain(testbed, DRAIN_LIMIT, &mut run.verdict).await?;
    let expected = summary(testbed, &orderly).await?;

    let stormy = book(testbed, &market, count, count, run).await?;
    let late = events(testbed, sent.len()).await?;
    sent.extend_from_slice(&late);
    run.verdict.figure("events", late.len() as f64);
    let began = Instant::now();
    storm(testbed, &door, run, &late).await?;
    let settled = began.elapsed().as_secs_f64() * 1000.0;
    let got = summary(testbed, &stormy).await?;
    same(run, &expected, &got, "after a storm of events");

    let hurried = book_in_a_storm(testbed, &door, &market, 2 * count, count, run).await?;
    let beside = events(testbed, sent.len()).await?;
    sent.extend_from_slice(&beside);
    storm(testbed, &door, run, &beside).await?;
    let got = summary(testbed, &hurried).await?;
    same(run, &expected, &got, "after a storm beside their jobs");
    money::agrees_with_stripe(testbed, &mut run.verdict).await?;

    let (server, door) = three_days_later(testbed, run).await?;
    audit::drain(testbed, DRAIN_LIMIT, &mut run.verdict).await?;
    // The tidying by the worker's clock tells that it has moved: replies are kept for a day.
    let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM idempotency_keys")
        .fetch_one(&testbed.pool)
        .await?;
    run.verdict.require(kept == 0, || {
        format!("{kept} replies of three days ago are kept: the clock has not moved")
    });
    storm(testbed, &door, run, &sent).await?;
    server.stop().await?;
    for bookings in [orderly, stormy, hurried] {
        let again = summary(testbed, &bookings).await?;
        same(run, &expected, &again, "after a storm of all events three days later");
    }
    money::agrees_with_stripe(testbed, &mut run.verdict).await?;
    money::books(testbed, &mut run.verdict).await?;

    run.verdict.recovered(&[settled], 60_000.0);
    once_each(testbed, run, &sent).await?;
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

/// The same, while each event is delivered as soon as Stripe has it, in the middle of the job that caused it or of others.
async fn book_in_a_storm(
    testbed: &Testbed,
    door: &Door,
    market: &Market,
    first: usize,
    count: usize,
    run: &mut Run,
) -> Result<Vec<Uuid>> {
    let (booked, mut dice) = (CancellationToken::new(), StdRng::seed_from_u64(run.dice.random()));
    let known = events(testbed, 0).await?;
    let mut last = id_of(known.last().context("no events")?)?;
    let delivering = async {
        let (mut deliveries, mut beside) = (0, 0);
        while !booked.is_cancelled() {
            let new = newer(testbed, &last).await?;
            if let Some(newest) = new.last() {
                last = id_of(newest)?;
                // What runs while they are on their way runs beside them.
                if is_running(testbed).await? {
                    beside += new.len();
                }
            }
            deliveries += door.deliver_often(&new, &mut dice).await?;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        anyhow::Ok((deliveries, beside))
    };
    let booking = async {
        let done = book(testbed, market, first, count, run).await;
        booked.cancel();
        done
    };
    let (bookings, delivered) = tokio::join!(booking, delivering);
    let (deliveries, beside) = delivered?;
    run.verdict.faults += deliveries as u64;
    run.verdict.figure("events_beside_jobs", beside as f64);
    run.verdict.require(beside >= count / 2, || {
        format!("only {beside} events came while jobs of payments ran: this proves little")
    });
    bookings
}

fn id_of(event: &Value) -> Result<String> {
    Ok(event["id"].as_str().context("an event without an id")?.to_owned())
}

/// The events that came right after this one, oldest first: asked for as Stripe is, because the list of all grows long.
async fn newer(testbed: &Testbed, than: &str) -> Result<Vec<Value>> {
    let url = testbed.sandbox_url(&format!("/v1/events?limit=100&ending_before={than}"));
    let request = testbed.http.get(url).bearer_auth("sk_test_chaos");
    let page: Value = request.send().await?.error_for_status()?.json().await?;
    let newest_first = page["data"].as_array().context("no list of events")?;
    Ok(newest_first.iter().rev().cloned().collect())
}

/// Whether a job is under way that has to do with payments.
async fn is_running(testbed: &Testbed) -> Result<bool> {
    let kinds = "SELECT EXISTS (SELECT FROM jobs WHERE state = 'running' AND queue IN ('payments', 'confirmation'))";
    Ok(sqlx::query_scalar(kinds).fetch_one(&testbed.pool).await?)
}

/// The sandbox's events so far but for the first of them, oldest first.
async fn events(testbed: &Testbed, skip: usize) -> Result<Vec<Value>> {
    let events = testbed.sandbox("/_control/events").await?;
    let events = events.as_array().context("no events")?;
    Ok(events.iter().skip(skip).cloned().collect())
}

/// Where events are delivered, and the time by the clock there.
struct Door {
    http: reqwest::Client,
    url: String,
    secret: String,
    clock: Clock,
}

impl Door {
    /// The door of the API.
    fn of(testbed: &Testbed) -> Self {
        Self {
            http: testbed.http.clone(),
            url: testbed.api_url("/webhooks/stripe"),
            secret: testbed.webhook_secret.clone(),
            clock: Clock::default(),
        }
    }

    /// Delivers an event that was signed just now by this clock.
    async fn knock(&self, event: &Value, clock: &Clock) -> Result<reqwest::Response> {
        let body = event.to_string();
        let signature = signature_header(&body, std::slice::from_ref(&self.secret), clock.now().timestamp());
        let request = self.http.post(&self.url).header("Stripe-Signature", signature);
        Ok(request
            .header("content-type", "application/json")
            .body(body)
            .send()
            .await?)
    }

    async fn deliver(&self, event: &Value) -> Result<()> {
        let reply = self.knock(event, &self.clock).await?;
        ensure!(reply.status().is_success(), "a webhook was answered {}", reply.status());
        Ok(())
    }

    /// Delivers each event as often as may be, in any order. How many deliveries that was.
    async fn deliver_often(&self, events: &[Value], dice: &mut StdRng) -> Result<usize> {
        let mut many: Vec<&Value> = events.iter().cycle().take(events.len() * TIMES).collect();
        many.shuffle(dice);
        let count = many.len();
        let mut delivered = stream::iter(many.into_iter().map(|event| self.deliver(event))).buffer_unordered(AT_ONCE);
        while let Some(done) = delivered.next().await {
            done?;
        }
        Ok(count)
    }
}

/// Delivers these events often, and waits until each is handled and nothing is left to do.
async fn storm(testbed: &Testbed, door: &Door, run: &mut Run, events: &[Value]) -> Result<()> {
    run.verdict.faults += door.deliver_often(events, &mut run.dice).await? as u64;
    let deadline = Instant::now() + DRAIN_LIMIT;
    loop {
        let open: i64 = sqlx::query_scalar("SELECT count(*) FROM stripe_events WHERE handled_at IS NULL")
            .fetch_one(&testbed.pool)
            .await?;
        if open == 0 {
            break;
        }
        ensure!(
            Instant::now() < deadline,
            "{open} events are not handled after {DRAIN_LIMIT:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    audit::drain(testbed, DRAIN_LIMIT, &mut run.verdict).await
}

/// The clocks of API, worker and Stripe move on by three days, and the hourly tidying comes by. The API that takes events
/// then, and its door.
async fn three_days_later(testbed: &mut Testbed, run: &mut Run) -> Result<(Running, Door)> {
    let (api, worker) = (testbed.api.take(), testbed.workers.pop().context("no worker")?);
    // Asks them to stop, and waits.
    tokio::task::spawn_blocking(move || drop((api, worker))).await?;
    let later = TimeDelta::hours(72);
    testbed
        .tell_sandbox("/_control/clock/advance", &json!({"seconds": later.num_seconds()}))
        .await?;
    testbed.start_worker(&WorkerPlan {
        clock_offset: later.num_seconds(),
        ..WorkerPlan::own()
    })?;
    testbed.workers_ready().await?;
    let mut tx = testbed.db()?.begin().await?;
    tx.enqueue(&PruneOutbox {});
    tx.commit().await?;

    let clock = Clock::default();
    clock.advance(later);
    let server = api_by(testbed, &clock).await?;
    let door = Door {
        url: format!("http://{}/webhooks/stripe", server.address()),
        clock,
        ..Door::of(testbed)
    };
    // What was signed by the machine's clock is three days old by this one.
    let event = events(testbed, 0).await?.into_iter().next().context("no events")?;
    let status = door.knock(&event, &Clock::default()).await?.status();
    run.verdict.require(status == 400, || {
        format!("a signature of three days ago was answered {status}: the API's clock has not moved")
    });
    Ok((server, door))
}

/// The API by this clock, on the same servers: in this process, because the program goes by the machine's clock.
async fn api_by(testbed: &Testbed, clock: &Clock) -> Result<Running> {
    let state = AppState::new(AppConfig {
        pool: db::connect(testbed.services.database_url(), 8)?,
        redis: testbed.redis()?,
        clock: clock.clone(),
        jwt_secret: Secret::new(random_hex() + &random_hex()),
        jwt_secret_previous: None,
        settings: Settings {
            public_url: testbed.api_url(""),
            cors_allowed_origins: Vec::new(),
            client_ip_header: None,
            logins_per_minute: 0,
            registrations_per_hour: 0,
            connections: Bounds::default(),
            graphql_introspection: false,
            graphiql: false,
            graphql_points_per_minute: 0,
            stripe_webhook_secrets: vec![Secret::new(testbed.webhook_secret.as_str())],
        },
    })?;
    server::start(state, "127.0.0.1:0").await
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

/// Each event of those that are kept is on record once and was handled by one job, and nothing else is.
async fn once_each(testbed: &Testbed, run: &mut Run, sent: &[Value]) -> Result<()> {
    let sent: HashSet<&str> = sent
        .iter()
        .filter(|event| event["type"].as_str().is_some_and(is_about_payments))
        .filter_map(|event| event["id"].as_str())
        .collect();
    let stored: Vec<String> = sqlx::query_scalar("SELECT id FROM stripe_events")
        .fetch_all(&testbed.pool)
        .await?;
    let unsent = stored.iter().filter(|id| !sent.contains(id.as_str())).count();
    run.verdict.figure("events_sent", sent.len() as f64);
    run.verdict.figure("events_stored", stored.len() as f64);
    run.verdict
        .lose((sent.len() + unsent - stored.len()) as u64, "events that were sent");
    run.verdict
        .require(unsent == 0, || format!("{unsent} events on record were never sent"));
    let jobs: Vec<String> = sqlx::query_scalar("SELECT args->>'event_id' FROM jobs WHERE kind = 'stripe.event.handle'")
        .fetch_all(&testbed.pool)
        .await?;
    let handled: HashSet<&String> = jobs.iter().collect();
    run.verdict
        .double((jobs.len() - handled.len()) as u64, "jobs of events");
    let unhandled = stored.iter().filter(|id| !handled.contains(id)).count();
    run.verdict.lose(unhandled as u64, "jobs of events");
    Ok(())
}
