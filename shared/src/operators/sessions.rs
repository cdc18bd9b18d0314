//! Sessions of operators, in Postgres: the dashboard is needed most when Redis is down.
//!
//! The cookie carries a random token, the table its hash. A session ends after 30 minutes without a request of its
//! operator, and after 12 hours in any case.

use chrono::{DateTime, Duration, Utc};
use rand::RngCore;
use serde_json::json;
use sha2::{Digest, Sha256};
use sqlx::PgPool;
use uuid::Uuid;

use super::audit::{self, Entry};
use super::{Authenticated, Operator, OperatorError, Role};
use crate::db::Tx;
use crate::sessions::Origin;

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
    /// Names it, and opens nothing.
    pub id: Uuid,
    /// Whose.
    pub operator: Operator,
    /// Goes with every form.
    pub csrf: String,
    last_seen_at: DateTime<Utc>,
}

/// Opens a session, and forgets those that have ended. None: the operator was given another password or role meanwhile, or
/// disabled, which ended the sessions that there were.
///
/// # Errors
/// Postgres could not be reached.
pub async fn open(tx: &mut Tx, authenticated: &Authenticated, from: Origin) -> Result<Option<Opened>, sqlx::Error> {
    let now = tx.now();
    let operator = &authenticated.operator;
    // Locked, so that such a change waits, and ends this session too.
    let same = sqlx::query_scalar!(
        r#"SELECT 1 AS "one!" FROM operators
           WHERE id = $1 AND password_hash = $2 AND role = $3 AND totp_confirmed = $4
               AND totp_secret IS NOT DISTINCT FROM $5 AND disabled_at IS NULL FOR SHARE"#,
        operator.id,
        authenticated.password_hash,
        operator.role.name(),
        operator.has_totp,
        authenticated.totp_secret
    )
    .fetch_optional(tx.conn())
    .await?;
    if same.is_none() {
        return Ok(None);
    }
    let opened = Opened {
        token: random_hex(),
        csrf: random_hex(),
    };
    sqlx::query!("DELETE FROM operator_sessions WHERE last_seen_at < $1", now - LONGEST)
        .execute(tx.conn())
        .await?;
    sqlx::query!(
        "INSERT INTO operator_sessions (token_hash, operator_id, csrf, created_at, last_seen_at, ip, user_agent)
         VALUES ($1, $2, $3, $4, $4, $5, $6)",
        hash(&opened.token),
        operator.id,
        opened.csrf,
        now,
        from.ip,
        from.user_agent
    )
    .execute(tx.conn())
    .await?;
    Ok(Some(opened))
}

/// The session of a token, if it has not ended.
///
/// # Errors
/// Postgres could not be reached.
pub async fn find(pool: &PgPool, token: &str, now: DateTime<Utc>) -> Result<Option<Session>, sqlx::Error> {
    let row = sqlx::query!(
        "SELECT s.id AS session_id, s.csrf, s.last_seen_at, o.id, o.email, o.role, o.totp_confirmed
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
            id: row.session_id,
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

/// Ends a session. False: it had ended.
///
/// # Errors
/// Postgres could not be reached.
pub async fn end(tx: &mut Tx, token: &str) -> Result<bool, sqlx::Error> {
    let ended = sqlx::query!("DELETE FROM operator_sessions WHERE token_hash = $1", hash(token))
        .execute(tx.conn())
        .await?;
    Ok(ended.rows_affected() > 0)
}

/// A session as its operator sees it in the list of theirs.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Names it.
    pub id: Uuid,
    /// When they signed in.
    pub created_at: DateTime<Utc>,
    /// The last request, to half a minute.
    pub last_seen_at: DateTime<Utc>,
    /// Where they signed in from, if it is known.
    pub ip: Option<String>,
    /// By which program.
    pub user_agent: Option<String>,
}

/// The operator's sessions that have not ended, the last used first.
///
/// # Errors
/// Postgres could not be reached.
pub async fn list(pool: &PgPool, operator: &Operator, now: DateTime<Utc>) -> Result<Vec<Listed>, sqlx::Error> {
    sqlx::query_as!(
        Listed,
        "SELECT id, created_at, last_seen_at, ip, user_agent FROM operator_sessions
         WHERE operator_id = $1 AND last_seen_at > $2 AND created_at > $3 ORDER BY last_seen_at DESC, id",
        operator.id,
        now - IDLE,
        now - LONGEST
    )
    .fetch_all(pool)
    .await
}

/// Ends one of the operator's own sessions and writes it to the audit log.
///
/// # Errors
/// [`OperatorError::NoSuchSession`]: it has ended, or is somebody else's.
pub async fn end_own(tx: &mut Tx, operator: &Operator, id: Uuid) -> Result<(), OperatorError> {
    let ended = sqlx::query!(
        "DELETE FROM operator_sessions WHERE id = $1 AND operator_id = $2 RETURNING created_at, ip",
        id,
        operator.id
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(OperatorError::NoSuchSession)?;
    let entry = Entry::new(&operator.email, "operator.session_end", &operator.email)
        .before(json!({"signed_in_at": ended.created_at, "ip": ended.ip}));
    audit::append(tx, entry).await?;
    Ok(())
}

/// Ends all sessions of the operator but this one.
pub(super) async fn end_others(tx: &mut Tx, kept: &Session) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "DELETE FROM operator_sessions WHERE operator_id = $1 AND id <> $2",
        kept.operator.id,
        kept.id
    )
    .execute(tx.conn())
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
