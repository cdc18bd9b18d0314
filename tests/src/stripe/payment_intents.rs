//! Payment intents as objects: creating, reading, listing and updating them. What moves them
//! from state to state is in `payment_flow.rs`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::account::Call;
use super::currencies;
use super::errors::ApiError;
use super::ids::{new_id, random};
use super::params::{Params, merge_metadata};
use super::payment_flow::Confirmation;
use super::table::{Paging, Row, list_object};

/// Where a payment intent stands. `processing` does not occur: cards answer at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntentStatus {
    RequiresPaymentMethod,
    RequiresConfirmation,
    RequiresAction,
    RequiresCapture,
    Succeeded,
    Canceled,
}

impl IntentStatus {
    /// The word in Stripe's JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RequiresPaymentMethod => "requires_payment_method",
            Self::RequiresConfirmation => "requires_confirmation",
            Self::RequiresAction => "requires_action",
            Self::RequiresCapture => "requires_capture",
            Self::Succeeded => "succeeded",
            Self::Canceled => "canceled",
        }
    }
}

/// Which payment methods the intent takes on its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct AutomaticMethods {
    pub enabled: bool,
    pub redirects: bool,
}

/// One payment.
#[derive(Debug)]
pub(super) struct PaymentIntent {
    pub id: String,
    pub created: i64,
    client_secret: String,
    pub amount: i64,
    pub currency: String,
    pub capture_method: &'static str,
    confirmation_method: &'static str,
    pub automatic: AutomaticMethods,
    pub status: IntentStatus,
    pub amount_capturable: i64,
    pub amount_received: i64,
    pub payment_method: Option<String>,
    pub latest_charge: Option<String>,
    pub last_payment_error: Option<Value>,
    pub next_action: Option<Value>,
    pub canceled_at: Option<i64>,
    pub cancellation_reason: Option<&'static str>,
    pub metadata: BTreeMap<String, String>,
    pub description: Option<String>,
    pub receipt_email: Option<String>,
    pub statement_descriptor: Option<String>,
    pub statement_descriptor_suffix: Option<String>,
    setup_future_usage: Option<&'static str>,
    pub transfer_group: Option<String>,
    /// For the sandbox's own record: what was ever authorised, and how often captured.
    pub authorised: i64,
    pub captures: u32,
}

impl Row for PaymentIntent {
    const KIND: &'static str = "payment_intent";
    fn id(&self) -> &str {
        &self.id
    }
    fn created(&self) -> i64 {
        self.created
    }
}

impl PaymentIntent {
    pub fn manual_capture(&self) -> bool {
        self.capture_method == "manual"
    }

    pub fn to_json(&self) -> Value {
        let automatic = self.automatic.enabled.then(|| {
            let redirects = if self.automatic.redirects { "always" } else { "never" };
            json!({"allow_redirects": redirects, "enabled": true})
        });
        json!({
            "id": self.id,
            "object": "payment_intent",
            "amount": self.amount,
            "amount_capturable": self.amount_capturable,
            "amount_details": {"tip": {}},
            "amount_received": self.amount_received,
            "application": null,
            "application_fee_amount": null,
            "automatic_payment_methods": automatic,
            "canceled_at": self.canceled_at,
            "cancellation_reason": self.cancellation_reason,
            "capture_method": self.capture_method,
            "client_secret": self.client_secret,
            "confirmation_method": self.confirmation_method,
            "created": self.created,
            "currency": self.currency,
            "customer": null,
            "customer_account": null,
            "description": self.description,
            "excluded_payment_method_types": null,
            "last_payment_error": self.last_payment_error,
            "latest_charge": self.latest_charge,
            "livemode": false,
            "metadata": self.metadata,
            "next_action": self.next_action,
            "on_behalf_of": null,
            "payment_method": self.payment_method,
            "payment_method_configuration_details": null,
            "payment_method_options": {
                "card": {"installments": null, "mandate_options": null, "network": null,
                         "request_three_d_secure": "automatic"},
            },
            "payment_method_types": ["card"],
            "processing": null,
            "receipt_email": self.receipt_email,
            "review": null,
            "setup_future_usage": self.setup_future_usage,
            "shipping": null,
            "statement_descriptor": self.statement_descriptor,
            "statement_descriptor_suffix": self.statement_descriptor_suffix,
            "status": self.status.as_str(),
            "transfer_data": null,
            "transfer_group": self.transfer_group,
        })
    }
}

