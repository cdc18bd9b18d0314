//! How many WebSockets are open. An open one keeps its place among the listener's connections as long as it lasts, and
//! cannot give way to a newcomer as a silent connection does: so they get half of the places, and each user a few.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

use crate::error::{ApiError, ApiResult};
use crate::rest::booking_events::{OpenStream, OpenStreams};

/// When it is worth asking again for one more.
const RETRY_AFTER_SECONDS: u64 = 30;

/// The WebSockets of this process.
#[derive(Clone)]
pub struct OpenSockets {
    places: Arc<Semaphore>,
    users: OpenStreams,
}

impl OpenSockets {
    /// For a listener with so many connections.
    #[must_use]
    pub fn new(connections: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new((connections / 2).max(1))),
            users: OpenStreams::default(),
        }
    }

    /// A place for one more, of whomever.
    pub(super) fn enter(&self) -> ApiResult<OpenSocket> {
        let permit = Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            let detail = "Too many WebSockets are open; try again in a while.";
            ApiError::unavailable("overloaded", detail, RETRY_AFTER_SECONDS)
        })?;
        metrics::gauge!("roost_websockets").increment(1.0);
        Ok(OpenSocket { _permit: permit })
    }

    /// Counts one more of this user, until the result is dropped. None if there are too many.
    pub(super) fn of(&self, user_id: Uuid) -> Option<OpenStream> {
        self.users.open(user_id)
    }
}

/// A WebSocket's place.
pub(super) struct OpenSocket {
    _permit: OwnedSemaphorePermit,
}

impl Drop for OpenSocket {
    fn drop(&mut self) {
        metrics::gauge!("roost_websockets").decrement(1.0);
    }
}
