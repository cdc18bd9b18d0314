//! Asking for nights: one short transaction, and perhaps a reply that is held until the card has answered.

use poem_openapi::types::ToJSON;
use roost_shared::bookings::{self, BookingError, BookingRequest};
use roost_shared::db::Retries;
use roost_shared::payments::PaymentState;
use roost_shared::properties::quote;
use roost_shared::properties::stay::Stay;
use uuid::Uuid;

use super::objects::{Booking, NewBooking, Parts};
use super::reads;
use super::refusals::quote_refused;
use crate::auth::Auth;
use crate::body::JsonBody;
use crate::error::{ApiError, ApiResult};
use crate::idempotency::{Begun, Created, Idempotency};
use crate::prefer::{APPLIED_HEADER, Wait};
use crate::state::AppState;

/// Why there is no booking.
enum Refusal {
    Booking(BookingError),
    Api(ApiError),
}

impl From<BookingError> for Refusal {
    fn from(error: BookingError) -> Self {
        Self::Booking(error)
    }
}

impl From<sqlx::Error> for Refusal {
    fn from(error: sqlx::Error) -> Self {
        Self::Booking(BookingError::Database(error))
    }
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

/// Books, once for each idempotency key.
pub async fn create(
    state: &AppState,
    auth: &Auth,
    idempotency: &Idempotency,
    wait: Option<Wait>,
    body: &JsonBody<NewBooking>,
) -> ApiResult<Created<Booking>> {
    let mut retries = Retries::default();
    let reply = loop {
        match attempt(state, auth, idempotency, body).await {
            Ok(reply) => break reply,
            Err(Refusal::Booking(BookingError::Database(error))) if retries.again(&error).await => {}
            Err(Refusal::Booking(error)) => return Err(error.into()),
            Err(Refusal::Api(error)) => return Err(error),
        }
    };
    match wait {
        Some(wait) => hold(state, auth, idempotency, reply, wait).await,
        None => Ok(reply),
    }
}

async fn attempt(
    state: &AppState,
    auth: &Auth,
    idempotency: &Idempotency,
    body: &JsonBody<NewBooking>,
) -> Result<Created<Booking>, Refusal> {
    let mut work = match idempotency.begin(state, &auth.scope(), body.raw()).await? {
        Begun::Replay(stored) => return Ok(stored.into()),
        Begun::Work(work) => work,
    };
    // Only now: a request that is sent again after its quote expired still gets the reply it missed.
    let quote = body
        .quote_token
        .as_deref()
        .map(|token| quote::open(&state.quote_key, token, work.tx().now()))
        .transpose()
        .map_err(quote_refused)?;
    let request = BookingRequest {
        guest_id: auth.user_id,
        property_id: body.property_id,
        stay: Stay::new(body.check_in, body.check_out),
        guests: body.guests,
        payment_method: body.payment_method.clone(),
        quote,
    };
    let requested = bookings::request(work.tx(), request).await?;
    let parts = Parts {
        booking: requested.booking,
        payment: Some(requested.payment),
        property_title: requested.property_title,
        timeline: vec![requested.entry],
    };
    let location = format!("/bookings/{}", parts.booking.id);
    let view = parts.seen_by(auth.user_id);
    Ok(work.created(&location, &view).await?)
}

/// Holds the reply until the booking is past the card, and says then how that went. The stored reply becomes the one
/// that is sent; requests with the same key that wait at the same time all send that one.
async fn hold(
    state: &AppState,
    auth: &Auth,
    idempotency: &Idempotency,
    reply: Created<Booking>,
    wait: Wait,
) -> ApiResult<Created<Booking>> {
    let Some(booking_id) = unsettled(&reply) else {
        return Ok(reply);
    };
    reads::settled(state, booking_id, wait).await;
    let moved = bookings::progress(state.db.pool(), booking_id)
        .await
        .is_ok_and(|progress| progress.is_some_and(|progress| !progress.is_transient()));
    let reply = if moved {
        let view = reads::view(state, auth.user_id, booking_id).await?;
        idempotency.restate(state, &auth.scope(), reply, &view).await?
    } else {
        reply
    };
    Ok(reply.with_header(APPLIED_HEADER, wait.applied()))
}

/// The booking of a reply that was written before its card had answered.
fn unsettled(reply: &Created<Booking>) -> Option<Uuid> {
    let body: serde_json::Value = serde_json::from_slice(reply.body()).ok()?;
    let pending = crate::rest::payments::PaymentState::from(PaymentState::Pending).to_json();
    if body.get("payment_state") != pending.as_ref() {
        return None;
    }
    body.get("id")?.as_str()?.parse().ok()
}
