//! Operators: who works at the job dashboard, with which rights, and how they sign in.
//!
//! There is nobody until `roost-api ops create-admin` makes the first. [`accounts`] changes them later, [`sessions`] are
//! cookies, [`sign_ins`] bounds how fast one can guess, [`audit`] is what they did, [`SealingKeys`] keep the secrets of
//! their authenticators.

pub mod accounts;
pub mod audit;
mod sealing;
pub mod sessions;
pub mod sign_ins;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use totp_rs::{Builder, Secret, Totp};
use uuid::Uuid;

use crate::db::{Tx, violated_constraint};
use crate::ids;
use crate::users::{PasswordError, Passwords, normalise_email};

pub use sealing::{SealingKeys, seal_all};

/// Shortest password of an operator, in characters.
pub const SHORTEST_PASSWORD: usize = 12;
const LONGEST_PASSWORD: usize = 128;
/// RFC 6238's proposal of 160 bits.
const TOTP_SECRET_BYTES: usize = 20;

/// What an operator may do. Each may do all that the one before may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Look at everything.
    Viewer,
    /// Retry, run, cancel, pause and resume.
    Operator,
    /// Delete jobs, edit their arguments, make operators.
    Admin,
}

impl Role {
    /// The name in Postgres and on pages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    fn by_name(name: &str) -> Result<Self, sqlx::Error> {
        [Self::Viewer, Self::Operator, Self::Admin]
            .into_iter()
            .find(|role| role.name() == name)
            .ok_or_else(|| sqlx::Error::Decode(format!("unknown role {name}").into()))
    }
}

/// Somebody who works at the dashboard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    /// The operator.
    pub id: Uuid,
    /// What they sign in with, and how the audit log names them.
    pub email: String,
    /// What they may do.
    pub role: Role,
    /// Whether signing in takes a code as well.
    pub has_totp: bool,
}

/// Why an operation on operators is refused.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// Not an address.
    #[error("{0:?} is not an e-mail address")]
    InvalidEmail(String),
    /// Outside 12 to 128 characters.
    #[error("the password needs {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters")]
    InvalidPassword,
    /// There is no operator of that address.
    #[error("there is no operator with the address {0}")]
    NoSuchOperator(String),
    /// Nobody would be left to make operators or to delete jobs at the dashboard.
    #[error("{0} is the last active admin: make another one first")]
    LastAdmin(String),
    /// There is an operator of that address.
    #[error("there is an operator with this e-mail address already")]
    EmailTaken,
    /// The code is of another secret, of another time, or was used before.
    #[error("the code is not right")]
    WrongCode,
    /// There is no secret to confirm.
    #[error("there is no new authenticator to confirm")]
    NothingToConfirm,
    /// The stored secret is damaged.
    #[error("the authenticator's secret cannot be used: {0}")]
    Totp(String),
    /// A password could be neither hashed nor checked.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// Postgres refused or could not be reached.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// A password that is long enough, hashed before the transaction begins.
#[derive(Clone)]
pub struct NewPassword {
    hash: String,
}

impl NewPassword {
    /// Checks and hashes.
    ///
    /// # Errors
    /// [`OperatorError::InvalidPassword`].
    pub async fn new(passwords: &Passwords, password: String) -> Result<Self, OperatorError> {
        if !(SHORTEST_PASSWORD..=LONGEST_PASSWORD).contains(&password.chars().count()) {
            return Err(OperatorError::InvalidPassword);
        }
        let hash = passwords.hash(password).await?;
        Ok(Self { hash })
    }
}

/// What a new operator is made of.
#[derive(Clone)]
pub struct NewOperator {
    email: String,
    password: NewPassword,
    role: Role,
}

impl NewOperator {
    /// Checks and hashes.
    ///
    /// # Errors
    /// [`OperatorError::InvalidEmail`], [`OperatorError::InvalidPassword`].
    pub async fn new(passwords: &Passwords, email: &str, password: String, role: Role) -> Result<Self, OperatorError> {
        let email = normalise_email(email.trim()).ok_or_else(|| OperatorError::InvalidEmail(email.to_owned()))?;
        let password = NewPassword::new(passwords, password).await?;
        Ok(Self { email, password, role })
    }
}

/// Makes an operator.
///
/// # Errors
/// [`OperatorError::EmailTaken`].
pub async fn create(tx: &mut Tx, new: NewOperator, by: &str) -> Result<Operator, OperatorError> {
    let now = tx.now();
    let operator = Operator {
        id: ids::new(now),
        email: new.email,
        role: new.role,
        has_totp: false,
    };
    sqlx::query!(
        "INSERT INTO operators (id, email, role, password_hash, created_at) VALUES ($1, $2, $3, $4, $5)",
        operator.id,
        operator.email,
        operator.role.name(),
        new.password.hash,
        now
    )
    .execute(tx.conn())
    .await
    .map_err(|error| match violated_constraint(&error) {
        Some("operators_email_unique") => OperatorError::EmailTaken,
        _ => OperatorError::Database(error),
    })?;
    let entry = audit::Entry::new(by, "operator.create", &operator.email)
        .after(serde_json::json!({"role": operator.role.name()}));
    audit::append(tx, entry).await?;
    Ok(operator)
}

