//! The state machine of a job: which states there are, what may happen in each, and what comes of it. Pure.
//!
//! The statements that move jobs write the same transitions in their `WHERE` and `SET`, because Postgres has to decide
//! for many jobs and workers at once. `tests/it/engine_states.rs` compares the two, each state with each event.

use super::actions::JobAction;

/// Crashes before a job is taken for one that ends its workers.
pub const MAX_CRASHES: i32 = 3;
/// A job that an operator retries gets this many attempts more.
pub const MORE_ATTEMPTS: i32 = 3;

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum JobState {
    /// Waits for its time.
    Scheduled,
    /// Due.
    Queued,
    /// A worker has it.
    Running,
    /// Failed; waits for its next attempt.
    Retrying,
    /// Done.
    Succeeded,
    /// Failed for good.
    Dead,
    /// Called off by an operator.
    Cancelled,
    /// Ended its workers too often.
    Quarantined,
}

impl JobState {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Scheduled,
        Self::Queued,
        Self::Running,
        Self::Retrying,
        Self::Succeeded,
        Self::Dead,
        Self::Cancelled,
        Self::Quarantined,
    ];

    /// Its name in SQL and on pages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Retrying => "retrying",
            Self::Succeeded => "succeeded",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
            Self::Quarantined => "quarantined",
        }
    }

    /// The state of that name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Whether it comes to an end by itself. The index `jobs_dedupe` lists the same states.
    #[must_use]
    pub const fn is_open(self) -> bool {
        match self {
            Self::Scheduled | Self::Queued | Self::Running | Self::Retrying => true,
            Self::Succeeded | Self::Dead | Self::Cancelled | Self::Quarantined => false,
        }
    }

    /// Whether it waits for a time.
    #[must_use]
    pub const fn waits(self) -> bool {
        matches!(self, Self::Scheduled | Self::Retrying)
    }

    /// Whether an operator may do that to a job in this state.
    #[must_use]
    pub const fn permits(self, action: JobAction) -> bool {
        match action {
            JobAction::Retry => matches!(self, Self::Dead | Self::Quarantined | Self::Cancelled),
            JobAction::RunNow => self.waits(),
            JobAction::Cancel => self.is_open(),
            JobAction::Delete => !self.is_open(),
        }
    }

    /// Whether its arguments may be changed: nobody runs it, and it has not done its work. A message in Redis carries its id
    /// only, and who claims it reads the arguments then.
    #[must_use]
    pub const fn is_editable(self) -> bool {
        match self {
            Self::Scheduled | Self::Queued | Self::Retrying | Self::Dead | Self::Quarantined | Self::Cancelled => true,
            Self::Running | Self::Succeeded => false,
        }
    }
}

/// How an attempt that was not cut short ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Done.
    Succeeded,
    /// To be tried again, as long as attempts are left.
    Retry,
    /// Postgres went away under it; costs no attempt.
    Interrupted,
    /// Not yet; costs no attempt.
    Snoozed,
    /// It will never work.
    Failed,
    /// Stopped because an operator asked for it.
    Cancelled,
}

impl Ending {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Succeeded,
        Self::Retry,
        Self::Interrupted,
        Self::Snoozed,
        Self::Failed,
        Self::Cancelled,
    ];

    /// In `job_attempts` and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Retry => "retry",
            Self::Interrupted => "interrupted",
            Self::Snoozed => "snoozed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// What it makes of a job, after attempt `attempt` of `max_attempts`.
    #[must_use]
    pub const fn state(self, attempt: i32, max_attempts: i32) -> JobState {
        match self {
            Self::Succeeded => JobState::Succeeded,
            Self::Interrupted => JobState::Retrying,
            Self::Retry if attempt < max_attempts => JobState::Retrying,
            Self::Retry | Self::Failed => JobState::Dead,
            Self::Snoozed => JobState::Scheduled,
            Self::Cancelled => JobState::Cancelled,
        }
    }

    /// Whether the attempt does not count.
    #[must_use]
    pub const fn gives_back(self) -> bool {
        matches!(self, Self::Snoozed | Self::Interrupted)
    }
}

/// What may happen to a job. What a worker does names the fence of its claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Its time has come.
    Promote,
    /// Its id goes to Redis.
    Publish,
    /// Its message is gone: Redis was flushed, or nobody has claimed it for long.
    Unpublish,
    /// A worker takes it.
    Claim,
    /// The worker that has it takes it once more: the answer to its claim was lost.
    Adopt,
    /// A worker takes it to see whether it ends this one as well.
    ClaimSuspect,
    /// The worker goes on with it.
    Renew(i64),
    /// The attempt has ended.
    Settle(i64, Ending),
    /// The worker stops and gives it back.
    HandBack(i64),
    /// The lease has ended. Another job that its worker ran was a suspect already: that one is to blame.
    Lose {
        /// Whether there was such a one.
        beside_a_suspect: bool,
    },
    /// Another job with its dedupe key is enqueued.
    Want,
    /// An operator's retry.
    Retry,
    /// An operator does not wait for its time.
    RunNow,
    /// An operator calls it off.
    Cancel,
    /// An operator changes its arguments.
    Edit,
}

