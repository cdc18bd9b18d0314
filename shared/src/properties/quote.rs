//! A quote: a price and a cancellation policy that are good for a quarter of an hour, kept by whoever asked for them.
//!
//! The token is `v1.<payload>.<mac>`, both in URL-safe base64: the quote as JSON, and its HMAC-SHA256 under a key
//! derived from the API's secret. Nothing is stored, so asking for quotes costs nothing.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use chrono::{DateTime, TimeDelta, Utc};
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use uuid::Uuid;

use super::pricing::Price;
use super::stay::Stay;
use super::terms::{CancellationPolicy, PropertyTerms};

/// How long a quote is good for.
pub const LIFETIME: TimeDelta = TimeDelta::minutes(15);

/// The longest token that is looked at. A real one has about 800 characters.
pub const MAX_TOKEN_LENGTH: usize = 4_096;

const VERSION: &str = "v1";

/// What signs quotes, and what else is accepted while the secret is being changed.
#[derive(Clone)]
pub struct QuoteKey {
    current: [u8; 32],
    previous: Option<[u8; 32]>,
}

impl QuoteKey {
    /// Derives the key from the secret that also signs access tokens, so that neither signature passes for the other.
    #[must_use]
    pub fn derive(secret: &[u8], previous_secret: Option<&[u8]>) -> Self {
        Self {
            current: derive(secret),
            previous: previous_secret.map(derive),
        }
    }
}

impl fmt::Debug for QuoteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("QuoteKey")
    }
}

/// What was promised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quote {
    /// Where.
    pub property_id: Uuid,
    /// When.
    pub stay: Stay,
    /// For how many.
    pub guests: i32,
    /// At what price.
    pub price: Price,
    /// What a guest who cancels gets back. None in tokens of before it was promised: the property's own of the moment
    /// goes for them.
    #[serde(default)]
    pub cancellation_policy: Option<CancellationPolicy>,
    /// Until when it can be booked.
    pub expires_at: DateTime<Utc>,
}

/// Why a token buys nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuoteError {
    /// We did not issue it, or somebody changed it.
    #[error("is not a quote token of ours")]
    Invalid,
    /// Its quarter of an hour is over.
    #[error("has expired: ask for a new quote")]
    Expired,
}

/// Makes the quote that `price` and the policy of `terms` are promised by, and its token.
///
/// # Errors
/// Never in practice: only if the quote had no JSON.
pub fn issue(
    key: &QuoteKey,
    now: DateTime<Utc>,
    terms: &PropertyTerms,
    stay: Stay,
    guests: i32,
    price: Price,
) -> Result<(Quote, String), serde_json::Error> {
    let quote = Quote {
        property_id: terms.id,
        stay,
        guests,
        price,
        cancellation_policy: Some(terms.cancellation_policy),
        expires_at: now + LIFETIME,
    };
    let token = sign(key, &serde_json::to_vec(&quote)?);
    Ok((quote, token))
}

fn sign(key: &QuoteKey, json: &[u8]) -> String {
    let payload = BASE64.encode(json);
    let mac = BASE64.encode(mac_of(&key.current, &payload).finalize().into_bytes());
    format!("{VERSION}.{payload}.{mac}")
}

/// Reads a token.
///
/// # Errors
/// See [`QuoteError`].
pub fn open(key: &QuoteKey, token: &str, now: DateTime<Utc>) -> Result<Quote, QuoteError> {
    if token.len() > MAX_TOKEN_LENGTH {
        return Err(QuoteError::Invalid);
    }
    let mut parts = token.split('.');
    let (Some(VERSION), Some(payload), Some(mac), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(QuoteError::Invalid);
    };
    let mac = BASE64.decode(mac).map_err(|_| QuoteError::Invalid)?;
    let signed = std::iter::once(&key.current)
        .chain(&key.previous)
        .any(|key| mac_of(key, payload).verify_slice(&mac).is_ok());
    if !signed {
        return Err(QuoteError::Invalid);
    }
    let json = BASE64.decode(payload).map_err(|_| QuoteError::Invalid)?;
    let quote: Quote = serde_json::from_slice(&json).map_err(|_| QuoteError::Invalid)?;
    if now >= quote.expires_at {
        return Err(QuoteError::Expired);
    }
    Ok(quote)
}

