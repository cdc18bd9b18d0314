//! The rows of bookings and their timeline.

use std::collections::HashMap;
use std::ops::Range;

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::Actor;
use super::rules::{BookingState, CancellationTerms};
use crate::db::Tx;
use crate::money::Currency;
use crate::payments::PaymentState;
use crate::properties::CancellationPolicy;
use crate::properties::pricing::PriceLine;
use crate::properties::stay::{Stay, check_in_at, check_out_at, property_today};

/// A booking as it stands.
#[derive(Clone, Debug)]
pub struct Booking {
    /// The booking.
    pub id: Uuid,
    /// What is booked.
    pub property_id: Uuid,
    /// Who booked.
    pub guest_id: Uuid,
    /// Who lets.
    pub host_id: Uuid,
    /// Where it stands.
    pub state: BookingState,
    /// The day of arrival.
    pub check_in: NaiveDate,
    /// The day of departure.
    pub check_out: NaiveDate,
    /// How many people.
    pub guests: i32,
    /// Confirmed without the host's approval.
    pub instant_book: bool,
    /// As it was when the booking was made.
    pub cancellation_policy: CancellationPolicy,
    /// The property's zone, an IANA name.
    pub time_zone: String,
    /// The earliest arrival.
    pub check_in_from: NaiveTime,
    /// The latest departure.
    pub check_out_by: NaiveTime,
    /// Of all amounts.
    pub currency: Currency,
    /// What the total is made of.
    pub price_lines: Json<Vec<PriceLine>>,
    /// What the guest pays, in minor units.
    pub total_minor: i64,
    /// What the host pays to the platform, in minor units.
    pub host_fee_minor: i64,
    /// When the guest means to arrive, at the property's clock.
    pub arrival_time: Option<NaiveTime>,
    /// From the guest to the host.
    pub message: Option<String>,
    /// When the nights are free again if no card is authorised.
    pub hold_expires_at: DateTime<Utc>,
    /// When the host's time to approve ends.
    pub approval_expires_at: Option<DateTime<Utc>>,
    /// When both sides were bound.
    pub confirmed_at: Option<DateTime<Utc>>,
    /// When it was cancelled.
    pub cancelled_at: Option<DateTime<Utc>>,
    /// Counts changes.
    pub version: i32,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
}

impl Booking {
    /// The dates.
    #[must_use]
    pub fn stay(&self) -> Stay {
        Stay::new(self.check_in, self.check_out)
    }

    /// The property's zone; UTC should the name ever be withdrawn.
    #[must_use]
    pub fn zone(&self) -> chrono_tz::Tz {
        self.time_zone.parse().unwrap_or(chrono_tz::UTC)
    }

    /// Whether its last day has come at the property.
    #[must_use]
    pub fn is_over(&self, now: DateTime<Utc>) -> bool {
        property_today(now, self.zone()) >= self.check_out
    }

    /// From when to when the host may report that the guest did not come: the time of check-in to that of check-out.
    #[must_use]
    pub fn presence_expected(&self) -> Range<DateTime<Utc>> {
        let (stay, zone) = (self.stay(), self.zone());
        check_in_at(stay, self.check_in_from, zone)..check_out_at(stay, self.check_out_by, zone)
    }

    /// What a cancellation is judged by.
    #[must_use]
    pub fn cancellation_terms(&self) -> CancellationTerms {
        CancellationTerms {
            policy: self.cancellation_policy,
            stay: self.stay(),
            time_zone: self.zone(),
            check_in_from: self.check_in_from,
            confirmed_at: self.confirmed_at,
        }
    }
}

/// One entry of the timeline.
#[derive(Clone, Debug)]
pub struct TimelineEntry {
    /// When.
    pub at: DateTime<Utc>,
    /// What was asked or happened.
    pub event: String,
    /// `guest`, `host`, `system` or `stripe`.
    pub actor: String,
    /// The state before.
    pub from_state: Option<String>,
    /// The state after; the same when it was refused.
    pub to_state: Option<String>,
    /// Whether it was done.
    pub accepted: bool,
    /// Why, or why not.
    pub reason: Option<String>,
}

/// So many entries of a timeline are shown, the newest ones.
const LONGEST_TIMELINE: i64 = 200;

