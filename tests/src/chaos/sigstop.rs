//! A worker stands still for longer than its leases, wakes up and goes on: too late, and it changes nothing. Stopped are
//! such as are in the middle of taking money or of sending a mail just then.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, Utc};
use rand::{Rng, SeedableRng, rngs::StdRng};
use roost_shared::{
    clock::Clock,
    jobs::{
        Job, LEASE,
        catalogue::{AuthorizePayment, CapturePayment, SendMail},
    },
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Run, audit,
    audit::Fate,
    jobs::{self, Mark},
    load::DRAIN_LIMIT,
    market::{Asked, Market},
    testbed::{Testbed, WorkerPlan},
};
use crate::services::process::Signal;

/// Beyond the lease: somebody else must have had time to do the work.
const STANDSTILL: Duration = LEASE.saturating_add(Duration::from_secs(5));

/// The harness's jobs, two every so often until workers are stopped: so long that each worker always runs some, and so short
/// that those which were lost are soon done.
const EVERY: Duration = Duration::from_millis(150);
const HOLD_MS: std::ops::Range<u64> = 600..1_500;

pub async fn play(testbed: &mut Testbed, run: &mut Run) -> Result<()> {
    let (workers, rounds) = run.size.of((3, 1), (4, 8));
    testbed.start_api().await?;
    for _ in 0..workers {
        // So few at once that each has some of the jobs.
        testbed.start_worker(&WorkerPlan {
            concurrency: Some(64 / workers),
            ..WorkerPlan::own()
        })?;
    }
    testbed.workers_ready().await?;
    let market = Market::open(testbed, 20, 2).await?;
    answer_slowly(testbed, &mut run.dice, 100 * rounds).await?;
    let (mut asked, mut nonces, mut stopped) = (Vec::new(), Vec::new(), Vec::new());
    let clock = Clock::default();
    for round in 0..rounds {
        let enough = CancellationToken::new();
        let marking = {
            let (db, enough) = (testbed.db()?, enough.clone());
            let mut dice = StdRng::seed_from_u64(run.dice.random());
            tokio::spawn(async move {
                let (mut nonces, mut ticks): (Vec<Uuid>, _) = (Vec::new(), tokio::time::interval(EVERY));
                while !enough.is_cancelled() {
                    ticks.tick().await;
                    nonces.extend(jobs::enqueue(&db, 2, |_| dice.random_range(HOLD_MS)).await?);
                }
                anyhow::Ok(nonces)
            })
        };
        let paying = if round % 2 == 0 {
            CapturePayment::KIND
        } else {
            AuthorizePayment::KIND
        };
        let mut places = Vec::new();
        for (kind, beside) in [(paying, Some(Mark::KIND)), (SendMail::KIND, None)] {
            let prey = Prey { kind, beside };
            let place = stop_at_work(testbed, &market, &mut asked, prey, &places).await?;
            let worker = testbed.workers.get(place).context("no such worker")?;
            stopped.push((worker.pid(), clock.now()));
            places.push(place);
            run.verdict.faults += 1;
        }
        enough.cancel();
        nonces.extend(marking.await??);
        tokio::time::sleep(STANDSTILL).await;
        for place in places {
            let worker = testbed.workers.get_mut(place).context("no such worker")?;
            worker.process.signal(Signal::Cont);
        }
    }
    audit::drain(testbed, DRAIN_LIMIT, &mut run.verdict).await?;
    // A worker that woke up late has said its last word by now.
    tokio::time::sleep(Duration::from_secs(2)).await;
    audit::jobs(testbed, &mut run.verdict).await?;
    audit::marks(testbed, &nonces, &mut run.verdict).await?;
    audit::bookings(testbed, &asked, |_| Fate::Captured, &mut run.verdict).await?;
    let times = audit::recovery(testbed, &stopped).await?;
    run.verdict.recovered(&times, 20_000.0);
    for (kind, figure) in [
        (CapturePayment::KIND, "captures_lost"),
        (AuthorizePayment::KIND, "authorisations_lost"),
        (SendMail::KIND, "mails_lost"),
    ] {
        let lost = audit::lost(testbed, &stopped, kind).await?;
        run.verdict.figure(figure, lost as f64);
        // The short form has one round.
        let wanted = rounds > 1 || kind != AuthorizePayment::KIND;
        run.verdict.require(lost > 0 || !wanted, || {
            format!("nobody stood still in the middle of {kind}: this proves little")
        });
    }
    stale_writes(testbed, run, &stopped).await
}

