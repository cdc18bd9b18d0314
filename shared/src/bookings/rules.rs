//! What may become of a booking, and what a cancellation pays back. Pure.
//!
//! The cancellation rules are the usual ones of the trade: flexible, moderate, limited and firm.

use chrono::{DateTime, Days, NaiveDate, NaiveTime, TimeDelta, Utc};
use chrono_tz::Tz;

use serde::{Deserialize, Serialize};

use crate::money::Currency;
use crate::properties::CancellationPolicy;
use crate::properties::pricing::PriceLine;
use crate::properties::stay::{Stay, check_in_at, instant, property_today};

/// Where a booking stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum BookingState {
    /// The nights are taken for 15 minutes, until the card is authorised.
    Held,
    /// The card is authorised; the host has to approve.
    PendingApproval,
    /// Both sides are bound.
    Confirmed,
    /// The guest has arrived.
    CheckedIn,
    /// The guest has left.
    CheckedOut,
    /// Everything is settled.
    Completed,
    /// The hold or the host's time ran out.
    Expired,
    /// The host said no.
    Declined,
    /// The guest cancelled.
    CancelledByGuest,
    /// The host cancelled; the nights stay blocked.
    CancelledByHost,
    /// The guest never came: the price is owed, and the nights that were left are free again.
    NoShow,
    /// No card was authorised while the hold lasted.
    PaymentFailed,
}

impl BookingState {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Held,
        Self::PendingApproval,
        Self::Confirmed,
        Self::CheckedIn,
        Self::CheckedOut,
        Self::Completed,
        Self::Expired,
        Self::Declined,
        Self::CancelledByGuest,
        Self::CancelledByHost,
        Self::NoShow,
        Self::PaymentFailed,
    ];

    /// Its name in JSON and SQL.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::PendingApproval => "pending_approval",
            Self::Confirmed => "confirmed",
            Self::CheckedIn => "checked_in",
            Self::CheckedOut => "checked_out",
            Self::Completed => "completed",
            Self::Expired => "expired",
            Self::Declined => "declined",
            Self::CancelledByGuest => "cancelled_by_guest",
            Self::CancelledByHost => "cancelled_by_host",
            Self::NoShow => "no_show",
            Self::PaymentFailed => "payment_failed",
        }
    }

    /// Whether the nights are nobody else's. The exclusion constraint `bookings_no_overlap` lists the same states.
    #[must_use]
    pub const fn holds_nights(self) -> bool {
        matches!(
            self,
            Self::Held
                | Self::PendingApproval
                | Self::Confirmed
                | Self::CheckedIn
                | Self::CheckedOut
                | Self::Completed
                | Self::CancelledByHost
        )
    }

    /// Whether both sides are bound, so that the guest owes the price.
    #[must_use]
    pub const fn is_bound(self) -> bool {
        matches!(
            self,
            Self::Confirmed | Self::CheckedIn | Self::CheckedOut | Self::Completed | Self::NoShow
        )
    }

    /// Whether the guest or the host may still cancel.
    #[must_use]
    pub const fn can_be_cancelled(self) -> bool {
        matches!(
            self,
            Self::Held | Self::PendingApproval | Self::Confirmed | Self::CheckedIn
        )
    }

    /// Whether nothing is expected to happen to it any more. Money may still be on its way back, and a payment that
    /// comes late can revive what expired.
    #[must_use]
    pub const fn is_final(self) -> bool {
        match self {
            Self::Held | Self::PendingApproval | Self::Confirmed | Self::CheckedIn | Self::CheckedOut => false,
            Self::Completed
            | Self::Expired
            | Self::Declined
            | Self::CancelledByGuest
            | Self::CancelledByHost
            | Self::NoShow
            | Self::PaymentFailed => true,
        }
    }

    /// Whether a card may be tried.
    #[must_use]
    pub const fn takes_payment(self) -> bool {
        matches!(self, Self::Held)
    }
}

/// What a cancellation is judged by.
#[derive(Clone, Copy, Debug)]
pub struct CancellationTerms {
    /// As frozen into the booking.
    pub policy: CancellationPolicy,
    /// The dates.
    pub stay: Stay,
    /// The property's zone.
    pub time_zone: Tz,
    /// From when the guest may arrive.
    pub check_in_from: NaiveTime,
    /// When both sides were bound.
    pub confirmed_at: Option<DateTime<Utc>>,
}

/// What is paid back and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefundDecision {
    /// Stable name of the rule that decided.
    pub rule: &'static str,
    /// The same for a reader.
    pub explanation: &'static str,
    /// The instant up to which this rule holds, if it ends.
    pub holds_until: Option<DateTime<Utc>>,
    /// Nights in halves that are paid back, of `2 * nights`: an exact share.
    half_nights_back: i64,
    half_nights: i64,
    /// What every amount is a multiple of.
    step: i64,
}

impl RefundDecision {
    /// The same decision in amounts that a card of this currency can be paid back.
    #[must_use]
    pub fn in_currency(self, currency: Currency) -> Self {
        let step = currency.stripe().map_or(1, |charge| charge.step);
        Self { step, ..self }
    }

