//! Asking Stripe about an effect in doubt: an operator asks, a worker looks the object up (it has the key, the api has
//! not), and the answer stays beside the effect. Looking changes nothing at Stripe and nothing in our record.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgPool;
use sqlx::types::Json;
use uuid::Uuid;

use super::actions::{ActionError, By};
use super::catalogue::InspectEffect;
use super::inspect::{Effect, JobDetail};
use crate::db::{Tx, violated_constraint};
use crate::money::{Currency, Money};
use crate::operators::audit::{self, Entry};
use crate::stripe::{Intent, IntentStatus, RefundStatus, StripeRefund};

/// Whether an effect is one at Stripe, about which Stripe can be asked.
#[must_use]
pub fn is_at_stripe(effect_key: &str) -> bool {
    ["authorize:", "capture:", "void:", "refund:"]
        .iter()
        .any(|kind| effect_key.starts_with(kind))
}

/// What is at Stripe, as it was when it was read. Amounts in minor units.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "object", rename_all = "snake_case")]
pub enum AtStripe {
    /// The payment's PaymentIntent.
    Intent {
        /// `pi_…`
        id: String,
        /// Where it stands.
        status: IntentStatus,
        /// Of all amounts.
        currency: Currency,
        /// What was asked for.
        amount_minor: i64,
        /// What is reserved and may still be captured.
        capturable_minor: i64,
        /// What was captured.
        captured_minor: i64,
        /// What went back.
        refunded_minor: i64,
        /// When the reservation lapses.
        capture_before: Option<DateTime<Utc>>,
        /// Why the card was refused.
        decline: Option<String>,
    },
    /// The refund that was made for ours.
    Refund {
        /// `re_…`
        id: String,
        /// Where it stands.
        status: RefundStatus,
        /// Of the amount.
        currency: Currency,
        /// What goes back.
        amount_minor: i64,
    },
    /// No refund was made for ours.
    NoRefund,
    /// We know of no PaymentIntent, and a card is asked only by one that we know.
    NoIntent,
}

impl AtStripe {
    /// A PaymentIntent that was read. `currency` is the payment's.
    #[must_use]
    pub fn intent(intent: Intent, currency: Currency) -> Self {
        Self::Intent {
            id: intent.id,
            status: intent.status,
            currency,
            amount_minor: intent.amount_minor,
            capturable_minor: intent.capturable_minor,
            captured_minor: intent.received_minor,
            refunded_minor: intent.refunded_minor,
            capture_before: intent.capture_before,
            decline: intent.decline.map(|decline| decline.code),
        }
    }

    /// A refund that was read, or looked for and not found. `currency` is the payment's.
    #[must_use]
    pub fn refund(refund: Option<StripeRefund>, currency: Currency) -> Self {
        refund.map_or(Self::NoRefund, |refund| Self::Refund {
            id: refund.id,
            status: refund.status,
            currency,
            amount_minor: refund.amount_minor,
        })
    }

    /// What Stripe says, as the rest of a sentence that begins with "Stripe".
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::NoIntent => "was never told to ask the card".to_owned(),
            Self::NoRefund => "has no such refund".to_owned(),
            Self::Refund {
                id,
                status,
                currency,
                amount_minor,
            } => {
                let amount = english(*amount_minor, *currency);
                match status {
                    RefundStatus::Succeeded => format!("paid {amount} back ({id})"),
                    RefundStatus::Pending => format!("is paying {amount} back ({id})"),
                    RefundStatus::Failed => format!("could not pay {amount} back ({id})"),
                }
            }
            Self::Intent {
                id,
                status,
                currency,
                amount_minor,
                capturable_minor,
                captured_minor,
                refunded_minor,
                capture_before,
                decline,
            } => {
                let english = |minor| english(minor, *currency);
                let words = match status {
                    IntentStatus::Succeeded if *refunded_minor > 0 => format!(
                        "captured {} and paid {} back",
                        english(*captured_minor),
                        english(*refunded_minor)
                    ),
                    IntentStatus::Succeeded => format!("captured {}", english(*captured_minor)),
                    IntentStatus::RequiresCapture => format!(
                        "has reserved {} and captured nothing{}",
                        english(*capturable_minor),
                        capture_before
                            .map(|at| format!("; the reservation lapses at {}", at.format("%Y-%m-%d %H:%M UTC")))
                            .unwrap_or_default()
                    ),
                    IntentStatus::Canceled => "has cancelled it: nothing is reserved, nothing was captured".to_owned(),
                    IntentStatus::RequiresConfirmation => {
                        format!("has not asked the card for {} yet", english(*amount_minor))
                    }
                    IntentStatus::RequiresAction => "waits for the guest to prove to be the card's owner".to_owned(),
                    IntentStatus::RequiresPaymentMethod => format!(
                        "says that the card was refused{}",
                        decline.as_ref().map(|code| format!(": {code}")).unwrap_or_default()
                    ),
                    IntentStatus::Processing => "has not made up its mind yet".to_owned(),
                };
                format!("{words} ({id})")
            }
        }
    }
}

