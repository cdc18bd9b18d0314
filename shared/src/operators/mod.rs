//! Operators: who works at the job dashboard, with which rights, and how they sign in.
//!
//! There is nobody until `roost-api ops create-admin` makes the first. [`accounts`] changes them later, [`own`] is what they
//! change about themselves, [`sessions`] are cookies, [`sign_ins`] bounds how fast one can guess, [`audit`] is what they
//! did, [`authenticators`] show codes, [`SealingKeys`] keep the secrets of those.

pub mod accounts;
pub mod audit;
pub mod authenticators;
pub mod own;
mod sealing;
pub mod sessions;
pub mod sign_ins;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use uuid::Uuid;

use crate::db::{Tx, violated_constraint};
use crate::ids;
use crate::users::{PasswordError, Passwords, normalise_email};

pub use authenticators::code_at;
pub use sealing::{SealingKeys, seal_all};

/// Shortest password of an operator, in characters.
pub const SHORTEST_PASSWORD: usize = 12;
const LONGEST_PASSWORD: usize = 128;

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

/// An operator who has given the right password and code, as the row was then. [`sessions::open`] looks again.
#[derive(Clone)]
pub struct Authenticated {
    /// Who.
    pub operator: Operator,
    password_hash: String,
    totp_secret: Option<String>,
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
    /// There is no secret to confirm, or no more.
    #[error("there is no new authenticator to confirm: begin again")]
    NothingToConfirm,
    /// There is none to remove.
    #[error("no authenticator is set up")]
    NoAuthenticator,
    /// What was given as the present password is another one.
    #[error("the current password is not right")]
    WrongPassword,
    /// Neither shows that it is them.
    #[error("that is neither your password nor a code of your authenticator that was not used before")]
    NotProven,
    /// They have no such session.
    #[error("there is no such session")]
    NoSuchSession,
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
) -> Result<Option<Authenticated>, OperatorError> {
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
        let stored = row.totp_secret.as_deref().unwrap_or_default();
        let step = keys
            .open(row.id, stored)
            .and_then(|opened| authenticators::matching_step(&opened.secret, &row.email, code, now));
        let step = step.unwrap_or_else(|error| {
            // As a wrong code: a reply of its own would tell that the password is right.
            tracing::error!(operator_id = %row.id, %error, "an operator cannot sign in with their authenticator");
            None
        });
        let Some(step) = step else {
            return Ok(None);
        };
        if !authenticators::spend_step(pool, row.id, step).await? {
            return Ok(None);
        }
    }
    let operator = Operator {
        id: row.id,
        role: Role::by_name(&row.role)?,
        email: row.email,
        has_totp: row.totp_confirmed,
    };
    Ok(Some(Authenticated {
        operator,
        password_hash: row.password_hash,
        totp_secret: row.totp_secret,
    }))
}

/// Whether there is an operator of this address, disabled or not.
///
/// # Errors
/// Postgres could not be reached.
pub async fn is_known(tx: &mut Tx, email: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM operators WHERE email = $1) AS "is!""#,
        email
    )
    .fetch_one(tx.conn())
    .await
}
