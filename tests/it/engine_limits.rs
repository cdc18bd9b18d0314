//! Limits of queues and kinds hold across workers, heed a change at once, and cost nothing while there are none.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use roost_shared::jobs::actions::{self, By};
use roost_shared::jobs::settings::{self, Limits, NO_LIMITS};
use roost_shared::jobs::{Job, Lease, Queue};
use roost_tests::world::World;
use roost_worker::{Context, DONE, Done, Handler, JobError, Registry};
use serde::{Deserialize, Serialize};

use uuid::Uuid;

use crate::rehearsal::world;

/// Takes as long as it is told to.
#[derive(Serialize, Deserialize)]
struct Hold {
    milliseconds: u64,
}

impl Job for Hold {
    const KIND: &'static str = "test.hold";
    const QUEUE: Queue = Queue::Cache;
}

impl Handler for Hold {
    async fn run(self, _: &Context, _: Lease) -> Result<Done, JobError> {
        tokio::time::sleep(Duration::from_millis(self.milliseconds)).await;
        Ok(DONE)
    }
}

/// Another kind of the same queue, and more urgent.
#[derive(Serialize, Deserialize)]
struct Glance {}

impl Job for Glance {
    const KIND: &'static str = "test.glance";
    const QUEUE: Queue = Queue::Cache;
    const PRIORITY: i16 = 10;
}

impl Handler for Glance {
    async fn run(self, _: &Context, _: Lease) -> Result<Done, JobError> {
        Ok(DONE)
    }
}

fn registry() -> Registry {
    Registry::default().with::<Hold>().with::<Glance>()
}

const BY: By<'static> = By {
    actor: "test",
    reason: None,
};

fn at_once(concurrency: i32) -> Limits {
    Limits {
        concurrency: Some(concurrency),
        ..NO_LIMITS
    }
}

async fn limit_cache(world: &World, limits: Limits) {
    let mut tx = world.state.db.begin().await.unwrap();
    let now = settings::queue(&mut tx, "cache").await.unwrap();
    let wanted = settings::QueueSettings { limits, ..now };
    settings::set_queue(&mut tx, "cache", wanted, BY).await.unwrap();
    tx.commit().await.unwrap();
}

/// As an operator does it with a kind of the catalogue.
async fn limit_kind(world: &World, kind: &str, concurrency: i32) {
    sqlx::query("INSERT INTO kinds (name, queue, concurrency) VALUES ($1, 'cache', $2)")
        .bind(kind)
        .bind(concurrency)
        .execute(world.pool())
        .await
        .unwrap();
}

async fn enqueue<J: Job>(world: &World, count: usize, job: J) {
    let mut tx = world.state.db.begin().await.unwrap();
    for _ in 0..count {
        tx.enqueue(&job);
    }
    tx.commit().await.unwrap();
}

/// The most attempts that ran at the same time, of those that began after `since` seconds ago.
async fn most_at_once(world: &World, since: f64) -> i64 {
    sqlx::query_scalar(
        "WITH seen AS (SELECT * FROM job_attempts WHERE started_at > clock_timestamp() - make_interval(secs => $1))
         SELECT coalesce(max((SELECT count(*) FROM seen AS other WHERE other.started_at <= seen.started_at AND other.ended_at > seen.started_at)), 0)
         FROM seen",
    )
    .bind(since)
    .fetch_one(world.pool())
    .await
    .unwrap()
}

/// Waits until the workers know whether `payments` is late.
async fn is_late(world: &World, late: bool) {
    world
        .eventually("noted", async || {
            sqlx::query_scalar::<_, bool>("SELECT oldest_due_at IS NOT NULL FROM queues WHERE name = 'payments'")
                .fetch_one(world.pool())
                .await
                .unwrap()
                == late
        })
        .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
}

