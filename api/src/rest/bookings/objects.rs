//! Bookings as they look on the wire.

use async_graphql::{InputObject, SimpleObject};
use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use poem_openapi::types::Example;
use poem_openapi::{Enum, Object};
use roost_shared::bookings::{self, Booking as Row, TimelineEntry as Entry};
use roost_shared::payments::{self, Payment};
use uuid::Uuid;

use crate::rest::mirror::mirror;
use crate::rest::payments::PaymentState;
use crate::rest::prices::{LineKind, PriceLine};
use crate::rest::properties::CancellationPolicy;

mirror! {
    /// Where a booking stands. `held` → `confirmed` (or `pending_approval` first) → `checked_in` → `checked_out` →
    /// `completed`; the others end it.
    BookingState of bookings::BookingState {
        /// The nights are taken for 15 minutes, until the card is authorised
        Held,
        /// The card is authorised; the host has to approve
        PendingApproval,
        /// Both sides are bound
        Confirmed,
        /// The guest has arrived
        CheckedIn,
        /// The guest has left
        CheckedOut,
        /// Everything is settled
        Completed,
        /// The hold or the host's time ran out
        Expired,
        /// The host said no
        Declined,
        /// The guest cancelled
        CancelledByGuest,
        /// The host cancelled; the nights stay blocked
        CancelledByHost,
        /// The guest never came; nothing is paid back, and the nights that were left are free again
        NoShow,
        /// No card was authorised while the hold lasted
        PaymentFailed,
    }
}

/// On which side of a booking or payment you stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum, async_graphql::Enum)]
#[oai(rename_all = "snake_case")]
pub enum Side {
    /// Those you made
    Guest,
    /// Those of your properties
    Host,
}

impl From<Side> for bookings::Side {
    fn from(side: Side) -> Self {
        match side {
            Side::Guest => Self::Guest,
            Side::Host => Self::Host,
        }
    }
}

/// What to book.
#[derive(Clone, Debug, Object, InputObject)]
#[oai(deny_unknown_fields, example)]
pub struct NewBooking {
    /// Which property
    pub property_id: Uuid,
    /// The day of arrival, of the property's calendar
    pub check_in: NaiveDate,
    /// The day of departure: after `check_in`, not slept
    pub check_out: NaiveDate,
    /// How many people, no more than the property takes
    #[oai(validator(minimum(value = "1")))]
    pub guests: i32,
    /// A Stripe PaymentMethod: `pm_…`. It is authorised at once and charged when the booking is confirmed
    #[oai(validator(max_length = 255, pattern = "^pm_[A-Za-z0-9_]+$"))]
    pub payment_method: String,
    /// From `POST /quotes`: the booking then has exactly the price and the cancellation policy that were quoted. Without it, those of now
    #[oai(validator(min_length = 1, max_length = 4096))]
    pub quote_token: Option<String>,
}

impl Example for NewBooking {
    fn example() -> Self {
        Self {
            property_id: example_id(1),
            check_in: example_day(1),
            check_out: example_day(4),
            guests: 2,
            payment_method: "pm_card_visa".to_owned(),
            quote_token: None,
        }
    }
}

/// What to change of a booking. What is left out, or null, stays.
#[derive(Clone, Debug, Object, InputObject)]
#[oai(deny_unknown_fields, example)]
pub struct BookingPatch {
    /// How many people, no more than the property takes
    #[oai(validator(minimum(value = "1")))]
    pub guests: Option<i32>,
    /// When you mean to arrive, `HH:MM` of the property's clock
    #[oai(validator(pattern = "^([01][0-9]|2[0-3]):[0-5][0-9]$"))]
    pub arrival_time: Option<String>,
    /// For the host. An empty text takes it back
    #[oai(validator(max_length = 2000))]
    pub message: Option<String>,
}

impl Example for BookingPatch {
    fn example() -> Self {
        Self {
            guests: Some(3),
            arrival_time: Some("18:30".to_owned()),
            message: Some("We come by train and would like to leave our bags early.".to_owned()),
        }
    }
}

