//! The one error of all endpoints. It becomes a [`crate::problem::Problem`] on the wire; a failure that is ours
//! is logged here, once.

use poem::error::ResponseError;
use poem::http::header::{ALLOW, RETRY_AFTER, WWW_AUTHENTICATE};
use poem::http::{HeaderName, HeaderValue, StatusCode};
use poem::{IntoResponse, Response};
use poem_openapi::ApiResponse;
use poem_openapi::payload::Payload;
use poem_openapi::registry::{MetaHeader, MetaMediaType, MetaResponse, MetaResponses, Registry};
use poem_openapi::types::Type;
use roost_shared::db;
use serde_json::{Map, Value, json};

use crate::problem::{self, FieldError, Problem};
use crate::request;

/// What handlers return.
pub type ApiResult<T> = Result<T, ApiError>;

/// A refusal or failure, ready to be sent.
///
/// ```
/// use roost_api::error::ApiError;
/// let error = ApiError::conflict("dates_taken", "The property is booked from 2030-06-01 to 2030-06-04.");
/// assert_eq!(error.status(), 409);
/// ```
#[derive(Clone, Debug)]
pub struct ApiError(Box<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    status: StatusCode,
    code: &'static str,
    detail: String,
    errors: Vec<FieldError>,
    extensions: Map<String, Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl ApiError {
    /// Any status with any code. Prefer the constructors below.
    #[must_use]
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            status,
            code,
            detail: detail.into(),
            errors: Vec::new(),
            extensions: Map::new(),
            headers: Vec::new(),
        }))
    }

    /// 400: the request cannot be understood.
    #[must_use]
    pub fn bad_request(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    /// 401: who asks is not known. `error` is RFC 6750's word for it, none if no token was sent.
    #[must_use]
    pub fn unauthorized(code: &'static str, detail: impl Into<String>, error: Option<&'static str>) -> Self {
        let challenge = match error {
            Some("invalid_token") => HeaderValue::from_static("Bearer realm=\"roost\", error=\"invalid_token\""),
            _ => HeaderValue::from_static("Bearer realm=\"roost\""),
        };
        Self::new(StatusCode::UNAUTHORIZED, code, detail).with_header(WWW_AUTHENTICATE, challenge)
    }

    /// 401 `invalid_token`: the account of the token was deleted after the token was checked.
    #[must_use]
    pub fn account_deleted() -> Self {
        Self::unauthorized("invalid_token", "The account was deleted.", Some("invalid_token"))
    }

    /// 403: who asks is known, and may not.
    #[must_use]
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", detail)
    }

    /// 404: there is no such thing, or the asker may not know of it. `what` is a noun: "property".
    #[must_use]
    pub fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", format!("There is no such {what}."))
    }

    /// 409: the state of things does not allow it.
    #[must_use]
    pub fn conflict(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, detail)
    }

    /// 412: the version in If-Match is not the current one.
    #[must_use]
    pub fn precondition_failed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PRECONDITION_FAILED, "version_mismatch", detail)
    }

    /// 422: understood, but wrong; `errors` says which fields. See [`crate::validate::Checks`].
    #[must_use]
    pub fn invalid(errors: Vec<FieldError>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "validation_failed", "").with_errors(errors)
    }

    /// 422 with a code of its own.
    #[must_use]
    pub fn unprocessable(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail)
    }

    /// 429: too much from one place. `seconds` until it may be tried again.
    #[must_use]
    pub fn too_many_requests(detail: impl Into<String>, seconds: u64) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", detail).with_retry_after(seconds)
    }

    /// 503: something we need is down or full. `seconds` until it is worth trying again.
    #[must_use]
    pub fn unavailable(code: &'static str, detail: impl Into<String>, seconds: u64) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail).with_retry_after(seconds)
    }

    /// 503: whether it was done is not known; only an Idempotency-Key makes it safe to ask again.
    #[must_use]
    pub fn outcome_uncertain() -> Self {
        Self::unavailable(
            "outcome_uncertain",
            "The database went away before it said whether this was done. Repeat the request with the same Idempotency-Key; without one, look first.",
            2,
        )
    }

    /// 500: our fault. Logs `cause`, which the reply does not show.
    #[must_use]
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        tracing::error!(error = %cause, "internal error");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "Something went wrong on our side. Please quote request_id when you tell us.",
        )
    }

    /// Names the fields at fault. Without a detail, the fields become it.
    #[must_use]
    pub fn with_errors(mut self, errors: Vec<FieldError>) -> Self {
        if self.0.detail.is_empty() {
            let sentences: Vec<String> = errors
                .iter()
                .map(|error| format!("{}: {}", error.field, error.message))
                .collect();
            self.0.detail = sentences.join("; ");
        }
        self.0.errors = errors;
        self
    }

    /// Adds a member to the problem, as RFC 9457 allows: `conflicting_stay`.
    #[must_use]
    pub fn with_member(mut self, name: &str, value: Value) -> Self {
        self.0.extensions.insert(name.to_owned(), value);
        self
    }

    /// Adds a header to the reply.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.push((name, value));
        self
    }

    fn with_retry_after(self, seconds: u64) -> Self {
        self.with_header(RETRY_AFTER, HeaderValue::from(seconds))
    }

    pub(crate) fn with_allow(self, methods: &str) -> Self {
        match HeaderValue::from_str(methods) {
            Ok(value) => self.with_header(ALLOW, value),
            Err(_) => self,
        }
    }

    /// The status it is sent with.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.0.code
    }
}

