//! Postgres crashes, is restarted, cuts connections, is away: requests get a quick 503, no process dies, nothing is
//! lost or doubled.

use std::time::Duration;

use anyhow::Result;
use rand::Rng;

use super::{
    Run,
    load::{Load, Requests},
    market::Asked,
    proxy::Mode,
    testbed::Testbed,
};
use crate::services::process::Signal;

const WITHOUT_POSTGRES: [u16; 2] = [201, 503];
/// A request is answered or refused by then, in milliseconds.
const REPLY_MS: f64 = 5_000.0;

/// What is done to Postgres.
#[derive(Clone, Copy, Debug)]
enum Blow {
    /// Stopped in good order and started again.
    Stop,
    /// Ended as by a crash, and recovered.
    Crash,
    /// All connections reset, in the middle of whatever is under way.
    Cut,
    /// Every message takes a while.
    Slow,
}

/// A statement takes several messages.
const SLOWNESS: Duration = Duration::from_millis(100);
const SLOW_FOR: Duration = Duration::from_secs(1);

/// Restarts, cut and slow connections under load.
pub async fn restart(testbed: &mut Testbed, run: &mut Run) -> Result<()> {
    let blows: Vec<(Duration, Blow)> = (0..run.size.of(8, 60))
        .map(|number| {
            let blow = match number % 4 {
                0 => Blow::Cut,
                1 => Blow::Crash,
                2 => Blow::Slow,
                _ => Blow::Stop,
            };
            (Duration::from_millis(run.dice.random_range(300..1_500)), blow)
        })
        .collect();
    let (mut load, requests) = load(testbed).await?;
    let mut cut = 0;
    for (after, blow) in blows {
        tokio::time::sleep(after).await;
        match blow {
            Blow::Cut => cut += testbed.postgres_proxy.cut() + testbed.api_postgres_proxy.cut(),
            Blow::Slow => {
                all_proxies(testbed, Mode::Delay(SLOWNESS));
                tokio::time::sleep(SLOW_FOR).await;
                all_proxies(testbed, Mode::Pass);
            }
            Blow::Crash => bounce(testbed, Signal::Quit)?,
            Blow::Stop => bounce(testbed, Signal::Int)?,
        }
        load.fault_ended();
        run.verdict.faults += 1;
    }
    run.verdict.figure("connections_cut", cut as f64);
    run.verdict
        .require(cut > 0, || "no connection was open when they were cut".to_owned());
    let asked = load.finish(testbed, run, &WITHOUT_POSTGRES).await?;
    quick_replies(run, &asked);
    requests.finish(run, REPLY_MS, false).await
}

async fn load(testbed: &mut Testbed) -> Result<(Load, Requests)> {
    let load = Load::start(testbed).await?;
    let flat = load.market.flats.first().copied().unwrap_or_default();
    let requests = Requests::start(testbed, flat).await?;
    Ok((load, requests))
}

fn all_proxies(testbed: &Testbed, mode: Mode) {
    for proxy in [&testbed.postgres_proxy, &testbed.api_postgres_proxy] {
        proxy.set(mode);
    }
}

fn bounce(testbed: &mut Testbed, by: Signal) -> Result<()> {
    let postgres = testbed.services.postgres_mut()?;
    postgres.stop(by)?;
    postgres.start_again()
}

/// Away for half a minute: first it refuses connections, then it accepts them and says nothing.
pub async fn down(testbed: &mut Testbed, run: &mut Run) -> Result<()> {
    let half = run.size.of(Duration::from_secs(4), Duration::from_secs(15));
    let (mut load, requests) = load(testbed).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    testbed.services.postgres_mut()?.stop(Signal::Quit)?;
    tokio::time::sleep(half).await;
    all_proxies(testbed, Mode::Hang);
    testbed.services.postgres_mut()?.start_again()?;
    tokio::time::sleep(half).await;
    all_proxies(testbed, Mode::Pass);
    load.fault_ended();
    run.verdict.faults += 2;
    let asked = load.finish(testbed, run, &WITHOUT_POSTGRES).await?;
    quick_replies(run, &asked);
    requests.finish(run, REPLY_MS, true).await
}

/// Some bookings were refused, or this proves nothing; and no try of any waited long, whatever it was answered in the end.
fn quick_replies(run: &mut Run, asked: &[Asked]) {
    let tries = || asked.iter().flat_map(|one| &one.tries);
    run.verdict.require(tries().any(|(status, _)| *status == 503), || {
        "no request met the missing Postgres".to_owned()
    });
    let slowest = tries().map(|(_, took)| *took).fold(0.0, f64::max);
    run.verdict.figure("booking_max_ms", slowest);
    run.verdict.in_time(slowest, REPLY_MS, "the slowest try of a booking");
}
