//! Accounts: registering, signing in, the profile, and leaving.
//!
//! Passwords are hashed before a transaction begins, never inside one. Sessions are [`crate::sessions`].

mod passwords;
mod store;
mod verification;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use uuid::Uuid;

use crate::db::{Tx, violated_constraint};
use crate::ids;
use crate::properties;

pub use passwords::{PasswordError, Passwords};
pub use verification::{
    LIFETIME as VERIFICATION_LIFETIME, create_verification, expires_at, resend_verification, verify_email,
};

/// What an account was made for. Both may book; a host may list properties.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Books stays.
    Guest,
    /// Lists properties, and books stays.
    Host,
}

impl Role {
    /// The name in Postgres and in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Guest => "guest",
            Self::Host => "host",
        }
    }

    /// The role of that name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        [Self::Guest, Self::Host].into_iter().find(|role| role.name() == name)
    }
}

/// An account that has not been deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its id.
    pub id: Uuid,
    /// The address, in lower case.
    pub email: String,
    /// As the user writes it.
    pub full_name: String,
    /// What the account was made for.
    pub role: Role,
    /// A BCP 47 tag: how the user reads amounts and dates.
    pub locale: String,
    /// When the address was proved to be the user's.
    pub email_verified_at: Option<DateTime<Utc>>,
    /// The registration.
    pub created_at: DateTime<Utc>,
    /// The last change.
    pub updated_at: DateTime<Utc>,
}

/// A registration whose password has been hashed. `email` is in lower case.
#[derive(Clone, Debug)]
pub struct NewUser {
    /// In lower case, see [`normalise_email`].
    pub email: String,
    /// By [`Passwords::hash`].
    pub password_hash: String,
    /// As the user writes it.
    pub full_name: String,
    /// What the account is for.
    pub role: Role,
    /// A BCP 47 tag.
    pub locale: String,
}

/// Why an operation on an account is refused.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// Another account has this address.
    #[error("the e-mail address is taken")]
    EmailTaken,
    /// Deleted, or never there.
    #[error("there is no such user")]
    NotFound,
    /// The present password was not given.
    #[error("the password is wrong")]
    WrongPassword,
    /// Listings and their bookings need their host.
    #[error("a host does not become a guest again")]
    StaysHost,
    /// Bookings as guest or host are still to come.
    #[error("the user has bookings that are still open")]
    OpenBookings,
    /// Unknown, spent, expired, or for an address the user no longer has.
    #[error("the verification token is not valid")]
    VerificationInvalid,
    /// There is nothing left to verify.
    #[error("the e-mail address is verified already")]
    AlreadyVerified,
    /// A password could be neither hashed nor checked.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// Postgres refused or could not be reached.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// The address in lower case if it can be one: the grammar of HTML's e-mail fields, with a domain of two labels at
/// least, and the lengths of RFC 5321.
#[must_use]
pub fn normalise_email(email: &str) -> Option<String> {
    let (local, domain) = email.rsplit_once('@')?;
    let local_ok = (1..=64).contains(&local.len())
        && local
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".!#$%&'*+/=?^_`{|}~-".contains(&byte))
        && !local.starts_with('.')
        && !local.ends_with('.')
        && !local.contains("..");
    let label_ok = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let domain_ok = domain.len() <= 253 && domain.contains('.') && domain.split('.').all(label_ok);
    (local_ok && domain_ok && email.len() <= 254).then(|| email.to_ascii_lowercase())
}

/// Makes an account and enqueues the mail that verifies its address.
///
/// # Errors
/// [`UserError::EmailTaken`].
pub async fn register(tx: &mut Tx, new: NewUser) -> Result<User, UserError> {
    let now = tx.now();
    let user = User {
        id: ids::new(now),
        email: new.email,
        full_name: new.full_name,
        role: new.role,
        locale: new.locale,
        email_verified_at: None,
        created_at: now,
        updated_at: now,
    };
    store::insert(tx.conn(), &user, &new.password_hash)
        .await
        .map_err(|error| match violated_constraint(&error) {
            Some("users_email_unique") => UserError::EmailTaken,
            _ => UserError::Database(error),
        })?;
    verification::enqueue_mail(tx, user.id);
    Ok(user)
}

/// Somebody who gave the right password.
#[derive(Clone, Debug)]
pub struct Authenticated {
    /// The account.
    pub user: User,
    password_hash: String,
}

/// The user who signs in with this address and password. None for a wrong password and for an unknown address, after
/// the same time.
///
/// # Errors
/// Too many passwords are being checked, or Postgres could not be reached.
pub async fn authenticate(
    pool: &PgPool,
    passwords: &Passwords,
    email: &str,
    password: String,
) -> Result<Option<Authenticated>, UserError> {
    let stored = store::credentials(pool, &email.to_ascii_lowercase()).await?;
    let hash = stored.as_ref().map(|(_, hash)| hash.clone());
    let right = passwords.verify(password, hash).await?;
    let Some((id, password_hash)) = stored.filter(|_| right) else {
        return Ok(None);
    };
    let user = store::find(pool, id).await?;
    Ok(user.map(|user| Authenticated { user, password_hash }))
}

