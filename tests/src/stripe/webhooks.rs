//! Webhook delivery: signed, at least once, retried with growing pauses, and spoilt on demand.
//!
//! Every attempt signs anew with `Stripe-Signature: t=…,v1=hex(HMAC-SHA256(secret, "t.body"))`,
//! `t` by the machine's clock. One task takes events in order; an attempt that fails is retried
//! apart, so a slow or broken endpoint does not hold up the next event for longer than its
//! time-out.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::events::Event;
use super::faults::{FaultKind, Faults};
use super::ids::new_id;
use super::{locked, machine_millis};

/// How long a held event waits for another one to overtake it, unless the fault says.
const REORDER_PATIENCE: Duration = Duration::from_secs(1);
/// The log keeps this many attempts.
const LOG_LENGTH: usize = 20_000;

/// Where events go.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookEndpoint {
    pub url: String,
    /// Signing secrets; during rotation there are two and a signature for each.
    pub secrets: Vec<String>,
    /// Types to send; empty or `*` means all.
    #[serde(default)]
    pub enabled_events: Vec<String>,
}

impl WebhookEndpoint {
    /// An endpoint that takes all events.
    #[must_use]
    pub fn new(url: impl Into<String>, secret: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            secrets: vec![secret.into()],
            enabled_events: Vec::new(),
        }
    }

    fn takes(&self, kind: &str) -> bool {
        self.enabled_events.is_empty()
            || self
                .enabled_events
                .iter()
                .any(|enabled| enabled == "*" || enabled == kind)
    }
}

/// When a failed delivery is tried again: `first`, doubled each time up to `longest`.
#[derive(Clone, Debug)]
pub struct RetryPolicy {
    pub first: Duration,
    pub longest: Duration,
    /// Attempts in all; Stripe goes on for three days.
    pub attempts: u32,
    /// How long an endpoint may take to answer.
    pub timeout: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(200),
            longest: Duration::from_secs(30),
            attempts: 20,
            timeout: Duration::from_secs(10),
        }
    }
}

