//! From held to bound or released: what the authorised card, the host's word or the clock decide.

use chrono::NaiveTime;
use uuid::Uuid;

use super::request::taken_nights;
use super::timeline::{allowed, transition};
use super::transitions::Authorized;
use super::{
    APPROVAL, Actor, Booking, BookingError, BookingState, CAPTURE_MARGIN, Transition, lock, note, note_refusal,
    of_host, reload,
};
use crate::db::Tx;
use crate::jobs::catalogue::{CapturePayment, ExpireHold, MailKind, SendMail, VoidPayment, WarmCache};
use crate::notifications::{self, Event};
use crate::payments::{self, Payment, PaymentState};
use crate::properties::lock_terms;
use crate::properties::stay::instant;

/// Takes an authorised booking on: confirmed, or to the host's decision. One whose hold ran out gets its nights
/// back if they are free; otherwise, or if the stay is over, its payment is released. Doing it again changes nothing.
///
/// # Errors
/// See [`BookingError`].
pub async fn confirm(tx: &mut Tx, booking_id: Uuid) -> Result<(), BookingError> {
    // Property first, then booking: the order in which everything locks.
    let property_id = sqlx::query_scalar!("SELECT property_id FROM bookings WHERE id = $1", booking_id)
        .fetch_optional(tx.conn())
        .await?
        .ok_or(BookingError::NoSuchBooking)?;
    lock_terms(tx, property_id).await?;
    let booking = lock(tx, booking_id).await?.ok_or(BookingError::NoSuchBooking)?;
    let payment = payments::latest_of(tx.conn(), booking_id).await?;
    // A card that is being released is not confirmed on: whoever releases it ends the booking.
    let Some(payment) = payment.filter(Payment::may_be_captured) else {
        return Ok(());
    };
    let refusal = match booking.state.when_authorized() {
        Authorized::GoesOn | Authorized::GoesOnIfFree if booking.is_over(tx.now()) => {
            Some("the stay was over before it could be confirmed")
        }
        Authorized::GoesOn => None,
        Authorized::GoesOnIfFree => {
            let taken = taken_nights(tx, property_id, booking.stay()).await?;
            taken.map(|_| "the nights were given to somebody else")
        }
        // A request to book that is being decided, or a booking that is confirmed already.
        Authorized::Nothing => return Ok(()),
        Authorized::Release => {
            tx.enqueue(&VoidPayment { payment_id: payment.id });
            return Ok(());
        }
    };
    if let Some(reason) = refusal {
        note_refusal(tx, &booking, "confirmed", Actor::System, reason).await?;
        tx.enqueue(&VoidPayment { payment_id: payment.id });
        // A hold has a mail of its own when it ends.
        if booking.state != BookingState::Held {
            tx.enqueue(&SendMail {
                mail: MailKind::PaymentTooLate,
                subject_id: booking_id,
            });
        }
        return Ok(());
    }
    if booking.instant_book {
        bind(tx, &booking, &payment, Transition::Confirm, Actor::System).await
    } else {
        await_approval(tx, &booking, &payment).await
    }
}

/// Both sides are bound from here on.
async fn bind(
    tx: &mut Tx,
    booking: &Booking,
    payment: &Payment,
    how: Transition,
    actor: Actor,
) -> Result<(), BookingError> {
    let now = tx.now();
    sqlx::query!(
        "UPDATE bookings SET confirmed_at = $2, approval_expires_at = NULL WHERE id = $1",
        booking.id,
        now
    )
    .execute(tx.conn())
    .await?;
    transition(tx, booking, how, actor, None).await?;
    let both = [booking.guest_id, booking.host_id];
    notifications::tell(tx, Event::BookingConfirmed, booking.id, &both).await?;
    tx.enqueue(&CapturePayment { payment_id: payment.id });
    tx.enqueue(&SendMail {
        mail: MailKind::BookingConfirmedGuest,
        subject_id: booking.id,
    });
    tx.enqueue(&SendMail {
        mail: MailKind::BookingConfirmedHost,
        subject_id: booking.id,
    });
    tx.enqueue(&WarmCache {
        property_id: booking.property_id,
    });
    Ok(())
}

