//! The way of a request: authentication, faults, idempotency, the operation, the reply.
//!
//! Each request runs in a task of its own, so that a client that hangs up does not undo it: it
//! executes all the same, as at Stripe.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use poem::http::{HeaderMap, StatusCode};
use poem::web::Data;
use poem::{Addr, Body, Request, Response, handler};
use serde_json::{Map, Value, json};

use super::account::RequestRef;
use super::core::Core;
use super::errors::ApiError;
use super::faults::{Fault, FaultKind};
use super::idempotency::{Admission, SavedReply};
use super::ids::random;
use super::journal::Exchange;
use super::params::{Params, parse_form};
use super::{locked, machine_millis, routes};

/// A request taken apart, independent of the connection it came on.
struct Incoming {
    method: String,
    path: String,
    query: String,
    headers: HeaderMap,
    body: Vec<u8>,
    peer: Option<SocketAddr>,
}

/// What goes back.
struct Outgoing {
    status: u16,
    body: String,
    request_id: String,
    /// The request whose execution made this reply.
    original_request: String,
    replayed: bool,
}

#[handler]
pub(super) async fn stripe_api(request: &Request, body: Body, core: Data<&Arc<Core>>) -> Response {
    let peer = match request.remote_addr().0 {
        Addr::SocketAddr(peer) => Some(peer),
        _ => None,
    };
    let incoming = Incoming {
        method: request.method().as_str().to_owned(),
        path: request.original_uri().path().to_owned(),
        query: request.original_uri().query().unwrap_or_default().to_owned(),
        headers: request.headers().clone(),
        body: body.into_vec().await.unwrap_or_default(),
        peer,
    };
    let core = core.0.clone();
    let running = tokio::spawn(async move { answer(&core, incoming).await });
    running
        .await
        .unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into())
}

async fn answer(core: &Core, incoming: Incoming) -> Response {
    let fault = locked(&core.faults).for_request(&incoming.method, &incoming.path);
    let kind = fault.as_ref().map(|fault| fault.kind);
    let request_id = format!("req_{}", random(14));
    let params = parse_form(&[incoming.query.as_bytes(), &incoming.body]);
    let header = |name: &str| incoming.headers.get(name).and_then(|value| value.to_str().ok());
    let key = header("idempotency-key")
        .filter(|_| incoming.method == "POST")
        .map(str::to_owned);

    let outgoing = match kind {
        // Nothing ran and the API said nothing; the record shows status 0.
        Some(FaultKind::ResetBefore | FaultKind::BadGateway) => Outgoing {
            status: 0,
            body: String::new(),
            original_request: request_id.clone(),
            request_id,
            replayed: false,
        },
        _ => process(core, &incoming, &params, key.as_deref(), request_id, fault.as_ref()).await,
    };
    locked(&core.journal).add(
        Exchange {
            at_millis: machine_millis(),
            request_id: outgoing.request_id.clone(),
            method: incoming.method.clone(),
            path: incoming.path.clone(),
            params,
            idempotency_key: key.clone(),
            status: outgoing.status,
            reply: serde_json::from_str(&outgoing.body).unwrap_or(Value::Null),
            replayed: outgoing.replayed,
            fault: kind,
        },
        core.journal_length,
    );
    if kind == Some(FaultKind::DelayAfterCommit) {
        wait(fault.as_ref()).await;
    }
    let cut = || {
        if let Some(peer) = incoming.peer {
            core.connections.cut(peer);
        }
    };
    match kind {
        Some(FaultKind::ResetBefore | FaultKind::ResetAfterCommit) => {
            cut();
            StatusCode::BAD_GATEWAY.into()
        }
        Some(FaultKind::BadGateway | FaultKind::BadGatewayAfterCommit) => bad_gateway(),
        _ => respond(core, &incoming, key.as_deref(), outgoing, kind),
    }
}

/// Everything up to the reply's status and body.
async fn process(
    core: &Core,
    incoming: &Incoming,
    params: &Map<String, Value>,
    key: Option<&str>,
    request_id: String,
    fault: Option<&Fault>,
) -> Outgoing {
    let refusal = |error: &ApiError| Outgoing {
        status: error.status,
        body: pretty(&error.body(&request_id)),
        request_id: request_id.clone(),
        original_request: request_id.clone(),
        replayed: false,
    };
    // The rate limiter and authentication come before the idempotency layer.
    if fault.is_some_and(|fault| fault.kind == FaultKind::RateLimited) {
        return refusal(&ApiError::rate_limited());
    }
    if let Err(error) = authenticate(core, &incoming.headers).and_then(|()| check_type(incoming)) {
        return refusal(&error);
    }
    if let Some(key) = key {
        let now = core.now();
        match locked(&core.keys).admit(key, &incoming.path, params, now) {
            Err(error) => return refusal(&error),
            Ok(Admission::Replay(saved)) => {
                return Outgoing {
                    status: saved.status,
                    body: saved.body,
                    request_id,
                    original_request: saved.request_id,
                    replayed: true,
                };
            }
            Ok(Admission::Run) => {}
        }
    }
    let (status, body, executed) = execute(core, incoming, params, key, &request_id, fault).await;
    if let Some(key) = key {
        let mut keys = locked(&core.keys);
        if executed {
            let (body, request_id) = (body.clone(), request_id.clone());
            keys.save(
                key,
                SavedReply {
                    status,
                    body,
                    request_id,
                },
            );
        } else {
            keys.forget(key);
        }
    }
    let original_request = request_id.clone();
    Outgoing {
        status,
        body,
        request_id,
        original_request,
        replayed: false,
    }
}

