//! Payments of before the sandbox started: Stripe remembers them, and so must what plays Stripe when a database is kept
//! from one run to the next.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::account::Call;
use super::errors::ApiError;
use super::params::Params;

/// What became of a payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Fate {
    Authorized,
    Captured,
}

/// A payment as the platform remembers it. Whatever card it was, it was good.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EarlierPayment {
    id: String,
    /// Seconds since the Unix epoch.
    created: i64,
    amount: i64,
    currency: String,
    fate: Fate,
    refunded: i64,
    metadata: Map<String, Value>,
}

impl Call<'_> {
    /// Does again what was done then, without telling anybody. A payment that is known stays as it is.
    pub fn remember(&mut self, earlier: EarlierPayment) -> Result<(), ApiError> {
        if self.account.payment_intents.find(&earlier.id).is_some() {
            return Ok(());
        }
        let (now, told) = (self.now, self.account.outbox.len());
        self.now = earlier.created;
        let done = self.repeat(earlier);
        self.account.outbox.truncate(told);
        self.now = now;
        done
    }

    fn repeat(&mut self, earlier: EarlierPayment) -> Result<(), ApiError> {
        let params = fields(json!({
            "amount": earlier.amount.to_string(), "currency": earlier.currency, "capture_method": "manual", "confirm": "true",
            "payment_method": "pm_card_visa", "metadata": earlier.metadata,
            "automatic_payment_methods": {"enabled": "true", "allow_redirects": "never"},
        }));
        let id = earlier.id;
        self.create_payment_intent_as(&id, params)?;
        match earlier.fate {
            Fate::Authorized => {}
            Fate::Captured => {
                self.capture_payment_intent(&id, fields(json!({})))?;
            }
        }
        if earlier.refunded > 0 {
            let params = json!({"payment_intent": id, "amount": earlier.refunded.to_string()});
            self.create_refund(fields(params))?;
        }
        Ok(())
    }
}

fn fields(object: Value) -> Params {
    match object {
        Value::Object(fields) => Params::new(fields),
        _ => Params::new(Map::new()),
    }
}
