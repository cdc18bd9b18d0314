//! The users table.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

use super::{Role, User};

struct Row {
    id: Uuid,
    email: String,
    full_name: String,
    role: String,
    locale: String,
    email_verified_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl Row {
    fn into_user(self) -> Result<User, sqlx::Error> {
        let role = Role::by_name(&self.role)
            .ok_or_else(|| sqlx::Error::Decode(format!("unknown role {}", self.role).into()))?;
        Ok(User {
            id: self.id,
            email: self.email,
            full_name: self.full_name,
            role,
            locale: self.locale,
            email_verified_at: self.email_verified_at,
            created_at: self.created_at,
            updated_at: self.updated_at,
        })
    }
}

pub(super) async fn insert(conn: &mut PgConnection, user: &User, password_hash: &str) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO users (id, email, password_hash, full_name, role, locale, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $7)",
        user.id,
        user.email,
        password_hash,
        user.full_name,
        user.role.name(),
        user.locale,
        user.created_at,
    )
    .execute(conn)
    .await?;
    Ok(())
}

pub(super) async fn find(conn: impl PgExecutor<'_>, id: Uuid) -> Result<Option<User>, sqlx::Error> {
    sqlx::query_as!(
        Row,
        "SELECT id, email, full_name, role, locale, email_verified_at, created_at, updated_at
         FROM users WHERE id = $1 AND deleted_at IS NULL",
        id,
    )
    .fetch_optional(conn)
    .await?
    .map(Row::into_user)
    .transpose()
}

pub(super) async fn find_many(conn: impl PgExecutor<'_>, ids: &[Uuid]) -> Result<Vec<User>, sqlx::Error> {
    let rows = sqlx::query_as!(
        Row,
        "SELECT id, email, full_name, role, locale, email_verified_at, created_at, updated_at
         FROM users WHERE id = ANY($1) AND deleted_at IS NULL",
        ids,
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(Row::into_user).collect()
}

/// The id and password hash that sign in with `email`.
pub(super) async fn credentials(conn: impl PgExecutor<'_>, email: &str) -> Result<Option<(Uuid, String)>, sqlx::Error> {
    let row = sqlx::query!(
        "SELECT id, password_hash FROM users WHERE email = $1 AND deleted_at IS NULL",
        email,
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| (row.id, row.password_hash)))
}

pub(super) async fn password_hash(conn: impl PgExecutor<'_>, id: Uuid) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar!(
        "SELECT password_hash FROM users WHERE id = $1 AND deleted_at IS NULL",
        id
    )
    .fetch_optional(conn)
    .await
}

pub(super) async fn update(
    conn: &mut PgConnection,
    id: Uuid,
    full_name: Option<&str>,
    locale: Option<&str>,
    becomes_host: bool,
    now: DateTime<Utc>,
) -> Result<Option<User>, sqlx::Error> {
    sqlx::query_as!(
        Row,
        "UPDATE users SET full_name = coalesce($2, full_name), locale = coalesce($3, locale), updated_at = $4,
                          role = CASE WHEN $5 THEN 'host' ELSE role END
         WHERE id = $1 AND deleted_at IS NULL
         RETURNING id, email, full_name, role, locale, email_verified_at, created_at, updated_at",
        id,
        full_name,
        locale,
        now,
        becomes_host,
    )
    .fetch_optional(conn)
    .await?
    .map(Row::into_user)
    .transpose()
}

/// Swaps the password, unless somebody else swapped it first.
pub(super) async fn update_password(
    conn: &mut PgConnection,
    id: Uuid,
    old_hash: &str,
    new_hash: &str,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let updated = sqlx::query!(
        "UPDATE users SET password_hash = $3, updated_at = $4
         WHERE id = $1 AND password_hash = $2 AND deleted_at IS NULL",
        id,
        old_hash,
        new_hash,
        now,
    )
    .execute(conn)
    .await?;
    Ok(updated.rows_affected() == 1)
}

pub(super) async fn set_moderator(
    conn: impl PgExecutor<'_>,
    email: &str,
    moderates: bool,
) -> Result<bool, sqlx::Error> {
    let updated = sqlx::query!(
        "UPDATE users SET is_moderator = $2 WHERE email = $1 AND deleted_at IS NULL",
        email,
        moderates,
    )
    .execute(conn)
    .await?;
    Ok(updated.rows_affected() == 1)
}

pub(super) async fn mark_verified(
    conn: &mut PgConnection,
    id: Uuid,
    email: &str,
    now: DateTime<Utc>,
) -> Result<Option<User>, sqlx::Error> {
    sqlx::query_as!(
        Row,
        "UPDATE users SET email_verified_at = coalesce(email_verified_at, $3), updated_at = $3
         WHERE id = $1 AND email = $2 AND deleted_at IS NULL
         RETURNING id, email, full_name, role, locale, email_verified_at, created_at, updated_at",
        id,
        email,
        now,
    )
    .fetch_optional(conn)
    .await?
    .map(Row::into_user)
    .transpose()
}

/// Locks the account's row against new bookings, which refer to it.
pub(super) async fn lock(conn: &mut PgConnection, id: Uuid) -> Result<bool, sqlx::Error> {
    let row = sqlx::query!(
        "SELECT id FROM users WHERE id = $1 AND deleted_at IS NULL FOR UPDATE",
        id
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.is_some())
}

/// The role of an account, which keeps it from being deleted until the transaction ends.
pub(super) async fn lock_role(conn: &mut PgConnection, id: Uuid) -> Result<Option<Role>, sqlx::Error> {
    let role: Option<String> = sqlx::query_scalar!(
        "SELECT role FROM users WHERE id = $1 AND deleted_at IS NULL FOR KEY SHARE",
        id
    )
    .fetch_optional(conn)
    .await?;
    role.map(|role| Role::by_name(&role).ok_or_else(|| sqlx::Error::Decode(format!("unknown role {role}").into())))
        .transpose()
}

/// Where the day ends last: UTC-12.
const LAST_ZONE: TimeDelta = TimeDelta::hours(12);

/// Whether a payment is on its way or nights are still to come. A stay that is over wherever on earth it was is not
/// open, whether or not anybody checked out.
pub(super) async fn has_open_bookings(
    conn: &mut PgConnection,
    id: Uuid,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT 1 FROM bookings
                          WHERE (guest_id = $1 OR host_id = $1)
                            AND (state IN ('held', 'pending_approval')
                                 OR state IN ('confirmed', 'checked_in') AND upper(stay) > $2)) AS "open!""#,
        id,
        (now - LAST_ZONE).date_naive(),
    )
    .fetch_one(conn)
    .await
}

pub(super) async fn erase(conn: &mut PgConnection, id: Uuid, now: DateTime<Utc>) -> Result<(), sqlx::Error> {
    sqlx::query!("DELETE FROM email_verifications WHERE user_id = $1", id)
        .execute(&mut *conn)
        .await?;
    sqlx::query!("DELETE FROM notifications WHERE user_id = $1", id)
        .execute(&mut *conn)
        .await?;
    sqlx::query!("DELETE FROM notification_preferences WHERE user_id = $1", id)
        .execute(&mut *conn)
        .await?;
    sqlx::query!(
        "UPDATE users SET email = '', password_hash = '', full_name = '', locale = 'en', email_verified_at = NULL,
                          is_moderator = false, updated_at = $2, deleted_at = $2
         WHERE id = $1",
        id,
        now,
    )
    .execute(conn)
    .await?;
    Ok(())
}