async fn await_approval(tx: &mut Tx, booking: &Booking, payment: &Payment) -> Result<(), BookingError> {
    // Nobody can be a guest any more on the day of departure.
    let over = instant(booking.check_out, NaiveTime::MIN, booking.zone());
    let by_time = over.min(tx.now() + APPROVAL);
    let until = payment
        .capture_before
        .map_or(by_time, |lapses| by_time.min(lapses - CAPTURE_MARGIN));
    sqlx::query!(
        "UPDATE bookings SET approval_expires_at = $2 WHERE id = $1",
        booking.id,
        until
    )
    .execute(tx.conn())
    .await?;
    transition(tx, booking, Transition::AwaitApproval, Actor::System, None).await?;
    tx.enqueue_at(&ExpireHold { booking_id: booking.id }, until);
    tx.enqueue(&SendMail {
        mail: MailKind::BookingRequestedHost,
        subject_id: booking.id,
    });
    notifications::tell(tx, Event::BookingRequested, booking.id, &[booking.host_id]).await?;
    Ok(())
}

/// The host accepts a request to book.
///
/// # Errors
/// See [`BookingError`].
pub async fn approve(tx: &mut Tx, booking_id: Uuid, user_id: Uuid) -> Result<Booking, BookingError> {
    let booking = of_host(tx, booking_id, user_id).await?;
    if booking.state == BookingState::PendingApproval && booking.is_over(tx.now()) {
        return Err(BookingError::StayOver(booking.check_out));
    }
    let payment = payments::latest_of(tx.conn(), booking_id).await?;
    let in_time = booking.approval_expires_at.is_none_or(|until| tx.now() < until);
    let Some(payment) = payment.filter(|payment| payment.may_be_captured() && in_time) else {
        return Err(BookingError::WrongState {
            state: booking.state,
            verb: Transition::Approve.verb(),
        });
    };
    allowed(&booking, Transition::Approve)?;
    bind(tx, &booking, &payment, Transition::Approve, Actor::Host(user_id)).await?;
    reload(tx, booking_id).await
}

/// The host refuses a request to book; the card is released.
///
/// # Errors
/// See [`BookingError`].
pub async fn decline(
    tx: &mut Tx,
    booking_id: Uuid,
    user_id: Uuid,
    reason: Option<&str>,
) -> Result<Booking, BookingError> {
    let booking = of_host(tx, booking_id, user_id).await?;
    transition(tx, &booking, Transition::Decline, Actor::Host(user_id), reason).await?;
    payments::release(tx, booking_id).await?;
    tx.enqueue(&SendMail {
        mail: MailKind::BookingDeclined,
        subject_id: booking_id,
    });
    notifications::tell(tx, Event::BookingDeclined, booking_id, &[booking.guest_id]).await?;
    reload(tx, booking_id).await
}

/// The money of a booking is gone before it was taken: a confirmed booking ends and both sides are told. The booking must
/// be locked.
pub(crate) async fn lose_payment(tx: &mut Tx, booking_id: Uuid, actor: Actor) -> Result<(), sqlx::Error> {
    const REASON: &str = "the reservation on the card is gone";
    let Some(booking) = lock(tx, booking_id).await? else {
        return Ok(());
    };
    match booking.state {
        BookingState::Confirmed => {}
        // The guest is there already, or owes the price without having come: people have to settle it.
        BookingState::CheckedIn | BookingState::CheckedOut | BookingState::Completed | BookingState::NoShow => {
            tracing::error!(%booking_id, "a stay that has begun is not paid");
            metrics::counter!("roost_stays_unpaid_total").increment(1);
            return note(tx, booking_id, "payment_lost", actor, Some(REASON)).await;
        }
        _ => return Ok(()),
    }
    let ended = transition(tx, &booking, Transition::LosePayment, actor, Some(REASON));
    match ended.await {
        Ok(()) => {}
        Err(BookingError::Database(error)) => return Err(error),
        Err(error) => return Err(sqlx::Error::Protocol(error.to_string())),
    }
    for mail in [MailKind::PaymentLostGuest, MailKind::PaymentLostHost] {
        tx.enqueue(&SendMail {
            mail,
            subject_id: booking_id,
        });
    }
    tx.enqueue(&WarmCache {
        property_id: booking.property_id,
    });
    Ok(())
}

/// Ends a hold or a request whose time is over. The caller has seen to the money; the booking must be locked.
///
/// # Errors
/// See [`BookingError`].
pub async fn expire(tx: &mut Tx, booking: &Booking) -> Result<(), BookingError> {
    let payment = payments::latest_of(tx.conn(), booking.id).await?;
    let refused = payment.is_some_and(|payment| payment.state == PaymentState::Failed);
    let ended = if booking.state == BookingState::Held && refused {
        Transition::ExpireUnpaid
    } else {
        Transition::Expire
    };
    transition(tx, booking, ended, Actor::System, None).await?;
    tx.enqueue(&SendMail {
        mail: MailKind::BookingExpired,
        subject_id: booking.id,
    });
    notifications::tell(tx, Event::BookingExpired, booking.id, &[booking.guest_id]).await?;
    Ok(())
}
