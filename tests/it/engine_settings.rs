//! What operators set while all runs, what waits for its time, and what an idle fleet costs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use roost_shared::db::{self, Db};
use roost_shared::jobs::actions::By;
use roost_shared::jobs::settings::{self, Keep, WorkerWish};
use roost_shared::jobs::{Publisher, Queue, Transport};
use roost_tests::world::World;
use roost_worker::{Context, Registry, Worker};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use uuid::Uuid;

use crate::rehearsal::{Rehearse, enqueue, others_are_done_meanwhile, registry, runs, world};

const BY: By<'static> = By {
    actor: "test",
    reason: Some("to see what comes of it"),
};

async fn tell(world: &World, name: &str, wish: WorkerWish) {
    let mut tx = world.state.db.begin().await.unwrap();
    settings::tell_worker(&mut tx, name, wish, BY).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_quiet_goes_on_and_stops_within_two_seconds() {
    let world = world().await;
    let worker = world.another_worker(registry());
    let name = world.only_worker().await;
    tell(&world, &name, WorkerWish::Quiet).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let nonce = enqueue(&world, "succeed", 1).await[0];
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    assert_eq!(runs(&world, nonce).await, 0);
    tell(&world, &name, WorkerWish::Resume).await;
    let told = Instant::now();
    world
        .eventually("goes on", async || runs(&world, nonce).await == 1)
        .await;
    // Heeded within two seconds; what was left in Redis is found a moment later.
    assert!(told.elapsed() < Duration::from_secs(4), "{:?}", told.elapsed());
    tell(&world, &name, WorkerWish::Stop).await;
    tokio::time::timeout(Duration::from_secs(2), worker.asked_to_stop())
        .await
        .expect("asked to stop");
    worker.stop().await;
    let mut tx = world.state.db.begin().await.unwrap();
    let gone = settings::tell_worker(&mut tx, &name, WorkerWish::Quiet, BY).await;
    assert!(gone.is_err(), "it is gone");
}

/// Whose consumers fetch from the queue of the tests.
async fn consumers(world: &World) -> Vec<String> {
    let mut transport = Transport::new(&world.redis()).unwrap();
    transport.consumers(Queue::Maintenance).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_worker_and_a_paused_queue_leave_messages_to_others() {
    let world = world().await;
    let quiet = world.another_worker(registry());
    let name = world.only_worker().await;
    let other = world.another_worker(registry());
    world
        .eventually("both fetch", async || consumers(&world).await.len() == 2)
        .await;
    tell(&world, &name, WorkerWish::Quiet).await;
    world
        .eventually("one fetches", async || {
            let consumers = consumers(&world).await;
            consumers.len() == 1 && !consumers[0].starts_with(&name)
        })
        .await;
    sqlx::raw_sql(
        "CREATE TABLE given_back (id uuid);
         CREATE FUNCTION give_back() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO given_back VALUES (NEW.id); RETURN NULL; END $$;
         CREATE TRIGGER given_back AFTER UPDATE ON jobs FOR EACH ROW
             WHEN (OLD.state = 'queued' AND OLD.published_at IS NOT NULL AND NEW.published_at IS NULL) EXECUTE FUNCTION give_back()",
    )
    .execute(world.pool())
    .await
    .unwrap();
    for _ in 0..100 {
        enqueue(&world, "succeed", 1).await;
    }
    world.run_jobs().await;
    // A Redis that is slow for a moment has some of them go another way.
    let given_back = world.counts("SELECT count(DISTINCT id) FROM given_back").await;
    assert!(given_back <= 20, "{given_back} of 100 came to the worker that is quiet");

    let pause = async |paused: bool| {
        sqlx::query("UPDATE queues SET paused = $1 WHERE name = 'maintenance'")
            .bind(paused)
            .execute(world.pool())
            .await
            .unwrap();
    };
    pause(true).await;
    world
        .eventually("nobody fetches", async || consumers(&world).await.is_empty())
        .await;
    let nonce = enqueue(&world, "succeed", 1).await[0];
    others_are_done_meanwhile(&world).await;
    assert_eq!(runs(&world, nonce).await, 0);
    pause(false).await;
    world
        .eventually("goes on", async || runs(&world, nonce).await == 1)
        .await;
    quiet.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delayed_job_waits_for_its_time() {
    let world = world().await;
    let worker = world.another_worker(registry());
    let nonce = Uuid::new_v4();
    let mut tx = world.state.db.begin().await.unwrap();
    let job = Rehearse {
        what: "succeed".to_owned(),
        nonce,
    };
    let due = tx.now() + chrono::TimeDelta::seconds(2);
    tx.enqueue_at(&job, due);
    tx.commit().await.unwrap();
    assert_eq!(world.jobs("test.rehearse").await, ["scheduled=1"]);
    world.eventually("runs", async || runs(&world, nonce).await == 1).await;
    let early: bool = sqlx::query_scalar("SELECT started_at < run_at FROM jobs WHERE kind = 'test.rehearse'")
        .fetch_one(world.pool())
        .await
        .unwrap();
    assert!(!early);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_kept_by_state_as_long_as_is_set() {
    let world = World::start().await;
    let mut tx = world.state.db.begin().await.unwrap();
    for (state, hours) in [("succeeded", 1), ("cancelled", 48), ("dead", 24), ("quarantined", 72)] {
        settings::set_retention(&mut tx, state, Keep::Seconds(hours * 3_600), BY)
            .await
            .unwrap();
    }
    for (state, seconds) in [("succeeded", 3_599), ("dead", i32::MAX), ("running", 7_200)] {
        assert!(
            settings::set_retention(&mut tx, state, Keep::Seconds(seconds), BY)
                .await
                .is_err()
        );
    }
    tx.commit().await.unwrap();
    // Of each state one that ended 30 hours ago, with an attempt; more than a batch of those that succeeded.
    sqlx::query(
        "WITH old AS (
             INSERT INTO jobs (id, kind, queue, priority, args, max_attempts, state, run_at, finished_at)
             SELECT gen_random_uuid(), 'test.old', 'cache', 50, '{}', 3, state, now(), now() - interval '30 hours'
             FROM (SELECT unnest(ARRAY['cancelled', 'dead', 'quarantined']) UNION ALL SELECT 'succeeded' FROM generate_series(1, 6000)) AS ended (state)
             RETURNING id)
         INSERT INTO job_attempts (job_id, fence, attempt, worker, started_at, ended_at, outcome)
         SELECT id, 1, 1, 'test', now(), now(), 'succeeded' FROM old",
    )
    .execute(world.pool())
    .await
    .unwrap();
    let mut tx = world.db().begin().await.unwrap();
    tx.enqueue(&roost_shared::jobs::catalogue::PruneOutbox {});
    tx.commit().await.unwrap();
    world
        .eventually("pruned", async || world.jobs("outbox.prune").await == ["succeeded=1"])
        .await;
    assert_eq!(world.jobs("test.old").await, ["cancelled=1", "quarantined=1"]);
    let attempts: i64 = sqlx::query_scalar("SELECT count(*) FROM job_attempts WHERE worker = 'test'")
        .fetch_one(world.pool())
        .await
        .unwrap();
    assert_eq!(attempts, 2);
}

/// What a worker asked Postgres.
#[derive(Default)]
struct Seen {
    statements: AtomicU64,
    /// Each text once a connection.
    texts: Mutex<Vec<String>>,
}

impl Seen {
    fn asked(&self, what: &str) -> bool {
        self.texts.lock().unwrap().iter().any(|text| text.contains(what))
    }
}

/// Stands between a worker and Postgres and counts the statements that go by.
async fn counting(postgres: String, seen: Arc<Seen>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&postgres).await.unwrap();
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            tokio::spawn(async move {
                let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
            });
            let seen = Arc::clone(&seen);
            tokio::spawn(async move {
                let mut begun = false;
                let mut message = Vec::new();
                loop {
                    // The first messages have no type: a wish for TLS, which is declined, and the start.
                    let kind = if begun { from_client.read_u8().await } else { Ok(0) };
                    let (Ok(kind), Ok(length)) = (kind, from_client.read_u32().await) else {
                        return;
                    };
                    message.resize(length as usize - 4, 0);
                    if from_client.read_exact(&mut message).await.is_err() {
                        return;
                    }
                    let mut whole = if begun { vec![kind] } else { Vec::new() };
                    whole.extend(length.to_be_bytes());
                    whole.extend(&message);
                    // Execute, and a statement as text.
                    if begun && matches!(kind, b'E' | b'Q') {
                        seen.statements.fetch_add(1, Ordering::Relaxed);
                    }
                    if begun && kind == b'P' {
                        let text = String::from_utf8_lossy(&message).into_owned();
                        seen.texts.lock().unwrap().push(text);
                    }
                    begun = begun || message.starts_with(&196_608_u32.to_be_bytes());
                    if to_server.write_all(&whole).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

/// A worker that reaches Postgres through a counter.
async fn counted_worker(world: &World, registry: Registry) -> (Worker, Arc<Seen>) {
    let mut url = reqwest::Url::parse(world.database_url()).unwrap();
    let postgres = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
    let seen = Arc::new(Seen::default());
    let port = counting(postgres, Arc::clone(&seen)).await;
    url.set_port(Some(port)).unwrap();
    let pool = db::connect(url.as_str(), 10).unwrap();
    let publisher = Publisher::spawn(pool.clone(), &world.redis()).unwrap();
    let ctx = Context {
        db: Db::new(pool, publisher, world.clock.clone()),
        ..world.context()
    };
    let worker = Worker::run(ctx, registry, &Queue::ALL, 64, Duration::from_secs(5));
    (worker, seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_asks_for_limits_while_there_are_none() {
    let world = world().await;
    let (worker, seen) = counted_worker(&world, registry()).await;
    enqueue(&world, "succeed", 200).await;
    world.run_jobs().await;
    assert!(seen.asked("UPDATE jobs SET state = 'running'") && !seen.asked("rate_spent"));
    let mut tx = world.state.db.begin().await.unwrap();
    let mut wanted = settings::queue(&mut tx, "maintenance").await.unwrap();
    wanted.limits.rate_limit = Some(1_000);
    settings::set_queue(&mut tx, "maintenance", wanted, BY).await.unwrap();
    tx.commit().await.unwrap();
    world
        .eventually("it is asked for", async || seen.asked("rate_spent"))
        .await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_fleet_of_eight_asks_postgres_at_most_twenty_times_a_second() {
    let world = World::without_worker().await;
    let mut workers = Vec::new();
    let mut counts = Vec::new();
    for _ in 0..8 {
        let (worker, seen) = counted_worker(&world, roost_worker::jobs::registry()).await;
        workers.push(worker);
        counts.push(seen);
    }
    // The cron table is written, and one of them leads.
    tokio::time::sleep(Duration::from_secs(7)).await;
    let seen = || -> Vec<u64> {
        counts
            .iter()
            .map(|count| count.statements.load(Ordering::Relaxed))
            .collect()
    };
    let (before, begun) = (seen(), Instant::now());
    tokio::time::sleep(Duration::from_secs(20)).await;
    let seconds = begun.elapsed().as_secs_f64();
    let rates: Vec<f64> = seen()
        .iter()
        .zip(&before)
        .map(|(after, before)| (after - before) as f64 / seconds)
        .collect();
    println!("statements a second, worker by worker: {rates:.2?}");
    assert!(
        rates.iter().all(|rate| *rate > 0.5),
        "{rates:.2?} statements a second: each shows itself every second"
    );
    let fleet: f64 = rates.iter().sum();
    assert!(fleet <= 20.0, "{fleet:.1} statements a second: {rates:.2?}");
    for worker in workers {
        worker.stop().await;
    }
}
