//! Every operation of the sandbox's Stripe, by method and path.

use serde_json::Value;

use super::account::Call;
use super::errors::ApiError;
use super::expand;
use super::params::Params;

/// Runs the operation that lives at `method` and `path` (without `/v1`).
pub(super) fn run(call: &mut Call<'_>, method: &str, path: &str, mut params: Params) -> Result<Value, ApiError> {
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    let paths = params.texts("expand")?;
    expand::check(&paths)?;
    let mut reply = match (method, segments.as_slice()) {
        ("POST", ["payment_intents"]) => call.create_payment_intent(params),
        ("GET", ["payment_intents"]) => call.list_payment_intents(params),
        ("GET", ["payment_intents", id]) => call.get_payment_intent(id, params),
        ("POST", ["payment_intents", id]) => call.update_payment_intent(id, params),
        ("POST", ["payment_intents", id, "confirm"]) => call.confirm_payment_intent(id, params),
        ("POST", ["payment_intents", id, "capture"]) => call.capture_payment_intent(id, params),
        ("POST", ["payment_intents", id, "cancel"]) => call.cancel_payment_intent(id, params),

        ("POST", ["payment_methods"]) => call.create_payment_method(params),
        ("GET", ["payment_methods", id]) => call.get_payment_method(id, params),

        ("GET", ["charges"]) => call.list_charges(params),
        ("GET", ["charges", id]) => call.get_charge(id, params),

        ("POST", ["refunds"]) => call.create_refund(params),
        ("GET", ["refunds"]) => call.list_refunds(params),
        ("GET", ["refunds", id]) => call.get_refund(id, params),

        ("GET", ["disputes"]) => call.list_disputes(params),
        ("GET", ["disputes", id]) => call.get_dispute(id, params),

        ("GET", ["balance"]) => call.get_balance(params),
        ("GET", ["balance_transactions"]) => call.list_balance_transactions(params),
        ("GET", ["balance_transactions", id]) => call.get_balance_transaction(id, params),

        ("GET", ["events"]) => call.list_events(params),
        ("GET", ["events", id]) => call.get_event(id, params),

        _ => Err(ApiError::unknown_url(
            method,
            &format!("/v1/{}", path.trim_matches('/')),
        )),
    }?;
    call.expand(&mut reply, &paths)?;
    Ok(reply)
}
