//! The job engine by itself: what it promises about outcomes, stops, pauses and cron ticks.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::time::Duration;

use roost_shared::jobs::{self, Queue, relay};
use roost_worker::{Registry, Worker};
use uuid::Uuid;

use crate::rehearsal::{
    Elsewhere, Linger, Rehearse, ends_as, enqueue, enqueue_one, fate, others_are_done_meanwhile, registry, runs, world,
};

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
async fn in_a_queue_the_job_nearest_to_its_breach_goes_first() {
    let world = world().await;
    // Most urgent by its kind, the longest due, and in between.
    let due = [("fresh", 10, 0), ("oldest", 60, 70), ("late", 30, 25), ("calm", 60, 1)];
    for (name, priority, seconds) in due {
        sqlx::query(
            "INSERT INTO jobs (id, kind, queue, priority, args, max_attempts, state, run_at)
             VALUES (gen_random_uuid(), 'test.rehearse', 'maintenance', $1, jsonb_build_object('name', $2::text), 3, 'queued',
                     now() - make_interval(secs => $3))",
        )
        .bind(priority)
        .bind(name)
        .bind(f64::from(seconds))
        .execute(world.pool())
        .await
        .unwrap();
    }
    let name_of = async |id: Uuid| {
        sqlx::query_scalar::<_, String>("SELECT args ->> 'name' FROM jobs WHERE id = $1")
            .bind(id)
            .fetch_one(world.pool())
            .await
            .unwrap()
    };
    let kinds = ["test.rehearse".to_owned()];
    let mut published = Vec::new();
    for _ in due {
        let taken = relay::take_unpublished(world.pool(), &[(Queue::Maintenance, 1)], &kinds, &[]).await;
        published.push(name_of(taken.unwrap()[0].id).await);
    }
    assert_eq!(published, ["oldest", "late", "fresh", "calm"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn outcomes_decide_what_becomes_of_a_job() {
    for (what, state, attempt, outcomes) in [
        ("succeed", "succeeded", 1, vec!["succeeded"]),
        ("fail", "dead", 1, vec!["failed"]),
        ("nul", "dead", 1, vec!["failed"]),
        // The statement refuses two effects with one key: the job ends, and its worker goes on.
        ("interrupted", "succeeded", 1, vec!["interrupted", "succeeded"]),
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
async fn a_stop_ends_in_time_and_what_did_not_finish_keeps_its_attempt() {
    let world = world().await;
    let worker = Worker::run(world.context(), registry(), &Queue::ALL, 16, Duration::from_secs(1));
    let nonce = Uuid::new_v4();
    enqueue_one(&world, &Linger { nonce }).await;
    world.eventually("begun", async || runs(&world, nonce).await == 1).await;
    let begun = std::time::Instant::now();
    worker.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    assert_eq!(
        fate(&world).await,
        ("queued".to_owned(), 0, vec!["handed_back".to_owned()])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_shows_itself_and_heeds_its_operators() {
    let world = world().await;
    let worker = world.another_worker(registry());
    let seen = async || -> Vec<(Vec<String>, Vec<String>, i32, bool)> {
        sqlx::query_as("SELECT queues, kinds, concurrency, stopped_at IS NULL FROM workers")
            .fetch_all(world.pool())
            .await
            .unwrap()
    };
    world.eventually("there", async || !seen().await.is_empty()).await;
    let (queues, kinds, concurrency, lives) = seen().await.remove(0);
    assert_eq!((queues.len(), concurrency, lives), (Queue::ALL.len(), 16, true));
    assert_eq!(kinds, registry().kinds());
    // Told to be quiet it takes nothing new.
    sqlx::query("UPDATE workers SET quiet = true")
        .execute(world.pool())
        .await
        .unwrap();
    world.workers_heed().await;
    let nonce = enqueue(&world, "succeed", 1).await[0];
    let other = world.another_worker(Registry::default().with::<Elsewhere>());
    others_are_done_meanwhile(&world).await;
    assert_eq!(runs(&world, nonce).await, 0);
    other.stop().await;
    sqlx::query("UPDATE workers SET quiet = false, stop = true WHERE quiet")
        .execute(world.pool())
        .await
        .unwrap();
    tokio::time::timeout(Duration::from_secs(10), worker.asked_to_stop())
        .await
        .expect("asked to stop");
    worker.stop().await;
    assert!(seen().await.iter().all(|worker| !worker.3), "it said goodbye");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_queue_waits_and_goes_on() {
    let world = world().await;
    sqlx::query("UPDATE queues SET paused = true WHERE name = 'maintenance'")
        .execute(world.pool())
        .await
        .unwrap();
    // A worker that just starts knows of it before it takes anything.
    let nonce = enqueue(&world, "succeed", 1).await[0];
    let worker = world.another_worker(registry());
    others_are_done_meanwhile(&world).await;
    assert_eq!(runs(&world, nonce).await, 0);
    assert_eq!(world.jobs("test.rehearse").await, ["queued=1"]);
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
async fn a_clock_that_was_far_ahead_silences_no_schedule() {
    let world = world().await;
    let db = world.state.db.clone();
    let fires = async || {
        roost_worker::schedule::fire_if_due(&db, "test.tick", "*/5 * * * *", |_| {})
            .await
            .unwrap()
    };
    assert!(!fires().await);
    world.clock.advance(chrono::TimeDelta::days(400));
    assert!(fires().await);
    world.clock.advance(chrono::TimeDelta::days(-400));
    assert!(!fires().await, "only set right");
    for _ in 0..2 {
        world.clock.advance(chrono::TimeDelta::minutes(5));
        assert!(fires().await);
    }
    // What a clock that is a little ahead has fired is not fired again.
    world.clock.advance(chrono::TimeDelta::minutes(14));
    assert!(fires().await);
    world.clock.advance(chrono::TimeDelta::minutes(-14));
    assert!(!fires().await);
    world.clock.advance(chrono::TimeDelta::minutes(5));
    assert!(!fires().await);
    world.clock.advance(chrono::TimeDelta::minutes(14));
    assert!(fires().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_start_soon_after_their_commit() {
    let world = world().await;
    let worker = world.another_worker(registry());
    enqueue(&world, "succeed", 1).await;
    world.run_jobs().await;
    // The slow tick is seconds away: if the doorbell did not ring, one of these would take it.
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
