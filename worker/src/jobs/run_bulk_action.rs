//! `ops.bulk`: works off an operator's action on many jobs, a batch a transaction.

use std::time::{Duration, Instant};

use roost_shared::jobs::Lease;
use roost_shared::jobs::bulk::{self, BulkError};
use roost_shared::jobs::catalogue::RunBulkAction;

use crate::context::Context;
use crate::error::JobError;
use crate::handler::{DONE, Done, Handler};

/// An attempt works for so long, then lets others have the worker and comes back.
const TURN: Duration = Duration::from_secs(60);

impl Handler for RunBulkAction {
    async fn run(self, ctx: &Context, lease: Lease) -> Result<Done, JobError> {
        let begun = Instant::now();
        loop {
            let mut tx = ctx.db.begin().await?;
            let more = bulk::step(&mut tx, &lease, self.action_id)
                .await
                .map_err(|error| match error {
                    BulkError::LeaseLost => JobError::LeaseLost,
                    BulkError::Database(error) => error.into(),
                    other => JobError::Retry(other.to_string()),
                })?;
            tx.commit().await?;
            if !more {
                return Ok(DONE);
            }
            if begun.elapsed() > TURN {
                return Err(JobError::Snooze(Duration::ZERO));
            }
        }
    }
}
