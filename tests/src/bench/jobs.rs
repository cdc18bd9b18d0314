//! Jobs: how many are enqueued, run and settled a second, and how soon after its commit one starts.

use std::{
    collections::HashMap,
    net::UdpSocket,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use chrono::{DateTime, Utc};
use roost_shared::{
    clock::Clock,
    db::Db,
    ids,
    jobs::{FinishedEffect, Job, Lease, Queue, catalogue::WarmCache},
    telemetry,
};
use roost_worker::{Context, DONE, Done, Handler, JobError, Options, Worker, serve_metrics};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Plan,
    figure::{Figure, Report, Target, median, percentile},
    machine::Machine,
    statements,
};

/// Jobs a transaction when many are enqueued.
const BATCH: u64 = 100;
/// Jobs a second, when it goes on for long.
const STEADY_RATE: u64 = 3_000;
/// Transactions that enqueue at the same time.
const ENQUEUERS: u64 = 4;
/// Enough for commits to share their way to the disk, as the engine does with its batches.
const PGBENCH_CLIENTS: usize = 32;
const SETTLE_LIMIT: Duration = Duration::from_secs(180);

/// One effect row.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct WriteEffect {
    effect_id: Uuid,
}

impl Job for WriteEffect {
    const KIND: &'static str = "bench.effect";
    const QUEUE: Queue = Queue::Notifications;
}

impl Handler for WriteEffect {
    async fn run(self, _: &Context, _: Lease) -> Result<Done, JobError> {
        Ok(Done::With(vec![FinishedEffect {
            key: effect_key(self.effect_id),
            entity_id: Some(self.effect_id),
            external_id: None,
            response: None,
        }]))
    }
}

fn effect_key(effect_id: Uuid) -> String {
    format!("bench:{effect_id}")
}

/// Says when it started.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct TellStart {
    id: Uuid,
    /// Of 127.0.0.1.
    udp_port: u16,
}

impl Job for TellStart {
    const KIND: &'static str = "bench.start";
    const QUEUE: Queue = Queue::Payments;
}

impl Handler for TellStart {
    async fn run(self, ctx: &Context, _: Lease) -> Result<Done, JobError> {
        let started = ctx.clock().now();
        let mut datagram = self.id.as_bytes().to_vec();
        datagram.extend(started.timestamp_micros().to_be_bytes());
        UdpSocket::bind(("127.0.0.1", 0))
            .and_then(|socket| socket.send_to(&datagram, ("127.0.0.1", self.udp_port)))
            .map_err(|error| JobError::Fail(error.to_string()))?;
        Ok(DONE)
    }
}

/// The worker with the kinds above, beside its own: `roost-worker` but for that.
pub async fn work() -> Result<()> {
    // It takes its options from the environment.
    let options = <Options as clap::Parser>::parse_from(["roost-worker"]);
    telemetry::init(options.log.log_format);
    let stop = CancellationToken::new();
    serve_metrics(options.metrics_listen, stop.clone()).await?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let registry = roost_worker::jobs::registry().with::<WriteEffect>().with::<TellStart>();
    let worker = Worker::start(&options, registry, Clock::default())?;
    terminate.recv().await;
    worker.stop().await;
    stop.cancel();
    Ok(())
}

