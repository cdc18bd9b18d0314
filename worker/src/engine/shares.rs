//! Slots that are held back: a queue has fewer while a heavier one comes near its target.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use roost_shared::jobs::Queue;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::task::AbortOnDropHandle;

use super::{Engine, lock};

/// Slots on their way to being held, or held. Free again when it is dropped.
pub(super) struct HeldBack {
    count: usize,
    _slots: AbortOnDropHandle<Option<OwnedSemaphorePermit>>,
}

pub(super) type AllHeldBack = Mutex<HashMap<Queue, HeldBack>>;

impl Engine {
    /// Lets each queue have so many slots. What runs goes on; slots are taken as they become free.
    pub fn share_out(&self, shares: &[(Queue, usize)]) {
        let mut held = lock(&self.held_back);
        for (queue, share) in shares {
            let Some(slots) = self.slots.get(queue) else { continue };
            let count = self.concurrency.saturating_sub(*share);
            if held.get(queue).map_or(0, |held| held.count) == count {
                continue;
            }
            held.remove(queue);
            tracing::debug!(queue = queue.name(), slots = share, "slots shared out anew");
            let Some(many) = u32::try_from(count).ok().filter(|many| *many > 0) else {
                continue;
            };
            let slots = Arc::clone(slots);
            let taking = tokio::spawn(async move { slots.acquire_many_owned(many).await.ok() });
            held.insert(
                *queue,
                HeldBack {
                    count,
                    _slots: AbortOnDropHandle::new(taking),
                },
            );
        }
    }
}
