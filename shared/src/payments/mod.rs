//! A booking's payments: one row per card tried, moved forward by what Stripe says of its PaymentIntent.
//!
//! Operations here write within the caller's transaction and enqueue what follows. Calls to Stripe are made by the
//! worker's handlers, between transactions.

mod follow;
mod refunds;
mod store;
pub mod transitions;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::bookings::{self, Actor, BookingState};
use crate::db::{self, Tx};
use crate::jobs::catalogue::{AuthorizePayment, VoidPayment};

pub use follow::{bind_intent, failed, follow, processing, start_release, voided};
pub use refunds::{follow_refund, pay_back, pay_back_rest, refund_refused};
pub use store::{
    Attempt, Filter, Payment, Refund, attempts, attempts_of_each, authorization_is_active, by_intent, get, latest_of,
    latest_of_each, list, lock, lock_refund, refund, refunds_of, refunds_of_each,
};

/// Where a payment stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum PaymentState {
    /// Stripe has not answered yet.
    Pending,
    /// The guest has to prove to be the card's owner.
    RequiresAction,
    /// The amount is reserved on the card.
    Authorized,
    /// The money has been taken.
    Captured,
    /// The reservation was released; nothing was taken.
    Voided,
    /// The card was refused.
    Failed,
}

impl PaymentState {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Pending,
        Self::RequiresAction,
        Self::Authorized,
        Self::Captured,
        Self::Voided,
        Self::Failed,
    ];

    /// Its name in JSON and SQL.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::RequiresAction => "requires_action",
            Self::Authorized => "authorized",
            Self::Captured => "captured",
            Self::Voided => "voided",
            Self::Failed => "failed",
        }
    }

    /// Whether the card may still be charged.
    #[must_use]
    pub const fn is_live(self) -> bool {
        matches!(
            self,
            Self::Pending | Self::RequiresAction | Self::Authorized | Self::Captured
        )
    }
}

/// Why another card is not tried.
#[derive(Debug, thiserror::Error)]
pub enum PaymentError {
    /// No such booking for this guest.
    #[error("there is no such booking")]
    NoSuchBooking,
    /// The hold is over, or the booking needs no payment any more.
    #[error("the booking is {} and takes no payment", .0.name())]
    NotPayable(BookingState),
    /// The quarter of an hour is over.
    #[error("the hold ended at {0}")]
    HoldEnded(DateTime<Utc>),
    /// One card is in play already.
    #[error("another payment of the booking is {}", .0.name())]
    AlreadyPaying(PaymentState),
    /// Postgres.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// The idempotency key of the authorisation, and of the effect that records it. The PaymentIntent itself is created
/// under the same key followed by `:create`.
#[must_use]
pub fn authorize_key(payment: &Payment) -> String {
    format!("authorize:{}:{}", payment.booking_id, payment.number)
}

/// The key of the one capture a payment ever has.
#[must_use]
pub fn capture_key(payment_id: Uuid) -> String {
    format!("capture:{payment_id}")
}

/// The key of the one release a payment ever has.
#[must_use]
pub fn void_key(payment_id: Uuid) -> String {
    format!("void:{payment_id}")
}

/// The key of a refund.
#[must_use]
pub fn refund_key(refund_id: Uuid) -> String {
    format!("refund:{refund_id}")
}

/// Tries another card for a booking whose hold still lasts. It takes the place of one that waits for its owner to prove
/// to be the owner.
///
/// # Errors
/// See [`PaymentError`].
pub async fn try_card(
    tx: &mut Tx,
    guest_id: Uuid,
    booking_id: Uuid,
    payment_method: &str,
) -> Result<Payment, PaymentError> {
    let booking = bookings::lock(tx, booking_id)
        .await?
        .filter(|booking| booking.guest_id == guest_id);
    let booking = booking.ok_or(PaymentError::NoSuchBooking)?;
    if !booking.state.takes_payment() {
        return Err(PaymentError::NotPayable(booking.state));
    }
    if booking.hold_expires_at <= tx.now() || booking.is_over(tx.now()) {
        return Err(PaymentError::HoldEnded(booking.hold_expires_at));
    }
    let latest = latest_of(tx.conn(), booking_id).await?;
    match latest.as_ref().filter(|payment| payment.state.is_live()) {
        Some(live) if live.state == PaymentState::RequiresAction => {
            follow::superseded(tx, live, Actor::Guest(guest_id)).await?;
        }
        Some(live) => return Err(PaymentError::AlreadyPaying(live.state)),
        None => {}
    }
    let number = latest.map_or(1, |payment| payment.number + 1);
    let payment = store::insert(tx, &booking, number, payment_method)
        .await
        .map_err(|error| match db::violated_constraint(&error) {
            Some("payments_one_live") => PaymentError::AlreadyPaying(PaymentState::Pending),
            _ => PaymentError::Database(error),
        })?;
    tx.enqueue(&AuthorizePayment { payment_id: payment.id });
    bookings::note(tx, booking_id, "payment_started", Actor::Guest(guest_id), None).await?;
    tx.booking_changed(booking_id);
    Ok(payment)
}

/// Releases what is reserved for a booking that was never confirmed.
pub(crate) async fn release(tx: &mut Tx, booking_id: Uuid) -> Result<(), sqlx::Error> {
    if let Some(payment) = latest_of(tx.conn(), booking_id)
        .await?
        .filter(|payment| payment.state.is_live())
    {
        tx.enqueue(&VoidPayment { payment_id: payment.id });
    }
    Ok(())
}