macro_rules! select_booking {
    ($($tail:tt)*) => {
        sqlx::query_as!(
            Booking,
            r#"SELECT id, property_id, guest_id, host_id, state AS "state: BookingState", lower(stay) AS "check_in!", upper(stay) AS "check_out!",
                guests, instant_book, cancellation_policy AS "cancellation_policy: CancellationPolicy", time_zone, check_in_from, check_out_by,
                currency AS "currency: Currency", price_lines AS "price_lines: Json<Vec<PriceLine>>", total_minor, host_fee_minor, arrival_time,
                message, hold_expires_at, approval_expires_at, confirmed_at, cancelled_at, version, created_at, updated_at
               FROM bookings "# + $($tail)*
        )
    };
}

/// The booking, if there is one.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn get(conn: &mut PgConnection, id: Uuid) -> Result<Option<Booking>, sqlx::Error> {
    select_booking!("WHERE id = $1", id).fetch_optional(conn).await
}

/// These bookings, in no order.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn get_many(pool: &PgPool, ids: &[Uuid]) -> Result<Vec<Booking>, sqlx::Error> {
    select_booking!("WHERE id = ANY($1)", ids).fetch_all(pool).await
}

/// The booking, which nobody else changes until the transaction ends.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn lock(tx: &mut Tx, id: Uuid) -> Result<Option<Booking>, sqlx::Error> {
    select_booking!("WHERE id = $1 FOR NO KEY UPDATE", id)
        .fetch_optional(tx.conn())
        .await
}

/// How far a booking has come: what those who wait for it want to know, read at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Where the booking stands.
    pub state: BookingState,
    /// Where its newest payment stands.
    pub payment_state: Option<PaymentState>,
    /// Counts changes of the booking.
    pub version: i32,
    /// When the booking or the payment last changed.
    pub at: DateTime<Utc>,
}

impl Progress {
    /// Whether the next step is up to our jobs alone: the nights are held and Stripe has not answered yet. Once the
    /// card is authorised the confirmation is on its way; once it is refused or needs the guest, waiting is no use.
    #[must_use]
    pub fn is_transient(self) -> bool {
        self.state == BookingState::Held
            && matches!(
                self.payment_state,
                Some(PaymentState::Pending | PaymentState::Authorized | PaymentState::Captured)
            )
    }
}

/// How far the booking has come, if there is one.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn progress(pool: &PgPool, id: Uuid) -> Result<Option<Progress>, sqlx::Error> {
    sqlx::query_as!(
        Progress,
        r#"SELECT booking.state AS "state: BookingState", payment.state AS "payment_state?: PaymentState", version,
                  greatest(booking.updated_at, payment.updated_at) AS "at!"
           FROM bookings AS booking
           LEFT JOIN LATERAL (
               SELECT state, updated_at FROM payments WHERE booking_id = booking.id ORDER BY number DESC LIMIT 1
           ) AS payment ON true
           WHERE booking.id = $1"#,
        id
    )
    .fetch_optional(pool)
    .await
}

/// Whose bookings a list shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Those the user made.
    Guest,
    /// Those of the user's properties.
    Host,
}

/// What a list of bookings is narrowed to.
#[derive(Clone, Debug)]
pub struct Filter {
    /// Whose.
    pub side: Side,
    /// Only in these states; all when empty.
    pub states: Vec<BookingState>,
    /// Only stays that end after this day.
    pub from: Option<NaiveDate>,
    /// Only stays that begin before this day.
    pub to: Option<NaiveDate>,
    /// Only of this property.
    pub property_id: Option<Uuid>,
    /// Only older than this one: the last of the page before.
    pub before: Option<Uuid>,
    /// How many.
    pub limit: i64,
}

