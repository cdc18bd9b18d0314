//! The HTTP side of async-stripe: its own client opens a connection per request, this one keeps them.

use std::fmt::Display;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use stripe_client_core::{CustomizedStripeRequest, StripeClient, StripeClientErr, StripeMethod, VERSION};

/// One call, connection and reply together.
const TIMEOUT: Duration = Duration::from_secs(20);
const MAX_REPLY: usize = 4 * 1024 * 1024;

/// A pooled HTTP client for Stripe's API.
#[derive(Clone)]
pub(super) struct PooledClient {
    http: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    api_base: String,
    headers: HeaderMap,
}

/// What Stripe said when it did not do what was asked.
#[derive(Debug, Default, Deserialize)]
pub(super) struct ApiError {
    #[serde(rename = "type", default)]
    pub kind: String,
    pub code: Option<String>,
    pub decline_code: Option<String>,
    pub message: Option<String>,
    pub payment_intent: Option<IntentId>,
}

/// The part that matters of the PaymentIntent inside an error.
#[derive(Debug, Deserialize)]
pub(super) struct IntentId {
    pub id: String,
}

/// Why there is no result.
#[derive(Debug)]
pub(super) enum CallError {
    /// Stripe answered with an error.
    Api(StatusCode, ApiError),
    /// Nobody knows whether Stripe did it.
    Unknown(String),
    /// Stripe failed on its side: nobody knows either, and the same key would bring the same answer.
    Broken(String),
}

impl StripeClientErr for CallError {
    fn deserialize_err(message: impl Display) -> Self {
        Self::Unknown(message.to_string())
    }
}

impl PooledClient {
    pub(super) fn new(secret_key: &str, api_base: &str) -> Result<Self, http::Error> {
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_webpki_roots()
            .https_or_http()
            .enable_http1()
            .build();
        let mut headers = HeaderMap::new();
        let mut authorization = HeaderValue::from_str(&format!("Bearer {secret_key}"))?;
        authorization.set_sensitive(true);
        headers.insert(AUTHORIZATION, authorization);
        headers.insert(
            USER_AGENT,
            HeaderValue::from_static(concat!("roost/", env!("CARGO_PKG_VERSION"))),
        );
        headers.insert("stripe-version", HeaderValue::from_str(VERSION.as_str())?);
        Ok(Self {
            http: Client::builder(TokioExecutor::new())
                .pool_idle_timeout(Duration::from_secs(30))
                .build(connector),
            api_base: api_base.trim_end_matches('/').to_owned(),
            headers,
        })
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Bytes, CallError> {
        let unknown = |error: &dyn Display| CallError::Unknown(error.to_string());
        let response = self.http.request(request).await.map_err(|error| unknown(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_REPLY)
            .collect()
            .await
            .map_err(|error| unknown(&error))?
            .to_bytes();
        if status.is_success() {
            return Ok(body);
        }
        #[derive(Deserialize)]
        struct Reply {
            error: ApiError,
        }
        match serde_json::from_slice::<Reply>(&body) {
            // A 5xx may come after the work was done.
            Ok(reply) if status.is_server_error() => Err(CallError::Broken(format!(
                "{status}: {}",
                reply.error.message.unwrap_or_default()
            ))),
            Ok(reply) => Err(CallError::Api(status, reply.error)),
            Err(_) if status.is_server_error() => Err(CallError::Broken(format!("{status} without a Stripe error"))),
            Err(_) => Err(CallError::Unknown(format!("{status} without a Stripe error"))),
        }
    }
}

impl StripeClient for PooledClient {
    type Err = CallError;

    async fn execute(&self, request: CustomizedStripeRequest) -> Result<Bytes, CallError> {
        let (request, options) = request.into_pieces();
        let query = request.query.map(|query| format!("?{query}")).unwrap_or_default();
        let mut builder = Request::builder()
            .uri(format!("{}/v1{}{query}", self.api_base, request.path))
            .method(match request.method {
                StripeMethod::Get => Method::GET,
                StripeMethod::Post => Method::POST,
                StripeMethod::Delete => Method::DELETE,
            });
        if let Some(headers) = builder.headers_mut() {
            headers.extend(self.headers.clone());
        }
        if let Some(key) = options.request_strategy.and_then(|strategy| strategy.get_key()) {
            builder = builder.header("idempotency-key", key.as_str());
        }
        if request.body.is_some() {
            builder = builder.header(
                CONTENT_TYPE,
                HeaderValue::from_static("application/x-www-form-urlencoded"),
            );
        }
        let request = builder
            .body(Full::new(Bytes::from(request.body.unwrap_or_default())))
            .map_err(|error| CallError::Unknown(error.to_string()))?;
        tokio::time::timeout(TIMEOUT, self.send(request))
            .await
            .unwrap_or_else(|_| Err(CallError::Unknown(format!("no answer in {TIMEOUT:?}"))))
    }
}