fn english(minor: i64, currency: Currency) -> String {
    Money::new(minor, currency).format("en")
}

/// The newest question about an effect.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// About which.
    pub effect_key: String,
    /// When.
    pub asked_at: DateTime<Utc>,
    /// By whom.
    pub asked_by: String,
    /// When the answer came.
    pub answered_at: Option<DateTime<Utc>>,
    /// What is there.
    pub facts: Option<Json<AtStripe>>,
    /// Why Stripe could not be asked.
    pub error: Option<String>,
    /// The effect's last change before Stripe was asked.
    pub effect_updated_at: Option<DateTime<Utc>>,
}

impl Inspection {
    /// What Stripe said, while that holds: no attempt has touched the effect since.
    #[must_use]
    pub fn answer_on(&self, effect: &Effect) -> Option<&AtStripe> {
        let holds = self.effect_updated_at == Some(effect.updated_at);
        self.facts.as_ref().filter(|_| holds).map(|Json(facts)| facts)
    }

    /// The answer as a sentence; none while there is none.
    #[must_use]
    pub fn words(&self) -> Option<String> {
        match (&self.facts, &self.error) {
            (Some(Json(facts)), _) => Some(format!("Stripe {}.", facts.words())),
            (None, Some(error)) => Some(format!("Stripe could not be asked: {error}. Ask again.")),
            (None, None) => None,
        }
    }
}

/// Asks about every effect that a job has at Stripe and returns their keys. A worker of the queue `maintenance` looks
/// at once.
///
/// # Errors
/// The job has no effect at Stripe, or has none any more.
pub async fn ask(tx: &mut Tx, detail: &JobDetail, by: By<'_>) -> Result<Vec<String>, ActionError> {
    by.answerable(false)?;
    let effects = detail.effects.iter().map(|effect| &effect.key);
    let keys: Vec<String> = effects.filter(|key| is_at_stripe(key)).cloned().collect();
    if keys.is_empty() {
        return Err(ActionError::NothingToAsk);
    }
    let now = tx.now();
    sqlx::query!(
        "INSERT INTO effect_inspections (effect_key, asked_at, asked_by) SELECT key, $2, $3 FROM unnest($1::text[]) AS asked (key) ORDER BY key
         ON CONFLICT (effect_key) DO UPDATE SET asked_at = $2, asked_by = $3, answered_at = NULL, facts = NULL, error = NULL,
             effect_updated_at = NULL",
        &keys,
        now,
        by.actor
    )
    .execute(tx.conn())
    .await
    .map_err(|error| match violated_constraint(&error) {
        // Pruned since the job was read.
        Some("effect_inspections_effect") => ActionError::NotFound("effect"),
        _ => ActionError::Database(error),
    })?;
    for key in &keys {
        tx.enqueue(&InspectEffect {
            effect_key: key.clone(),
        });
    }
    let entry = Entry::on_job(by.actor, "job.ask", detail.job.id)
        .after(json!({ "effects": keys }))
        .because(by.reason());
    audit::append(tx, entry).await?;
    Ok(keys)
}

/// The effect as whoever looks at Stripe finds it.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The payment that it is about.
    pub payment_id: Option<Uuid>,
    /// Its last change.
    pub updated_at: DateTime<Utc>,
    /// When it was asked about; who asks again meanwhile gets an answer of their own.
    pub asked_at: DateTime<Utc>,
}

/// An effect that was asked about and has no answer yet.
///
/// # Errors
/// Postgres could not be reached.
pub async fn asked(pool: &PgPool, effect_key: &str) -> Result<Option<Asked>, sqlx::Error> {
    sqlx::query_as!(
        Asked,
        "SELECT entity_id AS payment_id, updated_at, asked_at FROM effects
         JOIN effect_inspections ON effect_key = key AND answered_at IS NULL WHERE key = $1",
        effect_key
    )
    .fetch_optional(pool)
    .await
}

/// Keeps what Stripe answered about an effect that was `asked` about, or why it did not.
///
/// # Errors
/// Postgres refused.
pub async fn answer(
    tx: &mut Tx,
    effect_key: &str,
    asked: &Asked,
    answer: Result<&AtStripe, &str>,
) -> Result<(), sqlx::Error> {
    let now = tx.now();
    sqlx::query!(
        "UPDATE effect_inspections SET answered_at = $2, facts = $3, error = $4, effect_updated_at = $5
         WHERE effect_key = $1 AND asked_at = $6",
        effect_key,
        now,
        answer.ok().map(Json) as _,
        answer.err(),
        asked.updated_at,
        asked.asked_at
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// The newest questions about these effects.
///
/// # Errors
/// Postgres could not be reached.
pub async fn of(pool: &PgPool, effect_keys: &[String]) -> Result<Vec<Inspection>, sqlx::Error> {
    sqlx::query_as!(
        Inspection,
        r#"SELECT effect_key, asked_at, asked_by, answered_at, facts AS "facts: Json<AtStripe>", error, effect_updated_at
           FROM effect_inspections WHERE effect_key = ANY($1)"#,
        effect_keys
    )
    .fetch_all(pool)
    .await
}
