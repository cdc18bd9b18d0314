//! Ids on their way into the engine.

use roost_shared::jobs::JobRef;

use super::Engine;

/// Ids that came through Redis or from Postgres. Those that did not get into the engine when this is dropped are given
/// back: they count as published, and nobody else would look for them.
pub(crate) struct Arriving<'a> {
    engine: &'a Engine,
    jobs: Vec<JobRef>,
}

impl<'a> Arriving<'a> {
    pub fn new(engine: &'a Engine, jobs: Vec<JobRef>) -> Self {
        Self { engine, jobs }
    }

    /// Hands them over as slots become free.
    pub async fn arrive(mut self) {
        while let Some(job) = self.jobs.last().copied() {
            self.engine.take(job.queue, job.id).await;
            self.jobs.pop();
        }
    }
}

impl Drop for Arriving<'_> {
    fn drop(&mut self) {
        if !self.jobs.is_empty() {
            self.engine.refuse(self.jobs.drain(..).map(|job| job.id));
        }
    }
}
