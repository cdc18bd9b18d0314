//! Kinds of jobs that the engine's tests run, and how they look at what became of them.

use std::time::Duration;

use roost_shared::jobs::{Claimant, ClaimedJob, FinishedEffect, Job, Lease, Queue, report_progress};
use roost_tests::world::World;
use roost_worker::{Context, DONE, Done, Handler, JobError, Registry};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Does what its argument says, counting on the way in `test_runs`.
#[derive(Serialize, Deserialize)]
pub(crate) struct Rehearse {
    pub what: String,
    pub nonce: Uuid,
}

impl Job for Rehearse {
    const KIND: &'static str = "test.rehearse";
    const QUEUE: Queue = Queue::Maintenance;
    const MAX_ATTEMPTS: i32 = 3;
    // What hangs is waited for; what only meets a busy machine must not be cut short.
    const TIMEOUT: Duration = Duration::from_secs(4);
}

impl Handler for Rehearse {
    async fn run(self, ctx: &Context, lease: Lease) -> Result<Done, JobError> {
        let is_first = note_run(ctx, self.nonce, lease).await?;
        match self.what.as_str() {
            "succeed" => Ok(DONE),
            "snooze" if is_first => Err(JobError::Snooze(Duration::from_millis(100))),
            "snooze" => Ok(DONE),
            "fail" => Err(JobError::Fail("never".to_owned())),
            // Postgres stores no such text.
            "nul" => Err(JobError::Fail("half\0full".to_owned())),
            "twice" => Ok(Done::With(vec![effect("test:same"), effect("test:same")])),
            "retry" => Err(JobError::Retry("not now".to_owned())),
            // As a Postgres that is stopped does to every connection.
            "interrupted" if is_first => {
                sqlx::query("SELECT pg_terminate_backend(pg_backend_pid())")
                    .execute(ctx.db.pool())
                    .await?;
                Ok(DONE)
            }
            "interrupted" => Ok(DONE),
            "panic" if is_first => panic!("on purpose"),
            "panic" => Ok(DONE),
            "hang" if is_first => std::future::pending().await,
            "hang" => Ok(DONE),
            "wait" => {
                tokio::time::sleep(Duration::from_millis(300)).await;
                Ok(DONE)
            }
            other => Err(JobError::Fail(format!("what is {other}?"))),
        }
    }
}

/// Whether none of this job ran before.
async fn note_run(ctx: &Context, nonce: Uuid, lease: Lease) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "INSERT INTO test_runs (nonce, fence) VALUES ($1, $2)
         RETURNING NOT EXISTS (SELECT FROM test_runs AS earlier WHERE earlier.nonce = $1)",
    )
    .bind(nonce)
    .bind(lease.fence)
    .fetch_one(ctx.db.pool())
    .await
}

fn effect(key: &str) -> FinishedEffect {
    FinishedEffect {
        key: key.to_owned(),
        entity_id: None,
        external_id: None,
        response: None,
    }
}

/// Takes its time; again, after the first claim, a little more than a lease.
#[derive(Serialize, Deserialize)]
pub(crate) struct Linger {
    pub nonce: Uuid,
}

impl Job for Linger {
    const KIND: &'static str = "test.linger";
    const QUEUE: Queue = Queue::Maintenance;
}

impl Handler for Linger {
    async fn run(self, ctx: &Context, lease: Lease) -> Result<Done, JobError> {
        let is_first = note_run(ctx, self.nonce, lease).await?;
        report_progress(ctx.db.pool(), &lease, 40).await?;
        tokio::time::sleep(Duration::from_secs(if is_first { 30 } else { 8 })).await;
        Ok(DONE)
    }
}

/// Does nothing, on another queue than the others.
#[derive(Serialize, Deserialize)]
pub(crate) struct Elsewhere {}

impl Job for Elsewhere {
    const KIND: &'static str = "test.elsewhere";
    const QUEUE: Queue = Queue::Cache;
}

impl Handler for Elsewhere {
    async fn run(self, _: &Context, _: Lease) -> Result<Done, JobError> {
        Ok(DONE)
    }
}

/// At most one of a key waits or runs.
#[derive(Serialize, Deserialize)]
pub(crate) struct Keyed {
    pub key: String,
}

impl Job for Keyed {
    const KIND: &'static str = "test.keyed";
    const QUEUE: Queue = Queue::Maintenance;

