//! Stripe answers late, wrongly, half or not at all, at every call of a booking: when it is well again, each booking is
//! in the right final state, and Stripe's record equals ours to the cent.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
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
/// An answer later than the client waits for it. The first is carried out at once, the second long after we gave up on it.
const LATE: [&str; 2] = ["delay_after_commit", "delay"];
const TOO_LATE: Duration = Duration::from_secs(25);

/// A call: its method, and the start or the end of its path.
#[derive(Clone, Copy)]
struct Call(&'static str, Path, &'static str);

#[derive(Clone, Copy)]
enum Path {
    Starts,
    Ends,
}

/// The calls of a booking.
const CALLS: [Call; 3] = [
    Call("POST", Path::Ends, "/payment_intents"),
    Call("POST", Path::Ends, "/confirm"),
    Call("POST", Path::Ends, "/capture"),
];
const RELEASING: Call = Call("POST", Path::Ends, "/cancel");
const PAYING_BACK: Call = Call("POST", Path::Ends, "/refunds");
/// The looks at what became of a call: each event asks for one, and so does a call whose outcome nobody knows.
const READING: Call = Call("GET", Path::Starts, "/v1/payment_intents/");
const READING_REFUNDS: Call = Call("GET", Path::Starts, "/v1/refunds/");
/// Where no event told of a refund that was answered with a 5xx.
const SEARCHING_REFUNDS: Call = Call("GET", Path::Ends, "/v1/refunds");

/// What is to go wrong at one call.
struct Plan {
    call: Call,
    kinds: Vec<&'static str>,
    /// So many requests in a row, at most, for each of them.
    in_a_row: u64,
    /// So many requests, at most, are let through first.
    after: usize,
}

