//! Pages for people: the latest payments, and one payment with its events, deliveries and the
//! buttons that stand for the cardholder and the bank.

use std::fmt::Write as _;
use std::sync::Arc;

use poem::http::StatusCode;
use poem::web::{Data, Html, Path};
use poem::{IntoResponse, Response, Route, get, handler};
use serde_json::Value;

use super::core::Core;
use super::journal::PaymentRecord;
use super::{currencies, locked};

const SHOWN: usize = 200;
const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:68rem;\
    padding:0 1rem}table{border-collapse:collapse;width:100%}td,th{border-bottom:1px solid #ddd;\
    padding:.3rem .6rem;text-align:left}td.n{text-align:right}pre{background:#f6f6f6;padding:1rem;\
    overflow:auto}form{display:inline}";

/// Adds the pages to the server's routes.
pub(super) fn add_to(routes: Route) -> Route {
    routes.at("/", get(all_payments)).at("/payments/:id", get(one_payment))
}

fn document(title: &str, content: &str) -> Html<String> {
    Html(format!(
        "<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>\
         <style>{STYLE}</style><h1>{title}</h1>{content}</html>"
    ))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

fn row(payment: &PaymentRecord) -> String {
    let money = |amount| currencies::format(amount, &payment.currency);
    let metadata: Vec<String> = payment
        .metadata
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    format!(
        "<tr><td><a href=\"/payments/{id}\">{id}</a><td>{status}<td class=n>{}<td class=n>{}\
         <td class=n>{}<td>{}",
        money(payment.authorised),
        money(payment.captured),
        money(payment.refunded),
        escape(&metadata.join(", ")),
        id = payment.id,
        status = payment.status,
    )
}

#[handler]
fn all_payments(Data(core): Data<&Arc<Core>>) -> Html<String> {
    let mut content = String::from(
        "<p>The latest payments. <a href=/_control/record>Record</a> · \
         <a href=/_control/deliveries>Webhook deliveries</a> · \
         <a href=/_control/exchanges>Requests</a> · <a href=/_control/faults>Faults</a>\
         <table><tr><th>Payment<th>State<th>Authorised<th>Captured<th>Refunded<th>Metadata",
    );
    for payment in core.record().iter().rev().take(SHOWN) {
        content.push_str(&row(payment));
    }
    content.push_str("</table>");
    document("Stripe sandbox", &content)
}

#[handler]
fn one_payment(Path(id): Path<String>, Data(core): Data<&Arc<Core>>) -> Response {
    let Some(intent) = locked(&core.account).render(&id, core.now()) else {
        return StatusCode::NOT_FOUND.into();
    };
    let mut content = String::from("<p><a href=/>All payments</a>");
    let actions: &[(&str, &str)] = match intent["status"].as_str() {
        Some("requires_action") => &[("complete_3ds", "Pass 3-D Secure"), ("fail_3ds", "Fail 3-D Secure")],
        Some("requires_capture") => &[("lapse", "Let the authorisation lapse")],
        _ => &[],
    };
    for (action, label) in actions {
        // Writing to a string cannot fail.
        let _ = write!(
            content,
            " <form method=post action=\"/_control/payment_intents/{id}/{action}\">\
             <button>{label}</button></form>"
        );
    }
    let _ = write!(content, "<pre>{}</pre>", escape(&format!("{intent:#}")));
    let charge = intent["latest_charge"].as_str().unwrap_or_default();
    let about = |event: &Value| {
        let object = &event["data"]["object"];
        object["id"] == id.as_str() || object["payment_intent"] == id.as_str()
    };
    let deliveries = core.webhooks.log();
    content.push_str("<h2>Events</h2><table><tr><th>Event<th>Type<th>Deliveries");
    for event in core.events().iter().filter(|event| about(event)) {
        let event_id = event["id"].as_str().unwrap_or_default();
        let attempts: Vec<String> = deliveries
            .iter()
            .filter(|delivery| delivery.event == event_id)
            .map(|delivery| match delivery.status {
                Some(status) => status.to_string(),
                None => "no answer".to_owned(),
            })
            .collect();
        let kind = event["type"].as_str().unwrap_or_default();
        let _ = write!(content, "<tr><td>{event_id}<td>{kind}<td>{}", attempts.join(", "));
    }
    content.push_str("</table>");
    if let Some(charge) = locked(&core.account).render(charge, core.now()) {
        let _ = write!(content, "<h2>Charge</h2><pre>{}</pre>", escape(&format!("{charge:#}")));
    }
    document(&id, &content).into_response()
}
