//! Every job there is, by resource. The handlers are in the worker, one file a kind.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Job, Queue};

/// Retries come five minutes apart on average once they are at their longest: so many are three days, for which Stripe
/// repeats a webhook and mail servers keep a mail.
const THREE_DAYS: i32 = 875;
/// Money and holds are not given up because something was away for long: years.
pub const UNTIL_DONE: i32 = 1_000_000;

/// Asks Stripe to authorise a payment's card for the whole amount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorizePayment {
    /// The payment.
    pub payment_id: Uuid,
}

impl Job for AuthorizePayment {
    const KIND: &'static str = "payment.authorize";
    const QUEUE: Queue = Queue::Payments;
    const PRIORITY: i16 = 10;
    // For as long as it takes to learn what became of the card: a hold is not given up in doubt.
    const MAX_ATTEMPTS: i32 = UNTIL_DONE;

    fn dedupe_key(&self) -> Option<String> {
        Some(format!("{}:{}", Self::KIND, self.payment_id))
    }
}

/// Takes an authorised booking to confirmed, or to the host's decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfirmBooking {
    /// The booking.
    pub booking_id: Uuid,
}

impl Job for ConfirmBooking {
    const KIND: &'static str = "booking.confirm";
    const QUEUE: Queue = Queue::Confirmation;
    const PRIORITY: i16 = 10;

    fn dedupe_key(&self) -> Option<String> {
        Some(format!("{}:{}", Self::KIND, self.booking_id))
    }
}

/// Captures the authorised amount of a confirmed booking.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapturePayment {
    /// The payment.
    pub payment_id: Uuid,
}

impl Job for CapturePayment {
    const KIND: &'static str = "payment.capture";
    const QUEUE: Queue = Queue::Payments;
    const PRIORITY: i16 = 20;
    // An authorisation that lapses ends it.
    const MAX_ATTEMPTS: i32 = UNTIL_DONE;

    fn dedupe_key(&self) -> Option<String> {
        Some(format!("{}:{}", Self::KIND, self.payment_id))
    }
}

/// Releases an authorisation that is not wanted any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoidPayment {
    /// The payment.
    pub payment_id: Uuid,
}

impl Job for VoidPayment {
    const KIND: &'static str = "payment.void";
    const QUEUE: Queue = Queue::Payments;
    const PRIORITY: i16 = 30;
    const MAX_ATTEMPTS: i32 = UNTIL_DONE;

    fn dedupe_key(&self) -> Option<String> {
        Some(format!("{}:{}", Self::KIND, self.payment_id))
    }
}

/// Pays back what a cancellation promised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefundPayment {
    /// The refund.
    pub refund_id: Uuid,
}

impl Job for RefundPayment {
    const KIND: &'static str = "payment.refund";
    const QUEUE: Queue = Queue::Payments;
    const PRIORITY: i16 = 30;
    const MAX_ATTEMPTS: i32 = UNTIL_DONE;

    fn dedupe_key(&self) -> Option<String> {
        Some(format!("{}:{}", Self::KIND, self.refund_id))
    }
}

/// Ends a hold that was not paid, or a request that the host did not answer, in time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpireHold {
    /// The booking.
    pub booking_id: Uuid,
}

impl Job for ExpireHold {
    const KIND: &'static str = "booking.expire_hold";
    const QUEUE: Queue = Queue::Confirmation;
    const PRIORITY: i16 = 30;
    const MAX_ATTEMPTS: i32 = UNTIL_DONE;

    // One per booking: a request to book goes on with the job of its hold.
    fn dedupe_key(&self) -> Option<String> {
        Some(format!("{}:{}", Self::KIND, self.booking_id))
    }
}

/// Reads the object of a Stripe event again and moves our record forward.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandleStripeEvent {
    /// Stripe's id of the event.
    pub event_id: String,
}

impl Job for HandleStripeEvent {
    const KIND: &'static str = "stripe.event.handle";
    const QUEUE: Queue = Queue::Payments;
    const PRIORITY: i16 = 25;
    const MAX_ATTEMPTS: i32 = THREE_DAYS;

