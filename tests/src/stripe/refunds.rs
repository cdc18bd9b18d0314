//! Refunds: whole or partial, never more than was captured.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::account::Call;
use super::cards::Aftermath;
use super::currencies;
use super::errors::ApiError;
use super::ids::new_id;
use super::params::{Params, merge_metadata};
use super::table::{Paging, Row, list_object};

/// Money going back to a card.
#[derive(Debug)]
pub(super) struct Refund {
    pub id: String,
    pub created: i64,
    pub amount: i64,
    currency: String,
    pub charge: String,
    payment_intent: String,
    reason: Option<&'static str>,
    status: &'static str,
    balance_transaction: Option<String>,
    failure_balance_transaction: Option<String>,
    metadata: BTreeMap<String, String>,
}

impl Row for Refund {
    const KIND: &'static str = "refund";
    fn id(&self) -> &str {
        &self.id
    }
    fn created(&self) -> i64 {
        self.created
    }
}

impl Refund {
    pub fn to_json(&self) -> Value {
        let mut refund = json!({
            "id": self.id,
            "object": "refund",
            "amount": self.amount,
            "balance_transaction": self.balance_transaction,
            "charge": self.charge,
            "created": self.created,
            "currency": self.currency,
            "destination_details": {
                "card": {"reference_status": "pending", "reference_type":
                         "acquirer_reference_number", "type": "refund"},
                "type": "card",
            },
            "metadata": self.metadata,
            "payment_intent": self.payment_intent,
            "reason": self.reason,
            "receipt_number": null,
            "source_transfer_reversal": null,
            "status": self.status,
            "transfer_reversal": null,
        });
        if let Some(transaction) = &self.failure_balance_transaction {
            refund["failure_balance_transaction"] = json!(transaction);
            refund["failure_reason"] = json!("expired_or_canceled_card");
        }
        refund
    }
}

