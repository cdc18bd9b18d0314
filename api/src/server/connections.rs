//! What each open connection is doing, and when that has lasted too long. A connection is judged by requests, not by
//! bytes: one that sends a byte now and then is not idle, and still has sent no request.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What clients may take of a listener.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// How long the head of a request may take, from its first byte, or from the opening of the connection.
    pub head: Duration,
    /// How long a connection may wait for its next request, or for its client to take more of a reply.
    pub idle: Duration,
    /// Connections that are open at the same time. One more closes those that have waited longest for a request.
    pub open: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            // Longer than the 60 s for which common load balancers keep connections, so that they close first.
            idle: Duration::from_secs(75),
            open: 4_096,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// The head of a request is awaited, and should have come since then.
    Head(Instant),
    /// Nothing has come since the last reply.
    Idle(Instant),
    /// A request is being answered.
    Serving,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    state: Mutex<State>,
    bounds: Bounds,
    /// Its place is wanted by another.
    pub(super) unwanted: CancellationToken,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// Since when the client takes nothing, if there is something to take.
    stalled: Option<Instant>,
}

impl Connection {
    fn new(bounds: Bounds, now: Instant) -> Self {
        Self {
            state: Mutex::new(State {
                phase: Phase::Head(now),
                stalled: None,
            }),
            bounds,
            unwanted: CancellationToken::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes came in.
    pub(super) fn heard(&self, now: Instant) {
        let mut state = self.state();
        if let Phase::Idle(_) = state.phase {
            state.phase = Phase::Head(now);
        }
    }

    /// Bytes went out.
    pub(super) fn told(&self, now: Instant) {
        let mut state = self.state();
        state.stalled = None;
        if let Phase::Idle(since) = &mut state.phase {
            *since = now;
        }
    }

    /// Bytes should go out and cannot.
    pub(super) fn stalls(&self, now: Instant) {
        self.state().stalled.get_or_insert(now);
    }

    /// The head of a request is complete; until the guard is dropped it is being answered.
    pub(super) fn serves(self: &Arc<Self>) -> Serving {
        self.state().phase = Phase::Serving;
        Serving(Arc::clone(self))
    }

    /// What has lasted too long, or when to look again. Looked at this often, no head is late by more than a moment:
    /// one that begins right after a look is due at the next at the earliest.
    pub(super) fn overdue(&self, now: Instant) -> Result<Instant, &'static str> {
        let state = self.state();
        let (due, what) = match state.phase {
            Phase::Head(since) => (since + self.bounds.head, "head"),
            Phase::Idle(since) => (since + self.bounds.idle, "idle"),
            Phase::Serving => match state.stalled {
                Some(since) => (since + self.bounds.idle, "stalled"),
                None => return Ok(now + self.bounds.head),
            },
        };
        if due <= now {
            return Err(what);
        }
        Ok(due.min(now + self.bounds.head))
    }

    /// The request is answered, and the client has most of the reply.
    fn served(&self, now: Instant) {
        self.state().phase = Phase::Idle(now);
    }

    /// Since when it waits for a request, if it does.
    fn waiting(&self) -> Option<Instant> {
        match self.state().phase {
            Phase::Head(since) | Phase::Idle(since) => Some(since),
            Phase::Serving => None,
        }
    }
}

/// While it lives, a request is being answered.
#[derive(Debug)]
pub(super) struct Serving(Arc<Connection>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.served(Instant::now());
    }
}

/// The connections of a listener.
#[derive(Debug)]
pub(super) struct Connections {
    open: Mutex<HashMap<u64, Arc<Connection>>>,
    next: AtomicU64,
    bounds: Bounds,
    server: &'static str,
}

impl Connections {
    pub(super) fn new(server: &'static str, bounds: Bounds) -> Self {
        Self {
            open: Mutex::default(),
            next: AtomicU64::new(0),
            bounds,
            server,
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<u64, Arc<Connection>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection that was opened just now; forgotten when the place is dropped.
    pub(super) fn enter(self: &Arc<Self>, now: Instant) -> Place {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let connection = Arc::new(Connection::new(self.bounds, now));
        self.open().insert(number, Arc::clone(&connection));
        metrics::gauge!("roost_http_connections", "server" => self.server).increment(1.0);
        Place {
            connections: Arc::clone(self),
            number,
            connection,
        }
    }

    /// Ends those that have waited longest for a request: a 64th of all, so that a flood does not make each newcomer pay
    /// for a look at everybody. Who is being answered stays.
    pub(super) fn make_room(&self) {
        let mut waiting: Vec<_> = self
            .open()
            .values()
            .filter(|connection| !connection.unwanted.is_cancelled())
            .filter_map(|connection| Some((connection.waiting()?, Arc::clone(connection))))
            .collect();
        waiting.sort_unstable_by_key(|(since, _)| *since);
        for (_, connection) in waiting.iter().take(self.bounds.open / 64 + 1) {
            connection.unwanted.cancel();
        }
    }
}

/// A connection's place among the others.
#[derive(Debug)]
pub(super) struct Place {
    connections: Arc<Connections>,
    number: u64,
    pub(super) connection: Arc<Connection>,
}

impl Place {
    /// It was ended by us.
    pub(super) fn closed(&self, reason: &'static str) {
        let server = self.connections.server;
        metrics::counter!("roost_http_connections_closed_total", "server" => server, "reason" => reason).increment(1);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.open().remove(&self.number);
        metrics::gauge!("roost_http_connections", "server" => self.connections.server).decrement(1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(open: usize) -> Arc<Connections> {
        let bounds = Bounds {
            open,
            ..Bounds::default()
        };
        Arc::new(Connections::new("test", bounds))
    }

    #[test]
    fn a_head_is_due_though_bytes_come_and_a_request_is_not() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let place = connections(1).enter(began);
        let connection = &place.connection;
        for second in 1..10 {
            connection.heard(at(second));
            assert_eq!(connection.overdue(at(second)), Ok(at(10)));
        }
        assert_eq!(connection.overdue(at(10)), Err("head"));
        let _serving = connection.serves();
        assert_eq!(connection.overdue(at(100)), Ok(at(110)));
        connection.served(at(100));
        // A head may begin at once, so that is when to look again.
        assert_eq!(connection.overdue(at(101)), Ok(at(111)));
        connection.heard(at(150));
        connection.heard(at(155));
        assert_eq!(connection.overdue(at(160)), Err("head"));
    }

    #[test]
    fn who_sends_nothing_or_takes_nothing_is_due_after_a_while() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let place = connections(1).enter(began);
        let connection = &place.connection;
        connection.served(at(0));
        connection.told(at(74));
        assert_eq!(connection.overdue(at(148)), Ok(at(149)));
        assert_eq!(connection.overdue(at(149)), Err("idle"));

        let _serving = connection.serves();
        connection.stalls(at(200));
        connection.stalls(at(250));
        assert_eq!(connection.overdue(at(275)), Err("stalled"));
        connection.told(at(275));
        assert!(connection.overdue(at(275)).is_ok());
    }

    #[test]
    fn who_waits_longest_makes_room_and_who_is_answered_stays() {
        let (began, connections) = (Instant::now(), connections(3));
        let mut places: Vec<Place> = (0..3)
            .map(|second| connections.enter(began + Duration::from_secs(second)))
            .collect();
        let _serving = places[0].connection.serves();
        connections.make_room();
        let unwanted: Vec<bool> = places
            .iter()
            .map(|place| place.connection.unwanted.is_cancelled())
            .collect();
        assert_eq!(unwanted, [false, true, false]);
        places.remove(1);
        assert_eq!(connections.open().len(), 2);
    }
}