impl ApiError {
    /// The members of its problem.
    pub(crate) fn problem(&self) -> Map<String, Value> {
        let Inner {
            status,
            code,
            detail,
            errors,
            extensions,
            ..
        } = &*self.0;
        let mut body = Map::new();
        body.insert("type".to_owned(), json!(format!("/problems/{code}")));
        body.insert("title".to_owned(), json!(status.canonical_reason().unwrap_or("Error")));
        body.insert("status".to_owned(), json!(status.as_u16()));
        body.insert("detail".to_owned(), json!(detail));
        body.insert("code".to_owned(), json!(code));
        body.insert("errors".to_owned(), json!(errors));
        body.insert("request_id".to_owned(), json!(request::current_id()));
        body.extend(extensions.clone());
        body
    }

    /// The headers of its reply.
    pub(crate) fn headers(&self) -> &[(HeaderName, HeaderValue)] {
        &self.0.headers
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = Response::builder()
            .status(self.status())
            .content_type(problem::CONTENT_TYPE)
            .body(Value::Object(self.problem()).to_string());
        for (name, value) in self.0.headers {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

impl From<ApiError> for poem::Error {
    fn from(error: ApiError) -> Self {
        let message = format!("{} {}", error.status().as_u16(), error.code());
        let mut converted = Self::from_response(error.into_response());
        converted.set_error_message(message);
        converted
    }
}

/// A status, what it means, and the header it comes with.
type Refusal = (StatusCode, &'static str, Option<(HeaderName, &'static str)>);

/// Every refusal there is, for the OpenAPI document. [`crate::openapi`] leaves out what an operation cannot answer.
const RESPONSES: [Refusal; 12] = [
    (
        StatusCode::BAD_REQUEST,
        "The request cannot be understood: `invalid_json`, `invalid_body`, `invalid_parameter`, `invalid_cursor`",
        None,
    ),
    (
        StatusCode::UNAUTHORIZED,
        "Who asks is not known: `unauthorized`, `invalid_token`, `token_expired`",
        Some((WWW_AUTHENTICATE, "The scheme to authenticate with")),
    ),
    (
        StatusCode::FORBIDDEN,
        "Known, and not allowed: `forbidden`, `own_case`",
        None,
    ),
    (
        StatusCode::NOT_FOUND,
        "No such thing, or not yours to know of: `not_found`",
        None,
    ),
    (
        StatusCode::CONFLICT,
        "The state of things does not allow it; `code` says why",
        None,
    ),
    (
        StatusCode::PRECONDITION_FAILED,
        "If-Match names another version: `version_mismatch`",
        None,
    ),
    (
        StatusCode::PAYLOAD_TOO_LARGE,
        "The body is too large: `body_too_large`",
        None,
    ),
    (
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "The body is not JSON: `unsupported_media_type`",
        None,
    ),
    (
        StatusCode::UNPROCESSABLE_ENTITY,
        "Understood, but wrong: `validation_failed` with `errors`, `idempotency_key_reused`",
        None,
    ),
    (
        StatusCode::TOO_MANY_REQUESTS,
        "Too many requests from one place: `rate_limited`",
        Some((RETRY_AFTER, "Seconds until it may be tried again")),
    ),
    (StatusCode::INTERNAL_SERVER_ERROR, "Our fault: `internal`", None),
    (
        StatusCode::SERVICE_UNAVAILABLE,
        "Something is down or full, or it took too long: `database_unavailable`, `redis_unavailable`, `overloaded`, `timeout`, `outcome_uncertain`",
        Some((RETRY_AFTER, "Seconds until it is worth trying again")),
    ),
];

impl ApiResponse for ApiError {
    fn meta() -> MetaResponses {
        let responses = RESPONSES
            .into_iter()
            .map(|(status, description, header)| MetaResponse {
                description,
                status: Some(status.as_u16()),
                status_range: None,
                content: vec![MetaMediaType {
                    content_type: problem::CONTENT_TYPE,
                    schema: <poem_openapi::payload::Json<Problem> as Payload>::schema_ref(),
                }],
                headers: header
                    .map(|(name, description)| MetaHeader {
                        name: name.as_str().to_uppercase(),
                        description: Some(description.to_owned()),
                        required: true,
                        deprecated: false,
                        schema: if name == RETRY_AFTER {
                            u64::schema_ref()
                        } else {
                            String::schema_ref()
                        },
                    })
                    .into_iter()
                    .collect(),
            })
            .collect();
        MetaResponses { responses }
    }

    fn register(registry: &mut Registry) {
        Problem::register(registry);
    }
}

const DATABASE_UNAVAILABLE: &str = "The database does not answer. Nothing was changed; try again shortly.";

impl From<sqlx::Error> for ApiError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            _ if db::is_commit_unconfirmed(&error) => {
                tracing::warn!(%error, "outcome uncertain");
                Self::outcome_uncertain()
            }
            _ if db::is_away(&error) => {
                tracing::warn!(%error, "database unavailable");
                Self::unavailable("database_unavailable", DATABASE_UNAVAILABLE, 2)
            }
            sqlx::Error::Database(database) => match database.code().as_deref() {
                // A text that Postgres cannot hold; what gets this far came in a parameter.
                Some("22021" | "22P05") => {
                    Self::bad_request("invalid_text", "A text holds a character that cannot be stored.")
                }
                // Cancelled or ended for the sake of others.
                Some("57014" | "55P03" | "40001" | "40P01") => {
                    tracing::warn!(%error, "database unavailable");
                    Self::unavailable("database_unavailable", DATABASE_UNAVAILABLE, 2)
                }
                _ => Self::internal(error),
            },
            _ => Self::internal(error),
        }
    }
}

