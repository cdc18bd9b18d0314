//! `payment.refund`: pays back what a cancellation promised, and looks after it until Stripe has settled it.

use std::time::Duration;

use roost_shared::jobs::catalogue::{CapturePayment, RefundPayment};
use roost_shared::jobs::effects::Effect;
use roost_shared::jobs::{Lease, effects};
use roost_shared::payments::{self, Payment, PaymentState, Refund};
use roost_shared::stripe::{Failure, RefundStatus, Repayment, StripeRefund};

use super::stripe_call;
use crate::context::Context;
use crate::error::JobError;
use crate::handler::{DONE, Done, Handler};

impl Handler for RefundPayment {
    async fn run(self, ctx: &Context, lease: Lease) -> Result<Done, JobError> {
        let mut connection = ctx.db.pool().acquire().await?;
        let Some(refund) = payments::refund(&mut connection, self.refund_id).await? else {
            return Ok(DONE);
        };
        let key = payments::refund_key(refund.id);
        if refund.state != "pending" {
            drop(connection);
            return stripe_call::on_record(ctx, lease, &[(key, refund.state != "failed")]).await;
        }
        let payment = payments::get(&mut connection, refund.payment_id).await?;
        let payment = payment.ok_or_else(|| JobError::Fail("the refund's payment is missing".to_owned()))?;
        drop(connection);
        match payment.state {
            PaymentState::Captured => {}
            PaymentState::Pending | PaymentState::RequiresAction | PaymentState::Authorized => {
                return wait_for_capture(ctx, lease, &refund, &payment).await;
            }
            PaymentState::Voided | PaymentState::Failed => {
                return give_up(ctx, lease, &refund, &payment, "nothing was captured").await;
            }
        }
        // Stripe has it already: what became of it?
        if let Some(stripe_refund_id) = &refund.stripe_refund_id {
            let reply = ctx.stripe.read_refund(stripe_refund_id).await?;
            return record(ctx, lease, &refund, &payment, &reply).await;
        }
        let intent_id = payment.stripe_payment_intent_id.as_deref();
        let intent_id =
            intent_id.ok_or_else(|| JobError::Fail("a captured payment without a PaymentIntent".to_owned()))?;
        let effect = stripe_call::begin(ctx, &lease, "refund", &key, payment.id).await?;
        if let Some(reply) = made_already(ctx, &effect, &refund, intent_id).await? {
            return record(ctx, lease, &refund, &payment, &reply).await;
        }
        let sent_key = stripe_call::idempotency_key(&key, &effect);
        let request = Repayment {
            refund_id: refund.id,
            intent_id,
            amount_minor: refund.amount_minor,
            currency: payment.currency,
        };
        match stripe_call::call(ctx, &lease, "refund", &key, ctx.stripe.refund(&sent_key, &request)).await? {
            Ok(reply) => record(ctx, lease, &refund, &payment, &reply).await,
            Err(failure @ (Failure::UnexpectedState(_) | Failure::Refused(_) | Failure::Declined(..))) => {
                give_up(ctx, lease, &refund, &payment, &failure.to_string()).await
            }
            Err(failure) => Err(failure.into()),
        }
    }
}

/// Where the key protects no more, Stripe's own list tells whether this refund was made.
async fn made_already(
    ctx: &Context,
    effect: &Effect,
    refund: &Refund,
    intent_id: &str,
) -> Result<Option<StripeRefund>, JobError> {
    if !stripe_call::must_look_first(ctx, effect) {
        return Ok(None);
    }
    Ok(ctx.stripe.refund_made_for(refund.id, intent_id).await?)
}

/// The capture of the booking that was confirmed is still under way, or its job was lost: it is asked for again, which
/// does nothing while it has one.
async fn wait_for_capture(ctx: &Context, lease: Lease, refund: &Refund, payment: &Payment) -> Result<Done, JobError> {
    if payment.state == PaymentState::Authorized {
        let mut tx = ctx.db.begin().await?;
        tx.enqueue(&CapturePayment { payment_id: payment.id });
        lease.guard(&mut tx).await?;
        tx.commit().await?;
    }
    let pause = Duration::from_secs(2)..Duration::from_secs(600);
    Err(JobError::wait(ctx.clock().now() - refund.created_at, pause))
}

async fn record(
    ctx: &Context,
    lease: Lease,
    refund: &Refund,
    payment: &Payment,
    reply: &StripeRefund,
) -> Result<Done, JobError> {
    let mut tx = ctx.db.begin().await?;
    let current = payments::lock(&mut tx, payment.id).await?;
    let current_refund = payments::lock_refund(&mut tx, refund.id).await?;
    effects::done(&mut tx, &payments::refund_key(refund.id), Some(&reply.id), None).await?;
    if let (Some(current), Some(current_refund)) = (current, current_refund) {
        payments::follow_refund(&mut tx, &current_refund, &current, reply).await?;
    }
    if reply.status == RefundStatus::Pending {
        // An event tells, and should it be lost, looking again does.
        lease.guard(&mut tx).await?;
        tx.commit().await?;
        let pause = Duration::from_secs(60)..Duration::from_secs(6 * 60 * 60);
        return Err(JobError::wait(ctx.clock().now() - refund.created_at, pause));
    }
    lease.complete(&mut tx).await?;
    tx.commit().await?;
    Ok(Done::Settled)
}

async fn give_up(
    ctx: &Context,
    lease: Lease,
    refund: &Refund,
    payment: &Payment,
    reason: &str,
) -> Result<Done, JobError> {
    let mut tx = ctx.db.begin().await?;
    let current = payments::lock(&mut tx, payment.id).await?;
    effects::failed(&mut tx, &payments::refund_key(refund.id), None, reason).await?;
    if let Some(current) = current {
        payments::refund_refused(&mut tx, refund, &current, reason).await?;
    }
    lease.guard(&mut tx).await?;
    tx.commit().await?;
    Err(JobError::Fail(reason.to_owned()))
}
