//! Bookings and other jobs that come in while something is wrong.

mod requests;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, Utc};
use roost_shared::clock::Clock;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Run, audit,
    audit::Fate,
    jobs,
    market::{Asked, Market, latency, statuses},
    testbed::{Testbed, WorkerPlan},
};
pub use requests::Requests;

/// After the faults, all must be done by then.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(180);

/// How often a booking is asked for.
pub const EVERY: Duration = Duration::from_millis(200);

/// From the end of a fault to new work that is done, and from the end of the last one to the end of all work.
const RECOVERY_MS: f64 = 15_000.0;

/// One booking every so often, and a few other jobs, until [`Self::finish`].
pub struct Load {
    pub market: Market,
    stop: CancellationToken,
    booking: JoinHandle<Result<Vec<Asked>>>,
    marking: JoinHandle<Result<Vec<Uuid>>>,
    /// When each fault was over.
    ends: Vec<DateTime<Utc>>,
}

impl Load {
    /// Starts API, two workers and the load.
    pub async fn start(testbed: &mut Testbed) -> Result<Self> {
        testbed.start_api().await?;
        testbed.start_worker(&WorkerPlan {
            queues: Some("confirmation,payments,notifications,cache"),
            ..WorkerPlan::default()
        })?;
        testbed.start_worker(&WorkerPlan::own())?;
        testbed.workers_ready().await?;
        let market = Market::open(testbed, 20, 2).await?;
        let (stop, db) = (CancellationToken::new(), testbed.db()?);
        let marking = {
            let stop = stop.clone();
            async move {
                let (mut nonces, mut ticks) = (Vec::new(), tokio::time::interval(EVERY));
                while !stop.is_cancelled() {
                    ticks.tick().await;
                    // What Postgres did not take, or may have taken, is nobody's promise.
                    nonces.extend(jobs::enqueue(&db, 4, |_| 20).await.unwrap_or_default());
                }
                Ok(nonces)
            }
        };
        Ok(Self {
            booking: tokio::spawn(ask_until(market.clone(), stop.clone())),
            marking: tokio::spawn(marking),
            market,
            stop,
            ends: Vec::new(),
        })
    }

    /// Notes that a fault is over now: from here on things may take as long as a recovery.
    pub fn fault_ended(&mut self) {
        self.ends.push(Clock::default().now());
    }

    /// Goes on until new work is done after the last fault, waits for the end of all work and looks. `answers`: what
    /// requests may be answered. The requests for bookings, with their answers.
    pub async fn finish(self, testbed: &mut Testbed, run: &mut Run, answers: &[u16]) -> Result<Vec<Asked>> {
        let last = *self.ends.last().context("no fault has ended")?;
        let deadline = Instant::now() + DRAIN_LIMIT;
        // The first connections used may be those of a server that is no more: an error is no answer yet.
        while !recoveries(testbed, &[last])
            .await
            .is_ok_and(|times| !times.contains(&None))
        {
            ensure!(
                Instant::now() < deadline,
                "nothing new is done {DRAIN_LIMIT:?} after the last fault"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.stop.cancel();
        let (asked, nonces) = (self.booking.await??, self.marking.await??);
        audit::drain(testbed, DRAIN_LIMIT, &mut run.verdict).await?;
        let drained = (Clock::default().now() - last).num_milliseconds() as f64;
        run.verdict.figure("drained_ms", drained);
        run.verdict
            .in_time(drained, RECOVERY_MS, "from the last fault, all work");
        let times: Vec<f64> = recoveries(testbed, &self.ends).await?.into_iter().flatten().collect();
        run.verdict.figure("recoveries", times.len() as f64);
        run.verdict.recovered(&times, RECOVERY_MS);
        everything_is_there(testbed, run, &asked, &nonces, answers).await?;
        Ok(asked)
    }
}

/// A wish every so often, whether or not the ones before were answered.
async fn ask_until(market: Market, stop: CancellationToken) -> Result<Vec<Asked>> {
    let (mut tasks, mut ticks, mut number) = (JoinSet::new(), tokio::time::interval(EVERY), 0);
    while !stop.is_cancelled() {
        ticks.tick().await;
        let market = market.clone();
        tasks.spawn(async move { market.ask(number, market.wish(number)).await });
        number += 1;
    }
    let mut asked = Vec::with_capacity(number);
    while let Some(done) = tasks.join_next().await {
        asked.push(done??);
    }
    Ok(asked)
}

/// The milliseconds from the end of each fault to the first confirmation of a booking, and to the first good end of a job
/// of the harness, that came in after it: what was there before may have been as good as done. None: there was none.
async fn recoveries(testbed: &Testbed, ends: &[DateTime<Utc>]) -> Result<Vec<Option<f64>>> {
    Ok(sqlx::query_scalar(
        "SELECT (extract(epoch FROM next.done - fault.ended) * 1000)::float8 FROM unnest($1::timestamptz[]) AS fault (ended)
         CROSS JOIN LATERAL (
             SELECT min(confirmed_at) FROM bookings WHERE created_at > fault.ended
             UNION ALL
             SELECT min(finished_at) FROM jobs WHERE kind LIKE 'chaos.%' AND state = 'succeeded' AND created_at > fault.ended) AS next (done)",
    )
    .bind(ends)
    .fetch_all(&testbed.pool)
    .await?)
}

/// The harness's jobs and the bookings have all come to their one good end.
pub async fn everything_is_there(
    testbed: &Testbed,
    run: &mut Run,
    asked: &[Asked],
    nonces: &[Uuid],
    answers: &[u16],
) -> Result<()> {
    audit::jobs(testbed, &mut run.verdict).await?;
    audit::marks(testbed, nonces, &mut run.verdict).await?;
    audit::bookings(testbed, asked, |_| Fate::Captured, &mut run.verdict).await?;
    let counts = statuses(asked);
    run.verdict
        .require(counts.keys().all(|status| answers.contains(status)), || {
            format!("bookings were answered {counts:?}")
        });
    run.verdict
        .figure("refused_503", counts.get(&503).copied().unwrap_or(0) as f64);
    run.verdict.figure("bookings", asked.len() as f64);
    run.verdict.figure("booking_p50_ms", latency(asked, 201, 0.5));
    run.verdict.figure("booking_p99_ms", latency(asked, 201, 0.99));
    Ok(())
}
