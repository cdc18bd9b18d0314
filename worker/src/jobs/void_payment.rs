//! `payment.void`: releases a reservation that nobody wants any more.

use std::time::Duration;

use roost_shared::bookings::Actor;
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
        let mut connection = ctx.db.pool().acquire().await?;
        let Some(payment) = payments::get(&mut connection, self.payment_id).await? else {
            return Ok(DONE);
        };
        drop(connection);
        match payment.state {
            PaymentState::Failed if payment.stripe_payment_intent_id.is_some() => {}
            PaymentState::Voided | PaymentState::Failed => return Ok(DONE),
            PaymentState::Captured => return pay_back_instead(ctx, lease, &payment).await,
            PaymentState::Pending => return Err(not_answered_yet(ctx, &payment)),
            PaymentState::RequiresAction | PaymentState::Authorized => {}
        }
        let intent = release(ctx, &lease, &payment).await?;
        let mut tx = ctx.db.begin().await?;
        record_release(&mut tx, &payment, &intent).await?;
        lease.complete(&mut tx).await?;
        tx.commit().await?;
        Ok(Done::Settled)
    }
}

/// Captured behind our back: what was taken goes back.
async fn pay_back_instead(ctx: &Context, lease: Lease, payment: &Payment) -> Result<Done, JobError> {
    let mut tx = ctx.db.begin().await?;
    let left = payment.captured_minor - payment.refunded_minor;
    payments::pay_back(&mut tx, payment.booking_id, left, "captured_without_booking").await?;
    lease.complete(&mut tx).await?;
    tx.commit().await?;
    Ok(Done::Settled)
}

/// Stripe has not answered the authorisation yet: its job decides what there is to release. Asked again less and less
/// often while Stripe stays silent.
pub(super) fn not_answered_yet(ctx: &Context, payment: &Payment) -> JobError {
    let age = (ctx.clock().now() - payment.created_at).to_std().unwrap_or_default();
    JobError::Snooze((age / 10).clamp(Duration::from_secs(2), Duration::from_secs(120)))
}

/// Has Stripe release the reservation and returns how the PaymentIntent stands then.
pub(super) async fn release(ctx: &Context, lease: &Lease, payment: &Payment) -> Result<Intent, JobError> {
    let intent_id = payment.stripe_payment_intent_id.as_deref();
    let intent_id = intent_id.ok_or_else(|| JobError::Fail("a payment in play without a PaymentIntent".to_owned()))?;
    let key = payments::void_key(payment.id);
    let effect = stripe_call::begin(ctx, lease, &key, payment.id).await?;
    if !effect.fresh {
        let intent = ctx.stripe.intent(intent_id).await?;
        if matches!(intent.status, IntentStatus::Canceled | IntentStatus::Succeeded) {
            return Ok(intent);
        }
    }
    let sent_key = stripe_call::idempotency_key(&key, &effect);
    match stripe_call::call(ctx, lease, &key, ctx.stripe.void(&sent_key, intent_id)).await? {
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
    if let Some(current) = current {
        payments::follow(tx, &current, intent, Actor::System).await?;
        if intent.status == IntentStatus::Succeeded {
            payments::pay_back(
                tx,
                payment.booking_id,
                intent.received_minor,
                "captured_without_booking",
            )
            .await?;
        }
    }
    Ok(())
}
