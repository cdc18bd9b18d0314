//! What guest and host do with a booking: one transaction each, and a note on the timeline when it is refused.

use poem_openapi::payload::Json;
use roost_shared::bookings::{self, Amendment, BookingError};
use roost_shared::db::{Retries, Tx};
use uuid::Uuid;

use super::objects::Booking;
use super::reads;
use crate::error::ApiResult;
use crate::state::AppState;

/// What is asked of a booking.
#[derive(Debug)]
pub enum Action {
    /// Change what costs nothing.
    Amend(Amendment),
    /// Call it off, with a reason.
    Cancel(Option<String>),
    /// The guest has arrived.
    CheckIn,
    /// The guest has left.
    CheckOut,
    /// The host accepts.
    Approve,
    /// The host refuses, with a reason.
    Decline(Option<String>),
    /// The guest did not come, in the host's words.
    ReportNoShow(Option<String>),
}

impl Action {
    /// How the timeline calls it.
    const fn event(&self) -> &'static str {
        match self {
            Self::Amend(_) => "amended",
            Self::Cancel(_) => "cancelled",
            Self::CheckIn => "checked_in",
            Self::CheckOut => "checked_out",
            Self::Approve => "confirmed",
            Self::Decline(_) => "declined",
            Self::ReportNoShow(_) => "no_show",
        }
    }

    async fn perform(&self, tx: &mut Tx, booking_id: Uuid, user_id: Uuid) -> Result<bookings::Booking, BookingError> {
        match self {
            Self::Amend(amendment) => bookings::amend(tx, booking_id, user_id, amendment).await,
            Self::Cancel(reason) => bookings::cancel(tx, booking_id, user_id, reason.as_deref()).await,
            Self::CheckIn => bookings::check_in(tx, booking_id, user_id).await,
            Self::CheckOut => bookings::check_out(tx, booking_id, user_id).await,
            Self::Approve => bookings::approve(tx, booking_id, user_id).await,
            Self::Decline(reason) => bookings::decline(tx, booking_id, user_id, reason.as_deref()).await,
            Self::ReportNoShow(reason) => bookings::report_no_show(tx, booking_id, user_id, reason.as_deref()).await,
        }
    }
}

/// Does it and answers with the booking as it is then; or notes that it was refused, and why.
pub async fn act(state: &AppState, user_id: Uuid, booking_id: Uuid, action: &Action) -> ApiResult<Json<Booking>> {
    let mut retries = Retries::default();
    let error = loop {
        match attempt(state, user_id, booking_id, action).await {
            Ok(booking) => return Ok(Json(booking)),
            Err(BookingError::Database(error)) if retries.again(&error).await => {}
            Err(error) => break error,
        }
    };
    if let Err(unnoted) = note_refusal(state, user_id, booking_id, action, &error).await {
        // The refusal stands; only its trace on the timeline is missing.
        tracing::warn!(error = %unnoted, %booking_id, "refusal not noted");
    }
    Err(error.into())
}

async fn attempt(state: &AppState, user_id: Uuid, booking_id: Uuid, action: &Action) -> Result<Booking, BookingError> {
    let mut tx = state.db.begin().await?;
    let booking = action.perform(&mut tx, booking_id, user_id).await?;
    let parts = reads::complete(tx.conn(), booking).await?;
    tx.commit().await?;
    Ok(parts.seen_by(user_id))
}

async fn note_refusal(
    state: &AppState,
    user_id: Uuid,
    booking_id: Uuid,
    action: &Action,
    error: &BookingError,
) -> Result<(), sqlx::Error> {
    if !is_noteworthy(error) {
        return Ok(());
    }
    let mut tx = state.db.begin().await?;
    let Some(booking) = bookings::get(tx.conn(), booking_id).await? else {
        return Ok(());
    };
    let actor = bookings::actor_of(&booking, user_id);
    bookings::note_refusal(&mut tx, &booking, action.event(), actor, &error.to_string()).await?;
    tx.commit().await
}

/// Whether the booking itself said no to one of its two sides: not a stranger's request, not a fault of ours, and not
/// a request that was wrong in itself.
fn is_noteworthy(error: &BookingError) -> bool {
    match error {
        BookingError::WrongState { .. }
        | BookingError::StayOver(_)
        | BookingError::TooEarly(_)
        | BookingError::NotMissingYet(_)
        | BookingError::NotYours(_) => true,
        BookingError::NoSuchBooking
        | BookingError::NoSuchProperty
        | BookingError::AccountDeleted
        | BookingError::OwnProperty
        | BookingError::DatesTaken(_)
        | BookingError::StayRefused(_)
        | BookingError::QuoteMismatch
        | BookingError::Price(_)
        | BookingError::TooManyGuests(_)
        | BookingError::Database(_) => false,
    }
}