    fn dedupe_key(&self) -> Option<String> {
        Some(format!("{}:{}", Self::KIND, self.event_id))
    }
}

/// Invites both sides of a stay that has just ended to review it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenReviews {
    /// The booking.
    pub booking_id: Uuid,
}

impl Job for OpenReviews {
    const KIND: &'static str = "review.open";
    const QUEUE: Queue = Queue::Notifications;
    const PRIORITY: i16 = 60;
}

/// Reminds the sides that have not reviewed a stay, shortly before the time is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemindReviewers {
    /// The booking.
    pub booking_id: Uuid,
}

impl Job for RemindReviewers {
    const KIND: &'static str = "review.remind";
    const QUEUE: Queue = Queue::Notifications;
    const PRIORITY: i16 = 60;
}

/// Publishes the reviews of a stay: when both exist, or when the time is over. Without a dedupe key, because the one
/// that waits for the end must not keep the other from running at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishReviews {
    /// The booking.
    pub booking_id: Uuid,
}

impl Job for PublishReviews {
    const KIND: &'static str = "review.publish";
    const QUEUE: Queue = Queue::Confirmation;
    const PRIORITY: i16 = 60;
    const MAX_ATTEMPTS: i32 = 100;
}

/// Ten minutes after a message, mails what its reader has not read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotifyOfMessage {
    /// The message.
    pub message_id: Uuid,
}

impl Job for NotifyOfMessage {
    const KIND: &'static str = "message.notify";
    const QUEUE: Queue = Queue::Notifications;
    const PRIORITY: i16 = 40;
}

/// Which mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MailKind {
    /// To a new user, with the link that proves the address. Subject: the user.
    VerifyEmail,
    /// To the guest. Subject: the booking.
    BookingConfirmedGuest,
    /// To the host. Subject: the booking.
    BookingConfirmedHost,
    /// To the host who has to approve. Subject: the booking.
    BookingRequestedHost,
    /// To the guest whose card was refused. Subject: the payment.
    PaymentFailed,
    /// To the guest. Subject: the booking.
    BookingCancelledGuest,
    /// To the host. Subject: the booking.
    BookingCancelledHost,
    /// To the guest whose hold or request ran out. Subject: the booking.
    BookingExpired,
    /// To the guest whose request the host declined. Subject: the booking.
    BookingDeclined,
    /// To the guest who did not come, as the host says. Subject: the booking.
    BookingNoShow,
    /// To the guest who may review a stay. Subject: the booking.
    ReviewInvitationGuest,
    /// To the host who may review a guest. Subject: the booking.
    ReviewInvitationHost,
    /// To the guest who has not reviewed a stay. Subject: the booking.
    ReviewReminderGuest,
    /// To the host who has not reviewed a guest. Subject: the booking.
    ReviewReminderHost,
    /// To the author of a review that a moderator hid. Subject: the decision.
    ReviewHidden,
    /// To the author of a review that a moderator shows again. Subject: the decision.
    ReviewShown,
    /// To somebody who has not read messages. Subject: the message whose job gathered them.
    UnreadMessages,
    /// To the guest whose card proved itself when somebody else had the nights. Subject: the booking.
    PaymentTooLate,
    /// To the guest of a confirmed booking whose card could not be charged. Subject: the booking.
    PaymentLostGuest,
    /// To the host of it. Subject: the booking.
    PaymentLostHost,
    /// To the guest whose card's bank did not take the money back. Subject: the refund.
    RefundFailed,
}

