//! Background jobs: what they are, how they are stored, and the statements that move them from state to state.
//!
//! Postgres holds the truth about every job; Redis carries ids to the workers. [`Job`] is implemented by each
//! payload of the [`catalogue`]; [`crate::db::Tx::enqueue`] writes it in the transaction of the work that wants it.
//! [`state`] says what may become of a job.
//!
//! For operators: [`overview`], [`failing`], [`history`], [`list`], [`inspect`] and [`recorder`] read, [`inspections`] asks Stripe,
//! [`actions`], [`settings`] and [`bulk`] change, [`preview`] tells what a change of many would do.

pub mod actions;
pub mod batches;
pub mod bulk;
pub mod catalogue;
pub mod crash_point;
pub mod effects;
pub mod failing;
pub mod history;
mod insert;
pub mod inspect;
pub mod inspections;
pub mod kinds;
mod lease;
pub mod limits;
pub mod list;
mod outcome;
mod outlook;
pub mod overview;
pub mod presence;
pub mod pressure;
pub mod preview;
mod publish;
mod rate;
pub mod recorder;
mod recover;
pub mod relay;
pub mod retention;
pub mod schedules;
pub mod settings;
pub mod state;
mod transport;

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) use insert::{NewJob, insert};
pub use lease::{
    Claimant, ClaimedJob, LEASE, Lease, LeaseError, Renewed, Settlement, StillQueued, Suspicion, claim, claim_suspects,
    renew, report_progress, settle, still_queued, waiting_suspects,
};
pub use outcome::{FinishedEffect, Outcome, backoff};
pub use outlook::{Outlook, Tone};
pub use publish::{JobRef, Publisher};
pub use rate::Rate;
pub use recover::{Reaped, hand_back, reap};
pub use state::JobState;
pub use transport::{MAX_DEPTH, Transport, Waiting, ids_of};

/// A queue: jobs that are scaled and paused together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, clap::ValueEnum)]
pub enum Queue {
    /// Bookings on their way to confirmed or released.
    Confirmation,
    /// Cards: authorise, capture, void, refund, and what Stripe tells.
    Payments,
    /// Mail.
    Notifications,
    /// Caches that are warmed ahead of readers.
    Cache,
    /// Pruning and other housekeeping.
    Maintenance,
}

impl Queue {
    /// All queues.
    pub const ALL: [Self; 5] = [
        Self::Confirmation,
        Self::Payments,
        Self::Notifications,
        Self::Cache,
        Self::Maintenance,
    ];

    /// The name in Postgres, Redis, options and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Confirmation => "confirmation",
            Self::Payments => "payments",
            Self::Notifications => "notifications",
            Self::Cache => "cache",
            Self::Maintenance => "maintenance",
        }
    }

    /// The queue of that name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|queue| queue.name() == name)
    }
}

/// A job's payload: ids only, nothing personal. The handler in the worker reloads what it needs.
pub trait Job: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The stable name, `resource.verb`. Stored with every job.
    const KIND: &'static str;
    /// Where it runs.
    const QUEUE: Queue;
    /// So many seconds after it is due it ought to have begun. Of the due jobs of a queue the one nearest to that runs first.
    const PRIORITY: i16 = 50;
    /// Attempts before the job is dead.
    const MAX_ATTEMPTS: i32 = 15;
    /// How long one attempt may take.
    const TIMEOUT: Duration = Duration::from_secs(60);

    /// While a job with this key has not ended, another one is not enqueued. If it runs already, it runs again after.
    fn dedupe_key(&self) -> Option<String> {
        None
    }
}
