//! A small, stateful, faithful Stripe for `make run` and the tests; production never sees it.
//!
//! It is a real HTTP server that speaks the part of Stripe's API that Roost uses, with Stripe's
//! state rules, errors, idempotency and signed webhooks, and it breaks on demand. Whatever talks
//! to it is the ordinary client with another base URL.
//!
//! A map: `server.rs` is the way of a request, `routes.rs` the list of operations, one file a
//! resource holds their rules on the state in `account.rs`; `idempotency.rs`, `faults.rs` and
//! `webhooks.rs` are what their names say; `control.rs` and `page.rs` are for tests and people.
//!
//! It knows cards only, one account, no customers and no Connect. A parameter it does not
//! implement is refused as unknown, never ignored.

mod account;
mod balance;
mod cards;
mod charges;
mod connections;
mod control;
mod core;
mod currencies;
mod disputes;
mod earlier;
mod errors;
mod events;
mod expand;
mod faults;
mod idempotency;
mod ids;
mod journal;
mod page;
mod params;
mod payment_flow;
mod payment_intents;
mod payment_methods;
mod refunds;
mod routes;
mod server;
mod table;
mod webhooks;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use poem::{EndpointExt as _, Route, Server};
use roost_shared::clock::Clock;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::account::Settings;
use self::connections::{Connections, CuttableAcceptor};
use self::core::Core;
use self::errors::ApiError;

pub use self::faults::{Fault, FaultKind, FaultMatch};
pub use self::journal::{Exchange, PaymentRecord, RequestLine};
pub use self::payment_intents::IntentStatus;
pub use self::webhooks::{Delivery, DeliveryOutcome, RetryPolicy, WebhookEndpoint, signature_header};

/// The lock, whatever happened to its last holder: a panicking test must not hide its cause
/// behind a poisoned mutex.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The machine's time in milliseconds since the Unix epoch, for signatures and logs.
fn machine_millis() -> i64 {
    Clock::default().now().timestamp_millis()
}

/// How the sandbox is set up. The default listens on a free port and delivers no webhooks.
#[derive(Clone, Debug)]
pub struct SandboxConfig {
    pub listen: SocketAddr,
    /// Decides when authorisations lapse, keys are pruned and balances become available; share it with the application
    /// to move both. Webhook signatures are made by the machine's time, with which receivers compare them.
    pub clock: Clock,
    pub webhook_endpoints: Vec<WebhookEndpoint>,
    pub retry: RetryPolicy,
    /// First attempts under way at the same time; 1 delivers events in their order.
    pub webhook_concurrency: usize,
    /// The only API key taken; any `sk_test_…` or `rk_test_…` when absent.
    pub secret_key: Option<String>,
    /// The version events are rendered in, and replies to requests that name none.
    pub api_version: String,
    /// How long an uncaptured authorisation lasts.
    pub authorisation_lifetime: Duration,
    /// What Stripe keeps of a charge, in hundredths of a percent.
    pub fee_basis_points: i64,
    /// How many exchanges are kept in full.
    pub journal_length: usize,
}

impl Default for SandboxConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            clock: Clock::default(),
            webhook_endpoints: Vec::new(),
            retry: RetryPolicy::default(),
            webhook_concurrency: 1,
            secret_key: None,
            api_version: "2026-09-30.endive".to_owned(),
            authorisation_lifetime: Duration::from_secs(7 * 24 * 60 * 60),
            fee_basis_points: 290,
            journal_length: 5_000,
        }
    }
}

/// A running sandbox; dropping it stops it.
#[derive(Debug)]
pub struct StripeSandbox {
    core: Arc<Core>,
    server: JoinHandle<()>,
}

