//! Currencies and amounts: which codes exist, what Stripe charges at least, how money is shown.

use iso_currency::Currency;

use super::errors::ApiError;

/// Stripe's least charge in the currencies where it differs from one minor unit.
const MINIMUM: [(&str, i64); 18] = [
    ("aed", 200),
    ("aud", 50),
    ("brl", 50),
    ("cad", 50),
    ("chf", 50),
    ("czk", 1500),
    ("dkk", 250),
    ("eur", 50),
    ("gbp", 30),
    ("hkd", 400),
    ("inr", 50),
    ("jpy", 50),
    ("mxn", 1000),
    ("nok", 300),
    ("nzd", 50),
    ("pln", 200),
    ("sek", 300),
    ("usd", 50),
];

/// Stripe takes eight digits.
const MAXIMUM: i64 = 99_999_999;

/// Stripe's own list of currencies without decimals: the amount is the number of whole units.
const ZERO_DECIMAL: [&str; 15] = [
    "bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf",
];
/// Without decimals as well, but written with two, which must be zero.
const WHOLE_ONLY: [&str; 2] = ["isk", "ugx"];
/// With three decimals, of which the last must be zero.
const THREE_DECIMAL: [&str; 5] = ["bhd", "jod", "kwd", "omr", "tnd"];
/// ISO 4217 knows them, Stripe charges nobody in them.
const NOT_CHARGED: [&str; 12] = [
    "btn", "cup", "ern", "ghs", "iqd", "irr", "kpw", "lyd", "sdg", "ssp", "syp", "ves",
];

/// The currency's code in Stripe's lower case, if Stripe charges in it.
pub(super) fn parse(code: &str) -> Result<String, ApiError> {
    let lower = code.to_ascii_lowercase();
    let known = code.len() == 3 && Currency::from_code(&code.to_ascii_uppercase()).is_some();
    if known && !NOT_CHARGED.contains(&lower.as_str()) {
        Ok(lower)
    } else {
        Err(ApiError::invalid(format!("Invalid currency: {code}.")).param("currency"))
    }
}

/// Checks an amount to charge against Stripe's bounds.
pub(super) fn check_amount(amount: i64, currency: &str) -> Result<(), ApiError> {
    let least = MINIMUM
        .iter()
        .find(|(code, _)| *code == currency)
        .map_or(1, |(_, least)| *least);
    if amount < least {
        let least = format(least, currency);
        return Err(ApiError::invalid(format!("Amount must be at least {least}"))
            .code("amount_too_small")
            .param("amount"));
    }
    if amount > MAXIMUM {
        let most = format(MAXIMUM, currency);
        return Err(ApiError::invalid(format!("Amount must be no more than {most}"))
            .code("amount_too_large")
            .param("amount"));
    }
    // Card networks settle three-decimal currencies in steps of ten.
    if THREE_DECIMAL.contains(&currency) && amount % 10 != 0 {
        return Err(ApiError::invalid(format!(
            "Amounts in {currency} must be rounded to the nearest ten (the last digit is 0)"
        ))
        .param("amount"));
    }
    if WHOLE_ONLY.contains(&currency) && amount % 100 != 0 {
        return Err(ApiError::invalid(format!(
            "Amounts in {currency} must be whole: the last two digits are 0"
        ))
        .param("amount"));
    }
    Ok(())
}

/// How many decimals the amounts have at Stripe.
pub(super) fn exponent(currency: &str) -> u32 {
    if ZERO_DECIMAL.contains(&currency) {
        0
    } else if THREE_DECIMAL.contains(&currency) {
        3
    } else {
        2
    }
}

/// Minor units as people write them: `12.34 usd`, `1200 jpy`.
pub(super) fn format(amount: i64, currency: &str) -> String {
    let exponent = exponent(currency);
    let unit = 10_i64.pow(exponent);
    if exponent == 0 {
        format!("{amount} {currency}")
    } else {
        let (whole, part) = (amount / unit, (amount % unit).abs());
        let width = exponent as usize;
        format!("{whole}.{part:0width$} {currency}")
    }
}
