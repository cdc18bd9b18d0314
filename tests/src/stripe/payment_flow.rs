//! The life of a payment intent: confirmation, authorisation or decline, 3-D Secure, capture,
//! cancellation, and the lapse of authorisations nobody captured.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::account::Call;
use super::cards::{AUTHENTICATION_REQUIRED, Aftermath, Decline};
use super::charges::Charge;
use super::errors::ApiError;
use super::ids::new_id;
use super::params::{Params, merge_metadata};
use super::payment_intents::{AutomaticMethods, IntentStatus};

/// How a confirmation is to be carried out.
#[derive(Debug, Default)]
pub(super) struct Confirmation {
    return_url: Option<String>,
    off_session: Option<bool>,
    error_on_requires_action: Option<bool>,
}

impl Confirmation {
    pub fn read(params: &mut Params) -> Result<Self, ApiError> {
        params.boolean("use_stripe_sdk")?;
        Ok(Self {
            return_url: params.text("return_url")?,
            off_session: params.boolean("off_session")?,
            error_on_requires_action: params.boolean("error_on_requires_action")?,
        })
    }

    /// The name of a parameter that was given, if any.
    pub fn given(&self) -> Option<&'static str> {
        if self.return_url.is_some() {
            Some("return_url")
        } else if self.off_session.is_some() {
            Some("off_session")
        } else if self.error_on_requires_action.is_some() {
            Some("error_on_requires_action")
        } else {
            None
        }
    }

    /// What must hold before a confirmation may begin.
    pub fn check(&self, methods: AutomaticMethods, has_method: bool) -> Result<(), ApiError> {
        if !has_method {
            return Err(ApiError::invalid(
                "You cannot confirm this PaymentIntent because it's missing a payment method. You \
                 can either update the PaymentIntent with a payment method and then confirm it \
                 again, or confirm it again directly with a payment method.",
            )
            .code("payment_intent_unexpected_state"));
        }
        if methods.enabled && methods.redirects && self.return_url.is_none() {
            return Err(ApiError::invalid(
                "This PaymentIntent is configured to accept payment methods enabled in your \
                 Dashboard. Because some of these payment methods might redirect your customer \
                 off of your page, you must provide a `return_url`. If you don't want to accept \
                 redirect-based payment methods, set `automatic_payment_methods[enabled]` to \
                 `true` and `automatic_payment_methods[allow_redirects]` to `never`.",
            ));
        }
        Ok(())
    }
}

