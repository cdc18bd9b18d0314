//! Money: whole minor units and an ISO 4217 currency with its own exponent (EUR 2, JPY 0, KWD 3).
//!
//! Nothing here multiplies by a hundred and nothing is a float. Rounding is half-up, away from zero
//! for negative amounts, so that a reversed line cancels the line it reverses.

use std::{fmt, str::FromStr};

use iso_currency::Flag;
use serde::{Deserialize, Serialize};
use sqlx::{
    Decode, Encode, Postgres, Type,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueRef},
};

use crate::locale::Locale;

/// An ISO 4217 currency that people pay with: funds, metals and test codes are refused.
///
/// Written as its upper-case code wherever it is text: JSON, SQL, `Display`.
///
/// ```
/// use roost_shared::money::Currency;
/// let yen: Currency = "JPY".parse()?;
/// assert_eq!((yen.code(), yen.exponent()), ("JPY", 0));
/// assert!("XAU".parse::<Currency>().is_err());
/// # Ok::<(), roost_shared::money::UnknownCurrency>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub struct Currency {
    iso: iso_currency::Currency,
    exponent: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not the upper-case ISO 4217 code of a currency in use")]
pub struct UnknownCurrency(String);

impl Currency {
    pub const EUR: Self = Self::known(iso_currency::Currency::EUR, 2);
    pub const GBP: Self = Self::known(iso_currency::Currency::GBP, 2);
    pub const JPY: Self = Self::known(iso_currency::Currency::JPY, 0);
    pub const KWD: Self = Self::known(iso_currency::Currency::KWD, 3);
    pub const USD: Self = Self::known(iso_currency::Currency::USD, 2);

    const fn known(iso: iso_currency::Currency, exponent: u8) -> Self {
        Self { iso, exponent }
    }

    /// The upper-case code, such as `EUR`.
    pub fn code(self) -> &'static str {
        self.iso.code()
    }

    /// How many decimals the currency has: 2 for EUR, 0 for JPY, 3 for KWD.
    pub fn exponent(self) -> u8 {
        self.exponent
    }

    /// The code as Stripe writes it, such as `eur`.
    pub fn lowercase(self) -> String {
        self.code().to_ascii_lowercase()
    }

    /// Reads a code as Stripe writes it, such as `eur`.
    pub fn from_lowercase(code: &str) -> Result<Self, UnknownCurrency> {
        code.to_ascii_uppercase().parse()
    }
}

impl FromStr for Currency {
    type Err = UnknownCurrency;

    fn from_str(code: &str) -> Result<Self, Self::Err> {
        let refusal = || UnknownCurrency(code.chars().take(16).collect());
        let iso = iso_currency::Currency::from_code(code).ok_or_else(refusal)?;
        if iso.has_flag(Flag::Fund) || iso.has_flag(Flag::Special) {
            return Err(refusal());
        }
        let exponent = iso
            .exponent()
            .and_then(|exponent| u8::try_from(exponent).ok())
            .ok_or_else(refusal)?;
        Ok(Self { iso, exponent })
    }
}

impl TryFrom<String> for Currency {
    type Error = UnknownCurrency;

    fn try_from(code: String) -> Result<Self, Self::Error> {
        code.parse()
    }
}

impl From<Currency> for &'static str {
    fn from(currency: Currency) -> Self {
        currency.code()
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl Type<Postgres> for Currency {
    fn type_info() -> PgTypeInfo {
        <str as Type<Postgres>>::type_info()
    }

    fn compatible(ty: &PgTypeInfo) -> bool {
        <str as Type<Postgres>>::compatible(ty)
    }
}

impl PgHasArrayType for Currency {
    fn array_type_info() -> PgTypeInfo {
        <String as PgHasArrayType>::array_type_info()
    }
}

impl Encode<'_, Postgres> for Currency {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        <&str as Encode<Postgres>>::encode(self.code(), buffer)
    }
}

impl<'r> Decode<'r, Postgres> for Currency {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        Ok(<&str as Decode<Postgres>>::decode(value)?.parse()?)
    }
}

/// An amount in the minor unit of its currency: 12.34 EUR is `minor: 1234`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Money {
    pub minor: i64,
    pub currency: Currency,
}

impl Money {
    pub const fn new(minor: i64, currency: Currency) -> Self {
        Self { minor, currency }
    }

