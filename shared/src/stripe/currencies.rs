//! The currencies that Stripe charges cards in, and how it writes their amounts. Its units are not always the minor
//! units of ISO 4217: <https://docs.stripe.com/currencies>. Pure.

use crate::money::Currency;

/// Stripe takes eight digits.
const MOST: i64 = 99_999_999;

/// How Stripe charges a currency. Amounts in minor units of ISO 4217, unless they are called Stripe's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChargeTerms {
    /// Stripe's units of one minor unit: `units.0 / units.1`.
    units: (i64, i64),
    /// Every amount is a multiple of it.
    pub step: i64,
    /// The least that is charged.
    pub minimum: i64,
    /// The most that is charged at once.
    pub maximum: i64,
}

impl ChargeTerms {
    /// What Stripe is told; none if Stripe cannot say the amount.
    #[must_use]
    pub fn to_stripe(self, minor: i64) -> Option<i64> {
        if minor % self.step != 0 {
            return None;
        }
        Some(minor.checked_mul(self.units.0)? / self.units.1)
    }

    /// What Stripe means.
    #[must_use]
    pub fn from_stripe(self, amount: i64) -> i64 {
        amount.saturating_mul(self.units.1) / self.units.0
    }

    /// The next amount that Stripe can say, half-up.
    #[must_use]
    pub fn round(self, minor: i64) -> i64 {
        round_to(minor, self.step)
    }
}

/// `minor` to a multiple of `step`, half-up, away from zero for negative amounts.
#[must_use]
pub fn round_to(minor: i64, step: i64) -> i64 {
    if step <= 1 {
        return minor;
    }
    let rest = minor % step;
    let down = minor - rest;
    if rest.abs() * 2 >= step {
        down.saturating_add(step * rest.signum())
    } else {
        down
    }
}

impl Currency {
    /// How Stripe charges it; none if Stripe does not.
    #[must_use]
    pub fn stripe(self) -> Option<ChargeTerms> {
        let code = self.code();
        CHARGED.binary_search(&code).ok()?;
        let (units, step) = match code {
            // Without decimals in life and in ISO 4217; Stripe writes two, which are zero.
            "ISK" | "UGX" => ((100, 1), 1),
            // Two decimals in ISO 4217, none at Stripe.
            "MGA" => ((1, 100), 100),
            // The last of three decimals is zero.
            "BHD" | "JOD" | "KWD" | "OMR" | "TND" => ((1, 1), 10),
            _ => ((1, 1), 1),
        };
        let minimum = MINIMUM
            .iter()
            .find(|(charged, _)| *charged == code)
            .map_or(step, |(_, least)| *least);
        let terms = ChargeTerms {
            units,
            step,
            minimum,
            maximum: MOST,
        };
        Some(ChargeTerms {
            maximum: terms.from_stripe(MOST).min(MOST / step * step),
            ..terms
        })
    }
}

/// In minor units, where Stripe names one: <https://docs.stripe.com/currencies#minimum-and-maximum-charge-amounts>.
const MINIMUM: [(&str, i64); 23] = [
    ("AED", 200),
    ("AUD", 50),
    ("BRL", 50),
    ("CAD", 50),
    ("CHF", 50),
    ("CZK", 1_500),
    ("DKK", 250),
    ("EUR", 50),
    ("GBP", 30),
    ("HKD", 400),
    ("HUF", 17_500),
    ("INR", 50),
    ("JPY", 50),
    ("MXN", 1_000),
    ("MYR", 200),
    ("NOK", 300),
    ("NZD", 50),
    ("PLN", 200),
    ("RON", 200),
    ("SEK", 300),
    ("SGD", 50),
    ("THB", 1_000),
    ("USD", 50),
];

/// In the order of the alphabet.
#[rustfmt::skip]
const CHARGED: [&str; 135] = [
    "AED", "AFN", "ALL", "AMD", "AOA", "ARS", "AUD", "AWG", "AZN", "BAM", "BBD", "BDT", "BHD", "BIF", "BMD", "BND", "BOB",
    "BRL", "BSD", "BWP", "BYN", "BZD", "CAD", "CDF", "CHF", "CLP", "CNY", "COP", "CRC", "CVE", "CZK", "DJF", "DKK", "DOP",
    "DZD", "EGP", "ETB", "EUR", "FJD", "FKP", "GBP", "GEL", "GIP", "GMD", "GNF", "GTQ", "GYD", "HKD", "HNL", "HTG", "HUF",
    "IDR", "ILS", "INR", "ISK", "JMD", "JOD", "JPY", "KES", "KGS", "KHR", "KMF", "KRW", "KWD", "KYD", "KZT", "LAK", "LBP",
    "LKR", "LRD", "LSL", "MAD", "MDL", "MGA", "MKD", "MMK", "MNT", "MOP", "MUR", "MVR", "MWK", "MXN", "MYR", "MZN", "NAD",
    "NGN", "NIO", "NOK", "NPR", "NZD", "OMR", "PAB", "PEN", "PGK", "PHP", "PKR", "PLN", "PYG", "QAR", "RON", "RSD", "RUB",
    "RWF", "SAR", "SBD", "SCR", "SEK", "SGD", "SHP", "SOS", "SRD", "SZL", "THB", "TJS", "TND", "TOP", "TRY", "TTD", "TWD",
    "TZS", "UAH", "UGX", "USD", "UYU", "UZS", "VND", "VUV", "WST", "XAF", "XCD", "XOF", "XPF", "YER", "ZAR", "ZMW",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(code: &str) -> ChargeTerms {
        code.parse::<Currency>().expect(code).stripe().expect(code)
    }

    #[test]
    fn every_currency_in_the_list_is_one_and_stands_in_order() {
        assert!(CHARGED.is_sorted());
        for code in CHARGED {
            assert!(terms(code).minimum >= terms(code).step, "{code}");
        }
        for (code, _) in MINIMUM {
            terms(code);
        }
        for code in ["IRR", "CUP", "KPW", "LYD"] {
            assert_eq!(code.parse::<Currency>().expect(code).stripe(), None, "{code}");
        }
    }

    #[test]
    fn amounts_are_said_in_stripes_units_and_read_back() {
        for (code, minor, at_stripe) in [
            ("EUR", 1_234, 1_234),
            ("JPY", 1_234, 1_234),
            ("ISK", 1_234, 123_400),
            ("UGX", 5_000, 500_000),
            ("MGA", 123_400, 1_234),
            ("KWD", 12_340, 12_340),
        ] {
            assert_eq!(terms(code).to_stripe(minor), Some(at_stripe), "{code}");
            assert_eq!(terms(code).from_stripe(at_stripe), minor, "{code}");
        }
        for (code, minor) in [("KWD", 12_345), ("MGA", 123_450), ("ISK", i64::MAX)] {
            assert_eq!(terms(code).to_stripe(minor), None, "{code}");
        }
        assert_eq!((terms("ISK").maximum, terms("KWD").maximum), (999_999, 99_999_990));
    }

    #[test]
    fn rounding_is_half_up_to_what_stripe_can_say() {
        for (minor, rounded) in [
            (12_344, 12_340),
            (12_345, 12_350),
            (12_340, 12_340),
            (-12_345, -12_350),
            (4, 0),
        ] {
            assert_eq!(terms("KWD").round(minor), rounded);
        }
        assert_eq!(terms("MGA").round(150), 200);
        assert_eq!(terms("EUR").round(17), 17);
    }
}
