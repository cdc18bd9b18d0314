//! Bookings: a request takes the nights, jobs take it to confirmed or release them, guest and host move it on.
//!
//! Each operation works within the caller's transaction and enqueues what follows from it. [`rules`] is pure,
//! [`store`] reads rows. Whatever happens to a booking, refusals included, is noted on its timeline.

pub mod rules;
pub mod store;

use chrono::{DateTime, NaiveDate, NaiveTime, TimeDelta, Utc};
use sqlx::types::Json;
use uuid::Uuid;

use crate::db::{self, Tx};
use crate::ids;
use crate::jobs::catalogue::{
    AuthorizePayment, CapturePayment, ExpireHold, MailKind, SendMail, VoidPayment, WarmCache,
};
use crate::payments::{self, Payment, PaymentState};
use crate::properties::pricing::{self, Price, PriceError};
use crate::properties::quote::Quote;
use crate::properties::stay::{self, Stay, StayRefusal, property_today};
use crate::properties::{PropertyStatus, lock_terms};

pub use rules::{BookingState, RefundDecision};
pub use store::{Booking, Filter, Progress, Side, TimelineEntry, get, list, lock, progress, timeline};

/// How long the nights wait for a card.
pub const HOLD: TimeDelta = TimeDelta::minutes(15);
/// How long a host may think about a request.
pub const APPROVAL: TimeDelta = TimeDelta::hours(24);
/// An approval ends this long before the card's authorisation does.
const CAPTURE_MARGIN: TimeDelta = TimeDelta::hours(1);

/// Who does something to a booking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor {
    /// The guest.
    Guest(Uuid),
    /// The host.
    Host(Uuid),
    /// A job.
    System,
    /// What a webhook told.
    Stripe,
}

impl Actor {
    const fn kind(self) -> &'static str {
        match self {
            Self::Guest(_) => "guest",
            Self::Host(_) => "host",
            Self::System => "system",
            Self::Stripe => "stripe",
        }
    }

    const fn id(self) -> Option<Uuid> {
        match self {
            Self::Guest(id) | Self::Host(id) => Some(id),
            Self::System | Self::Stripe => None,
        }
    }
}

