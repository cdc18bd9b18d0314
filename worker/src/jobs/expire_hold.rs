//! `booking.expire_hold`: ends a hold that was not paid, or a request that the host did not answer. The money is
//! dealt with first, the nights are released last.

use roost_shared::bookings::{self, Booking, BookingState};
use roost_shared::jobs::Lease;
use roost_shared::jobs::catalogue::{ConfirmBooking, ExpireHold};
use roost_shared::payments::{self, Payment, PaymentState};
use roost_shared::stripe::Intent;

use super::void_payment::{not_answered_yet, record_release, release};
use crate::context::Context;
use crate::error::JobError;
use crate::handler::{DONE, Done, Handler};

impl Handler for ExpireHold {
    async fn run(self, ctx: &Context, lease: Lease) -> Result<Done, JobError> {
        let mut connection = ctx.db.pool().acquire().await?;
        let Some(booking) = bookings::get(&mut connection, self.booking_id).await? else {
            return Ok(DONE);
        };
        let deadline = match booking.state {
            BookingState::Held => booking.hold_expires_at,
            BookingState::PendingApproval => booking.approval_expires_at.unwrap_or(booking.hold_expires_at),
            _ => return Ok(DONE),
        };
        if let Ok(left) = (deadline - ctx.clock().now()).to_std()
            && !left.is_zero()
        {
            return Err(JobError::Snooze(left));
        }
        let payment = payments::latest_of(&mut connection, booking.id).await?;
        drop(connection);
        match payment {
            Some(payment) if payment.state == PaymentState::Pending => Err(not_answered_yet(ctx, &payment)),
            // Authorised in time, only not confirmed yet.
            Some(payment) if payment.state == PaymentState::Authorized && booking.state == BookingState::Held => {
                confirm_instead(ctx, lease, &booking).await
            }
            Some(payment) if payment.state.is_live() => {
                let intent = release(ctx, &lease, &payment).await?;
                expire(ctx, lease, &booking, Some((&payment, &intent))).await
            }
            _ => expire(ctx, lease, &booking, None).await,
        }
    }
}

async fn confirm_instead(ctx: &Context, lease: Lease, booking: &Booking) -> Result<Done, JobError> {
    let mut tx = ctx.db.begin().await?;
    tx.enqueue(&ConfirmBooking { booking_id: booking.id });
    lease.complete(&mut tx).await?;
    tx.commit().await?;
    Ok(Done::Settled)
}

async fn expire(
    ctx: &Context,
    lease: Lease,
    booking: &Booking,
    released: Option<(&Payment, &Intent)>,
) -> Result<Done, JobError> {
    let mut tx = ctx.db.begin().await?;
    let current = bookings::lock(&mut tx, booking.id).await?;
    if let Some((payment, intent)) = released {
        record_release(&mut tx, payment, intent).await?;
    }
    // The host may have decided in the meantime.
    if let Some(current) = current.filter(|current| current.state == booking.state) {
        bookings::expire(&mut tx, &current).await?;
    }
    lease.complete(&mut tx).await?;
    tx.commit().await?;
    Ok(Done::Settled)
}
