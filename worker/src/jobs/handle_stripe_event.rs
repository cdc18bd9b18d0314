//! `stripe.event.handle`: an event only says where to look. The object's current state at Stripe decides, so events
//! that come late, twice or in another order do no harm.

use roost_shared::bookings::Actor;
use roost_shared::db::Tx;
use roost_shared::jobs::catalogue::HandleStripeEvent;
use roost_shared::jobs::{Lease, effects};
use roost_shared::payments::{self, Payment, PaymentState};
use roost_shared::stripe::events::StoredEvent;
use roost_shared::stripe::{Failure, Intent, IntentStatus, StripeRefund, events};

use super::stripe_call;
use crate::context::Context;
use crate::error::JobError;
use crate::handler::{DONE, Done, Handler};

impl Handler for HandleStripeEvent {
    async fn run(self, ctx: &Context, lease: Lease) -> Result<Done, JobError> {
        let mut connection = ctx.db.pool().acquire().await?;
        let Some(event) = events::get(&mut connection, &self.event_id).await? else {
            return Ok(DONE);
        };
        drop(connection);
        let found = if event.object_id.starts_with("re_") {
            readable(&event, ctx.stripe.read_refund(&event.object_id).await)?.map(Found::Refund)
        } else if event.object_id.starts_with("pi_") {
            readable(&event, ctx.stripe.intent(&event.object_id).await)?.map(Found::Intent)
        } else {
            None
        };
        if let Some(Found::Intent(intent)) = &found {
            release_stray(ctx, &lease, intent).await?;
        }
        let mut tx = ctx.db.begin().await?;
        match found {
            Some(Found::Refund(refund)) => follow_refund(&mut tx, &refund).await?,
            Some(Found::Intent(intent)) => follow_intent(&mut tx, &intent).await?,
            None => {}
        }
        events::mark_handled(&mut tx, &event.id).await?;
        lease.complete(&mut tx).await?;
        tx.commit().await?;
        Ok(Done::Settled)
    }
}

/// What an event was about, as it is now.
enum Found {
    Refund(StripeRefund),
    Intent(Intent),
}

fn readable<T>(event: &StoredEvent, read: Result<T, Failure>) -> Result<Option<T>, JobError> {
    match read {
        Ok(object) => Ok(Some(object)),
        Err(Failure::Refused(reason)) => {
            tracing::warn!(event_id = event.id, reason, "the event's object cannot be read");
            Ok(None)
        }
        Err(failure) => Err(failure.into()),
    }
}

async fn follow_intent(tx: &mut Tx, intent: &Intent) -> Result<(), JobError> {
    // Not one of ours, or its authorisation is still on its way and will see the state itself.
    let Some(payment) = payments::by_intent(tx.conn(), &intent.id).await? else {
        return Ok(());
    };
    if let Some(current) = payments::lock(tx, payment.id).await? {
        payments::follow(tx, &current, intent, Actor::Stripe).await?;
    }
    Ok(())
}

async fn follow_refund(tx: &mut Tx, reply: &StripeRefund) -> Result<(), JobError> {
    let Some(refund_id) = reply.refund_id else {
        return Ok(());
    };
    let Some(refund) = payments::refund(tx.conn(), refund_id).await? else {
        return Ok(());
    };
    let payment = payments::lock(tx, refund.payment_id).await?;
    let current = payments::lock_refund(tx, refund_id).await?;
    if let (Some(payment), Some(current)) = (payment, current) {
        payments::follow_refund(tx, &current, &payment, reply).await?;
    }
    Ok(())
}

/// A PaymentIntent that was created for one of our payments and is not the one that the payment got: the reply to its
/// creation was lost. It was never confirmed by us, and is cancelled so that nobody ever does.
async fn release_stray(ctx: &Context, lease: &Lease, intent: &Intent) -> Result<(), JobError> {
    let Some(payment) = payment_of_stray(ctx, intent).await? else {
        return Ok(());
    };
    let key = format!("void:{}", intent.id);
    match intent.status {
        // Perhaps by an attempt before this one that came to no end.
        IntentStatus::Canceled => {
            let mut tx = ctx.db.begin().await?;
            effects::close(&mut tx, &key, true).await?;
            lease.guard(&mut tx).await?;
            tx.commit().await?;
            return Ok(());
        }
        IntentStatus::Succeeded => {
            tracing::error!(payment_id = %payment.id, intent_id = intent.id, "a PaymentIntent that is not the payment's took money");
            return Ok(());
        }
        _ => {}
    }
    let effect = stripe_call::begin(ctx, lease, "void", &key, payment.id).await?;
    let sent_key = stripe_call::idempotency_key(&key, &effect);
    match stripe_call::call(ctx, lease, "void", &key, ctx.stripe.void(&sent_key, &intent.id)).await? {
        Ok(_) | Err(Failure::UnexpectedState(_)) => {}
        Err(failure) => return Err(failure.into()),
    }
    let mut tx = ctx.db.begin().await?;
    effects::done(&mut tx, &key, Some(&intent.id), None).await?;
    lease.guard(&mut tx).await?;
    tx.commit().await?;
    Ok(())
}

async fn payment_of_stray(ctx: &Context, intent: &Intent) -> Result<Option<Payment>, JobError> {
    let Some(payment_id) = intent.payment_id else {
        return Ok(None);
    };
    let mut connection = ctx.db.pool().acquire().await?;
    let payment = payments::get(&mut connection, payment_id).await?;
    Ok(payment.filter(|payment| match &payment.stripe_payment_intent_id {
        Some(own) => *own != intent.id,
        // Perhaps its authorisation is just about to commit this very one.
        None => payment.state != PaymentState::Pending,
    }))
}