/// What a worker has to be in the middle of to be stopped: it has begun the effect, and not heard what became of it.
#[derive(Clone, Copy)]
pub struct Prey {
    pub kind: &'static str,
    /// It has been at one of these as well for a moment, and is not near its end.
    pub beside: Option<&'static str>,
}

/// How long to wait for somebody to run a job, before more is asked for.
const SIGHT: Duration = Duration::from_secs(5);
/// What a worker had told Postgres before it was stopped has arrived by then.
const UNDERWAY: Duration = Duration::from_millis(50);

/// Stops a worker in the middle of such a job, and returns its place among the workers. Bookings, added to those that were
/// asked for so far, bring such jobs about. `but`: places of workers that are left alone.
pub async fn stop_at_work(
    testbed: &mut Testbed,
    market: &Market,
    asked: &mut Vec<Asked>,
    prey: Prey,
    but: &[usize],
) -> Result<usize> {
    let deadline = Instant::now() + DRAIN_LIMIT;
    loop {
        let booking = {
            let (market, first) = (market.clone(), asked.len());
            tokio::spawn(async move { market.ask_steadily(first, 5, Duration::from_millis(50)).await })
        };
        let stopped = stop_if_at_work(testbed, prey, but, SIGHT).await?;
        asked.extend(booking.await??);
        if let Some(place) = stopped {
            return Ok(place);
        }
        ensure!(Instant::now() < deadline, "nobody was met running {}", prey.kind);
    }
}

