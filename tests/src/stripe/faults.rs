//! Faults on demand: what goes wrong, for which requests or events, and how often.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FaultKind {
    /// The request runs slowly: it waits, its key in use, and then executes.
    #[serde(rename = "delay")]
    Delay,
    /// The request executes at once and its reply comes late.
    #[serde(rename = "delay_after_commit")]
    DelayAfterCommit,
    /// 429 before anything ran; nothing is kept under the key.
    #[serde(rename = "429")]
    RateLimited,
    /// 402: the card's bank refuses; nothing is changed, and it is kept under the key.
    #[serde(rename = "402")]
    Declined,
    /// 500 after execution began and came to nothing; kept under the key.
    #[serde(rename = "500")]
    ServerError,
    /// 500 although the change was made; kept under the key.
    #[serde(rename = "500_after_commit")]
    ServerErrorAfterCommit,
    /// A proxy's HTML page in place of the API; nothing ran.
    #[serde(rename = "502_html")]
    BadGateway,
    /// The same, but the request executed behind the proxy.
    #[serde(rename = "502_html_after_commit")]
    BadGatewayAfterCommit,
    /// The connection is reset before the request runs.
    #[serde(rename = "reset_before")]
    ResetBefore,
    /// The request executes, then the connection is reset without a byte of reply.
    #[serde(rename = "reset_after_commit")]
    ResetAfterCommit,
    /// The request executes, the connection breaks in the middle of the reply.
    #[serde(rename = "truncated")]
    Truncated,
    /// The request executes, the reply is well framed and its JSON cut in half.
    #[serde(rename = "truncated_json")]
    TruncatedJson,
    /// The request executes, the reply has no body.
    #[serde(rename = "empty")]
    Empty,
    /// The event is delivered twice.
    #[serde(rename = "webhook_duplicate")]
    WebhookDuplicate,
    /// The event is delivered after the next one, or after `delay_ms` (1 s) if none follows.
    #[serde(rename = "webhook_reorder")]
    WebhookReorder,
    /// The event is delivered late.
    #[serde(rename = "webhook_delay")]
    WebhookDelay,
    /// The event is never delivered.
    #[serde(rename = "webhook_drop")]
    WebhookDrop,
}

impl FaultKind {
    fn concerns_webhooks(self) -> bool {
        matches!(
            self,
            Self::WebhookDuplicate | Self::WebhookReorder | Self::WebhookDelay | Self::WebhookDrop
        )
    }
}

/// Which requests or events a fault hits; an absent field matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FaultMatch {
    pub method: Option<String>,
    /// The start of the path, such as `/v1/payment_intents`.
    pub path_prefix: Option<String>,
    /// The end of the path, such as `/capture`.
    pub path_suffix: Option<String>,
    /// The start of an event's type, such as `charge.`; for webhook faults.
    pub event_type: Option<String>,
}

/// A fault to come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    #[serde(default, rename = "match")]
    pub matching: FaultMatch,
    pub kind: FaultKind,
    /// How many matching requests it hits.
    #[serde(default = "once")]
    pub times: u32,
    /// How many matching requests it lets through first.
    #[serde(default)]
    pub after: u32,
    /// For the kinds that wait.
    #[serde(default)]
    pub delay_ms: u64,
}

fn once() -> u32 {
    1
}

impl Fault {
    /// A fault that hits the next request (or event) whatever it is.
    #[must_use]
    pub fn new(kind: FaultKind) -> Self {
        Self {
            matching: FaultMatch::default(),
            kind,
            times: 1,
            after: 0,
            delay_ms: 0,
        }
    }

    /// Only requests with this method whose path starts so.
    #[must_use]
    pub fn on(mut self, method: &str, path_prefix: &str) -> Self {
        self.matching.method = Some(method.to_owned());
        self.matching.path_prefix = Some(path_prefix.to_owned());
        self
    }

    /// Only POSTs whose path ends so, such as `/capture`.
    #[must_use]
    pub fn on_operation(mut self, path_suffix: &str) -> Self {
        self.matching.method = Some("POST".to_owned());
        self.matching.path_suffix = Some(path_suffix.to_owned());
        self
    }

    /// Only events whose type starts so.
    #[must_use]
    pub fn on_event(mut self, event_type: &str) -> Self {
        self.matching.event_type = Some(event_type.to_owned());
        self
    }

    #[must_use]
    pub fn times(self, times: u32) -> Self {
        Self { times, ..self }
    }

    #[must_use]
    pub fn after(self, after: u32) -> Self {
        Self { after, ..self }
    }

    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self
    }

    fn hits_request(&self, method: &str, path: &str) -> bool {
        let FaultMatch {
            method: wanted,
            path_prefix,
            path_suffix,
            ..
        } = &self.matching;
        !self.kind.concerns_webhooks()
            && wanted.as_ref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(method))
            && path_prefix
                .as_ref()
                .is_none_or(|prefix| path.starts_with(prefix.as_str()))
            && path_suffix
                .as_ref()
                .is_none_or(|suffix| path.ends_with(suffix.as_str()))
    }

    fn hits_event(&self, kind: &str) -> bool {
        let wanted = &self.matching.event_type;
        self.kind.concerns_webhooks() && wanted.as_ref().is_none_or(|prefix| kind.starts_with(prefix.as_str()))
    }
}

/// The faults still to come, in the order they were asked for.
#[derive(Debug, Default)]
pub(super) struct Faults {
    pending: Vec<Fault>,
}

impl Faults {
    pub fn add(&mut self, fault: Fault) {
        self.pending.push(fault);
    }

    pub fn clear(&mut self) {
        self.pending.clear();
    }

    pub fn pending(&self) -> &[Fault] {
        &self.pending
    }

    pub fn for_request(&mut self, method: &str, path: &str) -> Option<Fault> {
        self.take(|fault| fault.hits_request(method, path))
    }

    pub fn for_event(&mut self, kind: &str) -> Option<Fault> {
        self.take(|fault| fault.hits_event(kind))
    }

    /// The first fault that hits, counted down; one that still lets requests through only counts.
    fn take(&mut self, hits: impl Fn(&Fault) -> bool) -> Option<Fault> {
        let mut hit = None;
        for fault in self.pending.iter_mut().filter(|fault| hits(fault)) {
            if fault.after > 0 {
                fault.after -= 1;
            } else if hit.is_none() {
                fault.times = fault.times.saturating_sub(1);
                hit = Some(fault.clone());
            }
        }
        self.pending.retain(|fault| fault.times > 0);
        hit
    }
}
