//! What a handler may say about an attempt that brought no success.

use std::ops::Range;
use std::time::Duration;

use chrono::TimeDelta;
use roost_shared::bookings::BookingError;
use roost_shared::jobs::{LeaseError, Outcome};
use roost_shared::reviews::ReviewError;
use roost_shared::stripe::Failure;

/// Why an attempt ended without success, and what is to be done.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// Try again later.
    #[error("{0}")]
    Retry(String),
    /// Try again soon: a server of our own was away.
    #[error("{0}")]
    RetrySoon(String),
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
            Self::RetrySoon(error) => Some(Outcome::RetrySoon(error)),
            Self::Snooze(delay) => Some(Outcome::Snooze(delay)),
            Self::Fail(error) => Some(Outcome::Fail(error)),
            Self::LeaseLost => None,
        }
    }
}

impl From<sqlx::Error> for JobError {
    fn from(error: sqlx::Error) -> Self {
        let text = format!("postgres: {error}");
        if is_away(&error) {
            Self::RetrySoon(text)
        } else {
            Self::Retry(text)
        }
    }
}

/// Whether Postgres was not there, or went, and not what it was asked is the matter.
fn is_away(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => true,
        // Connection exceptions, and a server that stops, crashed or is starting.
        sqlx::Error::Database(error) => error
            .code()
            .is_some_and(|code| code.starts_with("08") || code.starts_with("57P")),
        _ => false,
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
        let text = format!("redis: {error}");
        if error.is_io_error() || error.is_timeout() {
            Self::RetrySoon(text)
        } else {
            Self::Retry(text)
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_job_can_do_nothing_for_is_tried_again_soon() {
        for away in [
            sqlx::Error::PoolTimedOut,
            sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into()),
        ] {
            assert!(matches!(JobError::from(away), JobError::RetrySoon(_)));
        }
        assert!(matches!(JobError::from(sqlx::Error::RowNotFound), JobError::Retry(_)));
        let refused = redis::RedisError::from(std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
        assert!(matches!(JobError::from(refused), JobError::RetrySoon(_)));
    }
}
