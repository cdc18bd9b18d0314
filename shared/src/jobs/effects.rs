//! What jobs do to the world outside, in three phases: commit the intent, call with no transaction open, commit the
//! result. The effect's key is the idempotency key of the call, so a repeated call has no second effect.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgPool;
use uuid::Uuid;

use super::lease::{Lease, LeaseError};
use crate::db::Tx;

/// Where an effect stands when a job comes to it.
#[derive(Debug)]
pub struct Effect {
    /// `intent`, `done`, `unknown` or `failed`.
    pub state: String,
    /// When the call may first have been made.
    pub first_sent_at: DateTime<Utc>,
    /// The other side's id, once done.
    pub external_id: Option<String>,
    /// Whether no attempt before this one has got here.
    pub fresh: bool,
    /// How many keys were used up by answers that said nothing: the next call needs another one.
    pub generation: i32,
}

/// Commits the intent, or finds what an earlier attempt left.
///
/// # Errors
/// [`LeaseError::Lost`]: another worker has the job; do not call.
pub async fn begin(
    pool: &PgPool,
    lease: &Lease,
    key: &str,
    entity_id: Uuid,
    now: DateTime<Utc>,
) -> Result<Effect, LeaseError> {
    sqlx::query_as!(
        Effect,
        r#"INSERT INTO effects AS e (key, job_id, fence, entity_id, state, first_sent_at, updated_at)
           SELECT $1, id, fence, $4, 'intent', $5, $5 FROM jobs WHERE id = $2 AND fence = $3 AND state = 'running'
           ON CONFLICT (key) DO UPDATE SET job_id = EXCLUDED.job_id, fence = EXCLUDED.fence, updated_at = EXCLUDED.updated_at
           RETURNING state, first_sent_at, external_id, generation, (xmax = 0) AS "fresh!""#,
        key,
        lease.job_id,
        lease.fence,
        entity_id,
        now
    )
    .fetch_optional(pool)
    .await?
    .ok_or(LeaseError::Lost)
}

/// What an attempt before this one kept with [`keep`]. The effect is locked.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn kept(tx: &mut Tx, key: &str) -> Result<Option<Value>, sqlx::Error> {
    let row = sqlx::query_scalar!("SELECT response FROM effects WHERE key = $1 FOR NO KEY UPDATE", key)
        .fetch_optional(tx.conn())
        .await?;
    Ok(row.flatten())
}

/// Keeps what every attempt has to say the same. It is forgotten when the effect is done.
///
/// # Errors
/// Postgres refused.
pub async fn keep(tx: &mut Tx, key: &str, value: &Value) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE effects SET response = $2 WHERE key = $1 AND state <> 'done'",
        key,
        value
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Records in `tx` that the call had its effect.
///
/// # Errors
/// Postgres refused.
pub async fn done(
    tx: &mut Tx,
    key: &str,
    external_id: Option<&str>,
    response: Option<&Value>,
) -> Result<(), sqlx::Error> {
    finish(tx, key, "done", external_id, response, None).await
}

/// Records in `tx` that the other side refused for good.
///
/// # Errors
/// Postgres refused.
pub async fn failed(tx: &mut Tx, key: &str, external_id: Option<&str>, error: &str) -> Result<(), sqlx::Error> {
    finish(tx, key, "failed", external_id, None, Some(error)).await
}

/// Closes in `tx` what an attempt left open, if it did: whether the call had its effect is known from elsewhere.
///
/// # Errors
/// Postgres refused.
pub async fn close(tx: &mut Tx, key: &str, had_effect: bool) -> Result<(), sqlx::Error> {
    let state = if had_effect { "done" } else { "failed" };
    let now = tx.now();
    sqlx::query!(
        "UPDATE effects SET state = $2, updated_at = $3 WHERE key = $1 AND state IN ('intent', 'unknown')",
        key,
        state,
        now
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Records that nobody knows whether the call had its effect: a time-out, a reset, a 5xx, an undecodable reply.
/// `key_is_spent`: the other side would repeat its failure under the same idempotency key. Of a claim that is lost nothing is
/// recorded: what it left open counts as unknown to whoever has the job next.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn unknown(
    pool: &PgPool,
    lease: &Lease,
    key: &str,
    error: &str,
    key_is_spent: bool,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE effects SET state = 'unknown', error = $3, generation = generation + CASE WHEN $4 THEN 1 ELSE 0 END, updated_at = now()
         WHERE key = $1 AND fence = $2 AND state <> 'done'
           AND EXISTS (SELECT FROM jobs WHERE id = effects.job_id AND jobs.fence = $2 AND state = 'running')",
        key,
        lease.fence,
        error,
        key_is_spent
    )
    .execute(pool)
    .await?;
    Ok(())
}

async fn finish(
    tx: &mut Tx,
    key: &str,
    state: &str,
    external_id: Option<&str>,
    response: Option<&Value>,
    error: Option<&str>,
) -> Result<(), sqlx::Error> {
    let now = tx.now();
    sqlx::query!(
        "UPDATE effects SET state = $2, external_id = coalesce($3, external_id), response = $4, error = $5, updated_at = $6 WHERE key = $1",
        key,
        state,
        external_id,
        response,
        error,
        now
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}