/// Whether the password that was given is still the account's. Checking one takes long enough for the account to
/// change its password or to be deleted meanwhile: ask once the session is open, so that one of the two sees the other.
///
/// # Errors
/// Postgres could not be reached.
pub async fn is_still_authentic(pool: &PgPool, authenticated: &Authenticated) -> Result<bool, sqlx::Error> {
    let current = store::password_hash(pool, authenticated.user.id).await?;
    Ok(current.is_some_and(|current| current == authenticated.password_hash))
}

/// The role of an account that has not been deleted, and will not be before the transaction ends.
///
/// # Errors
/// Postgres could not be reached.
pub async fn lock_role(tx: &mut Tx, id: Uuid) -> Result<Option<Role>, sqlx::Error> {
    store::lock_role(tx.conn(), id).await
}

/// An account that has not been deleted.
///
/// # Errors
/// Postgres could not be reached.
pub async fn find(pool: &PgPool, id: Uuid) -> Result<Option<User>, sqlx::Error> {
    store::find(pool, id).await
}

/// Those of these accounts that have not been deleted, in no order.
///
/// # Errors
/// Postgres could not be reached.
pub async fn find_many(pool: &PgPool, ids: &[Uuid]) -> Result<Vec<User>, sqlx::Error> {
    store::find_many(pool, ids).await
}

/// What may be changed of a profile. None leaves it as it is.
#[derive(Clone, Debug, Default)]
pub struct ProfileChange {
    /// As the user writes it.
    pub full_name: Option<String>,
    /// A BCP 47 tag.
    pub locale: Option<String>,
    /// A guest may become a host.
    pub role: Option<Role>,
}

/// Changes a profile.
///
/// # Errors
/// [`UserError::NotFound`], [`UserError::StaysHost`].
pub async fn update(tx: &mut Tx, id: Uuid, change: &ProfileChange) -> Result<User, UserError> {
    let now = tx.now();
    let becomes_host = change.role == Some(Role::Host);
    let user = store::update(
        tx.conn(),
        id,
        change.full_name.as_deref(),
        change.locale.as_deref(),
        becomes_host,
        now,
    )
    .await?
    .ok_or(UserError::NotFound)?;
    if change.role == Some(Role::Guest) && user.role == Role::Host {
        return Err(UserError::StaysHost);
    }
    Ok(user)
}

/// Checks the present password of an account and returns its hash, for [`change_password`].
///
/// # Errors
/// [`UserError::NotFound`], [`UserError::WrongPassword`].
pub async fn check_password(
    pool: &PgPool,
    passwords: &Passwords,
    id: Uuid,
    password: String,
) -> Result<String, UserError> {
    let stored = store::password_hash(pool, id).await?.ok_or(UserError::NotFound)?;
    if passwords.verify(password, Some(stored.clone())).await? {
        Ok(stored)
    } else {
        Err(UserError::WrongPassword)
    }
}

/// Replaces the password whose hash is `old_hash`.
///
/// # Errors
/// [`UserError::WrongPassword`] if it was replaced meanwhile.
pub async fn change_password(tx: &mut Tx, id: Uuid, old_hash: &str, new_hash: &str) -> Result<(), UserError> {
    let now = tx.now();
    if store::update_password(tx.conn(), id, old_hash, new_hash, now).await? {
        Ok(())
    } else {
        Err(UserError::WrongPassword)
    }
}

/// Gives or takes the right to hide reviews. Whether there is an account of this address.
///
/// # Errors
/// Postgres could not be reached.
pub async fn set_moderator(pool: &PgPool, email: &str, moderates: bool) -> Result<bool, sqlx::Error> {
    store::set_moderator(pool, &email.to_ascii_lowercase(), moderates).await
}

/// Erases what is personal and archives the user's properties, whose ids and versions are returned. The row stays:
/// bookings and the ledger refer to it.
///
/// # Errors
/// [`UserError::OpenBookings`], [`UserError::NotFound`].
pub async fn delete(tx: &mut Tx, id: Uuid) -> Result<Vec<(Uuid, i32)>, UserError> {
    let now = tx.now();
    if !store::lock(tx.conn(), id).await? {
        return Err(UserError::NotFound);
    }
    // From here on nobody books with them, so what is open is found.
    let archived = properties::archive_all_of(tx, id).await?;
    if store::has_open_bookings(tx.conn(), id, now).await? {
        return Err(UserError::OpenBookings);
    }
    store::erase(tx.conn(), id, now).await?;
    Ok(archived)
}

#[cfg(test)]
mod tests {
    use super::normalise_email;

    #[test]
    fn addresses_are_lowered_and_impossible_ones_refused() {
        assert_eq!(
            normalise_email("Ada.L+x@Example.COM").as_deref(),
            Some("ada.l+x@example.com")
        );
        let long_local = format!("{}@example.com", "a".repeat(65));
        let bad = [
            "",
            "ada",
            "@example.com",
            "ada@",
            "ada@localhost",
            "ada@-x.com",
            "ada@x..com",
            ".a@x.com",
            "a..b@x.com",
            "a b@x.com",
            "a\0@x.com",
            "ä@x.com",
            "a@x.com ",
            "a@b@",
            long_local.as_str(),
        ];
        for email in bad {
            assert_eq!(normalise_email(email), None, "{email}");
        }
    }
}
