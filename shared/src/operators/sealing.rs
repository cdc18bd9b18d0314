//! Secrets of authenticators at rest: sealed with ChaCha20-Poly1305 under a key that HKDF-SHA256 (RFC 5869) derives from
//! the API's secret, so that a copy of the database alone makes no codes. Each is bound to its operator's row.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::error::Unspecified;
use ring::hkdf::{HKDF_SHA256, Salt};
use sqlx::PgPool;
use uuid::Uuid;

use super::OperatorError;
use crate::config::Secret;

/// Begins what is sealed. A bare secret is base32 and holds no full stop.
const VERSION: &str = "v1.";
const SALT: &[u8] = b"roost";
const PURPOSE: &[u8] = b"authenticators of operators v1";

/// What seals the secrets of authenticators, and what else opens them while the API's secret is being changed.
pub struct SealingKeys {
    current: LessSafeKey,
    previous: Option<LessSafeKey>,
}

impl fmt::Debug for SealingKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealingKeys")
    }
}

/// An opened secret.
pub(super) struct Opened {
    pub(super) secret: String,
    /// Not sealed, or under the key before.
    pub(super) stale: bool,
}

impl SealingKeys {
    /// Derives the keys from the secrets that also sign access tokens.
    ///
    /// # Errors
    /// The library refused, which it does for keys of another length only.
    pub fn derive(secret: &Secret, previous: Option<&Secret>) -> Result<Self, OperatorError> {
        let derive = |secret: &Secret| {
            let key = Salt::new(HKDF_SHA256, SALT).extract(secret.expose().as_bytes());
            let key = UnboundKey::from(key.expand(&[PURPOSE], &CHACHA20_POLY1305).map_err(refused)?);
            Ok::<_, OperatorError>(LessSafeKey::new(key))
        };
        Ok(Self {
            current: derive(secret)?,
            previous: previous.map(derive).transpose()?,
        })
    }

    /// `v1.<nonce, text and tag in base64>`. The nonce is random: there are far too few operators for two to be the same.
    pub(super) fn seal(&self, operator_id: Uuid, secret: &str) -> Result<String, OperatorError> {
        let mut nonce = [0_u8; NONCE_LEN];
        rand::RngCore::fill_bytes(&mut rand::rng(), &mut nonce);
        let mut text = secret.as_bytes().to_vec();
        self.current
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(operator_id.as_bytes()),
                &mut text,
            )
            .map_err(refused)?;
        Ok(format!("{VERSION}{}", BASE64.encode([&nonce[..], &text[..]].concat())))
    }

    pub(super) fn open(&self, operator_id: Uuid, stored: &str) -> Result<Opened, OperatorError> {
        let Some(sealed) = stored.strip_prefix(VERSION) else {
            return Ok(Opened {
                secret: stored.to_owned(),
                stale: true,
            });
        };
        let sealed = BASE64.decode(sealed).map_err(|_| damaged())?;
        let keys = [(Some(&self.current), false), (self.previous.as_ref(), true)];
        for (key, stale) in keys {
            if let Some(secret) = key.and_then(|key| open_with(key, operator_id, &sealed)) {
                return Ok(Opened { secret, stale });
            }
        }
        Err(damaged())
    }
}

fn open_with(key: &LessSafeKey, operator_id: Uuid, sealed: &[u8]) -> Option<String> {
    let (nonce, text) = sealed.split_at_checked(NONCE_LEN)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let mut text = text.to_vec();
    let opened = key
        .open_in_place(nonce, Aad::from(operator_id.as_bytes()), &mut text)
        .ok()?;
    String::from_utf8(opened.to_vec()).ok()
}

fn damaged() -> OperatorError {
    OperatorError::Totp("it is sealed under another secret than JWT_SECRET, or damaged".to_owned())
}

fn refused(_: Unspecified) -> OperatorError {
    OperatorError::Totp("the key was refused".to_owned())
}

/// Seals what is bare, from a version that did not seal, and what is sealed under the key before; once at start, so that
/// the secret before can be forgotten. Returns how many. What cannot be opened is left as it is and told.
///
/// # Errors
/// Postgres could not be reached.
pub async fn seal_all(pool: &PgPool, keys: &SealingKeys) -> Result<u64, OperatorError> {
    let rows = sqlx::query!(r#"SELECT id, totp_secret AS "stored!" FROM operators WHERE totp_secret IS NOT NULL"#)
        .fetch_all(pool)
        .await?;
    let mut sealed = 0;
    for row in rows {
        let opened = match keys.open(row.id, &row.stored) {
            Ok(opened) if opened.stale => opened,
            Ok(_) => continue,
            Err(error) => {
                tracing::warn!(operator_id = %row.id, %error, "an operator cannot sign in with their authenticator");
                continue;
            }
        };
        // Another replica may be doing the same.
        let done = sqlx::query!(
            "UPDATE operators SET totp_secret = $3 WHERE id = $1 AND totp_secret = $2",
            row.id,
            row.stored,
            keys.seal(row.id, &opened.secret)?
        )
        .execute(pool)
        .await?;
        sealed += done.rows_affected();
    }
    Ok(sealed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(secret: &str, previous: Option<&str>) -> SealingKeys {
        SealingKeys::derive(&Secret::new(secret), previous.map(Secret::new).as_ref()).unwrap()
    }

    #[test]
    fn what_is_sealed_opens_under_its_key_and_for_its_operator_only() {
        let (id, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let old = keys("one secret of thirty-two bytes or more", None);
        let sealed = old.seal(id, "GEZDGNBV").unwrap();
        assert!(!sealed.contains("GEZDGNBV"));
        assert_ne!(sealed, old.seal(id, "GEZDGNBV").unwrap());
        let opened = old.open(id, &sealed).unwrap();
        assert_eq!((opened.secret.as_str(), opened.stale), ("GEZDGNBV", false));
        assert!(old.open(other, &sealed).is_err());

        let new = keys(
            "another secret of thirty-two bytes",
            Some("one secret of thirty-two bytes or more"),
        );
        let opened = new.open(id, &sealed).unwrap();
        assert_eq!((opened.secret.as_str(), opened.stale), ("GEZDGNBV", true));
        assert!(
            keys("another secret of thirty-two bytes", None)
                .open(id, &sealed)
                .is_err()
        );
    }

    #[test]
    fn what_was_changed_opens_no_more_and_what_is_bare_is_read() {
        let (id, keys) = (Uuid::from_u128(1), keys("one secret of thirty-two bytes or more", None));
        let sealed = keys.seal(id, "GEZDGNBV").unwrap();
        let swapped = if sealed.ends_with('A') { 'B' } else { 'A' };
        let mut changed = sealed.clone();
        changed.insert(VERSION.len() + 20, swapped);
        changed.remove(VERSION.len() + 21);
        for damaged in [changed.as_str(), "v1.", "v1.AAAA", "v1.?", &sealed[..sealed.len() - 4]] {
            let opened = keys.open(id, damaged);
            assert!(damaged == sealed || opened.is_err(), "{damaged}");
        }
        let bare = keys.open(id, "GEZDGNBV").unwrap();
        assert_eq!((bare.secret.as_str(), bare.stale), ("GEZDGNBV", true));
    }
}
