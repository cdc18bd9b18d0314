//! The API dies: at random moments, and at every message that it sends to Postgres between the begin of a booking and
//! its reply, before the message arrives and after it was answered.

use std::time::Duration;

use anyhow::{Context, Result};
use rand::Rng;

use super::{
    Run, audit,
    audit::Fate,
    load::DRAIN_LIMIT,
    market::{Asked, Market},
    proxy::Edge,
    testbed::{Testbed, WorkerPlan},
};

/// More messages than one booking takes on a fresh connection.
const MOST_MESSAGES: u64 = 200;

pub async fn play(testbed: &mut Testbed, run: &mut Run) -> Result<()> {
    let (bookings, kills) = run.size.of((40_usize, 4_u32), (5_000, 60));
    testbed.start_api().await?;
    let market = Market::open(testbed, run.size.of(20, 80), 4).await?;
    let mut asked = at_every_message(testbed, run, &market).await?;
    let every = Duration::from_millis(run.size.of(100, 12));
    let booking = {
        let (market, first) = (market.clone(), asked.len());
        tokio::spawn(async move { market.ask_steadily(first, bookings, every).await })
    };
    let gap = every * u32::try_from(bookings)? / (kills + 1);
    for _ in 0..kills {
        tokio::time::sleep(gap.mul_f64(run.dice.random_range(0.5..1.2))).await;
        kill(testbed)?;
        run.verdict.faults += 1;
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

fn kill(testbed: &mut Testbed) -> Result<()> {
    testbed.api.as_mut().context("no API")?.process.kill()
}

/// One booking for each message and each side of it; the guest repeats the request until there is an answer.
async fn at_every_message(testbed: &mut Testbed, run: &mut Run, market: &Market) -> Result<Vec<Asked>> {
    let mut asked = Vec::new();
    // The short form looks at some of them, others with another seed.
    let step = run.size.of(6, 1);
    for edge in [Edge::Before, Edge::After] {
        let mut message = run.dice.random_range(0..step);
        let mut last = false;
        while !last && message < MOST_MESSAGES {
            testbed.api_postgres_proxy.trip_at(message, edge);
            let number = asked.len();
            let mut request = {
                let (market, wish) = (market.clone(), market.wish(number));
                tokio::spawn(async move { market.ask(number, wish).await })
            };
            tokio::select! {
                // Answered without so many messages: every one has had its turn.
                answered = &mut request => {
                    asked.push(answered??);
                    testbed.api_postgres_proxy.disarm();
                    last = true;
                    continue;
                }
                () = testbed.api_postgres_proxy.tripped() => {}
            }
            kill(testbed)?;
            run.verdict.faults += 1;
            testbed.api_postgres_proxy.cut();
            testbed.api_postgres_proxy.disarm();
            testbed.start_api().await?;
            asked.push(request.await??);
            message += step;
        }
        run.verdict.require(last && message > step, || {
            format!("{message} messages {edge:?}: a booking has not so many, or none was hit")
        });
        let figure = match edge {
            Edge::Before => "killed_before_messages",
            Edge::After => "killed_after_messages",
        };
        run.verdict.figure(figure, message as f64);
    }
    Ok(asked)
}
