//! A stay as half-open dates of the property's own calendar, what a property asks of it, and the instants its
//! dates stand for. Pure: the caller says what time it is.

use chrono::{DateTime, Days, NaiveDate, NaiveTime, Offset, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};
use sqlx::postgres::types::PgRange;
use std::ops::Bound;

use super::PropertyTerms;

/// How far ahead a stay may end.
pub const MAX_DAYS_AHEAD: u64 = 500;

/// The nights from `check_in` to before `check_out`. The day of check-out is free for the next guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stay {
    /// The day of arrival.
    pub check_in: NaiveDate,
    /// The day of departure.
    pub check_out: NaiveDate,
}

impl Stay {
    /// A stay as asked for: [`check`] says whether it is one.
    #[must_use]
    pub const fn new(check_in: NaiveDate, check_out: NaiveDate) -> Self {
        Self { check_in, check_out }
    }

    /// How many nights; zero or less when the dates are in the wrong order.
    #[must_use]
    pub fn nights(self) -> i64 {
        self.check_out.signed_duration_since(self.check_in).num_days()
    }

    /// As the column `bookings.stay` has it.
    #[must_use]
    pub fn range(self) -> PgRange<NaiveDate> {
        PgRange::from(self.check_in..self.check_out)
    }

    /// From the column `bookings.stay`; nothing for a range without both ends.
    #[must_use]
    pub fn from_range(range: &PgRange<NaiveDate>) -> Option<Self> {
        match (range.start, range.end) {
            (Bound::Included(check_in), Bound::Excluded(check_out)) => Some(Self { check_in, check_out }),
            _ => None,
        }
    }
}

/// What keeps a stay from being booked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StayRefusal {
    /// Arrival before the property's today.
    #[error("is in the past: at the property it is {today}")]
    CheckInPast {
        /// The date at the property.
        today: NaiveDate,
    },
    /// Departure on or before the day of arrival.
    #[error("must be after check_in")]
    CheckOutNotAfterCheckIn,
    /// Ends more than [`MAX_DAYS_AHEAD`] days from today.
    #[error("must be {latest} or earlier")]
    TooFarAhead {
        /// The last day of departure that can be booked today.
        latest: NaiveDate,
    },
    /// Fewer nights than the property asks for.
    #[error("the property takes stays of {min} nights or more")]
    TooFewNights {
        /// The fewest.
        min: i32,
    },
    /// More nights than the property allows.
    #[error("the property takes stays of {max} nights or fewer")]
    TooManyNights {
        /// The most.
        max: i32,
    },
    /// Nobody comes.
    #[error("must be 1 or more")]
    NoGuests,
    /// More people than the property takes.
    #[error("the property takes {max} guests or fewer")]
    TooManyGuests {
        /// The most.
        max: i32,
    },
}

impl StayRefusal {
    /// The field of the request it is about.
    #[must_use]
    pub const fn field(self) -> &'static str {
        match self {
            Self::CheckInPast { .. } => "check_in",
            Self::CheckOutNotAfterCheckIn
            | Self::TooFarAhead { .. }
            | Self::TooFewNights { .. }
            | Self::TooManyNights { .. } => "check_out",
            Self::NoGuests | Self::TooManyGuests { .. } => "guests",
        }
    }
}

/// Whether the property takes this stay, apart from the nights being free.
///
/// # Errors
/// Everything that speaks against it.
pub fn check(terms: &PropertyTerms, today: NaiveDate, stay: Stay, guests: i32) -> Result<(), Vec<StayRefusal>> {
    let mut refusals = Vec::new();
    if stay.check_in < today {
        refusals.push(StayRefusal::CheckInPast { today });
    }
    let nights = stay.nights();
    if nights < 1 {
        refusals.push(StayRefusal::CheckOutNotAfterCheckIn);
    } else if nights < i64::from(terms.min_nights) {
        refusals.push(StayRefusal::TooFewNights { min: terms.min_nights });
    } else if nights > i64::from(terms.max_nights) {
        refusals.push(StayRefusal::TooManyNights { max: terms.max_nights });
    }
    let latest = today
        .checked_add_days(Days::new(MAX_DAYS_AHEAD))
        .unwrap_or(NaiveDate::MAX);
    if stay.check_out > latest {
        refusals.push(StayRefusal::TooFarAhead { latest });
    }
    if guests < 1 {
        refusals.push(StayRefusal::NoGuests);
    } else if guests > terms.max_guests {
        refusals.push(StayRefusal::TooManyGuests { max: terms.max_guests });
    }
    if refusals.is_empty() { Ok(()) } else { Err(refusals) }
}