impl MailKind {
    /// Its name in its effect key.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::VerifyEmail => "verify-email",
            Self::BookingConfirmedGuest => "booking-confirmed-guest",
            Self::BookingConfirmedHost => "booking-confirmed-host",
            Self::BookingRequestedHost => "booking-requested-host",
            Self::PaymentFailed => "payment-failed",
            Self::BookingCancelledGuest => "booking-cancelled-guest",
            Self::BookingCancelledHost => "booking-cancelled-host",
            Self::BookingExpired => "booking-expired",
            Self::BookingDeclined => "booking-declined",
            Self::BookingNoShow => "booking-no-show",
            Self::ReviewInvitationGuest => "review-invitation-guest",
            Self::ReviewInvitationHost => "review-invitation-host",
            Self::ReviewReminderGuest => "review-reminder-guest",
            Self::ReviewReminderHost => "review-reminder-host",
            Self::ReviewHidden => "review-hidden",
            Self::ReviewShown => "review-shown",
            Self::UnreadMessages => "unread-messages",
            Self::PaymentTooLate => "payment-too-late",
            Self::PaymentLostGuest => "payment-lost-guest",
            Self::PaymentLostHost => "payment-lost-host",
            Self::RefundFailed => "refund-failed",
        }
    }
}

/// Sends one mail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendMail {
    /// Which.
    pub mail: MailKind,
    /// What it is about: a user, booking or payment, by kind of mail.
    pub subject_id: Uuid,
}

impl Job for SendMail {
    const KIND: &'static str = "mail.send";
    const QUEUE: Queue = Queue::Notifications;
    const MAX_ATTEMPTS: i32 = THREE_DAYS;
    const TIMEOUT: Duration = Duration::from_secs(30);
}

/// Puts a property's public page into the cache before somebody asks for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarmCache {
    /// The property.
    pub property_id: Uuid,
}

impl Job for WarmCache {
    const KIND: &'static str = "cache.warm";
    const QUEUE: Queue = Queue::Cache;
    const MAX_ATTEMPTS: i32 = 8;
    const TIMEOUT: Duration = Duration::from_secs(10);

    fn dedupe_key(&self) -> Option<String> {
        Some(format!("{}:{}", Self::KIND, self.property_id))
    }
}

/// Completes the stays that are over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompleteStays {}

impl Job for CompleteStays {
    const KIND: &'static str = "stays.complete";
    const QUEUE: Queue = Queue::Maintenance;
    const TIMEOUT: Duration = Duration::from_secs(300);
}

/// Deletes finished jobs, old replies and spent tokens, a batch at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PruneOutbox {}

impl Job for PruneOutbox {
    const KIND: &'static str = "outbox.prune";
    const QUEUE: Queue = Queue::Maintenance;
    const TIMEOUT: Duration = Duration::from_secs(300);
}

/// Computes the hashes of the audit log again, a bounded piece at a time, and seals what is whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyAudit {}

impl Job for VerifyAudit {
    const KIND: &'static str = "audit.verify";
    const QUEUE: Queue = Queue::Maintenance;
    const TIMEOUT: Duration = Duration::from_secs(300);
}

/// Works off an operator's action on all jobs that match a filter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunBulkAction {
    /// The action.
    pub action_id: Uuid,
}

impl Job for RunBulkAction {
    const KIND: &'static str = "ops.bulk";
    const QUEUE: Queue = Queue::Maintenance;
    const TIMEOUT: Duration = Duration::from_secs(300);

    fn dedupe_key(&self) -> Option<String> {
        Some(format!("{}:{}", Self::KIND, self.action_id))
    }
}

/// Looks an effect up at Stripe for an operator who is in doubt. In the queue `maintenance`, because `payments` is what
/// gets paused when money is in doubt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InspectEffect {
    /// The effect: `capture:{payment}`.
    pub effect_key: String,
}

impl Job for InspectEffect {
    const KIND: &'static str = "effect.inspect";
    const QUEUE: Queue = Queue::Maintenance;
    // Somebody waits for it.
    const PRIORITY: i16 = 1;

    fn dedupe_key(&self) -> Option<String> {
        Some(format!("{}:{}", Self::KIND, self.effect_key))
    }
}

/// Puts back to work what is past its time and has no job: one that died, or was deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SweepOverdue {}

impl Job for SweepOverdue {
    const KIND: &'static str = "overdue.sweep";
    const QUEUE: Queue = Queue::Maintenance;
    const PRIORITY: i16 = 20;

    fn dedupe_key(&self) -> Option<String> {
        Some(Self::KIND.to_owned())
    }
}
