//! What a handler may say about an attempt that brought no success.

use std::ops::Range;
use std::time::Duration;

use chrono::TimeDelta;
use roost_shared::bookings::BookingError;
use roost_shared::db;
use roost_shared::jobs::{LeaseError, Outcome};
use roost_shared::reviews::ReviewError;
use roost_shared::stripe::Failure;

/// Why an attempt ended without success, and what is to be done.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// Try again later.
    #[error("{0}")]
    Retry(String),
    /// Postgres went away: try again soon, at no cost.
    #[error("{0}")]
    Interrupted(String),
    /// Not yet: come back after this long, at no cost.
    #[error("come back in {0:?}")]
    Snooze(Duration),
    /// It will never work.
    #[error("{0}")]
    Fail(String),
    /// Somebody else has the job: nothing may be written any more.
    #[error("the lease was lost")]
    LeaseLost,
}

impl JobError {
    /// Not yet, and asked again less and less often: after a tenth of the time it has taken so far, within `pause`.
    pub(crate) fn wait(so_far: TimeDelta, pause: Range<Duration>) -> Self {
        let so_far = so_far.to_std().unwrap_or_default();
        Self::Snooze((so_far / 10).clamp(pause.start, pause.end))
    }

    /// What it makes of the attempt; none when the attempt has no say any more.
    pub(crate) fn into_outcome(self) -> Option<Outcome> {
        match self {
            Self::Retry(error) => Some(Outcome::Retry(error)),
            Self::Interrupted(error) => Some(Outcome::Interrupted(error)),
            Self::Snooze(delay) => Some(Outcome::Snooze(delay)),
            Self::Fail(error) => Some(Outcome::Fail(error)),
            Self::LeaseLost => None,
        }
    }
}

impl From<sqlx::Error> for JobError {
    fn from(error: sqlx::Error) -> Self {
        let told = format!("postgres: {error}");
        if db::is_away(&error) {
            Self::Interrupted(told)
        } else {
            Self::Retry(told)
        }
    }
}

impl From<LeaseError> for JobError {
    fn from(error: LeaseError) -> Self {
        match error {
            LeaseError::Lost => Self::LeaseLost,
            LeaseError::Database(error) => error.into(),
        }
    }
}

impl From<redis::RedisError> for JobError {
    fn from(error: redis::RedisError) -> Self {
        Self::Retry(format!("redis: {error}"))
    }
}

impl From<BookingError> for JobError {
    fn from(error: BookingError) -> Self {
        match error {
            BookingError::Database(error) => error.into(),
            // The booking was changed in between: look at it again.
            BookingError::WrongState { .. } => Self::Retry(error.to_string()),
            other => Self::Fail(other.to_string()),
        }
    }
}

impl From<ReviewError> for JobError {
    fn from(error: ReviewError) -> Self {
        match error {
            ReviewError::Database(error) => error.into(),
            other => Self::Fail(other.to_string()),
        }
    }
}

impl From<Failure> for JobError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Declined(..) => Self::Fail(failure.to_string()),
            Failure::Refused(_)
            | Failure::Busy(_)
            | Failure::Unknown(_)
            | Failure::Broken(_)
            | Failure::UnexpectedState(_) => Self::Retry(failure.to_string()),
        }
    }
}
