//! Workers die by SIGKILL while bookings and other jobs come in, at random moments and in the middle of taking money and of
//! sending mail; each is replaced at once.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, Utc};
use rand::Rng;
use roost_shared::{
    clock::Clock,
    jobs::{
        Job,
        catalogue::{AuthorizePayment, CapturePayment, SendMail},
    },
};
use uuid::Uuid;

use super::{
    Run, audit,
    audit::Fate,
    jobs,
    load::DRAIN_LIMIT,
    market::{Asked, Market},
    sigstop::{self, Prey},
    testbed::{Testbed, WorkerPlan},
};
use crate::bench::figure::percentile;

/// From the first `kill` to the last, one every so often on average.
const MEAN_GAP: Duration = Duration::from_millis(1_000);
/// Long enough that kills hit jobs in the middle, short enough that hardly any job is hit three times.
const HOLD_MS: std::ops::Range<u64> = 10..120;

/// From a kill until what was hit is effective again.
const P99_MS: f64 = 10_000.0;
const LONGEST_MS: f64 = 15_000.0;

/// What the next victim is in the middle of, kill after kill: three kinds of jobs of a booking that have an effect outside.
/// None: of anything or nothing.
const AIMS: [Option<&str>; 8] = [
    None,
    Some(AuthorizePayment::KIND),
    None,
    Some(SendMail::KIND),
    None,
    Some(CapturePayment::KIND),
    None,
    Some(SendMail::KIND),
];
/// How long a kill waits for somebody to be in the middle of that; then it takes who comes.
const SIGHT: Duration = Duration::from_secs(2);

/// Of so many kills one hits a worker that has a crowd of jobs in hand, as one has that waits for Stripe: many for each
/// worker come in right before, …
const CROWDED: (usize, usize) = (8, 20);
const CROWD: usize = 32;
const CROWD_HOLD_MS: u64 = 1_500;
/// … at least so many have begun, …
const HALF_A_CROWD: i64 = 16;
/// … and the kills pause until they are done again: hit three times in a row they would be quarantined.
const CROWD_PAUSE: Duration = Duration::from_secs(12);

/// A kill to come.
struct Kill {
    after: Duration,
    victim: usize,
    aim: Option<&'static str>,
    crowded: bool,
}

pub async fn play(testbed: &mut Testbed, run: &mut Run) -> Result<()> {
    let kills = run.size.of(8, 200);
    let crowded = run.size.of(CROWDED.0, CROWDED.1);
    let workers = run.size.of(3, 8);
    let bookings = run.size.of(30, 1_500);
    let marks = run.size.of(300, 12_000);
    let schedule: Vec<Kill> = (0..kills)
        .zip(AIMS.into_iter().cycle())
        .map(|(number, aim)| Kill {
            after: MEAN_GAP.mul_f64(run.dice.random_range(0.1..1.9)),
            victim: run.dice.random_range(0..workers),
            aim,
            crowded: number % crowded == crowded - 1,
        })
        .collect();
    let span = schedule.iter().map(|kill| kill.after).sum::<Duration>();
    let holds: Vec<u64> = (0..marks).map(|_| run.dice.random_range(HOLD_MS)).collect();

    testbed.start_api().await?;
    // The real program has no kinds but those of production; the other one knows them as well.
    let plans: Vec<WorkerPlan> = (0..workers)
        .map(|number| WorkerPlan {
            own_kinds: number % 3 != 2,
            queues: (number % 3 == 2).then_some("confirmation,payments,notifications,cache"),
            ..WorkerPlan::default()
        })
        .collect();
    for plan in &plans {
        testbed.start_worker(plan)?;
    }
    testbed.workers_ready().await?;
    let market = Market::open(testbed, run.size.of(10, 50), 4).await?;
    sigstop::answer_slowly(testbed, &mut run.dice, bookings as usize).await?;

    let booking = {
        let (market, every) = (market.clone(), span / bookings);
        tokio::spawn(async move { market.ask_steadily(0, bookings as usize, every).await })
    };
    let marking = {
        let (db, steps) = (testbed.db()?, span.as_millis() / 100);
        tokio::spawn(async move {
            let mut nonces: Vec<Uuid> = Vec::new();
            let mut ticks = tokio::time::interval(Duration::from_millis(100));
            for chunk in holds.chunks(holds.len().div_ceil(usize::try_from(steps).unwrap_or(1).max(1))) {
                ticks.tick().await;
                nonces.extend(jobs::enqueue(&db, chunk.len(), |number| chunk.get(number).copied().unwrap_or(0)).await?);
            }
            anyhow::Ok(nonces)
        })
    };
    let mut killed: Vec<(u32, DateTime<Utc>)> = Vec::new();
    let mut nonces = Vec::new();
    for kill in schedule {
        tokio::time::sleep(kill.after).await;
        let met = match kill.aim {
            _ if kill.crowded => Some(crowd(testbed, workers, &mut nonces).await?),
            Some(kind) => sigstop::stop_if_at_work(testbed, Prey { kind, beside: None }, &[], SIGHT).await?,
            None => None,
        };
        killed.push(replace(testbed, &plans, met.unwrap_or(kill.victim))?);
        run.verdict.faults += 1;
        if kill.crowded {
            tokio::time::sleep(CROWD_PAUSE).await;
        }
    }
    let mut asked = booking.await??;
    nonces.extend(marking.await??);
    let quiet = Instant::now();
    audit::drain(testbed, DRAIN_LIMIT, &mut run.verdict).await?;
    run.verdict
        .figure("drained_after_seconds", quiet.elapsed().as_secs_f64());
    for (kind, figure) in [
        (AuthorizePayment::KIND, "authorisations_lost"),
        (CapturePayment::KIND, "captures_lost"),
        (SendMail::KIND, "mails_lost"),
    ] {
        let lost = hit(testbed, run, &market, &plans, &mut asked, &mut killed, kind).await?;
        run.verdict.figure(figure, lost as f64);
    }

    audit::jobs(testbed, &mut run.verdict).await?;
    audit::marks(testbed, &nonces, &mut run.verdict).await?;
    audit::bookings(testbed, &asked, |_| Fate::Captured, &mut run.verdict).await?;
    let times = audit::recovery(testbed, &killed).await?;
    let hits = times.len();
    run.verdict.figure("attempts_lost", hits as f64);
    let crowds = kills / crowded;
    run.verdict
        .require(hits >= killed.len() / 4 + crowds * HALF_A_CROWD as usize, || {
            format!(
                "only {hits} attempts were hit by {} kills: this proves little",
                killed.len()
            )
        });
    run.verdict.recovered(&times, LONGEST_MS);
    let kills: Vec<DateTime<Utc>> = killed.iter().map(|(_, at)| *at).collect();
    let waits = audit::waits_over_kills(testbed, &kills).await?;
    let longest = percentile(&waits, 1.0);
    run.verdict.figure("due_at_a_kill", waits.len() as f64);
    run.verdict.figure("due_at_a_kill_max_ms", longest);
    run.verdict
        .in_time(longest, LONGEST_MS, "from a kill, a job that was due at it");
    // With those of the bookings: mails, captures, what their events ask for.
    let jobs = run.verdict.jobs;
    run.verdict.require(jobs >= run.size.of(300, 20_000), || {
        format!("only {jobs} jobs: this proves less than it says")
    });
    let p99 = run.verdict.recovery_ms.p99;
    run.verdict.in_time(p99, P99_MS, "the p99 from kill to effect");
    Ok(())
}

