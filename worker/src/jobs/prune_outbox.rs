//! `outbox.prune`: deletes what has served its purpose, a batch at a time so that no lock is held for long.

use chrono::{DateTime, TimeDelta, Utc};
use roost_shared::jobs::catalogue::PruneOutbox;
use roost_shared::jobs::{Lease, retention};
use sqlx::PgPool;

use crate::context::Context;
use crate::error::JobError;
use crate::handler::{DONE, Done, Handler};

/// That a mail was sent; the booking it was about keeps its timeline.
const MAIL_EFFECTS: TimeDelta = TimeDelta::days(90);
/// Replies by Idempotency-Key.
const IDEMPOTENCY_KEYS: TimeDelta = TimeDelta::hours(24);
/// Stripe repeats deliveries for three days.
const STRIPE_EVENTS: TimeDelta = TimeDelta::days(30);
/// What users were told inside the product.
const NOTIFICATIONS: TimeDelta = TimeDelta::days(180);

impl Handler for PruneOutbox {
    async fn run(self, ctx: &Context, _: Lease) -> Result<Done, JobError> {
        let now = ctx.clock().now();
        let pool = ctx.db.pool();
        let kept = retention::kept(pool).await?;
        let before = |state| now - retention::of(&kept, state);
        let mut deleted = 0;
        loop {
            let batch = succeeded_jobs(pool, before("succeeded")).await?
                + cancelled_jobs(pool, before("cancelled")).await?
                + dead_jobs(pool, "dead", before("dead")).await?
                + dead_jobs(pool, "quarantined", before("quarantined")).await?
                + batches(pool, before("succeeded")).await?
                + mail_effects(pool, now - MAIL_EFFECTS).await?
                + idempotency_keys(pool, now - IDEMPOTENCY_KEYS).await?
                + stripe_events(pool, now - STRIPE_EVENTS).await?
                + unhandled_stripe_events(pool, before("dead")).await?
                + notifications(pool, now - NOTIFICATIONS).await?
                + email_verifications(pool, now).await?;
            deleted += batch;
            if batch == 0 {
                break;
            }
        }
        tracing::info!(deleted, "pruned");
        Ok(DONE)
    }
}

// The batches are found by an index and deleted by their place, so that no statement reads a whole table.

async fn succeeded_jobs(pool: &PgPool, before: DateTime<Utc>) -> Result<u64, sqlx::Error> {
    // The index holds the cancelled ones too; they are few.
    let deleted = sqlx::query_scalar!(
        r#"WITH gone AS (
               DELETE FROM jobs WHERE ctid = ANY(ARRAY(
                   SELECT ctid FROM jobs WHERE state IN ('succeeded', 'cancelled') AND state = 'succeeded' AND finished_at < $1
                   ORDER BY finished_at LIMIT 5000)) RETURNING id),
           attempts AS (DELETE FROM job_attempts USING gone WHERE job_id = gone.id)
           SELECT count(*) AS "count!" FROM gone"#,
        before
    )
    .fetch_one(pool)
    .await?;
    Ok(deleted.unsigned_abs())
}

async fn cancelled_jobs(pool: &PgPool, before: DateTime<Utc>) -> Result<u64, sqlx::Error> {
    let deleted = sqlx::query_scalar!(
        r#"WITH gone AS (
               DELETE FROM jobs WHERE ctid = ANY(ARRAY(
                   SELECT ctid FROM jobs WHERE state = 'cancelled' AND finished_at < $1 ORDER BY finished_at LIMIT 5000)) RETURNING id),
           attempts AS (DELETE FROM job_attempts USING gone WHERE job_id = gone.id)
           SELECT count(*) AS "count!" FROM gone"#,
        before
    )
    .fetch_one(pool)
    .await?;
    Ok(deleted.unsigned_abs())
}

/// `state` is one of those in which a job is dead.
async fn dead_jobs(pool: &PgPool, state: &str, before: DateTime<Utc>) -> Result<u64, sqlx::Error> {
    let deleted = sqlx::query_scalar!(
        r#"WITH gone AS (
               DELETE FROM jobs WHERE ctid = ANY(ARRAY(
                   SELECT ctid FROM jobs WHERE state IN ('dead', 'quarantined') AND state = $2 AND finished_at < $1
                   ORDER BY finished_at LIMIT 5000)) RETURNING id),
           attempts AS (DELETE FROM job_attempts USING gone WHERE job_id = gone.id)
           SELECT count(*) AS "count!" FROM gone"#,
        before,
        state
    )
    .fetch_one(pool)
    .await?;
    Ok(deleted.unsigned_abs())
}

/// Batches that have ended go with the jobs that succeeded.
async fn batches(pool: &PgPool, before: DateTime<Utc>) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        "DELETE FROM job_batches WHERE ctid = ANY(ARRAY(
             SELECT ctid FROM job_batches WHERE finished_at < $1 ORDER BY finished_at LIMIT 5000))",
        before
    )
    .execute(pool)
    .await?;
    Ok(done.rows_affected())
}

async fn mail_effects(pool: &PgPool, before: DateTime<Utc>) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        "DELETE FROM effects WHERE ctid = ANY(ARRAY(
             SELECT ctid FROM effects WHERE key LIKE 'mail:%' AND updated_at < $1 ORDER BY updated_at LIMIT 5000))",
        before
    )
    .execute(pool)
    .await?;
    Ok(done.rows_affected())
}

async fn idempotency_keys(pool: &PgPool, before: DateTime<Utc>) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        "DELETE FROM idempotency_keys WHERE ctid = ANY(ARRAY(
             SELECT ctid FROM idempotency_keys WHERE created_at < $1 ORDER BY created_at LIMIT 5000))",
        before
    )
    .execute(pool)
    .await?;
    Ok(done.rows_affected())
}

async fn stripe_events(pool: &PgPool, before: DateTime<Utc>) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        "DELETE FROM stripe_events WHERE ctid = ANY(ARRAY(
             SELECT ctid FROM stripe_events WHERE received_at < $1 AND handled_at IS NOT NULL ORDER BY received_at LIMIT 5000))",
        before
    )
    .execute(pool)
    .await?;
    Ok(done.rows_affected())
}

async fn unhandled_stripe_events(pool: &PgPool, before: DateTime<Utc>) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        "DELETE FROM stripe_events WHERE ctid = ANY(ARRAY(
             SELECT ctid FROM stripe_events WHERE received_at < $1 AND handled_at IS NULL ORDER BY received_at LIMIT 5000))",
        before
    )
    .execute(pool)
    .await?;
    Ok(done.rows_affected())
}

async fn email_verifications(pool: &PgPool, now: DateTime<Utc>) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        "DELETE FROM email_verifications WHERE ctid = ANY(ARRAY(
             SELECT ctid FROM email_verifications WHERE expires_at < $1 ORDER BY expires_at LIMIT 5000))",
        now
    )
    .execute(pool)
    .await?;
    Ok(done.rows_affected())
}

async fn notifications(pool: &PgPool, before: DateTime<Utc>) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        "DELETE FROM notifications WHERE ctid = ANY(ARRAY(
             SELECT ctid FROM notifications WHERE last_at < $1 ORDER BY last_at LIMIT 5000))",
        before
    )
    .execute(pool)
    .await?;
    Ok(done.rows_affected())
}