/// The operator who signs in with this address, password and, once an authenticator is set up, code. None if any of
/// them is wrong, after the same time.
///
/// # Errors
/// Too many passwords are being checked, or Postgres could not be reached.
pub async fn authenticate(
    pool: &PgPool,
    passwords: &Passwords,
    keys: &SealingKeys,
    email: &str,
    password: String,
    code: &str,
    now: DateTime<Utc>,
) -> Result<Option<Operator>, OperatorError> {
    let row = sqlx::query!(
        "SELECT id, email, role, password_hash, totp_secret, totp_confirmed FROM operators WHERE email = $1 AND disabled_at IS NULL",
        email.trim().to_ascii_lowercase()
    )
    .fetch_optional(pool)
    .await?;
    let stored = row.as_ref().map(|row| row.password_hash.clone());
    let matches = passwords.verify(password, stored).await?;
    let Some(row) = row.filter(|_| matches) else {
        return Ok(None);
    };
    if row.totp_confirmed {
        let opened = keys.open(row.id, row.totp_secret.as_deref().unwrap_or_default())?;
        let Some(step) = matching_step(&opened.secret, &row.email, code, now)? else {
            return Ok(None);
        };
        if !spend_step(pool, row.id, step).await? {
            return Ok(None);
        }
    }
    Ok(Some(Operator {
        id: row.id,
        role: Role::by_name(&row.role)?,
        email: row.email,
        has_totp: row.totp_confirmed,
    }))
}

/// A code is good once: the step of time that it is of is used up.
async fn spend_step(pool: &PgPool, id: Uuid, step: i64) -> Result<bool, sqlx::Error> {
    let spent = sqlx::query!(
        "UPDATE operators SET totp_step = $2 WHERE id = $1 AND totp_step < $2",
        id,
        step
    )
    .execute(pool)
    .await?;
    Ok(spent.rows_affected() == 1)
}

/// A new authenticator, to be confirmed with a code of it.
#[derive(Clone, Debug)]
pub struct Enrolment {
    /// Base32, for typing.
    pub secret: String,
    /// `otpauth://…`, for the authenticator's link or picture.
    pub url: String,
}

/// Begins to set up an authenticator; nothing is asked for at sign-in until it is confirmed. An unconfirmed one is
/// shown again.
///
/// # Errors
/// The operator has one already ([`OperatorError::NothingToConfirm`]).
pub async fn begin_totp(tx: &mut Tx, keys: &SealingKeys, operator: &Operator) -> Result<Enrolment, OperatorError> {
    let stored = sqlx::query_scalar!(
        "SELECT totp_secret FROM operators WHERE id = $1 AND NOT totp_confirmed FOR UPDATE",
        operator.id
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(OperatorError::NothingToConfirm)?;
    let secret = if let Some(stored) = stored {
        keys.open(operator.id, &stored)?.secret
    } else {
        let mut bytes = [0_u8; TOTP_SECRET_BYTES];
        rand::RngCore::fill_bytes(&mut rand::rng(), &mut bytes);
        let fresh = Secret::from(bytes.as_slice()).to_base32();
        sqlx::query!(
            "UPDATE operators SET totp_secret = $2 WHERE id = $1",
            operator.id,
            keys.seal(operator.id, &fresh)?
        )
        .execute(tx.conn())
        .await?;
        fresh
    };
    let url = totp(&secret, &operator.email)?
        .to_url()
        .map_err(|error| OperatorError::Totp(error.to_string()))?;
    Ok(Enrolment { secret, url })
}

/// Ends the set-up: from now on signing in takes a code.
///
/// # Errors
/// [`OperatorError::WrongCode`], [`OperatorError::NothingToConfirm`].
pub async fn confirm_totp(
    tx: &mut Tx,
    keys: &SealingKeys,
    operator: &Operator,
    code: &str,
) -> Result<(), OperatorError> {
    let now = tx.now();
    let stored = sqlx::query_scalar!(
        "SELECT totp_secret FROM operators WHERE id = $1 AND NOT totp_confirmed FOR UPDATE",
        operator.id
    )
    .fetch_optional(tx.conn())
    .await?
    .flatten()
    .ok_or(OperatorError::NothingToConfirm)?;
    let opened = keys.open(operator.id, &stored)?;
    let step = matching_step(&opened.secret, &operator.email, code, now)?.ok_or(OperatorError::WrongCode)?;
    sqlx::query!(
        "UPDATE operators SET totp_confirmed = true, totp_step = $2 WHERE id = $1",
        operator.id,
        step
    )
    .execute(tx.conn())
    .await?;
    audit::append(
        tx,
        audit::Entry::new(&operator.email, "operator.totp_on", &operator.email),
    )
    .await?;
    Ok(())
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

fn matching_step(secret: &str, account: &str, code: &str, now: DateTime<Utc>) -> Result<Option<i64>, OperatorError> {
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
