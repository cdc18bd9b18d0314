//! A guest who does not come: the host says so, and the booking ends.
//!
//! Who does not come and does not cancel gets nothing back: the price stays paid, whatever the cancellation policy, and
//! the host receives it as for any other stay. The nights that are left can be booked again. Neither side reviews a
//! stay that did not take place.

use uuid::Uuid;

use super::timeline::{allowed, transition};
use super::{Actor, Booking, BookingError, BookingState, Transition, of_host, reload};
use crate::db::Tx;
use crate::jobs::catalogue::{MailKind, SendMail, WarmCache};
use crate::notifications::{self, Event};

/// The guest did not come. The host may say so from the time of check-in until that of check-out. Saying it again changes
/// nothing.
///
/// # Errors
/// See [`BookingError`].
pub async fn report(
    tx: &mut Tx,
    booking_id: Uuid,
    user_id: Uuid,
    reason: Option<&str>,
) -> Result<Booking, BookingError> {
    let booking = of_host(tx, booking_id, user_id).await?;
    if booking.state == BookingState::NoShow {
        return Ok(booking);
    }
    allowed(&booking, Transition::MissGuest)?;
    let expected = booking.presence_expected();
    if tx.now() < expected.start {
        let from = expected.start.with_timezone(&booking.zone());
        return Err(BookingError::NotMissingYet(from.fixed_offset()));
    }
    if tx.now() >= expected.end {
        return Err(BookingError::StayOver(booking.check_out));
    }
    transition(tx, &booking, Transition::MissGuest, Actor::Host(user_id), reason).await?;
    notifications::tell(tx, Event::BookingNoShow, booking_id, &[booking.guest_id]).await?;
    tx.enqueue(&SendMail {
        mail: MailKind::BookingNoShow,
        subject_id: booking_id,
    });
    tx.enqueue(&WarmCache {
        property_id: booking.property_id,
    });
    reload(tx, booking_id).await
}