    fn dedupe_key(&self) -> Option<String> {
        Some(format!("{}:{}", Self::KIND, self.key))
    }
}

/// A kind that [`registry`] does not know.
#[derive(Serialize, Deserialize)]
pub(crate) struct Unheard {}

impl Job for Unheard {
    const KIND: &'static str = "test.unheard";
    const QUEUE: Queue = Queue::Maintenance;
}

impl Handler for Unheard {
    async fn run(self, _: &Context, _: Lease) -> Result<Done, JobError> {
        Ok(DONE)
    }
}

/// A world whose workers know the kinds of a test and no others: so nothing of the cron table comes due in it.
pub(crate) async fn world() -> World {
    let world = World::without_worker().await;
    let names: Vec<&str> = roost_worker::schedule::names().collect();
    sqlx::query(
        "INSERT INTO cron_schedules (name, expression, paused) SELECT name, '0 0 1 1 *', true FROM unnest($1::text[]) AS name",
    )
    .bind(names)
    .execute(world.pool())
    .await
    .unwrap();
    sqlx::query("CREATE TABLE test_runs (nonce uuid NOT NULL, fence bigint NOT NULL)")
        .execute(world.pool())
        .await
        .unwrap();
    world
}

pub(crate) fn registry() -> Registry {
    Registry::default()
        .with::<Rehearse>()
        .with::<Linger>()
        .with::<Elsewhere>()
}

pub(crate) async fn enqueue(world: &World, what: &str, count: usize) -> Vec<Uuid> {
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

pub(crate) async fn runs(world: &World, nonce: Uuid) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM test_runs WHERE nonce = $1")
        .bind(nonce)
        .fetch_one(world.pool())
        .await
        .unwrap()
}

/// State, attempts and outcomes of the only job.
pub(crate) async fn fate(world: &World) -> (String, i32, Vec<String>) {
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

pub(crate) async fn ends_as(world: &World, state: &str) {
    world.eventually(state, async || fate(world).await.0 == state).await;
}

/// Enqueues one job and returns its id.
pub(crate) async fn enqueue_one<J: Job>(world: &World, job: &J) -> Uuid {
    let mut tx = world.state.db.begin().await.unwrap();
    tx.enqueue(job);
    tx.commit().await.unwrap();
    sqlx::query_scalar("SELECT id FROM jobs WHERE kind = $1 ORDER BY created_at DESC LIMIT 1")
        .bind(J::KIND)
        .fetch_one(world.pool())
        .await
        .unwrap()
}

/// Jobs of another queue are done one after the other, each made when the one before was done: whoever may take what
/// was there before them has had the time.
pub(crate) async fn others_are_done_meanwhile(world: &World) {
    for _ in 0..5 {
        let id = enqueue_one(world, &Elsewhere {}).await;
        world
            .eventually("a job elsewhere is done", async || {
                let state: String = sqlx::query_scalar("SELECT state FROM jobs WHERE id = $1")
                    .bind(id)
                    .fetch_one(world.pool())
                    .await
                    .unwrap();
                state == "succeeded"
            })
            .await;
    }
}

/// A worker that claims by hand.
pub(crate) fn claimant(owner: &str) -> Claimant {
    Claimant {
        owner: owner.to_owned(),
        kinds: ["test.rehearse", "test.keyed", "test.linger"]
            .map(str::to_owned)
            .to_vec(),
    }
}

/// The right to write of a claim.
pub(crate) fn lease_of(job: &ClaimedJob) -> Lease {
    Lease {
        job_id: job.id,
        fence: job.fence,
        attempt: job.attempt,
        max_attempts: job.max_attempts,
    }
}

/// Lets the leases of all running jobs end.
pub(crate) async fn leases_end(world: &World) {
    sqlx::query("UPDATE jobs SET lease_until = now() - interval '1 second' WHERE state = 'running'")
        .execute(world.pool())
        .await
        .unwrap();
}

/// Reaps until something was reaped: right after a start of Postgres nobody is judged.
pub(crate) async fn reaps(world: &World) -> roost_shared::jobs::Reaped {
    let mut reaped = roost_shared::jobs::Reaped::default();
    world
        .eventually("reaped", async || {
            reaped = roost_shared::jobs::reap(world.pool()).await.unwrap();
            reaped.requeued + reaped.quarantined > 0
        })
        .await;
    reaped
}
