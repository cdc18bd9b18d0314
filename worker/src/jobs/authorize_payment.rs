//! `payment.authorize`: asks Stripe to reserve the whole price on the guest's card.

use std::time::Duration;

use roost_shared::bookings::{self, Actor};
use roost_shared::jobs::catalogue::AuthorizePayment;
use roost_shared::jobs::{Lease, effects};
use roost_shared::payments::{self, Payment, PaymentState};
use roost_shared::stripe::{Authorization, Decline, Failure, Intent, IntentStatus};

use super::stripe_call;
use crate::context::Context;
use crate::error::JobError;
use crate::handler::{DONE, Done, Handler};

impl Handler for AuthorizePayment {
    async fn run(self, ctx: &Context, lease: Lease) -> Result<Done, JobError> {
        let mut connection = ctx.db.pool().acquire().await?;
        let Some(payment) = payments::get(&mut connection, self.payment_id).await? else {
            return Ok(DONE);
        };
        if payment.state != PaymentState::Pending {
            return Ok(DONE);
        }
        let booking = bookings::get(&mut connection, payment.booking_id).await?;
        let booking = booking.ok_or_else(|| JobError::Fail("the payment's booking is missing".to_owned()))?;
        drop(connection);

        let key = payments::authorize_key(&payment);
        // Stripe was still at it when the attempt before this one asked.
        if let Some(intent_id) = &payment.stripe_payment_intent_id {
            let intent = ctx.stripe.intent(intent_id).await?;
            return accepted(ctx, lease, &payment, &key, &intent).await;
        }
        let effect = stripe_call::begin(ctx, &lease, &key, payment.id).await?;
        let wanted = booking.state.takes_payment() && ctx.clock().now() < booking.hold_expires_at;
        if effect.fresh && !wanted {
            return never_sent(ctx, lease, &payment, &key).await;
        }
        let request = Authorization {
            booking_id: booking.id,
            payment_id: payment.id,
            amount_minor: payment.amount_minor,
            currency: payment.currency,
            payment_method: &payment.payment_method,
        };
        // After an answer that said nothing, what Stripe has is looked up before anything is sent again.
        let found = if stripe_call::must_look_first(ctx, &effect) {
            ctx.stripe.intent_of_payment(payment.id, effect.first_sent_at).await?
        } else {
            None
        };
        let result = match found {
            Some(intent) => Ok(intent),
            None => {
                let sent_key = stripe_call::idempotency_key(&key, &effect);
                stripe_call::call(ctx, &lease, &key, ctx.stripe.authorize(&sent_key, &request)).await?
            }
        };
        match result {
            Ok(intent) => accepted(ctx, lease, &payment, &key, &intent).await,
            Err(Failure::Declined(decline, intent_id)) => {
                refused(ctx, lease, &payment, &key, &decline, intent_id.as_deref()).await
            }
            Err(failure) => {
                tracing::warn!(%failure, "Stripe refuses the payment as such");
                let decline = Decline {
                    code: "payment_refused".to_owned(),
                    decline_code: None,
                    message: "The payment method cannot be used for this payment.".to_owned(),
                };
                refused(ctx, lease, &payment, &key, &decline, None).await
            }
        }
    }
}

async fn accepted(
    ctx: &Context,
    lease: Lease,
    payment: &Payment,
    key: &str,
    intent: &Intent,
) -> Result<Done, JobError> {
    let mut tx = ctx.db.begin().await?;
    let current = payments::lock(&mut tx, payment.id).await?;
    effects::done(&mut tx, key, Some(&intent.id), None).await?;
    if intent.status == IntentStatus::Processing {
        payments::processing(&mut tx, payment.id, &intent.id).await?;
        lease.guard(&mut tx).await?;
        tx.commit().await?;
        return Err(JobError::Snooze(Duration::from_secs(10)));
    }
    if let Some(current) = current {
        payments::follow(&mut tx, &current, intent, Actor::System).await?;
    }
    lease.complete(&mut tx).await?;
    tx.commit().await?;
    Ok(Done::Settled)
}

async fn refused(
    ctx: &Context,
    lease: Lease,
    payment: &Payment,
    key: &str,
    decline: &Decline,
    intent_id: Option<&str>,
) -> Result<Done, JobError> {
    let mut tx = ctx.db.begin().await?;
    effects::failed(&mut tx, key, intent_id, &decline.code).await?;
    payments::failed(&mut tx, payment, intent_id, decline, Actor::System).await?;
    lease.complete(&mut tx).await?;
    tx.commit().await?;
    Ok(Done::Settled)
}

/// The hold was over before anything was sent: nothing is to be taken back.
async fn never_sent(ctx: &Context, lease: Lease, payment: &Payment, key: &str) -> Result<Done, JobError> {
    let mut tx = ctx.db.begin().await?;
    effects::failed(&mut tx, key, None, "not sent: the booking no longer wants it").await?;
    payments::voided(&mut tx, payment, None, Actor::System).await?;
    lease.complete(&mut tx).await?;
    tx.commit().await?;
    Ok(Done::Settled)
}
