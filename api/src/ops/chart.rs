//! Attempts over time, for a chart: the numbers of its bars, which a script draws, and the same in words and as a table for
//! whoever does not see it.
//!
//! Instants are written in UTC here; the script writes them in the viewer's zone.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use roost_shared::jobs::history::Slice;

use super::view::count;

/// A chart of attempts over time.
pub struct Chart {
    /// What it shows.
    pub title: &'static str,
    /// Tells it from other charts, and says how long it is.
    pub id: &'static str,
    /// When the first slice of time began, in seconds since 1970.
    pub first: i64,
    /// How long each is, in seconds.
    pub step: i64,
    /// Attempts that did their work, slice by slice, with commas between.
    pub succeeded: String,
    /// And those that did not.
    pub failures: String,
    /// In all.
    pub total: String,
    /// Of those, those that did not do their work.
    pub failed: String,
    /// The slice with the most; none if nothing happened.
    pub highest: Option<Highest>,
    /// Slices in which something happened, the newest first.
    pub rows: Vec<Row>,
}

/// The slice of time with the most attempts.
pub struct Highest {
    /// How many.
    pub count: String,
    /// When it began.
    pub at: String,
    /// The same, for a person.
    pub clock: String,
}

/// A slice of time, in the table.
pub struct Row {
    /// When it began and ended, for the script.
    pub from: String,
    /// See `from`.
    pub to: String,
    /// The same, for a person.
    pub clock: String,
    /// Attempts that did their work.
    pub succeeded: String,
    /// And those that did not.
    pub failed: String,
}

fn exact(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn clock(at: DateTime<Utc>) -> String {
    at.format("%H:%M").to_string()
}

fn all(slice: &Slice) -> i64 {
    slice.succeeded + slice.failed
}

fn listed(slices: &[Slice], of: impl Fn(&Slice) -> i64) -> String {
    let counts: Vec<String> = slices.iter().map(|slice| of(slice).to_string()).collect();
    counts.join(",")
}

impl Chart {
    /// Of slices of this length.
    pub fn of(title: &'static str, id: &'static str, slices: &[Slice], length: TimeDelta) -> Self {
        let most = slices.iter().max_by_key(|slice| all(slice));
        Self {
            title,
            id,
            first: slices.first().map_or(0, |slice| slice.at.timestamp()),
            step: length.num_seconds(),
            succeeded: listed(slices, |slice| slice.succeeded),
            failures: listed(slices, |slice| slice.failed),
            total: count(slices.iter().map(all).sum::<i64>()),
            failed: count(slices.iter().map(|slice| slice.failed).sum::<i64>()),
            highest: most.filter(|slice| all(slice) > 0).map(|slice| Highest {
                count: count(all(slice)),
                at: exact(slice.at),
                clock: clock(slice.at),
            }),
            rows: slices
                .iter()
                .rev()
                .filter(|slice| all(slice) > 0)
                .map(|slice| Row::of(slice, slice.at + length))
                .collect(),
        }
    }
}

impl Row {
    fn of(slice: &Slice, end: DateTime<Utc>) -> Self {
        Self {
            from: exact(slice.at),
            to: exact(end),
            clock: format!("{} to {} UTC", clock(slice.at), clock(end)),
            succeeded: count(slice.succeeded),
            failed: count(slice.failed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slices(succeeded: &[i64]) -> Vec<Slice> {
        let first: DateTime<Utc> = "2030-06-01T11:50:00Z".parse().unwrap();
        let slices = succeeded.iter().zip(0..).map(|(succeeded, minutes)| Slice {
            at: first + TimeDelta::minutes(minutes),
            succeeded: *succeeded,
            failed: i64::from(minutes == 1),
        });
        slices.collect()
    }

    #[test]
    fn it_says_in_words_and_rows_what_is_drawn() {
        let minute = TimeDelta::minutes(1);
        let chart = Chart::of("of a test", "test", &slices(&[0, 1_234, 0, 10]), minute);
        assert_eq!((chart.first, chart.step), (1_906_545_000, 60));
        assert_eq!(
            (chart.succeeded.as_str(), chart.failures.as_str()),
            ("0,1234,0,10", "0,1,0,0")
        );
        assert_eq!((chart.total.as_str(), chart.failed.as_str()), ("1,245", "1"));
        let highest = chart.highest.unwrap();
        assert_eq!((highest.count.as_str(), highest.clock.as_str()), ("1,235", "11:51"));
        let rows: Vec<[&str; 3]> = chart
            .rows
            .iter()
            .map(|row| [&row.clock, &row.succeeded, &row.failed].map(String::as_str))
            .collect();
        assert_eq!(
            rows,
            [["11:53 to 11:54 UTC", "10", "0"], ["11:51 to 11:52 UTC", "1,234", "1"]]
        );
        let none = Chart::of("of a test", "test", &slices(&[0]), minute);
        assert!(none.highest.is_none() && none.rows.is_empty());
    }
}