/// The parameters that creating and updating share.
#[derive(Debug)]
struct Particulars {
    description: Option<String>,
    receipt_email: Option<String>,
    statement_descriptor: Option<String>,
    statement_descriptor_suffix: Option<String>,
    setup_future_usage: Option<&'static str>,
    transfer_group: Option<String>,
    metadata: BTreeMap<String, String>,
}

impl Particulars {
    fn read(params: &mut Params) -> Result<Self, ApiError> {
        let receipt_email = params.text("receipt_email")?;
        if let Some(email) = receipt_email.as_ref().filter(|email| !email.contains('@')) {
            return Err(ApiError::invalid(format!("Invalid email address: {email}"))
                .code("email_invalid")
                .param("receipt_email"));
        }
        Ok(Self {
            description: params.text("description")?,
            receipt_email,
            statement_descriptor: params.text("statement_descriptor")?,
            statement_descriptor_suffix: params.text("statement_descriptor_suffix")?,
            setup_future_usage: params.one_of("setup_future_usage", &["on_session", "off_session"])?,
            transfer_group: params.text("transfer_group")?,
            metadata: params.metadata()?,
        })
    }

    fn apply(self, intent: &mut PaymentIntent) {
        merge_metadata(&mut intent.metadata, self.metadata);
        let set = |field: &mut Option<String>, value: Option<String>| {
            if value.is_some() {
                *field = value;
            }
        };
        set(&mut intent.description, self.description);
        set(&mut intent.receipt_email, self.receipt_email);
        set(&mut intent.statement_descriptor, self.statement_descriptor);
        set(
            &mut intent.statement_descriptor_suffix,
            self.statement_descriptor_suffix,
        );
        set(&mut intent.transfer_group, self.transfer_group);
        intent.setup_future_usage = self.setup_future_usage.or(intent.setup_future_usage);
    }
}

fn read_automatic_methods(params: &mut Params) -> Result<AutomaticMethods, ApiError> {
    let Some(mut group) = params.group("automatic_payment_methods")? else {
        // On by default since API version 2023-08-16.
        return Ok(AutomaticMethods {
            enabled: true,
            redirects: true,
        });
    };
    let enabled = group.boolean("enabled")?;
    let redirects = group.one_of("allow_redirects", &["always", "never"])?;
    group.finish()?;
    Ok(AutomaticMethods {
        enabled: enabled.ok_or_else(|| ApiError::missing("automatic_payment_methods[enabled]"))?,
        redirects: redirects != Some("never"),
    })
}

