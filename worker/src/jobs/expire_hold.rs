//! `booking.expire_hold`: ends a hold that was not paid, or a request that the host did not answer. Stripe is read
//! before anything is decided; that the card is going to be released is committed under the booking's lock before
//! Stripe is asked to, so nobody confirms on it meanwhile; the nights are released last.

use std::time::Duration;

use roost_shared::bookings::{self, Actor, Booking, BookingState};
use roost_shared::db::Tx;
use roost_shared::jobs::catalogue::{ConfirmBooking, ExpireHold};
use roost_shared::jobs::{Lease, effects};
use roost_shared::payments::{self, Payment, PaymentState};
use roost_shared::stripe::{Intent, IntentStatus};

use super::void_payment::{never_confirmed, not_answered_yet, record_release, release};
use crate::context::Context;
use crate::error::JobError;
use crate::handler::{DONE, Done, Handler};

/// Something changed while it was looked at: look again.
const LOOK_AGAIN: JobError = JobError::Snooze(Duration::from_secs(1));

impl Handler for ExpireHold {
    async fn run(self, ctx: &Context, lease: Lease) -> Result<Done, JobError> {
        let mut connection = ctx.db.pool().acquire().await?;
        let Some(booking) = bookings::get(&mut connection, self.booking_id).await? else {
            return Ok(DONE);
        };
        let deadline = match booking.state {
            BookingState::Held => booking.hold_expires_at,
            BookingState::PendingApproval => booking.approval_expires_at.unwrap_or(booking.hold_expires_at),
            _ => {
                drop(connection);
                return nothing_left(ctx, lease, &booking).await;
            }
        };
        let overdue = ctx.clock().now() - deadline;
        if let Ok(left) = (-overdue).to_std()
            && !left.is_zero()
        {
            return Err(JobError::Snooze(left));
        }
        let payment = payments::latest_of(&mut connection, booking.id).await?;
        let Some(payment) = payment.filter(|payment| payment.state.is_live()) else {
            return expire(ctx, lease, &booking, None).await;
        };
        if payment.state == PaymentState::Pending {
            if payments::authorization_is_active(&mut connection, payment.id).await? {
                return Err(not_answered_yet(ctx, &payment));
            }
            if payment.stripe_payment_intent_id.is_none() {
                return give_up(ctx, lease, &payment).await;
            }
        }
        drop(connection);
        if payment.release_started_at.is_none() {
            // Authorised in time, only not confirmed yet; as long as there are nights to confirm.
            let waits = payment.state == PaymentState::Authorized && booking.state == BookingState::Held;
            if waits && !booking.is_over(ctx.clock().now()) {
                confirm(ctx, &lease, &booking).await?;
                let pause = Duration::from_secs(2)..Duration::from_secs(600);
                return Err(JobError::wait(overdue, pause));
            }
            if moved_at_stripe(ctx, &lease, &payment).await? {
                return Err(LOOK_AGAIN);
            }
            start_release(ctx, &lease, &booking, &payment).await?;
        }
        let intent = release(ctx, &lease, &payment).await?;
        expire(ctx, lease, &booking, Some((&payment, &intent))).await
    }
}

/// Somebody else decided. A webhook may have told of the release before the attempt that asked for it could.
async fn nothing_left(ctx: &Context, lease: Lease, booking: &Booking) -> Result<Done, JobError> {
    let mut tx = ctx.db.begin().await?;
    close_release(&mut tx, booking).await?;
    lease.complete(&mut tx).await?;
    tx.commit().await?;
    Ok(Done::Settled)
}

async fn close_release(tx: &mut Tx, booking: &Booking) -> Result<(), sqlx::Error> {
    let payment = payments::latest_of(tx.conn(), booking.id).await?;
    if let Some(payment) = payment.filter(|payment| !payment.state.is_live()) {
        let released = payment.state == PaymentState::Voided;
        effects::close(tx, &payments::void_key(payment.id), released).await?;
    }
    Ok(())
}

