//! The sandbox's own record of what was asked of it, for tests and for people who look.

use std::collections::{HashMap, VecDeque};

use serde::Serialize;
use serde_json::{Map, Value};

use super::faults::FaultKind;

/// One request and its reply.
#[derive(Clone, Debug, Serialize)]
pub struct Exchange {
    /// Milliseconds since the Unix epoch, by the machine's clock.
    pub at_millis: i64,
    pub request_id: String,
    pub method: String,
    pub path: String,
    /// Query and form as a tree with string leaves.
    pub params: Map<String, Value>,
    pub idempotency_key: Option<String>,
    pub status: u16,
    pub reply: Value,
    /// The reply was one kept under the key.
    pub replayed: bool,
    /// What the sandbox did to it on demand.
    pub fault: Option<FaultKind>,
}

/// A request about one payment intent, without its bodies.
#[derive(Clone, Debug, Serialize)]
pub struct RequestLine {
    pub request_id: String,
    pub method: String,
    pub path: String,
    pub idempotency_key: Option<String>,
    pub status: u16,
    pub replayed: bool,
    pub fault: Option<FaultKind>,
}

/// The latest exchanges in full, and all requests by payment intent in short.
#[derive(Debug, Default)]
pub(super) struct Journal {
    exchanges: VecDeque<Exchange>,
    by_intent: HashMap<String, Vec<RequestLine>>,
}

impl Journal {
    pub fn add(&mut self, exchange: Exchange, keep: usize) {
        if let Some(intent) = intent_of(&exchange) {
            self.by_intent.entry(intent).or_default().push(RequestLine {
                request_id: exchange.request_id.clone(),
                method: exchange.method.clone(),
                path: exchange.path.clone(),
                idempotency_key: exchange.idempotency_key.clone(),
                status: exchange.status,
                replayed: exchange.replayed,
                fault: exchange.fault,
            });
        }
        self.exchanges.push_back(exchange);
        while self.exchanges.len() > keep {
            self.exchanges.pop_front();
        }
    }

    pub fn exchanges(&self) -> Vec<Exchange> {
        self.exchanges.iter().cloned().collect()
    }

    pub fn of_intent(&self, id: &str) -> &[RequestLine] {
        self.by_intent.get(id).map_or(&[], Vec::as_slice)
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

/// The payment intent a request was about.
fn intent_of(exchange: &Exchange) -> Option<String> {
    let in_path = exchange.path.split('/').find(|segment| segment.starts_with("pi_"));
    let reply = &exchange.reply;
    let found = in_path.or_else(|| reply["payment_intent"].as_str()).or_else(|| {
        let object = if reply["object"] == "payment_intent" {
            reply
        } else {
            &reply["error"]["payment_intent"]
        };
        object["id"].as_str()
    });
    found.map(str::to_owned)
}

/// What became of one payment.
#[derive(Clone, Debug, Serialize)]
pub struct PaymentRecord {
    pub id: String,
    pub status: &'static str,
    pub currency: String,
    /// Minor units.
    pub authorised: i64,
    pub captured: i64,
    pub refunded: i64,
    /// How many captures were executed, replays not counted.
    pub captures: u32,
    pub metadata: std::collections::BTreeMap<String, String>,
    pub requests: Vec<RequestLine>,
}
