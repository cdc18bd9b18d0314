//! The running sandbox's shared parts and the one way to the account's state.

use std::sync::{Arc, Mutex};

use roost_shared::clock::Clock;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::account::{Account, Call, RequestRef, Settings};
use super::connections::Connections;
use super::errors::ApiError;
use super::faults::Faults;
use super::idempotency::IdempotencyKeys;
use super::journal::{Journal, PaymentRecord};
use super::locked;
use super::payment_flow::refunded_by_intent;
use super::webhooks::Webhooks;

/// What the server's tasks share.
#[derive(Debug)]
pub(super) struct Core {
    pub settings: Settings,
    pub clock: Clock,
    pub account: Mutex<Account>,
    pub keys: Mutex<IdempotencyKeys>,
    pub faults: Arc<Mutex<Faults>>,
    pub journal: Mutex<Journal>,
    pub journal_length: usize,
    pub webhooks: Arc<Webhooks>,
    pub connections: Connections,
    /// The only key taken; any test key when absent.
    pub secret_key: Option<String>,
    pub stop: CancellationToken,
}

impl Core {
    /// The sandbox's time in seconds since the Unix epoch.
    pub fn now(&self) -> i64 {
        self.clock.now().timestamp()
    }

    /// Runs one operation under the account's lock, after what was due by the clock, and hands
    /// the events it caused to delivery in their order.
    pub fn run<R>(
        &self,
        request: RequestRef,
        operation: impl FnOnce(&mut Call<'_>) -> Result<R, ApiError>,
    ) -> Result<R, ApiError> {
        let mut account = locked(&self.account);
        let now = self.now();
        let settings = &self.settings;
        let nobody = RequestRef::default();
        let mut call = Call {
            account: &mut account,
            settings,
            now,
            request: nobody,
        };
        let result = call.lapse_due().and_then(|()| {
            call.request = request;
            operation(&mut call)
        });
        for id in std::mem::take(&mut account.outbox) {
            if let Some(event) = account.events.find(&id) {
                self.webhooks.send(event.clone(), &settings.api_version);
            }
        }
        result
    }

    /// Runs something nobody requested over the API.
    pub fn run_unrequested<R>(
        &self,
        operation: impl FnOnce(&mut Call<'_>) -> Result<R, ApiError>,
    ) -> Result<R, ApiError> {
        self.run(RequestRef::default(), operation)
    }

    /// Delivers an event once more.
    pub fn send_again(&self, id: &str) -> Result<(), ApiError> {
        let account = locked(&self.account);
        let event = account.events.get(id)?.clone();
        self.webhooks.send_again(event, &self.settings.api_version);
        Ok(())
    }

    /// All payments, oldest first.
    pub fn record(&self) -> Vec<PaymentRecord> {
        let account = locked(&self.account);
        let journal = locked(&self.journal);
        let refunded = refunded_by_intent(account.charges.iter());
        let intents = account.payment_intents.iter();
        intents
            .map(|intent| PaymentRecord {
                id: intent.id.clone(),
                status: intent.status.as_str(),
                currency: intent.currency.clone(),
                authorised: intent.authorised,
                captured: intent.amount_received,
                refunded: refunded.get(intent.id.as_str()).copied().unwrap_or(0),
                captures: intent.captures,
                metadata: intent.metadata.clone(),
                requests: journal.of_intent(&intent.id).to_vec(),
            })
            .collect()
    }

    /// Events about an object, oldest first, each as Stripe's JSON.
    pub fn events(&self) -> Vec<Value> {
        let account = locked(&self.account);
        let version = &self.settings.api_version;
        account.events.iter().map(|event| event.to_json(version)).collect()
    }

    /// Forgets everything but the webhook endpoints and the time.
    pub fn reset(&self) {
        *locked(&self.account) = Account::default();
        *locked(&self.keys) = IdempotencyKeys::default();
        locked(&self.faults).clear();
        locked(&self.journal).clear();
        self.webhooks.clear_log();
    }
}