/// Settled jobs a second, against pgbench committing the same effects one by one.
pub async fn throughput(machine: &Machine, plan: &Plan, report: &mut Report) -> Result<()> {
    let db = machine.db(8)?;
    let (mut settled, mut enqueued, mut committed) = (vec![], vec![], vec![]);
    let mut effects = 0;
    let mut memory = 0.0_f64;
    for round in 0..plan.rounds {
        // Keys that count up, as those of the jobs do.
        let script = "\\set n :n + 1\n\
             INSERT INTO effects (key, job_id, fence, entity_id, state, first_sent_at, updated_at)\n\
             VALUES ('pgbench:' || :base || ':' || :n || ':' || :client_id, lpad(to_hex(:base::bigint * 100000000 + :n * 100 + :client_id), 32, '0')::uuid, 1,\n\
                     lpad(to_hex(:base::bigint * 100000000 + :n * 100 + :client_id), 32, '0')::uuid, 'done', now(), now());\n";
        let variables = [("n", "0".to_owned()), ("base", (round + 1).to_string())];
        let rate = machine
            .pgbench
            .run("effects", script, &variables, PGBENCH_CLIENTS, plan.round)
            .await?;
        committed.push(rate.per_second);

        let worker = machine.bench_worker().await?;
        if plan.statements {
            statements::count(db.pool()).await?;
        }
        let jobs = plan.jobs;
        let ((rates, _), peak) = worker
            .peak(async {
                let began = Instant::now();
                let newest = Mutex::new(Uuid::nil());
                enqueue(&db, jobs, |now| {
                    let effect_id = ids::new(now);
                    *newest.lock().unwrap_or_else(PoisonError::into_inner) = effect_id;
                    WriteEffect { effect_id }
                })
                .await?;
                let enqueuing = began.elapsed();
                let newest = *newest.lock().unwrap_or_else(PoisonError::into_inner);
                effect_of(db.pool(), newest).await?;
                settle(db.pool(), WriteEffect::KIND).await?;
                let rate = |time: Duration| jobs as f64 / time.as_secs_f64();
                Ok(((rate(began.elapsed()), rate(enqueuing)), ()))
            })
            .await?;
        settled.push(rates.0);
        enqueued.push(rates.1);
        memory = memory.max(peak);
        effects += jobs;
        worker.stop().await?;
        if plan.statements {
            eprint!("{}", statements::of_each(db.pool(), jobs).await?);
        }
        once_each(db.pool(), effects).await?;
    }
    let value = median(&settled);
    report.add(
        Figure::new("jobs_settled", value, "jobs/s", effects)
            .against("pgbench committing the same effects one by one", median(&committed))
            .target(Target::RatioAtLeast(0.9))
            .note(format!(
                "from the first enqueue to the last settlement, {} jobs a round in transactions of {BATCH}, one worker, every effect there once",
                plan.jobs
            ))
            .note(rounds(&settled, &committed)),
    )?;
    report.add(
        Figure::new("jobs_enqueued", median(&enqueued), "jobs/s", effects)
            .note(format!("in transactions of {BATCH}, while the worker runs them")),
    )?;
    report.add(Figure::new("worker_memory_bench_jobs", memory, "MB", effects).note("most resident memory meanwhile"))
}

/// Rounds side by side, the limit's in brackets.
pub fn rounds(values: &[f64], limits: &[f64]) -> String {
    let pairs: Vec<String> = values
        .iter()
        .zip(limits)
        .map(|(value, limit)| format!("{value:.0} ({limit:.0})"))
        .collect();
    format!("rounds {}", pairs.join(", "))
}

/// A kind of production under load: every property's cache is warmed.
pub async fn warm(machine: &Machine, plan: &Plan, report: &mut Report) -> Result<()> {
    let db = machine.db(8)?;
    let worker = machine.worker().await?;
    let jobs = plan.jobs.min(plan.dataset.properties);
    let (seconds, peak) = worker
        .peak(async {
            let began = Instant::now();
            let numbers = std::sync::atomic::AtomicU64::new(0);
            enqueue(&db, jobs, |_| WarmCache {
                property_id: plan
                    .dataset
                    .property(numbers.fetch_add(1, std::sync::atomic::Ordering::Relaxed)),
            })
            .await?;
            settle(db.pool(), WarmCache::KIND).await?;
            Ok(began.elapsed().as_secs_f64())
        })
        .await?;
    worker.stop().await?;
    report.add(
        Figure::new("jobs_cache_warm", jobs as f64 / seconds, "jobs/s", jobs)
            .note("cache.warm end to end: reads a property, writes its JSON to Redis"),
    )?;
    report.add(
        Figure::new("worker_memory_loaded", peak, "MB", jobs)
            .note("roost-worker, most resident memory while it runs those jobs"),
    )
}

