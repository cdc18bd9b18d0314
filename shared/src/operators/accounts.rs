//! What becomes of an operator after the first day: kept out, let in again, another role, password or authenticator.
//! Each change is written to the audit log and ends the operator's sessions, in one transaction.

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::PgPool;
use uuid::Uuid;

use super::audit::{self, Entry};
use super::{NewPassword, Operator, OperatorError, Role};
use crate::db::Tx;

/// An operator, and whether they are kept out.
#[derive(Clone, Debug)]
pub struct Account {
    /// Who.
    pub operator: Operator,
    /// Since when they may not sign in.
    pub disabled_at: Option<DateTime<Utc>>,
}

struct Row {
    id: Uuid,
    email: String,
    role: String,
    totp_confirmed: bool,
    disabled_at: Option<DateTime<Utc>>,
}

impl TryFrom<Row> for Account {
    type Error = sqlx::Error;

    fn try_from(row: Row) -> Result<Self, sqlx::Error> {
        Ok(Self {
            operator: Operator {
                id: row.id,
                role: Role::by_name(&row.role)?,
                email: row.email,
                has_totp: row.totp_confirmed,
            },
            disabled_at: row.disabled_at,
        })
    }
}

/// Everybody, by address.
///
/// # Errors
/// Postgres could not be reached.
pub async fn list(pool: &PgPool) -> Result<Vec<Account>, sqlx::Error> {
    let rows = sqlx::query_as!(
        Row,
        "SELECT id, email, role, totp_confirmed, disabled_at FROM operators ORDER BY email"
    )
    .fetch_all(pool)
    .await?;
    rows.into_iter().map(Account::try_from).collect()
}

/// The operator of this address, locked.
async fn lock(tx: &mut Tx, email: &str) -> Result<Account, OperatorError> {
    let email = email.trim().to_ascii_lowercase();
    let row = sqlx::query_as!(
        Row,
        "SELECT id, email, role, totp_confirmed, disabled_at FROM operators WHERE email = $1 FOR UPDATE",
        email
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(OperatorError::NoSuchOperator(email))?;
    Ok(row.try_into()?)
}

/// Locks all active admins, so that two who go at the same time do not each count on the other.
async fn lock_admins(tx: &mut Tx) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!("SELECT id FROM operators WHERE role = 'admin' AND disabled_at IS NULL ORDER BY id FOR UPDATE")
        .fetch_all(tx.conn())
        .await
}

async fn end_sessions(tx: &mut Tx, operator: &Operator) -> Result<(), sqlx::Error> {
    sqlx::query!("DELETE FROM operator_sessions WHERE operator_id = $1", operator.id)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Keeps an operator out, or lets them in again.
///
/// # Errors
/// [`OperatorError::NoSuchOperator`], [`OperatorError::LastAdmin`].
pub async fn set_disabled(tx: &mut Tx, email: &str, disabled: bool, by: &str) -> Result<Operator, OperatorError> {
    let admins = lock_admins(tx).await?;
    let Account { operator, disabled_at } = lock(tx, email).await?;
    if disabled && admins == [operator.id] {
        return Err(OperatorError::LastAdmin(operator.email));
    }
    let now = tx.now();
    // Somebody who is kept out already has been since then.
    let since = disabled.then(|| disabled_at.unwrap_or(now));
    sqlx::query!(
        "UPDATE operators SET disabled_at = $2 WHERE id = $1",
        operator.id,
        since
    )
    .execute(tx.conn())
    .await?;
    end_sessions(tx, &operator).await?;
    let action = if disabled {
        "operator.disable"
    } else {
        "operator.enable"
    };
    let entry = Entry::new(by, action, &operator.email)
        .before(json!({"disabled_at": disabled_at}))
        .after(json!({"disabled_at": since}));
    audit::append(tx, entry).await?;
    Ok(operator)
}

/// Gives an operator another role.
///
/// # Errors
/// [`OperatorError::NoSuchOperator`], [`OperatorError::LastAdmin`].
pub async fn set_role(tx: &mut Tx, email: &str, role: Role, by: &str) -> Result<Operator, OperatorError> {
    let admins = lock_admins(tx).await?;
    let Account { mut operator, .. } = lock(tx, email).await?;
    if role != Role::Admin && admins == [operator.id] {
        return Err(OperatorError::LastAdmin(operator.email));
    }
    sqlx::query!("UPDATE operators SET role = $2 WHERE id = $1", operator.id, role.name())
        .execute(tx.conn())
        .await?;
    end_sessions(tx, &operator).await?;
    let entry = Entry::new(by, "operator.role", &operator.email)
        .before(json!({"role": operator.role.name()}))
        .after(json!({"role": role.name()}));
    audit::append(tx, entry).await?;
    operator.role = role;
    Ok(operator)
}

/// Gives an operator another password. Their authenticator stays.
///
/// # Errors
/// [`OperatorError::NoSuchOperator`].
pub async fn set_password(
    tx: &mut Tx,
    email: &str,
    password: NewPassword,
    by: &str,
) -> Result<Operator, OperatorError> {
    let Account { operator, .. } = lock(tx, email).await?;
    sqlx::query!(
        "UPDATE operators SET password_hash = $2 WHERE id = $1",
        operator.id,
        password.hash
    )
    .execute(tx.conn())
    .await?;
    end_sessions(tx, &operator).await?;
    audit::append(tx, Entry::new(by, "operator.password", &operator.email)).await?;
    Ok(operator)
}

/// Forgets an operator's authenticator, which is lost or cannot be opened: they sign in with the password alone until
/// they set up another one.
///
/// # Errors
/// [`OperatorError::NoSuchOperator`].
pub async fn forget_totp(tx: &mut Tx, email: &str, by: &str) -> Result<Operator, OperatorError> {
    let Account { mut operator, .. } = lock(tx, email).await?;
    sqlx::query!(
        "UPDATE operators SET totp_secret = NULL, totp_confirmed = false, totp_pending = NULL, totp_pending_at = NULL
         WHERE id = $1",
        operator.id
    )
    .execute(tx.conn())
    .await?;
    end_sessions(tx, &operator).await?;
    audit::append(tx, Entry::new(by, "operator.totp_off", &operator.email)).await?;
    operator.has_totp = false;
    Ok(operator)
}
