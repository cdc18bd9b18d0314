//! What cancelling would pay back, as it looks on the wire.

use async_graphql::SimpleObject;
use chrono::{DateTime, FixedOffset, Utc};
use poem_openapi::Object;
use poem_openapi::types::Example;
use roost_shared::bookings::{self, Booking as Row};
use uuid::Uuid;

use super::objects::{example_id, example_instant};
use crate::rest::prices::LineKind;

/// A line of a price and what of it is paid back.
#[derive(Clone, Debug, Object, SimpleObject)]
pub struct RefundLine {
    /// What it is for
    pub kind: LineKind,
    /// The same for a reader
    pub label: String,
    /// What it comes to, in minor units
    pub amount_minor: i64,
    /// What of it comes back, in minor units
    pub refund_minor: i64,
}

/// What cancelling now would pay back. Cancelling at the same instant pays exactly this.
#[derive(Clone, Debug, Object, SimpleObject)]
#[oai(example)]
pub struct CancellationQuote {
    /// The booking
    pub booking_id: Uuid,
    /// ISO 4217, of all amounts
    pub currency: String,
    /// What the guest was to pay, in minor units
    pub total_minor: i64,
    /// What comes back of it, in minor units: the sum of the lines
    pub refund_minor: i64,
    /// The rule that decides, a stable name
    pub rule: String,
    /// The same for a reader
    pub explanation: String,
    /// The instant this was worked out for
    pub evaluated_at: DateTime<Utc>,
    /// Until when the rule holds, with the property's offset on that date; null if no other rule follows
    pub holds_until: Option<DateTime<FixedOffset>>,
    /// The property's time zone, an IANA name: deadlines are of its clock
    pub time_zone: String,
    /// Each line of the price, and what of it comes back
    pub lines: Vec<RefundLine>,
}

impl CancellationQuote {
    /// The quote for one side at `now`.
    #[must_use]
    pub fn new(row: &Row, by_host: bool, now: DateTime<Utc>) -> Self {
        let decision = bookings::cancellation(row, by_host, now);
        Self {
            booking_id: row.id,
            currency: row.currency.code().to_owned(),
            total_minor: row.total_minor,
            refund_minor: decision.total(&row.price_lines),
            rule: decision.rule.to_owned(),
            explanation: decision.explanation.to_owned(),
            evaluated_at: now,
            holds_until: decision
                .holds_until
                .map(|until| until.with_timezone(&row.zone()).fixed_offset()),
            time_zone: row.time_zone.clone(),
            lines: decision
                .lines(&row.price_lines)
                .into_iter()
                .map(|(line, refund_minor)| RefundLine {
                    kind: line.kind.into(),
                    label: line.label,
                    amount_minor: line.amount_minor,
                    refund_minor,
                })
                .collect(),
        }
    }
}

impl Example for CancellationQuote {
    fn example() -> Self {
        let until = example_instant() + chrono::TimeDelta::days(20);
        Self {
            booking_id: example_id(2),
            currency: "EUR".to_owned(),
            total_minor: 45_360,
            refund_minor: 45_360,
            rule: "moderate_full".to_owned(),
            explanation: "everything back until 5 days before check-in".to_owned(),
            evaluated_at: example_instant(),
            holds_until: Some(until.fixed_offset()),
            time_zone: "Europe/Berlin".to_owned(),
            lines: vec![RefundLine {
                kind: LineKind::Nights,
                label: "3 nights".to_owned(),
                amount_minor: 36_000,
                refund_minor: 36_000,
            }],
        }
    }
}
