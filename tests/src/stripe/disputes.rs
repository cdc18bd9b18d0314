//! Disputes: opened by the dispute test cards as soon as the money is captured, closed through a
//! control route.

use serde_json::{Map, Value, json};

use super::account::Call;
use super::errors::ApiError;
use super::ids::new_id;
use super::params::Params;
use super::table::{Paging, Row, list_object};

const ANSWER_SECONDS: i64 = 9 * 24 * 60 * 60;

/// A cardholder's complaint.
#[derive(Debug)]
pub(super) struct Dispute {
    pub id: String,
    pub created: i64,
    amount: i64,
    currency: String,
    charge: String,
    payment_intent: String,
    brand: &'static str,
    reason: &'static str,
    pub status: &'static str,
    pub balance_transactions: Vec<String>,
}

impl Row for Dispute {
    const KIND: &'static str = "dispute";
    fn id(&self) -> &str {
        &self.id
    }
    fn created(&self) -> i64 {
        self.created
    }
}

const EVIDENCE: [&str; 27] = [
    "access_activity_log",
    "billing_address",
    "cancellation_policy",
    "cancellation_policy_disclosure",
    "cancellation_rebuttal",
    "customer_communication",
    "customer_email_address",
    "customer_name",
    "customer_purchase_ip",
    "customer_signature",
    "duplicate_charge_documentation",
    "duplicate_charge_explanation",
    "duplicate_charge_id",
    "product_description",
    "receipt",
    "refund_policy",
    "refund_policy_disclosure",
    "refund_refusal_explanation",
    "service_date",
    "service_documentation",
    "shipping_address",
    "shipping_carrier",
    "shipping_date",
    "shipping_documentation",
    "shipping_tracking_number",
    "uncategorized_file",
    "uncategorized_text",
];

impl Dispute {
    pub fn to_json(&self, balance_transactions: &[Value]) -> Value {
        let mut evidence: Map<String, Value> = EVIDENCE.iter().map(|name| ((*name).to_owned(), Value::Null)).collect();
        evidence.insert("enhanced_evidence".into(), json!({}));
        json!({
            "id": self.id,
            "object": "dispute",
            "amount": self.amount,
            "balance_transactions": balance_transactions,
            "charge": self.charge,
            "created": self.created,
            "currency": self.currency,
            "enhanced_eligibility_types": [],
            "evidence": evidence,
            "evidence_details": {
                "due_by": self.created + ANSWER_SECONDS, "enhanced_eligibility": {},
                "has_evidence": false, "past_due": false, "submission_count": 0,
            },
            "is_charge_refundable": false,
            "livemode": false,
            "metadata": {},
            "payment_intent": self.payment_intent,
            "payment_method_details": {
                "card": {"brand": self.brand, "case_type": "chargeback",
                         "network": self.brand, "network_reason_code": "10.4"},
                "type": "card",
            },
            "reason": self.reason,
            "status": self.status,
        })
    }
}

impl Call<'_> {
    /// The cardholder disputes a captured charge and the bank takes the money back.
    pub fn open_dispute(&mut self, charge: &str, reason: &'static str) -> Result<(), ApiError> {
        let row = self.account.charges.get_mut(charge)?;
        let id = new_id("dp");
        row.dispute = Some(id.clone());
        let mut dispute = Dispute {
            id: id.clone(),
            created: self.now,
            amount: row.amount_captured,
            currency: row.currency.clone(),
            charge: charge.to_owned(),
            payment_intent: row.payment_intent.clone(),
            brand: row.card.brand,
            reason,
            status: "needs_response",
            balance_transactions: Vec::new(),
        };
        let withdrawn = self.book("adjustment", -dispute.amount, &dispute.currency, &id);
        dispute.balance_transactions.push(withdrawn);
        self.account.disputes.insert(dispute);
        self.emit("charge.dispute.created", &id);
        self.emit("charge.dispute.funds_withdrawn", &id);
        Ok(())
    }

    /// The bank decides.
    pub fn close_dispute(&mut self, id: &str, won: bool) -> Result<Value, ApiError> {
        let dispute = self.account.disputes.get(id)?;
        if dispute.status != "needs_response" {
            return Err(ApiError::refused(
                "status_transition_invalid",
                format!("The dispute is already {}.", dispute.status),
            ));
        }
        let (amount, currency) = (dispute.amount, dispute.currency.clone());
        let back = won.then(|| self.book("adjustment", amount, &currency, id));
        let dispute = self.account.disputes.get_mut(id)?;
        dispute.status = if won { "won" } else { "lost" };
        dispute.balance_transactions.extend(back);
        self.emit("charge.dispute.closed", id);
        if won {
            self.emit("charge.dispute.funds_reinstated", id);
        }
        self.get_dispute(id, Params::default())
    }

    pub fn get_dispute(&mut self, id: &str, params: Params) -> Result<Value, ApiError> {
        params.finish()?;
        self.account.disputes.get(id)?;
        Ok(self.account.render(id, self.now).unwrap_or_default())
    }

    pub fn list_disputes(&mut self, mut params: Params) -> Result<Value, ApiError> {
        let paging = Paging::read(&mut params)?;
        let charge = params.text("charge")?;
        let intent = params.text("payment_intent")?;
        params.finish()?;
        let wanted = |dispute: &Dispute| {
            charge.as_ref().is_none_or(|charge| *charge == dispute.charge)
                && intent.as_ref().is_none_or(|intent| *intent == dispute.payment_intent)
        };
        let (disputes, more) = self.account.disputes.page(&paging, wanted)?;
        let data = disputes.iter().filter_map(|row| self.account.render(&row.id, self.now));
        Ok(list_object("/v1/disputes", data.collect(), more))
    }
}
