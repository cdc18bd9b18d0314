//! Idempotency keys with Stripe's semantics
//! (https://docs.stripe.com/api/idempotent_requests).
//!
//! The reply of a POST is kept once its execution began, failures and 500s included, and given
//! again for the same key and parameters. Refusals made before execution are not kept. Keys are
//! pruned after 24 hours of the sandbox's clock.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Map, Value};

use super::errors::ApiError;

const LIFETIME_SECONDS: i64 = 24 * 60 * 60;

/// A reply as it went out first.
#[derive(Clone, Debug)]
pub(super) struct SavedReply {
    pub status: u16,
    pub body: String,
    pub request_id: String,
}

#[derive(Debug)]
struct Entry {
    path: String,
    params: Map<String, Value>,
    created: i64,
    reply: Option<SavedReply>,
}

/// The keys of the last day.
#[derive(Debug, Default)]
pub(super) struct IdempotencyKeys {
    entries: HashMap<String, Entry>,
    by_age: BTreeSet<(i64, String)>,
}

/// What a key means for a request.
#[derive(Debug)]
pub(super) enum Admission {
    /// First use: run the request, then [`IdempotencyKeys::save`] or [`IdempotencyKeys::forget`].
    Run,
    /// It ran before.
    Replay(SavedReply),
}

impl IdempotencyKeys {
    /// Looks the key up and, when it is new, marks it as in use.
    pub fn admit(
        &mut self,
        key: &str,
        path: &str,
        params: &Map<String, Value>,
        now: i64,
    ) -> Result<Admission, ApiError> {
        if key.is_empty() || key.len() > 255 {
            return Err(ApiError::key_reused(
                "Idempotency keys must have between 1 and 255 characters.",
            ));
        }
        self.prune(now);
        let Some(entry) = self.entries.get(key) else {
            self.by_age.insert((now, key.to_owned()));
            let (path, params) = (path.to_owned(), params.clone());
            self.entries.insert(
                key.to_owned(),
                Entry {
                    path,
                    params,
                    created: now,
                    reply: None,
                },
            );
            return Ok(Admission::Run);
        };
        if entry.path != path {
            return Err(ApiError::key_reused(format!(
                "Keys for idempotent requests can only be used for the same endpoint they were \
                 first used for ('{path}' vs '{}'). Try using a key other than '{key}' if you \
                 meant to execute a different request.",
                entry.path
            )));
        }
        if entry.params != *params {
            return Err(ApiError::key_reused(format!(
                "Keys for idempotent requests can only be used with the same parameters they were \
                 first used with. Try using a key other than '{key}' if you meant to execute a \
                 different request."
            )));
        }
        match &entry.reply {
            Some(reply) => Ok(Admission::Replay(reply.clone())),
            None => Err(ApiError::key_in_use(key)),
        }
    }

    /// Keeps the reply of a request that began to execute.
    pub fn save(&mut self, key: &str, reply: SavedReply) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.reply = Some(reply);
        }
    }

    /// Frees the key of a request that was refused before execution.
    pub fn forget(&mut self, key: &str) {
        if let Some(entry) = self.entries.remove(key) {
            self.by_age.remove(&(entry.created, key.to_owned()));
        }
    }

    fn prune(&mut self, now: i64) {
        while let Some((created, key)) = self.by_age.first().cloned() {
            if created + LIFETIME_SECONDS > now {
                break;
            }
            self.by_age.pop_first();
            self.entries.remove(&key);
        }
    }
}
