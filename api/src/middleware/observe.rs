//! The outermost layer: the request's id and trace, one log line, its metrics, and headers that every reply has.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use poem::http::{HeaderValue, Method, header};
use poem::{Endpoint, Request, Response};
use poem_openapi::OperationId;
use roost_shared::ids;
use roost_shared::telemetry::TraceContext;
use tracing::Instrument;

use crate::error;
use crate::openapi::Routes;
use crate::request;
use crate::state::AppState;

/// Calls `endpoint` as a request with an id and a trace. Never an `Err`.
pub async fn observe<E: Endpoint<Output = Response>>(
    endpoint: Arc<E>,
    state: AppState,
    routes: Arc<Routes>,
    request: Request,
) -> poem::Result<Response> {
    let id = request
        .header(request::HEADER)
        .filter(|id| request::is_sane(id))
        .map_or_else(|| ids::new(state.clock.now()).to_string(), str::to_owned);
    let trace = TraceContext::from_header(request.header("traceparent"));
    let span = tracing::info_span!("request", request_id = %id, trace_id = %trace.trace_id());
    let work = respond(endpoint, state, routes, request);
    Ok(trace.scope(request::scope(id, work)).instrument(span).await)
}

async fn respond<E: Endpoint<Output = Response>>(
    endpoint: Arc<E>,
    state: AppState,
    routes: Arc<Routes>,
    request: Request,
) -> Response {
    let began = Instant::now();
    let method = method_label(request.method());
    let path = request.uri().path().to_owned();
    let mut response = match endpoint.call(request).await {
        Ok(response) => response,
        Err(error) => error::from_poem(error, &[]),
    };
    let elapsed = began.elapsed();
    let status = response.status().as_u16();
    let operation: Cow<'static, str> = match response.data::<OperationId>() {
        Some(id) => id.0.into(),
        // Refused before it came to the operation.
        None => routes.operation(method, &path).map_or_else(
            || fixed_route(&path).into(),
            |operation| operation.id().to_owned().into(),
        ),
    };
    let actor = TraceContext::current()
        .and_then(|context| context.actor)
        .unwrap_or_default();
    tracing::info!(
        method,
        route = routes.pattern(&operation).unwrap_or(&operation),
        status,
        milliseconds = elapsed.as_secs_f64() * 1000.0,
        user_id = actor,
        "answered"
    );
    metrics::counter!("roost_http_requests_total", "method" => method, "operation" => operation.clone(), "status" => status.to_string())
        .increment(1);
    metrics::histogram!("roost_http_request_seconds", "method" => method, "operation" => operation)
        .record(elapsed.as_secs_f64());
    dress(&state, &mut response);
    response
}

fn dress(state: &AppState, response: &mut Response) {
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::try_from(request::current_id()) {
        headers.insert(request::HEADER, id);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    if state.settings.public_url.starts_with("https://") {
        headers.insert(
            header::STRICT_TRANSPORT_SECURITY,
            HeaderValue::from_static("max-age=31536000; includeSubDomains"),
        );
    }
    // What a handler does not declare fit for caches is for the asker alone.
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
}

/// A client may make up methods; a metric's label may not grow without bound.
fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

/// Pages that are no operations of the OpenAPI document.
fn fixed_route(path: &str) -> &'static str {
    match path {
        "/docs" => "docs",
        "/openapi.json" => "openapi",
        "/graphql" => "graphql",
        _ => "unmatched",
    }
}
