//! `audit.verify`: checks the operators' log and seals what is as it was written, a bounded piece at a time. The log of this
//! process gets each seal too: out of reach of who can change the database.

use roost_shared::jobs::Lease;
use roost_shared::jobs::catalogue::VerifyAudit;
use roost_shared::operators::audit::checks::{self, CheckError};

use crate::context::Context;
use crate::error::JobError;
use crate::handler::{Done, Handler};

/// Of 10,000 entries each: what one run looks at.
const PAGES: u32 = 20;

impl Handler for VerifyAudit {
    async fn run(self, ctx: &Context, lease: Lease) -> Result<Done, JobError> {
        let keys = ctx.audit_seals.as_ref();
        let look = checks::look(ctx.db.pool(), keys, PAGES).await?;
        let mut tx = ctx.db.begin().await?;
        checks::keep(&mut tx, &look, keys).await?;
        lease.complete(&mut tx).await?;
        tx.commit().await?;
        match (look.broken, keys) {
            (Some(seq), _) => tracing::error!(seq, "the audit log is not as it was written"),
            (None, Some(keys)) => {
                if look.unsealed {
                    tracing::warn!("the audit log had no seal: this is the first, or somebody took it away");
                }
                let (seq, hash, seal) = (
                    look.sealed.seq,
                    hex::encode(&look.sealed.hash),
                    hex::encode(look.seal(keys)),
                );
                tracing::info!(seq, hash, seal, "audit log sealed");
            }
            (None, None) => tracing::warn!("the audit log is not sealed: this worker has no JWT_SECRET"),
        }
        Ok(Done::Settled)
    }
}

impl From<CheckError> for JobError {
    fn from(error: CheckError) -> Self {
        match error {
            CheckError::Database(error) => error.into(),
            CheckError::NoKey => Self::Fail(error.to_string()),
        }
    }
}
