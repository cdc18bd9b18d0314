//! What operators change about themselves. Whoever finds a session open at a desk changes nothing with it alone: the
//! password, or a code of the authenticator, is asked for again.

use std::fmt;

use chrono::{DateTime, Utc};
use sqlx::PgPool;
use uuid::Uuid;

use super::audit::{self, Entry};
use super::authenticators::{matching_step, spend_step};
use super::sessions::{self, Session};
use super::{NewPassword, Operator, OperatorError, SealingKeys};
use crate::db::Tx;
use crate::users::Passwords;

/// How many digits a code has. No password is so short.
const CODE_DIGITS: usize = 6;

/// An operator who has just shown that it is them.
pub struct Proven(By);

enum By {
    /// By the password of this hash.
    Password(String),
    /// By a code of this step of time.
    Code(i64),
}

impl fmt::Debug for Proven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Proven")
    }
}

impl Proven {
    /// By the present password alone.
    ///
    /// # Errors
    /// [`OperatorError::WrongPassword`].
    pub async fn by_password(
        pool: &PgPool,
        passwords: &Passwords,
        operator: &Operator,
        password: String,
    ) -> Result<Self, OperatorError> {
        let stored = sqlx::query_scalar!("SELECT password_hash FROM operators WHERE id = $1", operator.id)
            .fetch_one(pool)
            .await?;
        if passwords.verify(password, Some(stored.clone())).await? {
            Ok(Self(By::Password(stored)))
        } else {
            Err(OperatorError::WrongPassword)
        }
    }

    /// By the present password or, with an authenticator, by a code of it.
    ///
    /// # Errors
    /// [`OperatorError::NotProven`].
    pub async fn by_password_or_code(
        pool: &PgPool,
        passwords: &Passwords,
        keys: &SealingKeys,
        operator: &Operator,
        given: String,
        now: DateTime<Utc>,
    ) -> Result<Self, OperatorError> {
        if !is_code(&given) {
            let proven = Self::by_password(pool, passwords, operator, given).await;
            return proven.map_err(|error| match error {
                OperatorError::WrongPassword => OperatorError::NotProven,
                other => other,
            });
        }
        let stored = sqlx::query_scalar!(
            "SELECT totp_secret FROM operators WHERE id = $1 AND totp_confirmed",
            operator.id
        )
        .fetch_optional(pool)
        .await?
        .flatten()
        .ok_or(OperatorError::NotProven)?;
        // Sealed under a secret that is gone since: nothing shows who they are but the password.
        let opened = keys.open(operator.id, &stored).map_err(|_| OperatorError::NotProven)?;
        let step = matching_step(&opened.secret, &operator.email, &given, now)?;
        step.map(|step| Self(By::Code(step))).ok_or(OperatorError::NotProven)
    }

    /// What was shown still holds in this transaction: the password is the same, and nobody used the code meanwhile.
    pub(super) async fn hold(self, tx: &mut Tx, id: Uuid) -> Result<(), OperatorError> {
        let holds = match self.0 {
            By::Password(hash) => {
                let same = sqlx::query_scalar!(
                    "SELECT id FROM operators WHERE id = $1 AND password_hash = $2 FOR UPDATE",
                    id,
                    hash
                );
                same.fetch_optional(tx.conn()).await?.is_some()
            }
            By::Code(step) => spend_step(tx.conn(), id, step).await?,
        };
        if holds { Ok(()) } else { Err(OperatorError::NotProven) }
    }
}

fn is_code(given: &str) -> bool {
    let given = given.trim();
    given.len() == CODE_DIGITS && given.bytes().all(|byte| byte.is_ascii_digit())
}

/// Another password instead of the present one; ends the operator's other sessions.
///
/// # Errors
/// [`OperatorError::NotProven`] if it was changed meanwhile.
pub async fn change_password(
    tx: &mut Tx,
    session: &Session,
    proven: Proven,
    new: NewPassword,
) -> Result<(), OperatorError> {
    let operator = &session.operator;
    proven.hold(tx, operator.id).await?;
    sqlx::query!(
        "UPDATE operators SET password_hash = $2 WHERE id = $1",
        operator.id,
        new.hash
    )
    .execute(tx.conn())
    .await?;
    sessions::end_others(tx, session).await?;
    let entry = Entry::new(&operator.email, "operator.password", &operator.email);
    audit::append(tx, entry).await?;
    Ok(())
}
