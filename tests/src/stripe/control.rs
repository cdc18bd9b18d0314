//! Control routes under `/_control`: what happens outside Stripe's API (the cardholder, the bank,
//! time, trouble) and the sandbox's own record. No authentication: it listens on the machine only.

use std::sync::Arc;
use std::time::Duration;

use poem::web::{Data, Json, Path};
use poem::{Response, Route, get, handler, post};
use serde::Deserialize;
use serde_json::{Value, json};

use super::core::Core;
use super::earlier::EarlierPayment;
use super::faults::Fault;
use super::locked;
use super::server::{control_reply, done, json_reply};
use super::webhooks::WebhookEndpoint;

/// The routes, relative to `/_control`.
pub(super) fn routes() -> Route {
    Route::new()
        .at("/payment_intents", post(remember))
        .at("/payment_intents/:id/:action", post(act_on_intent))
        .at("/disputes/:id/close", post(close_dispute))
        .at("/refunds/:id/:outcome", post(settle_refund))
        .at("/faults", get(list_faults).post(add_fault).delete(clear_faults))
        .at("/clock", get(read_clock))
        .at("/clock/advance", post(advance_clock))
        .at("/webhook_endpoints", get(list_endpoints).put(set_endpoints))
        .at("/deliveries", get(list_deliveries))
        .at("/events", get(list_events))
        .at("/events/:id/resend", post(resend))
        .at("/record", get(record))
        .at("/exchanges", get(exchanges))
        .at("/reset", post(reset))
}

/// Moves the clock and does what fell due.
pub(super) fn advance(core: &Core, by: Duration) {
    core.clock
        .advance(chrono::Duration::from_std(by).unwrap_or(chrono::Duration::MAX));
    if let Err(error) = core.run_unrequested(|_| Ok(())) {
        tracing::error!(?error, "an authorisation could not lapse");
    }
}

#[handler]
fn remember(Json(earlier): Json<Vec<EarlierPayment>>, Data(core): Data<&Arc<Core>>) -> Response {
    let mut earlier = earlier.into_iter();
    control_reply(core.run_unrequested(|call| {
        let remembered = earlier.try_for_each(|payment| call.remember(payment));
        remembered.map(|()| json!({ "ok": true }))
    }))
}

#[handler]
fn act_on_intent(Path((id, action)): Path<(String, String)>, Data(core): Data<&Arc<Core>>) -> Response {
    control_reply(core.run_unrequested(|call| match action.as_str() {
        "complete_3ds" => call.complete_3ds(&id),
        "fail_3ds" => call.fail_3ds(&id),
        "lapse" => call.lapse(&id),
        _ => Err(super::ApiError::unknown_url("POST", &format!("/_control/…/{action}"))),
    }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Verdict {
    won: bool,
}

#[handler]
fn close_dispute(Path(id): Path<String>, Json(verdict): Json<Verdict>, Data(core): Data<&Arc<Core>>) -> Response {
    control_reply(core.run_unrequested(|call| call.close_dispute(&id, verdict.won)))
}

#[handler]
fn settle_refund(Path((id, outcome)): Path<(String, String)>, Data(core): Data<&Arc<Core>>) -> Response {
    control_reply(core.run_unrequested(|call| match outcome.as_str() {
        "succeed" => call.settle_refund(&id, true),
        "fail" => call.settle_refund(&id, false),
        _ => Err(super::ApiError::unknown_url("POST", &format!("/_control/…/{outcome}"))),
    }))
}

#[handler]
fn list_faults(Data(core): Data<&Arc<Core>>) -> Response {
    json_reply(200, &json!(locked(&core.faults).pending()))
}

#[handler]
fn add_fault(Json(fault): Json<Fault>, Data(core): Data<&Arc<Core>>) -> Response {
    locked(&core.faults).add(fault);
    done()
}

#[handler]
fn clear_faults(Data(core): Data<&Arc<Core>>) -> Response {
    locked(&core.faults).clear();
    done()
}

#[handler]
fn read_clock(Data(core): Data<&Arc<Core>>) -> Response {
    json_reply(200, &json!({ "now": core.now() }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Advance {
    seconds: u64,
}

#[handler]
fn advance_clock(Json(by): Json<Advance>, Data(core): Data<&Arc<Core>>) -> Response {
    advance(core, Duration::from_secs(by.seconds));
    json_reply(200, &json!({ "now": core.now() }))
}

#[handler]
fn list_endpoints(Data(core): Data<&Arc<Core>>) -> Response {
    json_reply(200, &json!(core.webhooks.endpoints()))
}

#[handler]
fn set_endpoints(Json(endpoints): Json<Vec<WebhookEndpoint>>, Data(core): Data<&Arc<Core>>) -> Response {
    core.webhooks.set_endpoints(endpoints);
    done()
}

#[handler]
fn list_deliveries(Data(core): Data<&Arc<Core>>) -> Response {
    json_reply(200, &json!(core.webhooks.log()))
}

#[handler]
fn list_events(Data(core): Data<&Arc<Core>>) -> Response {
    json_reply(200, &Value::Array(core.events()))
}

#[handler]
fn resend(Path(id): Path<String>, Data(core): Data<&Arc<Core>>) -> Response {
    control_reply(core.send_again(&id).map(|()| json!({ "ok": true })))
}

#[handler]
fn record(Data(core): Data<&Arc<Core>>) -> Response {
    json_reply(200, &json!({ "payment_intents": core.record() }))
}

#[handler]
fn exchanges(Data(core): Data<&Arc<Core>>) -> Response {
    json_reply(200, &json!(locked(&core.journal).exchanges()))
}

#[handler]
fn reset(Data(core): Data<&Arc<Core>>) -> Response {
    core.reset();
    done()
}
