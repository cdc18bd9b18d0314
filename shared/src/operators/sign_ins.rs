//! How often somebody tries to sign in, over fixed windows. Counted in Postgres, as the sessions are kept there: the bound
//! holds while Redis is down, and across all processes.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sha2::{Digest, Sha256};
use sqlx::PgPool;

use crate::db::Tx;

/// Windows that are over and are forgotten with one try.
const FORGOTTEN: i64 = 100;
/// How long it is known from where somebody has signed in.
const REMEMBERED: TimeDelta = TimeDelta::days(30);

/// Whom tries are counted for: an account, an address, or one from the other.
#[derive(Clone, Debug)]
pub struct Subject {
    hash: Vec<u8>,
    most: i64,
}

impl Subject {
    /// May try so often in a window. Only a hash of the name is stored.
    #[must_use]
    pub fn new(name: &str, most: u32) -> Self {
        Self {
            hash: Sha256::digest(name.as_bytes()).to_vec(),
            most: most.into(),
        }
    }
}

/// Counts a try for each of the subjects in turn, in windows of this length. False: one of them has had its tries, so this
/// one must not go on, and is not counted for those after it.
///
/// # Errors
/// Postgres could not be reached.
pub async fn count(
    pool: &PgPool,
    subjects: &[Subject],
    window: Duration,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let hashes: Vec<Vec<u8>> = subjects.iter().map(|subject| subject.hash.clone()).collect();
    let most: Vec<i64> = subjects.iter().map(|subject| subject.most).collect();
    let over = now - window;
    // Who has had enough is refused without a write, however often they come.
    let spent = sqlx::query_scalar!(
        r#"SELECT EXISTS (
               SELECT 1 FROM unnest($1::bytea[], $2::bigint[]) AS asked (subject, most)
               JOIN operator_sign_ins USING (subject) WHERE began_at > $3 AND tries >= most) AS "spent!""#,
        &hashes,
        &most,
        over
    )
    .fetch_one(pool)
    .await?;
    if spent {
        return Ok(false);
    }
    for subject in subjects {
        let tries = sqlx::query_scalar!(
            "INSERT INTO operator_sign_ins AS known (subject, began_at, tries) VALUES ($1, $2, 1)
             ON CONFLICT (subject) DO UPDATE SET
                 began_at = CASE WHEN known.began_at > $3 THEN known.began_at ELSE EXCLUDED.began_at END,
                 tries = CASE WHEN known.began_at > $3 THEN known.tries + 1 ELSE 1 END
             RETURNING tries",
            &subject.hash,
            now,
            over
        )
        .fetch_one(pool)
        .await?;
        if i64::from(tries) > subject.most {
            return Ok(false);
        }
    }
    forget(pool, over).await?;
    Ok(true)
}

/// Remembers for a month that this account has signed in from this address. Only a hash of both is stored.
///
/// # Errors
/// Postgres could not be reached.
pub async fn remember(tx: &mut Tx, place: &str) -> Result<(), sqlx::Error> {
    let now = tx.now();
    sqlx::query!(
        "DELETE FROM operator_places WHERE place IN (
             SELECT place FROM operator_places WHERE seen_at <= $1 ORDER BY seen_at LIMIT $2 FOR UPDATE SKIP LOCKED)",
        now - REMEMBERED,
        FORGOTTEN
    )
    .execute(tx.conn())
    .await?;
    sqlx::query!(
        "INSERT INTO operator_places (place, seen_at) VALUES ($1, $2) ON CONFLICT (place) DO UPDATE SET seen_at = EXCLUDED.seen_at",
        Sha256::digest(place.as_bytes()).to_vec(),
        now
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Whether it is remembered.
///
/// # Errors
/// Postgres could not be reached.
pub async fn is_remembered(pool: &PgPool, place: &str, now: DateTime<Utc>) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM operator_places WHERE place = $1 AND seen_at > $2) AS "is!""#,
        Sha256::digest(place.as_bytes()).to_vec(),
        now - REMEMBERED
    )
    .fetch_one(pool)
    .await
}

/// Removes some of the windows that are over: more than one try adds.
async fn forget(pool: &PgPool, over: DateTime<Utc>) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "DELETE FROM operator_sign_ins WHERE subject IN (
             SELECT subject FROM operator_sign_ins WHERE began_at <= $1 ORDER BY began_at LIMIT $2 FOR UPDATE SKIP LOCKED)",
        over,
        FORGOTTEN
    )
    .execute(pool)
    .await?;
    Ok(())
}
