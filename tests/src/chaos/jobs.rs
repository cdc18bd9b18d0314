//! Kinds of jobs that leave witnesses of their own, and the worker that knows them beside production's.
//!
//! `chaos_starts` has a row for every attempt that began, `chaos_effects` one for every attempt that took effect by
//! itself, `chaos_effect_writes` one for every time that an effect was written, of whatever kind of job, `chaos_refused` one for
//! every attempt whose writes were refused because its lease was lost.
//! None has a unique index: a job that takes effect twice is seen.

use std::time::Duration;

use anyhow::Result;
use chrono::TimeDelta;
use roost_shared::{
    clock::Clock,
    db::Db,
    jobs::{FinishedEffect, Job, Lease, LeaseError, Queue},
    telemetry,
};
use roost_worker::{Context, Done, Handler, JobError, Options, Registry, Worker, serve_metrics};
use serde::{Deserialize, Serialize};
use sqlx::{PgExecutor, PgPool};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Jobs a transaction when many are enqueued.
const BATCH: usize = 100;

/// The engine keeps one row per effect and writes over it, so what is written is noted by a trigger, with whether it was
/// written in one transaction with the job whose effect it is: who has the job now may write of what an earlier claim began.
/// Not what only closes an effect: any job does that which learns of it from elsewhere, and whose claim began it says nothing
/// about that.
const TABLES: &str = "
    CREATE TABLE chaos_starts (nonce uuid NOT NULL, fence bigint NOT NULL, pid int NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp());
    CREATE TABLE chaos_effects (nonce uuid NOT NULL, fence bigint NOT NULL, pid int NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp());
    CREATE TABLE chaos_refused (nonce uuid NOT NULL, fence bigint NOT NULL, pid int NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp());
    CREATE TABLE chaos_effect_writes (key text NOT NULL, job_id uuid NOT NULL, fence bigint NOT NULL, state text NOT NULL, with_job boolean NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp());
    CREATE FUNCTION chaos_note_effect() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF TG_OP = 'INSERT' OR to_jsonb(OLD) - '{state,updated_at}'::text[] <> to_jsonb(NEW) - '{state,updated_at}'::text[] THEN
                INSERT INTO chaos_effect_writes VALUES (NEW.key, NEW.job_id, NEW.fence, NEW.state, EXISTS (
                    SELECT FROM jobs WHERE id = NEW.job_id AND pg_current_xact_id()::xid IN (xmin, xmax)));
            END IF;
            RETURN NULL;
        END $$;
    CREATE CONSTRAINT TRIGGER chaos_note_effect AFTER INSERT OR UPDATE ON effects DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION chaos_note_effect();";

/// Makes the tables of the witnesses.
pub async fn make_tables(pool: &PgPool) -> Result<()> {
    sqlx::raw_sql(TABLES).execute(pool).await?;
    Ok(())
}

/// Works for a while, then leaves its effect in the transaction that completes it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Mark {
    pub nonce: Uuid,
    pub hold_ms: u64,
}

impl Job for Mark {
    const KIND: &'static str = "chaos.mark";
    const QUEUE: Queue = Queue::Maintenance;
    const TIMEOUT: Duration = Duration::from_secs(120);
}

impl Handler for Mark {
    async fn run(self, ctx: &Context, lease: Lease) -> Result<Done, JobError> {
        begin(ctx, self.nonce, lease).await?;
        // In a task of its own, which nobody stops: what must keep a stale worker from writing is the fence alone.
        let db = ctx.db.clone();
        let working = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(self.hold_ms)).await;
            leave_mark(db, self.nonce, lease).await
        });
        working
            .await
            .map_err(|error| JobError::Retry(format!("its task ended: {error}")))??;
        Ok(Done::Settled)
    }
}

async fn leave_mark(db: Db, nonce: Uuid, lease: Lease) -> Result<(), JobError> {
    let mut tx = db.begin().await?;
    witness(
        "INSERT INTO chaos_effects (nonce, fence, pid) VALUES ($1, $2, $3)",
        nonce,
        lease,
        tx.conn(),
    )
    .await?;
    match lease.complete(&mut tx).await {
        Ok(()) => Ok(tx.commit().await?),
        Err(error) => {
            drop(tx);
            if matches!(error, LeaseError::Lost) {
                witness(
                    "INSERT INTO chaos_refused (nonce, fence, pid) VALUES ($1, $2, $3)",
                    nonce,
                    lease,
                    db.pool(),
                )
                .await?;
            }
            Err(error.into())
        }
    }
}

