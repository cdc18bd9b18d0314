//! A job filter as a URL holds it: `state=dead&state=quarantined&kind=payment.capture&since=1h&q=declined`.

use chrono::{DateTime, NaiveDateTime, SecondsFormat, TimeDelta, Utc};
use roost_shared::jobs::list::JobFilter;

use super::fault::Fault;
use super::params::Params;

/// Spans that the list offers.
pub const SINCE: [(&str, &str); 5] = [
    ("15m", "15 minutes"),
    ("1h", "hour"),
    ("6h", "6 hours"),
    ("1d", "day"),
    ("7d", "7 days"),
];

fn since(text: &str) -> Option<TimeDelta> {
    match text {
        "15m" => Some(TimeDelta::minutes(15)),
        "1h" => Some(TimeDelta::hours(1)),
        "6h" => Some(TimeDelta::hours(6)),
        "1d" => Some(TimeDelta::days(1)),
        "7d" => Some(TimeDelta::days(7)),
        _ => None,
    }
}

/// An instant: RFC 3339, or as a field for dates and times without a script sends it, which is in UTC.
#[must_use]
pub fn instant(text: &str) -> Option<DateTime<Utc>> {
    let written = text.parse().ok();
    written.or_else(|| {
        ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M"]
            .iter()
            .find_map(|shape| NaiveDateTime::parse_from_str(text, shape).ok())
            .map(|at| at.and_utc())
    })
}

/// An end of a span of time, for its field.
pub enum Bound {
    /// An instant, or none.
    At {
        /// In UTC, as a field for dates and times takes it.
        value: String,
        /// The same exactly.
        instant: String,
    },
    /// What cannot be read, as it was written: it stays to be mended.
    Unread(String),
}

impl Bound {
    /// From what was written.
    #[must_use]
    pub fn of(text: Option<&str>) -> Self {
        let text = text.unwrap_or_default();
        match instant(text) {
            Some(at) => Self::At {
                value: at.format("%Y-%m-%dT%H:%M:%S").to_string(),
                instant: at.to_rfc3339_opts(SecondsFormat::AutoSi, true),
            },
            None if text.is_empty() => Self::At {
                value: String::new(),
                instant: String::new(),
            },
            None => Self::Unread(text.to_owned()),
        }
    }
}

/// An instant that a parameter names.
///
/// # Errors
/// It cannot be read.
pub fn bound(params: &Params, name: &str) -> Result<Option<DateTime<Utc>>, Fault> {
    params
        .get(name)
        .map(|text| instant(text).ok_or_else(|| Fault::Bad(format!("{name}: {text:?} cannot be read"))))
        .transpose()
}

/// Reads and checks a filter.
///
/// # Errors
/// A value that makes no sense.
pub fn read(params: &Params, now: DateTime<Utc>) -> Result<JobFilter, Fault> {
    let text = |name: &str| params.get(name).map(str::to_owned);
    let mut filter = JobFilter {
        ids: Vec::new(),
        states: params
            .all("state")
            .flat_map(|value| value.split(','))
            .filter(|state| !state.is_empty())
            .map(str::to_owned)
            .collect(),
        kind: text("kind"),
        queue: text("queue"),
        from: bound(params, "from")?,
        to: bound(params, "to")?,
        attempts: params.parsed("attempts")?,
        effect: text("effect"),
        worker: text("worker"),
        q: text("q"),
    };
    filter.states.sort();
    filter.states.dedup();
    if let Some(span) = params.get("since") {
        let span = since(span).ok_or_else(|| Fault::Bad(format!("since: {span:?} is no span")))?;
        filter.from = Some(now - span);
    }
    filter.check()?;
    Ok(filter)
}

/// The filter as it is written in a URL; without instants that `since` gave.
#[must_use]
pub fn write(filter: &JobFilter, since: Option<&str>) -> String {
    let mut out = form_urlencoded::Serializer::new(String::new());
    for state in &filter.states {
        out.append_pair("state", state);
    }
    let attempts = filter.attempts.map(|attempts| attempts.to_string());
    let from = filter.from.filter(|_| since.is_none()).map(|at| at.to_rfc3339());
    let to = filter.to.map(|at| at.to_rfc3339());
    for (name, value) in [
        ("kind", filter.kind.as_deref()),
        ("queue", filter.queue.as_deref()),
        ("since", since),
        ("from", from.as_deref()),
        ("to", to.as_deref()),
        ("attempts", attempts.as_deref()),
        ("effect", filter.effect.as_deref()),
        ("worker", filter.worker.as_deref()),
        ("q", filter.q.as_deref()),
    ] {
        if let Some(value) = value {
            out.append_pair(name, value);
        }
    }
    out.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_survives_its_url() {
        let now: DateTime<Utc> = "2030-06-01T12:00:00Z".parse().unwrap();
        let params = Params::parse(
            b"state=dead,quarantined&kind=mail.send&attempts=3&effect=unknown&worker=w-1&q=a%26b&from=2030-05-01T00:00:00Z&empty=",
        );
        let filter = read(&params, now).unwrap();
        assert_eq!(filter.states, ["dead", "quarantined"]);
        assert_eq!(
            read(&Params::parse(write(&filter, None).as_bytes()), now).unwrap(),
            filter
        );
        let hour = read(&Params::parse(b"since=1h"), now).unwrap();
        assert_eq!(hour.from, Some(now - TimeDelta::hours(1)));
        assert_eq!(write(&hour, Some("1h")), "since=1h");
        let typed = read(&Params::parse(b"from=2030-05-01T10:30&to=2030-05-01T10:30:15"), now).unwrap();
        assert_eq!(typed.from, "2030-05-01T10:30:00Z".parse().ok());
        assert_eq!(typed.to, "2030-05-01T10:30:15Z".parse().ok());
        for bad in [
            "state=gone",
            "since=1y",
            "attempts=x",
            "from=today",
            "to=2030-05-01T25:00",
            "queue=none",
            "effect=done",
            "kind=%00",
            "worker=w%00",
            "q=%7Boops",
        ] {
            assert!(read(&Params::parse(bad.as_bytes()), now).is_err(), "{bad}");
        }
    }
}
