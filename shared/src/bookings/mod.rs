//! Bookings: a request takes the nights, jobs take it to confirmed or release them, guest and host move it on.
//!
//! Each operation works within the caller's transaction and enqueues what follows from it: [`request`], then
//! [`confirm`], [`approve`], [`decline`] or [`expire`], then [`check_in`], [`check_out`], [`amend`] or [`cancel`],
//! or [`report_no_show`], and at last [`complete_ended`].
//! [`rules`] and [`transitions`] are pure, [`store`] reads rows. Whatever happens to a booking, refusals included, is noted on its timeline.

mod changes;
mod completion;
mod decision;
mod no_show;
mod request;
pub mod rules;
pub mod store;
mod timeline;
pub mod transitions;

use chrono::{DateTime, FixedOffset, NaiveDate, TimeDelta};
use uuid::Uuid;

use crate::db::Tx;
use crate::properties::pricing::PriceError;
use crate::properties::stay::{Stay, StayRefusal};

pub use changes::{Amendment, amend, cancel, cancellation, check_in, check_out, ensure_not_over};
pub use completion::complete_ended;
pub(crate) use decision::lose_payment;
pub use decision::{approve, confirm, decline, expire};
pub use no_show::report as report_no_show;
pub use request::{BookingRequest, Requested, request};
pub use rules::{BookingState, RefundDecision};
pub use store::{
    Booking, Filter, Progress, Side, TimelineEntry, get, get_many, has_booked, list, lock, progress,
    reason_of_other_side, timeline, timelines,
};
pub use timeline::{note, note_refusal};
pub use transitions::Transition;

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
    /// The guest's account was deleted.
    #[error("the account was deleted")]
    AccountDeleted,
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
    /// The day of departure has come: what was to happen during the stay cannot happen any more.
    #[error("the stay ended on {0}")]
    StayOver(NaiveDate),
    /// The day for it has not come.
    #[error("check-in is possible from {0}")]
    TooEarly(NaiveDate),
    /// Check-in has not begun: nobody is missing.
    #[error("a guest can be reported missing from {0}")]
    NotMissingYet(DateTime<FixedOffset>),
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
