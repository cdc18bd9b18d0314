//! Payments as they look on the wire.

use async_graphql::{InputObject, SimpleObject};
use chrono::{DateTime, Utc};
use poem_openapi::types::Example;
use poem_openapi::{Enum, Object};
use roost_shared::payments::{self, Attempt as Tried, Payment as Row, Refund as PaidBack};
use uuid::Uuid;

use crate::rest::bookings::objects::{example_id, example_instant};
use crate::rest::mirror::mirror;

mirror! {
    /// Where a payment stands.
    PaymentState of payments::PaymentState {
        /// Stripe has not answered yet
        Pending,
        /// The guest has to prove to be the card's owner: use `client_secret` with Stripe.js
        RequiresAction,
        /// The amount is reserved on the card
        Authorized,
        /// The money has been taken
        Captured,
        /// The reservation was released; nothing was taken
        Voided,
        /// The card was refused
        Failed,
    }
}

/// Another card for a booking.
#[derive(Clone, Debug, Object, InputObject)]
#[oai(deny_unknown_fields, example)]
pub struct NewPayment {
    /// Which booking: yours, and still `held`
    pub booking_id: Uuid,
    /// A Stripe PaymentMethod: `pm_…`
    #[oai(validator(max_length = 255, pattern = "^pm_[A-Za-z0-9_]+$"))]
    pub payment_method: String,
}

impl Example for NewPayment {
    fn example() -> Self {
        Self {
            booking_id: example_id(2),
            payment_method: "pm_card_mastercard".to_owned(),
        }
    }
}

/// A payment in a list. Amounts in minor units.
#[derive(Clone, Debug, Object, SimpleObject)]
#[oai(example)]
pub struct PaymentSummary {
    /// The payment
    pub id: Uuid,
    /// What it pays for
    pub booking_id: Uuid,
    /// 1 for the booking's first card, 2 for the second …
    pub number: i32,
    /// Where it stands
    pub state: PaymentState,
    /// ISO 4217, of all amounts
    pub currency: String,
    /// What is to be paid
    pub amount_minor: i64,
    /// Reserved on the card
    pub authorized_minor: i64,
    /// Taken
    pub captured_minor: i64,
    /// Paid back
    pub refunded_minor: i64,
    /// Stripe's id of the payment, `pi_…`
    pub stripe_payment_intent_id: Option<String>,
    /// The card, `pm_…`. For the guest only
    pub payment_method: Option<String>,
    /// Why the card was refused: a code of Stripe's. For the guest only
    pub failure_code: Option<String>,
    /// The issuer's reason. For the guest only
    pub decline_code: Option<String>,
    /// The same for the cardholder to read. For the guest only
    pub failure_message: Option<String>,
    /// When it was begun
    pub created_at: DateTime<Utc>,
    /// When it last changed
    pub updated_at: DateTime<Utc>,
}

