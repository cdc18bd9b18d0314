//! `review.open`: invites both sides of a stay that has just ended to review it.

use roost_shared::jobs::Lease;
use roost_shared::jobs::catalogue::{MailKind, OpenReviews, SendMail};
use roost_shared::reviews::{self, Side};
use uuid::Uuid;

use crate::context::Context;
use crate::error::JobError;
use crate::handler::{Done, Handler};

impl Handler for OpenReviews {
    async fn run(self, ctx: &Context, lease: Lease) -> Result<Done, JobError> {
        ask_for_reviews(ctx, lease, self.booking_id, |side| match side {
            Side::Guest => MailKind::ReviewInvitationGuest,
            Side::Host => MailKind::ReviewInvitationHost,
        })
        .await
    }
}

/// Mails the sides that may write and have not. Nobody learns from it whether the other side has.
pub(super) async fn ask_for_reviews(
    ctx: &Context,
    lease: Lease,
    booking_id: Uuid,
    mail: impl Fn(Side) -> MailKind + Send,
) -> Result<Done, JobError> {
    let mut tx = ctx.db.begin().await?;
    let now = tx.now();
    let awaited = reviews::awaited(tx.conn(), booking_id, now).await?;
    for side in awaited.into_iter().flat_map(|(_, sides)| sides) {
        tx.enqueue(&SendMail {
            mail: mail(side),
            subject_id: booking_id,
        });
    }
    lease.complete(&mut tx).await?;
    tx.commit().await?;
    Ok(Done::Settled)
}
