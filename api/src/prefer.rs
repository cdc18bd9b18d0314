//! `Prefer: wait=N` (RFC 7240): the client would rather wait a while than ask again and again.

use std::time::Duration;

use poem::http::{HeaderName, HeaderValue};

/// The longest wait that is granted; a longer one is cut to it.
pub const LONGEST_WAIT: Duration = Duration::from_secs(20);

/// Says how long the reply would have been held, if it was asked to be.
pub const APPLIED_HEADER: HeaderName = HeaderName::from_static("preference-applied");

/// A wait that is granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait(u64);

impl Wait {
    /// The wait that a `Prefer` header asks for. A preference that cannot be understood is no preference, as the RFC
    /// has it; the first of several counts.
    #[must_use]
    pub fn preferred(header: Option<&str>) -> Option<Self> {
        let wait = header?.split(',').find_map(|preference| {
            let (name, value) = preference.split(';').next()?.split_once('=')?;
            name.trim()
                .eq_ignore_ascii_case("wait")
                .then(|| value.trim().trim_matches('"'))
        })?;
        if wait.is_empty() || !wait.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        // Digits that do not fit are a very long wait.
        let seconds = wait.parse().unwrap_or(u64::MAX).min(LONGEST_WAIT.as_secs());
        Some(Self(seconds))
    }

    /// How long.
    #[must_use]
    pub const fn duration(self) -> Duration {
        Duration::from_secs(self.0)
    }

    /// The value of [`APPLIED_HEADER`].
    #[must_use]
    pub fn applied(self) -> HeaderValue {
        HeaderValue::try_from(format!("wait={}", self.0)).unwrap_or(HeaderValue::from_static("wait"))
    }
}

#[cfg(test)]
mod tests {
    use super::Wait;

    #[test]
    fn a_wait_is_found_among_other_preferences_and_cut_to_the_longest() {
        for (header, seconds) in [
            ("wait=10", 10),
            ("WAIT = \"3\"", 3),
            ("respond-async, wait=5; foo=bar", 5),
            ("wait=0", 0),
            ("wait=21", 20),
            ("wait=99999999999999999999999", 20),
            ("wait=1, wait=2", 1),
        ] {
            assert_eq!(Wait::preferred(Some(header)), Some(Wait(seconds)), "{header}");
        }
    }

    #[test]
    fn what_is_not_understood_is_no_preference() {
        for header in [
            "",
            "wait",
            "wait=",
            "wait=-1",
            "wait=ten",
            "wait=1.5",
            "waiting=3",
            "wait=+5",
        ] {
            assert_eq!(Wait::preferred(Some(header)), None, "{header}");
        }
        assert_eq!(Wait::preferred(None), None);
    }
}
