//! How a kind of job meets its code: [`Handler`] is implemented by each payload, [`Registry`] finds it by kind.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use roost_shared::jobs::{FinishedEffect, Job, Lease, Queue};
use serde_json::Value;

use crate::context::Context;
use crate::error::JobError;

/// How a successful attempt ended.
#[derive(Debug)]
pub enum Done {
    /// The handler completed the job in the transaction of its work.
    Settled,
    /// Still to be settled, together with these effects.
    With(Vec<FinishedEffect>),
}

/// Nothing but the job itself is left to settle.
pub const DONE: Done = Done::With(Vec::new());

/// The code of a kind of job. An attempt may be cut short anywhere and run again: everything it writes is either in
/// the transaction that completes the job, or an effect with a key.
pub trait Handler: Job {
    /// Runs one attempt.
    fn run(self, ctx: &Context, lease: Lease) -> impl Future<Output = Result<Done, JobError>> + Send;
}

type Attempt = Pin<Box<dyn Future<Output = Result<Done, JobError>> + Send>>;

/// A kind's code and how long it may take.
#[derive(Clone)]
pub(crate) struct Entry {
    start: Arc<dyn Fn(Value, Arc<Context>, Lease) -> Attempt + Send + Sync>,
    queue: Queue,
    pub timeout: Duration,
}

impl Entry {
    pub fn start(&self, args: Value, ctx: Arc<Context>, lease: Lease) -> Attempt {
        (self.start)(args, ctx, lease)
    }
}

/// The kinds that this worker knows.
#[derive(Clone, Default)]
pub struct Registry {
    entries: HashMap<&'static str, Entry>,
}

impl Registry {
    /// Adds a kind.
    #[must_use]
    pub fn with<J: Handler>(mut self) -> Self {
        let entry = Entry {
            start: Arc::new(|args, ctx, lease| {
                Box::pin(async move {
                    let job: J = serde_json::from_value(args)
                        .map_err(|error| JobError::Fail(format!("the arguments do not fit {}: {error}", J::KIND)))?;
                    job.run(&ctx, lease).await
                })
            }),
            queue: J::QUEUE,
            timeout: J::TIMEOUT,
        };
        self.entries.insert(J::KIND, entry);
        self
    }

    /// The names of the kinds.
    #[must_use]
    pub fn kinds(&self) -> Vec<String> {
        let mut kinds: Vec<String> = self.entries.keys().map(|kind| (*kind).to_owned()).collect();
        kinds.sort();
        kinds
    }

    /// The names of the kinds that run in a queue.
    pub(crate) fn kinds_of(&self, queue: Queue) -> Vec<String> {
        let entries = self.entries.iter().filter(|(_, entry)| entry.queue == queue);
        entries.map(|(kind, _)| (*kind).to_owned()).collect()
    }

    pub(crate) fn entry(&self, kind: &str) -> Option<(&'static str, &Entry)> {
        self.entries.get_key_value(kind).map(|(kind, entry)| (*kind, entry))
    }
}
