//! The job engine by itself: what it promises about claims, leases, retries, cron ticks and a Redis that forgets.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::time::Duration;

use roost_shared::jobs::{self, FinishedEffect, Job, Lease, Outcome, Queue, Settlement};
use roost_tests::world::World;
use roost_worker::{Context, DONE, Done, Handler, JobError, Registry};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Does what its argument says, counting on the way in `test_runs`.
#[derive(Serialize, Deserialize)]
struct Rehearse {
    what: String,
    nonce: Uuid,
}

impl Job for Rehearse {
    const KIND: &'static str = "test.rehearse";
    const QUEUE: Queue = Queue::Maintenance;
    const MAX_ATTEMPTS: i32 = 3;
    const TIMEOUT: Duration = Duration::from_millis(400);
}

impl Handler for Rehearse {
    async fn run(self, ctx: &Context, lease: Lease) -> Result<Done, JobError> {
        sqlx::query("INSERT INTO test_runs (nonce, fence) VALUES ($1, $2)")
            .bind(self.nonce)
            .bind(lease.fence)
            .execute(ctx.db.pool())
            .await?;
        match self.what.as_str() {
            "succeed" => Ok(DONE),
            "snooze" if lease.fence == 1 => Err(JobError::Snooze(Duration::from_millis(100))),
            "snooze" => Ok(DONE),
            "fail" => Err(JobError::Fail("never".to_owned())),
            // Postgres stores no such text.
            "nul" => Err(JobError::Fail("half\0full".to_owned())),
            "twice" => Ok(Done::With(vec![effect("test:same"), effect("test:same")])),
            "retry" => Err(JobError::Retry("not now".to_owned())),
            "panic" if lease.fence == 1 => panic!("on purpose"),
            "panic" => Ok(DONE),
            "hang" if lease.fence == 1 => std::future::pending().await,
            "hang" => Ok(DONE),
            "wait" => {
                tokio::time::sleep(Duration::from_millis(300)).await;
                Ok(DONE)
            }
            other => Err(JobError::Fail(format!("what is {other}?"))),
        }
    }
}

fn effect(key: &str) -> FinishedEffect {
    FinishedEffect {
        key: key.to_owned(),
        entity_id: None,
        external_id: None,
        response: None,
    }
}

/// A kind that no worker of these tests knows.
#[derive(Serialize, Deserialize)]
struct Unheard {}

impl Job for Unheard {
    const KIND: &'static str = "test.unheard";
    const QUEUE: Queue = Queue::Maintenance;
}

async fn world() -> World {
    let world = World::without_worker().await;
    sqlx::query("CREATE TABLE test_runs (nonce uuid NOT NULL, fence bigint NOT NULL)")
        .execute(world.pool())
        .await
        .unwrap();
    world
}

fn registry() -> Registry {
    Registry::default().with::<Rehearse>()
}

async fn enqueue(world: &World, what: &str, count: usize) -> Vec<Uuid> {
    let db = &world.state.db;
    let mut tx = db.begin().await.unwrap();
    let nonces: Vec<Uuid> = (0..count).map(|_| Uuid::new_v4()).collect();
    for nonce in &nonces {
        tx.enqueue(&Rehearse {
            what: what.to_owned(),
            nonce: *nonce,
        });
    }
    tx.commit().await.unwrap();
    nonces
}

async fn runs(world: &World, nonce: Uuid) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM test_runs WHERE nonce = $1")
        .bind(nonce)
        .fetch_one(world.pool())
        .await
        .unwrap()
}

/// State, attempts and outcomes of the only job.
async fn fate(world: &World) -> (String, i32, Vec<String>) {
    let (id, state, attempt): (Uuid, String, i32) =
        sqlx::query_as("SELECT id, state, attempt FROM jobs WHERE kind LIKE 'test.%'")
            .fetch_one(world.pool())
            .await
            .unwrap();
    let outcomes = sqlx::query_scalar("SELECT outcome FROM job_attempts WHERE job_id = $1 ORDER BY fence")
        .bind(id)
        .fetch_all(world.pool())
        .await
        .unwrap();
    (state, attempt, outcomes)
}