impl Call<'_> {
    pub fn confirm_payment_intent(&mut self, id: &str, mut params: Params) -> Result<Value, ApiError> {
        let payment_method = params.text("payment_method")?;
        let confirmation = Confirmation::read(&mut params)?;
        params.finish()?;
        let intent = self.account.payment_intents.get(id)?;
        match intent.status {
            IntentStatus::RequiresPaymentMethod | IntentStatus::RequiresConfirmation | IntentStatus::RequiresAction => {
            }
            IntentStatus::Succeeded => {
                return Err(self.unexpected_state(
                    id,
                    "You cannot confirm this PaymentIntent because it has already succeeded after \
                     being previously confirmed.",
                ));
            }
            status => {
                return Err(self.unexpected_state(
                    id,
                    &format!(
                        "You cannot confirm this PaymentIntent because it has a status of {}.",
                        status.as_str()
                    ),
                ));
            }
        }
        let has_method = payment_method.is_some() || intent.payment_method.is_some();
        confirmation.check(intent.automatic, has_method)?;
        if let Some(name) = payment_method {
            let method = self.resolve_payment_method(&name)?;
            self.account.payment_intents.get_mut(id)?.payment_method = Some(method);
        }
        self.attempt_payment(id, &confirmation)?;
        self.payment_intent_json(id)
    }

    /// Tries the intent's payment method.
    pub fn attempt_payment(&mut self, id: &str, how: &Confirmation) -> Result<(), ApiError> {
        let page = format!("{}/payments/{id}", self.settings.base_url);
        let intent = self.account.payment_intents.get_mut(id)?;
        let method = intent.payment_method.clone().unwrap_or_default();
        let card = self.account.payment_methods.get(&method)?.card;
        if !card.authenticate {
            return self.charge(id, card.decline, false);
        }
        if how.off_session == Some(true) || how.error_on_requires_action == Some(true) {
            return self.charge(id, Some(&AUTHENTICATION_REQUIRED), false);
        }
        intent.status = IntentStatus::RequiresAction;
        intent.next_action = Some(match &how.return_url {
            Some(return_url) => json!({
                "type": "redirect_to_url",
                "redirect_to_url": {"return_url": return_url, "url": page},
            }),
            None => json!({
                "type": "use_stripe_sdk",
                "use_stripe_sdk": {"type": "three_d_secure_redirect", "stripe_js": page},
            }),
        });
        self.emit("payment_intent.requires_action", id);
        Ok(())
    }

    /// The bank answers: declined, or authorised and, unless capture is manual, captured.
    fn charge(&mut self, id: &str, decline: Option<&'static Decline>, authenticated: bool) -> Result<(), ApiError> {
        let lapses = self.now + self.settings.authorisation_lifetime_seconds;
        let intent = self.account.payment_intents.get_mut(id)?;
        let method = intent.payment_method.clone().unwrap_or_default();
        let method = self.account.payment_methods.get_mut(&method)?;
        method.spent = decline.is_none();
        let capture_before = (decline.is_none() && intent.manual_capture()).then_some(lapses);
        let charge = Charge {
            id: new_id("ch"),
            created: self.now,
            payment_intent: id.to_owned(),
            payment_method: method.id.clone(),
            billing_details: method.billing_details.clone(),
            card: method.card,
            amount: intent.amount,
            currency: intent.currency.clone(),
            amount_captured: 0,
            refunded: 0,
            released: 0,
            captured: false,
            decline,
            capture_before,
            authenticated,
            dispute: None,
            balance_transaction: None,
            description: intent.description.clone(),
            receipt_email: intent.receipt_email.clone(),
            statement_descriptor: intent.statement_descriptor.clone(),
            statement_descriptor_suffix: intent.statement_descriptor_suffix.clone(),
            transfer_group: intent.transfer_group.clone(),
            metadata: intent.metadata.clone(),
        };
        let charge_id = charge.id.clone();
        intent.latest_charge = Some(charge_id.clone());
        intent.next_action = None;
        self.account.charges.insert(charge);
        if let Some(decline) = decline {
            return Err(self.declined(id, &charge_id, decline)?);
        }
        intent.last_payment_error = None;
        intent.authorised = intent.amount;
        if capture_before.is_some() {
            intent.status = IntentStatus::RequiresCapture;
            intent.amount_capturable = intent.amount;
            self.account.open_authorisations.insert((lapses, id.to_owned()));
            self.emit("charge.succeeded", &charge_id);
            self.emit("payment_intent.amount_capturable_updated", id);
            Ok(())
        } else {
            let amount = intent.amount;
            self.take_money(id, &charge_id, amount)?;
            self.emit("charge.succeeded", &charge_id);
            self.emit("payment_intent.succeeded", id);
            self.after_capture(&charge_id)
        }
    }

    /// Notes a decline on the intent and builds the error for the caller.
    fn declined(&mut self, id: &str, charge: &str, decline: &'static Decline) -> Result<ApiError, ApiError> {
        let intent = self.account.payment_intents.get_mut(id)?;
        let method = intent.payment_method.take().unwrap_or_default();
        let method = self.account.payment_methods.get(&method)?.to_json();
        let error = ApiError::card(decline.code, decline.message)
            .detail("decline_code", json!(decline.decline_code))
            .detail("advice_code", json!(decline.advice_code))
            .detail("network_decline_code", json!("01"))
            .detail("charge", json!(charge))
            .detail("payment_method", method);
        intent.status = IntentStatus::RequiresPaymentMethod;
        intent.last_payment_error = Some(Value::Object(error.object()));
        self.emit("charge.failed", charge);
        self.emit("payment_intent.payment_failed", id);
        Ok(error.detail("payment_intent", self.payment_intent_json(id)?))
    }

    /// Moves the money of an authorised charge.
    fn take_money(&mut self, id: &str, charge: &str, amount: i64) -> Result<(), ApiError> {
        let row = self.account.charges.get_mut(charge)?;
        let currency = row.currency.clone();
        row.captured = true;
        row.amount_captured = amount;
        row.released = row.amount - amount;
        let transaction = self.book("charge", amount, &currency, charge);
        self.account.charges.get_mut(charge)?.balance_transaction = Some(transaction);
        let intent = self.account.payment_intents.get_mut(id)?;
        intent.status = IntentStatus::Succeeded;
        intent.amount_capturable = 0;
        intent.amount_received = amount;
        intent.captures += 1;
        Ok(())
    }

    fn after_capture(&mut self, charge: &str) -> Result<(), ApiError> {
        match self.account.charges.get(charge)?.card.aftermath {
            Aftermath::Dispute(reason) => self.open_dispute(charge, reason),
            _ => Ok(()),
        }
    }

    /// The cardholder passes the bank's 3-D Secure challenge.
    pub fn complete_3ds(&mut self, id: &str) -> Result<Value, ApiError> {
        let card = self.card_to_authenticate(id)?;
        match self.charge(id, card, true) {
            // The cardholder's browser hears of a decline, the caller of this route does not.
            Ok(()) => self.payment_intent_json(id),
            Err(error) if error.status == 402 => self.payment_intent_json(id),
            Err(error) => Err(error),
        }
    }

    /// The cardholder fails or abandons the challenge.
    pub fn fail_3ds(&mut self, id: &str) -> Result<Value, ApiError> {
        self.card_to_authenticate(id)?;
        let intent = self.account.payment_intents.get_mut(id)?;
        let method = intent.payment_method.take().unwrap_or_default();
        let method = self.account.payment_methods.get(&method)?.to_json();
        let error = ApiError::refused(
            "payment_intent_authentication_failure",
            "The provided PaymentMethod has failed authentication. You can provide \
             payment_method_data or a new PaymentMethod to attempt to fulfill this PaymentIntent \
             again.",
        )
        .detail("payment_method", method);
        intent.status = IntentStatus::RequiresPaymentMethod;
        intent.next_action = None;
        intent.last_payment_error = Some(Value::Object(error.object()));
        self.emit("payment_intent.payment_failed", id);
        self.payment_intent_json(id)
    }

    fn card_to_authenticate(&self, id: &str) -> Result<Option<&'static Decline>, ApiError> {
        let intent = self.account.payment_intents.get(id)?;
        if intent.status != IntentStatus::RequiresAction {
            return Err(self.unexpected_state(id, "No authentication is asked for."));
        }
        let method = intent.payment_method.clone().unwrap_or_default();
        Ok(self.account.payment_methods.get(&method)?.card.decline)
    }

    pub fn capture_payment_intent(&mut self, id: &str, mut params: Params) -> Result<Value, ApiError> {
        let amount = params.positive("amount_to_capture")?;
        let final_capture = params.boolean("final_capture")?;
        let metadata = params.metadata()?;
        let descriptor = params.text("statement_descriptor")?;
        let suffix = params.text("statement_descriptor_suffix")?;
        params.finish()?;
        if final_capture == Some(false) {
            return Err(ApiError::invalid("This payment does not support multicapture.").param("final_capture"));
        }
        let intent = self.account.payment_intents.get(id)?;
        if intent.status != IntentStatus::RequiresCapture {
            let message = if intent.captures > 0 {
                "This PaymentIntent could not be captured because it has already been captured.".to_owned()
            } else {
                format!(
                    "This PaymentIntent could not be captured because it has a status of {}. Only \
                     a PaymentIntent with one of the following statuses may be captured: \
                     requires_capture.",
                    intent.status.as_str()
                )
            };
            return Err(self.unexpected_state(id, &message));
        }
        let amount = amount.unwrap_or(intent.amount_capturable);
        if amount > intent.amount_capturable {
            return Err(ApiError::refused(
                "amount_too_large",
                format!(
                    "The amount_to_capture {amount} is greater than the amount_capturable {}.",
                    intent.amount_capturable
                ),
            )
            .param("amount_to_capture"));
        }
        let intent = self.account.payment_intents.get_mut(id)?;
        merge_metadata(&mut intent.metadata, metadata);
        intent.statement_descriptor = descriptor.or(intent.statement_descriptor.take());
        intent.statement_descriptor_suffix = suffix.or(intent.statement_descriptor_suffix.take());
        let charge = intent.latest_charge.clone().unwrap_or_default();
        self.close_authorisation(id, &charge)?;
        self.take_money(id, &charge, amount)?;
        self.emit("charge.captured", &charge);
        self.emit("payment_intent.succeeded", id);
        self.after_capture(&charge)?;
        self.payment_intent_json(id)
    }

    fn close_authorisation(&mut self, id: &str, charge: &str) -> Result<(), ApiError> {
        let lapses = self.account.charges.get(charge)?.capture_before.unwrap_or_default();
        self.account.open_authorisations.remove(&(lapses, id.to_owned()));
        Ok(())
    }

    pub fn cancel_payment_intent(&mut self, id: &str, mut params: Params) -> Result<Value, ApiError> {
        let reasons = ["abandoned", "duplicate", "fraudulent", "requested_by_customer"];
        let reason = params.one_of("cancellation_reason", &reasons)?;
        params.finish()?;
        let status = self.account.payment_intents.get(id)?.status;
        if matches!(status, IntentStatus::Succeeded | IntentStatus::Canceled) {
            let message = format!(
                "You cannot cancel this PaymentIntent because it has a status of {}. Only a \
                 PaymentIntent with one of the following statuses may be canceled: \
                 requires_payment_method, requires_capture, requires_reauthorization, \
                 requires_confirmation, requires_action, processing.",
                status.as_str()
            );
            return Err(self.unexpected_state(id, &message));
        }
        self.release(id, reason, "charge.refunded")?;
        self.payment_intent_json(id)
    }

    /// Ends an intent, letting go what was authorised.
    fn release(&mut self, id: &str, reason: Option<&'static str>, charge_event: &'static str) -> Result<(), ApiError> {
        let now = self.now;
        let intent = self.account.payment_intents.get_mut(id)?;
        let authorised = intent.status == IntentStatus::RequiresCapture;
        let charge = intent.latest_charge.clone().filter(|_| authorised);
        intent.status = IntentStatus::Canceled;
        intent.canceled_at = Some(now);
        intent.cancellation_reason = reason;
        intent.amount_capturable = 0;
        intent.next_action = None;
        if let Some(charge) = charge {
            self.close_authorisation(id, &charge)?;
            let row = self.account.charges.get_mut(&charge)?;
            row.released = row.amount;
            self.emit(charge_event, &charge);
        }
        self.emit("payment_intent.canceled", id);
        Ok(())
    }

    /// Cancels every authorisation whose time is over.
    pub fn lapse_due(&mut self) -> Result<(), ApiError> {
        while let Some((instant, id)) = self.account.open_authorisations.first().cloned() {
            if instant > self.now {
                break;
            }
            // Whatever happens below, this entry is dealt with.
            self.account.open_authorisations.pop_first();
            self.release(&id, Some("automatic"), "charge.expired")?;
        }
        Ok(())
    }

    /// Lets one authorisation lapse now, before its time.
    pub fn lapse(&mut self, id: &str) -> Result<Value, ApiError> {
        if self.account.payment_intents.get(id)?.status != IntentStatus::RequiresCapture {
            return Err(self.unexpected_state(id, "There is no authorisation to lapse."));
        }
        self.release(id, Some("automatic"), "charge.expired")?;
        self.payment_intent_json(id)
    }
}

/// Amounts of one payment for the sandbox's own record.
pub(super) fn refunded_by_intent<'a>(charges: impl Iterator<Item = &'a Charge>) -> BTreeMap<&'a str, i64> {
    let mut refunded = BTreeMap::new();
    for charge in charges {
        *refunded.entry(charge.payment_intent.as_str()).or_insert(0) += charge.refunded;
    }
    refunded
}
