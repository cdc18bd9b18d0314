//! Seals on the audit log: HMAC-SHA256 under a key that HKDF-SHA256 derives from the API's secret. The hashes of the log
//! need no key, so whoever owns the database can compute them again; a seal they cannot.

use std::fmt;

use ring::hkdf::{HKDF_SHA256, Salt};
use ring::hmac::{self, HMAC_SHA256};

use super::checks::Mark;
use crate::config::Secret;
use crate::tokens::SHORTEST_SECRET;

const SALT: &[u8] = b"roost";
const PURPOSE: &[u8] = b"audit log of operators v1";

/// What seals the log, and what else holds while the API's secret is being changed.
#[derive(Clone)]
pub struct SealKeys {
    current: hmac::Key,
    previous: Option<hmac::Key>,
}

impl fmt::Debug for SealKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKeys")
    }
}

impl SealKeys {
    /// Derives the keys from the secrets that also sign access tokens.
    ///
    /// # Errors
    /// A secret is shorter than 32 bytes, as an empty variable is: who owns the database could guess its seals.
    pub fn derive(secret: &Secret, previous: Option<&Secret>) -> Result<Self, ring::error::Unspecified> {
        let derive = |secret: &Secret| {
            if secret.expose().len() < SHORTEST_SECRET {
                return Err(ring::error::Unspecified);
            }
            let key = Salt::new(HKDF_SHA256, SALT).extract(secret.expose().as_bytes());
            Ok::<_, ring::error::Unspecified>(hmac::Key::from(key.expand(&[PURPOSE], HMAC_SHA256)?))
        };
        Ok(Self {
            current: derive(secret)?,
            previous: previous.map(derive).transpose()?,
        })
    }

    pub(super) fn seal(&self, mark: &Mark) -> Vec<u8> {
        hmac::sign(&self.current, &message(mark)).as_ref().to_vec()
    }

    /// Whether one of the keys made this seal for this place.
    pub(super) fn holds(&self, mark: &Mark, seal: &[u8]) -> bool {
        let message = message(mark);
        [Some(&self.current), self.previous.as_ref()]
            .into_iter()
            .flatten()
            .any(|key| hmac::verify(key, &message, seal).is_ok())
    }
}

fn message(mark: &Mark) -> Vec<u8> {
    [&mark.seq.to_be_bytes()[..], &mark.hash].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(secret: &str, previous: Option<&str>) -> SealKeys {
        SealKeys::derive(&Secret::new(secret), previous.map(Secret::new).as_ref()).unwrap()
    }

    #[test]
    fn a_secret_that_can_be_guessed_is_refused() {
        let long = Secret::new("one secret of thirty-two bytes or more");
        for short in [0, SHORTEST_SECRET - 1].map(|length| Secret::new("s".repeat(length))) {
            assert!(SealKeys::derive(&short, None).is_err());
            assert!(SealKeys::derive(&long, Some(&short)).is_err());
        }
    }

    #[test]
    fn a_seal_holds_for_its_place_and_under_its_key_only() {
        let mark = |seq, byte| Mark {
            seq,
            hash: vec![byte; 32],
        };
        let old = keys("one secret of thirty-two bytes or more", None);
        let seal = old.seal(&mark(7, 1));
        assert!(old.holds(&mark(7, 1), &seal));
        assert!(!old.holds(&mark(8, 1), &seal));
        assert!(!old.holds(&mark(7, 2), &seal));
        assert!(!old.holds(&mark(7, 1), &seal[1..]));
        let other = "another secret of thirty-two bytes";
        assert!(!keys(other, None).holds(&mark(7, 1), &seal));
        assert!(keys(other, Some("one secret of thirty-two bytes or more")).holds(&mark(7, 1), &seal));
    }
}