impl From<redis::RedisError> for ApiError {
    fn from(error: redis::RedisError) -> Self {
        tracing::warn!(%error, "redis unavailable");
        Self::unavailable(
            "redis_unavailable",
            "Sign-in is not available just now; try again shortly.",
            2,
        )
    }
}

/// What poem and poem-openapi refuse by themselves, as ours. An [`ApiError`] that already is a response passes.
/// `path_parameters` are the names in the operation's path: poem-openapi itself knows only their numbers.
pub(crate) fn from_poem(error: poem::Error, path_parameters: &[&str]) -> Response {
    use poem_openapi::error::{
        AuthorizationError, ContentTypeError, ParseMultipartError, ParseParamError, ParsePathError,
        ParseRequestPayloadError,
    };

    if error.is_from_response() {
        return error.into_response();
    }
    let parameter = |name: &str, reason: &str| {
        ApiError::bad_request("invalid_parameter", format!("{name}: {}", readable(reason)))
            .with_errors(vec![FieldError::new(name, readable(reason))])
    };
    let ours = if let Some(error) = error.downcast_ref::<ParseParamError>() {
        parameter(error.name, &error.reason)
    } else if let Some(error) = error.downcast_ref::<ParsePathError>() {
        let number = error
            .name
            .strip_prefix("param")
            .and_then(|number| number.parse::<usize>().ok());
        let name = number.and_then(|number| path_parameters.get(number).copied());
        parameter(name.unwrap_or(error.name), &error.reason)
    } else if let Some(error) = error.downcast_ref::<ParseRequestPayloadError>() {
        ApiError::bad_request("invalid_body", readable(&error.reason))
    } else if let Some(error) = error.downcast_ref::<ParseMultipartError>() {
        ApiError::bad_request("invalid_body", readable(&error.reason))
    } else if let Some(error) = error.downcast_ref::<ContentTypeError>() {
        ApiError::new(
            error.status(),
            "unsupported_media_type",
            "The body must be application/json.",
        )
    } else if error.downcast_ref::<AuthorizationError>().is_some() {
        ApiError::unauthorized("unauthorized", "Send an access token: Authorization: Bearer ….", None)
    } else {
        from_status(&error)
    };
    ours.into_response()
}

fn from_status(error: &poem::Error) -> ApiError {
    let status = error.status();
    match status {
        StatusCode::NOT_FOUND => ApiError::not_found("path"),
        StatusCode::METHOD_NOT_ALLOWED => ApiError::new(
            status,
            "method_not_allowed",
            "The path does not know this method; see the Allow header.",
        ),
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::new(status, "body_too_large", "The body is too large."),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => {
            ApiError::new(status, "unsupported_media_type", "The body must be application/json.")
        }
        status if status.is_client_error() => ApiError::new(status, "bad_request", error.to_string()),
        _ => ApiError::internal(error),
    }
}

/// poem-openapi's messages begin with the Rust name of the type, which says nothing to a client.
fn readable(reason: &str) -> &str {
    match reason
        .strip_prefix("failed to parse \"")
        .and_then(|rest| rest.split_once("\": "))
    {
        Some((_, message)) => message,
        None => reason,
    }
}
