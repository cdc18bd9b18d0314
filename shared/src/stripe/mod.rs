//! Stripe: the only place that names async-stripe.
//!
//! [`Gateway`] makes the calls a booking needs, each POST with an idempotency key that the caller derives from what
//! it does. [`Failure`] says what a caller may conclude. [`webhook`] checks what Stripe sends, [`events`] keeps it.

mod client;
mod currencies;
pub mod events;
pub mod webhook;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use stripe_client_core::{IdempotencyKey, RequestStrategy, StripeRequest};
use stripe_core::payment_intent::{
    CancelPaymentIntent, CapturePaymentIntent, ConfirmPaymentIntent, CreatePaymentIntent,
    CreatePaymentIntentAutomaticPaymentMethods, CreatePaymentIntentAutomaticPaymentMethodsAllowRedirects,
    RetrievePaymentIntent,
};
use stripe_core::refund::{CreateRefund, ListRefund, RetrieveRefund};
use stripe_core::{PaymentIntent, PaymentIntentCaptureMethod, PaymentIntentStatus, Refund};
use uuid::Uuid;

use crate::config::{ConfigError, Secret};
use crate::money::Currency;
use client::{CallError, PooledClient};

pub use currencies::{ChargeTerms, round_to};

/// Where Stripe is and who we are there.
#[derive(Clone, clap::Args)]
pub struct StripeArgs {
    /// Secret API key. Test keys start with sk_test_. Required to work on jobs
    #[arg(long, env = "STRIPE_SECRET_KEY", hide_env_values = true)]
    pub stripe_secret_key: Option<Secret>,
    /// Base URL of Stripe's API.
    #[arg(long, env = "STRIPE_API_BASE", default_value = "https://api.stripe.com")]
    pub stripe_api_base: String,
}

/// Calls Stripe over kept connections. Cloning is cheap.
#[derive(Clone)]
pub struct Gateway {
    client: PooledClient,
}

/// Where a PaymentIntent stands at Stripe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IntentStatus {
    /// Created, and the card not asked yet: nothing is reserved.
    RequiresConfirmation,
    /// The guest has to prove to be the card's owner (3-D Secure).
    RequiresAction,
    /// Authorised.
    RequiresCapture,
    /// Captured.
    Succeeded,
    /// Voided or lapsed.
    Canceled,
    /// The card was refused, or the proof failed.
    RequiresPaymentMethod,
    /// On its way to one of the others.
    Processing,
}

/// What Stripe knows about a payment. Amounts in minor units.
#[derive(Clone, Debug)]
pub struct Intent {
    /// `pi_…`
    pub id: String,
    /// Which of our payments it was created for.
    pub payment_id: Option<Uuid>,
    /// Where it stands.
    pub status: IntentStatus,
    /// What was asked for.
    pub amount_minor: i64,
    /// What may still be captured.
    pub capturable_minor: i64,
    /// What was captured.
    pub received_minor: i64,
    /// What the client needs for 3-D Secure. Never log it.
    pub client_secret: Option<String>,
    /// When the authorisation lapses.
    pub capture_before: Option<DateTime<Utc>>,
    /// What was paid back.
    pub refunded_minor: i64,
    /// Why the last try was refused.
    pub decline: Option<Decline>,
}

/// Why a card was refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decline {
    /// `card_declined`, `expired_card`, …
    pub code: String,
    /// The issuer's reason, `insufficient_funds`, …
    pub decline_code: Option<String>,
    /// For the cardholder to read.
    pub message: String,
}

/// A refund at Stripe.
#[derive(Clone, Debug)]
pub struct StripeRefund {
    /// `re_…`
    pub id: String,
    /// Which of our refunds it was made for.
    pub refund_id: Option<Uuid>,
    /// Where it stands.
    pub status: RefundStatus,
    /// How much goes back, in minor units.
    pub amount_minor: i64,
}

/// Where a refund stands at Stripe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefundStatus {
    /// On its way; nothing may be concluded yet.
    Pending,
    /// Paid back. The card's bank may still send it back.
    Succeeded,
    /// Not paid back: refused, cancelled or sent back.
    Failed,
}