impl RetryPolicy {
    fn pause(&self, attempt: u32) -> Duration {
        let factor = 2_u32.saturating_pow(attempt.saturating_sub(1));
        self.first.saturating_mul(factor).min(self.longest)
    }
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryOutcome {
    /// The endpoint answered 2xx.
    Delivered,
    /// Anything else; tried again later.
    Failed,
    /// The last attempt failed.
    GivenUp,
    /// A fault swallowed the event.
    Dropped,
}

/// One attempt to deliver an event.
#[derive(Clone, Debug, Serialize)]
pub struct Delivery {
    pub id: String,
    pub event: String,
    pub event_type: String,
    pub url: String,
    /// Counts from 1 for each delivery; a resent or duplicated event starts again.
    pub attempt: u32,
    /// Milliseconds since the Unix epoch.
    pub at_millis: i64,
    pub status: Option<u16>,
    pub error: Option<String>,
    pub outcome: DeliveryOutcome,
}

#[derive(Debug)]
enum Message {
    /// A new event with its body.
    Event(Event, String),
    /// An event sent again by hand: no fault concerns it.
    Again(Event, String),
    /// The patience with the held event of this id is over.
    ReleaseHeld(String),
}

/// Delivery as the rest of the sandbox sees it.
#[derive(Debug)]
pub(super) struct Webhooks {
    endpoints: Mutex<Vec<WebhookEndpoint>>,
    log: Mutex<VecDeque<Delivery>>,
    faults: Arc<Mutex<Faults>>,
    queue: mpsc::UnboundedSender<Message>,
    client: reqwest::Client,
    retry: RetryPolicy,
    permits: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Webhooks {
    /// Starts delivering; ends when `stop` is cancelled.
    pub fn start(
        endpoints: Vec<WebhookEndpoint>,
        retry: RetryPolicy,
        concurrency: usize,
        faults: Arc<Mutex<Faults>>,
        stop: CancellationToken,
    ) -> reqwest::Result<Arc<Self>> {
        let client = reqwest::Client::builder()
            .timeout(retry.timeout)
            // Stripe counts a redirect as a failure.
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()?;
        let (queue, messages) = mpsc::unbounded_channel();
        let webhooks = Arc::new(Self {
            endpoints: Mutex::new(endpoints),
            log: Mutex::new(VecDeque::new()),
            faults,
            queue,
            client,
            retry,
            permits: Arc::new(Semaphore::new(concurrency.max(1))),
            stop: stop.clone(),
        });
        let dispatcher = webhooks.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = dispatcher.dispatch(messages) => {}
            }
        });
        Ok(webhooks)
    }

    pub fn set_endpoints(&self, endpoints: Vec<WebhookEndpoint>) {
        *locked(&self.endpoints) = endpoints;
    }

    pub fn endpoints(&self) -> Vec<WebhookEndpoint> {
        locked(&self.endpoints).clone()
    }

    pub fn log(&self) -> Vec<Delivery> {
        locked(&self.log).iter().cloned().collect()
    }

    pub fn clear_log(&self) {
        locked(&self.log).clear();
    }

    /// Queues a new event.
    pub fn send(&self, event: Event, api_version: &str) {
        let takers = locked(&self.endpoints)
            .iter()
            .filter(|end| end.takes(event.kind))
            .count();
        event
            .pending
            .store(i64::try_from(takers).unwrap_or(i64::MAX), Ordering::SeqCst);
        let body = render(&event, api_version);
        self.post(Message::Event(event, body));
    }

    /// Queues an old event again.
    pub fn send_again(&self, event: Event, api_version: &str) {
        let body = render(&event, api_version);
        self.post(Message::Again(event, body));
    }

    fn post(&self, message: Message) {
        if self.queue.send(message).is_err() {
            tracing::debug!("webhook delivery has stopped");
        }
    }

    async fn dispatch(self: Arc<Self>, mut messages: mpsc::UnboundedReceiver<Message>) {
        let mut held: Vec<(Event, String)> = Vec::new();
        while let Some(message) = messages.recv().await {
            match message {
                Message::Again(event, body) => self.deliver(&event, &body).await,
                Message::ReleaseHeld(id) => {
                    if let Some(position) = held.iter().position(|(event, _)| event.id == id) {
                        let (event, body) = held.remove(position);
                        self.deliver(&event, &body).await;
                    }
                    continue;
                }
                Message::Event(event, body) => {
                    let fault = locked(&self.faults).for_event(event.kind);
                    let delay = fault
                        .as_ref()
                        .map_or(Duration::ZERO, |fault| Duration::from_millis(fault.delay_ms));
                    match fault.map(|fault| fault.kind) {
                        Some(FaultKind::WebhookReorder) => {
                            let wait = if delay.is_zero() { REORDER_PATIENCE } else { delay };
                            self.post_after(wait, Message::ReleaseHeld(event.id.clone()));
                            held.push((event, body));
                            continue;
                        }
                        Some(FaultKind::WebhookDelay) => {
                            self.post_after(delay, Message::Again(event, body));
                            continue;
                        }
                        Some(FaultKind::WebhookDrop) => {
                            self.note_dropped(&event);
                            continue;
                        }
                        Some(FaultKind::WebhookDuplicate) => {
                            self.deliver(&event, &body).await;
                            self.deliver(&event, &body).await;
                        }
                        _ => self.deliver(&event, &body).await,
                    }
                }
            }
            for (event, body) in held.drain(..) {
                self.deliver(&event, &body).await;
            }
        }
    }

    fn post_after(self: &Arc<Self>, wait: Duration, message: Message) {
        let webhooks = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = webhooks.stop.cancelled() => {}
                () = tokio::time::sleep(wait) => webhooks.post(message),
            }
        });
    }

    /// Starts one delivery to each endpoint, as many at a time as there are permits.
    async fn deliver(self: &Arc<Self>, event: &Event, body: &str) {
        for endpoint in self.endpoints() {
            if !endpoint.takes(event.kind) {
                continue;
            }
            let Ok(permit) = self.permits.clone().acquire_owned().await else {
                return;
            };
            let (webhooks, event, body) = (self.clone(), event.clone(), body.to_owned());
            tokio::spawn(async move {
                let stop = webhooks.stop.clone();
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = webhooks.deliver_until_taken(&event, &body, &endpoint, permit) => {}
                }
            });
        }
    }

    async fn deliver_until_taken(
        &self,
        event: &Event,
        body: &str,
        endpoint: &WebhookEndpoint,
        permit: tokio::sync::OwnedSemaphorePermit,
    ) {
        let mut permit = Some(permit);
        for attempt in 1..=self.retry.attempts.max(1) {
            let last = attempt == self.retry.attempts.max(1);
            let result = self.attempt(body, endpoint).await;
            let taken = matches!(result, Ok(status) if (200..300).contains(&status));
            if taken {
                event.pending.fetch_sub(1, Ordering::SeqCst);
            }
            self.note(Delivery {
                id: new_id("whd"),
                event: event.id.clone(),
                event_type: event.kind.to_owned(),
                url: endpoint.url.clone(),
                attempt,
                at_millis: machine_millis(),
                status: result.as_ref().ok().copied(),
                error: result.err(),
                outcome: match (taken, last) {
                    (true, _) => DeliveryOutcome::Delivered,
                    (false, false) => DeliveryOutcome::Failed,
                    (false, true) => DeliveryOutcome::GivenUp,
                },
            });
            drop(permit.take());
            if taken || last {
                return;
            }
            tokio::time::sleep(self.retry.pause(attempt)).await;
        }
    }

    async fn attempt(&self, body: &str, endpoint: &WebhookEndpoint) -> Result<u16, String> {
        let signature = signature_header(body, &endpoint.secrets, machine_millis() / 1000);
        self.client
            .post(&endpoint.url)
            .header("content-type", "application/json; charset=utf-8")
            .header("user-agent", "Stripe/1.0 (+https://stripe.com/docs/webhooks)")
            .header("stripe-signature", signature)
            .body(body.to_owned())
            .send()
            .await
            .map(|reply| reply.status().as_u16())
            .map_err(|error| format!("{:#}", anyhow::Error::from(error)))
    }

    fn note_dropped(&self, event: &Event) {
        for endpoint in self.endpoints() {
            self.note(Delivery {
                id: new_id("whd"),
                event: event.id.clone(),
                event_type: event.kind.to_owned(),
                url: endpoint.url,
                attempt: 0,
                at_millis: machine_millis(),
                status: None,
                error: None,
                outcome: DeliveryOutcome::Dropped,
            });
        }
    }

    fn note(&self, delivery: Delivery) {
        let mut log = locked(&self.log);
        log.push_back(delivery);
        while log.len() > LOG_LENGTH {
            log.pop_front();
        }
    }
}

/// The body, indented as Stripe's: whoever verifies a re-serialised copy instead of the raw bytes
/// fails here as well.
fn render(event: &Event, api_version: &str) -> String {
    format!("{:#}", event.to_json(api_version))
}

/// The `Stripe-Signature` header of a body sent at `timestamp`, one `v1` for each secret.
#[must_use]
pub fn signature_header(body: &str, secrets: &[String], timestamp: i64) -> String {
    let mut header = format!("t={timestamp}");
    for secret in secrets {
        // HMAC takes keys of any length, so there is no error to speak of.
        if let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) {
            mac.update(format!("{timestamp}.{body}").as_bytes());
            header.push_str(",v1=");
            header.push_str(&hex::encode(mac.finalize().into_bytes()));
        }
    }
    header
}
