//! `review.remind`: three days before the time is over, reminds the sides that have not reviewed a stay, by mail and inside
//! the product.

use roost_shared::bookings;
use roost_shared::jobs::Lease;
use roost_shared::jobs::catalogue::{MailKind, RemindReviewers, SendMail};
use roost_shared::notifications::{self, Event};
use roost_shared::reviews::{self, Side};

use crate::context::Context;
use crate::error::JobError;
use crate::handler::{Done, Handler};

impl Handler for RemindReviewers {
    async fn run(self, ctx: &Context, lease: Lease) -> Result<Done, JobError> {
        let mut tx = ctx.db.begin().await?;
        let now = tx.now();
        let awaited = reviews::awaited(tx.conn(), self.booking_id, now).await?;
        let booking = bookings::get(tx.conn(), self.booking_id).await?;
        if let Some(((_, sides), booking)) = awaited.zip(booking) {
            for side in sides {
                let (mail, writer_id) = match side {
                    Side::Guest => (MailKind::ReviewReminderGuest, booking.guest_id),
                    Side::Host => (MailKind::ReviewReminderHost, booking.host_id),
                };
                tx.enqueue(&SendMail {
                    mail,
                    subject_id: self.booking_id,
                });
                notifications::tell(&mut tx, Event::ReviewReminded, self.booking_id, &[writer_id]).await?;
            }
        }
        lease.complete(&mut tx).await?;
        tx.commit().await?;
        Ok(Done::Settled)
    }
}
