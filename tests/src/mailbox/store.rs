//! The messages, newest last, up to a number; and waiting for the one that is wanted.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::watch;

use super::message::Message;

#[derive(Debug)]
pub(super) struct Store {
    capacity: usize,
    kept: Mutex<Kept>,
    arrivals: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Kept {
    last_id: u64,
    messages: VecDeque<Arc<Message>>,
}

/// The wanted message did not come; says what did.
#[derive(Debug, thiserror::Error)]
#[error("no such mail within {patience:?}; there is {there:?}")]
pub struct NoSuchMail {
    patience: Duration,
    there: Vec<String>,
}

impl Store {
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            kept: Mutex::default(),
            arrivals: watch::Sender::new(0),
        }
    }

    /// Keeps the message under the next id and returns the id.
    pub fn add(&self, build: impl FnOnce(u64) -> Message) -> u64 {
        let id = {
            let mut kept = self.lock();
            kept.last_id += 1;
            let id = kept.last_id;
            kept.messages.push_back(Arc::new(build(id)));
            while kept.messages.len() > self.capacity {
                kept.messages.pop_front();
            }
            id
        };
        self.arrivals.send_replace(id);
        id
    }

    pub fn all(&self) -> Vec<Arc<Message>> {
        self.lock().messages.iter().cloned().collect()
    }

    /// The newest `limit` of those `wanted`, newest first.
    pub fn newest(&self, limit: usize, wanted: impl Fn(&Message) -> bool) -> Vec<Arc<Message>> {
        let kept = self.lock();
        kept.messages
            .iter()
            .rev()
            .filter(|message| wanted(message))
            .take(limit)
            .cloned()
            .collect()
    }

    pub fn get(&self, id: u64) -> Option<Arc<Message>> {
        self.lock().messages.iter().find(|message| message.id == id).cloned()
    }

    /// Whether it was there.
    pub fn remove(&self, id: u64) -> bool {
        let mut kept = self.lock();
        let before = kept.messages.len();
        kept.messages.retain(|message| message.id != id);
        kept.messages.len() < before
    }

    pub fn clear(&self) {
        self.lock().messages.clear();
    }

    pub async fn wait_for(
        &self,
        wanted: impl Fn(&Message) -> bool,
        patience: Duration,
    ) -> Result<Arc<Message>, NoSuchMail> {
        // Subscribed before looking: an arrival in between is not missed.
        let mut arrivals = self.arrivals.subscribe();
        let found = async {
            loop {
                if let Some(message) = self.all().into_iter().find(|message| wanted(message)) {
                    return message;
                }
                if arrivals.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::time::timeout(patience, found).await.map_err(|_| NoSuchMail {
            patience,
            there: self
                .all()
                .iter()
                .map(|message| format!("{} to {}", message.subject, message.to.join(", ")))
                .collect(),
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
