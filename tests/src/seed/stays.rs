//! What became of the properties: stays, cancellations and refusals, with their payments, refunds, ledger and timeline,
//! written as the platform writes them.

use anyhow::{Context, Result};
use chrono::{DateTime, Days, NaiveDate, NaiveTime, TimeDelta, Utc};
use roost_shared::{
    bookings::{
        BookingState,
        rules::{CancellationTerms, full_refund, guest_cancellation},
    },
    money::share_of,
    properties::{
        PropertyTerms,
        pricing::{LineKind, Price, PriceLine, price},
        stay::{Stay, check_in_at, check_out_at, property_today},
    },
};
use serde::Serialize;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    dice::Dice,
    insert,
    listings::{Listing, phrases},
};

/// How far back the history goes, in days.
const PAST: u64 = 220;
/// How far ahead stays are booked already.
const AHEAD: u64 = 60;

/// How a request went on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Confirmed; how far the stay has come is a matter of the date.
    Taken,
    CancelledByGuest,
    CancelledByHost,
    /// Only where the host is asked.
    Declined,
    /// No card was good enough.
    Unpaid,
}

#[derive(Serialize)]
struct BookingRow {
    id: Uuid,
    property_id: Uuid,
    guest_id: Uuid,
    host_id: Uuid,
    state: &'static str,
    stay: String,
    guests: i64,
    instant_book: bool,
    cancellation_policy: &'static str,
    time_zone: &'static str,
    check_in_from: NaiveTime,
    check_out_by: NaiveTime,
    currency: &'static str,
    price_lines: Vec<PriceLine>,
    total_minor: i64,
    host_fee_minor: i64,
    message: Option<String>,
    hold_expires_at: DateTime<Utc>,
    confirmed_at: Option<DateTime<Utc>>,
    cancelled_at: Option<DateTime<Utc>>,
    version: i32,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

#[derive(Serialize)]
struct EventRow {
    booking_id: Uuid,
    at: DateTime<Utc>,
    event: &'static str,
    actor: &'static str,
    actor_id: Option<Uuid>,
    from_state: Option<&'static str>,
    to_state: Option<&'static str>,
    accepted: bool,
    reason: Option<String>,
}

#[derive(Serialize)]
struct PaymentRow {
    id: Uuid,
    booking_id: Uuid,
    guest_id: Uuid,
    host_id: Uuid,
    number: i32,
    state: &'static str,
    currency: &'static str,
    amount_minor: i64,
    authorized_minor: i64,
    captured_minor: i64,
    refunded_minor: i64,
    payment_method: &'static str,
    stripe_payment_intent_id: String,
    failure_code: Option<&'static str>,
    decline_code: Option<&'static str>,
    failure_message: Option<&'static str>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

#[derive(Serialize)]
struct RefundRow {
    id: Uuid,
    payment_id: Uuid,
    amount_minor: i64,
    reason: &'static str,
    state: &'static str,
    stripe_refund_id: String,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

#[derive(Serialize)]
struct LedgerTransactionRow {
    id: Uuid,
    key: String,
    booking_id: Uuid,
    created_at: DateTime<Utc>,
}

#[derive(Serialize)]
struct LedgerEntryRow {
    transaction_id: Uuid,
    account: &'static str,
    currency: &'static str,
    amount_minor: i64,
}

/// A stay that has ended.
pub struct Departure {
    pub booking_id: Uuid,
    pub property_id: Uuid,
    pub guest_id: Uuid,
    pub at: DateTime<Utc>,
}

/// Everything that was booked so far.
pub struct History {
    now: DateTime<Utc>,
    /// Each guest and when they are away: nobody is in two places at once.
    travels: Vec<(Uuid, Vec<Stay>)>,
    pub departures: Vec<Departure>,
    bookings: Vec<BookingRow>,
    events: Vec<EventRow>,
    payments: Vec<PaymentRow>,
    refunds: Vec<RefundRow>,
    transactions: Vec<LedgerTransactionRow>,
    entries: Vec<LedgerEntryRow>,
}

impl History {
    pub fn new(guests: &[Uuid], now: DateTime<Utc>) -> Self {
        Self {
            now,
            travels: guests.iter().map(|guest| (*guest, Vec::new())).collect(),
            departures: Vec::new(),
            bookings: Vec::new(),
            events: Vec::new(),
            payments: Vec::new(),
            refunds: Vec::new(),
            transactions: Vec::new(),
            entries: Vec::new(),
        }
    }