    /// The amount as a reader of `locale` writes it: separators, place of the symbol, sign.
    /// The decimals are the currency's own, whatever the locale. Spaces do not break.
    ///
    /// ```
    /// use roost_shared::money::{Currency, Money};
    /// let rent = Money::new(123_456, Currency::EUR);
    /// assert_eq!(rent.format("en"), "€1,234.56");
    /// assert_eq!(rent.format("de"), "1.234,56\u{a0}€");
    /// assert_eq!(Money::new(123_456, Currency::JPY).format("ja"), "￥123,456");
    /// assert_eq!(Money::new(-1_500, Currency::KWD).format("en-GB"), "-KWD\u{a0}1.500");
    /// ```
    pub fn format(self, locale: impl Into<Locale>) -> String {
        let rules = locale.into().monetary();
        let symbol = if rules.currency == self.currency.code() {
            rules.symbol
        } else {
            foreign_symbol(self.currency)
        };
        let number = self.digits(rules.grouping, rules.thousands_separator, rules.decimal_point);
        let sign = if self.minor < 0 { "-" } else { "" };
        if rules.symbol_first {
            // `CHF` and `kr` would run into the digits; `€` and `CA$` do not.
            let touches = symbol.chars().next_back().is_some_and(char::is_alphanumeric);
            let gap = if rules.spaced || touches { "\u{a0}" } else { "" };
            format!("{sign}{symbol}{gap}{number}")
        } else {
            let touches = symbol.chars().next().is_some_and(char::is_alphanumeric);
            let gap = if rules.spaced || touches { "\u{a0}" } else { "" };
            format!("{sign}{number}{gap}{symbol}")
        }
    }

    /// The absolute amount: digits grouped from the right by `grouping` (its last size repeats).
    fn digits(self, grouping: &[i64], separator: &str, point: &str) -> String {
        let unit = 10_u64.pow(u32::from(self.currency.exponent()));
        let absolute = self.minor.unsigned_abs();
        let whole = group((absolute / unit).to_string(), grouping, separator);
        match usize::from(self.currency.exponent()) {
            0 => whole,
            decimals => format!("{whole}{point}{:0decimals$}", absolute % unit),
        }
    }
}

/// For logs and timelines: `EUR 12.34`, the same for every reader.
impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.minor < 0 { "-" } else { "" };
        write!(f, "{} {sign}{}", self.currency, self.digits(&[], "", "."))
    }
}

/// `basis_points` ten-thousandths of `minor`, half-up: 2.5 % of 0.50 is `percent_of(50, 250)`.
///
/// A result beyond `i64` stops at its bound.
///
/// ```
/// use roost_shared::money::percent_of;
/// assert_eq!(percent_of(10_050, 1_000), 1_005);
/// assert_eq!(percent_of(50, 100), 1); // half a cent goes up
/// assert_eq!(percent_of(-50, 100), -1);
/// ```
pub fn percent_of(minor: i64, basis_points: i64) -> i64 {
    round_half_up(i128::from(minor) * i128::from(basis_points), 10_000)
}

/// The share `part / whole` of `minor`, half-up: what 2 of 3 nights come to. Zero when `whole` is zero.
///
/// ```
/// use roost_shared::money::share_of;
/// assert_eq!(share_of(1_000, 2, 3), 667);
/// ```
pub fn share_of(minor: i64, part: i64, whole: i64) -> i64 {
    let sign = i128::from(whole.signum());
    round_half_up(i128::from(minor) * i128::from(part) * sign, i128::from(whole).abs())
}

/// `divisor` is zero or positive.
fn round_half_up(numerator: i128, divisor: i128) -> i64 {
    if divisor == 0 {
        return 0;
    }
    let magnitude = (2 * numerator.abs() + divisor) / (2 * divisor);
    let rounded = magnitude * numerator.signum();
    i64::try_from(rounded).unwrap_or(if rounded < 0 { i64::MIN } else { i64::MAX })
}

fn group(digits: String, grouping: &[i64], separator: &str) -> String {
    let mut sizes = grouping.iter().filter_map(|size| usize::try_from(*size).ok());
    let mut size = sizes.next().unwrap_or(0);
    let mut groups = Vec::new();
    let mut rest = digits.as_str();
    while size > 0 && rest.len() > size {
        let (head, tail) = rest.split_at(rest.len() - size);
        groups.push(tail);
        rest = head;
        size = sizes.next().unwrap_or(size);
    }
    if groups.is_empty() {
        return digits;
    }
    groups.push(rest);
    groups.reverse();
    groups.join(separator)
}

