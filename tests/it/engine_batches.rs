//! Batches: the job after the last comes once, whatever becomes of the jobs and of the workers.

use std::time::Duration;

use roost_shared::jobs::batches::{self, Batch};
use roost_shared::jobs::{self, Job, Lease, Queue};
use roost_tests::world::World;
use roost_worker::{Context, DONE, Done, Handler, JobError, Registry};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::rehearsal::{Keyed, Rehearse, leases_end, reaps, runs, world};

/// The job after the last: notes what it finds.
#[derive(Serialize, Deserialize)]
struct After {
    nonce: Uuid,
}

impl Job for After {
    const KIND: &'static str = "test.after";
    const QUEUE: Queue = Queue::Maintenance;
}

impl Handler for After {
    async fn run(self, ctx: &Context, lease: Lease) -> Result<Done, JobError> {
        sqlx::query("INSERT INTO test_runs (nonce, fence) VALUES ($1, $2)")
            .bind(self.nonce)
            .bind(lease.fence)
            .execute(ctx.db.pool())
            .await?;
        Ok(DONE)
    }
}

/// Adds another job to its batch.
#[derive(Serialize, Deserialize)]
struct Spread {
    batch_id: Uuid,
}

impl Job for Spread {
    const KIND: &'static str = "test.spread";
    const QUEUE: Queue = Queue::Maintenance;
}

impl Handler for Spread {
    async fn run(self, ctx: &Context, lease: Lease) -> Result<Done, JobError> {
        let mut tx = ctx.db.begin().await?;
        tx.enqueue_in(self.batch_id, &rehearse("wait"));
        lease.complete(&mut tx).await?;
        tx.commit().await?;
        Ok(Done::Settled)
    }
}

fn rehearse(what: &str) -> Rehearse {
    Rehearse {
        what: what.to_owned(),
        nonce: Uuid::new_v4(),
    }
}

fn registry() -> Registry {
    Registry::default().with::<Rehearse>().with::<After>().with::<Spread>()
}

async fn begin(world: &World, members: &[&str]) -> Uuid {
    let mut tx = world.state.db.begin().await.unwrap();
    let batch = batches::begin(&mut tx, &After { nonce: Uuid::new_v4() }).await.unwrap();
    for what in members {
        tx.enqueue_in(batch, &rehearse(what));
    }
    tx.commit().await.unwrap();
    batch
}

async fn found(world: &World, id: Uuid) -> Batch {
    batches::find(world.pool(), id).await.unwrap().unwrap()
}

async fn ends(world: &World, id: Uuid) -> Batch {
    world
        .eventually("the batch ends", async || found(world, id).await.finished_at.is_some())
        .await;
    found(world, id).await
}

