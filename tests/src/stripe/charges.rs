//! Charges: one attempt on a card each, made by payment intents.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::account::Call;
use super::cards::{Decline, TestCard};
use super::errors::ApiError;
use super::params::Params;
use super::table::{Paging, Row, list_object};

/// An attempt on a card: declined, authorised, captured or released again.
#[derive(Debug)]
pub(super) struct Charge {
    pub id: String,
    pub created: i64,
    pub payment_intent: String,
    pub payment_method: String,
    pub billing_details: Value,
    pub card: &'static TestCard,
    pub amount: i64,
    pub currency: String,
    pub amount_captured: i64,
    /// Given back to the cardholder after capture.
    pub refunded: i64,
    /// Authorised and let go without capture. Stripe's `amount_refunded` contains it.
    pub released: i64,
    pub captured: bool,
    pub decline: Option<&'static Decline>,
    /// Set for manual capture: when the authorisation lapses.
    pub capture_before: Option<i64>,
    pub authenticated: bool,
    pub dispute: Option<String>,
    pub balance_transaction: Option<String>,
    pub description: Option<String>,
    pub receipt_email: Option<String>,
    pub statement_descriptor: Option<String>,
    pub statement_descriptor_suffix: Option<String>,
    pub transfer_group: Option<String>,
    pub metadata: BTreeMap<String, String>,
}

impl Row for Charge {
    const KIND: &'static str = "charge";
    fn id(&self) -> &str {
        &self.id
    }
    fn created(&self) -> i64 {
        self.created
    }
}

/// Fields of a charge that the sandbox has no use for.
const UNUSED: [&str; 11] = [
    "application",
    "application_fee",
    "application_fee_amount",
    "customer",
    "failure_balance_transaction",
    "on_behalf_of",
    "receipt_number",
    "review",
    "shipping",
    "source_transfer",
    "transfer_data",
];

impl Charge {
    /// What a refund may still give back.
    pub fn refundable(&self) -> i64 {
        self.amount_captured - self.refunded
    }

    fn outcome(&self) -> Value {
        match self.decline {
            None => json!({
                "advice_code": null, "network_advice_code": null, "network_decline_code": null,
                "network_status": "approved_by_network", "reason": null, "risk_level": "normal",
                "risk_score": 20, "seller_message": "Payment complete.", "type": "authorized",
            }),
            Some(decline) => json!({
                "advice_code": decline.advice_code, "network_advice_code": null,
                "network_decline_code": "01", "network_status": "declined_by_network",
                "reason": decline.decline_code, "risk_level": "normal", "risk_score": 20,
                "seller_message": "The bank declined the payment.", "type": "issuer_declined",
            }),
        }
    }

    fn card_details(&self) -> Value {
        let three_d_secure = self.authenticated.then(|| {
            json!({"authentication_flow": "challenge", "electronic_commerce_indicator": "05",
                   "exemption_indicator": null, "result": "authenticated", "result_reason": null,
                   "transaction_id": null, "version": "2.2.0"})
        });
        let mut card = json!({
            "amount_authorized": if self.decline.is_none() { json!(self.amount) } else { json!(null) },
            "authorization_code": "123456",
            "brand": self.card.brand,
            "checks": {"address_line1_check": null, "address_postal_code_check": null,
                       "cvc_check": "pass"},
            "country": "US",
            "exp_month": 12,
            "exp_year": 2034,
            "extended_authorization": {"status": "disabled"},
            "fingerprint": format!("sandbox{}{}", self.card.brand, self.card.last4),
            "funding": if self.card.name.ends_with("_debit") { "debit" } else { "credit" },
            "incremental_authorization": {"status": "unavailable"},
            "installments": null,
            "last4": self.card.last4,
            "mandate": null,
            "multicapture": {"status": "unavailable"},
            "network": self.card.brand,
            "network_token": {"used": false},
            "network_transaction_id": "104557651805572",
            "overcapture": {"maximum_amount_capturable": self.amount, "status": "unavailable"},
            "regulated_status": "unregulated",
            "three_d_secure": three_d_secure,
            "wallet": null,
        });
        if let Some(instant) = self.capture_before {
            card["capture_before"] = json!(instant);
        }
        json!({ "card": card, "type": "card" })
    }

    pub fn to_json(&self) -> Value {
        let succeeded = self.decline.is_none();
        let amount_refunded = self.refunded + self.released;
        let mut charge = json!({
            "id": self.id,
            "object": "charge",
            "amount": self.amount,
            "amount_captured": self.amount_captured,
            "amount_refunded": amount_refunded,
            "balance_transaction": self.balance_transaction,
            "billing_details": self.billing_details,
            "calculated_statement_descriptor": "ROOST SANDBOX",
            "captured": self.captured,
            "created": self.created,
            "currency": self.currency,
            "description": self.description,
            "disputed": self.dispute.is_some(),
            "failure_code": self.decline.map(|decline| decline.code),
            "failure_message": self.decline.map(|decline| decline.message),
            "fraud_details": {},
            "livemode": false,
            "metadata": self.metadata,
            "outcome": self.outcome(),
            "paid": succeeded,
            "payment_intent": self.payment_intent,
            "payment_method": self.payment_method,
            "payment_method_details": self.card_details(),
            "radar_options": {},
            "receipt_email": self.receipt_email,
            "receipt_url": if succeeded {
                json!(format!("https://pay.stripe.com/receipts/{}", self.id))
            } else {
                json!(null)
            },
            "refunded": succeeded && amount_refunded == self.amount,
            "statement_descriptor": self.statement_descriptor,
            "statement_descriptor_suffix": self.statement_descriptor_suffix,
            "status": if succeeded { "succeeded" } else { "failed" },
            "transfer_group": self.transfer_group,
        });
        for name in UNUSED {
            charge[name] = Value::Null;
        }
        charge
    }
}

impl Call<'_> {
    pub fn get_charge(&mut self, id: &str, params: Params) -> Result<Value, ApiError> {
        params.finish()?;
        Ok(self.account.charges.get(id)?.to_json())
    }

    pub fn list_charges(&mut self, mut params: Params) -> Result<Value, ApiError> {
        let paging = Paging::read(&mut params)?;
        let intent = params.text("payment_intent")?;
        let group = params.text("transfer_group")?;
        params.finish()?;
        let wanted = |charge: &Charge| {
            intent.as_ref().is_none_or(|intent| *intent == charge.payment_intent)
                && group
                    .as_ref()
                    .is_none_or(|group| Some(group) == charge.transfer_group.as_ref())
        };
        let (charges, more) = self.account.charges.page(&paging, wanted)?;
        Ok(list_object(
            "/v1/charges",
            charges.into_iter().map(Charge::to_json).collect(),
            more,
        ))
    }
}
