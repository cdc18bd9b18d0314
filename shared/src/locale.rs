//! How a reader writes amounts and dates. The data is the GNU C library's, from `pure-rust-locales`;
//! what it lacks, the order of the words of a long date, stands here.

use std::{convert::Infallible, str::FromStr};

use chrono::{Datelike, NaiveDate, NaiveTime};
use pure_rust_locales::locale_match;

/// A reader's locale, from a tag such as `en`, `en-GB` or `de`. Anything unknown reads as `en`.
///
/// ```
/// use roost_shared::locale::Locale;
/// assert_eq!(Locale::from("de").tag(), "de-DE");
/// assert_eq!(Locale::from("klingon").tag(), "en-US");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Locale(pure_rust_locales::Locale);

/// The part of a locale that money needs.
pub(crate) struct Monetary {
    /// The ISO code of the locale's own currency, the only one `symbol` means.
    pub currency: &'static str,
    pub symbol: &'static str,
    pub decimal_point: &'static str,
    pub thousands_separator: &'static str,
    /// Sizes of the digit groups from the right; the last one repeats.
    pub grouping: &'static [i64],
    pub symbol_first: bool,
    pub spaced: bool,
}

impl Locale {
    /// Reads a BCP 47 tag (or its underscore form). A language alone stands for its largest region;
    /// a region that is not known for the language falls back to the language.
    fn read(tag: &str) -> Option<pure_rust_locales::Locale> {
        let mut parts = tag.split(['-', '_', '.']);
        let language = parts.next()?.to_ascii_lowercase();
        if language.is_empty() || language.len() > 3 || !language.is_ascii() {
            return None;
        }
        parts
            .filter(|part| part.len() == 2)
            .find_map(|region| format!("{language}_{}", region.to_ascii_uppercase()).parse().ok())
            .or_else(|| format!("{language}_{}", main_region(&language)).parse().ok())
    }

    /// The tag it stands for, such as `de-DE`.
    pub fn tag(self) -> String {
        self.0.to_string().replace('_', "-")
    }

    pub(crate) fn monetary(self) -> Monetary {
        let locale = self.0;
        let international: &str = locale_match!(locale => LC_MONETARY::INT_CURR_SYMBOL);
        Monetary {
            currency: international.trim_end(),
            symbol: locale_match!(locale => LC_MONETARY::CURRENCY_SYMBOL),
            decimal_point: match locale_match!(locale => LC_MONETARY::MON_DECIMAL_POINT) {
                "" => ".",
                point => point,
            },
            thousands_separator: locale_match!(locale => LC_MONETARY::MON_THOUSANDS_SEP),
            grouping: locale_match!(locale => LC_MONETARY::MON_GROUPING),
            symbol_first: locale_match!(locale => LC_MONETARY::P_CS_PRECEDES) != 0,
            spaced: locale_match!(locale => LC_MONETARY::P_SEP_BY_SPACE) == 1,
        }
    }

    /// The date in full, with the weekday: `Saturday, June 1, 2030`, `Samstag, 1. Juni 2030`.
    ///
    /// ```
    /// # use chrono::NaiveDate;
    /// use roost_shared::locale::Locale;
    /// let day = NaiveDate::from_ymd_opt(2030, 6, 1).expect("a date");
    /// assert_eq!(Locale::from("en-GB").long_date(day), "Saturday 1 June 2030");
    /// assert_eq!(Locale::from("fr").long_date(day), "samedi 1 juin 2030");
    /// ```
    pub fn long_date(self, date: NaiveDate) -> String {
        let locale = self.0;
        let weekdays: &[&str] = locale_match!(locale => LC_TIME::DAY);
        let months: &[&str] = locale_match!(locale => LC_TIME::MON);
        let weekday = weekdays
            .get(date.weekday().num_days_from_sunday() as usize)
            .unwrap_or(&"");
        let month = months.get(date.month0() as usize).unwrap_or(&"");
        let (day, year) = (date.day(), date.year());
        let tag = self.0.to_string();
        let language = tag.split('_').next().unwrap_or("en");
        let text = match (language, tag.as_str()) {
            (_, "en_US" | "en_PH") => format!("{weekday}, {month} {day}, {year}"),
            ("de", _) => format!("{weekday}, {day}. {month} {year}"),
            ("da" | "nb" | "nn" | "fi" | "cs" | "sk" | "sl" | "hr" | "sr" | "bs" | "is" | "et" | "lv", _) => {
                format!("{weekday} {day}. {month} {year}")
            }
            ("es" | "pt" | "ca" | "gl", _) => format!("{weekday}, {day} de {month} de {year}"),
            ("ru" | "uk" | "be" | "bg", _) => {
                format!("{}, {day} {month} {year}", weekday.to_lowercase())
            }
            ("ja" | "zh" | "yue", _) => {
                format!("{year}年{}月{day}日{weekday}", date.month())
            }
            ("ko", _) => format!("{year}년 {}월 {day}일 {weekday}", date.month()),
            ("hu", _) => format!("{year}. {month} {day}., {weekday}"),
            _ => format!("{weekday} {day} {month} {year}"),
        };
        text.trim().to_owned()
    }

