//! `message.notify`: ten minutes after a message, mails everything that its reader has not read, in one mail.

use roost_shared::jobs::Lease;
use roost_shared::jobs::catalogue::{MailKind, NotifyOfMessage, SendMail};
use roost_shared::messages;

use crate::context::Context;
use crate::error::JobError;
use crate::handler::{Done, Handler};

impl Handler for NotifyOfMessage {
    async fn run(self, ctx: &Context, lease: Lease) -> Result<Done, JobError> {
        let mut tx = ctx.db.begin().await?;
        if messages::claim_digest(&mut tx, self.message_id).await? {
            tx.enqueue(&SendMail {
                mail: MailKind::UnreadMessages,
                subject_id: self.message_id,
            });
        }
        lease.complete(&mut tx).await?;
        tx.commit().await?;
        Ok(Done::Settled)
    }
}