    pub async fn write(&mut self, connection: &mut PgConnection) -> Result<()> {
        // A timeline is in the order in which things happened.
        self.events.sort_by_key(|event| event.at);
        insert(connection, "bookings", &self.bookings).await?;
        insert(connection, "booking_events", &self.events).await?;
        insert(connection, "payments", &self.payments).await?;
        insert(connection, "refunds", &self.refunds).await?;
        insert(connection, "ledger_transactions", &self.transactions).await?;
        insert(connection, "ledger_entries", &self.entries).await
    }

    /// Notes that what was written about a stay was published.
    pub fn reviewed(&mut self, booking_id: Uuid, at: DateTime<Utc>) {
        self.events.push(EventRow {
            booking_id,
            at,
            event: "reviews_published",
            actor: "system",
            actor_id: None,
            from_state: None,
            to_state: None,
            accepted: true,
            reason: None,
        });
    }

    /// Lets guests come and go, from the past into the near future.
    pub fn live_through(&mut self, listing: &Listing, dice: &mut Dice) -> Result<()> {
        let terms = &listing.terms;
        let today = property_today(self.now, terms.time_zone);
        let mut free_from = today - Days::new(PAST);
        loop {
            let check_in = later(free_from, dice.among(5, 75));
            let nights = i64::from(terms.min_nights) + dice.among(0, 4);
            let stay = Stay::new(check_in, later(check_in, nights));
            if check_in > today + Days::new(AHEAD) {
                return Ok(());
            }
            // Most of what is ahead is still to be had.
            if check_in > today && dice.percent(70) {
                free_from = check_in;
                continue;
            }
            let outcome = self.outcome(terms, stay, dice);
            let holds = matches!(outcome, Outcome::Taken | Outcome::CancelledByHost);
            let travels = outcome == Outcome::Taken;
            if let Some(guest_id) = self.traveller(stay, travels, dice) {
                self.book(terms, stay, guest_id, outcome, dice)?;
                if holds {
                    free_from = stay.check_out;
                    continue;
                }
            }
            free_from = stay.check_in;
        }
    }

    fn outcome(&self, terms: &PropertyTerms, stay: Stay, dice: &mut Dice) -> Outcome {
        if check_in_at(stay, terms.check_in_from, terms.time_zone) > self.now {
            return Outcome::Taken;
        }
        match dice.among(1, 100) {
            1..=9 => Outcome::CancelledByGuest,
            10..=12 => Outcome::CancelledByHost,
            13..=18 if !terms.instant_book => Outcome::Declined,
            13..=15 => Outcome::Unpaid,
            _ => Outcome::Taken,
        }
    }

    /// Somebody who is at home in these nights.
    fn traveller(&mut self, stay: Stay, travels: bool, dice: &mut Dice) -> Option<Uuid> {
        let last = i64::try_from(self.travels.len()).ok()? - 1;
        for _ in 0..20 {
            let (guest_id, away) = self.travels.get_mut(usize::try_from(dice.among(0, last)).ok()?)?;
            let clashes = |other: &Stay| other.check_in < stay.check_out && stay.check_in < other.check_out;
            if !away.iter().any(clashes) {
                if travels {
                    away.push(stay);
                }
                return Some(*guest_id);
            }
        }
        None
    }

