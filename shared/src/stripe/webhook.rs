//! Verifying what claims to come from Stripe.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use stripe_webhook::{Webhook, WebhookError};

use crate::config::Secret;

/// What is kept of an event: enough to read its object again at Stripe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// `evt_…`
    pub id: String,
    /// `payment_intent.succeeded`, …
    pub kind: String,
    /// The PaymentIntent it is about if there is one, else the object itself.
    pub object_id: String,
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
    created: i64,
    data: EnvelopeData,
}

#[derive(Deserialize)]
struct EnvelopeData {
    object: EnvelopeObject,
}

#[derive(Deserialize)]
struct EnvelopeObject {
    id: Option<String>,
    #[serde(default)]
    payment_intent: serde_json::Value,
}

/// Checks the raw body against each of `secrets` (two while one is being replaced) and reads the event.
///
/// # Errors
/// See [`Rejection`].
pub fn verify(
    body: &[u8],
    signature: Option<&str>,
    secrets: &[Secret],
    now: DateTime<Utc>,
) -> Result<Event, Rejection> {
    let signature = signature.ok_or(Rejection::MalformedSignature)?;
    let payload = std::str::from_utf8(body).map_err(|_| Rejection::NotAnEvent)?;
    let mut refusal = Rejection::WrongSignature;
    for secret in secrets {
        match Webhook::construct_event_with_timestamp(payload, signature, secret.expose(), now.timestamp()) {
            // A payload that async-stripe cannot type was still signed: what is needed of it is read below.
            Ok(_) | Err(WebhookError::BadParse(_)) => return read(payload),
            Err(WebhookError::BadTimestamp(_)) => refusal = Rejection::Stale,
            Err(WebhookError::BadHeader(_)) => refusal = Rejection::MalformedSignature,
            Err(WebhookError::BadSignature | WebhookError::BadKey) => {}
        }
    }
    Err(refusal)
}

fn read(payload: &str) -> Result<Event, Rejection> {
    let envelope: Envelope = serde_json::from_str(payload).map_err(|_| Rejection::NotAnEvent)?;
    let object = envelope.data.object;
    let intent = object
        .payment_intent
        .as_str()
        .or_else(|| object.payment_intent["id"].as_str())
        .map(str::to_owned);
    let event = Event {
        object_id: intent.or(object.id).unwrap_or_default(),
        created_at: DateTime::from_timestamp(envelope.created, 0).ok_or(Rejection::NotAnEvent)?,
        id: envelope.id,
        kind: envelope.kind,
    };
    let sane = |text: &str| !text.is_empty() && text.len() <= 255 && !text.contains('\0');
    if event.id.starts_with("evt_") && sane(&event.id) && sane(&event.kind) && sane(&event.object_id) {
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

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_900_000_000, 0).expect("an instant")
    }

    fn check(signature: &str, secrets: &[&str], payload: &str) -> Result<Event, Rejection> {
        let secrets: Vec<Secret> = secrets.iter().map(|secret| Secret::new(*secret)).collect();
        verify(payload.as_bytes(), Some(signature), &secrets, now())
    }

    #[test]
    fn either_of_two_secrets_opens_and_the_payment_intent_is_the_object() {
        let signature = Webhook::generate_test_header(PAYLOAD, "whsec_old", Some(now().timestamp()));
        let event = check(&signature, &["whsec_new", "whsec_old"], PAYLOAD).expect("accepted");
        assert_eq!((event.id.as_str(), event.object_id.as_str()), ("evt_1", "pi_1"));
        assert_eq!(
            check(&signature, &["whsec_new"], PAYLOAD),
            Err(Rejection::WrongSignature)
        );
    }

    #[test]
    fn forged_stale_and_malformed_are_told_apart() {
        let stale = Webhook::generate_test_header(PAYLOAD, "whsec_a", Some(now().timestamp() - 301));
        assert_eq!(check(&stale, &["whsec_a"], PAYLOAD), Err(Rejection::Stale));
        let signature = Webhook::generate_test_header(PAYLOAD, "whsec_a", Some(now().timestamp()));
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
        let other = Webhook::generate_test_header("{}", "whsec_a", Some(now().timestamp()));
        assert_eq!(check(&other, &["whsec_a"], "{}"), Err(Rejection::NotAnEvent));
    }
}