impl Call<'_> {
    pub fn create_payment_intent(&mut self, params: Params) -> Result<Value, ApiError> {
        self.create_payment_intent_as(&new_id("pi"), params)
    }

    pub fn create_payment_intent_as(&mut self, id: &str, mut params: Params) -> Result<Value, ApiError> {
        let amount = params.positive("amount")?.ok_or_else(|| ApiError::missing("amount"))?;
        let currency = currencies::parse(&params.required_text("currency")?)?;
        currencies::check_amount(amount, &currency)?;
        let capture_method = params
            .one_of("capture_method", &["automatic", "automatic_async", "manual"])?
            .unwrap_or("automatic_async");
        let confirmation_method = params
            .one_of("confirmation_method", &["automatic", "manual"])?
            .unwrap_or("automatic");
        let automatic = read_automatic_methods(&mut params)?;
        let particulars = Particulars::read(&mut params)?;
        let confirm = params.boolean("confirm")?.unwrap_or(false);
        let payment_method = params.text("payment_method")?;
        let confirmation = Confirmation::read(&mut params)?;
        params.finish()?;
        if !confirm && let Some(name) = confirmation.given() {
            return Err(
                ApiError::invalid(format!("The parameter {name} can only be used with confirm=true.")).param(name),
            );
        }
        if confirm {
            confirmation.check(automatic, payment_method.is_some())?;
        }
        let payment_method = payment_method
            .map(|name| self.resolve_payment_method(&name))
            .transpose()?;

        let mut intent = PaymentIntent {
            client_secret: format!("{id}_secret_{}", random(25)),
            id: id.to_owned(),
            created: self.now,
            amount,
            currency,
            capture_method,
            confirmation_method,
            automatic,
            status: match payment_method {
                Some(_) => IntentStatus::RequiresConfirmation,
                None => IntentStatus::RequiresPaymentMethod,
            },
            amount_capturable: 0,
            amount_received: 0,
            payment_method,
            latest_charge: None,
            last_payment_error: None,
            next_action: None,
            canceled_at: None,
            cancellation_reason: None,
            metadata: BTreeMap::new(),
            description: None,
            receipt_email: None,
            statement_descriptor: None,
            statement_descriptor_suffix: None,
            setup_future_usage: None,
            transfer_group: None,
            authorised: 0,
            captures: 0,
        };
        particulars.apply(&mut intent);
        self.account.payment_intents.insert(intent);
        self.emit("payment_intent.created", id);
        if confirm {
            self.attempt_payment(id, &confirmation)?;
        }
        self.payment_intent_json(id)
    }

    pub fn update_payment_intent(&mut self, id: &str, mut params: Params) -> Result<Value, ApiError> {
        let amount = params.positive("amount")?;
        let payment_method = params.text("payment_method")?;
        let particulars = Particulars::read(&mut params)?;
        params.finish()?;
        let intent = self.account.payment_intents.get(id)?;
        let before_authorisation = matches!(
            intent.status,
            IntentStatus::RequiresPaymentMethod | IntentStatus::RequiresConfirmation | IntentStatus::RequiresAction
        );
        if (amount.is_some() || payment_method.is_some()) && !before_authorisation {
            return Err(self.unexpected_state(
                id,
                &format!(
                    "This PaymentIntent's amount or payment method could not be updated because it \
                     has a status of {}.",
                    intent.status.as_str()
                ),
            ));
        }
        if let Some(amount) = amount {
            currencies::check_amount(amount, &intent.currency)?;
        }
        let payment_method = payment_method
            .map(|name| self.resolve_payment_method(&name))
            .transpose()?;
        let intent = self.account.payment_intents.get_mut(id)?;
        particulars.apply(intent);
        intent.amount = amount.unwrap_or(intent.amount);
        if payment_method.is_some() {
            intent.payment_method = payment_method;
            intent.status = IntentStatus::RequiresConfirmation;
            intent.next_action = None;
        }
        self.payment_intent_json(id)
    }

    pub fn get_payment_intent(&mut self, id: &str, mut params: Params) -> Result<Value, ApiError> {
        // Publishable clients send it; a secret key needs none.
        params.text("client_secret")?;
        params.finish()?;
        self.payment_intent_json(id)
    }

    pub fn list_payment_intents(&mut self, mut params: Params) -> Result<Value, ApiError> {
        let paging = Paging::read(&mut params)?;
        params.finish()?;
        let (intents, more) = self.account.payment_intents.page(&paging, |_| true)?;
        let data = intents.into_iter().map(PaymentIntent::to_json).collect();
        Ok(list_object("/v1/payment_intents", data, more))
    }

    pub fn payment_intent_json(&self, id: &str) -> Result<Value, ApiError> {
        Ok(self.account.payment_intents.get(id)?.to_json())
    }

    /// The refusal of an operation that the intent's state forbids, with the intent embedded.
    pub fn unexpected_state(&self, id: &str, message: &str) -> ApiError {
        let error = ApiError::refused("payment_intent_unexpected_state", message);
        match self.payment_intent_json(id) {
            Ok(intent) => error.detail("payment_intent", intent),
            Err(missing) => missing,
        }
    }
}