/// The extraction step of HKDF (RFC 5869): the label is the salt, the secret is what is hashed.
fn derive(secret: &[u8]) -> [u8; 32] {
    keyed(b"roost quote token v1")
        .chain_update(secret)
        .finalize()
        .into_bytes()
        .into()
}

fn mac_of(key: &[u8; 32], payload: &str) -> Hmac<Sha256> {
    keyed(key).chain_update(VERSION).chain_update(".").chain_update(payload)
}

/// HMAC fills a key up with zeros to the block of its hash; keys here are never longer than that.
fn keyed<const LENGTH: usize>(key: &[u8; LENGTH]) -> Hmac<Sha256> {
    const { assert!(LENGTH <= 64) };
    let mut block = [0; 64];
    block[..LENGTH].copy_from_slice(key);
    Hmac::new(&block.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::properties::{pricing, terms_for_tests};

    fn now() -> DateTime<Utc> {
        "2027-06-10T11:30:00.123456Z".parse().expect("an instant")
    }

    fn key() -> QuoteKey {
        QuoteKey::derive(b"a secret of more than thirty-two bytes", None)
    }

    fn issued(key: &QuoteKey) -> (Quote, String) {
        let terms = terms_for_tests();
        let stay = Stay::new(
            "2027-07-01".parse().expect("a date"),
            "2027-07-04".parse().expect("a date"),
        );
        let price = pricing::price(&terms, stay.check_in, stay.check_out, 2).expect("a price");
        issue(key, now(), &terms, stay, 2, price).expect("a token")
    }

    #[test]
    fn a_token_opens_to_the_same_quote_for_a_quarter_of_an_hour() {
        let (quote, token) = issued(&key());
        assert_eq!(open(&key(), &token, now()), Ok(quote.clone()));
        let last = now() + LIFETIME - TimeDelta::microseconds(1);
        assert_eq!(open(&key(), &token, last), Ok(quote));
        assert_eq!(open(&key(), &token, now() + LIFETIME), Err(QuoteError::Expired));
        assert!(token.len() < MAX_TOKEN_LENGTH / 2, "{}", token.len());
    }

    #[test]
    fn a_token_of_before_policies_were_promised_is_good_and_promises_none() {
        let (quote, _) = issued(&key());
        assert_eq!(quote.cancellation_policy, Some(CancellationPolicy::Moderate));
        let mut json = serde_json::to_value(&quote).expect("JSON");
        json.as_object_mut().expect("an object").remove("cancellation_policy");
        let token = sign(&key(), json.to_string().as_bytes());
        let before = Quote {
            cancellation_policy: None,
            ..quote
        };
        assert_eq!(open(&key(), &token, now()), Ok(before));
    }

    #[test]
    fn a_changed_token_is_refused_wherever_it_was_changed() {
        let (_, token) = issued(&key());
        for position in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[position] = if changed[position] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).expect("ascii");
            assert_eq!(open(&key(), &changed, now()), Err(QuoteError::Invalid), "at {position}");
        }
        let long = format!("{token}{}", "A".repeat(MAX_TOKEN_LENGTH));
        for bad in [
            "",
            ".",
            "v1..",
            "v1.e30.",
            "v2.e30.AAAA",
            "é",
            &token[..token.len() - 1],
            &format!("{token}."),
            &long,
        ] {
            assert_eq!(open(&key(), bad, now()), Err(QuoteError::Invalid), "{bad}");
        }
    }

    #[test]
    fn the_previous_secret_is_still_accepted_and_no_other() {
        let (quote, token) = issued(&key());
        let old: &[u8] = b"a secret of more than thirty-two bytes";
        assert_eq!(open(&QuoteKey::derive(b"new", Some(old)), &token, now()), Ok(quote));
        assert_eq!(
            open(&QuoteKey::derive(b"new", None), &token, now()),
            Err(QuoteError::Invalid)
        );
        // The secret itself is not the key.
        let raw = QuoteKey {
            current: [b'x'; 32],
            previous: None,
        };
        let (_, token) = issued(&raw);
        assert_eq!(
            open(&QuoteKey::derive(&[b'x'; 32], None), &token, now()),
            Err(QuoteError::Invalid)
        );
    }
}
