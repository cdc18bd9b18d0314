//! Requests: `POST` executes, `GET` opens a WebSocket for subscriptions or, where it is switched on, shows GraphiQL.

use async_graphql::parser::{parse_query, types::ExecutableDocument};
use async_graphql::{Request as Operation, Response as Answer, Variables};
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use poem::http::{Method, StatusCode, header};
use poem::{Endpoint, FromRequest, Request, Response};
use serde_json::Value;

use super::caller::{Caller, client_of, network_budget};
use super::document::check_texts;
use super::{Roots, errors, graphiql, limits, loaders, schema, socket};
use crate::error::{ApiError, ApiResult};
use crate::problem::FieldError;
use crate::state::AppState;
use crate::strict_json;

/// The media type of replies, for clients that ask for it.
const MEDIA_TYPE: &str = "application/graphql-response+json";
/// What opening a socket costs.
const SOCKET_POINTS: usize = 20;

/// The endpoint at `/graphql`.
pub struct Graphql {
    pub(super) state: AppState,
    pub(super) schema: Roots,
}

/// The endpoint at `/graphql`.
#[must_use]
pub fn route(state: &AppState) -> Graphql {
    Graphql {
        state: state.clone(),
        schema: schema(state),
    }
}

impl Endpoint for Graphql {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        let plain = !request
            .header(header::ACCEPT)
            .is_some_and(|accepted| accepted.contains(MEDIA_TYPE));
        let socket = request.headers().contains_key(header::UPGRADE);
        match *request.method() {
            Method::POST => Ok(match self.execute(request).await {
                Ok(answer) => reply(&answer, plain),
                Err(error) => reply(&refusal(error), plain),
            }),
            Method::GET if socket => {
                let client = client_of(&request).await?;
                limits::spend(&self.state, &network_budget(&client), SOCKET_POINTS).await?;
                socket::open(self, client, request).await
            }
            Method::GET | Method::HEAD if self.state.settings.graphiql => Ok(graphiql::page()),
            Method::GET | Method::HEAD => Err(ApiError::bad_request(
                "bad_request",
                "Send queries with POST; GET opens a WebSocket of the subprotocol graphql-transport-ws.",
            )
            .into()),
            _ => Err(StatusCode::METHOD_NOT_ALLOWED.into()),
        }
    }
}

impl Graphql {
    async fn execute(&self, request: Request) -> ApiResult<Answer> {
        let caller = Caller::of(&self.state, &request).await?;
        let (request, mut body) = request.split();
        if !request.content_type().is_some_and(is_json) {
            return Err(ApiError::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                "Send the body as Content-Type: application/json.",
            ));
        }
        let body = Bytes::from_request(&request, &mut body)
            .await
            .map_err(|_| ApiError::bad_request("invalid_body", "The body could not be read to its end."))?;
        let body = strict_json::parse(&body)
            .map_err(|error| ApiError::bad_request("invalid_json", format!("The body is not usable JSON: {error}.")))?;
        if let Value::Array(batch) = &body {
            limits::spend(&self.state, &caller.budget(), batch.len().max(1)).await?;
            return Err(ApiError::bad_request(
                "batching_refused",
                "Send one operation a request; one operation may have several fields.",
            ));
        }
        let (operation, document) = prepare(&self.state, &caller, operation_of(body)?).await?;
        let (loader, wanted) = loaders::for_operation(&self.state);
        let operation = operation.data(caller).data(loader);
        let answer = self.schema.execute(operation).into_stream().boxed();
        let mut answer = wanted.between(answer).next().await.unwrap_or_default();
        errors::complete(&mut answer, Some(&document));
        Ok(answer)
    }
}

/// Parses an operation and looks at its shape, which costs a point whatever comes of it.
pub(super) async fn prepare(
    state: &AppState,
    caller: &Caller,
    mut operation: Operation,
) -> ApiResult<(Operation, ExecutableDocument)> {
    limits::spend(state, &caller.budget(), 1).await?;
    let document = parse_query(&operation.query)
        .map_err(|error| errors::invalid_query(&format!("The query cannot be read: {error}"), None))?;
    limits::check_shape(&document, state.settings.graphql_introspection)?;
    check_texts(&document, &operation.variables)?;
    operation.set_parsed_query(document.clone());
    Ok((operation, document))
}

/// A refusal of the whole request, as a GraphQL reply.
pub(super) fn refusal(error: ApiError) -> Answer {
    Answer::from_errors(vec![errors::refused(error)])
}

fn operation_of(body: Value) -> ApiResult<Operation> {
    let wrong = |field: &str, message: &str| {
        ApiError::bad_request("invalid_body", "").with_errors(vec![FieldError::new(field, message)])
    };
    let Value::Object(mut body) = body else {
        return Err(wrong("body", "must be an object"));
    };
    let query = match body.remove("query") {
        Some(Value::String(query)) => query,
        _ => return Err(wrong("query", "must be a string")),
    };
    let mut operation = Operation::new(query);
    match body.remove("operationName") {
        None | Some(Value::Null) => {}
        Some(Value::String(name)) => operation = operation.operation_name(name),
        Some(_) => return Err(wrong("operationName", "must be a string")),
    }
    match body.remove("variables") {
        None | Some(Value::Null) => {}
        Some(variables @ Value::Object(_)) => operation = operation.variables(Variables::from_json(variables)),
        Some(_) => return Err(wrong("variables", "must be an object")),
    }
    Ok(operation)
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

fn reply(answer: &Answer, plain: bool) -> Response {
    let (status, headers) = errors::status(answer);
    let mut response = Response::builder()
        .status(status)
        .content_type(if plain { "application/json" } else { MEDIA_TYPE })
        .body(serde_json::to_vec(answer).unwrap_or_default());
    response.headers_mut().extend(answer.http_headers.clone());
    response.headers_mut().extend(headers);
    response
}