/// Has a crowd of jobs come in. The place of the worker that is in the middle of most.
async fn crowd(testbed: &Testbed, workers: usize, nonces: &mut Vec<Uuid>) -> Result<usize> {
    nonces.extend(jobs::enqueue(&testbed.db()?, CROWD * workers, |_| CROWD_HOLD_MS).await?);
    let deadline = Instant::now() + DRAIN_LIMIT;
    loop {
        let busiest: Option<(String, i64)> = sqlx::query_as(
            "SELECT coalesce(lease_owner, ''), count(*) FROM jobs WHERE state = 'running' AND kind LIKE 'chaos.%'
             GROUP BY 1 ORDER BY 2 DESC LIMIT 1",
        )
        .fetch_optional(&testbed.pool)
        .await?;
        if let Some((owner, _)) = busiest.filter(|(_, running)| *running >= HALF_A_CROWD)
            && let Some(place) = sigstop::place_of(testbed, &owner)
        {
            return Ok(place);
        }
        ensure!(Instant::now() < deadline, "no worker has a crowd of jobs in hand");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Kills this worker and starts another in its place. Who was killed, when.
fn replace(testbed: &mut Testbed, plans: &[WorkerPlan], place: usize) -> Result<(u32, DateTime<Utc>)> {
    let next = testbed.new_worker(plans.get(place).context("no such plan")?)?;
    let worker = testbed.workers.get_mut(place).context("no such worker")?;
    let at = Clock::default().now();
    worker.process.kill()?;
    let pid = worker.pid();
    *worker = next;
    Ok((pid, at))
}

/// How many attempts at such jobs the kills have hit: enough of them, because as many more workers die as that takes.
async fn hit(
    testbed: &mut Testbed,
    run: &mut Run,
    market: &Market,
    plans: &[WorkerPlan],
    asked: &mut Vec<Asked>,
    killed: &mut Vec<(u32, DateTime<Utc>)>,
    kind: &'static str,
) -> Result<u64> {
    let enough = run.size.of(1, 20);
    for _ in 0..enough {
        if audit::lost(testbed, killed, kind).await? >= enough {
            break;
        }
        let prey = Prey { kind, beside: None };
        let place = sigstop::stop_at_work(testbed, market, asked, prey, &[]).await?;
        killed.push(replace(testbed, plans, place)?);
        run.verdict.faults += 1;
        audit::drain(testbed, DRAIN_LIMIT, &mut run.verdict).await?;
    }
    let hit = audit::lost(testbed, killed, kind).await?;
    run.verdict.require(hit >= enough, || {
        format!("only {hit} attempts at {kind} were hit: this proves little")
    });
    Ok(hit)
}
