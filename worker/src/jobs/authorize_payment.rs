//! `payment.authorize`: asks Stripe to reserve the whole price on the guest's card. The PaymentIntent is created first
//! and its id committed, then it is confirmed: an intent that nobody knows of holds no money, and what became of a
//! confirmation is read by the id.

use std::time::Duration;

use roost_shared::bookings::{self, Actor, Booking};
use roost_shared::jobs::catalogue::AuthorizePayment;
use roost_shared::jobs::{Lease, effects};
use roost_shared::payments::{self, Payment, PaymentState};
use roost_shared::stripe::{Authorization, Decline, Failure, Intent, IntentStatus};

use super::stripe_call;
use super::void_payment::{record_release, release};
use crate::context::Context;
use crate::error::JobError;
use crate::handler::{DONE, Done, Handler};

impl Handler for AuthorizePayment {
    async fn run(self, ctx: &Context, lease: Lease) -> Result<Done, JobError> {
        let mut connection = ctx.db.pool().acquire().await?;
        let Some(payment) = payments::get(&mut connection, self.payment_id).await? else {
            return Ok(DONE);
        };
        let key = payments::authorize_key(&payment);
        if payment.state != PaymentState::Pending {
            drop(connection);
            let reserved = !matches!(payment.state, PaymentState::Failed | PaymentState::Voided);
            let mut calls = vec![(key, reserved)];
            // An attempt before this one may have given it up.
            if payment.state == PaymentState::Voided {
                calls.push((payments::void_key(payment.id), true));
            }
            return stripe_call::on_record(ctx, lease, &calls).await;
        }
        let booking = bookings::get(&mut connection, payment.booking_id).await?;
        let booking = booking.ok_or_else(|| JobError::Fail("the payment's booking is missing".to_owned()))?;
        drop(connection);

        let mut wanted = is_wanted(ctx, &booking, &payment);
        let intent = match &payment.stripe_payment_intent_id {
            // An attempt before this one may have confirmed it.
            Some(intent_id) => ctx.stripe.intent(intent_id).await?,
            None if !wanted => return never_sent(ctx, lease, &payment).await,
            None => match create(ctx, &lease, &payment).await? {
                Ok(intent) => {
                    wanted = bind(ctx, &lease, &payment, &intent).await?;
                    intent
                }
                Err(decline) => return refused(ctx, lease, &payment, &decline, None).await,
            },
        };
        if intent.status != IntentStatus::RequiresConfirmation {
            return accepted(ctx, lease, &payment, &intent).await;
        }
        let payment = Payment {
            stripe_payment_intent_id: Some(intent.id.clone()),
            ..payment
        };
        if !wanted {
            return let_go(ctx, lease, &payment).await;
        }
        confirm(ctx, lease, &payment, &intent.id).await
    }
}

fn is_wanted(ctx: &Context, booking: &Booking, payment: &Payment) -> bool {
    payment.release_started_at.is_none() && booking.state.takes_payment() && ctx.clock().now() < booking.hold_expires_at
}

async fn create(ctx: &Context, lease: &Lease, payment: &Payment) -> Result<Result<Intent, Decline>, JobError> {
    let key = payments::authorize_key(payment);
    let effect = stripe_call::begin(ctx, lease, "create", &key, payment.id).await?;
    let request = Authorization {
        booking_id: payment.booking_id,
        payment_id: payment.id,
        amount_minor: payment.amount_minor,
        currency: payment.currency,
        payment_method: &payment.payment_method,
    };
    let sent_key = stripe_call::idempotency_key(&format!("{key}:create"), &effect);
    match stripe_call::call(ctx, lease, "create", &key, ctx.stripe.create(&sent_key, &request)).await? {
        Ok(intent) => Ok(Ok(intent)),
        Err(failure) => Ok(Err(reason(failure))),
    }
}

/// Commits which PaymentIntent it is. Returns whether the card is still to be asked.
async fn bind(ctx: &Context, lease: &Lease, payment: &Payment, intent: &Intent) -> Result<bool, JobError> {
    let mut tx = ctx.db.begin().await?;
    let current = payments::lock(&mut tx, payment.id).await?;
    let booking = bookings::get(tx.conn(), payment.booking_id).await?;
    if !payments::bind_intent(&mut tx, payment.id, &intent.id).await? {
        return Err(JobError::Retry(
            "the payment was changed while its PaymentIntent was created".to_owned(),
        ));
    }
    lease.guard(&mut tx).await?;
    tx.commit().await?;
    Ok(matches!((booking, current), (Some(booking), Some(current)) if is_wanted(ctx, &booking, &current)))
}