/// Why a call brought no result, by what may be concluded.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The card was refused. Final for this card.
    #[error("card refused: {}", .0.code)]
    Declined(Decline, Option<String>),
    /// The object is in another state than the call needs: read it.
    #[error("stripe: unexpected state: {0}")]
    UnexpectedState(String),
    /// Stripe refuses the request as such, whatever is tried again.
    #[error("stripe refused the request: {0}")]
    Refused(String),
    /// Not done; later.
    #[error("stripe is busy: {0}")]
    Busy(String),
    /// Perhaps done: the same key again tells.
    #[error("stripe: outcome unknown: {0}")]
    Unknown(String),
    /// Stripe failed on its side, perhaps after doing it: read, then another key.
    #[error("stripe failed: {0}")]
    Broken(String),
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        let (status, error) = match error {
            CallError::Unknown(reason) => return Self::Unknown(reason),
            CallError::Broken(reason) => return Self::Broken(reason),
            CallError::Api(status, error) => (status.as_u16(), error),
        };
        let code = error.code.unwrap_or_default();
        let message = error.message.unwrap_or_default();
        // The key came before with other parameters: what the first request did has to be looked up.
        if error.kind == "idempotency_error" {
            return Self::Broken(message);
        }
        match (status, code.as_str()) {
            (429, _) | (409, _) | (_, "lock_timeout" | "balance_insufficient") => Self::Busy(code),
            (402, _) => Self::Declined(
                Decline {
                    code,
                    decline_code: error.decline_code,
                    message,
                },
                error.payment_intent.map(|intent| intent.id),
            ),
            (
                400,
                "payment_intent_unexpected_state"
                | "charge_already_captured"
                | "charge_already_refunded"
                | "charge_expired_for_capture",
            ) => Self::UnexpectedState(code),
            (401 | 403, _) => Self::Busy(format!("{status}: the API key is not accepted")),
            _ => Self::Refused(format!("{status} {} {code}: {message}", error.kind)),
        }
    }
}

/// A card to authorise.
#[derive(Debug)]
pub struct Authorization<'a> {
    /// For the metadata at Stripe.
    pub booking_id: Uuid,
    /// For the metadata at Stripe.
    pub payment_id: Uuid,
    /// The whole price.
    pub amount_minor: i64,
    /// Its currency.
    pub currency: Currency,
    /// `pm_…`
    pub payment_method: &'a str,
}

/// Money to pay back.
#[derive(Debug)]
pub struct Repayment<'a> {
    /// For the metadata at Stripe, by which the refund is found again.
    pub refund_id: Uuid,
    /// `pi_…`
    pub intent_id: &'a str,
    /// How much.
    pub amount_minor: i64,
    /// The payment's currency.
    pub currency: Currency,
}

const EXPAND_CHARGE: &str = "latest_charge";

impl Gateway {
    /// A gateway to the configured account.
    ///
    /// # Errors
    /// There is no key, or it has characters that no header can carry.
    pub fn new(args: &StripeArgs) -> Result<Self, ConfigError> {
        const NAME: &str = "STRIPE_SECRET_KEY (--stripe-secret-key)";
        let key = args.stripe_secret_key.as_ref().ok_or(ConfigError::Missing(NAME))?;
        let client = PooledClient::new(key.expose(), &args.stripe_api_base).map_err(|_| ConfigError::Invalid {
            name: NAME,
            reason: "no header can carry it, or STRIPE_API_BASE is no URL".to_owned(),
        })?;
        Ok(Self { client })
    }