    fn book(
        &mut self,
        terms: &PropertyTerms,
        stay: Stay,
        guest_id: Uuid,
        outcome: Outcome,
        dice: &mut Dice,
    ) -> Result<()> {
        let guests = dice.among(1, i64::from(terms.max_guests));
        let price = price(terms, stay.check_in, stay.check_out, i32::try_from(guests)?)?;
        let arrival = check_in_at(stay, terms.check_in_from, terms.time_zone);
        let lead = TimeDelta::minutes(dice.among(3 * 24 * 60, 45 * 24 * 60));
        let lately = TimeDelta::minutes(dice.among(2 * 24 * 60, 20 * 24 * 60));
        let requested_at = (arrival - lead).min(self.now - lately);
        let mut story = Story {
            booking_id: dice.id(requested_at),
            guest_id,
            host_id: terms.host_id,
            state: BookingState::Held,
            at: requested_at,
            version: 1,
            events: Vec::new(),
        };
        story.tell("requested", "guest", None, Some("held"), None);
        let mut payment = PaymentRow {
            id: dice.id(requested_at),
            booking_id: story.booking_id,
            guest_id,
            host_id: terms.host_id,
            number: 1,
            state: "captured",
            currency: price.currency.code(),
            amount_minor: price.total_minor,
            authorized_minor: price.total_minor,
            captured_minor: 0,
            refunded_minor: 0,
            payment_method: dice.pick(&["pm_card_visa", "pm_card_mastercard"]).context("no cards")?,
            stripe_payment_intent_id: dice.stripe_id("pi"),
            failure_code: None,
            decline_code: None,
            failure_message: None,
            created_at: requested_at,
            updated_at: requested_at,
        };
        let (mut confirmed_at, mut cancelled_at) = (None, None);
        if outcome == Outcome::Unpaid {
            fail(&mut story, &mut payment);
        } else {
            story.wait(TimeDelta::milliseconds(dice.among(300, 900)));
            story.tell("payment_authorized", "system", None, None, None);
            if !terms.instant_book {
                story.go("authorized", "system", BookingState::PendingApproval, None);
                story.wait(TimeDelta::minutes(dice.among(4, 20 * 60)));
            }
            if outcome == Outcome::Declined {
                story.go(
                    "declined",
                    "host",
                    BookingState::Declined,
                    Some("We need these days ourselves."),
                );
                story.wait(TimeDelta::milliseconds(dice.among(300, 900)));
                story.tell("payment_voided", "system", None, None, None);
                payment.state = "voided";
            } else {
                let decider = if terms.instant_book { "system" } else { "host" };
                story.go("confirmed", decider, BookingState::Confirmed, None);
                confirmed_at = Some(story.at);
                story.wait(TimeDelta::milliseconds(dice.among(300, 900)));
                story.tell("payment_captured", "system", None, None, None);
                self.capture(&mut payment, &price, story.at, dice);
            }
        }
        payment.updated_at = story.at;
        match outcome {
            Outcome::Taken => self.stay(&mut story, terms, stay, dice),
            Outcome::CancelledByGuest | Outcome::CancelledByHost => {
                // Some time between the confirmation and the arrival.
                let left = (arrival - story.at).num_minutes().max(2);
                story.wait(TimeDelta::minutes(dice.among(1, left - 1)));
                cancelled_at = Some(story.at);
                let terms = CancellationTerms {
                    policy: terms.cancellation_policy,
                    stay,
                    time_zone: terms.time_zone,
                    check_in_from: terms.check_in_from,
                    confirmed_at,
                };
                self.cancel(&mut story, &mut payment, &terms, &price, outcome, dice)?;
            }
            Outcome::Declined | Outcome::Unpaid => {}
        }
        let message = dice.pick(&phrases()?.messages).filter(|_| guests > 1);
        self.bookings.push(BookingRow {
            id: story.booking_id,
            property_id: terms.id,
            guest_id,
            host_id: terms.host_id,
            state: story.state.name(),
            stay: format!("[{},{})", stay.check_in, stay.check_out),
            guests,
            instant_book: terms.instant_book,
            cancellation_policy: terms.cancellation_policy.name(),
            time_zone: terms.time_zone.name(),
            check_in_from: terms.check_in_from,
            check_out_by: terms.check_out_by,
            currency: price.currency.code(),
            price_lines: price.lines,
            total_minor: price.total_minor,
            host_fee_minor: price.host_fee_minor,
            message: message.cloned(),
            hold_expires_at: requested_at + roost_shared::bookings::HOLD,
            confirmed_at,
            cancelled_at,
            version: story.version,
            created_at: requested_at,
            updated_at: story.at,
        });
        self.payments.push(payment);
        self.events.append(&mut story.events);
        Ok(())
    }

    fn capture(&mut self, payment: &mut PaymentRow, price: &Price, at: DateTime<Utc>, dice: &mut Dice) {
        let (total, fees) = (price.total_minor, fees(price));
        payment.captured_minor = total;
        let entries = [
            ("stripe_balance", total),
            ("host_payable", fees - total),
            ("platform_revenue", -fees),
        ];
        self.enter(format!("capture:{}", payment.id), payment, entries, at, dice);
    }

    /// Arrival, departure and settlement, as far as they are past.
    fn stay(&mut self, story: &mut Story, terms: &PropertyTerms, stay: Stay, dice: &mut Dice) {
        let arrival = check_in_at(stay, terms.check_in_from, terms.time_zone) + TimeDelta::minutes(dice.among(5, 300));
        let departure =
            check_out_at(stay, terms.check_out_by, terms.time_zone) - TimeDelta::minutes(dice.among(5, 120));
        let steps = [
            (arrival, "checked_in", "guest", BookingState::CheckedIn),
            (departure, "checked_out", "guest", BookingState::CheckedOut),
            (
                departure + TimeDelta::days(14),
                "completed",
                "system",
                BookingState::Completed,
            ),
        ];
        for (at, event, actor, state) in steps {
            if at <= self.now {
                story.at = at;
                story.go(event, actor, state, None);
            }
        }
        if departure <= self.now {
            self.departures.push(Departure {
                booking_id: story.booking_id,
                property_id: terms.id,
                guest_id: story.guest_id,
                at: departure,
            });
        }
    }