impl PaymentSummary {
    /// The payment as `user_id`, its guest or host, may see it.
    #[must_use]
    pub fn new(row: Row, user_id: Uuid) -> Self {
        let for_guest = row.guest_id == user_id;
        Self {
            id: row.id,
            booking_id: row.booking_id,
            number: row.number,
            state: row.state.into(),
            currency: row.currency.code().to_owned(),
            amount_minor: row.amount_minor,
            authorized_minor: row.authorized_minor,
            captured_minor: row.captured_minor,
            refunded_minor: row.refunded_minor,
            stripe_payment_intent_id: row.stripe_payment_intent_id,
            payment_method: for_guest.then_some(row.payment_method),
            failure_code: row.failure_code.filter(|_| for_guest),
            decline_code: row.decline_code.filter(|_| for_guest),
            failure_message: row.failure_message.filter(|_| for_guest),
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

impl Example for PaymentSummary {
    fn example() -> Self {
        Self {
            id: example_id(5),
            booking_id: example_id(2),
            number: 1,
            state: PaymentState::Captured,
            currency: "EUR".to_owned(),
            amount_minor: 45_360,
            authorized_minor: 45_360,
            captured_minor: 45_360,
            refunded_minor: 0,
            stripe_payment_intent_id: Some("pi_3PexampleA1b2C3".to_owned()),
            payment_method: Some("pm_card_visa".to_owned()),
            failure_code: None,
            decline_code: None,
            failure_message: None,
            created_at: example_instant(),
            updated_at: example_instant(),
        }
    }
}

/// What was asked of Stripe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum, async_graphql::Enum)]
#[oai(rename_all = "snake_case")]
pub enum Operation {
    /// Reserve the amount
    Authorize,
    /// Take it
    Capture,
    /// Release it
    Void,
    /// Pay it back
    Refund,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum, async_graphql::Enum)]
#[oai(rename_all = "snake_case")]
pub enum AttemptState {
    /// About to be sent, or on its way
    Intent,
    /// Stripe did it
    Done,
    /// Stripe may have done it; it is asked again with the same key
    Unknown,
    /// Stripe refused
    Failed,
}

/// One operation at Stripe, however often it had to be sent.
#[derive(Clone, Debug, Object, SimpleObject)]
pub struct Attempt {
    /// What was asked
    pub operation: Operation,
    /// The idempotency key at Stripe
    pub key: String,
    /// What came of it
    pub state: AttemptState,
    /// Stripe's id for the outcome
    pub stripe_id: Option<String>,
    /// Why not. For the guest only
    pub error: Option<String>,
    /// When it was first sent
    pub first_sent_at: DateTime<Utc>,
    /// When its outcome was last written
    pub updated_at: DateTime<Utc>,
}

impl Attempt {
    pub(crate) fn new(tried: Tried, for_guest: bool) -> Self {
        let operation = match tried.key.split(':').next() {
            Some("capture") => Operation::Capture,
            Some("void") => Operation::Void,
            Some("refund") => Operation::Refund,
            _ => Operation::Authorize,
        };
        Self {
            operation,
            state: match tried.state.as_str() {
                "intent" => AttemptState::Intent,
                "done" => AttemptState::Done,
                "failed" => AttemptState::Failed,
                _ => AttemptState::Unknown,
            },
            key: tried.key,
            stripe_id: tried.external_id,
            error: tried.error.filter(|_| for_guest),
            first_sent_at: tried.first_sent_at,
            updated_at: tried.updated_at,
        }
    }
}

/// Where a refund stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum, async_graphql::Enum)]
#[oai(rename_all = "snake_case")]
pub enum RefundState {
    /// Promised, and on its way
    Pending,
    /// Paid back
    Succeeded,
    /// Stripe will not: we look into it
    Failed,
}

/// Money on its way back.
#[derive(Clone, Debug, Object, SimpleObject)]
pub struct Refund {
    /// The refund
    pub id: Uuid,
    /// How much, in minor units
    pub amount_minor: i64,
    /// The rule that decided it: see `GET /bookings/{booking_id}/cancellation-quote`
    pub reason: String,
    /// Where it stands
    pub state: RefundState,
    /// Stripe's id of it, `re_…`
    pub stripe_refund_id: Option<String>,
    /// When it was promised
    pub created_at: DateTime<Utc>,
}

impl From<PaidBack> for Refund {
    fn from(refund: PaidBack) -> Self {
        Self {
            id: refund.id,
            amount_minor: refund.amount_minor,
            reason: refund.reason,
            state: match refund.state.as_str() {
                "succeeded" => RefundState::Succeeded,
                "failed" => RefundState::Failed,
                _ => RefundState::Pending,
            },
            stripe_refund_id: refund.stripe_refund_id,
            created_at: refund.created_at,
        }
    }
}

/// A payment with everything about it. In GraphQL, what is skipped here is read only when it is asked for.
#[derive(Clone, Debug, Object, SimpleObject)]
#[oai(example)]
#[graphql(complex)]
pub struct Payment {
    /// What lists show as well
    #[oai(flatten)]
    #[graphql(flatten)]
    pub summary: PaymentSummary,
    /// When the authorisation lapses
    pub capture_before: Option<DateTime<Utc>>,
    /// While the state is `requires_action`: what Stripe.js needs to ask for the proof. For the guest only
    pub client_secret: Option<String>,
    /// What was asked of Stripe, refunds included, oldest first
    #[graphql(skip)]
    pub attempts: Vec<Attempt>,
    /// What was or will be paid back, oldest first
    #[graphql(skip)]
    pub refunds: Vec<Refund>,
}

impl Payment {
    /// The payment as `user_id`, its guest or host, may see it.
    #[must_use]
    pub fn new(row: Row, attempts: Vec<Tried>, refunds: Vec<PaidBack>, user_id: Uuid) -> Self {
        let for_guest = row.guest_id == user_id;
        let acts = for_guest && row.state == payments::PaymentState::RequiresAction;
        Self {
            capture_before: row.capture_before,
            client_secret: row.client_secret.clone().filter(|_| acts),
            attempts: attempts
                .into_iter()
                .map(|tried| Attempt::new(tried, for_guest))
                .collect(),
            refunds: refunds.into_iter().map(Refund::from).collect(),
            summary: PaymentSummary::new(row, user_id),
        }
    }
}

impl Example for Payment {
    fn example() -> Self {
        Self {
            summary: PaymentSummary::example(),
            capture_before: None,
            client_secret: None,
            attempts: vec![Attempt {
                operation: Operation::Authorize,
                key: format!("authorize:{}:1", example_id(2)),
                state: AttemptState::Done,
                stripe_id: Some("pi_3PexampleA1b2C3".to_owned()),
                error: None,
                first_sent_at: example_instant(),
                updated_at: example_instant(),
            }],
            refunds: Vec::new(),
        }
    }
}