impl Call<'_> {
    pub fn create_refund(&mut self, mut params: Params) -> Result<Value, ApiError> {
        let charge = params.text("charge")?;
        let intent = params.text("payment_intent")?;
        let amount = params.positive("amount")?;
        let reasons = ["duplicate", "fraudulent", "requested_by_customer"];
        let reason = params.one_of("reason", &reasons)?;
        let metadata = params.metadata()?;
        params.finish()?;

        let charge = self.charge_to_refund(charge, intent)?;
        let amount = self.check_refund(&charge, amount)?;
        let row = self.account.charges.get_mut(&charge)?;
        row.refunded += amount;
        let (currency, payment_intent) = (row.currency.clone(), row.payment_intent.clone());
        let aftermath = row.card.aftermath;

        let id = new_id("re");
        let transaction = self.book("refund", -amount, &currency, &id);
        let mut refund = Refund {
            id: id.clone(),
            created: self.now,
            amount,
            currency,
            charge: charge.clone(),
            payment_intent,
            reason,
            status: if aftermath == Aftermath::RefundPending {
                "pending"
            } else {
                "succeeded"
            },
            balance_transaction: Some(transaction),
            failure_balance_transaction: None,
            metadata: BTreeMap::new(),
        };
        merge_metadata(&mut refund.metadata, metadata);
        let reply = refund.to_json();
        self.account.refunds.insert(refund);
        self.emit("refund.created", &id);
        self.emit("charge.refunded", &charge);
        match aftermath {
            Aftermath::RefundFails => {
                self.settle_refund(&id, false)?;
            }
            // Until somebody settles it from outside.
            Aftermath::RefundPending | Aftermath::Nothing | Aftermath::Dispute(_) => {}
        }
        Ok(reply)
    }

    /// The charge that the parameters name, directly or through its payment intent.
    fn charge_to_refund(&self, charge: Option<String>, intent: Option<String>) -> Result<String, ApiError> {
        match (charge, intent) {
            (Some(charge), None) => match self.account.charges.find(&charge) {
                Some(_) => Ok(charge),
                None => Err(ApiError::no_such("charge", &charge, "charge")),
            },
            (None, Some(intent)) => {
                let row = self.account.payment_intents.find(&intent);
                let row = row.ok_or_else(|| ApiError::no_such("payment_intent", &intent, "payment_intent"))?;
                row.latest_charge.clone().ok_or_else(|| {
                    ApiError::refused(
                        "charge_not_refundable",
                        format!("This PaymentIntent ({intent}) does not have a successful charge to refund."),
                    )
                })
            }
            (None, None) => Err(ApiError::invalid(
                "One of the following params should be provided for this request: payment_intent \
                 or charge.",
            )
            .code("parameter_missing")),
            (Some(_), Some(_)) => Err(ApiError::invalid(
                "You may only specify one of these parameters: charge, payment_intent.",
            )
            .code("parameters_exclusive")),
        }
    }

    /// How much to give back, or why not.
    fn check_refund(&self, id: &str, amount: Option<i64>) -> Result<i64, ApiError> {
        let charge = self.account.charges.get(id)?;
        if !charge.captured {
            return Err(ApiError::refused(
                "charge_not_refundable",
                format!(
                    "Charge {id} was not captured and cannot be refunded. Cancel the PaymentIntent \
                     ({}) to release an authorization.",
                    charge.payment_intent
                ),
            ));
        }
        if charge.dispute.is_some() {
            return Err(ApiError::refused(
                "charge_disputed",
                format!("Charge {id} has been charged back; cannot issue a refund."),
            ));
        }
        let left = charge.refundable();
        if left == 0 {
            return Err(ApiError::refused(
                "charge_already_refunded",
                format!("Charge {id} has already been refunded."),
            ));
        }
        let amount = amount.unwrap_or(left);
        if amount > left {
            return Err(ApiError::refused(
                "amount_too_large",
                format!(
                    "Refund amount ({}) is greater than unrefunded amount on charge ({})",
                    currencies::format(amount, &charge.currency),
                    currencies::format(left, &charge.currency)
                ),
            )
            .param("amount"));
        }
        Ok(amount)
    }

    /// What the card network says later: the money arrived, or it came back.
    pub fn settle_refund(&mut self, id: &str, succeeds: bool) -> Result<Value, ApiError> {
        let refund = self.account.refunds.get_mut(id)?;
        let before = refund.status;
        if before == "failed" {
            return Err(ApiError::invalid("This refund has failed already."));
        }
        let (amount, charge) = (refund.amount, refund.charge.clone());
        if succeeds {
            refund.status = "succeeded";
        } else {
            let currency = refund.currency.clone();
            let back = self.book("refund_failure", amount, &currency, id);
            let refund = self.account.refunds.get_mut(id)?;
            refund.status = "failed";
            refund.failure_balance_transaction = Some(back);
            self.account.charges.get_mut(&charge)?.refunded -= amount;
        }
        self.emit_change("refund.updated", id, Some(json!({ "status": before })));
        if !succeeds {
            self.emit("refund.failed", id);
        }
        Ok(self.account.refunds.get(id)?.to_json())
    }

    pub fn get_refund(&mut self, id: &str, params: Params) -> Result<Value, ApiError> {
        params.finish()?;
        Ok(self.account.refunds.get(id)?.to_json())
    }

    pub fn list_refunds(&mut self, mut params: Params) -> Result<Value, ApiError> {
        let paging = Paging::read(&mut params)?;
        let charge = params.text("charge")?;
        let intent = params.text("payment_intent")?;
        params.finish()?;
        let wanted = |refund: &Refund| {
            charge.as_ref().is_none_or(|charge| *charge == refund.charge)
                && intent.as_ref().is_none_or(|intent| *intent == refund.payment_intent)
        };
        let (refunds, more) = self.account.refunds.page(&paging, wanted)?;
        Ok(list_object(
            "/v1/refunds",
            refunds.into_iter().map(Refund::to_json).collect(),
            more,
        ))
    }
}