async fn succeeded(world: &World, kind: &str) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM jobs WHERE kind = $1 AND state = 'succeeded'")
        .bind(kind)
        .fetch_one(world.pool())
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_of_a_queue_run_at_once_than_its_limit_whatever_the_number_of_workers() {
    let world = world().await;
    limit_cache(&world, at_once(20)).await;
    let workers = [world.another_worker(registry()), world.another_worker(registry())];
    enqueue(&world, 80, Hold { milliseconds: 400 }).await;
    world.run_jobs().await;
    assert_eq!(succeeded(&world, "test.hold").await, 80);
    // A worker has 16 slots, so it takes both.
    assert_eq!(most_at_once(&world, 3_600.0).await, 20);
    let by_both: i64 = sqlx::query_scalar("SELECT count(DISTINCT worker) FROM job_attempts")
        .fetch_one(world.pool())
        .await
        .unwrap();
    assert_eq!(by_both, 2);
    for worker in workers {
        worker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_begin_in_any_second_than_the_rate_says() {
    let world = world().await;
    let rate = Limits {
        rate_limit: Some(20),
        ..NO_LIMITS
    };
    limit_cache(&world, rate).await;
    let workers = [world.another_worker(registry()), world.another_worker(registry())];
    enqueue(&world, 60, Hold { milliseconds: 0 }).await;
    world.run_jobs().await;
    began_by_twenties(&world, 60).await;
    for worker in workers {
        worker.stop().await;
    }
}

/// There were so many `test.hold`, no more than 20 began in any second, and none waited for longer than that takes.
async fn began_by_twenties(world: &World, expected: u32) {
    let (count, most, seconds): (i64, i64, f64) = sqlx::query_as(
        "WITH held AS (SELECT job_attempts.started_at FROM job_attempts JOIN jobs ON jobs.id = job_id WHERE kind = 'test.hold')
         SELECT count(*),
                max((SELECT count(*) FROM held AS other
                     WHERE other.started_at >= held.started_at AND other.started_at < held.started_at + interval '1 second')),
                extract(epoch FROM max(started_at) - min(started_at))::float8 FROM held",
    )
    .fetch_one(world.pool())
    .await
    .unwrap();
    assert_eq!(count, i64::from(expected));
    assert!(most <= 20, "{most} in a second");
    let least = f64::from(expected) / 20.0 - 1.0;
    assert!(
        (least..least + 13.0).contains(&seconds),
        "{expected} at 20 a second took {seconds} s"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rate_of_a_kind_holds_across_workers_and_leaves_its_queue_alone() {
    let world = world().await;
    sqlx::query("INSERT INTO kinds (name, queue, rate_limit) VALUES ('test.hold', 'cache', 20)")
        .execute(world.pool())
        .await
        .unwrap();
    let workers = [world.another_worker(registry()), world.another_worker(registry())];
    enqueue(&world, 200, Hold { milliseconds: 0 }).await;
    world
        .eventually("it is under way", async || succeeded(&world, "test.hold").await > 0)
        .await;
    enqueue(&world, 50, Glance {}).await;
    world
        .eventually("the others", async || succeeded(&world, "test.glance").await == 50)
        .await;
    let held = succeeded(&world, "test.hold").await;
    assert!(held < 200, "the others waited for all of them");
    world.run_jobs().await;
    began_by_twenties(&world, 200).await;
    for worker in workers {
        worker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limited_kind_does_not_hold_up_the_others_of_its_queue() {
    let world = world().await;
    limit_kind(&world, "test.hold", 1).await;
    let workers = [world.another_worker(registry()), world.another_worker(registry())];
    // One runs, the others wait; what is enqueued behind them does not.
    enqueue(&world, 30, Hold { milliseconds: 200 }).await;
    world
        .eventually("one ended", async || succeeded(&world, "test.hold").await > 0)
        .await;
    enqueue(&world, 50, Glance {}).await;
    world
        .eventually("the others", async || succeeded(&world, "test.glance").await == 50)
        .await;
    assert!(succeeded(&world, "test.hold").await < 30);
    world.run_jobs().await;
    let overlapping: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM job_attempts AS one JOIN jobs ON jobs.id = one.job_id AND kind = 'test.hold'
         WHERE EXISTS (SELECT 1 FROM job_attempts AS other JOIN jobs ON jobs.id = other.job_id AND kind = 'test.hold'
             WHERE other.job_id <> one.job_id AND other.started_at <= one.started_at AND other.ended_at > one.started_at)",
    )
    .fetch_one(world.pool())
    .await
    .unwrap();
    assert_eq!(overlapping, 0);
    for worker in workers {
        worker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_is_heeded_and_lifted_within_two_seconds() {
    let world = world().await;
    let workers = [world.another_worker(registry()), world.another_worker(registry())];
    enqueue(&world, 10_000, Hold { milliseconds: 25 }).await;
    world
        .eventually("many at once", async || most_at_once(&world, 60.0).await > 5)
        .await;
    limit_cache(&world, at_once(2)).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    // Nothing that began two seconds after the change or later is beyond the limit.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let limited = most_at_once(&world, 1.4).await;
    assert!((1..=2).contains(&limited), "{limited} at once");
    limit_cache(&world, NO_LIMITS).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = succeeded(&world, "test.hold").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let rate = succeeded(&world, "test.hold").await - before;
    assert!(rate > 60, "{rate} in half a second: two at once do 40");
    for worker in workers {
        worker.stop().await;
    }
}

async fn clock(world: &World) -> DateTime<Utc> {
    sqlx::query_scalar("SELECT clock_timestamp()")
        .fetch_one(world.pool())
        .await
        .unwrap()
}

/// Waits until it is so late by Postgres' clock, with a little more for what began before and is not written down yet.
async fn is_past(world: &World, at: DateTime<Utc>) {
    let at = at + TimeDelta::milliseconds(500);
    world.eventually("later", async || clock(world).await > at).await;
}

/// Each worker's attempts that began in this time, and the most that all of them began in any second of it.
async fn began_between(world: &World, from: DateTime<Utc>, to: DateTime<Utc>) -> (Vec<i64>, i64) {
    let each = sqlx::query_scalar(
        "SELECT count(*) FROM job_attempts WHERE started_at >= $1 AND started_at < $2 GROUP BY worker ORDER BY worker",
    );
    let most = sqlx::query_scalar(
        "WITH seen AS (SELECT started_at FROM job_attempts WHERE started_at >= $1 AND started_at < $2)
         SELECT coalesce(max(within), 0) FROM (
             SELECT count(*) OVER (ORDER BY started_at RANGE BETWEEN CURRENT ROW AND interval '999999 microseconds' FOLLOWING) AS within
             FROM seen) AS spans",
    );
    let pool = world.pool();
    (
        each.bind(from).bind(to).fetch_all(pool).await.unwrap(),
        most.bind(from).bind(to).fetch_one(pool).await.unwrap(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_an_operator_sets_is_heeded_by_every_worker_within_two_seconds() {
    let world = world().await;
    let workers = [world.another_worker(registry()), world.another_worker(registry())];
    let two = TimeDelta::seconds(2);
    // More than both can do meanwhile.
    let work = "INSERT INTO jobs (id, kind, queue, priority, args, max_attempts, state, run_at)
                SELECT gen_random_uuid(), 'test.hold', 'cache', 50, '{\"milliseconds\": 50}', 3, 'queued', now() FROM generate_series(1, 20000)";
    sqlx::query(work).execute(world.pool()).await.unwrap();
    let both_work = async |since: DateTime<Utc>| {
        world
            .eventually("both work", async || {
                began_between(&world, since, since + TimeDelta::hours(1)).await.0.len() == 2
            })
            .await;
    };
    both_work(clock(&world).await).await;
    let paused = async |paused: bool| -> DateTime<Utc> {
        let mut tx = world.state.db.begin().await.unwrap();
        actions::set_paused(&mut tx, "cache", paused, BY).await.unwrap();
        tx.commit().await.unwrap();
        clock(&world).await + two
    };

    let heeded = paused(true).await;
    is_past(&world, heeded + two).await;
    assert_eq!(began_between(&world, heeded, heeded + two).await, (vec![], 0));

    let heeded = paused(false).await;
    both_work(heeded - two).await;
    is_past(&world, heeded).await;
    let (each, _) = began_between(&world, heeded - two, heeded).await;
    assert_eq!(each.len(), 2, "{each:?} began within two seconds");

    let rate = Limits {
        rate_limit: Some(20),
        ..NO_LIMITS
    };
    limit_cache(&world, rate).await;
    let heeded = clock(&world).await + two;
    is_past(&world, heeded + two).await;
    let (each, most) = began_between(&world, heeded, heeded + two).await;
    assert!((1..=20).contains(&most), "{most} in a second: {each:?}");
    limit_cache(&world, NO_LIMITS).await;
    let heeded = clock(&world).await + two;
    is_past(&world, heeded + two).await;
    let (each, most) = began_between(&world, heeded, heeded + two).await;
    assert!(each.len() == 2 && most > 60, "{most} in a second: {each:?}");

    // A weight, while a queue that has it is late: the other has its share, an eighth of each worker's 16 slots.
    let mut held = roost_shared::db::begin(world.pool()).await.unwrap();
    sqlx::query("UPDATE queues SET weight = 1")
        .execute(world.pool())
        .await
        .unwrap();
    late_payments(&world, &mut held).await;
    let late = clock(&world).await + two;
    is_past(&world, late + two).await;
    let unweighted = began_between(&world, late, late + two).await.1;
    let mut tx = world.state.db.begin().await.unwrap();
    let now = settings::queue(&mut tx, "payments").await.unwrap();
    let heavy = settings::QueueSettings { weight: 8, ..now };
    settings::set_queue(&mut tx, "payments", heavy, BY).await.unwrap();
    tx.commit().await.unwrap();
    let heeded = clock(&world).await + two;
    is_past(&world, heeded + two).await;
    let (each, weighted) = began_between(&world, heeded, heeded + two).await;
    assert!(each.len() == 2, "{each:?}");
    assert!(weighted * 3 < unweighted, "{weighted} in a second, {unweighted} before");
    drop(held);
    for worker in workers {
        worker.stop().await;
    }
}

/// A job of `payments` that has been due for an hour, and that no worker can take as long as `held` lasts. Waits until the
/// workers know.
async fn late_payments(world: &World, held: &mut sqlx::PgConnection) {
    // Nobody works off what is due in it, as if all slots were busy.
    sqlx::query(
        "INSERT INTO jobs (id, kind, queue, priority, args, max_attempts, state, run_at, crash_count)
         VALUES (gen_random_uuid(), 'test.hold', 'payments', 50, '{}', 3, 'queued', now() - interval '1 hour', 0)",
    )
    .execute(world.pool())
    .await
    .unwrap();
    sqlx::query("SELECT FROM jobs WHERE queue = 'payments' FOR UPDATE")
        .execute(held)
        .await
        .unwrap();
    is_late(world, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspect_waits_for_its_limit_too() {
    for crash_count in [1, 2] {
        let world = world().await;
        limit_cache(&world, at_once(1)).await;
        enqueue(&world, 1, Hold { milliseconds: 1_500 }).await;
        let worker = world.another_worker(registry());
        world
            .eventually("it runs", async || {
                sqlx::query_scalar::<_, i64>("SELECT count(*) FROM jobs WHERE state = 'running'")
                    .fetch_one(world.pool())
                    .await
                    .unwrap()
                    == 1
            })
            .await;
        let mut tx = world.state.db.begin().await.unwrap();
        tx.enqueue(&Hold { milliseconds: 1 });
        tx.commit().await.unwrap();
        sqlx::query("UPDATE jobs SET crash_count = $1 WHERE state = 'queued'")
            .bind(crash_count)
            .execute(world.pool())
            .await
            .unwrap();
        world.run_jobs().await;
        assert_eq!(succeeded(&world, "test.hold").await, 2);
        assert_eq!(most_at_once(&world, 3_600.0).await, 1);
        worker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_worker_held_runs_side_by_side_and_what_two_held_runs_alone() {
    let world = world().await;
    enqueue(&world, 14, Hold { milliseconds: 600 }).await;
    sqlx::query(
        "WITH numbered AS (SELECT id, row_number() OVER (ORDER BY id) AS number FROM jobs)
         UPDATE jobs SET crash_count = CASE WHEN number % 7 = 0 THEN 2 ELSE 1 END FROM numbered WHERE jobs.id = numbered.id",
    )
    .execute(world.pool())
    .await
    .unwrap();
    let grave: Vec<Uuid> = sqlx::query_scalar("SELECT id FROM jobs WHERE crash_count = 2")
        .fetch_all(world.pool())
        .await
        .unwrap();
    let worker = world.another_worker(registry());
    world.run_jobs().await;
    assert_eq!(succeeded(&world, "test.hold").await, 14);
    let together = most_at_once(&world, 3_600.0).await;
    assert!(together >= 6, "{together} of 12 at once");
    let beside: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM job_attempts AS alone JOIN job_attempts AS other
             ON other.job_id <> alone.job_id AND other.started_at < alone.ended_at AND other.ended_at > alone.started_at
         WHERE alone.job_id = ANY($1)",
    )
    .bind(&grave)
    .fetch_one(world.pool())
    .await
    .unwrap();
    assert_eq!((grave.len(), beside), (2, 0));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_heavy_queue_is_late_light_ones_have_their_share_of_the_slots() {
    let world = world().await;
    let worker = world.another_worker(registry());
    sqlx::query("UPDATE queues SET paused = false, weight = CASE name WHEN 'payments' THEN 8 ELSE 1 END")
        .execute(world.pool())
        .await
        .unwrap();
    let mut held = roost_shared::db::begin(world.pool()).await.unwrap();
    late_payments(&world, &mut held).await;
    enqueue(&world, 60, Hold { milliseconds: 50 }).await;
    world
        .eventually("done", async || succeeded(&world, "test.hold").await == 60)
        .await;
    // An eighth of 16 slots; a slot is free again a moment before its job is settled.
    let few = most_at_once(&world, 3_600.0).await;
    assert!((2..=5).contains(&few), "{few} at once");
    drop(held);
    sqlx::query("DELETE FROM jobs WHERE queue = 'payments'")
        .execute(world.pool())
        .await
        .unwrap();
    is_late(&world, false).await;
    enqueue(&world, 60, Hold { milliseconds: 50 }).await;
    world.run_jobs().await;
    let many = most_at_once(&world, 3.0).await;
    assert!(many >= 10, "{many} at once");
    worker.stop().await;
}
