//! What a review may say, how long there is to write it, and how stars add up. Pure.

use chrono::{DateTime, Days, TimeDelta, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

use crate::properties::stay::instant;

/// How long both sides have, from check-out on.
pub const WINDOW_DAYS: u64 = 14;
/// Nobody has less time than this, whenever it becomes known that the stay is over.
pub const SHORTEST: TimeDelta = TimeDelta::days(3);
/// Who has not written is reminded so long before the end.
pub const REMINDER: TimeDelta = TimeDelta::days(3);
/// The fewest and the most characters of a review.
pub const TEXT_LENGTH: (usize, usize) = (10, 2_000);
/// The fewest and the most characters of a host's answer.
pub const ANSWER_LENGTH: (usize, usize) = (1, 2_000);

/// Who writes: the guest about the stay, the host about the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Side {
    /// The guest, about the property and its host.
    Guest,
    /// The host, about the guest.
    Host,
}

impl Side {
    /// Its name in JSON and SQL.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Guest => "guest",
            Self::Host => "host",
        }
    }
}

/// Stars, 1 to 5. Of a guest only cleanliness and communication are rated beside the whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct Stars {
    /// The whole stay, or the guest.
    pub overall: i16,
    /// How clean it was, or was left.
    pub cleanliness: Option<i16>,
    /// Whether the listing told the truth.
    pub accuracy: Option<i16>,
    /// How the arrival went.
    pub check_in: Option<i16>,
    /// How easy the other side was to talk to.
    pub communication: Option<i16>,
    /// The neighbourhood.
    pub location: Option<i16>,
    /// For the money.
    pub value: Option<i16>,
}

/// What is rated beside the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Category {
    /// How clean it was, or was left.
    Cleanliness,
    /// Whether the listing told the truth.
    Accuracy,
    /// How the arrival went.
    CheckIn,
    /// How easy the other side was to talk to.
    Communication,
    /// The neighbourhood.
    Location,
    /// For the money.
    Value,
}

impl Stars {
    /// Rates a category, or with none takes its rating back.
    pub const fn rate(&mut self, category: Category, stars: Option<i16>) {
        let rated = match category {
            Category::Cleanliness => &mut self.cleanliness,
            Category::Accuracy => &mut self.accuracy,
            Category::CheckIn => &mut self.check_in,
            Category::Communication => &mut self.communication,
            Category::Location => &mut self.location,
            Category::Value => &mut self.value,
        };
        *rated = stars;
    }

    /// The categories by name.
    #[must_use]
    pub const fn categories(&self) -> [(&'static str, Option<i16>); 6] {
        [
            ("cleanliness", self.cleanliness),
            ("accuracy", self.accuracy),
            ("check_in", self.check_in),
            ("communication", self.communication),
            ("location", self.location),
            ("value", self.value),
        ]
    }

    /// The categories given that this side does not rate.
    #[must_use]
    pub fn misplaced(&self, side: Side) -> Vec<&'static str> {
        let of_guests = ["cleanliness", "communication"];
        self.categories()
            .into_iter()
            .filter(|(name, stars)| side == Side::Host && stars.is_some() && !of_guests.contains(name))
            .map(|(name, _)| name)
            .collect()
    }
}

/// When the time to write is over: 14 days later by the clock on the property's wall.
#[must_use]
pub fn closes_at(checked_out_at: DateTime<Utc>, time_zone: Tz) -> DateTime<Utc> {
    let local = checked_out_at.with_timezone(&time_zone).naive_local();
    let day = local
        .date()
        .checked_add_days(Days::new(WINDOW_DAYS))
        .unwrap_or(local.date());
    instant(day, local.time(), time_zone)
}

/// How many reviews gave 1, 2, 3, 4 and 5 stars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histogram(pub [i32; 5]);

impl Histogram {
    /// Adds `change` reviews of so many stars. Fewer than none stay none.
    pub fn add(&mut self, stars: i16, change: i32) {
        let place = usize::try_from(stars).ok().and_then(|stars| stars.checked_sub(1));
        if let Some(count) = place.and_then(|place| self.0.get_mut(place)) {
            *count = (*count + change).max(0);
        }
    }

    /// How many in all.
    #[must_use]
    pub fn count(&self) -> i32 {
        self.0.iter().sum()
    }

