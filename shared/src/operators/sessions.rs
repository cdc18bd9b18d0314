//! Sessions of operators, in Postgres: the dashboard is needed most when Redis is down.
//!
//! The cookie carries a random token, the table its hash. A session ends after 30 minutes without a request of its
//! operator, and after 12 hours in any case.

use chrono::{DateTime, Duration, Utc};
use rand::RngCore;
use sha2::{Digest, Sha256};
use sqlx::PgPool;

use super::{Operator, Role};
use crate::db::Tx;

/// The end of a session that nobody uses.
pub const IDLE: Duration = Duration::minutes(30);
/// The end of any session.
pub const LONGEST: Duration = Duration::hours(12);
/// A request moves the idle time-out on, but not more often than this.
const TOUCH_AFTER: Duration = Duration::seconds(30);

/// A session just opened.
#[derive(Clone, Debug)]
pub struct Opened {
    /// For the cookie, or as a bearer token.
    pub token: String,
    /// Goes with every form.
    pub csrf: String,
}

/// A session that holds.
#[derive(Clone, Debug)]
pub struct Session {
    /// Whose.
    pub operator: Operator,
    /// Goes with every form.
    pub csrf: String,
    last_seen_at: DateTime<Utc>,
}

/// Opens a session, and forgets those that have ended.
///
/// # Errors
/// Postgres could not be reached.
pub async fn open(tx: &mut Tx, operator: &Operator) -> Result<Opened, sqlx::Error> {
    let now = tx.now();
    let opened = Opened {
        token: random_hex(),
        csrf: random_hex(),
    };
    sqlx::query!("DELETE FROM operator_sessions WHERE last_seen_at < $1", now - LONGEST)
        .execute(tx.conn())
        .await?;
    sqlx::query!(
        "INSERT INTO operator_sessions (token_hash, operator_id, csrf, created_at, last_seen_at) VALUES ($1, $2, $3, $4, $4)",
        hash(&opened.token),
        operator.id,
        opened.csrf,
        now
    )
    .execute(tx.conn())
    .await?;
    Ok(opened)
}

/// The session of a token, if it has not ended.
///
/// # Errors
/// Postgres could not be reached.
pub async fn find(pool: &PgPool, token: &str, now: DateTime<Utc>) -> Result<Option<Session>, sqlx::Error> {
    let row = sqlx::query!(
        "SELECT s.csrf, s.last_seen_at, o.id, o.email, o.role, o.totp_confirmed
         FROM operator_sessions s JOIN operators o ON o.id = s.operator_id
         WHERE s.token_hash = $1 AND s.last_seen_at > $2 AND s.created_at > $3 AND o.disabled_at IS NULL",
        hash(token),
        now - IDLE,
        now - LONGEST
    )
    .fetch_optional(pool)
    .await?;
    row.map(|row| {
        Ok(Session {
            operator: Operator {
                id: row.id,
                email: row.email,
                role: Role::by_name(&row.role)?,
                has_totp: row.totp_confirmed,
            },
            csrf: row.csrf,
            last_seen_at: row.last_seen_at,
        })
    })
    .transpose()
}

/// Notes that the operator did something. A page that refreshes itself does not count.
///
/// # Errors
/// Postgres could not be reached.
pub async fn touch(pool: &PgPool, token: &str, session: &Session, now: DateTime<Utc>) -> Result<(), sqlx::Error> {
    if now - session.last_seen_at < TOUCH_AFTER {
        return Ok(());
    }
    sqlx::query!(
        "UPDATE operator_sessions SET last_seen_at = $2 WHERE token_hash = $1",
        hash(token),
        now
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Ends a session.
///
/// # Errors
/// Postgres could not be reached.
pub async fn end(pool: &PgPool, token: &str) -> Result<(), sqlx::Error> {
    sqlx::query!("DELETE FROM operator_sessions WHERE token_hash = $1", hash(token))
        .execute(pool)
        .await?;
    Ok(())
}

fn random_hex() -> String {
    let mut bytes = [0_u8; 32];
    rand::rng().fill_bytes(&mut bytes);
    hex::encode(bytes)
}

fn hash(token: &str) -> Vec<u8> {
    Sha256::digest(token.as_bytes()).to_vec()
}