/// Stops a worker in the middle of such a job, if one runs one within this time.
pub async fn stop_if_at_work(
    testbed: &mut Testbed,
    prey: Prey,
    but: &[usize],
    within: Duration,
) -> Result<Option<usize>> {
    let deadline = Instant::now() + within;
    while Instant::now() < deadline {
        // Of those that were begun last most is left.
        let running: Vec<(Uuid, i64, String)> = sqlx::query_as(
            "SELECT id, fence, coalesce(lease_owner, '') FROM jobs AS prey
             WHERE state = 'running' AND kind = $1 AND crash_count = 0
               AND EXISTS (SELECT FROM effects WHERE job_id = prey.id AND effects.fence = prey.fence AND effects.state = 'intent')
               AND ($2::text IS NULL OR EXISTS (
                   SELECT FROM jobs WHERE state = 'running' AND kind = $2 AND lease_owner = prey.lease_owner
                       AND started_at BETWEEN now() - interval '400 milliseconds' AND now() - interval '100 milliseconds'))
             ORDER BY started_at DESC",
        )
        .bind(prey.kind)
        .bind(prey.beside)
        .fetch_all(&testbed.pool)
        .await?;
        for (job, fence, owner) in running {
            let Some(place) = place_of(testbed, &owner).filter(|place| !but.contains(place)) else {
                continue;
            };
            if stop_running(testbed, place, (job, fence), prey.beside).await? {
                return Ok(Some(place));
            }
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(None)
}

/// The place among the workers of the one that holds leases by this name.
pub fn place_of(testbed: &Testbed, owner: &str) -> Option<usize> {
    // host-pid-start
    let pid: u32 = owner.rsplit('-').nth(1)?.parse().ok()?;
    testbed.workers.iter().position(|worker| worker.pid() == pid)
}

/// Stops this worker, and lets it go on if it was done with this job, or with those beside it, before.
async fn stop_running(
    testbed: &mut Testbed,
    place: usize,
    (job, fence): (Uuid, i64),
    beside: Option<&str>,
) -> Result<bool> {
    let worker = testbed.workers.get_mut(place).context("no such worker")?;
    worker.process.signal(Signal::Stop);
    tokio::time::sleep(UNDERWAY).await;
    // One whose row is locked is just being settled.
    let running = sqlx::query(
        "SELECT FROM jobs AS prey WHERE id = $1 AND fence = $2 AND state = 'running'
             AND EXISTS (SELECT FROM effects WHERE job_id = prey.id AND effects.fence = prey.fence AND effects.state = 'intent')
             AND ($3::text IS NULL OR EXISTS (
                 SELECT FROM jobs WHERE state = 'running' AND kind = $3 AND lease_owner = prey.lease_owner))
         FOR UPDATE SKIP LOCKED",
    )
    .bind(job)
    .bind(fence)
    .bind(beside)
    .fetch_optional(&testbed.pool)
    .await?;
    if running.is_none() {
        worker.process.signal(Signal::Cont);
    }
    Ok(running.is_some())
}

/// How long Stripe takes for what asks a card or takes its money, and the mail server with a mail: as long as the real
/// ones, and so that a worker can be met waiting for them. Both do at once what they are asked to.
const TAKES_MS: std::ops::Range<u64> = 50..200;
/// How many different times they take.
const PACES: usize = 10;

/// Has the sandbox and the mailbox answer so many bookings slowly.
pub async fn answer_slowly(testbed: &Testbed, dice: &mut StdRng, bookings: usize) -> Result<()> {
    // It says on its first lines where it is.
    let log = testbed.logs("mailbox")?;
    let mailbox = log.lines().find(|line| line.starts_with("http://"));
    let mailbox = format!(
        "{}/api/faults",
        mailbox.context("the mailbox does not say where it is")?
    );
    for _ in 0..PACES {
        for suffix in ["/confirm", "/capture"] {
            let slow = json!({
                "match": {"method": "POST", "path_suffix": suffix}, "kind": "delay_after_commit",
                "times": bookings.div_ceil(PACES), "delay_ms": dice.random_range(TAKES_MS),
            });
            testbed.tell_sandbox("/_control/faults", &slow).await?;
        }
        let slow: Value = json!({
            "at": "message", "what": {"delay": dice.random_range(TAKES_MS)}, "times": (2 * bookings).div_ceil(PACES),
        });
        testbed
            .http
            .post(&mailbox)
            .json(&slow)
            .send()
            .await?
            .error_for_status()?;
    }
    Ok(())
}

/// Claims that were lost by standing still, and what was written under them all the same: nothing.
async fn stale_writes(testbed: &Testbed, run: &mut Run, stopped: &[(u32, DateTime<Utc>)]) -> Result<()> {
    let stopped: Vec<i32> = stopped.iter().map(|(pid, _)| pid.cast_signed()).collect();
    let (lost, written): (i64, i64) = sqlx::query_as(
        "WITH lost AS (
             SELECT job_id, args->>'nonce' AS nonce, job_attempts.fence FROM job_attempts JOIN jobs ON jobs.id = job_id
             WHERE outcome = 'lost' AND kind LIKE 'chaos.%' AND (regexp_match(worker, '-([0-9]+)-[^-]*$'))[1]::int = ANY($1))
         SELECT (SELECT count(*) FROM lost),
                (SELECT count(*) FROM lost JOIN chaos_effects AS effect ON effect.nonce::text = lost.nonce AND effect.fence = lost.fence)
              + (SELECT count(*) FROM lost JOIN chaos_effect_writes USING (job_id, fence))",
    )
    .bind(stopped)
    .fetch_one(&testbed.pool)
    .await?;
    run.verdict.figure("leases_lost", lost as f64);
    run.verdict.require(lost > 0, || {
        "nobody lost a lease by standing still: this proves nothing".to_owned()
    });
    run.verdict
        .double(written.unsigned_abs(), "effects written under a lost lease");
    // They did try: after they woke up, and not because somebody had stopped them before.
    let (tried, changed): (i64, i64) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM chaos_refused),
                (SELECT count(*) FROM chaos_refused AS refused JOIN chaos_effects AS effect USING (nonce, fence))",
    )
    .fetch_one(&testbed.pool)
    .await?;
    run.verdict.figure("stale_writes_refused", tried as f64);
    run.verdict.require(tried > 0, || {
        "nobody tried to write under a lost lease: this proves nothing".to_owned()
    });
    run.verdict
        .double(changed.unsigned_abs(), "effects of writes that were refused");
    // Money and mail as well: what a claim writes of its effect it writes before it is lost.
    let (all, late): (i64, Vec<String>) = sqlx::query_as(
        "SELECT count(*), coalesce(array_agg(format('%s %s', state, key)) FILTER (WHERE at > ended_at AND NOT with_job), '{}')
         FROM job_attempts JOIN chaos_effect_writes USING (job_id, fence) WHERE outcome = 'lost'",
    )
    .fetch_one(&testbed.pool)
    .await?;
    run.verdict.figure("effect_writes_of_lost_claims", all as f64);
    run.verdict.require(all > 0, || {
        "no claim that was lost had begun an effect: this proves little".to_owned()
    });
    run.verdict.double(
        late.len() as u64,
        &format!("writes of an effect after the claim was lost: {}", late.join(", ")),
    );
    Ok(())
}
