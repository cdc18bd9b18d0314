//! What each mail needs to know. Amounts are in minor units of the named currency, dates are the
//! property's own, instants are UTC and shown in the property's zone.

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use chrono_tz::Tz;
use roost_shared::money::Currency;
use roost_shared::reviews::Side;
use serde::{Deserialize, Serialize};

/// Every mail Roost sends. The name is the folder of its templates and part of its effect key.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum Mail {
    VerifyEmail(VerifyEmail),
    BookingRequestedHost(BookingRequestedHost),
    BookingConfirmedGuest(BookingConfirmedGuest),
    BookingConfirmedHost(BookingConfirmedHost),
    PaymentFailed(PaymentFailed),
    BookingCancelledGuest(BookingCancelledGuest),
    BookingCancelledHost(BookingCancelledHost),
    BookingExpired(BookingExpired),
    BookingDeclined(BookingDeclined),
    BookingNoShow(BookingNoShow),
    ReviewInvitation(ReviewInvitation),
    ReviewReminder(ReviewReminder),
    ReviewHidden(ReviewModerated),
    ReviewShown(ReviewModerated),
    UnreadMessages(UnreadMessages),
    PaymentLostGuest(PaymentLostGuest),
    PaymentLostHost(PaymentLostHost),
    RefundFailed(RefundFailed),
}

impl Mail {
    pub fn name(&self) -> &'static str {
        match self {
            Self::VerifyEmail(_) => "verify-email",
            Self::BookingRequestedHost(_) => "booking-requested-host",
            Self::BookingConfirmedGuest(_) => "booking-confirmed-guest",
            Self::BookingConfirmedHost(_) => "booking-confirmed-host",
            Self::PaymentFailed(_) => "payment-failed",
            Self::BookingCancelledGuest(_) => "booking-cancelled-guest",
            Self::BookingCancelledHost(_) => "booking-cancelled-host",
            Self::BookingExpired(_) => "booking-expired",
            Self::BookingDeclined(_) => "booking-declined",
            Self::BookingNoShow(_) => "booking-no-show",
            Self::ReviewInvitation(_) => "review-invitation",
            Self::ReviewReminder(_) => "review-reminder",
            Self::ReviewHidden(_) => "review-hidden",
            Self::ReviewShown(_) => "review-shown",
            Self::UnreadMessages(_) => "unread-messages",
            Self::PaymentLostGuest(_) => "payment-lost-guest",
            Self::PaymentLostHost(_) => "payment-lost-host",
            Self::RefundFailed(_) => "refund-failed",
        }
    }

    /// Who is greeted, and where the one button leads.
    pub(super) fn reader_and_action(&self) -> (&str, &str) {
        match self {
            Self::VerifyEmail(mail) => (&mail.name, &mail.verify_url),
            Self::BookingRequestedHost(mail) => (&mail.host_name, &mail.booking_url),
            Self::BookingConfirmedGuest(mail) => (&mail.guest_name, &mail.booking_url),
            Self::BookingConfirmedHost(mail) => (&mail.host_name, &mail.booking_url),
            Self::PaymentFailed(mail) => (&mail.guest_name, &mail.booking_url),
            Self::BookingCancelledGuest(mail) => (&mail.guest_name, &mail.booking_url),
            Self::BookingCancelledHost(mail) => (&mail.host_name, &mail.booking_url),
            Self::BookingExpired(mail) => (&mail.guest_name, &mail.search_url),
            Self::BookingDeclined(mail) => (&mail.guest_name, &mail.search_url),
            Self::BookingNoShow(mail) => (&mail.guest_name, &mail.booking_url),
            Self::ReviewInvitation(mail) => (&mail.name, &mail.booking_url),
            Self::ReviewReminder(mail) => (&mail.name, &mail.booking_url),
            Self::ReviewHidden(mail) | Self::ReviewShown(mail) => (&mail.name, &mail.booking_url),
            Self::UnreadMessages(mail) => (&mail.name, &mail.booking_url),
            Self::PaymentLostGuest(mail) => (&mail.guest_name, &mail.search_url),
            Self::PaymentLostHost(mail) => (&mail.host_name, &mail.booking_url),
            Self::RefundFailed(mail) => (&mail.guest_name, &mail.booking_url),
        }
    }

    /// Where its reader ends mails of its kind, if it is not about a transaction.
    pub(super) fn unsubscribe_url(&self) -> Option<&str> {
        match self {
            Self::ReviewInvitation(mail) => Some(&mail.unsubscribe_url),
            Self::ReviewReminder(mail) => Some(&mail.unsubscribe_url),
            Self::ReviewHidden(mail) | Self::ReviewShown(mail) => Some(&mail.unsubscribe_url),
            Self::UnreadMessages(mail) => Some(&mail.unsubscribe_url),
            Self::VerifyEmail(_)
            | Self::BookingRequestedHost(_)
            | Self::BookingConfirmedGuest(_)
            | Self::BookingConfirmedHost(_)
            | Self::PaymentFailed(_)
            | Self::BookingCancelledGuest(_)
            | Self::BookingCancelledHost(_)
            | Self::BookingExpired(_)
            | Self::BookingDeclined(_)
            | Self::BookingNoShow(_)
            | Self::PaymentLostGuest(_)
            | Self::PaymentLostHost(_)
            | Self::RefundFailed(_) => None,
        }
    }

    /// The stay it is about, if any.
    pub(super) fn stay(&self) -> Option<&Stay> {
        match self {
            Self::VerifyEmail(_) | Self::UnreadMessages(_) => None,
            Self::BookingRequestedHost(mail) => Some(&mail.stay),
            Self::BookingConfirmedGuest(mail) => Some(&mail.stay),
            Self::BookingConfirmedHost(mail) => Some(&mail.stay),
            Self::PaymentFailed(mail) => Some(&mail.stay),
            Self::BookingCancelledGuest(mail) => Some(&mail.stay),
            Self::BookingCancelledHost(mail) => Some(&mail.stay),
            Self::BookingExpired(mail) => Some(&mail.stay),
            Self::BookingDeclined(mail) => Some(&mail.stay),
            Self::BookingNoShow(mail) => Some(&mail.stay),
            Self::ReviewInvitation(mail) => Some(&mail.stay),
            Self::ReviewReminder(mail) => Some(&mail.stay),
            Self::ReviewHidden(mail) | Self::ReviewShown(mail) => Some(&mail.stay),
            Self::PaymentLostGuest(mail) => Some(&mail.stay),
            Self::PaymentLostHost(mail) => Some(&mail.stay),
            Self::RefundFailed(mail) => Some(&mail.stay),
        }
    }
}

