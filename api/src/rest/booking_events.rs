//! A booking's changes as server-sent events, for a page that shows how the booking gets on.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_graphql::SimpleObject;
use chrono::{DateTime, Utc};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use poem::web::sse::Event;
use poem_openapi::param::{Header, Path};
use poem_openapi::payload::EventStream;
use poem_openapi::types::{Example, ToJSON};
use poem_openapi::{Object, OpenApi};
use roost_shared::bookings::{self, BookingError, Progress};
use tokio::time::Instant;
use uuid::Uuid;

use super::Tag;
use super::bookings::objects::{BookingState, example_id, example_instant};
use super::bookings::reads::is_party;
use super::payments::PaymentState;
use crate::auth::{Auth, Identity};
use crate::error::{ApiError, ApiResult};
use crate::state::AppState;
use crate::waiting::Changes;

/// How long a stream lasts; a client that still cares opens another one.
const LONGEST: Duration = Duration::from_secs(30 * 60);
/// Streams that one user may have open in one process.
const MOST_PER_USER: usize = 20;
/// When it is worth asking again for one more.
const RETRY_AFTER_SECONDS: u64 = 30;
/// How often a comment keeps proxies from closing a silent stream.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The events of bookings.
pub struct BookingEventsApi(pub AppState);

/// How many streams, or connections for them, each user has open in this process.
#[derive(Clone, Default)]
pub struct OpenStreams(Arc<Mutex<HashMap<Uuid, usize>>>);

impl OpenStreams {
    /// Counts one more, until the result is dropped. None if there are too many.
    pub(crate) fn open(&self, user_id: Uuid) -> Option<OpenStream> {
        let mut users = self.users();
        let count = users.entry(user_id).or_default();
        if *count >= MOST_PER_USER {
            return None;
        }
        *count += 1;
        Some(OpenStream {
            streams: self.clone(),
            user_id,
        })
    }

    fn users(&self) -> MutexGuard<'_, HashMap<Uuid, usize>> {
        // Nothing under this lock panics half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of them, until it is dropped.
pub(crate) struct OpenStream {
    streams: OpenStreams,
    user_id: Uuid,
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        if let Entry::Occupied(mut entry) = self.streams.users().entry(self.user_id) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

/// Where a booking stands: the `data` of an event.
#[derive(Clone, Debug, PartialEq, Eq, Object, SimpleObject)]
#[oai(example)]
pub struct BookingProgress {
    /// The booking
    pub id: Uuid,
    /// Where it stands
    pub state: BookingState,
    /// Where its latest card stands
    pub payment_state: Option<PaymentState>,
    /// Counts changes of the booking
    pub version: i32,
    /// When the booking or its payment last changed
    pub at: DateTime<Utc>,
}

impl BookingProgress {
    fn new(id: Uuid, progress: Progress) -> Self {
        Self {
            id,
            state: progress.state.into(),
            payment_state: progress.payment_state.map(PaymentState::from),
            version: progress.version,
            at: progress.at,
        }
    }
}

impl Example for BookingProgress {
    fn example() -> Self {
        Self {
            id: example_id(2),
            state: BookingState::Confirmed,
            payment_state: Some(PaymentState::Captured),
            version: 2,
            at: example_instant(),
        }
    }
}

#[OpenApi(tag = "Tag::Bookings")]
impl BookingEventsApi {
    /// Follow a booking
    ///
    /// Server-sent events for its guest and host: first how the booking stands, then each change of the booking or of
    /// its payment. Each is `event: booking` with the booking's version as `id` and a JSON object as `data`; comments
    /// in between keep the connection open. The stream ends when the booking or your session has ended, or after 30 minutes;
    /// you may have 20 open at a time. A client that
    /// reconnects, with or without `Last-Event-ID`, gets how it stands then: nothing has to be made up for.
    #[oai(
        path = "/bookings/:booking_id/events",
        method = "get",
        operation_id = "follow_booking"
    )]
    async fn follow(
        &self,
        auth: Auth,
        /// The booking
        booking_id: Path<Uuid>,
        /// Sent by browsers that reconnect; not needed
        #[oai(name = "Last-Event-ID")]
        _last_event_id: Header<Option<String>>,
    ) -> ApiResult<EventStream<BoxStream<'static, BookingProgress>>> {
        let events = follow(&self.0, &auth, booking_id.0).await?;
        Ok(EventStream::new(events).keep_alive(KEEP_ALIVE).to_event(|progress| {
            Event::message(progress.to_json_string())
                .event_type("booking")
                .id(progress.version.to_string())
        }))
    }
}

/// How a booking stands, then each change, for its guest and host.
pub(crate) async fn follow(
    state: &AppState,
    identity: &Identity,
    booking_id: Uuid,
) -> ApiResult<BoxStream<'static, BookingProgress>> {
    let booking = bookings::get(&mut *state.db.pool().acquire().await?, booking_id).await?;
    booking
        .filter(|booking| is_party(booking, identity.user_id))
        .ok_or(BookingError::NoSuchBooking)?;
    let open = state.streams.open(identity.user_id).ok_or_else(|| {
        ApiError::too_many_requests("You have too many streams open; close one first.", RETRY_AFTER_SECONDS)
    })?;
    Ok(changes(state.clone(), booking_id, identity.session_id, open).boxed())
}

struct Follower {
    state: AppState,
    booking_id: Uuid,
    changes: Changes,
    session_id: Uuid,
    last: Option<Progress>,
    until: Instant,
    _open: OpenStream,
}

fn changes(
    state: AppState,
    booking_id: Uuid,
    session_id: Uuid,
    open: OpenStream,
) -> impl futures::Stream<Item = BookingProgress> + Send + 'static {
    let follower = Follower {
        changes: state.announcements.of(booking_id),
        state,
        booking_id,
        session_id,
        last: None,
        until: Instant::now() + LONGEST,
        _open: open,
    };
    stream::unfold(follower, |mut follower| async move {
        let progress = follower.next().await?;
        Some((BookingProgress::new(follower.booking_id, progress), follower))
    })
}

impl Follower {
    /// The next thing to tell; nothing once the booking, the session, the time or the server has ended.
    async fn next(&mut self) -> Option<Progress> {
        if self.last.is_some_and(|last| last.state.is_final()) {
            return None;
        }
        let stopping = self.state.stopping.clone();
        let until = self.until;
        tokio::select! {
            progress = self.change() => progress,
            () = tokio::time::sleep_until(until) => None,
            () = stopping.cancelled() => None,
        }
    }

    async fn change(&mut self) -> Option<Progress> {
        loop {
            // At each waking, which comes every few seconds at least: who signed out sees no more. Without Redis it goes
            // on, as an access token does.
            if let Ok(false) = self.state.sessions.exists(self.session_id).await {
                return None;
            }
            match bookings::progress(self.state.db.pool(), self.booking_id).await {
                Ok(None) => return None,
                Ok(Some(progress)) if self.last != Some(progress) => {
                    self.last = Some(progress);
                    return Some(progress);
                }
                Ok(Some(_)) => {}
                // The stream outlives a database that is away for a moment.
                Err(error) => tracing::warn!(%error, "booking not read for its followers"),
            }
            self.changes.next().await;
        }
    }
}
