//! Mails that tell guest and host what became of a booking.

use roost_shared::bookings::{self, Booking, BookingState, Side};
use roost_shared::jobs::catalogue::MailKind;
use roost_shared::payments::{self, Payment};
use roost_shared::properties::pricing::LineKind;
use uuid::Uuid;

use super::{Place, Reader, first_name, place, reader, stay};
use crate::context::Context;
use crate::email::{
    BookingCancelledGuest, BookingCancelledHost, BookingConfirmedGuest, BookingConfirmedHost, BookingDeclined,
    BookingExpired, BookingNoShow, BookingRequestedHost, CancelledBy, Expiry, Mail, PaymentLostGuest, PaymentLostHost,
    PriceLine, Stay,
};
use crate::error::JobError;

/// Whether a booking in this state is still what the mail says of it: a mail may come late.
fn still_holds(kind: MailKind, state: BookingState) -> bool {
    match kind {
        MailKind::BookingConfirmedGuest | MailKind::BookingConfirmedHost => state.is_bound(),
        MailKind::BookingRequestedHost => state == BookingState::PendingApproval,
        MailKind::BookingExpired => matches!(state, BookingState::Expired | BookingState::PaymentFailed),
        MailKind::PaymentLostGuest | MailKind::PaymentLostHost => state == BookingState::PaymentFailed,
        MailKind::BookingDeclined => state == BookingState::Declined,
        MailKind::BookingNoShow => state == BookingState::NoShow,
        MailKind::BookingCancelledGuest | MailKind::BookingCancelledHost => {
            matches!(state, BookingState::CancelledByGuest | BookingState::CancelledByHost)
        }
        MailKind::PaymentTooLate => !state.is_bound(),
        MailKind::VerifyEmail
        | MailKind::PaymentFailed
        | MailKind::RefundFailed
        | MailKind::ReviewInvitationGuest
        | MailKind::ReviewInvitationHost
        | MailKind::ReviewReminderGuest
        | MailKind::ReviewReminderHost
        | MailKind::ReviewHidden
        | MailKind::ReviewShown
        | MailKind::UnreadMessages => true,
    }
}

/// What the booking says now; nothing when that is not what the mail was to say.
pub(super) async fn about_booking(
    ctx: &Context,
    kind: MailKind,
    booking_id: Uuid,
) -> Result<Option<(Reader, Mail)>, JobError> {
    let mut connection = ctx.db.pool().acquire().await?;
    let booking = bookings::get(&mut connection, booking_id).await?;
    let Some(booking) = booking.filter(|booking| still_holds(kind, booking.state)) else {
        return Ok(None);
    };
    let side = match kind {
        MailKind::BookingConfirmedHost
        | MailKind::BookingRequestedHost
        | MailKind::BookingCancelledHost
        | MailKind::PaymentLostHost => Side::Host,
        _ => Side::Guest,
    };
    let (reader_id, other_id) = match side {
        Side::Guest => (booking.guest_id, booking.host_id),
        Side::Host => (booking.host_id, booking.guest_id),
    };
    let Some(reader) = reader(&mut connection, reader_id).await? else {
        return Ok(None);
    };
    let other = first_name(&mut connection, other_id).await?;
    let place = place(&mut connection, booking.property_id).await?;
    let payment = payments::latest_of(&mut connection, booking.id).await?;
    let reason = bookings::reason_of_other_side(&mut connection, &booking, side).await?;
    drop(connection);
    let (guest_name, host_name) = match side {
        Side::Guest => (reader.name.clone(), other),
        Side::Host => (other, reader.name.clone()),
    };
    let sides = Sides {
        guest_name,
        host_name,
        reason,
    };
    let mail = booking_mail(ctx, kind, &booking, payment.as_ref(), &place, sides);
    Ok(mail.map(|mail| (reader, mail)))
}

struct Sides {
    guest_name: String,
    host_name: String,
    /// Why the one who does not read the mail ended the booking.
    reason: Option<String>,
}