/// The stay a mail is about, as frozen into the booking.
#[derive(Debug, Clone, Serialize)]
pub struct Stay {
    pub booking_id: uuid::Uuid,
    pub property_title: String,
    pub city: String,
    pub check_in: NaiveDate,
    pub check_out: NaiveDate,
    pub check_in_from: NaiveTime,
    pub check_out_by: NaiveTime,
    pub time_zone: Tz,
    pub guests: i32,
}

impl Stay {
    pub fn nights(&self) -> i64 {
        (self.check_out - self.check_in).num_days()
    }
}

/// One line of the frozen price; reads the `price_lines` of a booking.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PriceLine {
    pub label: String,
    pub amount_minor: i64,
}

#[derive(Debug, Clone, Serialize)]
pub struct VerifyEmail {
    pub name: String,
    pub verify_url: String,
    pub expires_at: DateTime<Utc>,
}

/// To the host of a property that is booked on request.
#[derive(Debug, Clone, Serialize)]
pub struct BookingRequestedHost {
    pub host_name: String,
    pub guest_name: String,
    pub stay: Stay,
    /// What the host is paid: the total less the host fee.
    pub payout_minor: i64,
    pub currency: Currency,
    pub message: Option<String>,
    /// The answer must come before: 24 h, or sooner when the card's authorisation lapses.
    pub approve_by: DateTime<Utc>,
    pub booking_url: String,
}

#[derive(Debug, Clone, Serialize)]
pub struct BookingConfirmedGuest {
    pub guest_name: String,
    pub host_name: String,
    pub stay: Stay,
    pub lines: Vec<PriceLine>,
    pub total_minor: i64,
    pub currency: Currency,
    pub house_rules: Option<String>,
    pub booking_url: String,
}

#[derive(Debug, Clone, Serialize)]
pub struct BookingConfirmedHost {
    pub host_name: String,
    pub guest_name: String,
    pub stay: Stay,
    pub total_minor: i64,
    pub host_fee_minor: i64,
    pub payout_minor: i64,
    pub currency: Currency,
    pub arrival_time: Option<NaiveTime>,
    pub message: Option<String>,
    pub booking_url: String,
}

