//! `payment.void`: releases a reservation that nobody wants any more. That it is going to be released is committed
//! before Stripe is asked, so nothing is confirmed on it meanwhile.

use std::time::Duration;

use roost_shared::bookings::{self, Actor};
use roost_shared::db::Tx;
use roost_shared::jobs::catalogue::VoidPayment;
use roost_shared::jobs::{Lease, effects};
use roost_shared::payments::{self, Payment, PaymentState};
use roost_shared::stripe::{Failure, Intent, IntentStatus};

use super::stripe_call;
use crate::context::Context;
use crate::error::JobError;
use crate::handler::{DONE, Done, Handler};

impl Handler for VoidPayment {
    async fn run(self, ctx: &Context, lease: Lease) -> Result<Done, JobError> {
        let mut tx = ctx.db.begin().await?;
        let Some(payment) = payments::lock(&mut tx, self.payment_id).await? else {
            return Ok(DONE);
        };
        match payment.state {
            PaymentState::Voided | PaymentState::Failed if payment.stripe_payment_intent_id.is_none() => {
                return Ok(DONE);
            }
            PaymentState::Captured => {
                if !is_owed(&mut tx, &payment).await? {
                    payments::pay_back_rest(&mut tx, &payment, payment.captured_minor, "captured_without_booking")
                        .await?;
                }
                effects::close(&mut tx, &payments::void_key(payment.id), false).await?;
                lease.complete(&mut tx).await?;
                tx.commit().await?;
                return Ok(Done::Settled);
            }
            PaymentState::Pending => {
                if payments::authorization_is_active(tx.conn(), payment.id).await? {
                    return Err(not_answered_yet(ctx, &payment));
                }
                if payment.stripe_payment_intent_id.is_none() {
                    never_confirmed(&mut tx, &payment).await?;
                    lease.complete(&mut tx).await?;
                    tx.commit().await?;
                    return Ok(Done::Settled);
                }
            }
            // Bound again since this was asked for.
            PaymentState::Authorized if is_owed(&mut tx, &payment).await? => return Ok(DONE),
            PaymentState::Voided | PaymentState::Failed | PaymentState::RequiresAction | PaymentState::Authorized => {}
        }
        payments::start_release(&mut tx, payment.id).await?;
        lease.guard(&mut tx).await?;
        tx.commit().await?;
        let intent = release(ctx, &lease, &payment).await?;
        let mut tx = ctx.db.begin().await?;
        record_release(&mut tx, &payment, &intent).await?;
        lease.complete(&mut tx).await?;
        tx.commit().await?;
        Ok(Done::Settled)
    }
}

/// Whether the payment's booking binds both sides, so that its money is not to be given back here.
async fn is_owed(tx: &mut Tx, payment: &Payment) -> Result<bool, sqlx::Error> {
    let booking = bookings::get(tx.conn(), payment.booking_id).await?;
    Ok(booking.is_some_and(|booking| booking.state.is_bound()))
}

/// No PaymentIntent was ever known, so no card was asked. The payment must be locked.
pub(super) async fn never_confirmed(tx: &mut Tx, payment: &Payment) -> Result<(), sqlx::Error> {
    tracing::warn!(payment_id = %payment.id, "a payment whose authorisation ended without an answer is given up");
    payments::voided(tx, payment, None, Actor::System).await
}

/// Stripe has not answered the authorisation yet: its job decides what there is to release. Asked again less and less
/// often while Stripe stays silent.
pub(super) fn not_answered_yet(ctx: &Context, payment: &Payment) -> JobError {
    let pause = Duration::from_secs(2)..Duration::from_secs(120);
    JobError::wait(ctx.clock().now() - payment.created_at, pause)
}

/// Has Stripe release the reservation and returns how the PaymentIntent stands then.
pub(super) async fn release(ctx: &Context, lease: &Lease, payment: &Payment) -> Result<Intent, JobError> {
    let intent_id = payment.stripe_payment_intent_id.as_deref();
    let intent_id = intent_id.ok_or_else(|| JobError::Fail("a payment in play without a PaymentIntent".to_owned()))?;
    if payment.release_started_at.is_none() {
        let mut tx = ctx.db.begin().await?;
        payments::start_release(&mut tx, payment.id).await?;
        lease.guard(&mut tx).await?;
        tx.commit().await?;
    }
    let key = payments::void_key(payment.id);
    let effect = stripe_call::begin(ctx, lease, "void", &key, payment.id).await?;
    if !effect.fresh {
        let intent = ctx.stripe.intent(intent_id).await?;
        if matches!(intent.status, IntentStatus::Canceled | IntentStatus::Succeeded) {
            return Ok(intent);
        }
    }
    let sent_key = stripe_call::idempotency_key(&key, &effect);
    match stripe_call::call(ctx, lease, "void", &key, ctx.stripe.void(&sent_key, intent_id)).await? {
        Ok(intent) => Ok(intent),
        Err(Failure::UnexpectedState(_)) => Ok(ctx.stripe.intent(intent_id).await?),
        Err(failure) => Err(failure.into()),
    }
}

/// Records what [`release`] came to.
pub(super) async fn record_release(tx: &mut Tx, payment: &Payment, intent: &Intent) -> Result<(), JobError> {
    let key = payments::void_key(payment.id);
    let current = payments::lock(tx, payment.id).await?;
    match intent.status {
        IntentStatus::Canceled => effects::done(tx, &key, Some(&intent.id), None).await?,
        IntentStatus::Succeeded => {
            effects::failed(tx, &key, Some(&intent.id), "captured before it could be released").await?;
        }
        _ => return Err(JobError::Retry("Stripe has not released the payment yet".to_owned())),
    }
    let Some(current) = current else { return Ok(()) };
    payments::follow(tx, &current, intent, Actor::System).await?;
    if intent.status == IntentStatus::Succeeded && !is_owed(tx, &current).await? {
        payments::pay_back_rest(tx, &current, intent.received_minor, "captured_without_booking").await?;
    }
    Ok(())
}
