//! A worker's first jobs are to be as quick as all others: before it takes any, its connections are open, and Postgres has
//! planned on each of the engine's what is done for every job.

use std::time::Duration;

use futures::future::join_all;
use roost_shared::jobs::{self, Claimant};
use sqlx::Postgres;
use sqlx::pool::PoolConnection;

use super::Engine;
use crate::postgres;

/// Handlers open the others when they need them.
const HANDLERS_CONNECTIONS: u32 = 2;
const TIMEOUT: Duration = Duration::from_secs(2);

impl Engine {
    /// What fails here is made when it is needed.
    pub async fn warm_up(&self) {
        let of_handlers = join_all((0..HANDLERS_CONNECTIONS).map(|_| self.ctx.db.pool().acquire()));
        let of_engine = join_all((0..postgres::CONNECTIONS).map(|_| postgres::connection(&self.pool)));
        let (_, of_engine) = tokio::join!(of_handlers, of_engine);
        let prepared = of_engine.into_iter().flatten();
        for result in join_all(prepared.map(|connection| prepare(connection, &self.claimant))).await {
            if let Err(error) = result {
                tracing::debug!(%error, "a connection is not warm yet");
            }
        }
    }
}

/// A claim and a settlement, both of no job.
async fn prepare(mut connection: PoolConnection<Postgres>, claimant: &Claimant) -> Result<(), sqlx::Error> {
    let answer = tokio::time::timeout(TIMEOUT, async {
        jobs::claim(&mut *connection, &[], claimant, &[]).await?;
        jobs::settle(&mut connection, &[]).await?;
        Ok(())
    })
    .await;
    postgres::answer(connection, answer)
}
