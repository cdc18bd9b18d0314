//! Many guests want the same nights at the same time: one gets them. What became of those who got some is looked at when
//! workers have done their part.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::task::JoinSet;

use super::{
    Run, audit,
    audit::Fate,
    load::DRAIN_LIMIT,
    market::{Answer, Asked, Market, Wish, latency, statuses},
    testbed::{Testbed, WorkerPlan},
};

/// Requests under way at the same time when the ranges are random.
const CLIENTS: usize = 32;

pub async fn play(testbed: &mut Testbed, run: &mut Run) -> Result<()> {
    testbed.start_api().await?;
    let market = Market::open(testbed, run.size.of(5, 51), 4).await?;
    let mut asked = one_night(&market, run).await?;
    asked.extend(random_ranges(&market, run).await?);
    asked.retain(|one| matches!(one.answer, Answer::Booked(_)));
    // Only now: the requests have had the machine for themselves.
    for _ in 0..2 {
        testbed.start_worker(&WorkerPlan::default())?;
    }
    audit::drain(testbed, DRAIN_LIMIT, &mut run.verdict).await?;
    audit::jobs(testbed, &mut run.verdict).await?;
    audit::bookings(testbed, &asked, |_| Fate::Captured, &mut run.verdict).await?;
    let overlaps: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM bookings AS one JOIN bookings AS other
             ON one.property_id = other.property_id AND one.id < other.id AND one.stay && other.stay
         WHERE one.state IN ('held', 'confirmed') AND other.state IN ('held', 'confirmed')",
    )
    .fetch_one(&testbed.pool)
    .await?;
    run.verdict.double(overlaps.unsigned_abs(), "nights");
    let log = testbed.logs("postgres")?;
    run.verdict.require(log.contains("ready to accept"), || {
        "Postgres' log is not where it is looked for".to_owned()
    });
    let deadlocks = log.matches("deadlock detected").count();
    run.verdict
        .require(deadlocks == 0, || format!("{deadlocks} deadlocks in Postgres' log"));
    run.verdict.figure("deadlocks", deadlocks as f64);
    Ok(())
}

/// All for the same night at once.
async fn one_night(market: &Market, run: &mut Run) -> Result<Vec<Asked>> {
    let guests = run.size.of(300, 2_000);
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for number in 0..guests {
        let market = market.clone();
        let wish = Wish {
            key: format!("night-{number}"),
            ..market.wish(0)
        };
        tasks.spawn(async move { market.ask(number, wish).await });
    }
    let mut asked = Vec::new();
    while let Some(done) = tasks.join_next().await {
        asked.push(done??);
    }
    let seconds = began.elapsed().as_secs_f64();
    run.verdict.faults += guests as u64 - 1;
    let got = asked
        .iter()
        .filter(|one| matches!(one.answer, Answer::Booked(_)))
        .count();
    run.verdict
        .double(got.saturating_sub(1) as u64, "bookings of one night");
    run.verdict.lose(u64::from(got == 0), "the one booking of the night");
    let counts = statuses(&asked);
    run.verdict.require(
        counts.get(&201) == Some(&1) && counts.get(&409) == Some(&(guests as u64 - 1)) && counts.len() == 2,
        || format!("{guests} requests for one night were answered {counts:?}"),
    );
    run.verdict
        .in_time(seconds * 1000.0, 5_000.0, "asking all at once for one night");
    run.verdict.figure("one_night_requests", guests as f64);
    run.verdict.figure("one_night_seconds", seconds);
    run.verdict.figure("one_night_p99_ms", latency(&asked, 409, 0.99));
    Ok(asked)
}

/// Ranges of one to ten nights anywhere in the next months, on the other flats.
async fn random_ranges(market: &Market, run: &mut Run) -> Result<Vec<Asked>> {
    let count: usize = run.size.of(1_500, 200_000);
    let (next, seed) = (Arc::new(AtomicUsize::new(0)), run.dice.random::<u64>());
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..CLIENTS {
        let (market, next) = (market.clone(), Arc::clone(&next));
        tasks.spawn(async move {
            let mut asked = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return anyhow::Ok(asked);
                }
                asked.push(market.ask(number, any_range(&market, seed, number)).await?);
            }
        });
    }
    let mut asked = Vec::with_capacity(count);
    while let Some(done) = tasks.join_next().await {
        asked.extend(done??);
    }
    let counts = statuses(&asked);
    let (taken, refused) = (counts.get(&201).copied(), counts.get(&409).copied());
    run.verdict.require(
        // Every try, not only the last: nobody was told to come again.
        taken.unwrap_or(0) + refused.unwrap_or(0) == count as u64
            && taken.is_some()
            && refused.is_some()
            && counts.len() == 2,
        || format!("{count} requests for random ranges were answered {counts:?}"),
    );
    run.verdict.faults += refused.unwrap_or(0);
    run.verdict.figure("ranges_requested", count as f64);
    run.verdict.figure("ranges_booked", taken.unwrap_or(0) as f64);
    let rate = count as f64 / began.elapsed().max(Duration::from_millis(1)).as_secs_f64();
    run.verdict.figure("ranges_per_second", rate);
    Ok(asked)
}

/// The range of this number: the same for the same seed, whoever asks for it.
fn any_range(market: &Market, seed: u64, number: usize) -> Wish {
    let mut dice = StdRng::seed_from_u64(seed.wrapping_add(number as u64));
    // The first flat is the one of the one night.
    let flat = dice.random_range(1..market.flats.len().max(2));
    Wish {
        flat: market.flats.get(flat).copied().unwrap_or_default(),
        check_in: market.day(dice.random_range(20..200)),
        nights: dice.random_range(1..=10),
        card: "pm_card_visa",
        key: format!("range-{number}"),
    }
}
