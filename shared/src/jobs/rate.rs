//! Rates: so many in a span of time. Pure.
//!
//! A leaky bucket that is remembered as one instant, up to which the rate is spent. It never lets more begin than the
//! rate says in any span of its length, wherever the span begins; a tenth of it may begin at once. So at most a tenth
//! of a large rate is left unused.

use chrono::{DateTime, TimeDelta, Utc};

/// So many in so many seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many may begin at once after a pause.
    burst: i64,
    /// Between two that begin otherwise.
    step: TimeDelta,
}

impl Rate {
    /// `limit` in any span of `seconds`; none unless both are positive.
    #[must_use]
    pub fn new(limit: i32, seconds: i32) -> Option<Self> {
        if limit < 1 || seconds < 1 {
            return None;
        }
        let limit = i64::from(limit);
        let burst = (limit / 10).max(1);
        // A span holds the burst at its beginning and one after each step within it, the last of which falls out of it.
        let steps = limit + 1 - burst;
        let step = ((i64::from(seconds) * 1_000_000 + steps - 1) / steps).max(1);
        Some(Self {
            burst,
            step: TimeDelta::microseconds(step),
        })
    }

    /// How many may begin now.
    pub(super) fn room(self, spent: Option<DateTime<Utc>>, now: DateTime<Utc>) -> i64 {
        let used = (self.bounded(spent, now) - now).num_microseconds().unwrap_or(i64::MAX);
        let step = self.step.num_microseconds().unwrap_or(i64::MAX);
        self.burst - (used + step - 1) / step
    }

    /// How long until some may begin, half of what may at once; none: one may now. So a large rate is not asked about for
    /// each one by itself.
    pub(super) fn again_after(self, spent: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Option<TimeDelta> {
        if self.room(spent, now) > 0 {
            return None;
        }
        let wanted = (self.burst / 2).max(1);
        let allowance = self.step * i32::try_from(self.burst - wanted).unwrap_or(i32::MAX);
        Some(self.bounded(spent, now) - allowance - now)
    }

    /// Up to when it is spent after `begun` more.
    pub(super) fn spent_by(self, spent: Option<DateTime<Utc>>, begun: i64, now: DateTime<Utc>) -> DateTime<Utc> {
        self.bounded(spent, now) + self.step * i32::try_from(begun).unwrap_or(i32::MAX)
    }

    /// Never before now, and never further ahead than a full bucket: the rate may just have been raised, and the clock
    /// of a server that took over may be behind.
    fn bounded(self, spent: Option<DateTime<Utc>>, now: DateTime<Utc>) -> DateTime<Utc> {
        let full = now + self.step * i32::try_from(self.burst).unwrap_or(i32::MAX);
        spent.unwrap_or(now).clamp(now, full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes what there is at each of `instants`, and says when each began.
    fn begun(rate: Rate, instants: impl Iterator<Item = DateTime<Utc>>) -> Vec<DateTime<Utc>> {
        let (mut spent, mut begun) = (None, Vec::new());
        for now in instants {
            let room = rate.room(spent, now);
            assert!(room >= 0, "{room}");
            assert_eq!(rate.again_after(spent, now).is_some(), room == 0);
            if room > 0 {
                spent = Some(rate.spent_by(spent, room, now));
                begun.extend(std::iter::repeat_n(now, usize::try_from(room).unwrap()));
            }
        }
        begun
    }

    #[test]
    fn no_span_holds_more_than_the_rate_and_little_of_it_is_lost() {
        let from: DateTime<Utc> = "2030-06-01T12:00:00Z".parse().unwrap();
        for (limit, seconds) in [(1, 1), (1, 60), (7, 1), (10, 1), (25, 2), (100, 1), (1_000, 60)] {
            let rate = Rate::new(limit, seconds).unwrap();
            let span = TimeDelta::seconds(i64::from(seconds));
            let spans = 5;
            let begun = begun(
                rate,
                (0..spans * i64::from(seconds) * 1_000).map(|at| from + TimeDelta::milliseconds(at)),
            );
            let most = usize::try_from(limit).unwrap();
            for (at, first) in begun.iter().enumerate() {
                let within = begun[at..].iter().take_while(|one| **one - *first < span).count();
                assert!(within <= most, "{limit} in {seconds} s: {within}");
            }
            let least = most * usize::try_from(spans).unwrap() * 8 / 10;
            assert!(
                begun.len() >= least,
                "{limit} in {seconds} s: {} of {least}",
                begun.len()
            );
        }
    }

    #[test]
    fn the_next_may_begin_exactly_when_it_is_said_to() {
        let now: DateTime<Utc> = "2030-06-01T12:00:00Z".parse().unwrap();
        let rate = Rate::new(30, 1).unwrap();
        let spent = Some(rate.spent_by(None, 3, now));
        let wait = rate.again_after(spent, now).unwrap();
        assert_eq!(rate.room(spent, now + wait), 1);
        assert_eq!(rate.room(spent, now + wait - TimeDelta::microseconds(1)), 0);
    }

    #[test]
    fn a_rate_that_was_lowered_for_long_is_forgotten_when_it_is_raised() {
        let now: DateTime<Utc> = "2030-06-01T12:00:00Z".parse().unwrap();
        let slow = Rate::new(1, 3_600).unwrap();
        let spent = Some(slow.spent_by(None, 1, now));
        let fast = Rate::new(10, 1).unwrap();
        assert!(fast.again_after(spent, now).unwrap() < TimeDelta::seconds(1));
        assert!(Rate::new(0, 1).is_none() && Rate::new(1, 0).is_none());
    }
}
