//! The overview, kept fresh over server-sent events. One task reads Postgres for all who look, and only while
//! somebody does. When it cannot, it says so.

use std::sync::Arc;
use std::time::{Duration, Instant};

use askama::Template;
use futures::StreamExt;
use poem::web::Data;
use poem::web::sse::{Event, SSE};
use poem::{IntoResponse, Response, handler};
use roost_shared::jobs::history::History;
use roost_shared::jobs::overview::{KindFigures, KindsLately};
use roost_shared::redis::Redis;
use sqlx::PgPool;
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::access::Signed;
use super::fault::Fault;
use super::overview::Board;
use crate::state::AppState;

const EVERY: Duration = Duration::from_secs(2);
/// Whoever looks is told when reading takes longer.
const SLOW: Duration = Duration::from_secs(5);
/// Longer than any statement may run: the connection is dead.
const GIVEN_UP: Duration = Duration::from_secs(20);
/// The browser connects again, and has to be signed in still.
const LONGEST: Duration = Duration::from_secs(300);

/// What those who look are told.
#[derive(Clone)]
enum News {
    /// The newest overview, as HTML.
    Board(Arc<str>),
    /// There is none now: why, and what to do.
    Stale(Arc<str>),
}

impl News {
    fn stale(fault: &Fault) -> Self {
        Self::Stale(format!("{fault}. {}", fault.what_to_do()).into())
    }

    fn event(&self) -> Event {
        match self {
            Self::Board(html) => Event::message(html.to_string()).event_type("board"),
            Self::Stale(why) => Event::message(why.to_string()).event_type("stale"),
        }
    }
}

/// What is not read anew for everybody who looks.
#[derive(Default)]
pub struct Known {
    /// What passed in the last day.
    pub history: Mutex<History>,
    kinds: Mutex<KindsLately>,
}

impl Known {
    /// How each kind did lately.
    ///
    /// # Errors
    /// Postgres could not be reached.
    pub async fn kinds(&self, pool: &PgPool) -> Result<Vec<KindFigures>, sqlx::Error> {
        // Whoever comes meanwhile waits for this reading instead of beginning another.
        let mut kinds = self.kinds.lock().await;
        kinds.renewed(pool, Instant::now()).await.map(<[_]>::to_vec)
    }
}

/// The newest of them.
#[derive(Clone)]
pub struct Live {
    newest: watch::Receiver<News>,
    known: Arc<Known>,
}

impl Live {
    /// Starts the task that reads. It ends with `stopping`.
    pub fn spawn(pool: PgPool, redis: Redis, stopping: CancellationToken) -> Self {
        let (sender, newest) = watch::channel(News::Board(Arc::from("")));
        let known = Arc::<Known>::default();
        let shared = Arc::clone(&known);
        tokio::spawn(async move {
            stopping
                .run_until_cancelled(keep_fresh(&pool, &redis, &shared, &sender))
                .await;
        });
        Self { newest, known }
    }

    /// What everybody who looks shares.
    pub fn known(&self) -> &Known {
        &self.known
    }
}

async fn keep_fresh(pool: &PgPool, redis: &Redis, known: &Known, sender: &watch::Sender<News>) {
    // The day is read before anybody asks for it.
    if let Err(error) = known.history.lock().await.renew(pool).await {
        tracing::debug!(%error, "the history of jobs is read when it is asked for");
    }
    loop {
        tokio::time::sleep(EVERY).await;
        // One receiver is kept for handing out; with it alone nobody looks.
        if sender.receiver_count() < 2 {
            continue;
        }
        let reading = timeout(GIVEN_UP, read(pool, redis, known));
        tokio::pin!(reading);
        let outcome = match timeout(SLOW, &mut reading).await {
            Ok(outcome) => outcome,
            Err(_) => {
                sender.send_replace(News::stale(&Fault::Unavailable));
                reading.await
            }
        };
        sender.send_replace(match outcome {
            Ok(Ok(html)) => News::Board(html),
            Ok(Err(fault)) => News::stale(&fault),
            Err(_) => News::stale(&Fault::Unavailable),
        });
    }
}

async fn read(pool: &PgPool, redis: &Redis, known: &Known) -> Result<Arc<str>, Fault> {
    Ok(Board::read(pool, redis, known).await?.render()?.into())
}

#[handler]
pub async fn stream(state: Data<&AppState>, live: Data<&Live>, signed: Signed) -> Response {
    let mut newest = live.newest.clone();
    newest.mark_unchanged();
    let stopping = state.stopping.clone();
    let ends = tokio::time::Instant::now() + LONGEST;
    let reader = Arc::new((AppState::clone(&state), signed));
    let events = futures::stream::unfold(newest, move |mut newest| {
        let (stopping, reader) = (stopping.clone(), Arc::clone(&reader));
        async move {
            tokio::select! {
                changed = newest.changed() => changed.ok()?,
                () = tokio::time::sleep_until(ends) => return None,
                () = stopping.cancelled() => return None,
            }
            let mut news = newest.borrow_and_update().clone();
            if matches!(news, News::Board(_)) {
                let (state, signed) = reader.as_ref();
                match signed.still_holds(state).await {
                    Ok(true) => {}
                    Ok(false) => return None,
                    // What the overview says is for those alone who are known to be signed in.
                    Err(fault) => news = News::stale(&fault),
                }
            }
            Some((news.event(), newest))
        }
    });
    SSE::new(events.boxed())
        .keep_alive(Duration::from_secs(15))
        .into_response()
}
