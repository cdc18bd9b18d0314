//! `review.publish`: makes the reviews of a stay public when both exist or the time is over, and counts their stars.

use roost_shared::jobs::Lease;
use roost_shared::jobs::catalogue::PublishReviews;
use roost_shared::reviews::{self, Publication};

use crate::context::Context;
use crate::error::JobError;
use crate::handler::{Done, Handler};

impl Handler for PublishReviews {
    async fn run(self, ctx: &Context, lease: Lease) -> Result<Done, JobError> {
        let mut tx = ctx.db.begin().await?;
        let now = tx.now();
        if let Publication::TooEarly(closes_at) = reviews::publish(&mut tx, self.booking_id).await? {
            // One of the two was taken back, or this clock is a little behind the one that woke us.
            return Err(JobError::Snooze((closes_at - now).to_std().unwrap_or_default()));
        }
        lease.complete(&mut tx).await?;
        tx.commit().await?;
        Ok(Done::Settled)
    }
}
