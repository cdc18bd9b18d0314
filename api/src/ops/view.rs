//! How things are written on pages: instants, spans of time, counts, short ids.

use std::borrow::Borrow;
use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};
use roost_shared::jobs::catalogue::UNTIL_DONE;
use roost_shared::jobs::overview::{COUNTED, QueueState};
use serde_json::Value;
use uuid::Uuid;

/// An instant as HTML: relative, with the exact one behind it. A script writes it in the viewer's zone.
#[derive(Clone, Debug)]
pub struct When {
    at: DateTime<Utc>,
    now: DateTime<Utc>,
}

/// An instant, seen from now.
#[must_use]
pub fn when(at: DateTime<Utc>, now: DateTime<Utc>) -> When {
    When { at, now }
}

impl fmt::Display for When {
    /// Nothing but digits, letters and our own marks: safe as HTML.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = (self.now - self.at).num_milliseconds() as f64 / 1000.0;
        let text = if seconds.abs() < 1.0 {
            "now".to_owned()
        } else if seconds >= 0.0 {
            format!("{} ago", span(seconds))
        } else {
            format!("in {}", span(-seconds))
        };
        write!(
            f,
            "<time datetime=\"{}\" title=\"{} UTC\">{text}</time>",
            self.at.to_rfc3339_opts(SecondsFormat::Millis, true),
            self.at.format("%Y-%m-%d %H:%M:%S%.3f"),
        )
    }
}

/// `850 ms`, `12.3 s`, `4 min`, `3 h`, `12 d`.
#[must_use]
pub fn span(seconds: impl Borrow<f64>) -> String {
    match *seconds.borrow() {
        s if s < 0.9995 => format!("{:.0} ms", s * 1000.0),
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7_200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.0} h", s / 3_600.0),
        s => format!("{:.0} d", s / 86_400.0),
    }
}

/// `9,999`, and `10,000+` where counting stopped.
#[must_use]
pub fn count(count: impl Borrow<i64>) -> String {
    let digits = count.borrow().unsigned_abs().to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// How many attempts there may be, for somebody who counts them.
#[must_use]
pub fn most_attempts(most: i32) -> String {
    if most >= UNTIL_DONE {
        "∞".to_owned()
    } else {
        count(i64::from(most))
    }
}

/// A count that stops at [`COUNTED`].
#[must_use]
pub fn bounded(value: impl Borrow<i64>) -> String {
    let value = *value.borrow();
    if value >= COUNTED {
        format!("{}+", count(COUNTED))
    } else {
        count(value)
    }
}

/// What a queue has left until a due job of it misses the target: `4.0 s`, or `missed by 12 s`.
#[must_use]
pub fn to_breach(queue: &QueueState) -> String {
    let left = queue.seconds_to_breach();
    match queue.due {
        0 => "–".to_owned(),
        _ if left < 0.0 => format!("missed by {}", span(-left)),
        _ => span(left),
    }
}

/// The end of an id, which differs where its beginning tells the time.
#[must_use]
pub fn short(id: Uuid) -> String {
    let text = id.to_string();
    format!("…{}", text.get(24..).unwrap_or_default())
}

/// Arguments in one line: `booking_id …3d14bc67841b`.
#[must_use]
pub fn brief(args: &Value) -> String {
    let Some(fields) = args.as_object() else {
        return args.to_string();
    };
    let parts: Vec<String> = fields
        .iter()
        .map(|(name, value)| {
            let name = name.strip_suffix("_id").unwrap_or(name);
            match value.as_str() {
                Some(text) => match Uuid::parse_str(text) {
                    Ok(id) => format!("{name} {}", short(id)),
                    Err(_) => format!("{name} {text}"),
                },
                None => format!("{name} {value}"),
            }
        })
        .collect();
    parts.join(", ")
}

/// The beginning of a text, for one line.
#[must_use]
pub fn cut(text: &str, longest: usize) -> String {
    if text.chars().count() <= longest {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(longest).collect();
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_counts_read_well() {
        let spans = [0.0123, 5.04, 59.0, 600.0, 20_000.0, 864_000.0].map(span);
        assert_eq!(spans, ["12 ms", "5.0 s", "59 s", "10 min", "6 h", "10 d"]);
        assert_eq!([7, 1_234, 1_234_567].map(count), ["7", "1,234", "1,234,567"]);
        assert_eq!(
            (bounded(9_999), bounded(10_000)),
            ("9,999".to_owned(), "10,000+".to_owned())
        );
        let at: DateTime<Utc> = "2030-06-01T12:00:00Z".parse().unwrap();
        let text = when(at, at + chrono::TimeDelta::minutes(5)).to_string();
        assert!(text.contains(">5 min ago<"), "{text}");
    }
}