/// Total, done, failed.
fn figures(batch: &Batch) -> (i64, i64, i64) {
    (batch.total, batch.done, batch.failed)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_job_after_the_last_comes_once_and_not_before() {
    let world = world().await;
    let workers = [world.another_worker(registry()), world.another_worker(registry())];
    let batch = begin(&world, &["wait"; 40]).await;
    let empty = begin(&world, &[]).await;
    ends(&world, batch).await;
    ends(&world, empty).await;
    world.run_jobs().await;
    assert_eq!(figures(&found(&world, batch).await), (40, 40, 0));
    assert_eq!(world.jobs("test.after").await, ["succeeded=2"]);
    let early: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM jobs AS after JOIN job_batches ON after_id = after.id
         WHERE EXISTS (SELECT 1 FROM jobs WHERE batch_id = job_batches.id AND finished_at > after.created_at)",
    )
    .fetch_one(world.pool())
    .await
    .unwrap();
    assert_eq!(early, 0);
    for worker in workers {
        worker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn those_that_die_count_as_failed_and_hold_up_nothing() {
    let world = world().await;
    let worker = world.another_worker(registry());
    let batch = begin(&world, &["succeed", "fail", "succeed", "fail"]).await;
    assert_eq!(figures(&ends(&world, batch).await), (4, 2, 2));
    world.run_jobs().await;
    // One that is retried after the end changes nothing.
    sqlx::query("UPDATE jobs SET state = 'queued', published_at = NULL WHERE state = 'dead'")
        .execute(world.pool())
        .await
        .unwrap();
    world.run_jobs().await;
    assert_eq!(figures(&found(&world, batch).await), (4, 2, 2));
    assert_eq!(world.jobs("test.after").await, ["succeeded=1"]);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_in_the_middle_neither_ends_the_batch_nor_ends_it_twice() {
    let world = world().await;
    let batch = begin(&world, &["succeed"; 3]).await;
    let ids: Vec<Uuid> = sqlx::query_scalar("SELECT id FROM jobs WHERE batch_id = $1")
        .bind(batch)
        .fetch_all(world.pool())
        .await
        .unwrap();
    // A worker claims them and is never heard of again.
    let doomed = jobs::Claimant {
        owner: "doomed".to_owned(),
        kinds: vec!["test.rehearse".to_owned()],
    };
    assert_eq!(jobs::claim(world.pool(), &ids, &doomed, &[]).await.unwrap().len(), 3);
    let mut connection = world.pool().acquire().await.unwrap();
    assert_eq!(batches::finish(&mut connection).await.unwrap(), 0);
    assert_eq!(figures(&found(&world, batch).await), (3, 0, 0));
    leases_end(&world).await;
    assert_eq!(reaps(&world).await.requeued, 3);
    assert_eq!(batches::finish(&mut connection).await.unwrap(), 0);
    let worker = world.another_worker(registry());
    assert_eq!(figures(&ends(&world, batch).await), (3, 3, 0));
    world.run_jobs().await;
    assert_eq!(world.jobs("test.after").await, ["succeeded=1"]);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_that_look_at_once_end_a_batch_once() {
    let world = world().await;
    let batch = begin(&world, &["succeed"; 2]).await;
    sqlx::query("UPDATE jobs SET state = 'succeeded', finished_at = now() WHERE batch_id = $1")
        .bind(batch)
        .execute(world.pool())
        .await
        .unwrap();
    let pool = world.state.db.pool();
    let looks = (0..8).map(|_| async {
        let mut connection = pool.acquire().await.unwrap();
        batches::finish(&mut connection).await.unwrap()
    });
    let ended: u64 = futures::future::join_all(looks).await.into_iter().sum();
    assert_eq!(ended, 1);
    assert_eq!(world.jobs("test.after").await, ["queued=1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_may_add_to_its_batch_and_knows_its_parent() {
    let world = world().await;
    let worker = world.another_worker(registry());
    let mut tx = world.state.db.begin().await.unwrap();
    let batch = batches::begin(&mut tx, &After { nonce: Uuid::new_v4() }).await.unwrap();
    tx.enqueue_in(batch, &Spread { batch_id: batch });
    tx.commit().await.unwrap();
    assert_eq!(figures(&ends(&world, batch).await), (2, 2, 0));
    world.run_jobs().await;
    assert_eq!(world.jobs("test.after").await, ["succeeded=1"]);
    let parents: Vec<(String, Option<String>)> = sqlx::query_as(
        "SELECT jobs.kind, parent.kind FROM jobs LEFT JOIN jobs AS parent ON parent.id = jobs.parent_id
         WHERE jobs.kind LIKE 'test.%' ORDER BY jobs.kind",
    )
    .fetch_all(world.pool())
    .await
    .unwrap();
    let of = |kind: &str| parents.iter().find(|(child, _)| child == kind).unwrap().1.clone();
    assert_eq!(of("test.rehearse").as_deref(), Some("test.spread"));
    assert_eq!(of("test.spread"), None);

    // It has ended, so it takes no more, and nothing of that transaction stays.
    let mut tx = world.state.db.begin().await.unwrap();
    tx.enqueue_in(batch, &rehearse("succeed"));
    assert!(tx.commit().await.is_err());
    assert_eq!(world.jobs("test.rehearse").await, ["succeeded=1"]);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_job_does_already_is_none_of_the_batch() {
    let world = world().await;
    let keyed = || Keyed { key: "flat".to_owned() };
    let mut tx = world.state.db.begin().await.unwrap();
    tx.enqueue(&keyed());
    tx.commit().await.unwrap();
    let mut tx = world.state.db.begin().await.unwrap();
    let batch = batches::begin(&mut tx, &After { nonce: Uuid::new_v4() }).await.unwrap();
    tx.enqueue_in(batch, &keyed());
    tx.enqueue_in(batch, &rehearse("succeed"));
    tx.commit().await.unwrap();
    assert_eq!(found(&world, batch).await.total, 1);
    let worker = world.another_worker(registry());
    assert_eq!(figures(&ends(&world, batch).await), (1, 1, 0));
    tokio::time::timeout(Duration::from_secs(20), worker.stop())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_cannot_end_keeps_no_job_from_being_published() {
    let world = world().await;
    sqlx::raw_sql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'it stays as it is'; END $$;
         CREATE TRIGGER refused BEFORE UPDATE ON job_batches FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    .execute(world.pool())
    .await
    .unwrap();
    let mut tx = world.state.db.begin().await.unwrap();
    batches::begin(&mut tx, &After { nonce: Uuid::new_v4() }).await.unwrap();
    tx.commit().await.unwrap();
    let worker = world.another_worker(registry());
    // It waits for its time, so the relay has to publish it.
    let (job, nonce) = (rehearse("succeed"), Uuid::new_v4());
    let mut tx = world.state.db.begin().await.unwrap();
    let due = tx.now() + chrono::TimeDelta::milliseconds(500);
    tx.enqueue_at(&Rehearse { nonce, ..job }, due);
    tx.commit().await.unwrap();
    world.eventually("runs", async || runs(&world, nonce).await == 1).await;
    let open = "SELECT count(*) FROM job_batches WHERE finished_at IS NULL";
    assert_eq!(world.counts(open).await, 1);
    worker.stop().await;
}