    /// The mean in hundredths of a star, rounded half up; 0 of none.
    #[must_use]
    pub fn mean_hundredths(&self) -> i32 {
        let count = i64::from(self.count());
        if count == 0 {
            return 0;
        }
        let stars: i64 = (1..).zip(self.0).map(|(stars, count)| stars * i64::from(count)).sum();
        i32::try_from((200 * stars + count) / (2 * count)).unwrap_or(0)
    }
}

/// The histograms of a property, a host or a guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ratings {
    /// Of the whole.
    pub overall: Histogram,
    /// See [`Stars`].
    pub cleanliness: Histogram,
    /// See [`Stars`].
    pub accuracy: Histogram,
    /// See [`Stars`].
    pub check_in: Histogram,
    /// See [`Stars`].
    pub communication: Histogram,
    /// See [`Stars`].
    pub location: Histogram,
    /// See [`Stars`].
    pub value: Histogram,
}

impl Ratings {
    /// Counts a review in (1) or out (-1).
    pub fn add(&mut self, stars: &Stars, change: i32) {
        self.overall.add(stars.overall, change);
        let histograms = [
            &mut self.cleanliness,
            &mut self.accuracy,
            &mut self.check_in,
            &mut self.communication,
            &mut self.location,
            &mut self.value,
        ];
        for (histogram, (_, stars)) in histograms.into_iter().zip(stars.categories()) {
            if let Some(stars) = stars {
                histogram.add(stars, change);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().expect("an instant")
    }

    #[test]
    fn the_window_ends_at_the_same_time_of_day_two_weeks_later() {
        for (zone, from, until) in [
            (Tz::UTC, "2027-06-01T09:00:00Z", "2027-06-15T09:00:00Z"),
            // Clocks go back on 31 October: 14 days and an hour.
            (Tz::Europe__Berlin, "2027-10-20T08:30:00Z", "2027-11-03T09:30:00Z"),
            // Clocks go forward on 14 March: an hour less.
            (Tz::America__New_York, "2027-03-10T16:00:00Z", "2027-03-24T15:00:00Z"),
            // Half past two does not exist on 28 March.
            (Tz::Europe__Berlin, "2027-03-14T01:30:00Z", "2027-03-28T01:30:00Z"),
        ] {
            assert_eq!(closes_at(at(from), zone), at(until), "{zone} {from}");
        }
    }

    #[test]
    fn a_guest_is_not_rated_like_a_home() {
        let stars = Stars {
            overall: 5,
            cleanliness: Some(5),
            location: Some(4),
            value: Some(3),
            ..Stars::default()
        };
        assert_eq!(stars.misplaced(Side::Host), ["location", "value"]);
        assert!(stars.misplaced(Side::Guest).is_empty());
    }

    #[test]
    fn means_are_rounded_half_up_and_what_was_added_can_be_taken_out() {
        let mut histogram = Histogram::default();
        assert_eq!((histogram.count(), histogram.mean_hundredths()), (0, 0));
        for stars in [5, 5, 4, 4, 4, 5, 5, 4] {
            histogram.add(stars, 1);
        }
        assert_eq!((histogram.count(), histogram.mean_hundredths()), (8, 450));
        histogram.add(1, 1);
        // 37 / 9 = 4.111…
        assert_eq!(histogram.mean_hundredths(), 411);
        // 4.125 is 413 hundredths.
        assert_eq!(Histogram([0, 0, 1, 5, 2]).mean_hundredths(), 413);
        histogram.add(1, -1);
        assert_eq!(histogram, Histogram([0, 0, 0, 4, 4]));
        for nonsense in [0, 6, -1, i16::MAX] {
            histogram.add(nonsense, 1);
        }
        assert_eq!(histogram.count(), 8);
    }

    #[test]
    fn a_category_counts_only_where_it_was_given() {
        let stars = Stars {
            overall: 4,
            check_in: Some(2),
            ..Stars::default()
        };
        let mut ratings = Ratings::default();
        ratings.add(&stars, 1);
        assert_eq!(ratings.overall, Histogram([0, 0, 0, 1, 0]));
        assert_eq!(ratings.check_in, Histogram([0, 1, 0, 0, 0]));
        assert_eq!(ratings.value.count(), 0);
        ratings.add(&stars, -1);
        assert_eq!(ratings, Ratings::default());
    }
}