pub async fn play(testbed: &mut Testbed, run: &mut Run) -> Result<()> {
    let (count, each) = run.size.of((40, 1), (600, 10));
    testbed.start_api().await?;
    for _ in 0..2 {
        testbed.start_worker(&WorkerPlan::default())?;
    }
    testbed.workers_ready().await?;
    let market = Market::open(testbed, 20, 4).await?;
    // These wait for their host when the trouble begins.
    let requests = market.ask_a_careful_host(run.size.of(24, 150)).await?;
    audit::drain(testbed, DRAIN_LIMIT, &mut run.verdict).await?;

    // Bookings that go through and such that are declined, while authorisations and captures go wrong, and the reads
    // between them.
    let began = Instant::now();
    let late = run.size.of(1, 2);
    for call in CALLS {
        spoil(testbed, run, Plan::every_kind(call, each, late, count / 2)).await?;
    }
    let reading = Plan {
        in_a_row: 1,
        ..Plan::every_kind(READING, each, late, count / 2)
    };
    let mut reads = spoil(testbed, run, reading).await?;
    // Requests are given up before anything was taken, while releases go wrong.
    spoil(
        testbed,
        run,
        Plan::every_kind(RELEASING, each, late, requests.len() / 4),
    )
    .await?;
    let every = run.size.of(Duration::from_millis(50), Duration::from_millis(20));
    let booking = {
        let market = market.clone();
        tokio::spawn(async move { book(&market, count, every).await })
    };
    let mut released: HashSet<Uuid> = HashSet::new();
    for one in &requests {
        if let Answer::Booked(id) = one.answer {
            market.cancel(one.number, id).await?;
            released.insert(id);
        }
    }
    let mut asked = booking.await??;

    // Most bookings are given up once they are paid for, while refunds go wrong, and the reads after them.
    let paid = paid(testbed, &asked, count * 3 / 5).await?;
    // The first refund of all gets an answer that nobody can tell anything from, and no event: it has to be searched for.
    let unheard = Plan {
        call: PAYING_BACK,
        kinds: vec!["500"],
        in_a_row: 1,
        after: 0,
    };
    spoil(testbed, run, unheard).await?;
    spoil(testbed, run, Plan::every_kind(PAYING_BACK, each, late, count / 6)).await?;
    let reading = Plan {
        in_a_row: 1,
        ..Plan::every_kind(READING_REFUNDS, each, late, count / 12)
    };
    reads += spoil(testbed, run, reading).await?;
    let mut searching = Plan {
        in_a_row: 1,
        ..Plan::every_kind(SEARCHING_REFUNDS, run.size.of(1, 3), run.size.of(0, late), 0)
    };
    // In the short form there are few of these beside that one, and it is to be done some time.
    searching.kinds.shuffle(&mut run.dice);
    searching.kinds.truncate(run.size.of(3, usize::MAX));
    reads += spoil(testbed, run, searching).await?;
    let mut given_up: HashSet<Uuid> = HashSet::new();
    for (number, id) in paid {
        market.cancel(number, id).await?;
        given_up.insert(id);
    }
    asked.extend(requests);
    audit::drain(testbed, DRAIN_LIMIT, &mut run.verdict).await?;
    all_hit(testbed, run).await?;
    run.verdict.figure("reads_spoilt", reads as f64);
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

impl Plan {
    /// Every kind of fault so often, each of them once or twice in a row, and so many of the late answers: each of those
    /// lasts as long as the client's patience.
    fn every_kind(call: Call, each: usize, late: usize, after: usize) -> Self {
        let kinds = KINDS.iter().copied().cycle().take(KINDS.len() * each);
        Self {
            call,
            kinds: kinds.chain(LATE.into_iter().take(late)).collect(),
            in_a_row: 2,
            after,
        }
    }
}

/// Plans faults, in an order drawn from the seed. How many requests they will spoil.
async fn spoil(testbed: &Testbed, run: &mut Run, mut plan: Plan) -> Result<u64> {
    let Call(method, path, part) = plan.call;
    let path = match path {
        Path::Starts => "path_prefix",
        Path::Ends => "path_suffix",
    };
    let mut planned = 0;
    plan.kinds.shuffle(&mut run.dice);
    for kind in plan.kinds {
        let late = LATE.contains(&kind);
        let times = if late {
            1
        } else {
            run.dice.random_range(1..=plan.in_a_row)
        };
        let fault = json!({
            "match": {"method": method, path: part}, "kind": kind, "times": times,
            "after": run.dice.random_range(0..=plan.after), "delay_ms": if late { TOO_LATE.as_millis() as u64 } else { 0 },
        });
        testbed.tell_sandbox("/_control/faults", &fault).await?;
        planned += times;
    }
    run.verdict.faults += planned;
    Ok(planned)
}

/// Every fault found its request, or this proves less than it says.
async fn all_hit(testbed: &Testbed, run: &mut Run) -> Result<()> {
    let left = testbed.sandbox("/_control/faults").await?;
    let left = left.as_array().context("no list of faults")?;
    run.verdict.require(left.is_empty(), || {
        let examples: Vec<String> = left.iter().take(3).map(ToString::to_string).collect();
        format!("{} faults found no request: {examples:?}", left.len())
    });
    Ok(())
}

/// Waits until so many bookings are paid for and both sides have heard of it: numbers and ids.
async fn paid(testbed: &Testbed, asked: &[Asked], enough: usize) -> Result<Vec<(usize, Uuid)>> {
    let deadline = Instant::now() + DRAIN_LIMIT;
    loop {
        let paid: Vec<Uuid> = sqlx::query_scalar(
            "SELECT bookings.id FROM bookings JOIN payments ON payments.booking_id = bookings.id
             WHERE bookings.state = 'confirmed' AND payments.state = 'captured'
               AND NOT EXISTS (SELECT FROM jobs WHERE args->>'subject_id' = bookings.id::text AND state <> 'succeeded')",
        )
        .fetch_all(&testbed.pool)
        .await?;
        let paid = asked.iter().filter_map(|one| match one.answer {
            Answer::Booked(id) if paid.contains(&id) => Some((one.number, id)),
            _ => None,
        });
        let paid: Vec<_> = paid.take(enough).collect();
        if paid.len() == enough {
            return Ok(paid);
        }
        ensure!(Instant::now() < deadline, "only {} bookings are paid for", paid.len());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
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
