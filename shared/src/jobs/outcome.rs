//! How an attempt ended and what that makes of its job. Pure.

use std::time::Duration;

use serde_json::Value;
use uuid::Uuid;

use super::state::{Ending, JobState};

/// What a finished attempt asks for.
#[derive(Debug)]
pub enum Outcome {
    /// Done. The effects, if any, are recorded as done in the same statement as the job.
    Done(Vec<FinishedEffect>),
    /// Try again later, as long as attempts are left.
    Retry(String),
    /// Postgres went away under it: try again soon. Costs no attempt, unless this one was interrupted too often already.
    Interrupted(String),
    /// Come back after this long; costs no attempt.
    Snooze(Duration),
    /// Give up at once.
    Fail(String),
    /// Stopped because an operator asked for it.
    Cancelled,
}

/// An effect that the attempt has brought about.
#[derive(Debug)]
pub struct FinishedEffect {
    /// `mail:booking-confirmed:{booking}`.
    pub key: String,
    /// The payment, booking or user it belongs to.
    pub entity_id: Option<Uuid>,
    /// The other side's id for it.
    pub external_id: Option<String>,
    /// What the other side answered, without personal data.
    pub response: Option<Value>,
}

/// The columns that an outcome turns into.
pub(super) struct NextState {
    pub state: JobState,
    pub outcome: &'static str,
    pub delay: Duration,
    pub error: Option<String>,
    /// The attempt does not count.
    pub give_back: bool,
}

impl Outcome {
    /// What the state machine makes of it.
    #[must_use]
    pub const fn ending(&self) -> Ending {
        match self {
            Self::Done(_) => Ending::Succeeded,
            Self::Retry(_) => Ending::Retry,
            Self::Interrupted(_) => Ending::Interrupted,
            Self::Snooze(_) => Ending::Snoozed,
            Self::Fail(_) => Ending::Failed,
            Self::Cancelled => Ending::Cancelled,
        }
    }

    /// The state after attempt `attempt` of `max_attempts`; `jitter` in 0..1 spreads retries. An interruption that is
    /// `one_too_many` is a failure like others.
    pub(super) fn next_state(&self, attempt: i32, max_attempts: i32, jitter: f64, one_too_many: bool) -> NextState {
        let ending = match self.ending() {
            Ending::Interrupted if one_too_many => Ending::Retry,
            ending => ending,
        };
        let state = ending.state(attempt, max_attempts);
        let delay = match self {
            Self::Snooze(delay) => *delay,
            // Postgres answers again, or this could not be written.
            Self::Interrupted(_) if !one_too_many => backoff(1, jitter),
            _ if state == JobState::Retrying => backoff(attempt, jitter),
            _ => Duration::ZERO,
        };
        let error = match self {
            Self::Retry(error) | Self::Interrupted(error) | Self::Fail(error) => Some(storable(error)),
            Self::Done(_) | Self::Snooze(_) | Self::Cancelled => None,
        };
        NextState {
            state,
            outcome: ending.name(),
            delay,
            error,
            give_back: ending.gives_back(),
        }
    }
}

/// What Postgres takes as text, and no more of it than somebody would read.
fn storable(error: &str) -> String {
    error
        .chars()
        .filter(|character| *character != '\0')
        .take(2_000)
        .collect()
}

/// The wait before the next attempt: full jitter over min(2^attempt, 600) seconds, never under 100 ms.
#[must_use]
pub fn backoff(attempt: i32, jitter: f64) -> Duration {
    let exponent = u32::try_from(attempt.clamp(0, 10)).unwrap_or(10);
    let ceiling = f64::from(2_u32.pow(exponent).min(600));
    Duration::from_secs_f64((ceiling * jitter.clamp(0.0, 1.0)).max(0.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_ten_minutes() {
        assert_eq!(backoff(1, 1.0), Duration::from_secs(2));
        assert_eq!(backoff(5, 1.0), Duration::from_secs(32));
        assert_eq!(backoff(30, 1.0), Duration::from_secs(600));
        assert_eq!(backoff(3, 0.0), Duration::from_millis(100));
    }

    #[test]
    fn the_last_attempt_is_not_retried_and_a_snooze_costs_none() {
        let retry = Outcome::Retry("time-out".into());
        assert_eq!(retry.next_state(2, 3, 0.5, false).state, JobState::Retrying);
        assert_eq!(retry.next_state(3, 3, 0.5, false).state, JobState::Dead);
        let snooze = Outcome::Snooze(Duration::from_secs(5)).next_state(3, 3, 0.5, false);
        assert_eq!((snooze.state, snooze.give_back), (JobState::Scheduled, true));
        assert_eq!(
            Outcome::Fail("card declined".into())
                .next_state(1, 15, 0.5, false)
                .state,
            JobState::Dead
        );
    }

    #[test]
    fn an_interruption_costs_nothing_until_it_is_one_too_many() {
        let interrupted = Outcome::Interrupted("the connection broke".into());
        let next = interrupted.next_state(3, 3, 1.0, false);
        assert_eq!(
            (next.state, next.give_back, next.outcome),
            (JobState::Retrying, true, "interrupted")
        );
        assert_eq!(next.delay, Duration::from_secs(2));
        let next = interrupted.next_state(3, 3, 1.0, true);
        assert_eq!(
            (next.state, next.give_back, next.outcome),
            (JobState::Dead, false, "retry")
        );
        assert_eq!(next.error.as_deref(), Some("the connection broke"));
    }
}