async fn ends_as(world: &World, state: &str) {
    world.eventually(state, async || fate(world).await.0 == state).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolled_back_transaction_leaves_no_job_and_a_committed_one_runs_it_once() {
    let world = world().await;
    let worker = world.another_worker(registry());
    let mut tx = world.state.db.begin().await.unwrap();
    tx.enqueue(&Rehearse {
        what: "succeed".to_owned(),
        nonce: Uuid::new_v4(),
    });
    drop(tx);
    let nonces = enqueue(&world, "succeed", 200).await;
    world.run_jobs().await;
    assert_eq!(world.jobs("test.rehearse").await, ["succeeded=200"]);
    for nonce in nonces {
        assert_eq!(runs(&world, nonce).await, 1);
    }
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_and_doubled_messages_run_each_job_once() {
    let world = world().await;
    let workers = [world.another_worker(registry()), world.another_worker(registry())];
    let nonces = enqueue(&world, "succeed", 100).await;
    // Everything is published again while it runs.
    let ids: Vec<Uuid> = sqlx::query_scalar("SELECT id FROM jobs WHERE kind = 'test.rehearse'")
        .fetch_all(world.pool())
        .await
        .unwrap();
    let mut transport = jobs::Transport::new(&world.redis()).unwrap();
    for _ in 0..3 {
        transport.push(Queue::Maintenance, &ids).await.unwrap();
    }
    world.run_jobs().await;
    for nonce in nonces {
        assert_eq!(runs(&world, nonce).await, 1);
    }
    for worker in workers {
        worker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn outcomes_decide_what_becomes_of_a_job() {
    for (what, state, attempt, outcomes) in [
        ("succeed", "succeeded", 1, vec!["succeeded"]),
        ("fail", "dead", 1, vec!["failed"]),
        ("nul", "dead", 1, vec!["failed"]),
        // The statement refuses two effects with one key: the job ends, and its worker goes on.
        ("twice", "dead", 1, vec!["failed"]),
        ("snooze", "succeeded", 1, vec!["snoozed", "succeeded"]),
        ("panic", "succeeded", 2, vec!["retry", "succeeded"]),
        ("hang", "succeeded", 2, vec!["retry", "succeeded"]),
        ("retry", "dead", 3, vec!["retry", "retry", "retry"]),
    ] {
        let world = world().await;
        let worker = world.another_worker(registry());
        enqueue(&world, what, 1).await;
        ends_as(&world, state).await;
        assert_eq!(
            fate(&world).await,
            (
                state.to_owned(),
                attempt,
                outcomes.iter().map(|one| (*one).to_owned()).collect()
            ),
            "{what}"
        );
        worker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_worker_changes_nothing() {
    let world = world().await;
    enqueue(&world, "succeed", 1).await;
    let pool = world.pool();
    let id: Uuid = sqlx::query_scalar("SELECT id FROM jobs WHERE kind = 'test.rehearse'")
        .fetch_one(pool)
        .await
        .unwrap();
    let kinds = ["test.rehearse".to_owned()];
    let first = jobs::claim(pool, &[id], &kinds, "first").await.unwrap().remove(0);
    assert!(
        jobs::claim(pool, &[id], &kinds, "second").await.unwrap().is_empty(),
        "claimed twice"
    );
    sqlx::query("UPDATE jobs SET lease_until = now() - interval '1 second'")
        .execute(pool)
        .await
        .unwrap();
    assert_eq!(jobs::reap(pool).await.unwrap(), (1, 0));
    let second = jobs::claim(pool, &[id], &kinds, "second").await.unwrap().remove(0);

    let lease = |fence| Lease {
        job_id: id,
        fence,
        attempt: 1,
        max_attempts: 3,
    };
    assert!(jobs::renew(pool, &[lease(first.fence)]).await.unwrap().is_empty());
    let mut connection = pool.acquire().await.unwrap();
    let stale = Settlement {
        lease: lease(first.fence),
        outcome: Outcome::Fail("late".to_owned()),
    };
    assert!(jobs::settle(&mut connection, &[stale]).await.unwrap().is_empty());
    let mut tx = world.state.db.begin().await.unwrap();
    assert!(lease(first.fence).complete(&mut tx).await.is_err());
    drop(tx);
    assert!(
        jobs::effects::begin(pool, &lease(first.fence), "test:effect", id, world.clock.now())
            .await
            .is_err()
    );
    let good = Settlement {
        lease: lease(second.fence),
        outcome: Outcome::Done(Vec::new()),
    };
    assert_eq!(jobs::settle(&mut connection, &[good]).await.unwrap(), [id]);
    assert_eq!(fate(&world).await.2, ["lost", "succeeded"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_takes_three_workers_down_is_quarantined() {
    let world = world().await;
    enqueue(&world, "succeed", 1).await;
    let pool = world.pool();
    let id: Uuid = sqlx::query_scalar("SELECT id FROM jobs WHERE kind = 'test.rehearse'")
        .fetch_one(pool)
        .await
        .unwrap();
    for crash in 1..=3 {
        assert_eq!(
            jobs::claim(pool, &[id], &["test.rehearse".to_owned()], "doomed")
                .await
                .unwrap()
                .len(),
            1
        );
        sqlx::query("UPDATE jobs SET lease_until = now() - interval '1 second'")
            .execute(pool)
            .await
            .unwrap();
        assert_eq!(jobs::reap(pool).await.unwrap(), if crash < 3 { (1, 0) } else { (0, 1) });
    }
    assert_eq!(fate(&world).await.0, "quarantined");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_kind_and_a_foreign_message_are_left_alone() {
    let world = world().await;
    let worker = world.another_worker(registry());
    let mut tx = world.state.db.begin().await.unwrap();
    tx.enqueue(&Unheard {});
    tx.commit().await.unwrap();
    // Something in the queue that is no id of ours.
    let config = jobs::Transport::config(&world.redis(), Queue::Maintenance);
    let task = apalis_core::task::builder::TaskBuilder::new(b"\"no id\"".to_vec()).build();
    apalis_redis::queries::push_tasks(&mut world.redis().connection(), &config, &[task])
        .await
        .unwrap();
    let nonce = enqueue(&world, "succeed", 1).await[0];
    world
        .eventually("the known one ran", async || runs(&world, nonce).await == 1)
        .await;
    assert_eq!(world.jobs("test.unheard").await, ["queued=1"]);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flushed_redis_loses_no_job() {
    let world = world().await;
    enqueue(&world, "succeed", 500).await;
    let mut connection = world.redis().connection();
    redis::cmd("FLUSHDB").query_async::<()>(&mut connection).await.unwrap();
    let worker = world.another_worker(registry());
    enqueue(&world, "wait", 20).await;
    redis::cmd("FLUSHDB").query_async::<()>(&mut connection).await.unwrap();
    world.run_jobs().await;
    assert_eq!(world.jobs("test.rehearse").await, ["succeeded=520"]);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_running_jobs_finish_and_leaves_the_rest() {
    let world = world().await;
    let worker = world.another_worker(registry());
    enqueue(&world, "wait", 40).await;
    world
        .eventually("some run", async || {
            sqlx::query_scalar::<_, i64>("SELECT count(*) FROM test_runs")
                .fetch_one(world.pool())
                .await
                .unwrap()
                > 0
        })
        .await;
    worker.stop().await;
    let running: i64 = sqlx::query_scalar("SELECT count(*) FROM jobs WHERE state = 'running'")
        .fetch_one(world.pool())
        .await
        .unwrap();
    assert_eq!(running, 0);
    let burned: i64 = sqlx::query_scalar("SELECT count(*) FROM jobs WHERE state = 'queued' AND attempt > 0")
        .fetch_one(world.pool())
        .await
        .unwrap();
    assert_eq!(burned, 0);
    let worker = world.another_worker(registry());
    world.run_jobs().await;
    assert_eq!(world.jobs("test.rehearse").await, ["succeeded=40"]);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_queue_waits_and_goes_on() {
    let world = world().await;
    sqlx::query("UPDATE queues SET paused = true WHERE name = 'maintenance'")
        .execute(world.pool())
        .await
        .unwrap();
    let worker = world.another_worker(registry());
    // The relay of a worker that sees the switch takes nothing from the queue any more.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let nonce = enqueue(&world, "succeed", 1).await[0];
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(runs(&world, nonce).await, 0);
    sqlx::query("UPDATE queues SET paused = false WHERE name = 'maintenance'")
        .execute(world.pool())
        .await
        .unwrap();
    world
        .eventually("goes on", async || runs(&world, nonce).await == 1)
        .await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cron_tick_fires_once_whatever_the_number_of_schedulers() {
    let world = world().await;
    let db = world.state.db.clone();
    let fired = Arc::new(AtomicU32::new(0));
    let expression = "*/5 * * * *";
    assert!(
        !roost_worker::schedule::fire_if_due(&db, "test.tick", expression, |_| {})
            .await
            .unwrap()
    );
    for tick in 1..=3_u32 {
        world.clock.advance(chrono::TimeDelta::minutes(5));
        let race = (0..8).map(|_| {
            let (db, fired) = (db.clone(), Arc::clone(&fired));
            tokio::spawn(async move {
                if roost_worker::schedule::fire_if_due(&db, "test.tick", expression, |_| {})
                    .await
                    .unwrap()
                {
                    fired.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        for done in futures::future::join_all(race).await {
            done.unwrap();
        }
        assert_eq!(fired.load(Ordering::Relaxed), tick);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_start_soon_after_their_commit() {
    let world = world().await;
    let worker = world.another_worker(registry());
    enqueue(&world, "succeed", 1).await;
    world.run_jobs().await;
    // The slow tick is a second: if the doorbell did not ring, one of these would take it.
    let slowest = AtomicI64::new(0);
    for _ in 0..10 {
        let nonce = enqueue(&world, "succeed", 1).await[0];
        world.eventually("ran", async || runs(&world, nonce).await == 1).await;
        let waited: f64 = sqlx::query_scalar(
            "SELECT extract(epoch FROM max(started_at - created_at))::float8 FROM jobs WHERE kind = 'test.rehearse'",
        )
        .fetch_one(world.pool())
        .await
        .unwrap();
        slowest.fetch_max((waited * 1_000.0) as i64, Ordering::Relaxed);
    }
    assert!(
        slowest.load(Ordering::Relaxed) < 900,
        "{slowest:?} ms: the doorbell does not ring"
    );
    worker.stop().await;
}

#[test]
fn every_kind_in_the_catalogue_has_a_handler() {
    let catalogue = include_str!("../../shared/src/jobs/catalogue.rs");
    let mut kinds: Vec<String> = catalogue
        .lines()
        .filter_map(|line| {
            line.trim()
                .strip_prefix("const KIND: &'static str = \"")?
                .strip_suffix("\";")
        })
        .map(str::to_owned)
        .collect();
    kinds.sort();
    assert!(kinds.len() >= 10, "{kinds:?}");
    assert_eq!(roost_worker::jobs::registry().kinds(), kinds);
}
