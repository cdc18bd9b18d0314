//! `payment.refund`: pays back what a cancellation promised.

use std::time::Duration;

use roost_shared::jobs::catalogue::RefundPayment;
use roost_shared::jobs::effects::Effect;
use roost_shared::jobs::{Lease, effects};
use roost_shared::payments::{self, Payment, PaymentState, Refund};
use roost_shared::stripe::{Failure, StripeRefund};

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
        if refund.state != "pending" {
            return Ok(DONE);
        }
        let payment = payments::get(&mut connection, refund.payment_id).await?;
        let payment = payment.ok_or_else(|| JobError::Fail("the refund's payment is missing".to_owned()))?;
        drop(connection);
        match payment.state {
            PaymentState::Captured => {}
            // The capture of the confirmed booking is still under way.
            PaymentState::Pending | PaymentState::RequiresAction | PaymentState::Authorized => {
                return Err(JobError::Snooze(Duration::from_secs(3)));
            }
            PaymentState::Voided | PaymentState::Failed => {
                return give_up(ctx, lease, &refund, &payment, "nothing was captured").await;
            }
        }
        let intent_id = payment.stripe_payment_intent_id.as_deref();
        let intent_id =
            intent_id.ok_or_else(|| JobError::Fail("a captured payment without a PaymentIntent".to_owned()))?;
        let key = payments::refund_key(refund.id);
        let effect = stripe_call::begin(ctx, &lease, &key, payment.id).await?;
        if let Some(reply) = done_already(ctx, &effect, &refund, &payment, intent_id).await? {
            return record(ctx, lease, &refund, &payment, &key, &reply).await;
        }
        let sent_key = stripe_call::idempotency_key(&key, &effect);
        match stripe_call::call(
            ctx,
            &lease,
            &key,
            ctx.stripe.refund(&sent_key, intent_id, refund.amount_minor),
        )
        .await?
        {
            Ok(reply) => record(ctx, lease, &refund, &payment, &key, &reply).await,
            Err(failure @ (Failure::UnexpectedState(_) | Failure::Refused(_) | Failure::Declined(..))) => {
                give_up(ctx, lease, &refund, &payment, &failure.to_string()).await
            }
            Err(failure) => Err(failure.into()),
        }
    }
}

/// Where the key protects no more, what Stripe has paid back in all tells whether this refund is part of it.
async fn done_already(
    ctx: &Context,
    effect: &Effect,
    refund: &Refund,
    payment: &Payment,
    intent_id: &str,
) -> Result<Option<StripeRefund>, JobError> {
    if !stripe_call::must_look_first(ctx, effect) {
        return Ok(None);
    }
    let intent = ctx.stripe.intent(intent_id).await?;
    let paid_back = intent.refunded_minor - payment.refunded_minor >= refund.amount_minor;
    Ok(paid_back.then(|| StripeRefund {
        id: None,
        status: "succeeded".to_owned(),
    }))
}

async fn record(
    ctx: &Context,
    lease: Lease,
    refund: &Refund,
    payment: &Payment,
    key: &str,
    reply: &StripeRefund,
) -> Result<Done, JobError> {
    if matches!(reply.status.as_str(), "failed" | "canceled") {
        return give_up(
            ctx,
            lease,
            refund,
            payment,
            &format!("Stripe's refund is {}", reply.status),
        )
        .await;
    }
    let mut tx = ctx.db.begin().await?;
    let current = payments::lock(&mut tx, payment.id).await?;
    effects::done(&mut tx, key, reply.id.as_deref(), None).await?;
    if let Some(current) = current {
        payments::refunded(&mut tx, refund, &current, reply).await?;
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
    tracing::error!(refund_id = %refund.id, reason, "refund not possible");
    let mut tx = ctx.db.begin().await?;
    effects::failed(&mut tx, &payments::refund_key(refund.id), None, reason).await?;
    payments::refund_failed(&mut tx, refund, payment, reason).await?;
    lease.guard(&mut tx).await?;
    tx.commit().await?;
    Err(JobError::Fail(reason.to_owned()))
}
