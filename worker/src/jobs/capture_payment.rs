//! `payment.capture`: takes the reserved amount of a confirmed booking. When there is nothing left to take, the booking
//! ends and both sides are told.

use roost_shared::bookings::Actor;
use roost_shared::jobs::catalogue::CapturePayment;
use roost_shared::jobs::{Lease, effects};
use roost_shared::payments::{self, Payment, PaymentState};
use roost_shared::stripe::{Failure, Intent, IntentStatus};

use super::stripe_call;
use super::void_payment::{record_release, release};
use crate::context::Context;
use crate::error::JobError;
use crate::handler::{DONE, Done, Handler};

impl Handler for CapturePayment {
    async fn run(self, ctx: &Context, lease: Lease) -> Result<Done, JobError> {
        let mut connection = ctx.db.pool().acquire().await?;
        let Some(payment) = payments::get(&mut connection, self.payment_id).await? else {
            return Ok(DONE);
        };
        drop(connection);
        let key = payments::capture_key(payment.id);
        if payment.state != PaymentState::Authorized {
            let captured = payment.state == PaymentState::Captured;
            let mut calls = vec![(key, captured)];
            // An attempt before this one may have been refused and have given the card up.
            if !captured && payment.release_started_at.is_some() {
                calls.push((payments::void_key(payment.id), true));
            }
            return stripe_call::on_record(ctx, lease, &calls).await;
        }
        // An attempt before this one was refused and had begun to give the card up.
        if payment.release_started_at.is_some() {
            return give_up(ctx, lease, &payment, &key).await;
        }
        let intent_id = payment.stripe_payment_intent_id.as_deref();
        let intent_id =
            intent_id.ok_or_else(|| JobError::Fail("an authorised payment without a PaymentIntent".to_owned()))?;
        let effect = stripe_call::begin(ctx, &lease, "capture", &key, payment.id).await?;
        // A second try looks first: the first may have been done.
        let mut intent = if effect.fresh {
            None
        } else {
            Some(ctx.stripe.intent(intent_id).await?)
        };
        if intent
            .as_ref()
            .is_none_or(|intent| intent.status == IntentStatus::RequiresCapture)
        {
            let sent_key = stripe_call::idempotency_key(&key, &effect);
            intent = match stripe_call::call(ctx, &lease, "capture", &key, ctx.stripe.capture(&sent_key, intent_id))
                .await?
            {
                Ok(intent) => Some(intent),
                // Captured, cancelled or lapsed behind our back: what it is now decides.
                Err(Failure::UnexpectedState(_)) => Some(ctx.stripe.intent(intent_id).await?),
                Err(Failure::Declined(decline, _)) => {
                    tracing::error!(payment_id = %payment.id, code = decline.code, "the bank refuses a capture it had authorised");
                    return give_up(ctx, lease, &payment, &key).await;
                }
                Err(failure) => return Err(failure.into()),
            };
        }
        match intent {
            Some(intent) => record(ctx, lease, &payment, &key, &intent).await,
            None => Err(JobError::Retry("no PaymentIntent to record".to_owned())),
        }
    }
}

async fn record(ctx: &Context, lease: Lease, payment: &Payment, key: &str, intent: &Intent) -> Result<Done, JobError> {
    let mut tx = ctx.db.begin().await?;
    let current = payments::lock(&mut tx, payment.id).await?;
    match intent.status {
        IntentStatus::Succeeded => effects::done(&mut tx, key, Some(&intent.id), None).await?,
        IntentStatus::Canceled | IntentStatus::RequiresPaymentMethod => {
            tracing::error!(payment_id = %payment.id, "the authorisation of a confirmed booking is gone");
            effects::failed(&mut tx, key, Some(&intent.id), "the authorisation is gone").await?;
        }
        _ => return Err(JobError::Retry("Stripe has not captured yet".to_owned())),
    }
    if let Some(current) = current {
        payments::follow(&mut tx, &current, intent, Actor::System).await?;
    }
    lease.complete(&mut tx).await?;
    tx.commit().await?;
    Ok(Done::Settled)
}

/// The bank does not pay what it reserved: what is left of the reservation is released, and the booking ends with it.
async fn give_up(ctx: &Context, lease: Lease, payment: &Payment, key: &str) -> Result<Done, JobError> {
    let intent = release(ctx, &lease, payment).await?;
    let mut tx = ctx.db.begin().await?;
    record_release(&mut tx, payment, &intent).await?;
    if intent.status == IntentStatus::Succeeded {
        effects::done(&mut tx, key, Some(&intent.id), None).await?;
    } else {
        effects::failed(&mut tx, key, Some(&intent.id), "the bank refused the capture").await?;
    }
    lease.complete(&mut tx).await?;
    tx.commit().await?;
    Ok(Done::Settled)
}
