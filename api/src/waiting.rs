//! Requests that wait for a booking to change: `Prefer: wait` and the event streams.
//!
//! A process has one subscription in Redis, whatever the number of waiters, and wakes those of the booking that
//! changed. An announcement is a hint and may be lost: whoever is woken reads Postgres, and looks again by itself now
//! and then, often while Redis is down.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use roost_shared::jobs::Publisher;
use roost_shared::redis::Redis;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

/// How often a waiter looks by itself while announcements arrive.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// And while they do not, at least and at most: those of different bookings at different times.
const LOOK_AGAIN_UNTOLD: (Duration, Duration) = (Duration::from_millis(500), Duration::from_millis(1_000));
/// How long subscribing may take, and how long until it is tried again.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const RECONNECT_DELAY: Duration = Duration::from_millis(250);

/// The announcements of this process. A clone is a reference count; the subscription ends with the last one.
#[derive(Clone)]
pub struct Announcements {
    waiters: Arc<Waiters>,
    _subscription: Arc<DropGuard>,
}

struct Waiters {
    /// A sender per booking that somebody waits for, with how many do.
    bookings: Mutex<HashMap<Uuid, (usize, watch::Sender<()>)>>,
    /// Whether announcements arrive.
    subscribed: watch::Sender<bool>,
}

impl Waiters {
    fn bookings(&self) -> MutexGuard<'_, HashMap<Uuid, (usize, watch::Sender<()>)>> {
        // Nothing under this lock panics half-way.
        self.bookings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn announce(&self, booking_id: Uuid) {
        if let Some((_, sender)) = self.bookings().get(&booking_id) {
            sender.send_replace(());
        }
    }
}

impl Announcements {
    /// Subscribes in the background, and again whenever the subscription is lost. Needs a tokio runtime.
    #[must_use]
    pub fn spawn(redis: Redis) -> Self {
        let waiters = Arc::new(Waiters {
            bookings: Mutex::default(),
            subscribed: watch::Sender::new(false),
        });
        let stop = CancellationToken::new();
        tokio::spawn(
            stop.clone()
                .run_until_cancelled_owned(subscribe(redis, Arc::clone(&waiters))),
        );
        Self {
            waiters,
            _subscription: Arc::new(stop.drop_guard()),
        }
    }

    /// Begins to listen for changes of a booking. Read its state after this, not before: what changes from now on
    /// is announced.
    #[must_use]
    pub fn of(&self, booking_id: Uuid) -> Changes {
        let mut bookings = self.waiters.bookings();
        let (count, sender) = bookings
            .entry(booking_id)
            .or_insert_with(|| (0, watch::Sender::new(())));
        *count += 1;
        Changes {
            booking_id,
            announced: sender.subscribe(),
            subscribed: self.waiters.subscribed.subscribe(),
            announcements: self.clone(),
        }
    }

    /// How many wait for a booking.
    #[must_use]
    pub fn waiting_for(&self, booking_id: Uuid) -> usize {
        self.waiters.bookings().get(&booking_id).map_or(0, |(count, _)| *count)
    }

    /// Whether announcements arrive at all.
    #[must_use]
    pub fn are_heard(&self) -> bool {
        *self.waiters.subscribed.borrow()
    }
}

/// The changes of one booking, as one waiter hears of them.
pub struct Changes {
    booking_id: Uuid,
    announced: watch::Receiver<()>,
    subscribed: watch::Receiver<bool>,
    announcements: Announcements,
}

impl Changes {
    /// Returns when it is time to look at the booking again. May return for nothing.
    pub async fn next(&mut self) {
        let pause = if *self.subscribed.borrow_and_update() {
            LOOK_AGAIN
        } else {
            let (least, most) = LOOK_AGAIN_UNTOLD;
            // The end of an id is random.
            least + (most - least).mul_f64(f64::from(self.booking_id.as_bytes()[15]) / 255.0)
        };
        // Neither sender ends before this receiver. A subscription that came back may have missed announcements, and
        // one that was lost changes the pause.
        tokio::select! {
            _ = self.announced.changed() => {}
            _ = self.subscribed.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        if let Entry::Occupied(mut entry) = self.announcements.waiters.bookings().entry(self.booking_id) {
            entry.get_mut().0 -= 1;
            if entry.get().0 == 0 {
                entry.remove();
            }
        }
    }
}

async fn subscribe(redis: Redis, waiters: Arc<Waiters>) {
    let channel = Publisher::booking_channel(&redis);
    loop {
        match listen(&redis, &channel, &waiters).await {
            Ok(()) => tracing::warn!("the subscription to bookings was lost"),
            Err(error) => tracing::warn!(%error, "no subscription to bookings: waiters ask the database"),
        }
        waiters
            .subscribed
            .send_if_modified(|subscribed| std::mem::replace(subscribed, false));
        tokio::time::sleep(RECONNECT_DELAY).await;
    }
}

/// Passes announcements on until the connection ends.
async fn listen(redis: &Redis, channel: &str, waiters: &Waiters) -> Result<(), redis::RedisError> {
    let connect = async {
        let mut subscriber = redis.subscriber().await?;
        subscriber.subscribe(channel).await?;
        Ok::<_, redis::RedisError>(subscriber)
    };
    let subscriber = tokio::time::timeout(CONNECT_TIMEOUT, connect)
        .await
        .map_err(|_| redis::RedisError::from((redis::ErrorKind::Io, "subscribing took too long")))??;
    waiters.subscribed.send_replace(true);
    let mut messages = subscriber.into_on_message();
    while let Some(message) = messages.next().await {
        if let Ok(booking_id) = std::str::from_utf8(message.get_payload_bytes())
            .unwrap_or_default()
            .parse()
        {
            waiters.announce(booking_id);
        }
    }
    Ok(())
}
