//! How many attempts ended in each minute of the last day. What has passed does not change, so it is counted once and
//! kept: a renewal reads the newest minutes only, however many attempts there were.

use std::collections::BTreeMap;

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use sqlx::PgPool;

const KEPT: TimeDelta = TimeDelta::days(1);
/// An attempt is seen when its transaction commits, some time after its end: so long, a minute is counted again.
const SETTLES: TimeDelta = TimeDelta::minutes(2);

/// Attempts that ended within a slice of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Its beginning.
    pub at: DateTime<Utc>,
    /// Attempts that did their work.
    pub succeeded: i64,
    /// Attempts that did not.
    pub failed: i64,
}

/// The last day, as far as it is known.
#[derive(Debug, Default)]
pub struct History {
    minutes: BTreeMap<DateTime<Utc>, Slice>,
    /// The minute that it was last renewed in, by Postgres' clock.
    now: Option<DateTime<Utc>>,
}

impl History {
    /// Counts what has ended since the last time; the whole day the first time.
    ///
    /// # Errors
    /// Postgres could not be reached.
    pub async fn renew(&mut self, pool: &PgPool) -> Result<(), sqlx::Error> {
        let now = sqlx::query_scalar!(r#"SELECT date_trunc('minute', now(), 'UTC') AS "now!""#)
            .fetch_one(pool)
            .await?;
        let from = self.unsettled(now);
        let counted = sqlx::query_as!(
            Slice,
            r#"SELECT date_trunc('minute', ended_at, 'UTC') AS "at!", count(*) FILTER (WHERE outcome = 'succeeded') AS "succeeded!",
                      count(*) FILTER (WHERE outcome IN ('retry', 'failed', 'lost')) AS "failed!"
               FROM job_attempts WHERE ended_at >= $1 GROUP BY 1"#,
            from
        )
        .fetch_all(pool)
        .await?;
        self.replace(from, now, counted);
        Ok(())
    }

    /// From where on to count again.
    fn unsettled(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        let day = now - KEPT;
        self.now.map_or(day, |read| (read - SETTLES).max(day))
    }

    fn replace(&mut self, from: DateTime<Utc>, now: DateTime<Utc>, counted: Vec<Slice>) {
        self.minutes.retain(|minute, _| (now - KEPT..from).contains(minute));
        self.minutes.extend(counted.into_iter().map(|slice| (slice.at, slice)));
        self.now = Some(now);
    }

    /// The last `count` slices of `length`, the oldest first, empty ones included. The last one holds the present.
    #[must_use]
    pub fn slices(&self, count: i32, length: TimeDelta) -> Vec<Slice> {
        let Some(last) = self.now.and_then(|now| now.duration_trunc(length).ok()) else {
            return Vec::new();
        };
        (0..count)
            .rev()
            .map(|ago| {
                let at = last - length * ago;
                let within = self.minutes.range(at..at + length).map(|(_, slice)| slice);
                within.fold(
                    Slice {
                        at,
                        succeeded: 0,
                        failed: 0,
                    },
                    |sum, slice| Slice {
                        at,
                        succeeded: sum.succeeded + slice.succeeded,
                        failed: sum.failed + slice.failed,
                    },
                )
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minute: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::days(20_000) + TimeDelta::minutes(minute)
    }

    fn slice(minute: i64, succeeded: i64, failed: i64) -> Slice {
        Slice {
            at: at(minute),
            succeeded,
            failed,
        }
    }

    #[test]
    fn only_what_may_still_change_is_counted_again() {
        let mut history = History::default();
        assert_eq!(history.unsettled(at(0)), at(-1_440));
        history.replace(
            at(-1_440),
            at(0),
            vec![slice(-1_440, 1, 0), slice(-3, 5, 1), slice(-1, 2, 0), slice(0, 1, 0)],
        );
        assert_eq!(history.unsettled(at(1)), at(-2));
        history.replace(at(-2), at(1), vec![slice(-1, 3, 0), slice(0, 4, 0), slice(1, 0, 1)]);
        let newest = history.slices(5, TimeDelta::minutes(1));
        assert_eq!(
            newest,
            [
                slice(-3, 5, 1),
                slice(-2, 0, 0),
                slice(-1, 3, 0),
                slice(0, 4, 0),
                slice(1, 0, 1)
            ]
        );
        // A minute of yesterday is forgotten.
        assert_eq!(history.minutes.len(), 4);
        // After a long silence all that is kept is counted again.
        assert_eq!(history.unsettled(at(5_000)), at(5_000 - 1_440));
    }

    #[test]
    fn longer_slices_begin_at_the_clocks_own() {
        let mut history = History::default();
        assert!(history.slices(2, TimeDelta::minutes(15)).is_empty());
        history.replace(
            at(-1_440),
            at(20),
            vec![slice(14, 1, 0), slice(15, 2, 1), slice(20, 4, 0)],
        );
        assert_eq!(
            history.slices(2, TimeDelta::minutes(15)),
            [slice(0, 1, 0), slice(15, 6, 1)]
        );
    }
}
