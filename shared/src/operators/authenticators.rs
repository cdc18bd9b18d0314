//! Authenticators of operators (TOTP, RFC 6238): set up, replaced, removed, and the codes that they show. Each change is
//! written to the audit log and ends the operator's other sessions, in one transaction.

use chrono::{DateTime, Duration, Utc};
use sqlx::PgExecutor;
use totp_rs::{Builder, Secret, Totp};
use uuid::Uuid;

use super::audit::{self, Entry};
use super::own::Proven;
use super::sessions::{self, Session};
use super::{OperatorError, SealingKeys};
use crate::db::Tx;

/// RFC 6238's proposal of 160 bits.
const SECRET_BYTES: usize = 20;
/// How long a new authenticator waits for its first code.
pub const WAITS: Duration = Duration::minutes(15);

/// A new authenticator, to be confirmed with a code of it.
#[derive(Clone, Debug)]
pub struct Enrolment {
    /// Base32, for typing.
    pub secret: String,
    /// `otpauth://…`, for the authenticator's link or picture.
    pub url: String,
}

impl Enrolment {
    fn of(secret: String, account: &str) -> Result<Self, OperatorError> {
        let url = totp(&secret, account)?.to_url();
        let url = url.map_err(|error| OperatorError::Totp(error.to_string()))?;
        Ok(Self { secret, url })
    }
}

/// Begins to set up an authenticator, the first or another one. Nothing else is asked for at sign-in until it is confirmed,
/// within [`WAITS`].
///
/// # Errors
/// [`OperatorError::NotProven`].
pub async fn begin(
    tx: &mut Tx,
    keys: &SealingKeys,
    session: &Session,
    proven: Proven,
) -> Result<Enrolment, OperatorError> {
    let operator = &session.operator;
    proven.hold(tx, operator.id).await?;
    let mut bytes = [0_u8; SECRET_BYTES];
    rand::RngCore::fill_bytes(&mut rand::rng(), &mut bytes);
    let secret = Secret::from(bytes.as_slice()).to_base32();
    let now = tx.now();
    sqlx::query!(
        "UPDATE operators SET totp_pending = $2, totp_pending_at = $3 WHERE id = $1",
        operator.id,
        keys.seal(operator.id, &secret)?,
        now
    )
    .execute(tx.conn())
    .await?;
    Enrolment::of(secret, &operator.email)
}

/// The one that waits to be confirmed.
///
/// # Errors
/// Postgres could not be reached.
pub async fn waiting(
    executor: impl PgExecutor<'_>,
    keys: &SealingKeys,
    session: &Session,
    now: DateTime<Utc>,
) -> Result<Option<Enrolment>, OperatorError> {
    let operator = &session.operator;
    let stored = sqlx::query_scalar!(
        "SELECT totp_pending FROM operators WHERE id = $1 AND totp_pending_at > $2",
        operator.id,
        now - WAITS
    )
    .fetch_optional(executor)
    .await?
    .flatten();
    // Sealed under a secret that is gone since: it is begun again.
    let opened = stored.and_then(|stored| keys.open(operator.id, &stored).ok());
    opened
        .map(|opened| Enrolment::of(opened.secret, &operator.email))
        .transpose()
}

/// Ends the set-up: from now on signing in takes a code of this one, and of no other.
///
/// # Errors
/// [`OperatorError::WrongCode`], [`OperatorError::NothingToConfirm`].
pub async fn confirm(tx: &mut Tx, keys: &SealingKeys, session: &Session, code: &str) -> Result<(), OperatorError> {
    let operator = &session.operator;
    let now = tx.now();
    let replaced = sqlx::query_scalar!(
        "SELECT totp_confirmed FROM operators WHERE id = $1 FOR UPDATE",
        operator.id
    )
    .fetch_one(tx.conn())
    .await?;
    let enrolment = waiting(tx.conn(), keys, session, now).await?;
    let enrolment = enrolment.ok_or(OperatorError::NothingToConfirm)?;
    let step = matching_step(&enrolment.secret, &operator.email, code, now)?.ok_or(OperatorError::WrongCode)?;
    sqlx::query!(
        "UPDATE operators SET totp_secret = totp_pending, totp_confirmed = true, totp_step = $2, totp_pending = NULL,
             totp_pending_at = NULL
         WHERE id = $1",
        operator.id,
        step
    )
    .execute(tx.conn())
    .await?;
    sessions::end_others(tx, session).await?;
    let action = if replaced {
        "operator.totp_replace"
    } else {
        "operator.totp_on"
    };
    audit::append(tx, Entry::new(&operator.email, action, &operator.email)).await?;
    Ok(())
}

/// Removes the operator's own authenticator: they sign in with the password alone.
///
/// # Errors
/// [`OperatorError::NotProven`], [`OperatorError::NoAuthenticator`].
pub async fn remove(tx: &mut Tx, session: &Session, proven: Proven) -> Result<(), OperatorError> {
    let operator = &session.operator;
    proven.hold(tx, operator.id).await?;
    let removed = sqlx::query!(
        "UPDATE operators SET totp_secret = NULL, totp_confirmed = false, totp_pending = NULL, totp_pending_at = NULL
         WHERE id = $1 AND totp_confirmed",
        operator.id
    )
    .execute(tx.conn())
    .await?;
    if removed.rows_affected() == 0 {
        return Err(OperatorError::NoAuthenticator);
    }
    sessions::end_others(tx, session).await?;
    let entry = Entry::new(&operator.email, "operator.totp_off", &operator.email);
    audit::append(tx, entry).await?;
    Ok(())
}

/// A code is good once: the step of time that it is of is used up.
pub(super) async fn spend_step(executor: impl PgExecutor<'_>, id: Uuid, step: i64) -> Result<bool, sqlx::Error> {
    let spent = sqlx::query!(
        "UPDATE operators SET totp_step = $2 WHERE id = $1 AND totp_step < $2",
        id,
        step
    )
    .execute(executor)
    .await?;
    Ok(spent.rows_affected() == 1)
}

fn totp(secret: &str, account: &str) -> Result<Totp, OperatorError> {
    let secret = Secret::try_from_base32(secret).map_err(|error| OperatorError::Totp(error.to_string()))?;
    Builder::new()
        .with_secret(secret)
        .with_account_name(account)
        .with_issuer(Some("Roost"))
        .build()
        .map_err(|error| OperatorError::Totp(error.to_string()))
}

pub(super) fn matching_step(
    secret: &str,
    account: &str,
    code: &str,
    now: DateTime<Utc>,
) -> Result<Option<i64>, OperatorError> {
    let seconds = u64::try_from(now.timestamp()).unwrap_or(0);
    let step = totp(secret, account)?.check(code.trim(), seconds);
    Ok(step.and_then(|step| i64::try_from(step).ok()))
}

/// The code that an authenticator with this secret shows at `now`: for tests and for people without a telephone.
///
/// # Errors
/// The secret is not base32.
pub fn code_at(secret: &str, now: DateTime<Utc>) -> Result<String, OperatorError> {
    let seconds = u64::try_from(now.timestamp()).unwrap_or(0);
    Ok(totp(secret, "roost")?.generate(seconds).to_string())
}
