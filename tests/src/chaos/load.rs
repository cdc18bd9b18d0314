//! Bookings and other jobs that come in while something is wrong.

use std::time::{Duration, Instant};

use anyhow::Result;
use uuid::Uuid;

use super::{
    Run, audit,
    audit::Fate,
    jobs,
    market::{Asked, Market, latency, statuses},
    testbed::{Testbed, WorkerPlan},
};

/// After the faults, all must be done by then.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(180);

/// How often a booking is asked for.
pub const EVERY: Duration = Duration::from_millis(200);

/// One booking every so often, and a few other jobs.
pub struct Load {
    booking: tokio::task::JoinHandle<Result<Vec<Asked>>>,
    marking: tokio::task::JoinHandle<Result<Vec<Uuid>>>,
}

impl Load {
    /// Starts API, two workers and the load, which lasts a little longer than `span`.
    pub async fn start(testbed: &mut Testbed, span: Duration) -> Result<Self> {
        testbed.start_api().await?;
        testbed.start_worker(&WorkerPlan {
            queues: Some("confirmation,payments,notifications,cache"),
            ..WorkerPlan::default()
        })?;
        testbed.start_worker(&WorkerPlan::own())?;
        testbed.workers_ready().await?;
        let market = Market::open(testbed, 20, 2).await?;
        let count = usize::try_from(span.as_millis() / EVERY.as_millis()).unwrap_or(1) + 5;
        let db = testbed.db()?;
        Ok(Self {
            booking: tokio::spawn(async move { market.ask_steadily(0, count, EVERY).await }),
            marking: tokio::spawn(async move {
                let mut ticks = tokio::time::interval(EVERY);
                let mut nonces = Vec::new();
                for _ in 0..count {
                    ticks.tick().await;
                    // What Postgres did not take, or may have taken, is nobody's promise.
                    nonces.extend(jobs::enqueue(&db, 4, |_| 20).await.unwrap_or_default());
                }
                Ok(nonces)
            }),
        })
    }

    /// Waits for the end of it and looks. `back`: since when all is well; `answers`: what requests may be answered. The
    /// requests for bookings, with their answers.
    pub async fn finish(
        self,
        testbed: &mut Testbed,
        run: &mut Run,
        back: Instant,
        answers: &[u16],
    ) -> Result<Vec<Asked>> {
        let (asked, nonces) = (self.booking.await??, self.marking.await??);
        audit::drain(testbed, DRAIN_LIMIT, &mut run.verdict).await?;
        let took = back.elapsed().as_secs_f64() * 1000.0;
        run.verdict.recovered(&[took], 15_000.0);
        everything_is_there(testbed, run, &asked, &nonces, answers).await?;
        Ok(asked)
    }
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
    run.verdict.figure("refused_503_max_ms", latency(asked, 503, 1.0));
    run.verdict.figure("bookings", asked.len() as f64);
    run.verdict.figure("booking_p50_ms", latency(asked, 201, 0.5));
    run.verdict.figure("booking_p99_ms", latency(asked, 201, 0.99));
    Ok(())
}
