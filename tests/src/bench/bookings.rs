//! Bookings a second, against pgbench running the same transaction. No worker runs: the requests' work alone counts.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use chrono::Days;
use roost_shared::{
    clock::Clock,
    sessions::{Origin, Sessions},
    tokens::Tokens,
    users::Role,
};
use serde_json::json;

use super::{
    Plan,
    figure::{Figure, Report, Target, median},
    jobs::rounds,
    machine::{Machine, Running},
    wrk::{self, Load, Tally},
};

/// As many as the API has connections to Postgres, and pgbench gets as many.
const CLIENTS: usize = 20;
/// More than a core can take.
const MOST_PER_SECOND: u64 = 5_000;
/// Who books, over and over; each has one session.
const GUESTS: u64 = 500;
/// Stays of the data set end before; a property takes one booking of ours every three days from here on.
const FIRST_DAY: u64 = 140;
const LAST_DAY: u64 = 480;

/// What `roost_shared::bookings::request` and the enqueueing of its two jobs send, one booking a transaction.
const TRANSACTION: &str = include_str!("booking.sql");

/// Books distinct stays, so that every request succeeds.
pub async fn measure(machine: &Machine, api: &Running, plan: &Plan, report: &mut Report) -> Result<()> {
    // Odd days are the API's, even ones pgbench's; see `stay`.
    let tokens = sign_in(machine, plan).await?;
    let (dataset, today, address) = (plan.dataset, plan.today, api.address);
    let request = move |number: u64| {
        let (property, day) = stay(number, dataset.properties);
        let date = |day| today.checked_add_days(Days::new(day)).unwrap_or(today).to_string();
        let body = json!({
            "property_id": dataset.property(property),
            "check_in": date(day), "check_out": date(day + 2), "guests": 1, "payment_method": "pm_card_visa",
        })
        .to_string();
        let token = usize::try_from(number % GUESTS)
            .ok()
            .and_then(|guest| tokens.get(guest));
        let token = format!("authorization: Bearer {}\r\n", token.map_or("", String::as_str));
        wrk::post(address, "/bookings", &token, &body)
    };
    let load = Load::once(machine.folder(), address, CLIENTS, MOST_PER_SECOND, request);
    let (mut tallies, mut limits) = (vec![], vec![]);
    let script = TRANSACTION
        .replace("{properties}", &dataset.properties.to_string())
        .replace("{hosts}", &dataset.hosts().to_string())
        .replace("{first_day}", &(FIRST_DAY + 3 * slots() / 2).to_string());
    let booked = AtomicU64::new(0);
    let measured = async {
        load.run(plan.warm_up).await?;
        for _ in 0..plan.rounds {
            let base = booked.load(Ordering::Relaxed).to_string();
            let rate = machine
                .pgbench
                .run(
                    "booking",
                    &script,
                    &[("n", "0".to_owned()), ("base", base)],
                    CLIENTS,
                    plan.round,
                )
                .await?;
            // Clients count by themselves: the fastest may be ahead of the mean.
            booked.fetch_add(rate.transactions * 2, Ordering::Relaxed);
            limits.push(rate.per_second);
            tallies.push(load.run(plan.round).await?);
        }
        anyhow::Ok(())
    };
    tokio::select! {
        done = measured => done?,
        failed = machine.drain("payments") => failed?,
    }
    let values: Vec<f64> = tallies.iter().map(Tally::per_second).collect();
    let replies = tallies.iter().map(|tally| tally.replies).sum();
    let latency = |of: fn(&Tally) -> f64| median(&tallies.iter().map(of).collect::<Vec<_>>());
    report.add(
        Figure::new("bookings", median(&values), "bookings/s", replies)
            .against("pgbench with the same transaction", median(&limits))
            .target(Target::RatioAtLeast(0.5))
            .note(format!(
                "{CLIENTS} guests at a time, every booking succeeds, no worker runs"
            ))
            .note(format!(
                "p50 {:.2} ms, p99 {:.2} ms",
                latency(|tally| tally.p50_ms),
                latency(|tally| tally.p99_ms)
            ))
            .note(rounds(&values, &limits)),
    )
}

const fn slots() -> u64 {
    (LAST_DAY - FIRST_DAY) / 3
}

/// Which property and which day from today the booking of this number is for: every property once, then the next
/// days. The first half of the days is the API's, the other pgbench's.
fn stay(number: u64, properties: u64) -> (u64, u64) {
    (number, FIRST_DAY + number / properties % (slots() / 2) * 3)
}

async fn sign_in(machine: &Machine, plan: &Plan) -> Result<Vec<String>> {
    let (sessions, tokens) = (
        Sessions::new(machine.redis()?),
        Tokens::new(&machine.jwt_secret(), None)?,
    );
    let now = Clock::default().now();
    let mut issued = Vec::new();
    for number in 0..GUESTS {
        let guest = plan.dataset.guest(number);
        let session = sessions.open(guest, &Origin::default(), now).await?;
        issued.push(tokens.issue(guest, session.session_id, Role::Guest, now)?);
    }
    Ok(issued)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_stay_is_asked_for_twice() {
        let mut seen = HashSet::new();
        for number in 0..5_000 {
            let (property, day) = stay(number, 100);
            assert!(day + 2 <= FIRST_DAY + 3 * (slots() / 2));
            assert!(seen.insert((property % 100, day)), "{number}");
        }
    }
}