/// Runs the operation: status, body, and whether execution began.
async fn execute(
    core: &Core,
    incoming: &Incoming,
    params: &Map<String, Value>,
    key: Option<&str>,
    request_id: &str,
    fault: Option<&Fault>,
) -> (u16, String, bool) {
    let kind = fault.map(|fault| fault.kind);
    if kind == Some(FaultKind::Delay) {
        wait(fault).await;
    }
    let failure = |error: &ApiError| (error.status, pretty(&error.body(request_id)), error.executed);
    if kind == Some(FaultKind::Declined) {
        return failure(&ApiError::card("card_declined", "Your card was declined."));
    }
    if kind == Some(FaultKind::ServerError) {
        return failure(&ApiError::internal());
    }
    let request = RequestRef {
        id: Some(request_id.to_owned()),
        idempotency_key: key.map(str::to_owned),
    };
    let path = incoming.path.strip_prefix("/v1").unwrap_or(&incoming.path);
    let result = core.run(request, |call| {
        routes::run(call, &incoming.method, path, Params::new(params.clone()))
    });
    match result {
        Ok(_) if kind == Some(FaultKind::ServerErrorAfterCommit) => failure(&ApiError::internal()),
        Ok(reply) => (200, pretty(&reply), true),
        Err(error) => failure(&error),
    }
}

async fn wait(fault: Option<&Fault>) {
    tokio::time::sleep(Duration::from_millis(fault.map_or(0, |fault| fault.delay_ms))).await;
}

fn authenticate(core: &Core, headers: &HeaderMap) -> Result<(), ApiError> {
    let given = headers.get("authorization").and_then(|value| value.to_str().ok());
    let key = given.and_then(|given| match given.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Some(token.trim().to_owned()),
        Some((scheme, pair)) if scheme.eq_ignore_ascii_case("basic") => {
            let pair = base64::engine::general_purpose::STANDARD.decode(pair.trim()).ok()?;
            let pair = String::from_utf8(pair).ok()?;
            pair.split(':').next().map(str::to_owned)
        }
        _ => None,
    });
    let Some(key) = key.filter(|key| !key.is_empty()) else {
        return Err(ApiError::unauthorised(
            "You did not provide an API key. You need to provide your API key in the \
             Authorization header, using Bearer auth (e.g. 'Authorization: Bearer \
             YOUR_SECRET_KEY').",
        ));
    };
    let taken = match &core.secret_key {
        Some(secret) => *secret == key,
        None => key.starts_with("sk_test_") || key.starts_with("rk_test_"),
    };
    if taken {
        Ok(())
    } else {
        let shown: String = key.chars().take(8).collect();
        Err(ApiError::unauthorised(format!("Invalid API Key provided: {shown}****")))
    }
}

fn check_type(incoming: &Incoming) -> Result<(), ApiError> {
    let content_type = incoming
        .headers
        .get("content-type")
        .and_then(|value| value.to_str().ok());
    let form = content_type.is_some_and(|content_type| content_type.starts_with("application/x-www-form-urlencoded"));
    if incoming.body.is_empty() || form {
        Ok(())
    } else {
        Err(ApiError::invalid(
            "Invalid request (check that your POST content type is \
             application/x-www-form-urlencoded).",
        ))
    }
}

fn pretty(value: &Value) -> String {
    format!("{value:#}")
}

fn respond(
    core: &Core,
    incoming: &Incoming,
    key: Option<&str>,
    outgoing: Outgoing,
    fault: Option<FaultKind>,
) -> Response {
    let version = incoming
        .headers
        .get("stripe-version")
        .and_then(|value| value.to_str().ok());
    let mut response = Response::builder()
        .status(StatusCode::from_u16(outgoing.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR))
        .header("content-type", "application/json")
        .header("request-id", outgoing.request_id)
        .header("stripe-version", version.unwrap_or(&core.settings.api_version));
    if let Some(key) = key {
        response = response
            .header("idempotency-key", key)
            .header("original-request", outgoing.original_request);
    }
    if outgoing.replayed {
        response = response.header("idempotent-replayed", "true");
    }
    if matches!(outgoing.status, 409 | 429) {
        response = response.header("stripe-should-retry", "true");
    }
    let body = outgoing.body;
    let half: String = body.chars().take(body.chars().count() / 2).collect();
    match fault {
        Some(FaultKind::Truncated) => {
            response = response.header("content-length", body.len());
            response.body(broken_off(half))
        }
        Some(FaultKind::TruncatedJson) => response.body(half),
        Some(FaultKind::Empty) => response.finish(),
        _ => response.body(body),
    }
}

/// A body that ends with an error instead of its second half; the server closes the connection.
fn broken_off(half: String) -> Body {
    let start = futures::stream::once(async move { Ok(half) });
    let end = futures::stream::once(async {
        // Yielding lets the server flush the first half.
        tokio::task::yield_now().await;
        Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset))
    });
    Body::from_bytes_stream(futures::StreamExt::chain(start, end))
}

fn bad_gateway() -> Response {
    Response::builder()
        .status(StatusCode::BAD_GATEWAY)
        .content_type("text/html")
        .body(
            "<html><head><title>502 Bad Gateway</title></head>\
         <body><center><h1>502 Bad Gateway</h1></center></body></html>",
        )
}

/// A JSON response.
pub(super) fn json_reply(status: u16, body: &Value) -> Response {
    Response::builder()
        .status(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR))
        .content_type("application/json")
        .body(pretty(body))
}

/// Turns a control action's result into a response.
pub(super) fn control_reply(result: Result<Value, ApiError>) -> Response {
    match result {
        Ok(body) => json_reply(200, &body),
        Err(error) => json_reply(error.status, &error.body("req_control")),
    }
}

/// The reply of a control action that returns nothing.
pub(super) fn done() -> Response {
    json_reply(200, &json!({ "ok": true }))
}