    /// Creates a PaymentIntent with manual capture. The card is not asked before [`Self::confirm`], so one that nobody
    /// knows of holds no money.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn create(&self, key: &str, request: &Authorization<'_>) -> Result<Intent, Failure> {
        let currency = request
            .currency
            .lowercase()
            .parse::<stripe_types::Currency>()
            .map_err(|_| Failure::Refused(format!("Stripe does not know the currency {}", request.currency)))?;
        let mut methods = CreatePaymentIntentAutomaticPaymentMethods::new(true);
        methods.allow_redirects = Some(CreatePaymentIntentAutomaticPaymentMethodsAllowRedirects::Never);
        let amount = at_stripe(request.currency, request.amount_minor)?;
        let intent = CreatePaymentIntent::new(amount, currency)
            .automatic_payment_methods(methods)
            .capture_method(PaymentIntentCaptureMethod::Manual)
            .payment_method(request.payment_method)
            .metadata(
                [("booking_id", request.booking_id), ("payment_id", request.payment_id)]
                    .map(|(name, id)| (name.to_owned(), id.to_string())),
            )
            .expand(vec![EXPAND_CHARGE.to_owned()])
            .customize()
            .request_strategy(idempotent(key)?)
            .send(&self.client)
            .await?;
        Ok(intent.into())
    }

    /// Asks the card of a PaymentIntent to reserve the amount.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn confirm(&self, key: &str, id: &str) -> Result<Intent, Failure> {
        let request = ConfirmPaymentIntent::new(own_id(id, "pi_")?).expand(vec![EXPAND_CHARGE.to_owned()]);
        Ok(request
            .customize()
            .request_strategy(idempotent(key)?)
            .send(&self.client)
            .await?
            .into())
    }

    /// Reads a PaymentIntent.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn intent(&self, id: &str) -> Result<Intent, Failure> {
        let id = own_id(id, "pi_")?;
        let request = RetrievePaymentIntent::new(id).expand(vec![EXPAND_CHARGE.to_owned()]);
        Ok(request.customize().send(&self.client).await?.into())
    }

    /// Captures the whole authorised amount.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn capture(&self, key: &str, id: &str) -> Result<Intent, Failure> {
        let request = CapturePaymentIntent::new(own_id(id, "pi_")?).expand(vec![EXPAND_CHARGE.to_owned()]);
        Ok(request
            .customize()
            .request_strategy(idempotent(key)?)
            .send(&self.client)
            .await?
            .into())
    }

    /// Releases the authorisation.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn void(&self, key: &str, id: &str) -> Result<Intent, Failure> {
        let request = CancelPaymentIntent::new(own_id(id, "pi_")?).expand(vec![EXPAND_CHARGE.to_owned()]);
        Ok(request
            .customize()
            .request_strategy(idempotent(key)?)
            .send(&self.client)
            .await?
            .into())
    }

    /// Pays back a part or all of what was captured.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn refund(&self, key: &str, request: &Repayment<'_>) -> Result<StripeRefund, Failure> {
        let refund = CreateRefund::new()
            .payment_intent(own_id(request.intent_id, "pi_")?.to_owned())
            .amount(at_stripe(request.currency, request.amount_minor)?)
            .metadata([("refund_id".to_owned(), request.refund_id.to_string())])
            .customize()
            .request_strategy(idempotent(key)?)
            .send(&self.client)
            .await?;
        Ok(refund.into())
    }

    /// Reads a refund.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn read_refund(&self, id: &str) -> Result<StripeRefund, Failure> {
        let request = RetrieveRefund::new(own_id(id, "re_")?);
        Ok(request.customize().send(&self.client).await?.into())
    }

    /// The refund at Stripe that was made for one of ours, if there is one. A payment has few.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn refund_made_for(&self, refund_id: Uuid, intent_id: &str) -> Result<Option<StripeRefund>, Failure> {
        let request = ListRefund::new()
            .payment_intent(own_id(intent_id, "pi_")?.to_owned())
            .limit(100);
        let page = request.customize().send(&self.client).await?;
        let mut refunds = page.data.into_iter().map(StripeRefund::from);
        Ok(refunds.find(|refund| refund.refund_id == Some(refund_id)))
    }
}

fn idempotent(key: &str) -> Result<RequestStrategy, Failure> {
    let key = IdempotencyKey::new(key).map_err(|error| Failure::Refused(error.to_string()))?;
    Ok(RequestStrategy::Idempotent(key))
}

