//! The innermost layer: bounds on the body and the time of a request, no body where none is read, and every failure
//! turned into a problem.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use poem::http::{StatusCode, header};
use poem::{Body, Endpoint, IntoResponse, Request, Response};
use poem_openapi::OperationId;
use roost_shared::db::STATEMENT_TIMEOUT;

use crate::body;
use crate::error::{self, ApiError};
use crate::openapi::{Operation, Routes};
use crate::prefer::{LONGEST_WAIT, Wait};
use crate::problem::FieldError;

/// The largest body of a request, in bytes.
pub const BODY_LIMIT: usize = 64 * 1024;
/// The largest body of a webhook, in bytes: Stripe's events carry whole objects.
pub const WEBHOOK_BODY_LIMIT: usize = 256 * 1024;
/// Where GraphQL is.
pub const GRAPHQL_PATH: &str = "/graphql";
/// Of the name of a parameter that nobody knows, so much is repeated.
const LONGEST_NAME: usize = 100;
/// How long a request may take before its reply begins, beside the wait that it prefers ([`Wait`]).
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// The same for the dashboard: a search in a million jobs is given up by Postgres before that, which the reply then says.
pub const DASHBOARD_TIMEOUT: Duration = Duration::from_secs(20);
const _: () = assert!(DASHBOARD_TIMEOUT.as_secs() > STATEMENT_TIMEOUT.as_secs());

/// Calls `endpoint` within the bounds. Never an `Err`.
pub async fn guard<E: Endpoint>(
    endpoint: Arc<E>,
    routes: Arc<Routes>,
    timeout: Duration,
    request: Request,
) -> poem::Result<Response> {
    let path = request.uri().path().to_owned();
    let timeout = timeout + wait_of(&request);
    let work = async {
        let request = bounded(request, &routes).await?;
        Ok::<_, poem::Error>(endpoint.call(request).await)
    };
    let outcome = tokio::time::timeout(timeout, AssertUnwindSafe(work).catch_unwind()).await;
    let result = match outcome {
        Ok(Ok(Ok(result))) => result,
        Ok(Ok(Err(refused))) => Err(refused),
        // The panic hook has written what and where to the log.
        Ok(Err(_)) => Err(ApiError::internal("a handler panicked").into()),
        Err(_) => {
            tracing::error!("request timed out");
            Err(ApiError::unavailable("timeout", "The request took too long and was given up.", 5).into())
        }
    };
    let mut response = match result {
        Ok(reply) => reply.into_response(),
        Err(error) => {
            let operation = error.data::<OperationId>().copied();
            let names = operation
                .map(|operation| routes.path_parameters(operation.0))
                .unwrap_or_default();
            let mut response = error::from_poem(error, &names);
            if let Some(operation) = operation {
                response.set_data(operation);
            }
            response
        }
    };
    if response.status() == StatusCode::METHOD_NOT_ALLOWED {
        let refusal = ApiError::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "The path does not know this method; see the Allow header.",
        );
        response = refusal.with_allow(&routes.allowed(&path)).into_response();
    }
    Ok(response)
}

/// How long the request may wait for something to happen. A GraphQL document says so somewhere inside.
fn wait_of(request: &Request) -> Duration {
    if request.uri().path() == GRAPHQL_PATH {
        return LONGEST_WAIT;
    }
    Wait::preferred(request.header("Prefer")).map_or(Duration::ZERO, Wait::duration)
}

/// Reads the body up to the limit, whether or not its length was announced.
async fn bounded(mut request: Request, routes: &Routes) -> poem::Result<Request> {
    if let Some(field) = unstorable(&request, routes) {
        let error = FieldError::new(field, "must not contain the character U+0000");
        return Err(ApiError::bad_request("invalid_text", "")
            .with_errors(vec![error])
            .into());
    }
    let path = request.uri().path();
    let limit = if path.starts_with("/webhooks/") {
        WEBHOOK_BODY_LIMIT
    } else {
        BODY_LIMIT
    };
    let too_large = || {
        ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            format!("The body may have {limit} bytes."),
        )
    };
    let announced = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok())
        .and_then(|length| length.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limit) {
        return Err(too_large().into());
    }
    let body = request.take_body();
    if !body.is_empty() {
        let bytes = body.into_bytes_limit(limit).await.map_err(|error| match error {
            poem::error::ReadBodyError::PayloadTooLarge => too_large(),
            _ => ApiError::bad_request("invalid_body", "The body could not be read to its end."),
        })?;
        let operation = routes.operation(request.method().as_str(), request.uri().path());
        if operation.is_some_and(Operation::refuses_body) {
            body::says_nothing(request.content_type(), &bytes)?;
        }
        request.set_body(Body::from_bytes(bytes));
    }
    Ok(request)
}

/// The parameter with a character that Postgres cannot store, if there is one.
fn unstorable(request: &Request, routes: &Routes) -> Option<String> {
    const NUL: &str = "%00";
    let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
    if let Some(position) = path.split('/').position(|segment| segment.contains(NUL)) {
        let named = routes.parameter_at(request.method().as_str(), path, position);
        return Some(named.unwrap_or("path").to_owned());
    }
    let pair = query.split('&').find(|pair| pair.contains(NUL))?;
    let (name, _) = pair.split_once('=').unwrap_or((pair, ""));
    Some(name.chars().take(LONGEST_NAME).collect())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use poem::handler;

    use super::*;

    async fn answer(endpoint: impl Endpoint) -> (u16, serde_json::Value) {
        answer_to(Request::builder().finish(), endpoint).await
    }

    async fn answer_to(request: Request, endpoint: impl Endpoint) -> (u16, serde_json::Value) {
        let response = guard(Arc::new(endpoint), Arc::default(), Duration::from_millis(50), request)
            .await
            .unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().into_bytes().await.unwrap();
        (status, serde_json::from_slice(&body).unwrap())
    }

    #[handler]
    async fn panics() {
        panic!("as this test wants");
    }

    #[handler]
    async fn hangs() {
        std::future::pending::<()>().await;
    }

    #[tokio::test]
    async fn a_handler_that_panics_is_our_fault() {
        let (status, problem) = answer(panics).await;
        assert_eq!((status, problem["code"].as_str()), (500, Some("internal")));
        assert!(!problem.to_string().contains("as this test wants"));
    }

    #[tokio::test]
    async fn a_handler_that_takes_too_long_is_given_up() {
        let (status, problem) = answer(hangs).await;
        assert_eq!((status, problem["code"].as_str()), (503, Some("timeout")));
    }

    #[tokio::test]
    async fn a_wait_that_is_preferred_comes_on_top() {
        let request = Request::builder().header("Prefer", "wait=1").finish();
        let began = Instant::now();
        let (status, _) = answer_to(request, hangs).await;
        assert_eq!(status, 503);
        assert!(began.elapsed() >= Duration::from_secs(1));
    }

    #[test]
    fn a_graphql_document_may_ask_for_the_longest_wait() {
        let asked = |path: &'static str| wait_of(&Request::builder().uri_str(path).finish());
        assert_eq!((asked("/graphql"), asked("/bookings/")), (LONGEST_WAIT, Duration::ZERO));
    }
}
