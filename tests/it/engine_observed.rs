//! What a real worker tells of itself: the metrics that alarms and autoscalers look at, and one line for each thing that
//! nobody can read.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use roost_shared::jobs::catalogue::{CapturePayment, VoidPayment, WarmCache};
use roost_shared::jobs::{Job, Lease, Queue};
use roost_tests::services::free_address;
use roost_tests::world::World;
use roost_worker::{Context, Done, Handler, JobError, Registry, Worker, serve_metrics};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::programs::{Logging, worker};
use crate::rehearsal::{Unheard, enqueue, enqueue_one, registry, runs, world};

/// A worker, what it has logged, and where its metrics are.
struct Observed(Logging);

impl Observed {
    fn start(world: &World) -> Self {
        Self(Logging::start(worker(world)))
    }

    fn address(&self) -> Option<String> {
        let listening = self.0.saying("metrics and health");
        Some(listening.first()?["address"].as_str()?.to_owned())
    }

    /// The sum of a metric's series with all of these labels.
    async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        match self.address() {
            Some(address) => metric_at(&address, name, labels).await,
            None => 0.0,
        }
    }

    async fn reaches(&self, world: &World, least: f64, name: &str, labels: &[(&str, &str)]) {
        let what = format!("{name} {labels:?} reaches {least}");
        world
            .eventually(&what, async || self.metric(name, labels).await >= least)
            .await;
    }
}

/// The sum of a metric's series with all of these labels, as a listener tells it.
async fn metric_at(address: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let reply = reqwest::get(format!("http://{address}/metrics")).await.unwrap();
    let text = reply.text().await.unwrap();
    let series = text.lines().filter(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels
                .iter()
                .all(|(label, value)| line.contains(&format!("{label}=\"{value}\"")))
    });
    series
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum()
}