/// What the transitions of a job depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifecycle {
    /// Where it stands.
    pub state: JobState,
    /// Attempts that count, the running one included.
    pub attempt: i32,
    /// How many there are.
    pub max_attempts: i32,
    /// Workers that ended while they ran it, one after the other.
    pub crash_count: i32,
    /// How often it was claimed.
    pub fence: i64,
    /// It was wanted once more while it ran.
    pub rerun: bool,
    /// An operator wants the running attempt stopped.
    pub cancel_requested: bool,
    /// Redis has its id. Says something of a queued job only.
    pub published: bool,
}

impl Lifecycle {
    /// As it is enqueued: due, or scheduled for later.
    #[must_use]
    pub const fn new(max_attempts: i32, due: bool) -> Self {
        Self {
            state: if due { JobState::Queued } else { JobState::Scheduled },
            attempt: 0,
            max_attempts,
            crash_count: 0,
            fence: 0,
            rerun: false,
            cancel_requested: false,
            published: due,
        }
    }

    /// What becomes of it; none: nothing, this cannot happen to it now.
    #[must_use]
    pub fn after(self, event: Event) -> Option<Self> {
        match event {
            Event::Promote => self.state.waits().then(|| self.waiting(JobState::Queued)),
            Event::Publish => (self.is_free() && !self.published).then_some(Self {
                published: true,
                ..self
            }),
            Event::Unpublish => (self.state == JobState::Queued).then_some(Self {
                published: false,
                ..self
            }),
            Event::Claim => self.is_free().then(|| self.claimed(self.attempt + 1)),
            Event::Adopt => (self.state == JobState::Running).then(|| self.claimed(self.attempt)),
            Event::ClaimSuspect => {
                (self.state == JobState::Queued && self.crash_count > 0).then(|| self.claimed(self.attempt + 1))
            }
            Event::Renew(fence) => self.is_held_by(fence).then_some(self),
            Event::Settle(fence, ending) => self.is_held_by(fence).then(|| self.settled(ending)),
            Event::HandBack(fence) => self.is_held_by(fence).then(|| Self {
                attempt: self.attempt - 1,
                ..self.waiting(JobState::Queued)
            }),
            Event::Lose { beside_a_suspect } => (self.state == JobState::Running).then(|| self.lost(beside_a_suspect)),
            Event::Want => (self.state == JobState::Running).then_some(Self { rerun: true, ..self }),
            Event::Retry => self.state.permits(JobAction::Retry).then(|| Self {
                crash_count: 0,
                cancel_requested: false,
                max_attempts: self.max_attempts.max(self.attempt + MORE_ATTEMPTS),
                ..self.waiting(JobState::Queued)
            }),
            Event::RunNow => self
                .state
                .permits(JobAction::RunNow)
                .then(|| self.waiting(JobState::Queued)),
            Event::Edit => self.state.is_editable().then_some(self),
            Event::Cancel if self.state == JobState::Running => Some(Self {
                cancel_requested: true,
                ..self
            }),
            Event::Cancel => self
                .state
                .permits(JobAction::Cancel)
                .then(|| self.waiting(JobState::Cancelled)),
        }
    }

    /// Whether the claim of that fence is the one that has it.
    #[must_use]
    pub fn is_held_by(self, fence: i64) -> bool {
        self.state == JobState::Running && self.fence == fence
    }

    /// Whether any worker may take it.
    fn is_free(self) -> bool {
        self.state == JobState::Queued && self.crash_count == 0
    }

    /// In another state, and not in Redis.
    fn waiting(self, state: JobState) -> Self {
        Self {
            state,
            published: false,
            ..self
        }
    }

    fn claimed(self, attempt: i32) -> Self {
        Self {
            state: JobState::Running,
            attempt,
            // In Postgres the next one is at least that.
            fence: self.fence + 1,
            rerun: false,
            ..self
        }
    }

    fn settled(self, ending: Ending) -> Self {
        let state = ending.state(self.attempt, self.max_attempts);
        let attempt = self.attempt - i32::from(ending.gives_back());
        let settled = Self {
            crash_count: 0,
            rerun: false,
            cancel_requested: false,
            ..self
        };
        match state {
            // It waits anyway, and its next attempt sees what it was wanted for.
            JobState::Scheduled | JobState::Retrying if self.cancel_requested => Self {
                attempt,
                ..settled.waiting(JobState::Cancelled)
            },
            JobState::Scheduled | JobState::Retrying => Self {
                attempt,
                ..settled.waiting(state)
            },
            // It has ended without seeing what it was wanted for.
            _ if self.rerun => Self {
                attempt: 0,
                ..settled.waiting(JobState::Queued)
            },
            _ => settled.waiting(state),
        }
    }

    fn lost(self, beside_a_suspect: bool) -> Self {
        let blamed = self.crash_count > 0 || !beside_a_suspect;
        let crash_count = self.crash_count + i32::from(blamed);
        let state = if blamed && crash_count >= MAX_CRASHES {
            JobState::Quarantined
        } else {
            JobState::Queued
        };
        Self {
            crash_count,
            ..self.waiting(state)
        }
    }
}

#[cfg(test)]
mod tests;