    fn cancel(
        &mut self,
        story: &mut Story,
        payment: &mut PaymentRow,
        terms: &CancellationTerms,
        price: &Price,
        outcome: Outcome,
        dice: &mut Dice,
    ) -> Result<()> {
        let reason = dice.pick(&phrases()?.cancellations).context("no reasons")?;
        let decision = if outcome == Outcome::CancelledByHost {
            story.go(
                "cancelled",
                "host",
                BookingState::CancelledByHost,
                Some("A pipe burst. We are so sorry."),
            );
            full_refund(terms.stay, "by_host", "a host who cancels pays everything back")
        } else {
            story.go("cancelled", "guest", BookingState::CancelledByGuest, Some(reason));
            guest_cancellation(terms, story.at)
        };
        let amount = decision.total(&price.lines);
        if amount == 0 {
            return Ok(());
        }
        let promised_at = story.at;
        story.wait(TimeDelta::milliseconds(dice.among(300, 900)));
        story.tell("payment_refunded", "system", None, None, Some(decision.rule));
        payment.refunded_minor = amount;
        payment.updated_at = story.at;
        let refund = RefundRow {
            id: dice.id(promised_at),
            payment_id: payment.id,
            amount_minor: amount,
            reason: decision.rule,
            state: "succeeded",
            stripe_refund_id: dice.stripe_id("re"),
            created_at: promised_at,
            updated_at: story.at,
        };
        let fees_back = share_of(fees(price), amount, price.total_minor);
        let entries = [
            ("stripe_balance", -amount),
            ("host_payable", amount - fees_back),
            ("platform_revenue", fees_back),
        ];
        self.enter(format!("refund:{}", refund.id), payment, entries, story.at, dice);
        self.refunds.push(refund);
        Ok(())
    }

    fn enter(
        &mut self,
        key: String,
        payment: &PaymentRow,
        entries: [(&'static str, i64); 3],
        at: DateTime<Utc>,
        dice: &mut Dice,
    ) {
        let transaction_id = dice.id(at);
        self.transactions.push(LedgerTransactionRow {
            id: transaction_id,
            key,
            booking_id: payment.booking_id,
            created_at: at,
        });
        let entries = entries.into_iter().filter(|(_, amount)| *amount != 0);
        self.entries
            .extend(entries.map(|(account, amount_minor)| LedgerEntryRow {
                transaction_id,
                account,
                currency: payment.currency,
                amount_minor,
            }));
    }
}

/// The card was refused, and no other was tried while the nights were held.
fn fail(story: &mut Story, payment: &mut PaymentRow) {
    payment.state = "failed";
    payment.authorized_minor = 0;
    payment.failure_code = Some("card_declined");
    payment.decline_code = Some("insufficient_funds");
    payment.failure_message = Some("Your card has insufficient funds.");
    story.wait(TimeDelta::milliseconds(600));
    story.tell("payment_failed", "system", None, None, Some("card_declined"));
    story.wait(roost_shared::bookings::HOLD);
    story.go("expired", "system", BookingState::PaymentFailed, None);
}

/// What of the total is the platform's.
fn fees(price: &Price) -> i64 {
    let service: i64 = price
        .lines
        .iter()
        .filter(|line| line.kind == LineKind::GuestServiceFee)
        .map(|line| line.amount_minor)
        .sum();
    service + price.host_fee_minor
}

fn later(day: NaiveDate, days: i64) -> NaiveDate {
    day + Days::new(u64::try_from(days).unwrap_or(0))
}

/// A booking's timeline while it is being told.
struct Story {
    booking_id: Uuid,
    guest_id: Uuid,
    host_id: Uuid,
    state: BookingState,
    at: DateTime<Utc>,
    version: i32,
    events: Vec<EventRow>,
}

impl Story {
    fn wait(&mut self, by: TimeDelta) {
        self.at += by;
    }

    fn go(&mut self, event: &'static str, actor: &'static str, to: BookingState, reason: Option<&str>) {
        self.tell(event, actor, Some(self.state.name()), Some(to.name()), reason);
        self.state = to;
        self.version += 1;
    }

    fn tell(
        &mut self,
        event: &'static str,
        actor: &'static str,
        from_state: Option<&'static str>,
        to_state: Option<&'static str>,
        reason: Option<&str>,
    ) {
        self.events.push(EventRow {
            booking_id: self.booking_id,
            at: self.at,
            event,
            actor,
            actor_id: match actor {
                "guest" => Some(self.guest_id),
                "host" => Some(self.host_id),
                _ => None,
            },
            from_state,
            to_state,
            accepted: true,
            reason: reason.map(str::to_owned),
        });
    }
}