/// The date at the property.
#[must_use]
pub fn property_today(now: DateTime<Utc>, time_zone: Tz) -> NaiveDate {
    now.with_timezone(&time_zone).date_naive()
}

/// The instant at which the stay begins: the first moment of check-in.
#[must_use]
pub fn check_in_at(stay: Stay, check_in_from: NaiveTime, time_zone: Tz) -> DateTime<Utc> {
    instant(stay.check_in, check_in_from, time_zone)
}

/// The instant at which the stay ends: the last moment of check-out.
#[must_use]
pub fn check_out_at(stay: Stay, check_out_by: NaiveTime, time_zone: Tz) -> DateTime<Utc> {
    instant(stay.check_out, check_out_by, time_zone)
}

/// What the clock on the property's wall means, with the offset of that very date.
///
/// A time that happens twice is the first of the two. A time that is skipped is moved on by what was skipped
/// (half past two becomes half past three), as RFC 5545 has it.
#[must_use]
pub fn instant(date: NaiveDate, time: NaiveTime, time_zone: Tz) -> DateTime<Utc> {
    let local = date.and_time(time);
    if let Some(instant) = time_zone.from_local_datetime(&local).earliest() {
        return instant.with_timezone(&Utc);
    }
    // In a gap: read the clock as if it had not been put forward. A day earlier it had not, in any zone.
    let day_before = local.checked_sub_signed(TimeDelta::days(1)).unwrap_or(local);
    let offset = time_zone.offset_from_utc_datetime(&day_before).fix();
    local.checked_sub_offset(offset).unwrap_or(local).and_utc()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::properties::terms_for_tests;

    fn day(text: &str) -> NaiveDate {
        text.parse().expect("a date")
    }

    fn stay(check_in: &str, check_out: &str) -> Stay {
        Stay::new(day(check_in), day(check_out))
    }

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().expect("an instant")
    }

    fn refusals(stay: Stay, guests: i32) -> Vec<StayRefusal> {
        let mut terms = terms_for_tests();
        (terms.min_nights, terms.max_nights, terms.max_guests) = (2, 30, 4);
        check(&terms, day("2027-06-10"), stay, guests).err().unwrap_or_default()
    }

    #[test]
    fn a_good_stay_is_taken_from_today_to_the_last_day_ahead() {
        assert_eq!(refusals(stay("2027-06-10", "2027-06-12"), 1), []);
        assert_eq!(refusals(stay("2027-06-20", "2027-07-20"), 4), []);
        assert_eq!(refusals(stay("2028-10-20", "2028-10-22"), 4), []); // 500 days later
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        assert_eq!(
            refusals(stay("2027-06-09", "2027-06-09"), 5),
            [
                StayRefusal::CheckInPast {
                    today: day("2027-06-10")
                },
                StayRefusal::CheckOutNotAfterCheckIn,
                StayRefusal::TooManyGuests { max: 4 },
            ]
        );
    }

    #[test]
    fn each_limit_is_kept() {
        for (from, to, guests, refusal) in [
            ("2027-07-02", "2027-07-01", 1, StayRefusal::CheckOutNotAfterCheckIn),
            ("2027-07-01", "2027-07-02", 1, StayRefusal::TooFewNights { min: 2 }),
            ("2027-07-01", "2027-08-01", 1, StayRefusal::TooManyNights { max: 30 }),
            (
                "2028-10-21",
                "2028-10-23",
                1,
                StayRefusal::TooFarAhead {
                    latest: day("2028-10-22"),
                },
            ),
            ("2027-07-01", "2027-07-03", 0, StayRefusal::NoGuests),
            ("2027-07-01", "2027-07-03", -1, StayRefusal::NoGuests),
        ] {
            assert_eq!(refusals(stay(from, to), guests), [refusal], "{from}..{to} for {guests}");
        }
        let ends = Stay::new(NaiveDate::MIN, NaiveDate::MAX);
        assert!(!refusals(ends, i32::MAX).is_empty());
        assert!(!refusals(Stay::new(NaiveDate::MAX, NaiveDate::MIN), i32::MIN).is_empty());
    }

    #[test]
    fn a_range_of_the_database_is_a_stay_and_back() {
        let stay = stay("2028-02-28", "2028-03-01");
        assert_eq!(Stay::from_range(&stay.range()), Some(stay));
        assert_eq!(stay.nights(), 2);
        assert_eq!(Stay::from_range(&PgRange::from(..stay.check_out)), None);
    }

    #[test]
    fn today_is_the_propertys_today() {
        let now = at("2027-06-10T11:30:00Z");
        assert_eq!(property_today(now, Tz::Pacific__Kiritimati), day("2027-06-11"));
        assert_eq!(property_today(now, Tz::Pacific__Pago_Pago), day("2027-06-10"));
        assert_eq!(
            property_today(at("2027-06-10T02:00:00Z"), Tz::America__New_York),
            day("2027-06-09")
        );
    }

    #[test]
    fn an_instant_has_the_offset_of_its_own_date() {
        let stay = stay("2027-03-27", "2027-03-29"); // Berlin changes on the 28th
        let three = NaiveTime::from_hms_opt(15, 0, 0).expect("a time");
        let eleven = NaiveTime::from_hms_opt(11, 0, 0).expect("a time");
        assert_eq!(check_in_at(stay, three, Tz::Europe__Berlin), at("2027-03-27T14:00:00Z"));
        assert_eq!(
            check_out_at(stay, eleven, Tz::Europe__Berlin),
            at("2027-03-29T09:00:00Z")
        );
    }

    #[test]
    fn skipped_times_move_on_and_doubled_ones_are_the_first() {
        let half_past = |hour| NaiveTime::from_hms_opt(hour, 30, 0).expect("a time");
        let berlin = |date: &str| instant(day(date), half_past(2), Tz::Europe__Berlin);
        assert_eq!(berlin("2027-03-28"), at("2027-03-28T01:30:00Z")); // 03:30 in summer time
        assert_eq!(berlin("2027-10-31"), at("2027-10-31T00:30:00Z"));
        let new_york = |date: &str, hour| instant(day(date), half_past(hour), Tz::America__New_York);
        assert_eq!(new_york("2027-03-14", 2), at("2027-03-14T07:30:00Z"));
        assert_eq!(new_york("2027-11-07", 1), at("2027-11-07T05:30:00Z"));
        // Half an hour at Lord Howe, a whole day at Apia, midnight at Santiago.
        let lord_howe = NaiveTime::from_hms_opt(2, 15, 0).expect("a time");
        assert_eq!(
            instant(day("2027-10-03"), lord_howe, Tz::Australia__Lord_Howe),
            at("2027-10-02T15:45:00Z")
        );
        assert_eq!(
            instant(day("2011-12-30"), half_past(12), Tz::Pacific__Apia),
            at("2011-12-30T22:30:00Z")
        );
        assert_eq!(
            instant(day("2027-09-05"), NaiveTime::MIN, Tz::America__Santiago),
            at("2027-09-05T04:00:00Z")
        );
    }

    #[test]
    fn the_ends_of_the_calendar_do_no_harm() {
        for zone in [Tz::Pacific__Kiritimati, Tz::Pacific__Pago_Pago] {
            let _ = (
                instant(NaiveDate::MIN, NaiveTime::MIN, zone),
                instant(NaiveDate::MAX, NaiveTime::MIN, zone),
            );
        }
    }
}