/// Why.
#[derive(Clone, Debug, Default, Object)]
#[oai(deny_unknown_fields, example)]
pub struct Reason {
    /// For the other side to read, and kept on the timeline
    #[oai(validator(max_length = 500))]
    pub reason: Option<String>,
}

impl Example for Reason {
    fn example() -> Self {
        Self {
            reason: Some("The train was cancelled.".to_owned()),
        }
    }
}

/// A booking in a list.
#[derive(Clone, Debug, Object, SimpleObject)]
#[oai(example)]
pub struct BookingSummary {
    /// The booking
    pub id: Uuid,
    /// What is booked
    pub property_id: Uuid,
    /// What it is called
    #[graphql(skip)]
    pub property_title: String,
    /// Who booked
    pub guest_id: Uuid,
    /// Who lets
    pub host_id: Uuid,
    /// Where it stands
    pub state: BookingState,
    /// The day of arrival
    pub check_in: NaiveDate,
    /// The day of departure
    pub check_out: NaiveDate,
    /// How many nights
    pub nights: i64,
    /// How many people
    pub guests: i32,
    /// ISO 4217, of all amounts
    pub currency: String,
    /// What the guest pays, in minor units
    pub total_minor: i64,
    /// Where the latest card stands
    #[graphql(skip)]
    pub payment_state: Option<PaymentState>,
    /// While it is `held`: when the nights are free again if no card is authorised
    pub hold_expires_at: Option<DateTime<Utc>>,
    /// Counts changes
    pub version: i32,
    /// When it was made
    pub created_at: DateTime<Utc>,
    /// When it last changed
    pub updated_at: DateTime<Utc>,
}

