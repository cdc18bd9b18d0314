//! The Stripe sandbox behaves like Stripe: driven through async-stripe and plain HTTP, each test
//! with a sandbox of its own, every exchange checked against Stripe's OpenAPI document.

pub(crate) mod contract;
mod faults;
mod idempotency;
mod payments;
mod process;
mod receiver;
mod refunds;
mod requests;
mod webhooks;

use std::time::Duration;

use roost_tests::stripe::{RetryPolicy, SandboxConfig, StripeSandbox};
use serde_json::Value;
use stripe::{Client, ClientBuilder, IdempotencyKey, RequestStrategy, StripeError, StripeRequest as _};
use stripe_core::payment_intent::{
    CapturePaymentIntent, CreatePaymentIntent, CreatePaymentIntentAutomaticPaymentMethods,
    CreatePaymentIntentAutomaticPaymentMethodsAllowRedirects as AllowRedirects,
};
use stripe_shared::{PaymentIntent, PaymentIntentCaptureMethod};
use stripe_types::Currency;

/// The parameters of an authorisation with this card, as a form.
const AUTHORISE: &str = "amount=12000&currency=eur&confirm=true&capture_method=manual\
    &automatic_payment_methods[enabled]=true&automatic_payment_methods[allow_redirects]=never\
    &metadata[booking]=b1&payment_method=";

/// A sandbox with clients for it. Dropping it checks all exchanges against the contract.
struct Shop {
    sandbox: StripeSandbox,
    stripe: Client,
    http: reqwest::Client,
}

/// A plain HTTP reply.
#[derive(Debug)]
struct Reply {
    status: u16,
    headers: reqwest::header::HeaderMap,
    text: String,
    json: Value,
}

impl Reply {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    fn id(&self) -> &str {
        self.json["id"].as_str().expect("an object with an id")
    }

    fn error(&self, field: &str) -> &str {
        self.json["error"][field].as_str().unwrap_or_default()
    }
}

impl Shop {
    async fn open() -> Self {
        Self::with(SandboxConfig::default()).await
    }

    async fn with(config: SandboxConfig) -> Self {
        let retry = RetryPolicy {
            first: Duration::from_millis(20),
            longest: Duration::from_millis(200),
            attempts: 5,
            timeout: Duration::from_secs(5),
        };
        let sandbox = StripeSandbox::start(SandboxConfig { retry, ..config })
            .await
            .expect("a sandbox");
        let stripe = ClientBuilder::new("sk_test_shop")
            .url(sandbox.api_base())
            .build()
            .expect("a client");
        let http = reqwest::Client::builder().no_proxy().build().expect("an HTTP client");
        Self { sandbox, stripe, http }
    }

    /// Sends one request as plain HTTP; `Err` when no whole reply came.
    async fn try_send(
        &self,
        method: &str,
        path: &str,
        form: Option<&str>,
        key: Option<&str>,
    ) -> reqwest::Result<Reply> {
        let url = format!("{}{path}", self.sandbox.base_url());
        let mut request = self
            .http
            .request(method.parse().expect("a method"), url)
            .bearer_auth("sk_test_shop");
        if let Some(form) = form {
            request = request
                .header("content-type", "application/x-www-form-urlencoded")
                .body(form.to_owned());
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await?;
        let json = serde_json::from_str(&text).unwrap_or(Value::Null);
        Ok(Reply {
            status,
            headers,
            text,
            json,
        })
    }

    async fn post(&self, path: &str, form: &str) -> Reply {
        self.try_send("POST", path, Some(form), None).await.expect("a reply")
    }

    async fn post_with_key(&self, path: &str, form: &str, key: &str) -> Reply {
        self.try_send("POST", path, Some(form), Some(key))
            .await
            .expect("a reply")
    }

    async fn get(&self, path: &str) -> Reply {
        self.try_send("GET", path, None, None).await.expect("a reply")
    }

    /// Creates and confirms a payment intent for 120 EUR with manual capture.
    async fn authorise(&self, card: &str) -> Reply {
        self.post("/v1/payment_intents", &format!("{AUTHORISE}{card}")).await
    }

    /// The same, captured.
    async fn pay(&self, card: &str) -> String {
        let intent = self.authorise(card).await.id().to_owned();
        let captured = self.post(&format!("/v1/payment_intents/{intent}/capture"), "").await;
        assert_eq!(captured.json["status"], "succeeded");
        intent
    }

    /// The same authorisation through async-stripe, under an idempotency key.
    async fn authorise_by_client(&self, card: &str, key: &str) -> Result<PaymentIntent, StripeError> {
        let redirects = CreatePaymentIntentAutomaticPaymentMethods {
            allow_redirects: Some(AllowRedirects::Never),
            enabled: true,
        };
        CreatePaymentIntent::new(12_000, Currency::EUR)
            .payment_method(card)
            .confirm(true)
            .capture_method(PaymentIntentCaptureMethod::Manual)
            .automatic_payment_methods(redirects)
            .metadata([("booking".to_owned(), "b1".to_owned())])
            .customize()
            .request_strategy(idempotent(key))
            .send(&self.stripe)
            .await
    }

    async fn capture_by_client(&self, intent: &PaymentIntent, key: &str) -> Result<PaymentIntent, StripeError> {
        CapturePaymentIntent::new(intent.id.clone())
            .customize()
            .request_strategy(idempotent(key))
            .send(&self.stripe)
            .await
    }

    /// The types of all events so far, oldest first.
    fn event_types(&self) -> Vec<String> {
        let events = self.sandbox.events();
        events
            .iter()
            .map(|event| event["type"].as_str().unwrap_or_default().to_owned())
            .collect()
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            contract::check(&self.sandbox);
        }
    }
}

fn idempotent(key: &str) -> RequestStrategy {
    RequestStrategy::Idempotent(IdempotencyKey::new(key).expect("a key"))
}
