//! A guest asks: the nights are taken and the payment begins, in one transaction.

use sqlx::types::Json;
use uuid::Uuid;

use super::{Booking, BookingError, BookingState, HOLD, TimelineEntry};
use crate::db::{self, Tx};
use crate::ids;
use crate::jobs::catalogue::{AuthorizePayment, ExpireHold};
use crate::payments::Payment;
use crate::properties::pricing::{self, Price};
use crate::properties::quote::Quote;
use crate::properties::stay::{self, Stay, property_today};
use crate::properties::{CancellationPolicy, PropertyStatus, PropertyTerms, lock_terms};

/// What a guest asks for.
#[derive(Clone, Debug)]
pub struct BookingRequest {
    /// Who asks.
    pub guest_id: Uuid,
    /// What for.
    pub property_id: Uuid,
    /// When.
    pub stay: Stay,
    /// For how many.
    pub guests: i32,
    /// `pm_…`
    pub payment_method: String,
    /// The price and the cancellation policy that were promised, if they were.
    pub quote: Option<Quote>,
}

/// A booking that was just made, and what belongs to it: as it would be read again.
#[derive(Clone, Debug)]
pub struct Requested {
    /// The booking.
    pub booking: Booking,
    /// Its first payment.
    pub payment: Payment,
    /// What the property is called.
    pub property_title: String,
    /// The beginning of its timeline.
    pub entry: TimelineEntry,
}

/// Takes the nights for 15 minutes and starts the payment.
///
/// The property's lock puts bookings of one property in a queue; the exclusion constraint is the last judge.
///
/// # Errors
/// See [`BookingError`]; the transaction is of no more use then.
pub async fn request(tx: &mut Tx, request: BookingRequest) -> Result<Requested, BookingError> {
    let now = tx.now();
    let terms = lock_terms(tx, request.property_id)
        .await?
        .filter(|terms| terms.status == PropertyStatus::Listed);
    let terms = terms.ok_or(BookingError::NoSuchProperty)?;
    if terms.host_id == request.guest_id {
        return Err(BookingError::OwnProperty);
    }
    stay::check(
        &terms,
        property_today(now, terms.time_zone),
        request.stay,
        request.guests,
    )
    .map_err(BookingError::StayRefused)?;
    let (price, cancellation_policy) = agreed(&terms, &request)?;
    if let Some(taken) = taken_nights(tx, request.property_id, request.stay).await? {
        return Err(BookingError::DatesTaken(Some(taken)));
    }
    let (booking_id, payment_id) = (ids::new(now), ids::new(now));
    // An account that is being deleted is waited for, and books nothing once it is gone; the host's properties are
    // archived by then.
    let made = sqlx::query!(
        "WITH guest AS (
             SELECT id FROM users WHERE id = $3 AND deleted_at IS NULL FOR KEY SHARE),
         booking AS (
             INSERT INTO bookings (id, property_id, guest_id, host_id, state, stay, guests, instant_book, cancellation_policy, time_zone,
                 check_in_from, check_out_by, currency, price_lines, total_minor, host_fee_minor, hold_expires_at, created_at, updated_at)
             SELECT $1, $2, id, $4, 'held', daterange($5, $6), $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $18 FROM guest),
         payment AS (
             INSERT INTO payments (id, booking_id, guest_id, host_id, number, state, currency, amount_minor, payment_method, created_at, updated_at)
             SELECT $19, $1, id, $4, 1, 'pending', $13, $15, $20, $18, $18 FROM guest)
         INSERT INTO booking_events (booking_id, at, event, actor, actor_id, to_state, accepted)
         SELECT $1, $18, 'requested', 'guest', id, 'held', true FROM guest",
        booking_id,
        request.property_id,
        request.guest_id,
        terms.host_id,
        request.stay.check_in,
        request.stay.check_out,
        request.guests,
        terms.instant_book,
        cancellation_policy.name(),
        terms.time_zone.name(),
        terms.check_in_from,
        terms.check_out_by,
        price.currency.code(),
        Json(&price.lines) as _,
        price.total_minor,
        price.host_fee_minor,
        now + HOLD,
        now,
        payment_id,
        request.payment_method,
    )
    .execute(tx.conn())
    .await
    .map_err(|error| match db::violated_constraint(&error) {
        Some("bookings_no_overlap") => BookingError::DatesTaken(None),
        _ => error.into(),
    })?;
    if made.rows_affected() == 0 {
        return Err(BookingError::AccountDeleted);
    }
    tx.enqueue(&AuthorizePayment { payment_id });
    tx.enqueue_at(&ExpireHold { booking_id }, now + HOLD);
    tx.booking_changed(booking_id);
    let booking = Booking {
        id: booking_id,
        property_id: request.property_id,
        guest_id: request.guest_id,
        host_id: terms.host_id,
        state: BookingState::Held,
        check_in: request.stay.check_in,
        check_out: request.stay.check_out,
        guests: request.guests,
        instant_book: terms.instant_book,
        cancellation_policy,
        time_zone: terms.time_zone.name().to_owned(),
        check_in_from: terms.check_in_from,
        check_out_by: terms.check_out_by,
        currency: price.currency,
        total_minor: price.total_minor,
        host_fee_minor: price.host_fee_minor,
        price_lines: Json(price.lines),
        arrival_time: None,
        message: None,
        hold_expires_at: now + HOLD,
        approval_expires_at: None,
        confirmed_at: None,
        cancelled_at: None,
        version: 1,
        created_at: now,
        updated_at: now,
    };
    let payment = Payment::first_of(&booking, payment_id, request.payment_method);
    let entry = TimelineEntry {
        at: now,
        event: "requested".to_owned(),
        actor: "guest".to_owned(),
        from_state: None,
        to_state: Some(BookingState::Held.name().to_owned()),
        accepted: true,
        reason: None,
    };
    Ok(Requested {
        booking,
        payment,
        property_title: terms.title,
        entry,
    })
}

/// What the booking freezes: as it was quoted, or as it is now.
fn agreed(terms: &PropertyTerms, request: &BookingRequest) -> Result<(Price, CancellationPolicy), BookingError> {
    match &request.quote {
        Some(quote)
            if quote.property_id != request.property_id
                || quote.stay != request.stay
                || quote.guests != request.guests =>
        {
            Err(BookingError::QuoteMismatch)
        }
        Some(quote) => Ok((
            quote.price.clone(),
            quote.cancellation_policy.unwrap_or(terms.cancellation_policy),
        )),
        None => {
            let Stay { check_in, check_out } = request.stay;
            let price = pricing::price(terms, check_in, check_out, request.guests)?;
            Ok((price, terms.cancellation_policy))
        }
    }
}

/// The first range of nights within `stay` that somebody else holds.
pub(super) async fn taken_nights(tx: &mut Tx, property_id: Uuid, wanted: Stay) -> Result<Option<Stay>, sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT stay FROM bookings WHERE property_id = $1 AND stay && daterange($2, $3)
           AND state IN ('held', 'pending_approval', 'confirmed', 'checked_in', 'checked_out', 'completed', 'cancelled_by_host')
           ORDER BY stay LIMIT 1"#,
        property_id,
        wanted.check_in,
        wanted.check_out
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(row.and_then(|row| Stay::from_range(&row.stay)))
}
