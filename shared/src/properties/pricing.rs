//! The price of a stay: pure arithmetic over the property's terms, nothing is read or written.
//!
//! Order: nights, cleaning fee, the guest's service fee on both. The host's fee is no line of the guest: it comes
//! off the payout. Every line is rounded half-up to what a card can be charged, which is the minor unit for most
//! currencies, and the total is the sum of the lines.

use chrono::NaiveDate;
use serde::{Deserialize, Serialize};

use super::PropertyTerms;
use super::stay::Stay;
use crate::money::{Currency, percent_of};

/// What the guest pays on top of nights and cleaning: 12 %.
pub const GUEST_FEE_BASIS_POINTS: i64 = 1_200;
/// What comes off the host's payout, of nights and cleaning: 3 %.
pub const HOST_FEE_BASIS_POINTS: i64 = 300;

/// A price as it is quoted, and frozen into a booking.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Price {
    /// The currency of all amounts.
    pub currency: Currency,
    /// What the total is made of, in the order in which it is worked out.
    pub lines: Vec<PriceLine>,
    /// The sum of the lines in minor units: what the guest pays.
    pub total_minor: i64,
    /// What the host pays of it to the platform, in minor units; not part of the total.
    pub host_fee_minor: i64,
}

/// One line of a price. This JSON is kept with every booking: fields may be added, never renamed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PriceLine {
    /// What it is for.
    pub kind: LineKind,
    /// The same for a reader, in English.
    pub label: String,
    /// How many of them.
    pub quantity: i64,
    /// What one comes to, in minor units.
    pub unit_minor: i64,
    /// What all come to, in minor units.
    pub amount_minor: i64,
}

/// What a price line is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LineKind {
    /// The nights at the nightly rate.
    Nights,
    /// Once a stay.
    CleaningFee,
    /// The platform's fee for the guest.
    GuestServiceFee,
}

impl LineKind {
    /// Its name in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nights => "nights",
            Self::CleaningFee => "cleaning_fee",
            Self::GuestServiceFee => "guest_service_fee",
        }
    }
}

/// Why a stay has no price.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PriceError {
    /// There is no night in it.
    #[error("must be after check_in")]
    NoNights,
    /// More than one charge can be.
    #[error("makes the stay cost more than {0} minor units, the most that can be charged at once")]
    TooHigh(i64),
    /// Less than a charge can be.
    #[error("makes the stay cost less than {0} minor units, the least that can be charged")]
    TooLow(i64),
    /// No card is charged in it.
    #[error("is for a property in {0}, in which cards cannot be charged")]
    NotCharged(Currency),
}

/// Prices a stay. `guests` does not change the price yet: no property charges for extra guests.
///
/// # Errors
/// See [`PriceError`]. Whether the property takes such a stay is not asked here but by [`super::stay::check`].
pub fn price(
    terms: &PropertyTerms,
    check_in: NaiveDate,
    check_out: NaiveDate,
    _guests: i32,
) -> Result<Price, PriceError> {
    let nights = Stay::new(check_in, check_out).nights();
    if nights < 1 {
        return Err(PriceError::NoNights);
    }
    let nightly = terms.nightly_rate_minor;
    let Amounts {
        rent,
        cleaning,
        service_fee,
        host_fee,
        total_minor,
    } = amounts(terms.currency, nightly, terms.cleaning_fee_minor, nights)?;
    let label = if nights == 1 {
        "1 night".to_owned()
    } else {
        format!("{nights} nights")
    };
    let mut lines = vec![PriceLine {
        kind: LineKind::Nights,
        label,
        quantity: nights,
        unit_minor: nightly,
        amount_minor: rent,
    }];
    let mut once = |kind, label: &str, amount_minor| {
        if amount_minor != 0 {
            lines.push(PriceLine {
                kind,
                label: label.to_owned(),
                quantity: 1,
                unit_minor: amount_minor,
                amount_minor,
            });
        }
    };
    once(LineKind::CleaningFee, "Cleaning fee", cleaning);
    once(LineKind::GuestServiceFee, "Guest service fee", service_fee);
    Ok(Price {
        currency: terms.currency,
        lines,
        total_minor,
        host_fee_minor: host_fee,
    })
}