    /// What each line pays back: its share of the nights, rounded half-up to what can be paid back.
    #[must_use]
    pub fn lines(&self, lines: &[PriceLine]) -> Vec<(PriceLine, i64)> {
        lines
            .iter()
            .map(|line| (line.clone(), self.share_of(line.amount_minor)))
            .collect()
    }

    /// The sum of [`Self::lines`].
    #[must_use]
    pub fn total(&self, lines: &[PriceLine]) -> i64 {
        lines.iter().map(|line| self.share_of(line.amount_minor)).sum()
    }

    fn share_of(&self, amount_minor: i64) -> i64 {
        let (amount, back, all) = (
            i128::from(amount_minor),
            i128::from(self.half_nights_back),
            i128::from(self.half_nights),
        );
        let step = i128::from(self.step);
        // A line that is no multiple of the step itself is paid back as far as it goes.
        let share = (2 * amount * back + all * step) / (2 * all * step) * step;
        i64::try_from(share.min(amount)).unwrap_or(0)
    }
}

/// Everything back: what a cancellation by the host pays, and one of a booking that was never confirmed.
#[must_use]
pub fn full_refund(stay: Stay, rule: &'static str, explanation: &'static str) -> RefundDecision {
    let half_nights = 2 * stay.nights().max(1);
    RefundDecision {
        rule,
        explanation,
        holds_until: None,
        half_nights_back: half_nights,
        half_nights,
        step: 1,
    }
}

/// What the guest gets back when cancelling at `now`.
#[must_use]
pub fn guest_cancellation(terms: &CancellationTerms, now: DateTime<Utc>) -> RefundDecision {
    let check_in = check_in_at(terms.stay, terms.check_in_from, terms.time_zone);
    let nights = terms.stay.nights().max(1);
    let decide = |rule, explanation, holds_until, half_nights_back: i64| RefundDecision {
        rule,
        explanation,
        holds_until,
        half_nights_back: half_nights_back.clamp(0, 2 * nights),
        half_nights: 2 * nights,
        step: 1,
    };
    if let Some(confirmed_at) = terms.confirmed_at
        && confirmed_at <= days_before(terms, 7)
        && now < confirmed_at + TimeDelta::hours(24)
    {
        let until = confirmed_at + TimeDelta::hours(24);
        return decide(
            "grace_period",
            "everything back within 24 hours of confirmation",
            Some(until),
            2 * nights,
        );
    }
    // The night that is being slept in when the guest leaves early is used as well.
    let used = if now < check_in {
        1
    } else {
        let today = property_today(now, terms.time_zone);
        today.signed_duration_since(terms.stay.check_in).num_days().max(0) + 1
    };
    match terms.policy {
        CancellationPolicy::Flexible => {
            let deadline = check_in - TimeDelta::hours(24);
            if now < deadline {
                decide(
                    "flexible_full",
                    "everything back until 24 hours before check-in",
                    Some(deadline),
                    2 * nights,
                )
            } else if now < check_in {
                let until = Some(check_in);
                decide(
                    "flexible_first_night",
                    "less than 24 hours before check-in the first night is kept",
                    until,
                    2 * (nights - 1),
                )
            } else {
                decide(
                    "flexible_after_check_in",
                    "after check-in the nights stayed and one more are kept",
                    None,
                    2 * (nights - used),
                )
            }
        }
        CancellationPolicy::Moderate => {
            let deadline = days_before(terms, 5);
            if now < deadline {
                decide(
                    "moderate_full",
                    "everything back until 5 days before check-in",
                    Some(deadline),
                    2 * nights,
                )
            } else {
                let explanation = "less than 5 days before check-in the first night and half of the rest are kept";
                let until = (now < check_in).then_some(check_in);
                decide("moderate_half", explanation, until, nights - used)
            }
        }
        CancellationPolicy::Limited => tiered(terms, now, 14, decide, ["limited_full", "limited_half", "limited_none"]),
        CancellationPolicy::Firm => tiered(terms, now, 30, decide, ["firm_full", "firm_half", "firm_none"]),
    }
}