/// A user's bookings, newest first.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn list(conn: &mut PgConnection, user_id: Uuid, filter: &Filter) -> Result<Vec<Booking>, sqlx::Error> {
    let states: Vec<String> = filter.states.iter().map(|state| state.name().to_owned()).collect();
    let states = (!states.is_empty()).then_some(states);
    let (guest, host) = match filter.side {
        Side::Guest => (Some(user_id), None),
        Side::Host => (None, Some(user_id)),
    };
    // Two statements, so that each has one index to walk.
    if let Some(guest_id) = guest {
        return select_booking!(
            "WHERE guest_id = $1 AND ($2::text[] IS NULL OR state = ANY($2)) AND ($3::date IS NULL OR upper(stay) > $3)
             AND ($4::date IS NULL OR lower(stay) < $4) AND ($5::uuid IS NULL OR property_id = $5) AND ($6::uuid IS NULL OR id < $6)
             ORDER BY id DESC LIMIT $7",
            guest_id,
            states.as_deref(),
            filter.from,
            filter.to,
            filter.property_id,
            filter.before,
            filter.limit
        )
        .fetch_all(conn)
        .await;
    }
    select_booking!(
        "WHERE host_id = $1 AND ($2::text[] IS NULL OR state = ANY($2)) AND ($3::date IS NULL OR upper(stay) > $3)
         AND ($4::date IS NULL OR lower(stay) < $4) AND ($5::uuid IS NULL OR property_id = $5) AND ($6::uuid IS NULL OR id < $6)
         ORDER BY id DESC LIMIT $7",
        host,
        states.as_deref(),
        filter.from,
        filter.to,
        filter.property_id,
        filter.before,
        filter.limit
    )
    .fetch_all(conn)
    .await
}

/// Everything that was asked of a booking or happened to it, oldest first.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn timeline(conn: &mut PgConnection, booking_id: Uuid) -> Result<Vec<TimelineEntry>, sqlx::Error> {
    sqlx::query_as!(
        TimelineEntry,
        "SELECT at, event, actor, from_state, to_state, accepted, reason FROM (
             SELECT id, at, event, actor, from_state, to_state, accepted, reason FROM booking_events
             WHERE booking_id = $1 ORDER BY id DESC LIMIT $2) AS newest
         ORDER BY id",
        booking_id,
        LONGEST_TIMELINE
    )
    .fetch_all(conn)
    .await
}

/// The same for several bookings, each by its id.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn timelines(pool: &PgPool, booking_ids: &[Uuid]) -> Result<HashMap<Uuid, Vec<TimelineEntry>>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT wanted.id AS "booking_id!", at, event, actor, from_state, to_state, accepted, reason
           FROM unnest($1::uuid[]) AS wanted (id) CROSS JOIN LATERAL (
               SELECT id, at, event, actor, from_state, to_state, accepted, reason FROM booking_events
               WHERE booking_id = wanted.id ORDER BY id DESC LIMIT $2) AS newest
           ORDER BY wanted.id, newest.id"#,
        booking_ids,
        LONGEST_TIMELINE
    )
    .fetch_all(pool)
    .await?;
    let mut timelines: HashMap<Uuid, Vec<TimelineEntry>> = HashMap::new();
    for row in rows {
        timelines.entry(row.booking_id).or_default().push(TimelineEntry {
            at: row.at,
            event: row.event,
            actor: row.actor,
            from_state: row.from_state,
            to_state: row.to_state,
            accepted: row.accepted,
            reason: row.reason,
        });
    }
    Ok(timelines)
}

/// Why the other side declined or cancelled the booking, or what it said of a guest who did not come, in its own words. What `reader`'s own side wrote is not told
/// to it.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn reason_of_other_side(
    conn: &mut PgConnection,
    booking: &Booking,
    reader: Side,
) -> Result<Option<String>, sqlx::Error> {
    let writer = match (booking.state, reader) {
        (BookingState::Declined | BookingState::CancelledByHost | BookingState::NoShow, Side::Guest) => {
            Actor::Host(booking.host_id)
        }
        (BookingState::CancelledByGuest, Side::Host) => Actor::Guest(booking.guest_id),
        _ => return Ok(None),
    };
    let reason = sqlx::query_scalar!(
        "SELECT reason FROM booking_events WHERE booking_id = $1 AND accepted AND to_state = $2 AND actor = $3
         ORDER BY id DESC LIMIT 1",
        booking.id,
        booking.state.name(),
        writer.kind()
    )
    .fetch_optional(conn)
    .await?;
    Ok(reason.flatten())
}

/// Whether the user has ever booked the property.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn has_booked(conn: &mut PgConnection, guest_id: Uuid, property_id: Uuid) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM bookings WHERE guest_id = $1 AND property_id = $2) AS "booked!""#,
        guest_id,
        property_id,
    )
    .fetch_one(conn)
    .await
}
