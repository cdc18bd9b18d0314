//! Attempts over time as a drawing: bars above a scale, with the hours below. Places are in pixels from the top, and in
//! hundredths or in units of a box from the left, since the drawing is as wide as the window lets it be.
//!
//! Instants are written in UTC here; a script writes them in the viewer's zone.

use chrono::{DateTime, SecondsFormat, TimeDelta, Timelike, Utc};
use roost_shared::jobs::history::Slice;

use super::view::count;

/// Of a bar, in units of the box.
const BAR: usize = 10;
/// Of the place for bars, in pixels.
const HEIGHT: i64 = 100;
/// Above it, for the half of the uppermost number.
const ABOVE: i64 = 10;
/// Numbers beside the scale at most, without the zero.
const LINES: i64 = 4;

/// A chart of attempts over time.
pub struct Chart {
    /// What it shows.
    pub title: &'static str,
    /// Names its title among those of other charts.
    pub id: &'static str,
    /// Its bars, the oldest first.
    pub bars: Vec<Bar>,
    /// The width of the box that the bars are in.
    pub width: usize,
    /// In all.
    pub total: String,
    /// Of those, those that did their work.
    pub succeeded: String,
    /// And those that did not.
    pub failed: String,
    /// What the highest bar shows, in words.
    pub highest: Option<Highest>,
    /// Lines across, with what they stand for.
    pub lines: Vec<Line>,
    /// Instants below.
    pub ticks: Vec<Tick>,
    /// Whether nothing happened.
    pub empty: bool,
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

/// A slice of time.
pub struct Bar {
    /// From the left.
    pub x: usize,
    /// From the top of the place for bars.
    pub ok_y: i64,
    /// Of what succeeded.
    pub ok_height: i64,
    /// From the top of the place for bars.
    pub bad_y: i64,
    /// Of what failed.
    pub bad_height: i64,
    /// When it began and ended, for the script.
    pub from: String,
    /// See `from`.
    pub to: String,
    /// The same, for a person.
    pub clock: String,
    /// What happened, for a pointer that rests on it.
    pub says: String,
}

/// A line across.
pub struct Line {
    /// From the top, in pixels.
    pub y: i64,
    /// What it stands for.
    pub label: String,
}

/// An instant below the bars.
pub struct Tick {
    /// From the left, in hundredths.
    pub percent: String,
    /// `middle` or `end`: which part of its text is there.
    pub anchor: &'static str,
    /// The instant, for the script.
    pub at: String,
    /// The same, for a person.
    pub clock: String,
}

fn exact(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn clock(at: DateTime<Utc>) -> String {
    at.format("%H:%M").to_string()
}

/// The distance of the lines: the smallest of 1, 2, 5, 10, 20, … with which few of them are enough.
fn step(highest: i64) -> i64 {
    let mut step = 1;
    for factor in [2, 5, 10].into_iter().cycle() {
        if step * LINES >= highest {
            break;
        }
        // 2, 5 and 10 times the power of ten before.
        let power = 10_i64.pow(step.ilog10());
        step = power * factor;
    }
    step
}

/// `500`, `20k`, `1.5M`: a few signs, however much it is.
fn brief(value: i64) -> String {
    let tenths = |unit: i64, name: &str| match (value / unit, value % unit * 10 / unit) {
        (whole, 0) => format!("{whole}{name}"),
        (whole, tenth) => format!("{whole}.{tenth}{name}"),
    };
    match value {
        1_000_000.. => tenths(1_000_000, "M"),
        10_000.. => tenths(1_000, "k"),
        _ => count(value),
    }
}

impl Chart {
    /// Of slices of this length, with an instant below wherever a multiple of `every` is.
    pub fn of(title: &'static str, id: &'static str, slices: &[Slice], length: TimeDelta, every: TimeDelta) -> Self {
        let all = |slice: &Slice| slice.succeeded + slice.failed;
        let most = slices.iter().max_by_key(|slice| all(slice));
        let highest = most.map_or(0, all);
        let step = step(highest);
        let top = (highest.max(1) + step - 1) / step * step;
        let failed: i64 = slices.iter().map(|slice| slice.failed).sum();
        let succeeded: i64 = slices.iter().map(|slice| slice.succeeded).sum();
        Self {
            title,
            id,
            bars: slices
                .iter()
                .enumerate()
                .map(|(at, slice)| Bar::of(at, slice, length, top))
                .collect(),
            width: slices.len() * BAR,
            total: count(succeeded + failed),
            succeeded: count(succeeded),
            failed: count(failed),
            highest: most.filter(|_| highest > 0).map(|slice| Highest {
                count: count(highest),
                at: exact(slice.at),
                clock: clock(slice.at),
            }),
            lines: (0..=top / step)
                .map(|line| Line {
                    y: ABOVE + HEIGHT - line * step * HEIGHT / top,
                    label: brief(line * step),
                })
                .collect(),
            ticks: ticks(slices, every),
            empty: succeeded + failed == 0,
        }
    }
}

impl Bar {
    fn of(at: usize, slice: &Slice, length: TimeDelta, top: i64) -> Self {
        // What there is can be seen, however little it is beside the highest.
        let height = |value: i64| {
            if value == 0 { 0 } else { (value * HEIGHT / top).max(2) }
        };
        let (ok, bad) = (height(slice.succeeded), height(slice.failed));
        let ok = ok.min(HEIGHT - bad);
        let end = slice.at + length;
        Self {
            x: at * BAR,
            ok_y: HEIGHT - bad - ok,
            ok_height: ok,
            bad_y: HEIGHT - bad,
            bad_height: bad,
            from: exact(slice.at),
            to: exact(end),
            clock: format!("{} to {} UTC", clock(slice.at), clock(end)),
            says: format!("{} succeeded, {} failed", count(slice.succeeded), count(slice.failed)),
        }
    }
}

fn ticks(slices: &[Slice], every: TimeDelta) -> Vec<Tick> {
    let minutes = every.num_minutes().max(1);
    let is_round = |at: DateTime<Utc>| i64::from(at.hour() * 60 + at.minute()) % minutes == 0;
    slices
        .iter()
        .enumerate()
        .filter(|(_, slice)| is_round(slice.at))
        .map(|(number, slice)| {
            let percent = number as f64 * 100.0 / slices.len() as f64;
            Tick {
                percent: format!("{percent:.2}"),
                // At the right edge there is no room for the second half.
                anchor: if percent > 97.0 { "end" } else { "middle" },
                at: exact(slice.at),
                clock: clock(slice.at),
            }
        })
        .collect()
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
    fn a_scale_has_few_lines_at_round_numbers() {
        let steps = [0, 1, 4, 5, 9, 21, 40, 41, 230, 1_000_001].map(step);
        assert_eq!(steps, [1, 1, 1, 2, 5, 10, 10, 20, 100, 500_000]);
        let labels = [0, 50, 2_500, 15_000, 20_000, 1_500_000].map(brief);
        assert_eq!(labels, ["0", "50", "2,500", "15k", "20k", "1.5M"]);
    }

    #[test]
    fn bars_lines_and_hours_are_where_they_belong() {
        let minute = TimeDelta::minutes(1);
        let chart = Chart::of(
            "of a test",
            "test",
            &slices(&[0, 39, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0]),
            minute,
            TimeDelta::minutes(5),
        );
        let lines: Vec<(i64, &str)> = chart.lines.iter().map(|line| (line.y, line.label.as_str())).collect();
        assert_eq!(lines, [(110, "0"), (85, "10"), (60, "20"), (35, "30"), (10, "40")]);
        let bar = &chart.bars[1];
        assert_eq!((bar.ok_y, bar.ok_height, bar.bad_y, bar.bad_height), (1, 97, 98, 2));
        assert_eq!(
            (bar.clock.as_str(), bar.says.as_str()),
            ("11:51 to 11:52 UTC", "39 succeeded, 1 failed")
        );
        let ticks: Vec<(&str, &str, &str)> = chart
            .ticks
            .iter()
            .map(|tick| (tick.clock.as_str(), tick.percent.as_str(), tick.anchor))
            .collect();
        assert_eq!(
            ticks,
            [
                ("11:50", "0.00", "middle"),
                ("11:55", "41.67", "middle"),
                ("12:00", "83.33", "middle")
            ]
        );
        let highest = chart.highest.unwrap();
        assert_eq!((highest.count.as_str(), highest.clock.as_str()), ("40", "11:51"));
        assert!(Chart::of("of a test", "test", &slices(&[0]), minute, minute).empty);
    }
}