    /// The time of day: `3:00 PM` where people count to twelve, `15:00` elsewhere.
    pub fn time_of_day(self, time: NaiveTime) -> String {
        let tag = self.0.to_string();
        let twelve = matches!(tag.as_str(), "en_US" | "en_CA" | "en_AU" | "en_NZ" | "en_IN" | "en_PH");
        time.format(if twelve { "%-I:%M %p" } else { "%H:%M" }).to_string()
    }
}

impl Default for Locale {
    fn default() -> Self {
        Self(pure_rust_locales::Locale::en_US)
    }
}

impl From<&str> for Locale {
    fn from(tag: &str) -> Self {
        Self::read(tag.trim()).map_or_else(Self::default, Self)
    }
}

impl FromStr for Locale {
    type Err = Infallible;

    fn from_str(tag: &str) -> Result<Self, Self::Err> {
        Ok(Self::from(tag))
    }
}

/// The region a bare language stands for, after CLDR's likely subtags. Most languages share their
/// code with the country they come from.
fn main_region(language: &str) -> String {
    match language {
        "en" => "US",
        "ar" => "EG",
        "bn" => "BD",
        "ca" => "ES",
        "cs" => "CZ",
        "da" => "DK",
        "el" => "GR",
        "et" => "EE",
        "eu" | "gl" => "ES",
        "fa" => "IR",
        "ga" => "IE",
        "he" => "IL",
        "hi" => "IN",
        "ja" => "JP",
        "ko" => "KR",
        "ms" => "MY",
        "nb" | "nn" => "NO",
        "pt" => "BR",
        "sl" => "SI",
        "sq" => "AL",
        "sr" => "RS",
        "sv" => "SE",
        "ta" | "te" | "mr" => "IN",
        "uk" => "UA",
        "ur" => "PK",
        "vi" => "VN",
        "zh" => "CN",
        same => return same.to_ascii_uppercase(),
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn date(text: &str) -> NaiveDate {
        text.parse().expect("a date")
    }

    #[test]
    fn a_tag_finds_its_locale() {
        for (tag, found) in [
            ("en", "en-US"),
            ("EN-gb", "en-GB"),
            ("de_AT", "de-AT"),
            ("zh-Hant-TW", "zh-TW"),
            ("de-ZZ", "de-DE"),
            ("ja", "ja-JP"),
            ("", "en-US"),
            ("../../etc", "en-US"),
            ("日本", "en-US"),
        ] {
            assert_eq!(Locale::from(tag).tag(), found, "{tag}");
        }
    }

    #[test]
    fn long_dates_follow_the_language() {
        let day = date("2030-06-01");
        for (tag, expected) in [
            ("en", "Saturday, June 1, 2030"),
            ("en-GB", "Saturday 1 June 2030"),
            ("de", "Samstag, 1. Juni 2030"),
            ("es", "sábado, 1 de junio de 2030"),
            ("ja", "2030年6月1日土曜日"),
            ("ru", "суббота, 1 июня 2030"),
            ("sv", "lördag 1 juni 2030"),
        ] {
            assert_eq!(Locale::from(tag).long_date(day), expected, "{tag}");
        }
    }

    #[test]
    fn times_of_day_follow_the_clock_of_the_region() {
        let time = NaiveTime::from_hms_opt(15, 0, 0).expect("a time");
        assert_eq!(Locale::from("en").time_of_day(time), "3:00 PM");
        assert_eq!(Locale::from("en-GB").time_of_day(time), "15:00");
        assert_eq!(Locale::from("fr").time_of_day(time), "15:00");
    }
}