fn booking_mail(
    ctx: &Context,
    kind: MailKind,
    booking: &Booking,
    payment: Option<&Payment>,
    place: &Place,
    Sides {
        guest_name,
        host_name,
        reason,
    }: Sides,
) -> Option<Mail> {
    let stay = stay(booking, place);
    let booking_url = ctx.links.booking(booking.id);
    let search_url = ctx.links.properties();
    let (currency, total_minor) = (booking.currency, booking.total_minor);
    let payout_minor = payout(booking);
    let message = booking.message.clone();
    Some(match kind {
        MailKind::BookingConfirmedGuest => Mail::BookingConfirmedGuest(BookingConfirmedGuest {
            guest_name,
            host_name,
            stay,
            lines: booking
                .price_lines
                .iter()
                .map(|line| PriceLine {
                    label: line.label.clone(),
                    amount_minor: line.amount_minor,
                })
                .collect(),
            total_minor,
            currency,
            house_rules: Some(place.house_rules.clone()).filter(|rules| !rules.is_empty()),
            booking_url,
        }),
        MailKind::BookingConfirmedHost => Mail::BookingConfirmedHost(BookingConfirmedHost {
            host_name,
            guest_name,
            stay,
            total_minor,
            host_fee_minor: booking.host_fee_minor,
            payout_minor,
            currency,
            arrival_time: booking.arrival_time,
            message,
            booking_url,
        }),
        MailKind::BookingRequestedHost => Mail::BookingRequestedHost(BookingRequestedHost {
            host_name,
            guest_name,
            stay,
            payout_minor,
            currency,
            message,
            approve_by: booking.approval_expires_at?,
            booking_url,
        }),
        MailKind::BookingCancelledGuest | MailKind::BookingCancelledHost => {
            let sides = Sides {
                guest_name,
                host_name,
                reason,
            };
            cancelled(kind, booking, payment, stay, sides, booking_url)?
        }
        MailKind::BookingExpired | MailKind::PaymentTooLate => Mail::BookingExpired(BookingExpired {
            guest_name,
            host_name,
            stay,
            because: if kind == MailKind::PaymentTooLate {
                Expiry::PaidTooLate
            } else if booking.approval_expires_at.is_some() {
                Expiry::Unanswered
            } else if payment.is_some_and(|payment| payment.authorized_minor > 0) {
                Expiry::Over
            } else {
                Expiry::Unpaid
            },
            search_url,
        }),
        MailKind::PaymentLostGuest => Mail::PaymentLostGuest(PaymentLostGuest {
            guest_name,
            stay,
            total_minor,
            currency,
            search_url,
        }),
        MailKind::PaymentLostHost => Mail::PaymentLostHost(PaymentLostHost {
            host_name,
            guest_name,
            stay,
            booking_url,
        }),
        MailKind::BookingDeclined => Mail::BookingDeclined(BookingDeclined {
            guest_name,
            host_name,
            stay,
            message: reason,
            search_url,
        }),
        MailKind::BookingNoShow => Mail::BookingNoShow(BookingNoShow {
            guest_name,
            host_name,
            stay,
            message: reason,
            total_minor,
            currency,
            booking_url,
        }),
        MailKind::VerifyEmail
        | MailKind::PaymentFailed
        | MailKind::RefundFailed
        | MailKind::ReviewInvitationGuest
        | MailKind::ReviewInvitationHost
        | MailKind::ReviewReminderGuest
        | MailKind::ReviewReminderHost
        | MailKind::ReviewHidden
        | MailKind::ReviewShown
        | MailKind::UnreadMessages => return None,
    })
}

fn cancelled(
    kind: MailKind,
    booking: &Booking,
    payment: Option<&Payment>,
    stay: Stay,
    Sides {
        guest_name,
        host_name,
        reason: message,
    }: Sides,
    booking_url: String,
) -> Option<Mail> {
    let by_host = booking.state == BookingState::CancelledByHost;
    let cancelled_by = if by_host { CancelledBy::Host } else { CancelledBy::Guest };
    // The decision again, as it was at that instant.
    let before = Booking {
        state: if booking.confirmed_at.is_some() {
            BookingState::Confirmed
        } else {
            BookingState::Held
        },
        ..booking.clone()
    };
    let decision = bookings::cancellation(&before, by_host, booking.cancelled_at?);
    let bound = booking.confirmed_at.is_some() && payment.is_some_and(|payment| payment.state.is_live());
    let paid_minor = if bound { booking.total_minor } else { 0 };
    let refund_minor = if bound { decision.total(&booking.price_lines) } else { 0 };
    let kept = if booking.total_minor > 0 {
        let (payout, kept, total) = (
            i128::from(payout(booking)),
            i128::from(paid_minor - refund_minor),
            i128::from(booking.total_minor),
        );
        i64::try_from((2 * payout * kept + total) / (2 * total)).unwrap_or(0)
    } else {
        0
    };
    let rule = decision.explanation.to_owned();
    let currency = booking.currency;
    Some(if kind == MailKind::BookingCancelledGuest {
        Mail::BookingCancelledGuest(BookingCancelledGuest {
            guest_name,
            host_name,
            stay,
            cancelled_by,
            message,
            paid_minor,
            refund_minor,
            currency,
            rule,
            booking_url,
        })
    } else {
        Mail::BookingCancelledHost(BookingCancelledHost {
            host_name,
            guest_name,
            stay,
            cancelled_by,
            message,
            paid_minor,
            refund_minor,
            payout_minor: kept,
            currency,
            rule,
            booking_url,
        })
    })
}

/// What the host receives of a booking that takes place.
fn payout(booking: &Booking) -> i64 {
    let guest_fee: i64 = booking
        .price_lines
        .iter()
        .filter(|line| line.kind == LineKind::GuestServiceFee)
        .map(|line| line.amount_minor)
        .sum();
    booking.total_minor - guest_fee - booking.host_fee_minor
}
