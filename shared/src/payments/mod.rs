//! A booking's payments: one row per card tried, moved forward by what Stripe says of its PaymentIntent.
//!
//! Operations here write within the caller's transaction and enqueue what follows. Calls to Stripe are made by the
//! worker's handlers, between transactions.

mod store;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::bookings::{self, Actor, BookingState};
use crate::db::{self, Tx};
use crate::jobs::catalogue::{AuthorizePayment, ConfirmBooking, MailKind, RefundPayment, SendMail, VoidPayment};
use crate::ledger::{self, Account};
use crate::stripe::{Decline, Intent, IntentStatus, StripeRefund};

pub use store::{
    Attempt, Filter, Payment, Refund, attempts, by_intent, get, latest_of, latest_of_each, list, lock, refund,
    refunds_of,
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

/// The idempotency key of the authorisation, and of the effect that records it.
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

/// Tries another card for a booking whose hold still lasts.
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
    if booking.hold_expires_at <= tx.now() {
        return Err(PaymentError::HoldEnded(booking.hold_expires_at));
    }
    let latest = latest_of(tx.conn(), booking_id).await?;
    if let Some(live) = latest.as_ref().filter(|payment| payment.state.is_live()) {
        return Err(PaymentError::AlreadyPaying(live.state));
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

/// Moves our record forward to what Stripe says, never back. The payment must be locked.
///
/// # Errors
/// Postgres refused.
pub async fn follow(tx: &mut Tx, payment: &Payment, intent: &Intent, actor: Actor) -> Result<(), sqlx::Error> {
    use PaymentState::{Authorized, Captured, Failed, Pending, RequiresAction};
    match (payment.state, intent.status) {
        (Pending | RequiresAction, IntentStatus::RequiresCapture) => authorized(tx, payment, intent, actor).await,
        (Pending, IntentStatus::RequiresAction) => requires_action(tx, payment, intent, actor).await,
        (Pending | RequiresAction, IntentStatus::RequiresPaymentMethod) => {
            failed(
                tx,
                payment,
                Some(&intent.id),
                &intent.decline.clone().unwrap_or_default(),
                actor,
            )
            .await
        }
        (Pending | RequiresAction | Authorized, IntentStatus::Canceled) => {
            voided(tx, payment, Some(&intent.id), actor).await
        }
        (Pending | RequiresAction | Authorized, IntentStatus::Succeeded) => captured(tx, payment, intent, actor).await,
        // A card that was given up on and proves itself after all: nobody wants the reservation any more.
        (Failed, IntentStatus::RequiresCapture) => {
            tx.enqueue(&VoidPayment { payment_id: payment.id });
            Ok(())
        }
        (Captured, _) if intent.refunded_minor > payment.refunded_minor => {
            // A refund of ours whose reply is still on its way, or one made at Stripe by hand.
            tracing::info!(payment_id = %payment.id, "Stripe has refunded more than is recorded yet");
            Ok(())
        }
        _ => Ok(()),
    }
}

async fn authorized(tx: &mut Tx, payment: &Payment, intent: &Intent, actor: Actor) -> Result<(), sqlx::Error> {
    let now = tx.now();
    sqlx::query!(
        "UPDATE payments SET state = 'authorized', stripe_payment_intent_id = $2, authorized_minor = $3, capture_before = $4,
             client_secret = NULL, failure_code = NULL, decline_code = NULL, failure_message = NULL, updated_at = $5
         WHERE id = $1 AND state IN ('pending', 'requires_action')",
        payment.id,
        intent.id,
        intent.capturable_minor.min(payment.amount_minor),
        intent.capture_before,
        now
    )
    .execute(tx.conn())
    .await?;
    bookings::note(tx, payment.booking_id, "payment_authorized", actor, None).await?;
    tx.enqueue(&ConfirmBooking {
        booking_id: payment.booking_id,
    });
    tx.booking_changed(payment.booking_id);
    Ok(())
}

async fn requires_action(tx: &mut Tx, payment: &Payment, intent: &Intent, actor: Actor) -> Result<(), sqlx::Error> {
    let now = tx.now();
    sqlx::query!(
        "UPDATE payments SET state = 'requires_action', stripe_payment_intent_id = $2, client_secret = $3, updated_at = $4
         WHERE id = $1 AND state = 'pending'",
        payment.id,
        intent.id,
        intent.client_secret,
        now
    )
    .execute(tx.conn())
    .await?;
    bookings::note(tx, payment.booking_id, "payment_requires_action", actor, None).await?;
    tx.booking_changed(payment.booking_id);
    Ok(())
}

/// Stripe has not decided yet: which PaymentIntent to ask about again.
///
/// # Errors
/// Postgres refused.
pub async fn processing(tx: &mut Tx, payment_id: Uuid, intent_id: &str) -> Result<(), sqlx::Error> {
    let now = tx.now();
    sqlx::query!(
        "UPDATE payments SET stripe_payment_intent_id = $2, updated_at = $3 WHERE id = $1 AND state = 'pending'",
        payment_id,
        intent_id,
        now
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// The card was refused: the guest is told and may try another one while the hold lasts.
///
/// # Errors
/// Postgres refused.
pub async fn failed(
    tx: &mut Tx,
    payment: &Payment,
    intent_id: Option<&str>,
    decline: &Decline,
    actor: Actor,
) -> Result<(), sqlx::Error> {
    let now = tx.now();
    let done = sqlx::query!(
        "UPDATE payments SET state = 'failed', stripe_payment_intent_id = coalesce($2, stripe_payment_intent_id), client_secret = NULL,
             failure_code = $3, decline_code = $4, failure_message = $5, updated_at = $6
         WHERE id = $1 AND state IN ('pending', 'requires_action')",
        payment.id,
        intent_id,
        decline.code,
        decline.decline_code,
        decline.message,
        now
    )
    .execute(tx.conn())
    .await?;
    if done.rows_affected() == 1 {
        bookings::note(tx, payment.booking_id, "payment_failed", actor, Some(&decline.code)).await?;
        tx.enqueue(&SendMail {
            mail: MailKind::PaymentFailed,
            subject_id: payment.id,
        });
        // The guest holds its client secret and could still confirm it with another card.
        if payment.state == PaymentState::RequiresAction {
            tx.enqueue(&VoidPayment { payment_id: payment.id });
        }
        tx.booking_changed(payment.booking_id);
    }
    Ok(())
}

/// The money was taken: the ledger says whose it is.
///
/// # Errors
/// Postgres refused.
pub async fn captured(tx: &mut Tx, payment: &Payment, intent: &Intent, actor: Actor) -> Result<(), sqlx::Error> {
    let now = tx.now();
    let amount = intent.received_minor;
    let done = sqlx::query!(
        "UPDATE payments SET state = 'captured', stripe_payment_intent_id = $2, authorized_minor = greatest(authorized_minor, $3),
             captured_minor = $3, client_secret = NULL, updated_at = $4
         WHERE id = $1 AND state IN ('pending', 'requires_action', 'authorized')",
        payment.id,
        intent.id,
        amount,
        now
    )
    .execute(tx.conn())
    .await?;
    if done.rows_affected() == 0 {
        return Ok(());
    }
    let fees = store::platform_fees(tx, payment.booking_id).await?.min(amount);
    let entries = [
        (Account::StripeBalance, amount),
        (Account::HostPayable, -(amount - fees)),
        (Account::PlatformRevenue, -fees),
    ];
    ledger::record(
        tx,
        &capture_key(payment.id),
        payment.booking_id,
        payment.currency,
        &entries,
    )
    .await?;
    bookings::note(tx, payment.booking_id, "payment_captured", actor, None).await?;
    tx.booking_changed(payment.booking_id);
    Ok(())
}

/// The reservation is gone; nothing was taken.
///
/// # Errors
/// Postgres refused.
pub async fn voided(tx: &mut Tx, payment: &Payment, intent_id: Option<&str>, actor: Actor) -> Result<(), sqlx::Error> {
    let now = tx.now();
    let done = sqlx::query!(
        "UPDATE payments SET state = 'voided', stripe_payment_intent_id = coalesce($2, stripe_payment_intent_id), client_secret = NULL,
             updated_at = $3
         WHERE id = $1 AND state IN ('pending', 'requires_action', 'authorized')",
        payment.id,
        intent_id,
        now
    )
    .execute(tx.conn())
    .await?;
    if done.rows_affected() == 1 {
        bookings::note(tx, payment.booking_id, "payment_voided", actor, None).await?;
        tx.booking_changed(payment.booking_id);
    }
    Ok(())
}

/// Money went back: the refund is settled and the ledger gives back what the parties had of it.
///
/// # Errors
/// Postgres refused.
pub async fn refunded(
    tx: &mut Tx,
    refund: &Refund,
    payment: &Payment,
    reply: &StripeRefund,
) -> Result<(), sqlx::Error> {
    let now = tx.now();
    let done = sqlx::query!(
        "UPDATE refunds SET state = 'succeeded', stripe_refund_id = $2, updated_at = $3 WHERE id = $1 AND state = 'pending'",
        refund.id,
        reply.id,
        now
    )
    .execute(tx.conn())
    .await?;
    if done.rows_affected() == 0 {
        return Ok(());
    }
    sqlx::query!(
        "UPDATE payments SET refunded_minor = refunded_minor + $2, updated_at = $3 WHERE id = $1",
        payment.id,
        refund.amount_minor,
        now
    )
    .execute(tx.conn())
    .await?;
    // Fees go back in proportion, so that a full refund leaves every account as it was.
    let fees = store::platform_fees(tx, payment.booking_id)
        .await?
        .min(payment.captured_minor);
    let proportion = |part: i64| {
        let (part, of, whole) = (
            i128::from(part),
            i128::from(refund.amount_minor),
            i128::from(payment.captured_minor.max(1)),
        );
        i64::try_from((2 * part * of + whole) / (2 * whole)).unwrap_or(0)
    };
    let fees_back = proportion(fees);
    let entries = [
        (Account::StripeBalance, -refund.amount_minor),
        (Account::HostPayable, refund.amount_minor - fees_back),
        (Account::PlatformRevenue, fees_back),
    ];
    ledger::record(
        tx,
        &refund_key(refund.id),
        payment.booking_id,
        payment.currency,
        &entries,
    )
    .await?;
    bookings::note(
        tx,
        payment.booking_id,
        "payment_refunded",
        Actor::System,
        Some(&refund.reason),
    )
    .await?;
    tx.booking_changed(payment.booking_id);
    Ok(())
}

/// Stripe will not refund: an operator has to look.
///
/// # Errors
/// Postgres refused.
pub async fn refund_failed(tx: &mut Tx, refund: &Refund, payment: &Payment, reason: &str) -> Result<(), sqlx::Error> {
    let now = tx.now();
    sqlx::query!(
        "UPDATE refunds SET state = 'failed', updated_at = $2 WHERE id = $1 AND state = 'pending'",
        refund.id,
        now
    )
    .execute(tx.conn())
    .await?;
    bookings::note(tx, payment.booking_id, "refund_failed", Actor::System, Some(reason)).await
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

/// Promises `amount_minor` of a confirmed booking's payment back. The job waits for the capture, should that still be
/// under way.
///
/// # Errors
/// Postgres refused.
pub async fn pay_back(tx: &mut Tx, booking_id: Uuid, amount_minor: i64, rule: &str) -> Result<(), sqlx::Error> {
    let payment = latest_of(tx.conn(), booking_id)
        .await?
        .filter(|payment| payment.state.is_live());
    if let Some(payment) = payment.filter(|_| amount_minor > 0) {
        let refund_id = store::insert_refund(tx, payment.id, amount_minor, rule).await?;
        tx.enqueue(&RefundPayment { refund_id });
    }
    Ok(())
}