/// A job as it is found, not as somebody enqueues it.
async fn put<J: Job>(world: &World, state: &str, args: &str) -> Uuid {
    sqlx::query_scalar(
        "INSERT INTO jobs (id, kind, queue, priority, args, max_attempts, state, run_at, attempt, lease_owner, lease_until)
         VALUES (gen_random_uuid(), $1, $2, 50, $3::jsonb, 3, $4, now() - interval '100 seconds', 0, 'gone', now() - interval '1 minute')
         RETURNING id",
    )
    .bind(J::KIND)
    .bind(J::QUEUE.name())
    .bind(args)
    .bind(state)
    .fetch_one(world.pool())
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_alarms_and_autoscalers_look_at_is_measured() {
    let world = World::without_worker().await;
    sqlx::query("UPDATE queues SET paused = true WHERE name = 'cache'")
        .execute(world.pool())
        .await
        .unwrap();
    put::<WarmCache>(&world, "queued", "{}").await;
    put::<CapturePayment>(&world, "queued", "{}").await;
    put::<VoidPayment>(&world, "running", &format!("{{\"payment_id\":\"{}\"}}", Uuid::new_v4())).await;
    sqlx::query(
        "INSERT INTO effects (key, job_id, fence, state, first_sent_at, updated_at) VALUES ('capture:nobody', gen_random_uuid(), 1, 'unknown', now(), now())",
    )
    .execute(world.pool())
    .await
    .unwrap();

    let worker = Observed::start(&world);
    let cache = [("queue", "cache")];
    worker
        .reaches(&world, 100.0, "roost_queue_oldest_due_seconds", &cache)
        .await;
    worker.reaches(&world, 1.0, "roost_queue_due_jobs", &cache).await;
    worker.reaches(&world, 100.0, "roost_publish_lag_seconds", &cache).await;
    worker.reaches(&world, 1.0, "roost_effects_unknown", &[]).await;
    worker.reaches(&world, 1.0, "roost_lease_expiries_total", &[]).await;
    let lost = [("kind", "payment.void"), ("outcome", "lost")];
    worker.reaches(&world, 1.0, "roost_job_attempts_total", &lost).await;
    let waits = [("kind", "cache.warm"), ("state", "queued")];
    worker.reaches(&world, 1.0, "roost_jobs", &waits).await;
    let died = [("kind", "payment.capture"), ("state", "dead")];
    worker.reaches(&world, 1.0, "roost_jobs", &died).await;
    let failed = [("kind", "payment.capture"), ("outcome", "failed")];
    worker.reaches(&world, 1.0, "roost_job_attempts_total", &failed).await;
    let succeeded = [("kind", "payment.void"), ("outcome", "succeeded")];
    worker
        .reaches(&world, 1.0, "roost_job_attempts_total", &succeeded)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_can_read_is_told_once_and_counted() {
    let world = World::without_worker().await;
    let undecodable = put::<CapturePayment>(&world, "queued", "{\"payment_id\":\"no id\"}").await;
    put::<Unheard>(&world, "queued", "{}").await;
    let mut connection = world.redis().connection();
    redis::pipe()
        .hset("test:payments:data", "01", "\"no id\"")
        .hset_multiple(
            "test:payments:meta:01",
            &[("attempts", "0"), ("max_attempts", "1"), ("status", "Pending")],
        )
        .rpush("test:payments:active", "01")
        .query_async::<()>(&mut connection)
        .await
        .unwrap();

    let mut worker = Observed::start(&world);
    let payments = [("queue", "payments")];
    worker
        .reaches(&world, 1.0, "roost_messages_malformed_total", &payments)
        .await;
    let unheard = [("kind", "test.unheard")];
    worker
        .reaches(&world, 1.0, "roost_jobs_of_unknown_kind", &unheard)
        .await;
    let failed = [("kind", "payment.capture"), ("outcome", "failed")];
    worker.reaches(&world, 1.0, "roost_job_attempts_total", &failed).await;
    // Another round of the same.
    put::<Unheard>(&world, "queued", "{}").await;
    worker
        .reaches(&world, 2.0, "roost_jobs_of_unknown_kind", &unheard)
        .await;

    for message in [
        "job failed",
        "no worker knows this kind of job; it waits for one that does",
        "a message in Redis is no job id, dropped",
    ] {
        assert_eq!(worker.0.saying(message).len(), 1, "{message}");
    }
    assert_eq!(worker.metric("roost_messages_malformed_total", &payments).await, 1.0);
    assert_eq!(worker.metric("roost_job_attempts_total", &failed).await, 1.0);
    let (state, attempt): (String, i32) = sqlx::query_as("SELECT state, attempt FROM jobs WHERE id = $1")
        .bind(undecodable)
        .fetch_one(world.pool())
        .await
        .unwrap();
    assert_eq!((state.as_str(), attempt), ("dead", 1));
    assert_eq!(world.jobs("test.unheard").await, ["queued=2"]);
    assert!(worker.0.runs(), "the worker has ended");

    // The alarm ends with its cause.
    sqlx::query("DELETE FROM jobs WHERE kind = 'test.unheard'")
        .execute(world.pool())
        .await
        .unwrap();
    world
        .eventually("no job of an unknown kind", async || {
            worker.metric("roost_jobs_of_unknown_kind", &unheard).await == 0.0
        })
        .await;
}

/// Does not end by itself. Of one story only: this process counts for all of them.
#[derive(Serialize, Deserialize)]
struct Endless {}

impl Job for Endless {
    const KIND: &'static str = "test.endless";
    const QUEUE: Queue = Queue::Maintenance;
}

impl Handler for Endless {
    async fn run(self, _: &Context, _: Lease) -> Result<Done, JobError> {
        std::future::pending().await
    }
}

// In this process, not in one of its own: what a program counts last it has no time to tell.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_stop_hands_back_is_counted_as_handed_back_and_as_nothing_else() {
    let world = world().await;
    let (listening, stop) = (free_address().unwrap(), CancellationToken::new());
    serve_metrics(listening, stop.clone()).await.unwrap();
    let address = listening.to_string();
    let counted = async |outcome| {
        let labels = [("kind", Endless::KIND), ("outcome", outcome)];
        metric_at(&address, "roost_job_attempts_total", &labels).await
    };
    let registry = Registry::default().with::<Endless>();
    let worker = Worker::run(world.context(), registry, &Queue::ALL, 16, Duration::from_secs(1));
    enqueue_one(&world, &Endless {}).await;
    world
        .eventually("it runs", async || world.jobs(Endless::KIND).await == ["running=1"])
        .await;
    let before = metric_at(&address, "roost_jobs_handed_back_total", &[]).await;
    assert_eq!(counted("handed_back").await, 0.0);

    worker.stop().await;
    assert_eq!(world.jobs(Endless::KIND).await, ["queued=1"]);
    assert_eq!(counted("handed_back").await, 1.0);
    for other in ["succeeded", "retry", "failed", "lost", "cancelled"] {
        assert_eq!(counted(other).await, 0.0, "{other}");
    }
    assert!(metric_at(&address, "roost_jobs_handed_back_total", &[]).await > before);
    let attempts: Vec<String> = sqlx::query_scalar("SELECT outcome FROM job_attempts WHERE job_kind = $1")
        .bind(Endless::KIND)
        .fetch_all(world.pool())
        .await
        .unwrap();
    assert_eq!(attempts, ["handed_back"]);
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_does_only_part_of_what_is_asked_is_told_once() {
    let world = World::without_worker().await;
    let mut connection = world.redis().connection();
    // It takes writes, but this queue of it is no list.
    redis::pipe()
        .set("test:cache:active", "something else")
        .query_async::<()>(&mut connection)
        .await
        .unwrap();
    let worker = Observed::start(&world);
    worker.reaches(&world, 5.0, "roost_relay_errors_total", &[]).await;
    let refuses = || {
        let told = worker
            .0
            .saying("Redis refuses: jobs go on from Postgres alone, caches and sessions do not");
        told.len()
    };
    assert_eq!((refuses(), worker.0.saying("Redis is back").len()), (1, 0));
    assert_eq!(worker.metric("roost_redis_refuses", &[]).await, 1.0);
    put::<VoidPayment>(&world, "queued", &format!("{{\"payment_id\":\"{}\"}}", Uuid::new_v4())).await;
    let succeeded = [("kind", "payment.void"), ("outcome", "succeeded")];
    worker
        .reaches(&world, 1.0, "roost_job_attempts_total", &succeeded)
        .await;
    redis::pipe()
        .del("test:cache:active")
        .query_async::<()>(&mut connection)
        .await
        .unwrap();
    world
        .eventually("it is back", async || worker.0.saying("Redis is back").len() == 1)
        .await;
    assert_eq!(refuses(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_postgres_does_not_hear_says_so_once_and_when_it_is_over() {
    let world = World::without_worker().await;
    let rename = async |from: &'static str, to: &'static str| {
        let sql = format!("ALTER TABLE {from} RENAME TO {to}");
        sqlx::query(sqlx::AssertSqlSafe(sql))
            .execute(world.pool())
            .await
            .unwrap();
    };
    // As before the migration that makes it.
    rename("workers", "not_yet").await;
    let worker = Observed::start(&world);
    let status = async |path: &str| {
        let Some(address) = worker.address() else { return 0 };
        let reply = reqwest::get(format!("http://{address}{path}")).await.unwrap();
        reply.status().as_u16()
    };
    worker.reaches(&world, 4.0, "roost_presence_errors_total", &[]).await;
    let told = worker.0.saying("Postgres does not hear this worker: it takes no jobs");
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0]["level"], "WARN");
    assert!(told[0]["error"].as_str().unwrap().contains("workers"), "{told:?}");
    // A restart would not help: it lives, and has nothing to do.
    assert_eq!((status("/healthz").await, status("/readyz").await), (200, 503));
    rename("not_yet", "workers").await;
    world.eventually("ready", async || status("/readyz").await == 200).await;
    assert_eq!(worker.0.saying("Postgres hears this worker again").len(), 1);
}

/// The next tick of the one schedule that is not paused.
async fn ticks_after(world: &World, tick: Option<DateTime<Utc>>) -> Option<DateTime<Utc>> {
    let mut last = None;
    world
        .eventually("it ticks", async || {
            last = sqlx::query_scalar("SELECT last_tick FROM cron_schedules WHERE NOT paused")
                .fetch_one(world.pool())
                .await
                .unwrap();
            last != tick
        })
        .await;
    last
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_back_is_told_once_and_holds_up_nothing() {
    let world = world().await;
    sqlx::query("UPDATE cron_schedules SET paused = false, expression = '*/5 * * * *', next_tick = now() WHERE name = 'overdue.sweep'")
        .execute(world.pool())
        .await
        .unwrap();
    let metrics = roost_shared::telemetry::metrics();
    let set_back = || {
        let text = metrics.render();
        let line = text
            .lines()
            .find(|line| line.starts_with("roost_clock_set_back_total "));
        line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
    };
    let before = set_back();
    let worker = world.another_worker(registry());
    let nonce = enqueue(&world, "succeed", 1).await[0];
    world
        .eventually("it works", async || runs(&world, nonce).await == 1)
        .await;
    let tick = ticks_after(&world, None).await;
    world.clock.advance(TimeDelta::minutes(-30));
    world.eventually("it is noticed", async || set_back() > before).await;
    let what = ["succeed", "snooze", "panic"];
    let mut nonces = Vec::new();
    for what in what {
        nonces.push(enqueue(&world, what, 1).await[0]);
    }
    world
        .eventually("all is done", async || {
            world.jobs("test.rehearse").await == ["succeeded=4"]
        })
        .await;
    for (nonce, times) in nonces.into_iter().zip([1, 2, 2]) {
        assert_eq!(runs(&world, nonce).await, times);
    }
    // The next tick is as by the clock that was set right, and not half an hour later.
    world
        .eventually("the schedule is set back as well", async || {
            let next: DateTime<Utc> =
                sqlx::query_scalar("SELECT next_tick FROM cron_schedules WHERE name = 'overdue.sweep'")
                    .fetch_one(world.pool())
                    .await
                    .unwrap();
            next <= world.clock.now() + TimeDelta::minutes(5)
        })
        .await;
    world.clock.advance(TimeDelta::minutes(5));
    ticks_after(&world, tick).await;
    assert_eq!(set_back(), before + 1);
    worker.stop().await;
}

/// The query of the README's ScaledObject.
fn scaling_query() -> String {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).unwrap();
    let (_, rest) = readme.split_once("query: |\n").expect("a query in the README");
    let indent = rest.len() - rest.trim_start().len();
    let lines = rest
        .lines()
        .take_while(|line| line.len() - line.trim_start().len() >= indent);
    lines.collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_query_that_scales_the_fleet_reads_indexes_only() {
    let world = World::without_worker().await;
    sqlx::query(
        "INSERT INTO jobs (id, kind, queue, priority, args, max_attempts, state, run_at, finished_at)
         SELECT gen_random_uuid(), 'payment.capture', 'payments', 50, '{}', 3, 'succeeded', now() - interval '1 day', now()
         FROM generate_series(1, 50000)",
    )
    .execute(world.pool())
    .await
    .unwrap();
    sqlx::query("ANALYZE jobs").execute(world.pool()).await.unwrap();
    let query = scaling_query();
    let waits = async || {
        let rows = sqlx::query_scalar::<_, f64>(sqlx::AssertSqlSafe(query.clone()));
        rows.fetch_one(world.pool()).await.unwrap()
    };
    assert_eq!(waits().await, 0.0);
    let plan: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("EXPLAIN {query}")))
        .fetch_all(world.pool())
        .await
        .unwrap();
    let plan = plan.join("\n");
    for index in ["jobs_by_breach", "jobs_published", "jobs_waiting"] {
        assert!(plan.contains(index), "{index} is not used:\n{plan}");
    }
    assert!(!plan.contains("Seq Scan"), "{plan}");

    // Whatever it waits for: to be published, to be taken, or that somebody sees that its time has come.
    for (state, published) in [("queued", false), ("queued", true), ("retrying", false)] {
        let id = put::<CapturePayment>(&world, state, "{}").await;
        sqlx::query("UPDATE jobs SET published_at = CASE WHEN $2 THEN now() END WHERE id = $1")
            .bind(id)
            .bind(published)
            .execute(world.pool())
            .await
            .unwrap();
        let seconds = waits().await;
        assert!(seconds >= 100.0, "{state}, published {published}: {seconds}");
        sqlx::query("DELETE FROM jobs WHERE id = $1")
            .bind(id)
            .execute(world.pool())
            .await
            .unwrap();
    }
    assert!(query.contains(Queue::Payments.name()));

    // A queue that is paused needs no workers.
    put::<CapturePayment>(&world, "queued", "{}").await;
    assert!(waits().await >= 100.0);
    sqlx::query("UPDATE queues SET paused = true WHERE name = 'payments'")
        .execute(world.pool())
        .await
        .unwrap();
    assert_eq!(waits().await, 0.0);
}

#[tokio::test]
async fn postgres_looks_after_silent_clients() {
    let world = World::without_worker().await;
    for (setting, value) in [
        ("tcp_keepalives_idle", "15"),
        ("tcp_keepalives_interval", "5"),
        ("tcp_keepalives_count", "3"),
    ] {
        let set: String = sqlx::query_scalar("SELECT current_setting($1)")
            .bind(setting)
            .fetch_one(world.pool())
            .await
            .unwrap();
        assert_eq!(set, value, "{setting}");
    }
}
