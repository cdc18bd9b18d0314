//! Events: one for each change, with the object as it was then. They wait in the account's
//! outbox until webhook delivery takes them.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use serde_json::{Value, json};

use super::account::{Call, RequestRef};
use super::errors::ApiError;
use super::ids::new_id;
use super::params::Params;
use super::table::{Paging, Row, list_object};

/// Something that happened.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub id: String,
    pub created: i64,
    pub kind: &'static str,
    /// The object as text: a tree of it would take several times the memory, and a bench makes many.
    object: Arc<str>,
    previous: Option<Value>,
    request: RequestRef,
    /// Endpoints that have not answered 2xx yet.
    pub pending: Arc<AtomicI64>,
}

impl Row for Event {
    const KIND: &'static str = "event";
    fn id(&self) -> &str {
        &self.id
    }
    fn created(&self) -> i64 {
        self.created
    }
}

impl Event {
    /// Endpoints still to answer; an event sent again can be taken more often than it was owed.
    fn pending_webhooks(&self) -> i64 {
        self.pending.load(Ordering::SeqCst).max(0)
    }

    pub fn to_json(&self, api_version: &str) -> Value {
        let mut data = json!({ "object": serde_json::from_str::<Value>(&self.object).unwrap_or_default() });
        if let Some(previous) = &self.previous {
            data["previous_attributes"] = previous.clone();
        }
        json!({
            "id": self.id,
            "object": "event",
            "api_version": api_version,
            "created": self.created,
            "data": data,
            "livemode": false,
            "pending_webhooks": self.pending_webhooks(),
            "request": {"id": self.request.id, "idempotency_key": self.request.idempotency_key},
            "type": self.kind,
        })
    }
}

impl Call<'_> {
    /// Records that something happened to the object, with its present state.
    pub fn emit(&mut self, kind: &'static str, object_id: &str) {
        self.emit_change(kind, object_id, None);
    }

    /// The same for `*.updated` events, which tell what the changed fields were before.
    pub fn emit_change(&mut self, kind: &'static str, object_id: &str, previous: Option<Value>) {
        let Some(object) = self.account.render(object_id, self.now) else {
            return;
        };
        let event = Event {
            id: new_id("evt"),
            created: self.now,
            kind,
            object: object.to_string().into(),
            previous,
            request: self.request.clone(),
            pending: Arc::new(AtomicI64::new(0)),
        };
        self.account.outbox.push(event.id.clone());
        self.account.events.insert(event);
    }

    pub fn get_event(&mut self, id: &str, params: Params) -> Result<Value, ApiError> {
        params.finish()?;
        Ok(self.account.events.get(id)?.to_json(&self.settings.api_version))
    }

    pub fn list_events(&mut self, mut params: Params) -> Result<Value, ApiError> {
        let paging = Paging::read(&mut params)?;
        let delivered = params.boolean("delivery_success")?;
        let mut kinds = params.texts("types")?;
        kinds.extend(params.text("type")?);
        params.finish()?;
        let wanted = |event: &Event| {
            let kind_fits = kinds.is_empty()
                || kinds.iter().any(|kind| match kind.strip_suffix('*') {
                    Some(prefix) => event.kind.starts_with(prefix),
                    None => event.kind == kind,
                });
            kind_fits && delivered.is_none_or(|delivered| delivered == (event.pending_webhooks() == 0))
        };
        let (events, more) = self.account.events.page(&paging, wanted)?;
        let version = &self.settings.api_version;
        let data = events.into_iter().map(|event| event.to_json(version)).collect();
        Ok(list_object("/v1/events", data, more))
    }
}
