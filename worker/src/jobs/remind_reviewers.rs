//! `review.remind`: three days before the time is over, reminds the sides that have not reviewed a stay.

use roost_shared::jobs::Lease;
use roost_shared::jobs::catalogue::{MailKind, RemindReviewers};
use roost_shared::reviews::Side;

use super::open_reviews::ask_for_reviews;
use crate::context::Context;
use crate::error::JobError;
use crate::handler::{Done, Handler};

impl Handler for RemindReviewers {
    async fn run(self, ctx: &Context, lease: Lease) -> Result<Done, JobError> {
        ask_for_reviews(ctx, lease, self.booking_id, |side| match side {
            Side::Guest => MailKind::ReviewReminderGuest,
            Side::Host => MailKind::ReviewReminderHost,
        })
        .await
    }
}
