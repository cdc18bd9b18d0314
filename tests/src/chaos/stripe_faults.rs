//! Stripe answers late, wrongly, half or not at all, at every call of a booking: when it is well again, each booking is
//! in the right final state, and Stripe's record equals ours to the cent.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use anyhow::Result;
use rand::{Rng, seq::SliceRandom};
use serde_json::json;
use uuid::Uuid;

use super::{
    Run, audit,
    audit::Fate,
    load::DRAIN_LIMIT,
    market::{Answer, Asked, Market, Wish},
    testbed::{Testbed, WorkerPlan},
};

/// What can go wrong with an answer, as the sandbox names it.
const KINDS: [&str; 10] = [
    "429",
    "500",
    "500_after_commit",
    "502_html",
    "502_html_after_commit",
    "reset_before",
    "reset_after_commit",
    "truncated",
    "truncated_json",
    "empty",
];
/// Longer than the client waits for an answer.
const TOO_LATE: Duration = Duration::from_secs(25);

/// The calls of a booking: method, and the end of the path.
const CALLS: [(&str, &str); 3] = [("POST", "/payment_intents"), ("POST", "/confirm"), ("POST", "/capture")];
const RELEASING: (&str, &str) = ("POST", "/cancel");
const PAYING_BACK: (&str, &str) = ("POST", "/refunds");
/// The looks at what became of a call, and the starts of their paths. How many there are depends on what went wrong before.
const READS: [&str; 2] = ["/v1/payment_intents/", "/v1/refunds"];

pub async fn play(testbed: &mut Testbed, run: &mut Run) -> Result<()> {
    let (count, each) = run.size.of((40, 1), (600, 10));
    testbed.start_api().await?;
    for _ in 0..2 {
        testbed.start_worker(&WorkerPlan::default())?;
    }
    testbed.workers_ready().await?;
    let market = Market::open(testbed, 20, 4).await?;

    // Bookings that go through and such that are declined, while authorisations and captures go wrong.
    for call in CALLS {
        plan_faults(testbed, run, call, each, count).await?;
    }
    let reads = plan_read_faults(testbed, run, each, count).await?;
    let began = Instant::now();
    let mut asked = book(
        &market,
        count,
        run.size.of(Duration::from_millis(50), Duration::from_millis(20)),
    )
    .await?;
    audit::drain(testbed, DRAIN_LIMIT, &mut run.verdict).await?;
    all_hit(testbed, run).await?;

    // Some of those are cancelled, while refunds go wrong.
    plan_faults(testbed, run, PAYING_BACK, each, count / 3).await?;
    let mut given_up: HashSet<Uuid> = HashSet::new();
    for (number, one) in asked.iter().enumerate() {
        if let Answer::Booked(id) = one.answer
            && number % 2 == 0
            && !is_declined(&one.wish)
        {
            market.cancel(one.number, id).await?;
            given_up.insert(id);
        }
    }
    audit::drain(testbed, DRAIN_LIMIT, &mut run.verdict).await?;
    all_hit(testbed, run).await?;
    // Those that wait for their host are given up before anything was taken, while releases go wrong.
    let requests = market.ask_a_careful_host(run.size.of(24, 150)).await?;
    audit::drain(testbed, DRAIN_LIMIT, &mut run.verdict).await?;
    plan_faults(testbed, run, RELEASING, each, requests.len() / 2).await?;
    let mut released: HashSet<Uuid> = HashSet::new();
    for one in &requests {
        if let Answer::Booked(id) = one.answer {
            market.cancel(one.number, id).await?;
            released.insert(id);
        }
    }
    asked.extend(requests);
    audit::drain(testbed, DRAIN_LIMIT, &mut run.verdict).await?;
    all_hit(testbed, run).await?;
    let spoilt = reads - faults_left(testbed, true).await?;
    run.verdict.faults += spoilt;
    run.verdict.figure("reads_spoilt", spoilt as f64);
    run.verdict
        .require(spoilt > 0, || "no fault hit a GET: this proves little".to_owned());
    run.verdict
        .figure("until_all_settled_seconds", began.elapsed().as_secs_f64());
    run.verdict.figure("bookings", asked.len() as f64);
    run.verdict.figure("refunded", given_up.len() as f64);

    audit::jobs(testbed, &mut run.verdict).await?;
    let fate = |one: &Asked| match one.answer {
        Answer::Booked(id) if released.contains(&id) => Fate::Released,
        Answer::Booked(id) if given_up.contains(&id) => Fate::Refunded,
        _ if is_declined(&one.wish) => Fate::Declined,
        _ => Fate::Captured,
    };
    audit::bookings(testbed, &asked, fate, &mut run.verdict).await?;
    let times = waits(testbed).await?;
    run.verdict.recovered(&times, 120_000.0);
    Ok(())
}

