//! Payment methods: each use of a test token makes a new one, as at Stripe.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::account::Call;
use super::cards::{self, TestCard};
use super::errors::ApiError;
use super::ids::new_id;
use super::params::{Params, merge_metadata};
use super::table::Row;

/// A card as the account knows it.
#[derive(Debug)]
pub(super) struct PaymentMethod {
    pub id: String,
    pub created: i64,
    pub card: &'static TestCard,
    pub billing_details: Value,
    pub metadata: BTreeMap<String, String>,
    /// Without a customer a payment method pays once.
    pub spent: bool,
}

impl Row for PaymentMethod {
    const KIND: &'static str = "PaymentMethod";
    fn id(&self) -> &str {
        &self.id
    }
    fn created(&self) -> i64 {
        self.created
    }
}

/// Billing details nobody gave.
pub(super) fn no_billing_details() -> Value {
    json!({
        "address": {"city": null, "country": null, "line1": null, "line2": null,
                    "postal_code": null, "state": null},
        "email": null, "name": null, "phone": null, "tax_id": null,
    })
}

impl PaymentMethod {
    fn new(card: &'static TestCard, created: i64) -> Self {
        Self {
            id: new_id("pm"),
            created,
            card,
            billing_details: no_billing_details(),
            metadata: BTreeMap::new(),
            spent: false,
        }
    }

    pub fn to_json(&self) -> Value {
        json!({
            "id": self.id,
            "object": "payment_method",
            "allow_redisplay": "unspecified",
            "billing_details": self.billing_details,
            "card": {
                "brand": self.card.brand,
                "checks": {"address_line1_check": null, "address_postal_code_check": null,
                           "cvc_check": "pass"},
                "country": "US",
                "display_brand": self.card.brand,
                "exp_month": 12,
                "exp_year": 2034,
                "fingerprint": format!("sandbox{}{}", self.card.brand, self.card.last4),
                "funding": if self.card.name.ends_with("_debit") { "debit" } else { "credit" },
                "generated_from": null,
                "last4": self.card.last4,
                "networks": {"available": [self.card.brand], "preferred": null},
                "regulated_status": "unregulated",
                "three_d_secure_usage": {"supported": true},
                "wallet": null,
            },
            "created": self.created,
            "customer": null,
            "customer_account": null,
            "livemode": false,
            "metadata": self.metadata,
            "type": "card",
        })
    }
}

impl Call<'_> {
    /// The payment method a parameter names: a stored one that may still pay, or a new one made
    /// from a test token. Returns its id.
    pub fn resolve_payment_method(&mut self, name: &str) -> Result<String, ApiError> {
        if let Some(method) = self.account.payment_methods.find(name) {
            if method.spent {
                return Err(ApiError::invalid(
                    "The provided PaymentMethod was previously used with a PaymentIntent without \
                     Customer attachment. It may not be used again.",
                )
                .param("payment_method"));
            }
            return Ok(method.id.clone());
        }
        let card = cards::find(name)
            .filter(|_| name.starts_with("pm_card_"))
            .ok_or_else(|| ApiError::no_such("PaymentMethod", name, "payment_method"))?;
        Ok(self.add_payment_method(PaymentMethod::new(card, self.now)))
    }

    fn add_payment_method(&mut self, method: PaymentMethod) -> String {
        let id = method.id.clone();
        self.account.payment_methods.insert(method);
        id
    }

    pub fn create_payment_method(&mut self, mut params: Params) -> Result<Value, ApiError> {
        if params.one_of("type", &["card"])?.is_none() {
            return Err(ApiError::missing("type"));
        }
        let mut card = params.group("card")?.ok_or_else(|| ApiError::missing("card"))?;
        let token = card.required_text("token")?;
        card.finish()?;
        let mut billing_details = no_billing_details();
        if let Some(mut given) = params.group("billing_details")? {
            for name in ["email", "name", "phone"] {
                billing_details[name] = json!(given.text(name)?);
            }
            given.finish()?;
        }
        let metadata = params.metadata()?;
        params.finish()?;
        let card = cards::find(&token)
            .filter(|_| token.starts_with("tok_"))
            .ok_or_else(|| ApiError::no_such("token", &token, "card[token]"))?;
        let mut method = PaymentMethod {
            billing_details,
            ..PaymentMethod::new(card, self.now)
        };
        merge_metadata(&mut method.metadata, metadata);
        let reply = method.to_json();
        self.add_payment_method(method);
        Ok(reply)
    }

    pub fn get_payment_method(&mut self, id: &str, params: Params) -> Result<Value, ApiError> {
        params.finish()?;
        Ok(self.account.payment_methods.get(id)?.to_json())
    }
}
