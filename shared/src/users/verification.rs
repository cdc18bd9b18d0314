//! Proving that an e-mail address is the user's: a single-use token in a mail, its hash in the database.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Duration, Utc};
use rand::RngCore;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{User, UserError};
use crate::db::Tx;
use crate::jobs::catalogue::{MailKind, SendMail};

/// How long a token is good for.
pub const LIFETIME: Duration = Duration::hours(24);

const PREFIX: &str = "ev_";

/// A token for the user's present address, to be mailed there. None when the address is verified already or the
/// account is gone. Earlier tokens stay good, so a repeated mail makes none of them useless.
///
/// # Errors
/// Postgres refused or could not be reached.
pub async fn create_verification(tx: &mut Tx, user_id: Uuid) -> Result<Option<String>, sqlx::Error> {
    let now = tx.now();
    let mut secret = [0_u8; 32];
    rand::rng().fill_bytes(&mut secret);
    let inserted = sqlx::query!(
        "INSERT INTO email_verifications (token_hash, user_id, email, created_at, expires_at)
         SELECT $1, id, email, $3, $4 FROM users
         WHERE id = $2 AND email_verified_at IS NULL AND deleted_at IS NULL",
        hash(&secret),
        user_id,
        now,
        now + LIFETIME,
    )
    .execute(tx.conn())
    .await?;
    Ok((inserted.rows_affected() == 1).then(|| format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(secret))))
}

/// Spends a token: its user's address is verified from now on.
///
/// # Errors
/// [`UserError::VerificationInvalid`] if the token is unknown, spent, expired, or was for another address.
pub async fn verify_email(tx: &mut Tx, token: &str) -> Result<User, UserError> {
    let secret = token
        .strip_prefix(PREFIX)
        .and_then(|encoded| URL_SAFE_NO_PAD.decode(encoded).ok())
        .ok_or(UserError::VerificationInvalid)?;
    let now = tx.now();
    let spent = sqlx::query!(
        "UPDATE email_verifications SET used_at = $2
         WHERE token_hash = $1 AND used_at IS NULL AND expires_at > $2
         RETURNING user_id, email",
        hash(&secret),
        now,
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(UserError::VerificationInvalid)?;
    super::store::mark_verified(tx.conn(), spent.user_id, &spent.email, now)
        .await?
        .ok_or(UserError::VerificationInvalid)
}

/// Sends the mail again, unless the address is verified already.
///
/// # Errors
/// [`UserError::AlreadyVerified`].
pub fn resend_verification(tx: &mut Tx, user: &User) -> Result<(), UserError> {
    if user.email_verified_at.is_some() {
        return Err(UserError::AlreadyVerified);
    }
    enqueue_mail(tx, user.id);
    Ok(())
}

pub(super) fn enqueue_mail(tx: &mut Tx, user_id: Uuid) {
    tx.enqueue(&SendMail {
        mail: MailKind::VerifyEmail,
        subject_id: user_id,
    });
}

/// When a token made `at` ends: the mail says so.
#[must_use]
pub fn expires_at(at: DateTime<Utc>) -> DateTime<Utc> {
    at + LIFETIME
}

fn hash(secret: &[u8]) -> Vec<u8> {
    Sha256::digest(secret).to_vec()
}
