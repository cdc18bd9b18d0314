//! `cache.warm`: puts a property's public JSON into the cache before somebody asks for it.

use std::time::Duration;

use roost_shared::jobs::Lease;
use roost_shared::jobs::catalogue::WarmCache;
use roost_shared::properties::cache::{self, WarmError};

use crate::context::Context;
use crate::error::JobError;
use crate::handler::{DONE, Done, Handler};

/// Without Redis, or without room in it, there is no cache to warm: no fault of the job, and it costs no attempt.
const WITHOUT_REDIS: Duration = Duration::from_secs(5);

impl Handler for WarmCache {
    async fn run(self, ctx: &Context, _: Lease) -> Result<Done, JobError> {
        match cache::warm(ctx.db.pool(), &ctx.redis, self.property_id).await {
            Ok(()) => Ok(DONE),
            Err(WarmError::Database(error)) => Err(error.into()),
            Err(WarmError::Redis(error)) => {
                tracing::warn!(%error, property_id = %self.property_id, "cache not warmed, coming back");
                Err(JobError::Snooze(WITHOUT_REDIS))
            }
            Err(WarmError::Json(error)) => Err(JobError::Fail(error.to_string())),
        }
    }
}
