//! Redis forgets, crashes, is away, is full: it costs time and nothing else.

use std::{
    collections::HashSet,
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use chrono::{DateTime, TimeDelta, Utc};
use rand::Rng;
use roost_shared::{
    clock::Clock,
    jobs::{MAX_DEPTH, Queue, Transport, ids_of},
};
use uuid::Uuid;

use super::{
    Run, audit, jobs,
    load::{DRAIN_LIMIT, EVERY, Load, everything_is_there},
    market::{Answer, Asked, Market},
    proxy::Mode,
    testbed::{Testbed, WorkerPlan},
};
use crate::{bench::figure::percentile, services::process::Signal};

/// The API answers without Redis as with it, but that people have to sign in again when their sessions are gone.
const WITHOUT_REDIS: [u16; 2] = [201, 401];
/// Jobs that come in right before a flush.
const MORE: usize = 500;
/// Redis counts as filled up again from this share on: the rest is on its way to a worker at any moment.
const FILLED: f64 = 0.75;
/// By then every worker tells how Redis is.
const ALARM_LIMIT: Duration = Duration::from_secs(30);

/// FLUSHALL while many jobs wait, some of them in Redis.
pub async fn flush(testbed: &mut Testbed, run: &mut Run) -> Result<()> {
    let (pending, flushes, workers) = run.size.of((3_000_usize, 2_u32, 2), (100_000, 5, 4));
    testbed.start_api().await?;
    let market = Market::open(testbed, 10, 2).await?;
    // Fewer are done in a moment the longer they take.
    let hold_ms = run.size.of(20, 2);
    let mut nonces = jobs::enqueue(&testbed.db()?, pending, |_| hold_ms).await?;
    published_as_far_as_there_is_room(testbed).await?;
    for _ in 0..workers {
        testbed.start_worker(&WorkerPlan {
            concurrency: Some(8),
            ..WorkerPlan::own()
        })?;
    }
    testbed.workers_ready().await?;
    let bookings = run.size.of(20, 300);
    let booking = {
        let market = market.clone();
        tokio::spawn(async move { market.ask_steadily(0, bookings, Duration::from_millis(100)).await })
    };
    let (mut messages, mut forgotten, mut times, mut waiting) = (0, 0, Vec::new(), Vec::new());
    for number in 0..flushes {
        // The first as soon as anything is done, the others at random moments while there is still much to do.
        let share = match number {
            0 => 0.0,
            _ => (f64::from(number) + run.dice.random_range(0.1..0.9)) / f64::from(flushes + 1),
        };
        wait_until_done(testbed, ((pending as f64 * share) as i64).max(1)).await?;
        // Workers fetch ahead: for these messages to be in Redis when it forgets, they stand still for a moment.
        all_workers(testbed, Signal::Stop);
        // So many that all of them fit into Redis. Were there more, the last that came in would have got there past
        // others, and would be published again after these.
        if queued(testbed).await? + MORE <= MAX_DEPTH {
            nonces.extend(jobs::enqueue(&testbed.db()?, MORE, |_| hold_ms).await?);
        }
        waiting.push(queued(testbed).await?);
        let flushed = forget(testbed).await?;
        all_workers(testbed, Signal::Cont);
        messages += flushed.held.messages;
        forgotten += flushed.held.jobs.len();
        run.verdict.faults += 1;
        times.push(published_again(testbed, flushed).await?);
    }
    let asked = booking.await??;
    audit::drain(testbed, DRAIN_LIMIT, &mut run.verdict).await?;
    everything_is_there(testbed, run, &asked, &nonces, &WITHOUT_REDIS).await?;
    run.verdict.figure("messages_forgotten", messages as f64);
    run.verdict.figure("jobs_forgotten", forgotten as f64);
    run.verdict.require(messages as f64 >= 100.0 * f64::from(flushes), || {
        format!("only {messages} messages were in Redis when it was flushed: this proves little")
    });
    let first = waiting.first().copied().unwrap_or(0);
    run.verdict.figure("pending_at_first_flush", first as f64);
    run.verdict
        .figure("pending_at_last_flush", waiting.last().copied().unwrap_or(0) as f64);
    let least = pending as f64 * run.size.of(0.5, 0.95);
    run.verdict.require(first as f64 >= least, || {
        format!("only {first} of {pending} jobs were pending at the first flush")
    });
    run.verdict.recovered(&times, 15_000.0);
    Ok(())
}

/// Waits until those who enqueued have taken the mark off what Redis has no room for. Nobody takes anything out yet.
async fn published_as_far_as_there_is_room(testbed: &Testbed) -> Result<()> {
    let redis = testbed.redis()?;
    let deadline = Instant::now() + DRAIN_LIMIT;
    loop {
        let held = Held::read(&redis).await?.jobs.len();
        let published: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM jobs WHERE state = 'queued' AND queue = 'maintenance' AND published_at IS NOT NULL",
        )
        .fetch_one(&testbed.pool)
        .await?;
        if published.unsigned_abs() <= held as u64 {
            return Ok(());
        }
        anyhow::ensure!(
            Instant::now() < deadline,
            "{published} jobs count as published, Redis has {held}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn queued(testbed: &Testbed) -> Result<usize> {
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM jobs WHERE state = 'queued' AND queue = 'maintenance'")
        .fetch_one(&testbed.pool)
        .await?;
    Ok(usize::try_from(count)?)
}

fn all_workers(testbed: &mut Testbed, signal: Signal) {
    for worker in &mut testbed.workers {
        worker.process.signal(signal);
    }
}

/// What waits in Redis, by its own word.
#[derive(Default)]
struct Held {
    messages: usize,
    /// The jobs that the messages are about.
    jobs: HashSet<Uuid>,
}

impl Held {
    async fn read(redis: &roost_shared::redis::Redis) -> Result<Self> {
        let config = Transport::config(redis, Queue::Maintenance);
        let mut connection = redis.connection();
        let waiting: Vec<String> = redis::cmd("LRANGE")
            .arg(config.active_jobs_list())
            .arg(0)
            .arg(-1)
            .query_async(&mut connection)
            .await?;
        if waiting.is_empty() {
            return Ok(Self::default());
        }
        let messages: Vec<Option<Vec<u8>>> = redis::cmd("HMGET")
            .arg(config.job_data_hash())
            .arg(&waiting)
            .query_async(&mut connection)
            .await?;
        let jobs = messages.iter().flatten().filter_map(|message| ids_of(message));
        Ok(Self {
            messages: waiting.len(),
            jobs: jobs.flatten().collect(),
        })
    }
}

/// A FLUSHALL.
struct Flushed {
    began: Instant,
    /// What was there.
    held: Held,
}

/// Flushes, while the workers stand still.
async fn forget(testbed: &Testbed) -> Result<Flushed> {
    let redis = testbed.redis()?;
    // Publishing follows the commit.
    forwarded(testbed).await?;
    let held = Held::read(&redis).await?;
    redis::cmd("FLUSHALL").exec_async(&mut redis.connection()).await?;
    Ok(Flushed {
        began: Instant::now(),
        held,
    })
}

/// The milliseconds until Redis has again what it lost: each job that it forgot was seen in it or is queued no more, and
/// it is as full as it may be, or has what waits. What our own tables say of Redis does not count.
async fn published_again(testbed: &Testbed, flushed: Flushed) -> Result<f64> {
    let redis = testbed.redis()?;
    let (mut missing, mut filled) = (flushed.held.jobs, false);
    loop {
        let held = Held::read(&redis).await?;
        missing.retain(|id| !held.jobs.contains(id));
        missing = queued_of(testbed, &missing).await?;
        let least = |room: usize| (room as f64 * FILLED) as usize;
        filled |= held.messages >= least(MAX_DEPTH) || held.jobs.len() >= least(queued(testbed).await?);
        let took = flushed.began.elapsed();
        if filled && missing.is_empty() || took > DRAIN_LIMIT {
            return Ok(took.as_secs_f64() * 1000.0);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Those that nobody has begun yet.
async fn queued_of(testbed: &Testbed, ids: &HashSet<Uuid>) -> Result<HashSet<Uuid>> {
    let ids: Vec<Uuid> = ids.iter().copied().collect();
    let queued: Vec<Uuid> = sqlx::query_scalar("SELECT id FROM jobs WHERE id = ANY($1) AND state = 'queued'")
        .bind(ids)
        .fetch_all(&testbed.pool)
        .await?;
    Ok(queued.into_iter().collect())
}

async fn wait_until_done(testbed: &Testbed, count: i64) -> Result<()> {
    let deadline = Instant::now() + DRAIN_LIMIT;
    loop {
        let done: i64 = sqlx::query_scalar("SELECT count(*) FROM chaos_starts")
            .fetch_one(&testbed.pool)
            .await?;
        if done >= count {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < deadline, "only {done} jobs have begun, not {count}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What is done to Redis.
#[derive(Clone, Copy, Debug)]
enum Blow {
    /// Killed, away for so long, and started again, empty.
    Crash(Duration),
    /// All connections reset, in the middle of whatever is under way.
    Cut,
    /// Every message takes a while.
    Slow,
}

/// There and back it is less than what a reply may take: everything goes on through Redis.
const SLOWNESS: Duration = Duration::from_millis(100);
const SLOW_FOR: Duration = Duration::from_secs(1);

/// Crashes, cut and slow connections under load.
pub async fn restart(testbed: &mut Testbed, run: &mut Run) -> Result<()> {
    let blows: Vec<(Duration, Blow)> = (0..run.size.of(6, 60))
        .map(|number| {
            let down = Duration::from_millis(run.dice.random_range(0..1_500));
            let blow = match number % 3 {
                0 => Blow::Crash(down),
                1 => Blow::Cut,
                _ => Blow::Slow,
            };
            (Duration::from_millis(run.dice.random_range(500..2_000)), blow)
        })
        .collect();
    let mut load = Load::start(testbed).await?;
    let mut cut = 0;
    for (up, blow) in blows {
        tokio::time::sleep(up).await;
        match blow {
            Blow::Crash(down) => {
                testbed.services.redis_mut()?.kill()?;
                tokio::time::sleep(down).await;
                testbed.services.redis_mut()?.start_again()?;
            }
            Blow::Cut => cut += testbed.redis_proxy.cut(),
            Blow::Slow => {
                testbed.redis_proxy.set(Mode::Delay(SLOWNESS));
                tokio::time::sleep(SLOW_FOR).await;
                testbed.redis_proxy.set(Mode::Pass);
            }
        }
        load.fault_ended();
        run.verdict.faults += 1;
    }
    run.verdict.figure("connections_cut", cut as f64);
    run.verdict
        .require(cut > 0, || "no connection was open when they were cut".to_owned());
    load.finish(testbed, run, &WITHOUT_REDIS).await?;
    Ok(())
}

/// The server is away for a minute: first it refuses connections, then it accepts them and says nothing.
pub async fn down(testbed: &mut Testbed, run: &mut Run) -> Result<()> {
    let half = run.size.of(Duration::from_secs(4), Duration::from_secs(30));
    let mut load = Load::start(testbed).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    // Redis has all of these when it goes, and nobody has begun one.
    all_workers(testbed, Signal::Stop);
    let backlog = jobs::enqueue(&testbed.db()?, run.size.of(300, 3_000), |_| 20).await?;
    forwarded(testbed).await?;
    let mut outage = Outage::begins();
    testbed.services.redis_mut()?.kill()?;
    all_workers(testbed, Signal::Cont);
    tokio::time::sleep(half).await;
    alarm(testbed, run, Alarm::Raised).await?;
    done_meanwhile(testbed, run, &backlog).await?;
    testbed.redis_proxy.set(Mode::Hang);
    testbed.services.redis_mut()?.start_again()?;
    tokio::time::sleep(half).await;
    alarm(testbed, run, Alarm::Raised).await?;
    outage.ends();
    testbed.redis_proxy.set(Mode::Pass);
    load.fault_ended();
    run.verdict.faults += 2;
    alarm(testbed, run, Alarm::Over).await?;
    let asked = load.finish(testbed, run, &WITHOUT_REDIS).await?;
    audit::marks(testbed, &backlog, &mut run.verdict).await?;
    went_on(run, &asked, outage);
    Ok(())
}

/// Waits until something is in Redis.
async fn forwarded(testbed: &Testbed) -> Result<()> {
    let (redis, deadline) = (testbed.redis()?, Instant::now() + DRAIN_LIMIT);
    while Held::read(&redis).await?.messages == 0 {
        anyhow::ensure!(Instant::now() < deadline, "no job comes to Redis");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// What Redis had when it went away is done before it comes back.
async fn done_meanwhile(testbed: &Testbed, run: &mut Run, backlog: &[Uuid]) -> Result<()> {
    let (began, limit) = (Instant::now(), Duration::from_secs(30));
    let left = loop {
        let left: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM jobs WHERE kind LIKE 'chaos.%' AND state <> 'succeeded' AND args->>'nonce' = ANY($1)",
        )
        .bind(backlog.iter().map(Uuid::to_string).collect::<Vec<_>>())
        .fetch_one(&testbed.pool)
        .await?;
        if left == 0 || began.elapsed() > limit {
            break left;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    run.verdict
        .figure("backlog_waited_for_ms", began.elapsed().as_secs_f64() * 1000.0);
    run.verdict.require(left == 0, || {
        format!("{left} of {} jobs that Redis had wait for its return", backlog.len())
    });
    Ok(())
}

/// The server has no room for another byte.
pub async fn maxmemory(testbed: &mut Testbed, run: &mut Run) -> Result<()> {
    let span = run.size.of(Duration::from_secs(5), Duration::from_secs(60));
    let mut load = Load::start(testbed).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let redis = testbed.redis()?;
    let mut outage = Outage::begins();
    limit_memory(&redis, "1mb").await?;
    tokio::time::sleep(span).await;
    alarm(testbed, run, Alarm::Raised).await?;
    let api = testbed.api.as_ref().context("no API")?;
    let failed = api.metric(&testbed.http, "roost_publish_failed_total").await?;
    outage.ends();
    limit_memory(&redis, "0").await?;
    load.fault_ended();
    run.verdict.faults += 1;
    run.verdict.figure("publish_failed_total", failed);
    run.verdict.require(failed > 0.0, || {
        "no metric of the API tells that Redis is full: roost_publish_failed_total is zero".to_owned()
    });
    let told = testbed.logs("api")?.matches("OOM").count();
    run.verdict.figure("log_lines_naming_oom", told as f64);
    run.verdict.require(told > 0, || {
        "no line of the API's log tells that Redis is full".to_owned()
    });
    alarm(testbed, run, Alarm::Over).await?;
    let asked = load.finish(testbed, run, &WITHOUT_REDIS).await?;
    went_on(run, &asked, outage);
    Ok(())
}

/// What the workers tell of Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Alarm {
    Raised,
    Over,
}

/// Each worker tells by its gauge how Redis is, and has told by a line of its log when it refused.
async fn alarm(testbed: &Testbed, run: &mut Run, expected: Alarm) -> Result<()> {
    let deadline = Instant::now() + ALARM_LIMIT;
    for worker in &testbed.workers {
        let told = |text: &str| text.contains("ERROR") && text.contains("Redis refuses");
        loop {
            let gauge = worker.metric(&testbed.http, "roost_redis_refuses").await?;
            let is_told = match expected {
                Alarm::Raised => gauge == 1.0 && fs::read_to_string(&worker.log)?.lines().any(told),
                Alarm::Over => gauge == 0.0,
            };
            if is_told || Instant::now() > deadline {
                run.verdict.require(is_told, || {
                    format!(
                        "the alarm of {} is not {expected:?}: roost_redis_refuses {gauge}, or no line of its log",
                        worker.process.name()
                    )
                });
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(())
}

/// From when to when Redis was of no use.
#[derive(Clone, Copy)]
struct Outage {
    from: DateTime<Utc>,
    until: DateTime<Utc>,
}

impl Outage {
    fn begins() -> Self {
        let now = Clock::default().now();
        Self { from: now, until: now }
    }

    fn ends(&mut self) {
        self.until = Clock::default().now();
    }
}

/// Bookings were asked for and answered with 201 while Redis was of no use: about all of them, and soon.
fn went_on(run: &mut Run, asked: &[Asked], outage: Outage) {
    // Those of the last moment may be answered after it.
    let margin = run.size.of(TimeDelta::seconds(1), TimeDelta::seconds(2));
    let within: Vec<&Asked> = asked
        .iter()
        .filter(|one| one.sent_at >= outage.from && one.sent_at <= outage.until - margin)
        .collect();
    let expected = (outage.until - outage.from - margin).num_milliseconds() as f64 / EVERY.as_millis() as f64;
    run.verdict.require(within.len() as f64 >= expected / 2.0, || {
        format!(
            "only {} bookings were asked for without Redis: this proves little",
            within.len()
        )
    });
    let accepted = within
        .iter()
        .filter(|one| matches!(one.answer, Answer::Booked(_)) && one.answered_at <= outage.until);
    let share = accepted.count() as f64 / within.len().max(1) as f64;
    run.verdict.figure("asked_without_redis", within.len() as f64);
    run.verdict.figure("accepted_without_redis_percent", share * 100.0);
    run.verdict.require(share >= run.size.of(0.5, 0.95), || {
        format!(
            "{:.0} % of the bookings were accepted while Redis was of no use",
            share * 100.0
        )
    });
    let times: Vec<f64> = within
        .iter()
        .map(|one| (one.answered_at - one.sent_at).num_milliseconds() as f64)
        .collect();
    let p99 = percentile(&times, 0.99);
    run.verdict.figure("booking_without_redis_p99_ms", p99);
    // Who asks while the connection is lost waits for a reply for half a second, for each of the few things that it asks.
    run.verdict.in_time(p99, 3_000.0, "the p99 of a booking without Redis");
}

async fn limit_memory(redis: &roost_shared::redis::Redis, most: &str) -> Result<()> {
    redis::cmd("CONFIG")
        .arg("SET")
        .arg("maxmemory")
        .arg(most)
        .exec_async(&mut redis.connection())
        .await?;
    Ok(())
}