/// What a price is made of, in minor units.
pub(super) struct Amounts {
    rent: i64,
    cleaning: i64,
    service_fee: i64,
    host_fee: i64,
    total_minor: i64,
}

/// Works the amounts out, or refuses because no card can be charged such a total.
pub(super) fn amounts(currency: Currency, nightly: i64, cleaning: i64, nights: i64) -> Result<Amounts, PriceError> {
    let charge = currency.stripe().ok_or(PriceError::NotCharged(currency))?;
    let too_high = PriceError::TooHigh(charge.maximum);
    let rent = nightly.checked_mul(nights).ok_or(too_high)?;
    // Before the fee, so that no percentage is taken of an amount near the end of the range.
    if rent > charge.maximum || cleaning > charge.maximum {
        return Err(too_high);
    }
    let (rent, cleaning) = (charge.round(rent), charge.round(cleaning));
    let subtotal = rent + cleaning;
    let service_fee = charge.round(percent_of(subtotal, GUEST_FEE_BASIS_POINTS));
    let total_minor = subtotal + service_fee;
    if total_minor > charge.maximum {
        return Err(too_high);
    }
    if total_minor < charge.minimum {
        return Err(PriceError::TooLow(charge.minimum));
    }
    Ok(Amounts {
        rent,
        cleaning,
        service_fee,
        host_fee: charge.round(percent_of(subtotal, HOST_FEE_BASIS_POINTS)),
        total_minor,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::properties::terms_for_tests;

    fn day(text: &str) -> NaiveDate {
        text.parse().expect("a date")
    }

    fn priced(currency: Currency, nightly: i64, cleaning: i64, nights: u64) -> Result<Price, PriceError> {
        let mut terms = terms_for_tests();
        (terms.currency, terms.nightly_rate_minor, terms.cleaning_fee_minor) = (currency, nightly, cleaning);
        let check_in = day("2028-02-27");
        price(&terms, check_in, check_in + chrono::Days::new(nights), 2)
    }

    #[test]
    fn the_lines_stand_in_order_and_add_up() {
        let price = priced(Currency::EUR, 12_000, 4_500, 3).expect("a price");
        let lines: Vec<_> = price
            .lines
            .iter()
            .map(|line| {
                (
                    line.kind,
                    line.label.as_str(),
                    line.quantity,
                    line.unit_minor,
                    line.amount_minor,
                )
            })
            .collect();
        assert_eq!(
            lines,
            [
                (LineKind::Nights, "3 nights", 3, 12_000, 36_000),
                (LineKind::CleaningFee, "Cleaning fee", 1, 4_500, 4_500),
                (LineKind::GuestServiceFee, "Guest service fee", 1, 4_860, 4_860),
            ]
        );
        assert_eq!(price.total_minor, 45_360);
        assert_eq!(price.host_fee_minor, 1_215);
    }

    #[test]
    fn fees_round_half_up_to_the_minor_unit_of_the_currency() {
        for (currency, nightly, cleaning, fee, host_fee) in [
            (Currency::JPY, 9_800, 0, 1_176, 294),
            (Currency::JPY, 9_804, 0, 1_176, 294),      // 1,176.48 and 294.12
            (Currency::JPY, 10_050, 3_000, 1_566, 392), // 391.5 goes up
            (Currency::KWD, 25_130, 5_500, 3_680, 920), // 3,675.6 and 918.9, in tens
            (Currency::EUR, 54, 0, 6, 2),               // 6.48 and 1.62
            (Currency::EUR, 33, 17, 6, 2),              // 6.00 and 1.50
            (Currency::EUR, 9_999, 51, 1_206, 302),     // 301.5 goes up
        ] {
            let price = priced(currency, nightly, cleaning, 1).expect("a price");
            assert_eq!(
                price.total_minor,
                nightly + cleaning + fee,
                "{currency} {nightly} + {cleaning}"
            );
            assert_eq!(price.host_fee_minor, host_fee, "{currency} {nightly} + {cleaning}");
            assert_eq!(
                price.lines.iter().map(|line| line.amount_minor).sum::<i64>(),
                price.total_minor
            );
        }
    }

    #[test]
    fn lines_that_come_to_nothing_are_left_out() {
        let price = priced(Currency::EUR, 10_000, 0, 2).expect("a price");
        assert_eq!(
            price.lines.iter().map(|line| line.kind).collect::<Vec<_>>(),
            [LineKind::Nights, LineKind::GuestServiceFee]
        );
    }

    #[test]
    fn nights_are_days_of_the_calendar_leap_day_and_clock_changes_included() {
        let terms = terms_for_tests();
        let nights = |from: &str, to: &str| price(&terms, day(from), day(to), 1).expect("a price").lines[0].quantity;
        assert_eq!(nights("2028-02-28", "2028-03-01"), 2);
        assert_eq!(nights("2027-02-28", "2027-03-01"), 1);
        // Europe changes its clocks in both of these nights.
        assert_eq!(nights("2027-03-27", "2027-03-29"), 2);
        assert_eq!(nights("2027-10-30", "2027-11-01"), 2);
        assert_eq!(nights("2027-12-31", "2028-01-01"), 1);
    }

    #[test]
    fn a_stay_without_nights_has_no_price() {
        let terms = terms_for_tests();
        for (from, to) in [("2027-05-02", "2027-05-02"), ("2027-05-02", "2027-05-01")] {
            assert_eq!(price(&terms, day(from), day(to), 1), Err(PriceError::NoNights));
        }
    }

    #[test]
    fn more_than_one_charge_can_be_is_refused_whatever_the_size() {
        assert_eq!(
            priced(Currency::EUR, 89_285_713, 0, 1).expect("a price").total_minor,
            99_999_999
        );
        for (nightly, cleaning, nights) in [
            (89_285_714, 0, 1),
            (99_999_999, 1, 1),
            (i64::MAX, 0, 1),
            (i64::MAX, 0, 365),
            (i64::MAX / 2, i64::MAX, 2),
        ] {
            assert_eq!(
                priced(Currency::EUR, nightly, cleaning, nights),
                Err(PriceError::TooHigh(99_999_999))
            );
        }
    }

    #[test]
    fn what_no_card_can_be_charged_is_refused() {
        assert_eq!(priced(Currency::EUR, 44, 0, 1), Err(PriceError::TooLow(50)));
        assert_eq!(priced(Currency::EUR, 45, 0, 1).expect("a price").total_minor, 50);
        let rial: Currency = "IRR".parse().expect("a currency");
        assert_eq!(priced(rial, 10_000, 0, 1), Err(PriceError::NotCharged(rial)));
        // Eight digits at Stripe, two of which are zero.
        let krona: Currency = "ISK".parse().expect("a currency");
        assert_eq!(priced(krona, 999_999, 0, 1), Err(PriceError::TooHigh(999_999)));
        // A third decimal other than zero cannot be charged.
        let dinar = priced(Currency::KWD, 25_125, 5_504, 3).expect("a price");
        assert!(dinar.lines.iter().all(|line| line.amount_minor % 10 == 0), "{dinar:?}");
    }

    #[test]
    fn the_json_of_a_price_line_stays_as_it_is() {
        let price = priced(Currency::EUR, 10_000, 0, 1).expect("a price");
        assert_eq!(
            serde_json::to_string(&price).expect("json"),
            r#"{"currency":"EUR","lines":[{"kind":"nights","label":"1 night","quantity":1,"unit_minor":10000,"amount_minor":10000},{"kind":"guest_service_fee","label":"Guest service fee","quantity":1,"unit_minor":1200,"amount_minor":1200}],"total_minor":11200,"host_fee_minor":300}"#
        );
        for kind in [LineKind::Nights, LineKind::CleaningFee, LineKind::GuestServiceFee] {
            assert_eq!(serde_json::to_value(kind).expect("json"), kind.name());
        }
    }
}