async fn confirm(ctx: &Context, lease: &Lease, booking: &Booking) -> Result<(), JobError> {
    let mut tx = ctx.db.begin().await?;
    tx.enqueue(&ConfirmBooking { booking_id: booking.id });
    lease.guard(&mut tx).await?;
    tx.commit().await?;
    Ok(())
}

/// Reads the PaymentIntent and follows it. Whether that changed the payment: the guest has proved to be the card's
/// owner, or the reservation is gone, and our record did not know yet.
async fn moved_at_stripe(ctx: &Context, lease: &Lease, payment: &Payment) -> Result<bool, JobError> {
    let intent_id = payment.stripe_payment_intent_id.as_deref();
    let intent_id = intent_id.ok_or_else(|| JobError::Fail("a payment in play without a PaymentIntent".to_owned()))?;
    let intent = ctx.stripe.intent(intent_id).await?;
    let expected = match payment.state {
        PaymentState::Authorized => intent.status == IntentStatus::RequiresCapture,
        PaymentState::Captured => intent.status == IntentStatus::Succeeded,
        _ => matches!(
            intent.status,
            IntentStatus::RequiresConfirmation | IntentStatus::RequiresAction | IntentStatus::Processing
        ),
    };
    if expected {
        return Ok(false);
    }
    let mut tx = ctx.db.begin().await?;
    if let Some(current) = payments::lock(&mut tx, payment.id).await? {
        payments::follow(&mut tx, &current, &intent, Actor::System).await?;
    }
    lease.guard(&mut tx).await?;
    tx.commit().await?;
    Ok(true)
}

/// Marks the payment under the lock of its booking, if both are still as they were when this was decided.
async fn start_release(ctx: &Context, lease: &Lease, booking: &Booking, payment: &Payment) -> Result<(), JobError> {
    let mut tx = ctx.db.begin().await?;
    let current = bookings::lock(&mut tx, booking.id).await?;
    let current_payment = payments::lock(&mut tx, payment.id).await?;
    let unchanged = current.is_some_and(|current| current.state == booking.state)
        && current_payment.is_some_and(|current| current.state == payment.state);
    if !unchanged {
        return Err(LOOK_AGAIN);
    }
    payments::start_release(&mut tx, payment.id).await?;
    lease.guard(&mut tx).await?;
    tx.commit().await?;
    Ok(())
}

/// The authorisation's job is dead and no card was ever asked.
async fn give_up(ctx: &Context, lease: Lease, payment: &Payment) -> Result<Done, JobError> {
    let mut tx = ctx.db.begin().await?;
    match payments::lock(&mut tx, payment.id).await? {
        Some(current) if current.state == PaymentState::Pending && current.stripe_payment_intent_id.is_none() => {
            never_confirmed(&mut tx, &current).await?;
        }
        _ => return Err(LOOK_AGAIN),
    }
    lease.guard(&mut tx).await?;
    tx.commit().await?;
    Err(LOOK_AGAIN)
}

async fn expire(
    ctx: &Context,
    lease: Lease,
    booking: &Booking,
    released: Option<(&Payment, &Intent)>,
) -> Result<Done, JobError> {
    let mut tx = ctx.db.begin().await?;
    let current = bookings::lock(&mut tx, booking.id).await?;
    match released {
        Some((payment, intent)) => record_release(&mut tx, payment, intent).await?,
        None => close_release(&mut tx, booking).await?,
    }
    match current {
        Some(current) if current.state == booking.state => {
            // Another card may have been tried in the meantime.
            let payment = payments::latest_of(tx.conn(), booking.id).await?;
            if payment.is_some_and(|payment| payment.state.is_live() && payment.state != PaymentState::Captured) {
                return Err(LOOK_AGAIN);
            }
            bookings::expire(&mut tx, &current).await?;
        }
        // It went on to the host's decision: this job goes on with it.
        Some(current) if current.state == BookingState::PendingApproval => return Err(LOOK_AGAIN),
        _ => {}
    }
    lease.complete(&mut tx).await?;
    tx.commit().await?;
    Ok(Done::Settled)
}