/// Jobs with an effect each at a steady rate for a long time: whether all are settled as they come, and whether the
/// worker's memory grows.
pub async fn sustained(machine: &Machine, plan: &Plan, report: &mut Report) -> Result<()> {
    let db = machine.db(8)?;
    let worker = machine.bench_worker().await?;
    let slices = 10;
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / u32::try_from(STEADY_RATE / BATCH)?);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    let (mut rates, mut memory) = (vec![], vec![]);
    let earlier = effects_done(db.pool()).await?.cast_unsigned();
    let mut jobs = 0;
    for _ in 0..slices {
        let (began, before) = (Instant::now(), effects_done(db.pool()).await?);
        while began.elapsed() < plan.sustained / slices {
            ticks.tick().await;
            let mut tx = db.begin().await?;
            for _ in 0..BATCH {
                let effect_id = ids::new(tx.now());
                tx.enqueue(&WriteEffect { effect_id });
            }
            tx.commit().await?;
            jobs += BATCH;
        }
        let settled = effects_done(db.pool()).await? - before;
        rates.push(settled as f64 / began.elapsed().as_secs_f64());
        memory.push(worker.memory()?);
    }
    settle(db.pool(), WriteEffect::KIND).await?;
    worker.stop().await?;
    once_each(db.pool(), earlier + jobs).await?;
    let slowest = rates.iter().copied().fold(f64::INFINITY, f64::min);
    let seconds = plan.sustained.as_secs();
    let tenths = |values: &[f64]| {
        values
            .iter()
            .map(|value| format!("{value:.0}"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    report.add(
        Figure::new("sustained_jobs_settled", slowest, "jobs/s", jobs)
            .target(Target::AtLeast(2_500.0))
            .note(format!(
                "the slowest tenth of {seconds} s with {STEADY_RATE} enqueued a second, every effect there once"
            ))
            .note(format!("tenths {}", tenths(&rates))),
    )?;
    // The first tenth is the growth to its working size.
    let growth = memory
        .last()
        .zip(memory.get(1))
        .map_or(0.0, |(last, second)| last / second);
    report.add(
        Figure::new("sustained_memory_growth", growth, "times", jobs)
            .target(Target::AtMost(1.1))
            .note("resident memory of the worker after the last tenth, by that after the second")
            .note(format!("MB after each tenth {}", tenths(&memory))),
    )
}

async fn effects_done(pool: &PgPool) -> Result<i64> {
    Ok(
        sqlx::query_scalar("SELECT count(*) FROM effects WHERE key LIKE 'bench:%' AND state = 'done'")
            .fetch_one(pool)
            .await?,
    )
}

/// What the same machine takes in the same seconds to answer once and to have it on disk.
const COMMIT: &str = "the commits themselves, to a disk that has them";

/// The instant that a commit returned to the first line of the handler, at 20 jobs a second.
pub async fn latency(machine: &Machine, plan: &Plan, report: &mut Report) -> Result<()> {
    let db = machine.db(4)?;
    let worker = machine.bench_worker().await?;
    let socket = tokio::net::UdpSocket::bind(("127.0.0.1", 0)).await?;
    let udp_port = socket.local_addr()?.port();
    let count = plan.latency.as_secs() * 20;
    let receiving = tokio::spawn(async move {
        let mut started: HashMap<Uuid, DateTime<Utc>> = HashMap::new();
        let mut datagram = [0_u8; 24];
        while (started.len() as u64) < count {
            let received = tokio::time::timeout(Duration::from_secs(30), socket.recv(&mut datagram)).await;
            received.context("a job did not start in 30 s")??;
            let (id, micros) = datagram.split_at(16);
            let micros = DateTime::from_timestamp_micros(i64::from_be_bytes(micros.try_into()?));
            started.insert(Uuid::from_slice(id)?, micros.context("no instant")?);
        }
        anyhow::Ok(started)
    });
    let mut ticks = tokio::time::interval(Duration::from_millis(50));
    let (mut committed, mut commits) = (Vec::new(), Vec::new());
    for _ in 0..count {
        ticks.tick().await;
        let mut tx = db.begin().await?;
        let id = ids::new(tx.now());
        tx.enqueue(&TellStart { id, udp_port });
        let began = Instant::now();
        tx.commit().await?;
        committed.push((id, db.clock().now()));
        // The push to Redis is a task of its own by then.
        commits.push(began.elapsed().as_secs_f64() * 1_000.0);
    }
    let started = receiving.await??;
    settle(db.pool(), TellStart::KIND).await?;
    worker.stop().await?;
    let mut waits = Vec::with_capacity(committed.len());
    for (id, committed) in committed {
        let started = started.get(&id).context("a job started twice and another one never")?;
        // The handler may have begun before the commit's answer reached us.
        waits.push(((*started - committed).num_microseconds().unwrap_or(0) as f64 / 1000.0).max(0.0));
    }
    let note = format!(
        "20 jobs/s for {} s, from the commit's return to the handler's first line",
        plan.latency.as_secs()
    );
    report.add(
        Figure::new("commit_to_start_p50", percentile(&waits, 0.5), "ms", count)
            .against(COMMIT, percentile(&commits, 0.5))
            .target(Target::AtMost(1.5))
            .note(&note),
    )?;
    report.add(
        Figure::new("commit_to_start_p99", percentile(&waits, 0.99), "ms", count)
            .against(COMMIT, percentile(&commits, 0.99))
            .target(Target::AtMost(4.0))
            .note(&note)
            .note(format!("longest {:.1} ms", percentile(&waits, 1.0))),
    )
}

async fn enqueue<J: Job>(db: &Db, jobs: u64, job: impl Fn(DateTime<Utc>) -> J) -> Result<()> {
    let job = &job;
    let parts = (0..ENQUEUERS).map(|part| async move {
        let mut left = jobs / ENQUEUERS + u64::from(part < jobs % ENQUEUERS);
        while left > 0 {
            let mut tx = db.begin().await?;
            for _ in 0..left.min(BATCH) {
                tx.enqueue(&job(tx.now()));
            }
            left -= left.min(BATCH);
            tx.commit().await?;
        }
        anyhow::Ok(())
    });
    futures::future::try_join_all(parts).await.map(|_| ())
}

/// Waits until the job that was enqueued last has had its effect, at the price of one row by its key each time.
async fn effect_of(pool: &PgPool, effect_id: Uuid) -> Result<()> {
    let deadline = Instant::now() + SETTLE_LIMIT;
    while Instant::now() < deadline {
        let there: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM effects WHERE key = $1)")
            .bind(effect_key(effect_id))
            .fetch_one(pool)
            .await?;
        if there {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    bail!("the last job had no effect in {} s", SETTLE_LIMIT.as_secs())
}

/// Waits until every job of the kind has ended.
async fn settle(pool: &PgPool, kind: &str) -> Result<()> {
    let deadline = Instant::now() + SETTLE_LIMIT;
    while Instant::now() < deadline {
        // Each reads one partial index.
        let open: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM jobs WHERE state = 'queued' AND published_at IS NOT NULL AND kind = $1)
                 OR EXISTS (SELECT FROM jobs WHERE state = 'queued' AND published_at IS NULL AND kind = $1)
                 OR EXISTS (SELECT FROM jobs WHERE state = 'running' AND kind = $1)
                 OR EXISTS (SELECT FROM jobs WHERE state IN ('scheduled', 'retrying') AND kind = $1)",
        )
        .bind(kind)
        .fetch_one(pool)
        .await?;
        if !open {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    bail!(
        "jobs of the kind {kind} were not settled in {} s",
        SETTLE_LIMIT.as_secs()
    )
}

/// Every job has succeeded at its first attempt, and left its one effect.
async fn once_each(pool: &PgPool, expected: u64) -> Result<()> {
    let counts: (i64, i64, i64) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM jobs WHERE kind = $1 AND state = 'succeeded' AND attempt = 1),
                (SELECT count(*) FROM job_attempts JOIN jobs ON jobs.id = job_id WHERE kind = $1),
                (SELECT count(*) FROM effects WHERE key LIKE 'bench:%' AND state = 'done')",
    )
    .bind(WriteEffect::KIND)
    .fetch_one(pool)
    .await?;
    let expected = expected.cast_signed();
    ensure!(
        counts == (expected, expected, expected),
        "of {expected} jobs (succeeded at once, attempts, effects) are {counts:?}"
    );
    Ok(())
}
