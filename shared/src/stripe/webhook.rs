//! Verifying what claims to come from Stripe.

use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use sha2::Sha256;

use super::events::is_about_payments;
use crate::config::Secret;

/// How far a signature's timestamp may be from now, in seconds. Stripe signs each delivery anew.
const TOLERANCE: u64 = 300;

/// What is kept of an event: enough to read its object again at Stripe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// `evt_…`
    pub id: String,
    /// `payment_intent.succeeded`, …
    pub kind: String,
    /// The refund or else the PaymentIntent it is about; without either the object itself. Some events are about nothing that
    /// has an id; those about payments are not.
    pub object_id: Option<String>,
    /// When Stripe made it.
    pub created_at: DateTime<Utc>,
}

/// Why a delivery is refused. Nothing is stored then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// No header, or not of Stripe's form.
    #[error("the Stripe-Signature header is missing or malformed")]
    MalformedSignature,
    /// Signed with none of our secrets.
    #[error("the signature does not match the payload")]
    WrongSignature,
    /// Signed more than five minutes ago, or ahead.
    #[error("the signature's timestamp is more than 300 s from now")]
    Stale,
    /// Signed, but no event.
    #[error("the payload is not a Stripe event")]
    NotAnEvent,
}

#[derive(Deserialize)]
struct Envelope {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    created: Created,
    #[serde(default)]
    data: EnvelopeData,
}

/// Seconds, or an RFC 3339 instant in the events of Stripe's second version.
#[derive(Deserialize)]
#[serde(untagged)]
enum Created {
    Seconds(i64),
    Instant(DateTime<Utc>),
}

#[derive(Default, Deserialize)]
struct EnvelopeData {
    #[serde(default)]
    object: EnvelopeObject,
}

#[derive(Default, Deserialize)]
struct EnvelopeObject {
    id: Option<String>,
    #[serde(default)]
    payment_intent: serde_json::Value,
}

/// Checks the raw body against each of `secrets` (two while one is being replaced) and reads the event.
///
/// The scheme is Stripe's: `t=<seconds>,v1=<hex HMAC-SHA256 of "t.body">`, any of several `v1` may match.
/// <https://docs.stripe.com/webhooks#verify-manually>. async-stripe's own check also decodes the whole object, which
/// takes over a megabyte of stack in a debug build and refuses objects of other API versions; only the envelope is
/// of use here, because the object is read again at Stripe.
///
/// # Errors
/// See [`Rejection`].
pub fn verify(
    body: &[u8],
    signature: Option<&str>,
    secrets: &[Secret],
    now: DateTime<Utc>,
) -> Result<Event, Rejection> {
    let signature = Signature::parse(signature.unwrap_or_default()).ok_or(Rejection::MalformedSignature)?;
    if !secrets.iter().any(|secret| signature.is_by(secret.expose(), body)) {
        return Err(Rejection::WrongSignature);
    }
    if now.timestamp().abs_diff(signature.timestamp) > TOLERANCE {
        return Err(Rejection::Stale);
    }
    read(std::str::from_utf8(body).map_err(|_| Rejection::NotAnEvent)?)
}

/// The parts of a `Stripe-Signature` header.
struct Signature<'a> {
    timestamp: i64,
    /// As it was written, which is what was signed.
    written: &'a str,
    candidates: Vec<Vec<u8>>,
}

impl<'a> Signature<'a> {
    fn parse(header: &'a str) -> Option<Self> {
        let (mut written, mut candidates) = (None, Vec::new());
        for part in header.split(',') {
            match part.trim().split_once('=')? {
                ("t", value) => written = Some(value),
                ("v1", value) => candidates.extend(hex::decode(value)),
                _ => {}
            }
        }
        let written = written?;
        let timestamp = written.parse().ok()?;
        (!candidates.is_empty()).then_some(Self {
            timestamp,
            written,
            candidates,
        })
    }

    /// Compares in constant time.
    fn is_by(&self, secret: &str, body: &[u8]) -> bool {
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else {
            return false;
        };
        mac.update(self.written.as_bytes());
        mac.update(b".");
        mac.update(body);
        self.candidates
            .iter()
            .any(|candidate| mac.clone().verify_slice(candidate).is_ok())
    }
}

