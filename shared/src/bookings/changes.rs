//! What guest and host do with a booking they have: amend it, check in and out, call it off.

use chrono::{DateTime, NaiveTime, Utc};
use uuid::Uuid;

use super::timeline::{allowed, transition};
use super::{
    Actor, Booking, BookingError, BookingState, RefundDecision, Transition, actor_of, note, of_either, reload, rules,
};
use crate::db::Tx;
use crate::jobs::catalogue::{MailKind, SendMail, WarmCache};
use crate::notifications::{self, Event};
use crate::payments;
use crate::properties::stay::property_today;
use crate::reviews;

/// Refuses what belongs before or into the stay once its last day has come at the property.
///
/// # Errors
/// [`BookingError::StayOver`].
pub fn ensure_not_over(booking: &Booking, now: DateTime<Utc>) -> Result<(), BookingError> {
    let bound = matches!(booking.state, BookingState::Confirmed | BookingState::CheckedIn);
    if bound && booking.is_over(now) {
        return Err(BookingError::StayOver(booking.check_out));
    }
    Ok(())
}

/// Guest or host calls it off; what comes back is what [`cancellation`] says at this instant.
///
/// # Errors
/// See [`BookingError`].
pub async fn cancel(
    tx: &mut Tx,
    booking_id: Uuid,
    user_id: Uuid,
    reason: Option<&str>,
) -> Result<Booking, BookingError> {
    let booking = of_either(tx, booking_id, user_id).await?;
    let by_host = booking.host_id == user_id;
    let (cancelled, actor) = if by_host {
        (Transition::CancelByHost, Actor::Host(user_id))
    } else {
        (Transition::CancelByGuest, Actor::Guest(user_id))
    };
    allowed(&booking, cancelled)?;
    ensure_not_over(&booking, tx.now())?;
    let decision = cancellation(&booking, by_host, tx.now());
    let now = tx.now();
    sqlx::query!("UPDATE bookings SET cancelled_at = $2 WHERE id = $1", booking_id, now)
        .execute(tx.conn())
        .await?;
    transition(tx, &booking, cancelled, actor, reason).await?;
    if booking.state.is_bound() {
        payments::pay_back(tx, booking_id, decision.total(&booking.price_lines), decision.rule).await?;
    } else {
        payments::release(tx, booking_id).await?;
    }
    tx.enqueue(&SendMail {
        mail: MailKind::BookingCancelledGuest,
        subject_id: booking_id,
    });
    tx.enqueue(&SendMail {
        mail: MailKind::BookingCancelledHost,
        subject_id: booking_id,
    });
    let both = [booking.guest_id, booking.host_id];
    notifications::tell(tx, Event::BookingCancelled, booking_id, &both).await?;
    tx.enqueue(&WarmCache {
        property_id: booking.property_id,
    });
    reload(tx, booking_id).await
}

/// What a cancellation at `now` pays back, and by which rule.
#[must_use]
pub fn cancellation(booking: &Booking, by_host: bool, now: DateTime<Utc>) -> RefundDecision {
    let stay = booking.stay();
    let decision = match booking.state {
        BookingState::Held | BookingState::PendingApproval => rules::full_refund(
            stay,
            "not_confirmed",
            "the card is released: the booking was never confirmed",
        ),
        _ if by_host => rules::full_refund(stay, "by_host", "a host who cancels pays everything back"),
        _ => rules::guest_cancellation(&booking.cancellation_terms(), now),
    };
    decision.in_currency(booking.currency)
}

/// The guest has arrived. Either side may say so, from the day of check-in on.
///
/// # Errors
/// See [`BookingError`].
pub async fn check_in(tx: &mut Tx, booking_id: Uuid, user_id: Uuid) -> Result<Booking, BookingError> {
    let booking = of_either(tx, booking_id, user_id).await?;
    allowed(&booking, Transition::CheckIn)?;
    ensure_not_over(&booking, tx.now())?;
    if property_today(tx.now(), booking.zone()) < booking.check_in {
        return Err(BookingError::TooEarly(booking.check_in));
    }
    let actor = actor_of(&booking, user_id);
    transition(tx, &booking, Transition::CheckIn, actor, None).await?;
    reload(tx, booking_id).await
}

/// The guest has left. Either side may say so; from now on both may review.
///
/// # Errors
/// See [`BookingError`].
pub async fn check_out(tx: &mut Tx, booking_id: Uuid, user_id: Uuid) -> Result<Booking, BookingError> {
    let booking = of_either(tx, booking_id, user_id).await?;
    let actor = actor_of(&booking, user_id);
    transition(tx, &booking, Transition::CheckOut, actor, None).await?;
    let now = tx.now();
    reviews::open(tx, &booking, now).await?;
    reload(tx, booking_id).await
}

/// What a guest may still change. None: left as it is.
#[derive(Clone, Debug, Default)]
pub struct Amendment {
    /// How many people.
    pub guests: Option<i32>,
    /// When they mean to arrive.
    pub arrival_time: Option<NaiveTime>,
    /// To the host.
    pub message: Option<String>,
}

/// Changes what costs nothing.
///
/// # Errors
/// See [`BookingError`].
pub async fn amend(
    tx: &mut Tx,
    booking_id: Uuid,
    user_id: Uuid,
    amendment: &Amendment,
) -> Result<Booking, BookingError> {
    let booking = of_either(tx, booking_id, user_id).await?;
    if booking.guest_id != user_id {
        return Err(BookingError::NotYours("guest"));
    }
    if !booking.state.can_be_cancelled() {
        return Err(BookingError::WrongState {
            state: booking.state,
            verb: "changed",
        });
    }
    ensure_not_over(&booking, tx.now())?;
    if let Some(guests) = amendment.guests {
        let max = sqlx::query_scalar!("SELECT max_guests FROM properties WHERE id = $1", booking.property_id)
            .fetch_one(tx.conn())
            .await?;
        if guests > max {
            return Err(BookingError::TooManyGuests(max));
        }
    }
    let now = tx.now();
    sqlx::query!(
        "UPDATE bookings SET guests = coalesce($2, guests), arrival_time = coalesce($3, arrival_time), message = coalesce($4, message),
             version = version + 1, updated_at = $5 WHERE id = $1",
        booking_id,
        amendment.guests,
        amendment.arrival_time,
        amendment.message,
        now
    )
    .execute(tx.conn())
    .await?;
    note(tx, booking_id, "amended", Actor::Guest(user_id), None).await?;
    tx.booking_changed(booking_id);
    reload(tx, booking_id).await
}
