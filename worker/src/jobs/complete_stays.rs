//! `stays.complete`: notes the end of stays that are over, a batch at a time so that no lock is held for long.

use roost_shared::bookings;
use roost_shared::jobs::Lease;
use roost_shared::jobs::catalogue::CompleteStays;

use crate::context::Context;
use crate::error::JobError;
use crate::handler::{DONE, Done, Handler};

const BATCH: i64 = 100;

impl Handler for CompleteStays {
    async fn run(self, ctx: &Context, _: Lease) -> Result<Done, JobError> {
        let mut completed = 0;
        loop {
            let mut tx = ctx.db.begin().await?;
            let batch = bookings::complete_ended(&mut tx, BATCH).await?;
            tx.commit().await?;
            completed += batch;
            if batch == 0 {
                break;
            }
        }
        tracing::info!(completed, "stays completed");
        Ok(DONE)
    }
}