/// Works for a while and leaves its effect to the engine, which settles many jobs in one statement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Batched {
    pub nonce: Uuid,
    pub hold_ms: u64,
}

impl Job for Batched {
    const KIND: &'static str = "chaos.batched";
    const QUEUE: Queue = Queue::Maintenance;
    const TIMEOUT: Duration = Duration::from_secs(120);
}

impl Handler for Batched {
    async fn run(self, ctx: &Context, lease: Lease) -> Result<Done, JobError> {
        begin(ctx, self.nonce, lease).await?;
        tokio::time::sleep(Duration::from_millis(self.hold_ms)).await;
        Ok(Done::With(vec![FinishedEffect {
            key: format!("chaos:{}", self.nonce),
            entity_id: Some(self.nonce),
            external_id: None,
            response: None,
        }]))
    }
}

/// Takes its process with it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Poison {
    pub nonce: Uuid,
}

impl Job for Poison {
    const KIND: &'static str = "chaos.poison";
    const QUEUE: Queue = Queue::Maintenance;
}

impl Handler for Poison {
    async fn run(self, ctx: &Context, lease: Lease) -> Result<Done, JobError> {
        begin(ctx, self.nonce, lease).await?;
        std::process::abort();
    }
}

/// A kind that only the newer version of the worker knows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Newer {
    pub nonce: Uuid,
}

impl Job for Newer {
    const KIND: &'static str = "chaos.newer";
    const QUEUE: Queue = Queue::Maintenance;
}

impl Handler for Newer {
    async fn run(self, ctx: &Context, lease: Lease) -> Result<Done, JobError> {
        let mark = Mark {
            nonce: self.nonce,
            hold_ms: 0,
        };
        mark.run(ctx, lease).await
    }
}

async fn begin(ctx: &Context, nonce: Uuid, lease: Lease) -> Result<(), JobError> {
    witness(
        "INSERT INTO chaos_starts (nonce, fence, pid) VALUES ($1, $2, $3)",
        nonce,
        lease,
        ctx.db.pool(),
    )
    .await?;
    Ok(())
}

async fn witness(insert: &'static str, nonce: Uuid, lease: Lease, db: impl PgExecutor<'_>) -> Result<(), sqlx::Error> {
    let row = sqlx::query(insert).bind(nonce).bind(lease.fence).bind(own_pid());
    row.execute(db).await?;
    Ok(())
}

fn own_pid() -> i32 {
    i32::try_from(std::process::id()).unwrap_or(0)
}

/// The worker with the kinds above, beside its own: `roost-worker` but for that. `newer`: knows [`Newer`]; its clock
/// goes `clock_offset` seconds before the machine's.
pub async fn work(newer: bool, clock_offset: i64) -> Result<()> {
    // It takes its options from the environment.
    let options = <Options as clap::Parser>::parse_from(["roost-worker"]);
    telemetry::init(options.log.log_format);
    let stop = CancellationToken::new();
    serve_metrics(options.metrics_listen, stop.clone()).await?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let clock = Clock::default();
    clock.advance(TimeDelta::seconds(clock_offset));
    let worker = Worker::start(&options, registry(newer), clock)?;
    terminate.recv().await;
    worker.stop().await;
    stop.cancel();
    Ok(())
}

fn registry(newer: bool) -> Registry {
    let registry = roost_worker::jobs::registry()
        .with::<Mark>()
        .with::<Batched>()
        .with::<Poison>();
    if newer { registry.with::<Newer>() } else { registry }
}

/// Enqueues `count` jobs, of both kinds in turn, and returns what to look for afterwards. `hold_ms` by number.
pub async fn enqueue(db: &Db, count: usize, mut hold_ms: impl FnMut(usize) -> u64) -> Result<Vec<Uuid>> {
    let mut nonces = Vec::with_capacity(count);
    while nonces.len() < count {
        let mut tx = db.begin().await?;
        let first = nonces.len();
        for number in first..count.min(first + BATCH) {
            let (nonce, hold_ms) = (Uuid::new_v4(), hold_ms(number));
            if number % 2 == 0 {
                tx.enqueue(&Mark { nonce, hold_ms });
            } else {
                tx.enqueue(&Batched { nonce, hold_ms });
            }
            nonces.push(nonce);
        }
        tx.commit().await?;
    }
    Ok(nonces)
}
