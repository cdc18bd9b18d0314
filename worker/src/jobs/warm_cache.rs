//! `cache.warm`: puts a property's public JSON into the cache before somebody asks for it.

use roost_shared::jobs::Lease;
use roost_shared::jobs::catalogue::WarmCache;
use roost_shared::properties::cache::{self, WarmError};

use crate::context::Context;
use crate::error::JobError;
use crate::handler::{DONE, Done, Handler};

impl Handler for WarmCache {
    async fn run(self, ctx: &Context, _: Lease) -> Result<Done, JobError> {
        match cache::warm(ctx.db.pool(), &ctx.redis, self.property_id).await {
            Ok(()) => Ok(DONE),
            Err(WarmError::Database(error)) => Err(error.into()),
            Err(WarmError::Redis(error)) => Err(error.into()),
            Err(WarmError::Json(error)) => Err(JobError::Fail(error.to_string())),
        }
    }
}