fn read(payload: &str) -> Result<Event, Rejection> {
    let envelope: Envelope = serde_json::from_str(payload).map_err(|_| Rejection::NotAnEvent)?;
    let object = envelope.data.object;
    let intent = object
        .payment_intent
        .as_str()
        .or_else(|| object.payment_intent["id"].as_str())
        .map(str::to_owned);
    // What became of a refund is not told by its PaymentIntent.
    let refund = object.id.clone().filter(|id| id.starts_with("re_"));
    let event = Event {
        object_id: refund.or(intent).or(object.id),
        created_at: match envelope.created {
            Created::Seconds(seconds) => DateTime::from_timestamp(seconds, 0).ok_or(Rejection::NotAnEvent)?,
            Created::Instant(instant) => instant,
        },
        id: envelope.id,
        kind: envelope.kind,
    };
    let sane = |text: &str| !text.is_empty() && text.len() <= 255 && !text.contains('\0');
    let object_is_sane = match &event.object_id {
        Some(id) => sane(id),
        None => !is_about_payments(&event.kind),
    };
    if event.id.starts_with("evt_") && sane(&event.id) && sane(&event.kind) && object_is_sane {
        Ok(event)
    } else {
        Err(Rejection::NotAnEvent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAYLOAD: &str = r#"{"id":"evt_1","object":"event","type":"charge.refunded","created":1900000000,"livemode":false,"pending_webhooks":1,
        "data":{"object":{"id":"ch_1","object":"charge","payment_intent":"pi_1"}}}"#;

    /// Signs as Stripe does.
    fn sign(payload: &str, secret: &str, timestamp: i64) -> String {
        stripe_webhook::Webhook::generate_test_header(payload, secret, Some(timestamp))
    }

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_900_000_000, 0).expect("an instant")
    }

    fn check(signature: &str, secrets: &[&str], payload: &str) -> Result<Event, Rejection> {
        let secrets: Vec<Secret> = secrets.iter().map(|secret| Secret::new(*secret)).collect();
        verify(payload.as_bytes(), Some(signature), &secrets, now())
    }

    #[test]
    fn either_of_two_secrets_opens_and_the_payment_intent_is_the_object() {
        let signature = sign(PAYLOAD, "whsec_old", now().timestamp());
        let event = check(&signature, &["whsec_new", "whsec_old"], PAYLOAD).expect("accepted");
        assert_eq!((event.id.as_str(), event.object_id.as_deref()), ("evt_1", Some("pi_1")));
        assert_eq!(
            check(&signature, &["whsec_new"], PAYLOAD),
            Err(Rejection::WrongSignature)
        );
    }

    #[test]
    fn an_event_about_a_refund_names_the_refund() {
        let payload = r#"{"id":"evt_1","object":"event","type":"charge.refund.updated","created":1900000000,
            "data":{"object":{"id":"re_1","object":"refund","charge":"ch_1","payment_intent":"pi_1"}}}"#;
        let signature = sign(payload, "whsec_a", now().timestamp());
        assert_eq!(
            check(&signature, &["whsec_a"], payload).map(|event| event.object_id),
            Ok(Some("re_1".to_owned()))
        );
    }

    #[test]
    fn forged_stale_and_malformed_are_told_apart() {
        let stale = sign(PAYLOAD, "whsec_a", now().timestamp() - 301);
        assert_eq!(check(&stale, &["whsec_a"], PAYLOAD), Err(Rejection::Stale));
        let signature = sign(PAYLOAD, "whsec_a", now().timestamp());
        assert_eq!(
            check(&signature, &["whsec_a"], &PAYLOAD.replace("evt_1", "evt_2")),
            Err(Rejection::WrongSignature)
        );
        assert_eq!(
            check("t=x,v1=00", &["whsec_a"], PAYLOAD),
            Err(Rejection::MalformedSignature)
        );
        assert_eq!(
            verify(PAYLOAD.as_bytes(), None, &["whsec_a".into()], now()),
            Err(Rejection::MalformedSignature)
        );
        let other = sign("{}", "whsec_a", now().timestamp());
        assert_eq!(check(&other, &["whsec_a"], "{}"), Err(Rejection::NotAnEvent));
    }
}
