//! The API dies: at random moments, at each statement of the transaction that books and at every message to Postgres,
//! before it arrives and after it was answered, and when its reply has left and nobody has read it.

mod statements;
mod unread;

use std::time::Duration;

use anyhow::{Context, Result};
use rand::Rng;

use super::{
    Run, Size, audit,
    audit::Fate,
    load::DRAIN_LIMIT,
    market::{Asked, Market, Wish},
    proxy::Edge,
    testbed::{Testbed, WorkerPlan},
};
use statements::Coverage;

/// More messages than one booking takes on a fresh connection.
const MOST_MESSAGES: u64 = 200;

pub async fn play(testbed: &mut Testbed, run: &mut Run) -> Result<()> {
    let (bookings, kills) = run.size.of((40_usize, 4_u32), (5_000, 60));
    testbed.api_postgres_proxy.read_statements();
    testbed.start_api().await?;
    let market = Market::open(testbed, run.size.of(20, 80), 4).await?;
    let mut asked = Vec::new();
    let mut coverage = Coverage::of_one_booking(testbed, &market, &mut asked).await?;
    at_each_statement(testbed, run, &market, &mut coverage, &mut asked).await?;
    at_every_message(testbed, run, &market, &mut coverage, &mut asked).await?;
    eprintln!("api-crash: killed (before / after) {coverage}");
    coverage.look(run.size == Size::Full, &mut run.verdict);
    for _ in 0..run.size.of(1, 10) {
        asked.push(unread::reply(testbed, run, market.wish(asked.len()), asked.len()).await?);
    }
    let every = Duration::from_millis(run.size.of(100, 12));
    let booking = {
        let (market, first) = (market.clone(), asked.len());
        tokio::spawn(async move { market.ask_steadily(first, bookings, every).await })
    };
    let gap = every * u32::try_from(bookings)? / (kills + 1);
    for _ in 0..kills {
        tokio::time::sleep(gap.mul_f64(run.dice.random_range(0.5..1.2))).await;
        kill(testbed, run)?;
        testbed.start_api().await?;
    }
    asked.extend(booking.await??);
    let repeated = asked.iter().filter(|one| one.tries.len() > 1).count();
    run.verdict.figure("bookings", asked.len() as f64);
    run.verdict.figure("requests_repeated", repeated as f64);
    run.verdict.require(repeated > 0, || {
        "no request had to be repeated: this proves little".to_owned()
    });
    let times: Vec<f64> = asked
        .iter()
        .filter(|one| one.tries.len() > 1)
        .map(|one| (one.answered_at - one.sent_at).num_milliseconds() as f64)
        .collect();
    run.verdict.recovered(&times, 60_000.0);

    // Only now somebody works on what the API left in Postgres.
    for _ in 0..2 {
        testbed.start_worker(&WorkerPlan::default())?;
    }
    audit::drain(testbed, DRAIN_LIMIT, &mut run.verdict).await?;
    audit::jobs(testbed, &mut run.verdict).await?;
    audit::bookings(testbed, &asked, |_| Fate::Captured, &mut run.verdict).await
}

fn kill(testbed: &mut Testbed, run: &mut Run) -> Result<()> {
    run.verdict.faults += 1;
    testbed.api.as_mut().context("no API")?.process.kill()
}

/// How many bookings of these nights are committed.
async fn committed(testbed: &Testbed, wish: &Wish) -> Result<i64> {
    let count = sqlx::query_scalar("SELECT count(*) FROM bookings WHERE property_id = $1 AND lower(stay) = $2")
        .bind(wish.flat)
        .bind(wish.check_in)
        .fetch_one(&testbed.pool)
        .await?;
    Ok(count)
}

/// One booking for each statement of its transaction and each side of it.
async fn at_each_statement(
    testbed: &mut Testbed,
    run: &mut Run,
    market: &Market,
    coverage: &mut Coverage,
    asked: &mut Vec<Asked>,
) -> Result<()> {
    let full = run.size == Size::Full;
    for step in coverage.wanted(full) {
        for edge in [Edge::Before, Edge::After] {
            testbed.api_postgres_proxy.trip_at_message(coverage.is_at(step), edge);
            let hit = until_it_trips(testbed, run, market, coverage, asked).await?;
            run.verdict.require(hit, || {
                format!("a booking came to its end without the {step}th statement of its transaction")
            });
        }
    }
    Ok(())
}

/// One booking for each message and each side of it.
async fn at_every_message(
    testbed: &mut Testbed,
    run: &mut Run,
    market: &Market,
    coverage: &mut Coverage,
    asked: &mut Vec<Asked>,
) -> Result<()> {
    // The short form looks at some of them, others with another seed.
    let step = run.size.of(9, 1);
    for edge in [Edge::Before, Edge::After] {
        let mut message = run.dice.random_range(0..step);
        let mut hit = true;
        while hit && message < MOST_MESSAGES {
            // On a new connection every statement is prepared first, and the greetings are messages too.
            testbed.api_postgres_proxy.cut();
            testbed.api_postgres_proxy.trip_at(message, edge);
            // Answered without so many messages: every one has had its turn.
            hit = until_it_trips(testbed, run, market, coverage, asked).await?;
            message += if hit { step } else { 0 };
        }
        run.verdict.require(!hit && message > step, || {
            format!("{message} messages {edge:?}: a booking has not so many, or none was hit")
        });
        let figure = match edge {
            Edge::Before => "killed_before_messages",
            Edge::After => "killed_after_messages",
        };
        run.verdict.figure(figure, message as f64);
    }
    Ok(())
}

/// A guest books; the API dies when the proxy holds back what it was told to, and the guest repeats the request until there
/// is an answer. False: there was one before.
async fn until_it_trips(
    testbed: &mut Testbed,
    run: &mut Run,
    market: &Market,
    coverage: &mut Coverage,
    asked: &mut Vec<Asked>,
) -> Result<bool> {
    let number = asked.len();
    let wish = market.wish(number);
    let mut request = {
        let (market, wish) = (market.clone(), wish.clone());
        tokio::spawn(async move { market.ask(number, wish).await })
    };
    tokio::select! {
        answered = &mut request => {
            asked.push(answered??);
            testbed.api_postgres_proxy.disarm();
            return Ok(false);
        }
        () = testbed.api_postgres_proxy.tripped() => {}
    }
    kill(testbed, run)?;
    testbed.api_postgres_proxy.cut();
    testbed.api_postgres_proxy.disarm();
    let hit = testbed.api_postgres_proxy.hit().context("tripped at nothing")?;
    if let Some(must_be_there) = coverage.note(&hit) {
        let there = committed(testbed, &wish).await?;
        run.verdict.require(there == i64::from(must_be_there), || {
            format!("{there} bookings are committed after a kill at {hit:?}")
        });
    }
    testbed.start_api().await?;
    asked.push(request.await??);
    Ok(true)
}