/// Why an operation was refused.
#[derive(Debug, thiserror::Error)]
pub enum BookingError {
    /// Not there, or not this user's.
    #[error("there is no such booking")]
    NoSuchBooking,
    /// Not there, or not listed.
    #[error("there is no such property")]
    NoSuchProperty,
    /// A host does not book their own property.
    #[error("you cannot book your own property")]
    OwnProperty,
    /// Some of the nights are taken.
    #[error("some of these nights are taken")]
    DatesTaken(Option<Stay>),
    /// What speaks against the stay.
    #[error("the property does not take this stay")]
    StayRefused(Vec<StayRefusal>),
    /// What the token was issued for is something else.
    #[error("the quote is for another property, stay or number of guests")]
    QuoteMismatch,
    /// No price.
    #[error(transparent)]
    Price(#[from] PriceError),
    /// The booking is in a state that does not allow it.
    #[error("a booking that is {} cannot be {verb}", .state.name())]
    WrongState {
        /// Where it stands.
        state: BookingState,
        /// What was asked, as a participle.
        verb: &'static str,
    },
    /// The day for it has not come.
    #[error("check-in is possible from {0}")]
    TooEarly(NaiveDate),
    /// Only the other side may do it.
    #[error("only the {0} may do this")]
    NotYours(&'static str),
    /// More guests than the property takes.
    #[error("the property takes {0} guests or fewer")]
    TooManyGuests(i32),
    /// Postgres.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

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
    /// The price that was promised, if one was.
    pub quote: Option<Quote>,
}

/// Takes the nights for 15 minutes and starts the payment.
///
/// The property's lock puts bookings of one property in a queue; the exclusion constraint is the last judge.
///
/// # Errors
/// See [`BookingError`]; the transaction is of no more use then.
pub async fn request(tx: &mut Tx, request: BookingRequest) -> Result<(Booking, Payment), BookingError> {
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
    let price = agreed_price(&terms, &request)?;
    if let Some(taken) = taken_nights(tx, request.property_id, request.stay).await? {
        return Err(BookingError::DatesTaken(Some(taken)));
    }
    let (booking_id, payment_id) = (ids::new(now), ids::new(now));
    sqlx::query!(
        "WITH booking AS (
             INSERT INTO bookings (id, property_id, guest_id, host_id, state, stay, guests, instant_book, cancellation_policy, time_zone,
                 check_in_from, check_out_by, currency, price_lines, total_minor, host_fee_minor, hold_expires_at, created_at, updated_at)
             VALUES ($1, $2, $3, $4, 'held', daterange($5, $6), $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $18)),
         payment AS (
             INSERT INTO payments (id, booking_id, guest_id, host_id, number, state, currency, amount_minor, payment_method, created_at, updated_at)
             VALUES ($19, $1, $3, $4, 1, 'pending', $13, $15, $20, $18, $18))
         INSERT INTO booking_events (booking_id, at, event, actor, actor_id, to_state, accepted)
         VALUES ($1, $18, 'requested', 'guest', $3, 'held', true)",
        booking_id,
        request.property_id,
        request.guest_id,
        terms.host_id,
        request.stay.check_in,
        request.stay.check_out,
        request.guests,
        terms.instant_book,
        terms.cancellation_policy.name(),
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
        cancellation_policy: terms.cancellation_policy,
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
    Ok((booking, payment))
}

fn agreed_price(terms: &crate::properties::PropertyTerms, request: &BookingRequest) -> Result<Price, BookingError> {
    match &request.quote {
        Some(quote)
            if quote.property_id != request.property_id
                || quote.stay != request.stay
                || quote.guests != request.guests =>
        {
            Err(BookingError::QuoteMismatch)
        }
        Some(quote) => Ok(quote.price.clone()),
        None => Ok(pricing::price(
            terms,
            request.stay.check_in,
            request.stay.check_out,
            request.guests,
        )?),
    }
}

/// The first range of nights within `stay` that somebody else holds.
async fn taken_nights(tx: &mut Tx, property_id: Uuid, wanted: Stay) -> Result<Option<Stay>, sqlx::Error> {
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

/// Takes an authorised booking on: confirmed, or to the host's decision. One whose hold ran out gets its nights
/// back if they are free; otherwise its payment is released. Doing it again changes nothing.
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
    let Some(payment) = payment.filter(|payment| payment.state == PaymentState::Authorized) else {
        return Ok(());
    };
    match booking.state {
        BookingState::Held => {}
        BookingState::Expired | BookingState::PaymentFailed => {
            if taken_nights(tx, property_id, booking.stay()).await?.is_some() {
                note_refusal(
                    tx,
                    &booking,
                    "confirmed",
                    Actor::System,
                    "the nights were given to somebody else",
                )
                .await?;
                tx.enqueue(&VoidPayment { payment_id: payment.id });
                return Ok(());
            }
        }
        // A request to book that is being decided, or a booking that is confirmed already.
        BookingState::PendingApproval
        | BookingState::Confirmed
        | BookingState::CheckedIn
        | BookingState::CheckedOut
        | BookingState::Completed => return Ok(()),
        BookingState::Declined
        | BookingState::CancelledByGuest
        | BookingState::CancelledByHost
        | BookingState::NoShow => {
            tx.enqueue(&VoidPayment { payment_id: payment.id });
            return Ok(());
        }
    }
    if booking.instant_book {
        bind(tx, &booking, &payment, Actor::System).await
    } else {
        await_approval(tx, &booking, &payment).await
    }
}

/// Both sides are bound from here on.
async fn bind(tx: &mut Tx, booking: &Booking, payment: &Payment, actor: Actor) -> Result<(), BookingError> {
    let now = tx.now();
    sqlx::query!(
        "UPDATE bookings SET confirmed_at = $2, approval_expires_at = NULL WHERE id = $1",
        booking.id,
        now
    )
    .execute(tx.conn())
    .await?;
    transition(tx, booking, BookingState::Confirmed, "confirmed", actor, None).await?;
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
    let by_time = tx.now() + APPROVAL;
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
    transition(
        tx,
        booking,
        BookingState::PendingApproval,
        "authorized",
        Actor::System,
        None,
    )
    .await?;
    tx.enqueue_at(&ExpireHold { booking_id: booking.id }, until);
    tx.enqueue(&SendMail {
        mail: MailKind::BookingRequestedHost,
        subject_id: booking.id,
    });
    Ok(())
}

/// The host accepts a request to book.
///
/// # Errors
/// See [`BookingError`].
pub async fn approve(tx: &mut Tx, booking_id: Uuid, user_id: Uuid) -> Result<Booking, BookingError> {
    let booking = of_host(tx, booking_id, user_id).await?;
    let payment = payments::latest_of(tx.conn(), booking_id).await?;
    match (booking.state, payment) {
        (BookingState::PendingApproval, Some(payment))
            if payment.state == PaymentState::Authorized
                && booking.approval_expires_at.is_none_or(|until| tx.now() < until) =>
        {
            bind(tx, &booking, &payment, Actor::Host(user_id)).await?;
            reload(tx, booking_id).await
        }
        (state, _) => Err(BookingError::WrongState {
            state,
            verb: "approved",
        }),
    }
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
    if booking.state != BookingState::PendingApproval {
        return Err(BookingError::WrongState {
            state: booking.state,
            verb: "declined",
        });
    }
    transition(
        tx,
        &booking,
        BookingState::Declined,
        "declined",
        Actor::Host(user_id),
        reason,
    )
    .await?;
    payments::release(tx, booking_id).await?;
    tx.enqueue(&SendMail {
        mail: MailKind::BookingDeclined,
        subject_id: booking_id,
    });
    reload(tx, booking_id).await
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
    if !booking.state.can_be_cancelled() {
        return Err(BookingError::WrongState {
            state: booking.state,
            verb: "cancelled",
        });
    }
    let by_host = booking.host_id == user_id;
    let (state, actor) = if by_host {
        (BookingState::CancelledByHost, Actor::Host(user_id))
    } else {
        (BookingState::CancelledByGuest, Actor::Guest(user_id))
    };
    let decision = cancellation(&booking, by_host, tx.now());
    let now = tx.now();
    sqlx::query!("UPDATE bookings SET cancelled_at = $2 WHERE id = $1", booking_id, now)
        .execute(tx.conn())
        .await?;
    transition(tx, &booking, state, "cancelled", actor, reason).await?;
    let bound = matches!(booking.state, BookingState::Confirmed | BookingState::CheckedIn);
    if bound {
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
    tx.enqueue(&WarmCache {
        property_id: booking.property_id,
    });
    reload(tx, booking_id).await
}

/// What a cancellation at `now` pays back, and by which rule.
#[must_use]
pub fn cancellation(booking: &Booking, by_host: bool, now: DateTime<Utc>) -> RefundDecision {
    let stay = booking.stay();
    match booking.state {
        BookingState::Held | BookingState::PendingApproval => rules::full_refund(
            stay,
            "not_confirmed",
            "the card is released: the booking was never confirmed",
        ),
        _ if by_host => rules::full_refund(stay, "by_host", "a host who cancels pays everything back"),
        _ => rules::guest_cancellation(&booking.cancellation_terms(), now),
    }
}

/// The guest has arrived. Either side may say so, from the day of check-in on.
///
/// # Errors
/// See [`BookingError`].
pub async fn check_in(tx: &mut Tx, booking_id: Uuid, user_id: Uuid) -> Result<Booking, BookingError> {
    let booking = of_either(tx, booking_id, user_id).await?;
    if booking.state != BookingState::Confirmed {
        return Err(BookingError::WrongState {
            state: booking.state,
            verb: "checked in",
        });
    }
    if property_today(tx.now(), booking.zone()) < booking.check_in {
        return Err(BookingError::TooEarly(booking.check_in));
    }
    transition(
        tx,
        &booking,
        BookingState::CheckedIn,
        "checked_in",
        actor_of(&booking, user_id),
        None,
    )
    .await?;
    reload(tx, booking_id).await
}

/// The guest has left. Either side may say so.
///
/// # Errors
/// See [`BookingError`].
pub async fn check_out(tx: &mut Tx, booking_id: Uuid, user_id: Uuid) -> Result<Booking, BookingError> {
    let booking = of_either(tx, booking_id, user_id).await?;
    if booking.state != BookingState::CheckedIn {
        return Err(BookingError::WrongState {
            state: booking.state,
            verb: "checked out",
        });
    }
    transition(
        tx,
        &booking,
        BookingState::CheckedOut,
        "checked_out",
        actor_of(&booking, user_id),
        None,
    )
    .await?;
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

/// Ends a hold or a request whose time is over. The caller has seen to the money; the booking must be locked.
///
/// # Errors
/// See [`BookingError`].
pub async fn expire(tx: &mut Tx, booking: &Booking) -> Result<(), BookingError> {
    let payment = payments::latest_of(tx.conn(), booking.id).await?;
    let refused = payment.is_some_and(|payment| payment.state == PaymentState::Failed);
    let state = if booking.state == BookingState::Held && refused {
        BookingState::PaymentFailed
    } else {
        BookingState::Expired
    };
    transition(tx, booking, state, "expired", Actor::System, None).await?;
    tx.enqueue(&SendMail {
        mail: MailKind::BookingExpired,
        subject_id: booking.id,
    });
    Ok(())
}

/// Writes a transition, and that it happened.
async fn transition(
    tx: &mut Tx,
    booking: &Booking,
    to: BookingState,
    event: &str,
    actor: Actor,
    reason: Option<&str>,
) -> Result<(), BookingError> {
    let now = tx.now();
    let moved = sqlx::query!(
        "WITH moved AS (
             UPDATE bookings SET state = $3, version = version + 1, updated_at = $4 WHERE id = $1 AND state = $2 RETURNING id)
         INSERT INTO booking_events (booking_id, at, event, actor, actor_id, from_state, to_state, accepted, reason)
         SELECT id, $4, $5, $6, $7, $2, $3, true, $8 FROM moved",
        booking.id,
        booking.state.name(),
        to.name(),
        now,
        event,
        actor.kind(),
        actor.id(),
        reason
    )
    .execute(tx.conn())
    .await?;
    if moved.rows_affected() == 0 {
        return Err(BookingError::WrongState {
            state: booking.state,
            verb: "changed: it has just been changed",
        });
    }
    tx.booking_changed(booking.id);
    Ok(())
}

/// Notes on the timeline what changed no state.
///
/// # Errors
/// Postgres refused.
pub async fn note(
    tx: &mut Tx,
    booking_id: Uuid,
    event: &str,
    actor: Actor,
    reason: Option<&str>,
) -> Result<(), sqlx::Error> {
    let now = tx.now();
    sqlx::query!(
        "INSERT INTO booking_events (booking_id, at, event, actor, actor_id, accepted, reason) VALUES ($1, $2, $3, $4, $5, true, $6)",
        booking_id,
        now,
        event,
        actor.kind(),
        actor.id(),
        reason
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Notes on the timeline what was asked and not done. Runs in a transaction of its own: that of the request was
/// rolled back.
///
/// # Errors
/// Postgres refused.
pub async fn note_refusal(
    tx: &mut Tx,
    booking: &Booking,
    event: &str,
    actor: Actor,
    reason: &str,
) -> Result<(), sqlx::Error> {
    let now = tx.now();
    sqlx::query!(
        "INSERT INTO booking_events (booking_id, at, event, actor, actor_id, from_state, to_state, accepted, reason)
         VALUES ($1, $2, $3, $4, $5, $6, $6, false, $7)",
        booking.id,
        now,
        event,
        actor.kind(),
        actor.id(),
        booking.state.name(),
        reason
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// The side on which this user stands.
#[must_use]
pub fn actor_of(booking: &Booking, user_id: Uuid) -> Actor {
    if booking.host_id == user_id {
        Actor::Host(user_id)
    } else {
        Actor::Guest(user_id)
    }
}

/// The booking locked, if the user is its guest or host.
async fn of_either(tx: &mut Tx, booking_id: Uuid, user_id: Uuid) -> Result<Booking, BookingError> {
    let booking = lock(tx, booking_id).await?;
    booking
        .filter(|booking| booking.guest_id == user_id || booking.host_id == user_id)
        .ok_or(BookingError::NoSuchBooking)
}

/// The booking locked, if the user is its host.
async fn of_host(tx: &mut Tx, booking_id: Uuid, user_id: Uuid) -> Result<Booking, BookingError> {
    let booking = of_either(tx, booking_id, user_id).await?;
    if booking.host_id == user_id {
        Ok(booking)
    } else {
        Err(BookingError::NotYours("host"))
    }
}

async fn reload(tx: &mut Tx, booking_id: Uuid) -> Result<Booking, BookingError> {
    get(tx.conn(), booking_id).await?.ok_or(BookingError::NoSuchBooking)
}