/// What a currency is called away from home, where a bare `$` or `kr` says too little. The symbols
/// are those CLDR 48 gives for English; every other currency shows its code.
fn foreign_symbol(currency: Currency) -> &'static str {
    match currency.code() {
        "USD" => "$",
        "EUR" => "€",
        "GBP" => "£",
        "JPY" => "¥",
        "AUD" => "A$",
        "BRL" => "R$",
        "CAD" => "CA$",
        "CNY" => "CN¥",
        "HKD" => "HK$",
        "ILS" => "₪",
        "INR" => "₹",
        "KRW" => "₩",
        "MXN" => "MX$",
        "NZD" => "NZ$",
        "PHP" => "₱",
        "TWD" => "NT$",
        "VND" => "₫",
        code => code,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn money(minor: i64, code: &str) -> Money {
        Money::new(minor, code.parse().expect("a currency"))
    }

    #[test]
    fn codes_are_validated() {
        for code in ["EUR", "JPY", "KWD", "CLP"] {
            assert_eq!(code.parse::<Currency>().expect(code).to_string(), code);
        }
        for code in ["", "eur", "EU", "EURO", "XAU", "XTS", "CLF", "ZZZ", "€"] {
            assert!(code.parse::<Currency>().is_err(), "{code}");
        }
    }

    #[test]
    fn named_currencies_are_what_their_code_says() {
        for currency in [
            Currency::EUR,
            Currency::GBP,
            Currency::JPY,
            Currency::KWD,
            Currency::USD,
        ] {
            assert_eq!(currency.code().parse::<Currency>(), Ok(currency));
        }
    }

    #[test]
    fn a_currency_is_its_code_in_json() {
        let json = serde_json::to_string(&money(1_234, "EUR")).expect("json");
        assert_eq!(json, r#"{"minor":1234,"currency":"EUR"}"#);
        assert_eq!(
            serde_json::from_str::<Money>(&json).expect("money"),
            money(1_234, "EUR")
        );
        assert!(serde_json::from_str::<Currency>(r#""XAU""#).is_err());
    }

    #[test]
    fn stripe_writes_it_in_lower_case() {
        assert_eq!(Currency::EUR.lowercase(), "eur");
        assert_eq!(Currency::from_lowercase("kwd"), Ok(Currency::KWD));
    }

    #[test]
    fn halves_round_away_from_zero() {
        for (minor, basis_points, expected) in [
            (0, 1_400, 0),
            (1, 5_000, 1),
            (1, 4_999, 0),
            (3, 5_000, 2),
            (-1, 5_000, -1),
            (-1, 4_999, 0),
            (9_999, 1_425, 1_425),
            (10_000, -250, -250),
            (i64::MAX, 10_000, i64::MAX),
            (i64::MAX, 20_000, i64::MAX),
            (i64::MIN, 20_000, i64::MIN),
        ] {
            assert_eq!(percent_of(minor, basis_points), expected, "{minor} × {basis_points}");
        }
    }

    #[test]
    fn shares_round_half_up() {
        for (minor, part, whole, expected) in [
            (1_000, 1, 3, 333),
            (1_000, 2, 3, 667),
            (5, 1, 2, 3),
            (-5, 1, 2, -3),
            (5, 1, -2, -3),
            (7, 3, 3, 7),
            (7, 1, 0, 0),
        ] {
            assert_eq!(share_of(minor, part, whole), expected, "{minor} × {part}/{whole}");
        }
    }

    #[test]
    fn amounts_are_written_the_readers_way() {
        for (amount, locale, expected) in [
            (money(123_456, "USD"), "en", "$1,234.56"),
            (money(123_456, "USD"), "en-GB", "$1,234.56"),
            (money(123_456, "GBP"), "en-GB", "£1,234.56"),
            (money(123_456, "EUR"), "de", "1.234,56\u{a0}€"),
            (money(123_456, "EUR"), "fr", "1\u{202f}234,56\u{a0}€"),
            (money(123_456, "EUR"), "en-IN", "€1,234.56"),
            (money(12_345_678, "INR"), "hi", "₹1,23,456.78"),
            (money(123_456, "JPY"), "de", "123.456\u{a0}¥"),
            (money(123_456, "JPY"), "ja", "￥123,456"),
            (money(1_234_567, "KWD"), "en", "KWD\u{a0}1,234.567"),
            (money(123_456, "CHF"), "de-CH", "CHF\u{a0}1’234.56"),
            (money(123_456, "CAD"), "en", "CA$1,234.56"),
            (money(123_456, "CAD"), "en-CA", "$1,234.56"),
            (money(123_456, "SEK"), "sv", "1\u{202f}234,56\u{a0}kr"),
            (money(123_456, "NOK"), "nb", "kr\u{a0}1\u{202f}234,56"),
            (money(5, "EUR"), "en", "€0.05"),
            (money(-5, "EUR"), "de", "-0,05\u{a0}€"),
            (money(-123_456, "USD"), "en", "-$1,234.56"),
            (money(0, "JPY"), "en", "¥0"),
            (money(i64::MIN, "JPY"), "en", "-¥9,223,372,036,854,775,808"),
        ] {
            assert_eq!(amount.format(locale), expected, "{amount} for {locale}");
        }
    }

    #[test]
    fn every_locale_can_write_an_amount() {
        let digits = |text: &str| text.chars().filter(char::is_ascii_digit).collect::<String>();
        for tag in [
            "ar", "he", "th", "hu", "pl", "tr", "uk", "vi", "id", "POSIX", "C", "ko", "pt",
        ] {
            let text = money(1_234_567, "EUR").format(tag);
            assert_eq!(digits(&text), "1234567", "{tag}: {text}");
        }
    }

    #[test]
    fn logs_show_code_and_plain_number() {
        assert_eq!(money(-123_456, "EUR").to_string(), "EUR -1234.56");
        assert_eq!(money(1_234, "JPY").to_string(), "JPY 1234");
    }
}
