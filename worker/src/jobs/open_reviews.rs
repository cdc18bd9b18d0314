//! `review.open`: invites both sides of a stay that has just ended to review it.

use roost_shared::jobs::Lease;
use roost_shared::jobs::catalogue::{MailKind, OpenReviews, SendMail};
use roost_shared::reviews::{self, Side};

use crate::context::Context;
use crate::error::JobError;
use crate::handler::{Done, Handler};

impl Handler for OpenReviews {
    /// Mails only: inside the product they were told when the time began. Nobody learns from it whether the other side
    /// has written.
    async fn run(self, ctx: &Context, lease: Lease) -> Result<Done, JobError> {
        let mut tx = ctx.db.begin().await?;
        let now = tx.now();
        let awaited = reviews::awaited(tx.conn(), self.booking_id, now).await?;
        for side in awaited.into_iter().flat_map(|(_, sides)| sides) {
            tx.enqueue(&SendMail {
                mail: match side {
                    Side::Guest => MailKind::ReviewInvitationGuest,
                    Side::Host => MailKind::ReviewInvitationHost,
                },
                subject_id: self.booking_id,
            });
        }
        lease.complete(&mut tx).await?;
        tx.commit().await?;
        Ok(Done::Settled)
    }
}
