//! Asking for nights: one short transaction, and perhaps a reply that is held until the card has answered.

use std::time::Duration;

use chrono::{DateTime, Utc};
use roost_shared::bookings::{self, BookingError, BookingRequest};
use roost_shared::db::Retries;
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
        match attempt(state, auth, idempotency, wait, body).await {
            Ok(reply) => break reply,
            Err(Refusal::Booking(BookingError::Database(error))) if retries.again(&error).await => {}
            Err(Refusal::Booking(error)) => return Err(error.into()),
            Err(Refusal::Api(error)) => return Err(error),
        }
    };
    let Some(until) = reply.held_until() else {
        return Ok(reply);
    };
    let reply = hold(state, auth, idempotency, reply, until).await?;
    Ok(match wait {
        Some(wait) => reply.with_header(APPLIED_HEADER, wait.applied()),
        None => reply,
    })
}

async fn attempt(
    state: &AppState,
    auth: &Auth,
    idempotency: &Idempotency,
    wait: Option<Wait>,
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
    if let Some(wait) = wait {
        let until = work.tx().now() + wait.duration();
        work.hold_until(until);
    }
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

/// Holds the reply until the booking is past the card, `until` at most, and says then how that went. That becomes the
/// stored reply; requests with the same key that come meanwhile wait for it and all send it.
async fn hold(
    state: &AppState,
    auth: &Auth,
    idempotency: &Idempotency,
    mut reply: Created<Booking>,
    until: DateTime<Utc>,
) -> ApiResult<Created<Booking>> {
    let left = (until - state.clock.now()).to_std().unwrap_or_default();
    match say_more(state, auth, idempotency, &mut reply, left).await {
        Ok(()) => Ok(reply),
        // The booking is made. Whoever can ask again gets the reply that is stored then; the others get the first one.
        Err(_) if idempotency.has_key() => Err(ApiError::outcome_uncertain()),
        Err(error) => {
            tracing::warn!(code = error.code(), "a held reply is sent as it was");
            Ok(reply)
        }
    }
}

async fn say_more(
    state: &AppState,
    auth: &Auth,
    idempotency: &Idempotency,
    reply: &mut Created<Booking>,
    left: Duration,
) -> ApiResult<()> {
    let booking_id = id_of(reply)?;
    reads::settled(state, booking_id, left).await;
    let progress = bookings::progress(state.db.pool(), booking_id).await?;
    let view = match progress {
        Some(progress) if !progress.is_transient() => Some(reads::view(state, auth.user_id, booking_id).await?),
        _ => None,
    };
    idempotency.settle(state, &auth.scope(), reply, view.as_ref()).await
}

/// The booking that a reply is about.
fn id_of(reply: &Created<Booking>) -> ApiResult<Uuid> {
    let body: serde_json::Value = serde_json::from_slice(reply.body()).map_err(ApiError::internal)?;
    body.get("id")
        .and_then(|id| id.as_str()?.parse().ok())
        .ok_or_else(|| ApiError::internal("a stored booking has no id"))
}
