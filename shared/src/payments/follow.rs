//! What Stripe says of a PaymentIntent, and what our record makes of it: forward, never back.

use uuid::Uuid;

use super::store::Payment;
use super::transitions::{Step, Told};
use super::{PaymentState, capture_key, store};
use crate::bookings::{self, Actor};
use crate::db::Tx;
use crate::jobs::catalogue::{ConfirmBooking, MailKind, SendMail, VoidPayment};
use crate::ledger::{self, Account};
use crate::notifications::{self, Event};
use crate::stripe::{Decline, Intent};

/// Moves our record forward to what Stripe says, never back. The payment must be locked.
///
/// # Errors
/// Postgres refused.
pub async fn follow(tx: &mut Tx, payment: &Payment, intent: &Intent, actor: Actor) -> Result<(), sqlx::Error> {
    match payment.state.told(intent.status) {
        Told::Moves(Step::Authorize) => authorized(tx, payment, intent, actor).await,
        Told::Moves(Step::RequireAction) => requires_action(tx, payment, intent, actor).await,
        Told::Moves(Step::Fail | Step::Supersede) => {
            let decline = intent.decline.clone().unwrap_or_default();
            failed(tx, payment, Some(&intent.id), &decline, actor).await
        }
        Told::Moves(Step::Void) => voided(tx, payment, Some(&intent.id), actor).await,
        Told::Moves(Step::Capture) => captured(tx, payment, intent, actor).await,
        Told::Lapsed => {
            voided(tx, payment, Some(&intent.id), actor).await?;
            bookings::lose_payment(tx, payment.booking_id, actor).await
        }
        Told::Unwanted => {
            tx.enqueue(&VoidPayment { payment_id: payment.id });
            Ok(())
        }
        Told::TakenUnwanted => taken_unwanted(tx, payment, intent, actor).await,
        Told::Nothing => {
            if payment.state == PaymentState::Captured && intent.refunded_minor > payment.refunded_minor {
                // A refund of ours whose reply is still on its way, or one made at Stripe by hand.
                tracing::info!(payment_id = %payment.id, "Stripe has refunded more than is recorded yet");
            }
            Ok(())
        }
    }
}

/// Commits which PaymentIntent the payment has, before it is confirmed: so whatever becomes of the confirmation, it can
/// be read by its id. False: the payment has one already or is not wanted any more.
///
/// # Errors
/// Postgres refused.
pub async fn bind_intent(tx: &mut Tx, payment_id: Uuid, intent_id: &str) -> Result<bool, sqlx::Error> {
    let now = tx.now();
    let done = sqlx::query!(
        "UPDATE payments SET stripe_payment_intent_id = $2, updated_at = $3
         WHERE id = $1 AND state = 'pending' AND stripe_payment_intent_id IS NULL AND release_started_at IS NULL",
        payment_id,
        intent_id,
        now
    )
    .execute(tx.conn())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Notes that Stripe is going to be asked to release the card: from here on nothing is confirmed, approved or captured
/// on it. The payment must be locked.
///
/// # Errors
/// Postgres refused.
pub async fn start_release(tx: &mut Tx, payment_id: Uuid) -> Result<(), sqlx::Error> {
    let now = tx.now();
    sqlx::query!(
        "UPDATE payments SET release_started_at = coalesce(release_started_at, $2) WHERE id = $1",
        payment_id,
        now
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// The guest pays with another card instead: this one is given up.
pub(super) async fn superseded(tx: &mut Tx, payment: &Payment, actor: Actor) -> Result<(), sqlx::Error> {
    let now = tx.now();
    sqlx::query!(
        "UPDATE payments SET state = 'failed', failure_code = 'superseded', failure_message = 'Another card was used instead.',
             client_secret = NULL, release_started_at = $2, updated_at = $2
         WHERE id = $1 AND state = 'requires_action'",
        payment.id,
        now
    )
    .execute(tx.conn())
    .await?;
    bookings::note(tx, payment.booking_id, "payment_superseded", actor, None).await?;
    tx.enqueue(&VoidPayment { payment_id: payment.id });
    Ok(())
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
        notifications::tell(tx, Event::PaymentFailed, payment.booking_id, &[payment.guest_id]).await?;
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

/// Money was taken on a payment that was given up, by hand at Stripe: the guest has it to get back, and whoever took it
/// has to see to that. Told once, and not if it went back already. Another card may be in play for the booking, so this
/// one comes to no life again.
async fn taken_unwanted(tx: &mut Tx, payment: &Payment, intent: &Intent, actor: Actor) -> Result<(), sqlx::Error> {
    const EVENT: &str = "payment_taken_unwanted";
    let kept_minor = intent.received_minor - intent.refunded_minor;
    let timeline = bookings::timeline(tx.conn(), payment.booking_id).await?;
    let is_told = timeline
        .iter()
        .any(|entry| entry.event == EVENT && entry.reason.as_deref() == Some(&intent.id));
    if kept_minor <= 0 || is_told {
        return Ok(());
    }
    tracing::error!(
        payment_id = %payment.id,
        booking_id = %payment.booking_id,
        intent_id = intent.id,
        kept_minor,
        "money was taken on a payment that was given up: it has to be paid back at Stripe"
    );
    metrics::counter!("roost_payments_taken_unwanted_total").increment(1);
    bookings::note(tx, payment.booking_id, EVENT, actor, Some(&intent.id)).await?;
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