async fn confirm(ctx: &Context, lease: Lease, payment: &Payment, intent_id: &str) -> Result<Done, JobError> {
    let key = payments::authorize_key(payment);
    let effect = stripe_call::begin(ctx, &lease, "confirm", &key, payment.id).await?;
    let sent_key = stripe_call::idempotency_key(&key, &effect);
    match stripe_call::call(ctx, &lease, "confirm", &key, ctx.stripe.confirm(&sent_key, intent_id)).await? {
        Ok(intent) => accepted(ctx, lease, payment, &intent).await,
        // Confirmed or cancelled behind our back: what it is now decides.
        Err(Failure::UnexpectedState(_)) => {
            let intent = ctx.stripe.intent(intent_id).await?;
            accepted(ctx, lease, payment, &intent).await
        }
        Err(failure) => refused(ctx, lease, payment, &reason(failure), Some(intent_id)).await,
    }
}

/// What the guest is told of a refusal.
fn reason(failure: Failure) -> Decline {
    match failure {
        Failure::Declined(decline, _) => decline,
        failure => {
            tracing::warn!(%failure, "Stripe refuses the payment as such");
            Decline {
                code: "payment_refused".to_owned(),
                decline_code: None,
                message: "The payment method cannot be used for this payment.".to_owned(),
            }
        }
    }
}

async fn accepted(ctx: &Context, lease: Lease, payment: &Payment, intent: &Intent) -> Result<Done, JobError> {
    let mut tx = ctx.db.begin().await?;
    let current = payments::lock(&mut tx, payment.id).await?;
    effects::done(&mut tx, &payments::authorize_key(payment), Some(&intent.id), None).await?;
    match intent.status {
        IntentStatus::RequiresConfirmation => {
            return Err(JobError::Retry("the PaymentIntent is not confirmed yet".to_owned()));
        }
        IntentStatus::Processing => {
            payments::processing(&mut tx, payment.id, &intent.id).await?;
            lease.guard(&mut tx).await?;
            tx.commit().await?;
            let pause = Duration::from_secs(10)..Duration::from_secs(600);
            return Err(JobError::wait(ctx.clock().now() - payment.created_at, pause));
        }
        _ => {}
    }
    if intent.status == IntentStatus::Canceled {
        // Perhaps by an attempt before this one that came to no end.
        effects::close(&mut tx, &payments::void_key(payment.id), true).await?;
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
    decline: &Decline,
    intent_id: Option<&str>,
) -> Result<Done, JobError> {
    let mut tx = ctx.db.begin().await?;
    let current = payments::lock(&mut tx, payment.id).await?;
    effects::failed(&mut tx, &payments::authorize_key(payment), intent_id, &decline.code).await?;
    if let Some(current) = current {
        payments::failed(&mut tx, &current, intent_id, decline, Actor::System).await?;
    }
    lease.complete(&mut tx).await?;
    tx.commit().await?;
    Ok(Done::Settled)
}

/// The hold was over before a PaymentIntent was known: none was confirmed, nothing is to be taken back.
async fn never_sent(ctx: &Context, lease: Lease, payment: &Payment) -> Result<Done, JobError> {
    let mut tx = ctx.db.begin().await?;
    let current = payments::lock(&mut tx, payment.id).await?;
    let error = "not sent: the booking no longer wants it";
    effects::failed(&mut tx, &payments::authorize_key(payment), None, error).await?;
    match current {
        Some(current) if current.stripe_payment_intent_id.is_none() => {
            payments::voided(&mut tx, &current, None, Actor::System).await?;
        }
        _ => return Err(JobError::Retry("the payment was changed meanwhile".to_owned())),
    }
    lease.complete(&mut tx).await?;
    tx.commit().await?;
    Ok(Done::Settled)
}

/// The hold was over before the card was asked.
async fn let_go(ctx: &Context, lease: Lease, payment: &Payment) -> Result<Done, JobError> {
    let intent = release(ctx, &lease, payment).await?;
    let mut tx = ctx.db.begin().await?;
    let error = "given up: the booking no longer wants it";
    effects::failed(&mut tx, &payments::authorize_key(payment), Some(&intent.id), error).await?;
    record_release(&mut tx, payment, &intent).await?;
    lease.complete(&mut tx).await?;
    tx.commit().await?;
    Ok(Done::Settled)
}
