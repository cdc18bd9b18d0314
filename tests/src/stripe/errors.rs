//! Stripe's errors: the JSON a client receives, its HTTP status, and whether execution had begun
//! (which decides if an idempotency key remembers the reply).

use serde_json::{Map, Value, json};

/// A refusal in Stripe's shape.
#[derive(Clone, Debug)]
pub(super) struct ApiError {
    pub status: u16,
    kind: &'static str,
    code: Option<&'static str>,
    message: String,
    param: Option<String>,
    /// Further members of the error object: charge, payment_intent, decline_code and the like.
    details: Map<String, Value>,
    /// False for refusals made before the operation ran; those are not kept under the key.
    pub executed: bool,
}

impl ApiError {
    fn new(status: u16, kind: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            kind,
            code: None,
            message: message.into(),
            param: None,
            details: Map::new(),
            executed: false,
        }
    }

    /// A parameter was refused before anything ran.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, "invalid_request_error", message)
    }

    /// The operation ran and the object's state forbade it.
    pub fn refused(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(400, "invalid_request_error", message).code(code).executed()
    }

    /// A required parameter is absent.
    pub fn missing(param: &str) -> Self {
        Self::invalid(format!("Missing required param: {param}."))
            .code("parameter_missing")
            .param(param)
    }

    /// The object named in the path does not exist.
    pub fn not_found(kind: &str, id: &str) -> Self {
        Self {
            status: 404,
            ..Self::no_such(kind, id, "id")
        }
        .executed()
    }

    /// The object named by a parameter does not exist.
    pub fn no_such(kind: &str, id: &str, param: &str) -> Self {
        Self::invalid(format!("No such {kind}: '{id}'"))
            .code("resource_missing")
            .param(param)
    }

    /// The key is absent or not one the sandbox takes.
    pub fn unauthorised(message: impl Into<String>) -> Self {
        Self::new(401, "invalid_request_error", message)
    }

    /// No operation lives at this method and path.
    pub fn unknown_url(method: &str, path: &str) -> Self {
        Self::new(
            404,
            "invalid_request_error",
            format!("Unrecognized request URL ({method}: {path})."),
        )
    }

    /// The idempotency key was used before with another request.
    pub fn key_reused(message: impl Into<String>) -> Self {
        Self::new(400, "idempotency_error", message)
    }

    /// A request with this idempotency key is still running.
    pub fn key_in_use(key: &str) -> Self {
        Self::new(
            409,
            "idempotency_error",
            format!(
                "There is currently another in-progress request using this Idempotent Key \
                 ({key}). Please try again later."
            ),
        )
        .code("idempotency_key_in_use")
    }

    /// Too many requests.
    pub fn rate_limited() -> Self {
        Self::new(429, "invalid_request_error", "Request rate limit exceeded.").code("rate_limit")
    }

    /// Stripe itself failed after execution began.
    pub fn internal() -> Self {
        Self::new(500, "api_error", "An unknown error occurred").executed()
    }

    /// The card was refused; the operation itself ran.
    pub fn card(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(402, "card_error", message).code(code).executed()
    }

    pub fn code(self, code: &'static str) -> Self {
        Self {
            code: Some(code),
            ..self
        }
    }

    pub fn param(self, param: impl Into<String>) -> Self {
        Self {
            param: Some(param.into()),
            ..self
        }
    }

    pub fn detail(mut self, name: &str, value: Value) -> Self {
        self.details.insert(name.to_owned(), value);
        self
    }

    /// Marks a refusal that came after the operation had begun.
    pub fn executed(self) -> Self {
        Self { executed: true, ..self }
    }

    /// The error object, as embedded in `last_payment_error` as well.
    pub fn object(&self) -> Map<String, Value> {
        let mut object = self.details.clone();
        object.insert("type".into(), json!(self.kind));
        object.insert("message".into(), json!(self.message));
        if let Some(code) = self.code {
            object.insert("code".into(), json!(code));
            let page = format!("https://stripe.com/docs/error-codes/{}", code.replace('_', "-"));
            object.insert("doc_url".into(), json!(page));
        }
        if let Some(param) = &self.param {
            object.insert("param".into(), json!(param));
        }
        object
    }

    /// The body of the reply.
    pub fn body(&self, request_id: &str) -> Value {
        let mut object = self.object();
        let log = format!("https://dashboard.stripe.com/test/logs/{request_id}");
        object.insert("request_log_url".into(), json!(log));
        json!({ "error": object })
    }
}
