//! Which web pages may read our replies: an allow-list of origins. A page that is not on it is simply not told that
//! it may; requests that are not from pages are none of this layer's business.

use std::sync::Arc;

use poem::http::{HeaderValue, Method, StatusCode, header};
use poem::{Endpoint, IntoResponse, Request, Response};

use crate::state::AppState;

const METHODS: &str = "GET, POST, PATCH, DELETE";
const REQUEST_HEADERS: &str = "authorization, content-type, idempotency-key, if-match, if-none-match, last-event-id, prefer, traceparent, x-request-id";
const RESPONSE_HEADERS: &str =
    "etag, link, location, idempotent-replayed, preference-applied, retry-after, www-authenticate, x-request-id";
const PREFLIGHT_SECONDS: u32 = 600;

/// Answers preflights and names allowed origins.
pub async fn cors<E: Endpoint<Output = Response>>(
    endpoint: Arc<E>,
    state: AppState,
    request: Request,
) -> poem::Result<Response> {
    let allowed = request
        .headers()
        .get(header::ORIGIN)
        .filter(|origin| {
            state
                .settings
                .cors_allowed_origins
                .iter()
                .any(|allowed| allowed.as_bytes() == origin.as_bytes())
        })
        .cloned();
    let preflight =
        request.method() == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = if preflight {
        StatusCode::NO_CONTENT.into_response()
    } else {
        endpoint.call(request).await?
    };
    let headers = response.headers_mut();
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    if let Some(origin) = allowed {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static(RESPONSE_HEADERS),
        );
        if preflight {
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS));
            headers.insert(
                header::ACCESS_CONTROL_ALLOW_HEADERS,
                HeaderValue::from_static(REQUEST_HEADERS),
            );
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from(PREFLIGHT_SECONDS));
        }
    }
    Ok(response)
}
