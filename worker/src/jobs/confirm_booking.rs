//! `booking.confirm`: takes a booking whose card is authorised to confirmed, or to the host's decision.

use roost_shared::bookings;
use roost_shared::jobs::Lease;
use roost_shared::jobs::catalogue::ConfirmBooking;

use crate::context::Context;
use crate::error::JobError;
use crate::handler::{Done, Handler};

impl Handler for ConfirmBooking {
    async fn run(self, ctx: &Context, lease: Lease) -> Result<Done, JobError> {
        let mut tx = ctx.db.begin().await?;
        bookings::confirm(&mut tx, self.booking_id).await?;
        lease.complete(&mut tx).await?;
        tx.commit().await?;
        Ok(Done::Settled)
    }
}