/// The amount as Stripe writes it.
fn at_stripe(currency: Currency, minor: i64) -> Result<i64, Failure> {
    let terms = currency
        .stripe()
        .ok_or_else(|| Failure::Refused(format!("Stripe does not charge {currency}")))?;
    terms
        .to_stripe(minor)
        .ok_or_else(|| Failure::Refused(format!("Stripe cannot charge {minor} minor units of {currency}")))
}

/// An amount that Stripe wrote, in our minor units. Whatever is ours there is in a currency that we know.
fn from_stripe(currency: &stripe_types::Currency, amount: i64) -> i64 {
    Currency::from_lowercase(&currency.to_string())
        .ok()
        .and_then(Currency::stripe)
        .map_or(amount, |terms| terms.from_stripe(amount))
}

/// async-stripe puts ids into paths as they are: only what looks like one of Stripe's may pass.
fn own_id<'a>(id: &'a str, prefix: &str) -> Result<&'a str, Failure> {
    let rest = id.strip_prefix(prefix).unwrap_or("");
    if !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        Ok(id)
    } else {
        Err(Failure::Refused(format!("not an id that begins with {prefix}")))
    }
}

impl From<PaymentIntent> for Intent {
    fn from(intent: PaymentIntent) -> Self {
        let ours = |amount| from_stripe(&intent.currency, amount);
        let charge = intent.latest_charge.as_ref().and_then(|charge| charge.as_object());
        let capture_before = charge
            .and_then(|charge| charge.payment_method_details.as_ref())
            .and_then(|details| details.card.as_ref())
            .and_then(|card| card.capture_before)
            .and_then(|seconds| DateTime::from_timestamp(seconds, 0));
        Self {
            id: intent.id.to_string(),
            payment_id: intent.metadata.get("payment_id").and_then(|id| id.parse().ok()),
            status: match intent.status {
                PaymentIntentStatus::RequiresConfirmation => IntentStatus::RequiresConfirmation,
                PaymentIntentStatus::RequiresAction => IntentStatus::RequiresAction,
                PaymentIntentStatus::RequiresCapture => IntentStatus::RequiresCapture,
                PaymentIntentStatus::Succeeded => IntentStatus::Succeeded,
                PaymentIntentStatus::Canceled => IntentStatus::Canceled,
                PaymentIntentStatus::RequiresPaymentMethod => IntentStatus::RequiresPaymentMethod,
                _ => IntentStatus::Processing,
            },
            amount_minor: ours(intent.amount),
            capturable_minor: ours(intent.amount_capturable),
            received_minor: ours(intent.amount_received),
            capture_before,
            refunded_minor: charge.map_or(0, |charge| ours(charge.amount_refunded)),
            decline: intent.last_payment_error.map(|error| Decline {
                code: error.code.as_ref().map(ToString::to_string).unwrap_or_default(),
                decline_code: error.decline_code,
                message: error.message.unwrap_or_default(),
            }),
            client_secret: intent.client_secret,
        }
    }
}

impl From<Refund> for StripeRefund {
    fn from(refund: Refund) -> Self {
        let metadata = refund.metadata.unwrap_or_default();
        Self {
            amount_minor: from_stripe(&refund.currency, refund.amount),
            id: refund.id.to_string(),
            refund_id: metadata.get("refund_id").and_then(|id| id.parse().ok()),
            status: match refund.status.as_deref() {
                Some("succeeded") => RefundStatus::Succeeded,
                Some("failed" | "canceled") => RefundStatus::Failed,
                // `pending`, `requires_action`, and whatever comes to be.
                _ => RefundStatus::Pending,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ids_that_stripe_gives_reach_a_path() {
        assert!(own_id("pi_3NXabc", "pi_").is_ok());
        for bad in ["", "pi_", "pi_../refunds", "ch_1", "pi_1?x=1", "pi_1/capture"] {
            assert!(own_id(bad, "pi_").is_err(), "{bad}");
        }
    }
}
