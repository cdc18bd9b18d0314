//! What Stripe sends: checked against the raw body, kept once, and left to a job. Nothing is decided here.

use bytes::Bytes;
use poem_openapi::param::Header;
use poem_openapi::payload::Json;
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};
use roost_shared::stripe::events;
use roost_shared::stripe::webhook::{self, Rejection};

use super::Tag;
use crate::body::RawJson;
use crate::error::{ApiError, ApiResult};
use crate::state::AppState;

/// The endpoint for Stripe.
pub struct StripeWebhookApi(pub AppState);

/// Taken in.
#[derive(Clone, Copy, Debug, Object)]
#[oai(example)]
pub struct Receipt {
    /// Always true
    pub received: bool,
}

impl Example for Receipt {
    fn example() -> Self {
        Self { received: true }
    }
}

#[OpenApi(tag = "Tag::Webhooks")]
impl StripeWebhookApi {
    /// Take in an event of Stripe's
    ///
    /// The body as Stripe signed it, 256 KiB at most. An event is kept once by its id and read again at Stripe by a
    /// job; a second delivery changes nothing. Events that are not about payments are acknowledged and not kept.
    ///
    /// Refused, and nothing kept: 400 `invalid_signature`, 400 `stale_signature` (signed more than 300 s ago), 400
    /// `invalid_event`, 413 `body_too_large`.
    #[oai(path = "/webhooks/stripe", method = "post", operation_id = "receive_stripe_event")]
    async fn receive(
        &self,
        /// `t=…,v1=…`: HMAC-SHA256 of the time, a dot and the body under the endpoint's secret
        #[oai(name = "Stripe-Signature")]
        signature: Header<Option<String>>,
        body: RawJson,
    ) -> ApiResult<Json<Receipt>> {
        let outcome = self.take_in(signature.0.as_deref(), &body).await;
        let label = match &outcome {
            Ok(label) => label,
            Err(error) => error.code(),
        };
        metrics::counter!("roost_stripe_events_total", "outcome" => label).increment(1);
        outcome.map(|_| Json(Receipt { received: true }))
    }
}

impl StripeWebhookApi {
    async fn take_in(&self, signature: Option<&str>, body: &Bytes) -> ApiResult<&'static str> {
        let state = &self.0;
        let event = webhook::verify(
            body,
            signature,
            &state.settings.stripe_webhook_secrets,
            state.clock.now(),
        )?;
        if !events::is_about_payments(&event.kind) {
            return Ok("ignored");
        }
        let mut tx = state.db.begin().await?;
        let new = events::receive(&mut tx, &event).await?;
        tx.commit().await?;
        tracing::info!(event_id = event.id, kind = event.kind, new, "stripe event");
        Ok(if new { "new" } else { "repeated" })
    }
}

impl From<Rejection> for ApiError {
    fn from(rejection: Rejection) -> Self {
        let code = match rejection {
            Rejection::MalformedSignature | Rejection::WrongSignature => "invalid_signature",
            Rejection::Stale => "stale_signature",
            Rejection::NotAnEvent => "invalid_event",
        };
        Self::bad_request(code, super::bookings::refusals::sentence(&rejection))
    }
}