#[derive(Debug, Clone, Serialize)]
pub struct PaymentFailed {
    pub guest_name: String,
    pub stay: Stay,
    pub total_minor: i64,
    pub currency: Currency,
    /// What the card's bank said, in words for the guest.
    pub reason: Option<String>,
    /// The nights stay held until then; another card can be tried as long.
    pub hold_expires_at: DateTime<Utc>,
    pub booking_url: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CancelledBy {
    Guest,
    Host,
}

#[derive(Debug, Clone, Serialize)]
pub struct BookingCancelledGuest {
    pub guest_name: String,
    pub host_name: String,
    pub stay: Stay,
    pub cancelled_by: CancelledBy,
    /// The host's own words, if it was the host.
    pub message: Option<String>,
    /// What was charged before; zero when the card was only authorised.
    pub paid_minor: i64,
    pub refund_minor: i64,
    pub currency: Currency,
    /// The rule that decided the refund, as a sentence.
    pub rule: String,
    pub booking_url: String,
}

#[derive(Debug, Clone, Serialize)]
pub struct BookingCancelledHost {
    pub host_name: String,
    pub guest_name: String,
    pub stay: Stay,
    pub cancelled_by: CancelledBy,
    /// The guest's own words, if it was the guest.
    pub message: Option<String>,
    pub paid_minor: i64,
    pub refund_minor: i64,
    /// What the host still receives.
    pub payout_minor: i64,
    pub currency: Currency,
    pub rule: String,
    pub booking_url: String,
}

/// Why a booking ended unconfirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Expiry {
    /// No payment came while the nights were held.
    Unpaid,
    /// The host did not answer in time.
    Unanswered,
    /// The payment came when the nights could not be had any more.
    PaidTooLate,
    /// The card was good, and the stay over before the booking could be confirmed.
    Over,
}

#[derive(Debug, Clone, Serialize)]
pub struct BookingExpired {
    pub guest_name: String,
    pub host_name: String,
    pub stay: Stay,
    pub because: Expiry,
    pub search_url: String,
}

#[derive(Debug, Clone, Serialize)]
pub struct BookingDeclined {
    pub guest_name: String,
    pub host_name: String,
    pub stay: Stay,
    /// The host's own words.
    pub message: Option<String>,
    pub search_url: String,
}

/// To the guest of whom the host says that they did not come.
#[derive(Debug, Clone, Serialize)]
pub struct BookingNoShow {
    pub guest_name: String,
    pub host_name: String,
    pub stay: Stay,
    /// The host's own words.
    pub message: Option<String>,
    pub total_minor: i64,
    pub currency: Currency,
    pub booking_url: String,
}

/// To either side of a stay that has just ended.
#[derive(Debug, Clone, Serialize)]
pub struct ReviewInvitation {
    pub name: String,
    /// The other side's first name.
    pub other_name: String,
    /// On which side the reader stands.
    pub writes: Side,
    pub stay: Stay,
    /// Until when a review can be written.
    pub closes_at: DateTime<Utc>,
    pub booking_url: String,
    pub unsubscribe_url: String,
}

/// To a side that has not written, shortly before the end.
#[derive(Debug, Clone, Serialize)]
pub struct ReviewReminder {
    pub name: String,
    pub other_name: String,
    pub writes: Side,
    pub stay: Stay,
    pub closes_at: DateTime<Utc>,
    pub booking_url: String,
    pub unsubscribe_url: String,
}

/// To the author of a review that a moderator decided about.
#[derive(Debug, Clone, Serialize)]
pub struct ReviewModerated {
    pub name: String,
    /// The other side's first name.
    pub other_name: String,
    /// On which side the author stands.
    pub writes: Side,
    pub stay: Stay,
    /// The author's own words.
    pub text: String,
    /// The moderator's.
    pub reason: String,
    pub booking_url: String,
    pub unsubscribe_url: String,
}

/// Everything that somebody has not read.
#[derive(Debug, Clone, Serialize)]
pub struct UnreadMessages {
    pub name: String,
    /// How many there are; not all of them may be quoted.
    pub count: i64,
    /// Oldest first; at least one.
    pub messages: Vec<QuotedMessage>,
    pub booking_url: String,
    pub unsubscribe_url: String,
}

#[derive(Debug, Clone, Serialize)]
pub struct QuotedMessage {
    /// The sender's first name.
    pub sender_name: String,
    pub property_title: String,
    pub text: String,
}

/// To the guest of a confirmed booking whose card could not be charged.
#[derive(Debug, Clone, Serialize)]
pub struct PaymentLostGuest {
    pub guest_name: String,
    pub stay: Stay,
    /// What was to be charged.
    pub total_minor: i64,
    pub currency: Currency,
    pub search_url: String,
}

/// To the host of it.
#[derive(Debug, Clone, Serialize)]
pub struct PaymentLostHost {
    pub host_name: String,
    pub guest_name: String,
    pub stay: Stay,
    pub booking_url: String,
}

/// To the guest whose card's bank did not take a refund.
#[derive(Debug, Clone, Serialize)]
pub struct RefundFailed {
    pub guest_name: String,
    pub stay: Stay,
    pub refund_minor: i64,
    pub currency: Currency,
    pub booking_url: String,
}