impl BookingSummary {
    /// A line of a list.
    #[must_use]
    pub fn new(row: &Row, property_title: String, payment_state: Option<payments::PaymentState>) -> Self {
        Self {
            id: row.id,
            property_id: row.property_id,
            property_title,
            guest_id: row.guest_id,
            host_id: row.host_id,
            state: row.state.into(),
            check_in: row.check_in,
            check_out: row.check_out,
            nights: row.stay().nights(),
            guests: row.guests,
            currency: row.currency.code().to_owned(),
            total_minor: row.total_minor,
            payment_state: payment_state.map(PaymentState::from),
            hold_expires_at: row.state.takes_payment().then_some(row.hold_expires_at),
            version: row.version,
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

impl Example for BookingSummary {
    fn example() -> Self {
        Self {
            id: example_id(2),
            property_id: example_id(1),
            property_title: "A quiet flat by the canal".to_owned(),
            guest_id: example_id(3),
            host_id: example_id(4),
            state: BookingState::Held,
            check_in: example_day(1),
            check_out: example_day(4),
            nights: 3,
            guests: 2,
            currency: "EUR".to_owned(),
            total_minor: 45_360,
            payment_state: Some(PaymentState::Pending),
            hold_expires_at: Some(example_instant() + bookings::HOLD),
            version: 1,
            created_at: example_instant(),
            updated_at: example_instant(),
        }
    }
}

/// The latest card of a booking. `GET /payments/{payment_id}` has everything.
#[derive(Clone, Debug, Object)]
pub struct BookingPayment {
    /// The payment
    pub id: Uuid,
    /// Where it stands
    pub state: PaymentState,
    /// Reserved on the card, in minor units
    pub authorized_minor: i64,
    /// Taken, in minor units
    pub captured_minor: i64,
    /// Paid back, in minor units
    pub refunded_minor: i64,
    /// Why the card was refused: a code of Stripe's. For the guest only
    pub failure_code: Option<String>,
    /// The same for the cardholder to read. For the guest only
    pub failure_message: Option<String>,
    /// While the state is `requires_action`: what Stripe.js needs to ask for the proof. For the guest only
    pub client_secret: Option<String>,
}

impl BookingPayment {
    fn new(payment: Payment, for_guest: bool) -> Self {
        Self {
            id: payment.id,
            state: payment.state.into(),
            authorized_minor: payment.authorized_minor,
            captured_minor: payment.captured_minor,
            refunded_minor: payment.refunded_minor,
            failure_code: payment.failure_code.filter(|_| for_guest),
            failure_message: payment.failure_message.filter(|_| for_guest),
            client_secret: payment
                .client_secret
                .filter(|_| for_guest && payment.state == payments::PaymentState::RequiresAction),
        }
    }
}

/// Who did something to a booking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum, async_graphql::Enum)]
#[oai(rename_all = "snake_case")]
pub enum TimelineActor {
    /// The guest
    Guest,
    /// The host
    Host,
    /// A job of the platform
    System,
    /// Stripe, by a webhook
    Stripe,
}

/// Something that was asked of a booking or happened to it.
#[derive(Clone, Debug, Object, SimpleObject)]
pub struct TimelineEntry {
    /// When
    pub at: DateTime<Utc>,
    /// What: `requested`, `payment_authorized`, `confirmed`, `cancelled`, `payment_captured` …
    pub event: String,
    /// Who
    pub actor: TimelineActor,
    /// The state before
    pub from_state: Option<BookingState>,
    /// The state after; the same as before when it was refused
    pub to_state: Option<BookingState>,
    /// Whether it was done
    pub accepted: bool,
    /// Why, or why not
    pub reason: Option<String>,
}

/// Why a card was refused is the guest's affair.
const GUESTS_AFFAIRS: [&str; 2] = ["payment_failed", "refund_failed"];

impl TimelineEntry {
    pub(crate) fn new(entry: Entry, for_guest: bool) -> Self {
        let state = |name: Option<String>| {
            let name = name?;
            bookings::BookingState::ALL
                .into_iter()
                .find(|state| state.name() == name)
                .map(BookingState::from)
        };
        Self {
            at: entry.at,
            actor: match entry.actor.as_str() {
                "guest" => TimelineActor::Guest,
                "host" => TimelineActor::Host,
                "stripe" => TimelineActor::Stripe,
                _ => TimelineActor::System,
            },
            from_state: state(entry.from_state),
            to_state: state(entry.to_state),
            accepted: entry.accepted,
            reason: entry
                .reason
                .filter(|_| for_guest || !GUESTS_AFFAIRS.contains(&entry.event.as_str())),
            event: entry.event,
        }
    }
}

/// A booking with everything about it. In GraphQL, what is skipped here is read only when it is asked for.
#[derive(Clone, Debug, Object, SimpleObject)]
#[oai(example)]
#[graphql(complex)]
pub struct Booking {
    /// What lists show as well
    #[oai(flatten)]
    #[graphql(flatten)]
    pub summary: BookingSummary,
    /// Confirmed without the host's approval
    pub instant_book: bool,
    /// What a guest who cancels gets back; `GET …/cancellation-quote` says how much that is now
    pub cancellation_policy: CancellationPolicy,
    /// The property's time zone, an IANA name
    pub time_zone: String,
    /// The earliest arrival, `HH:MM` of the property's clock
    pub check_in_from: String,
    /// The latest departure, `HH:MM` of the property's clock
    pub check_out_by: String,
    /// What the total is made of
    pub price_lines: Vec<PriceLine>,
    /// What the host pays to the platform, in minor units; not part of the total. For the host only
    pub host_fee_minor: Option<i64>,
    /// When the guest means to arrive, `HH:MM` of the property's clock
    pub arrival_time: Option<String>,
    /// From the guest to the host
    pub message: Option<String>,
    /// While it is `pending_approval`: when the host's time to approve ends
    pub approval_expires_at: Option<DateTime<Utc>>,
    /// When both sides were bound
    pub confirmed_at: Option<DateTime<Utc>>,
    /// When it was cancelled
    pub cancelled_at: Option<DateTime<Utc>>,
    /// The latest card
    #[graphql(skip)]
    pub payment: Option<BookingPayment>,
    /// Everything that was asked of it or happened to it, refusals included, oldest first
    #[graphql(skip)]
    pub timeline: Vec<TimelineEntry>,
}

/// What a [`Booking`] is made of.
pub struct Parts {
    /// The booking.
    pub booking: Row,
    /// Its latest payment.
    pub payment: Option<Payment>,
    /// What the property is called.
    pub property_title: String,
    /// Its history.
    pub timeline: Vec<Entry>,
}

impl Parts {
    /// The booking as `user_id`, its guest or host, may see it.
    #[must_use]
    pub fn seen_by(self, user_id: Uuid) -> Booking {
        let row = self.booking;
        let for_guest = row.guest_id == user_id;
        Booking {
            summary: BookingSummary::new(
                &row,
                self.property_title,
                self.payment.as_ref().map(|payment| payment.state),
            ),
            instant_book: row.instant_book,
            cancellation_policy: row.cancellation_policy.into(),
            time_zone: row.time_zone,
            check_in_from: clock(row.check_in_from),
            check_out_by: clock(row.check_out_by),
            price_lines: row.price_lines.0.into_iter().map(PriceLine::from).collect(),
            host_fee_minor: (row.host_id == user_id).then_some(row.host_fee_minor),
            arrival_time: row.arrival_time.map(clock),
            message: row.message.filter(|message| !message.is_empty()),
            approval_expires_at: row.approval_expires_at,
            confirmed_at: row.confirmed_at,
            cancelled_at: row.cancelled_at,
            payment: self.payment.map(|payment| BookingPayment::new(payment, for_guest)),
            timeline: self
                .timeline
                .into_iter()
                .map(|entry| TimelineEntry::new(entry, for_guest))
                .collect(),
        }
    }
}

fn clock(time: NaiveTime) -> String {
    time.format("%H:%M").to_string()
}

impl Example for Booking {
    fn example() -> Self {
        let line = |kind, label: &str, quantity, unit_minor| PriceLine {
            kind,
            label: label.to_owned(),
            quantity,
            unit_minor,
            amount_minor: quantity * unit_minor,
        };
        Self {
            summary: BookingSummary::example(),
            instant_book: true,
            cancellation_policy: CancellationPolicy::Moderate,
            time_zone: "Europe/Berlin".to_owned(),
            check_in_from: "15:00".to_owned(),
            check_out_by: "11:00".to_owned(),
            price_lines: vec![
                line(LineKind::Nights, "3 nights", 3, 12_000),
                line(LineKind::CleaningFee, "Cleaning fee", 1, 4_500),
                line(LineKind::GuestServiceFee, "Guest service fee", 1, 4_860),
            ],
            host_fee_minor: None,
            arrival_time: None,
            message: None,
            approval_expires_at: None,
            confirmed_at: None,
            cancelled_at: None,
            payment: Some(BookingPayment {
                id: example_id(5),
                state: PaymentState::Pending,
                authorized_minor: 0,
                captured_minor: 0,
                refunded_minor: 0,
                failure_code: None,
                failure_message: None,
                client_secret: None,
            }),
            timeline: vec![TimelineEntry {
                at: example_instant(),
                event: "requested".to_owned(),
                actor: TimelineActor::Guest,
                from_state: None,
                to_state: Some(BookingState::Held),
                accepted: true,
                reason: None,
            }],
        }
    }
}

/// An id for examples.
pub(crate) fn example_id(number: u128) -> Uuid {
    Uuid::from_u128(0x019a_b6c8_6f5e_7c3a_9d0e_2f4f_1f6f_0000 + number)
}

pub(crate) fn example_instant() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + chrono::TimeDelta::days(22_000)
}

fn example_day(day: u32) -> NaiveDate {
    NaiveDate::from_ymd_opt(2030, 6, day).unwrap_or_default()
}