impl StripeSandbox {
    /// Binds, starts serving and delivering, and returns.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start(config: SandboxConfig) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(config.listen)
            .await
            .with_context(|| format!("binding the Stripe sandbox to {}", config.listen))?;
        let base_url = format!("http://{}", listener.local_addr()?);
        let stop = CancellationToken::new();
        let faults = Arc::default();
        let webhooks = webhooks::Webhooks::start(
            config.webhook_endpoints,
            config.retry,
            config.webhook_concurrency,
            Arc::clone(&faults),
            stop.clone(),
        )?;
        let lifetime = config.authorisation_lifetime.as_secs();
        let core = Arc::new(Core {
            settings: Settings {
                base_url,
                api_version: config.api_version,
                authorisation_lifetime_seconds: i64::try_from(lifetime).unwrap_or(i64::MAX / 4),
                fee_basis_points: config.fee_basis_points,
            },
            clock: config.clock,
            account: Mutex::default(),
            keys: Mutex::default(),
            faults,
            journal: Mutex::default(),
            journal_length: config.journal_length,
            webhooks,
            connections: Connections::default(),
            secret_key: config.secret_key,
            stop: stop.clone(),
        });
        let acceptor = CuttableAcceptor::new(listener, core.connections.clone())?;
        let routes = page::add_to(Route::new())
            .at("/v1/*path", server::stripe_api)
            .nest("/_control", control::routes())
            .data(core.clone());
        tokio::spawn(lapse_in_time(core.clone()));
        let server = tokio::spawn(async move {
            let server = Server::new_with_acceptor(acceptor);
            let grace = Some(Duration::from_secs(2));
            let stopped = stop.cancelled_owned();
            if let Err(error) = server.run_with_graceful_shutdown(routes, stopped, grace).await {
                tracing::error!(%error, "the Stripe sandbox stopped serving");
            }
        });
        Ok(Self { core, server })
    }

    /// `http://127.0.0.1:PORT`, without a trailing slash.
    #[must_use]
    pub fn base_url(&self) -> &str {
        &self.core.settings.base_url
    }

    /// The same with the trailing slash that async-stripe's `ClientBuilder::url` wants.
    #[must_use]
    pub fn api_base(&self) -> String {
        format!("{}/", self.base_url())
    }

    /// Replaces all webhook endpoints by one that takes every event.
    pub fn set_webhook(&self, url: impl Into<String>, secret: impl Into<String>) {
        self.set_webhook_endpoints(vec![WebhookEndpoint::new(url, secret)]);
    }

    /// Replaces all webhook endpoints.
    pub fn set_webhook_endpoints(&self, endpoints: Vec<WebhookEndpoint>) {
        self.core.webhooks.set_endpoints(endpoints);
    }

    /// Asks for a fault.
    pub fn fault(&self, fault: Fault) {
        locked(&self.core.faults).add(fault);
    }

    /// The faults still to come.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        locked(&self.core.faults).pending().to_vec()
    }

    /// Takes back the faults still to come.
    pub fn clear_faults(&self) {
        locked(&self.core.faults).clear();
    }

    /// The cardholder passes 3-D Secure; returns the payment intent, declined or not.
    ///
    /// # Errors
    /// When the intent does not wait for it.
    pub fn complete_3ds(&self, payment_intent: &str) -> anyhow::Result<Value> {
        self.act(|call| call.complete_3ds(payment_intent))
    }

    /// The cardholder fails 3-D Secure; returns the payment intent.
    ///
    /// # Errors
    /// When the intent does not wait for it.
    pub fn fail_3ds(&self, payment_intent: &str) -> anyhow::Result<Value> {
        self.act(|call| call.fail_3ds(payment_intent))
    }

    /// Lets one authorisation lapse before its time; returns the payment intent.
    ///
    /// # Errors
    /// When nothing is authorised.
    pub fn lapse(&self, payment_intent: &str) -> anyhow::Result<Value> {
        self.act(|call| call.lapse(payment_intent))
    }

    /// Ends a dispute; returns it.
    ///
    /// # Errors
    /// When there is none or it is over.
    pub fn close_dispute(&self, dispute: &str, won: bool) -> anyhow::Result<Value> {
        self.act(|call| call.close_dispute(dispute, won))
    }

    /// What the card network says of a refund: the money arrived, or it came back; returns the refund.
    ///
    /// # Errors
    /// When there is none or it has failed already.
    pub fn settle_refund(&self, refund: &str, succeeds: bool) -> anyhow::Result<Value> {
        self.act(|call| call.settle_refund(refund, succeeds))
    }

    /// Moves the sandbox's clock; what falls due meanwhile happens before this returns.
    pub fn advance_clock(&self, by: Duration) {
        control::advance(&self.core, by);
    }

    /// The sandbox's time in seconds since the Unix epoch.
    #[must_use]
    pub fn now(&self) -> i64 {
        self.core.now()
    }

    /// Delivers an old event once more.
    ///
    /// # Errors
    /// When there is no such event.
    pub fn send_event_again(&self, event: &str) -> anyhow::Result<()> {
        self.core.send_again(event).map_err(|error| readable(&error))
    }

    /// All events so far, oldest first, in Stripe's JSON.
    #[must_use]
    pub fn events(&self) -> Vec<Value> {
        self.core.events()
    }

    /// Every attempt to deliver an event so far, oldest first.
    #[must_use]
    pub fn deliveries(&self) -> Vec<Delivery> {
        self.core.webhooks.log()
    }

    /// What became of every payment, oldest first.
    #[must_use]
    pub fn record(&self) -> Vec<PaymentRecord> {
        self.core.record()
    }

    /// What became of one payment.
    #[must_use]
    pub fn payment(&self, payment_intent: &str) -> Option<PaymentRecord> {
        self.record().into_iter().find(|payment| payment.id == payment_intent)
    }

    /// Minor units captured of a payment; zero when unknown.
    #[must_use]
    pub fn captured(&self, payment_intent: &str) -> i64 {
        self.payment(payment_intent).map_or(0, |payment| payment.captured)
    }

    /// The latest requests with their replies, oldest first.
    #[must_use]
    pub fn exchanges(&self) -> Vec<Exchange> {
        locked(&self.core.journal).exchanges()
    }

    /// Stops serving and waits for open connections, briefly.
    pub async fn stop(mut self) {
        self.core.stop.cancel();
        if let Err(error) = (&mut self.server).await {
            tracing::debug!(%error, "the Stripe sandbox's server task ended badly");
        }
    }

    fn act(&self, action: impl FnOnce(&mut account::Call<'_>) -> Result<Value, ApiError>) -> anyhow::Result<Value> {
        self.core.run_unrequested(action).map_err(|error| readable(&error))
    }
}

impl Drop for StripeSandbox {
    fn drop(&mut self) {
        self.core.stop.cancel();
    }
}

fn readable(error: &ApiError) -> anyhow::Error {
    anyhow::anyhow!("{}", error.body("req_control")["error"]["message"])
}

/// Lets authorisations lapse when their time comes and nobody asks.
async fn lapse_in_time(core: Arc<Core>) {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            () = core.stop.cancelled() => return,
            _ = tick.tick() => control::advance(&core, Duration::ZERO),
        }
    }
}