fn tiered(
    terms: &CancellationTerms,
    now: DateTime<Utc>,
    full_days: u64,
    decide: impl Fn(&'static str, &'static str, Option<DateTime<Utc>>, i64) -> RefundDecision,
    [full, half, none]: [&'static str; 3],
) -> RefundDecision {
    let nights = terms.stay.nights().max(1);
    let (all_until, half_until) = (days_before(terms, full_days), days_before(terms, 7));
    if now < all_until {
        decide(
            full,
            "everything back until the first deadline of the policy",
            Some(all_until),
            2 * nights,
        )
    } else if now < half_until {
        decide(half, "half back until 7 days before check-in", Some(half_until), nights)
    } else {
        decide(none, "nothing back less than 7 days before check-in", None, 0)
    }
}

/// The time of check-in, that many days earlier on the property's own calendar.
fn days_before(terms: &CancellationTerms, days: u64) -> DateTime<Utc> {
    let date = terms
        .stay
        .check_in
        .checked_sub_days(Days::new(days))
        .unwrap_or(NaiveDate::MIN);
    instant(date, terms.check_in_from, terms.time_zone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::properties::pricing::LineKind;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().expect("an instant")
    }

    fn terms(policy: CancellationPolicy) -> CancellationTerms {
        CancellationTerms {
            policy,
            stay: Stay::new(
                "2027-06-10".parse().expect("a date"),
                "2027-06-14".parse().expect("a date"),
            ),
            time_zone: Tz::Europe__Lisbon,
            check_in_from: NaiveTime::from_hms_opt(15, 0, 0).expect("a time"),
            confirmed_at: Some(at("2027-01-01T12:00:00Z")),
        }
    }

    /// What comes back of 4 nights of 100.00 and a fee of 10.00.
    fn back(terms: &CancellationTerms, now: &str) -> (i64, &'static str) {
        let line = |kind, amount_minor| PriceLine {
            kind,
            label: String::new(),
            quantity: 1,
            unit_minor: amount_minor,
            amount_minor,
        };
        let decision = guest_cancellation(terms, at(now));
        (
            decision.total(&[line(LineKind::Nights, 40_000), line(LineKind::CleaningFee, 1_000)]),
            decision.rule,
        )
    }

    #[test]
    fn flexible_ends_24_hours_before_check_in_at_the_property() {
        let terms = terms(CancellationPolicy::Flexible); // check-in 15:00 Lisbon summer time = 14:00 UTC
        assert_eq!(back(&terms, "2027-06-09T13:59:59Z"), (41_000, "flexible_full"));
        assert_eq!(back(&terms, "2027-06-09T14:00:00Z"), (30_750, "flexible_first_night"));
        assert_eq!(
            back(&terms, "2027-06-10T18:00:00Z"),
            (30_750, "flexible_after_check_in")
        );
        assert_eq!(
            back(&terms, "2027-06-12T18:00:00Z"),
            (10_250, "flexible_after_check_in")
        );
        assert_eq!(back(&terms, "2027-06-20T18:00:00Z"), (0, "flexible_after_check_in"));
    }

    #[test]
    fn moderate_keeps_the_first_night_and_half_of_the_rest() {
        let terms = terms(CancellationPolicy::Moderate);
        assert_eq!(back(&terms, "2027-06-05T13:59:59Z").0, 41_000);
        assert_eq!(back(&terms, "2027-06-05T14:00:00Z"), (15_375, "moderate_half"));
    }

    #[test]
    fn what_comes_back_can_be_paid_back_in_the_currency() {
        let mut three_nights = terms(CancellationPolicy::Flexible);
        three_nights.stay.check_out = "2027-06-13".parse().expect("a date");
        let decision = guest_cancellation(&three_nights, at("2027-06-10T10:00:00Z"));
        let line = PriceLine {
            kind: LineKind::Nights,
            label: String::new(),
            quantity: 3,
            unit_minor: 10_000,
            amount_minor: 10_000,
        };
        // Two of three nights.
        assert_eq!(
            decision
                .clone()
                .in_currency(Currency::EUR)
                .total(std::slice::from_ref(&line)),
            6_667
        );
        assert_eq!(
            decision.in_currency(Currency::KWD).total(std::slice::from_ref(&line)),
            6_670
        );
    }

    #[test]
    fn limited_and_firm_go_in_steps() {
        for (policy, last_full, first_half) in [
            (
                CancellationPolicy::Limited,
                "2027-05-27T13:59:59Z",
                "2027-05-27T14:00:00Z",
            ),
            (CancellationPolicy::Firm, "2027-05-11T13:59:59Z", "2027-05-11T14:00:00Z"),
        ] {
            let terms = terms(policy);
            assert_eq!(back(&terms, last_full).0, 41_000);
            assert_eq!(back(&terms, first_half).0, 20_500);
            assert_eq!(back(&terms, "2027-06-03T14:00:00Z").0, 0);
        }
    }

    #[test]
    fn a_fresh_confirmation_can_be_taken_back_if_it_came_a_week_ahead() {
        let mut terms = terms(CancellationPolicy::Firm);
        terms.confirmed_at = Some(at("2027-06-03T13:00:00Z"));
        assert_eq!(back(&terms, "2027-06-04T12:59:59Z"), (41_000, "grace_period"));
        assert_eq!(back(&terms, "2027-06-04T13:00:00Z"), (0, "firm_none"));
        terms.confirmed_at = Some(at("2027-06-03T15:00:00Z"));
        assert_eq!(back(&terms, "2027-06-03T15:00:01Z"), (0, "firm_none"));
    }

    #[test]
    fn a_share_is_rounded_half_up_line_by_line() {
        let decision = guest_cancellation(&terms(CancellationPolicy::Limited), at("2027-06-01T00:00:00Z"));
        assert_eq!(decision.share_of(1), 1);
        assert_eq!(decision.share_of(99_999_999), 50_000_000);
    }
}
