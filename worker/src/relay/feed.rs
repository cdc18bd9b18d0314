//! Jobs that do not go through Redis: workers take them from Postgres by themselves.

use std::time::Duration;

use metrics::counter;
use roost_shared::jobs::Queue;
use roost_shared::jobs::presence::Standing;
use roost_shared::jobs::relay::{self, Head};
use sqlx::PgConnection;

use super::{Filled, Relay, Step, Trouble};
use crate::engine::Arriving;

/// How long jobs that are taken may wait for the slots that were free.
const ARRIVAL: Duration = Duration::from_millis(500);

impl Relay {
    /// Takes jobs for this worker if there are any that do not go through Redis.
    pub async fn feed_itself(&mut self, standing: &Standing) -> Filled {
        if self.refused_since.is_some() || !standing.apart.is_empty() {
            self.step(Step::Feed, standing).await
        } else {
            Filled::default()
        }
    }

    /// Takes due jobs straight into this worker's engine: all that it knows while Redis refuses, else those kept apart.
    pub async fn feed(&mut self, db: &mut PgConnection, standing: &Standing) -> Result<Filled, Trouble> {
        let refuses = self.refused_since.is_some();
        let (room, kinds) = if refuses {
            (self.engine.room(), self.engine.kinds().to_vec())
        } else {
            self.apart(standing)
        };
        if room.is_empty() {
            return Ok(Filled::default());
        }
        let due = relay::take_unpublished(&mut *db, &room, &kinds, &[]).await?;
        let filled = Filled {
            published: due.len(),
            more: !due.is_empty() || standing.leads && refuses,
        };
        // There was room just now. Where others were quicker, the rest goes back: whoever leads has more to do than to wait.
        let _ = tokio::time::timeout(ARRIVAL, Arriving::new(&self.engine, due).arrive()).await;
        Ok(filled)
    }

    /// The kinds known here that some other worker of their queue does not know, and the room of these queues.
    fn apart(&self, standing: &Standing) -> (Vec<(Queue, usize)>, Vec<String>) {
        let (mut room, mut kinds) = (self.engine.room(), Vec::new());
        room.retain(|(queue, _)| {
            let known = kinds.len();
            let mut own = self.engine.kinds_of(*queue);
            own.retain(|kind| standing.apart.contains(&format!("{} {kind}", queue.name())));
            kinds.extend(own);
            kinds.len() > known
        });
        (room, kinds)
    }
}

/// Takes the mark off what was published some seconds ago, as if nothing waited in Redis any more: workers then take it
/// from Postgres. Messages that are still there when Redis is back are doubles, and whoever comes second finds the job taken.
pub(super) async fn recall(db: &mut PgConnection) -> Result<(), sqlx::Error> {
    let heads = Queue::ALL.map(|queue| Head {
        queue,
        next: Vec::new(),
    });
    let recalled = relay::unpublish_stale(&mut *db, &heads).await?;
    if recalled > 0 {
        counter!("roost_messages_recalled_total").increment(recalled);
        tracing::info!(recalled, "jobs that Redis had go on from Postgres");
    }
    Ok(())
}