/// Every kind of fault for this call, spread over so many requests in an order drawn from the seed.
async fn plan_faults(
    testbed: &Testbed,
    run: &mut Run,
    (method, suffix): (&str, &str),
    each: usize,
    requests: usize,
) -> Result<()> {
    let mut kinds: Vec<&str> = KINDS.iter().copied().cycle().take(KINDS.len() * each).collect();
    kinds.shuffle(&mut run.dice);
    for kind in kinds {
        let fault = json!({
            "match": {"method": method, "path_suffix": suffix},
            "kind": kind, "times": run.dice.random_range(1..=2), "after": run.dice.random_range(0..requests.max(2) / 2),
        });
        run.verdict.faults += fault["times"].as_u64().unwrap_or(0);
        testbed.tell_sandbox("/_control/faults", &fault).await?;
    }
    // Each of these takes as long as the client's patience. The second, an authorisation that Stripe carries out long after
    // we gave up on it, is left to the full form.
    let late = ["delay_after_commit", "delay"];
    let booking = CALLS.iter().any(|call| call.1 == suffix);
    let late_ones = run.size.of(usize::from(booking), 2);
    for kind in late.into_iter().take(late_ones) {
        let fault = json!({
            "match": {"method": method, "path_suffix": suffix},
            "kind": kind, "after": run.dice.random_range(0..requests.max(2) / 2), "delay_ms": TOO_LATE.as_millis() as u64,
        });
        run.verdict.faults += 1;
        testbed.tell_sandbox("/_control/faults", &fault).await?;
    }
    Ok(())
}

/// Every kind of fault for the reads, early ones first. How many reads they would spoil.
async fn plan_read_faults(testbed: &Testbed, run: &mut Run, each: usize, requests: usize) -> Result<u64> {
    let mut planned = 0;
    for prefix in READS {
        let mut kinds: Vec<&str> = KINDS.iter().copied().cycle().take(KINDS.len() * each).collect();
        kinds.shuffle(&mut run.dice);
        for kind in kinds {
            let fault = json!({
                "match": {"method": "GET", "path_prefix": prefix},
                "kind": kind, "after": run.dice.random_range(0..requests.max(1)),
            });
            planned += 1;
            testbed.tell_sandbox("/_control/faults", &fault).await?;
        }
    }
    Ok(planned)
}

/// How many requests, reads or others, the faults still to come would spoil.
async fn faults_left(testbed: &Testbed, reads: bool) -> Result<u64> {
    let left = testbed.sandbox("/_control/faults").await?;
    let left = left.as_array().into_iter().flatten();
    let wanted = left.filter(|fault| (fault["match"]["method"] == "GET") == reads);
    Ok(wanted.map(|fault| fault["times"].as_u64().unwrap_or(1)).sum())
}

/// Every fault found its request, or this proves less than it says. Reads apart: see [`READS`].
async fn all_hit(testbed: &Testbed, run: &mut Run) -> Result<()> {
    let left = faults_left(testbed, false).await?;
    run.verdict
        .require(left == 0, || format!("{left} faults found no request"));
    Ok(())
}

/// Every sixth card is refused.
async fn book(market: &Market, count: usize, every: Duration) -> Result<Vec<Asked>> {
    let mut tasks = tokio::task::JoinSet::new();
    let mut ticks = tokio::time::interval(every);
    for number in 0..count {
        ticks.tick().await;
        let (market, mut wish) = (market.clone(), market.wish(number));
        if number % 6 == 5 {
            wish.card = "pm_card_visa_chargeDeclined";
        }
        tasks.spawn(async move { market.ask(number, wish).await });
    }
    let mut asked = Vec::with_capacity(count);
    while let Some(done) = tasks.join_next().await {
        asked.push(done??);
    }
    asked.sort_by_key(|one| one.number);
    Ok(asked)
}

fn is_declined(wish: &Wish) -> bool {
    wish.card != "pm_card_visa"
}

/// The milliseconds that each job which had to try again took from its first attempt to its good end.
async fn waits(testbed: &Testbed) -> Result<Vec<f64>> {
    Ok(sqlx::query_scalar(
        "SELECT (extract(epoch FROM max(ended_at) - min(started_at)) * 1000)::float8 FROM job_attempts
         GROUP BY job_id HAVING count(*) > 1 AND bool_or(outcome = 'retry')",
    )
    .fetch_all(&testbed.pool)
    .await?)
}
