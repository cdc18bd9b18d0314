//! The overview, kept fresh over server-sent events. One task reads Postgres for all who look, and only while
//! somebody does.

use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use futures::StreamExt;
use poem::web::Data;
use poem::web::sse::{Event, SSE};
use poem::{IntoResponse, Response, handler};
use roost_shared::jobs::history::History;
use roost_shared::redis::Redis;
use sqlx::PgPool;
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

use super::access::Signed;
use super::overview::Board;
use crate::state::AppState;

const EVERY: Duration = Duration::from_secs(2);
/// The browser connects again, and has to be signed in still.
const LONGEST: Duration = Duration::from_secs(300);

/// The newest overview, as HTML.
#[derive(Clone)]
pub struct Live {
    newest: watch::Receiver<Arc<str>>,
    history: Arc<Mutex<History>>,
}

impl Live {
    /// Starts the task that reads. It ends with `stopping`.
    pub fn spawn(pool: PgPool, redis: Redis, stopping: CancellationToken) -> Self {
        let (sender, newest) = watch::channel(Arc::from(""));
        let history = Arc::<Mutex<History>>::default();
        let known = Arc::clone(&history);
        tokio::spawn(async move {
            // The day is read before anybody asks for it.
            if let Err(error) = known.lock().await.renew(&pool).await {
                tracing::debug!(%error, "the history of jobs is read when it is asked for");
            }
            loop {
                tokio::select! {
                    () = tokio::time::sleep(EVERY) => {}
                    () = stopping.cancelled() => return,
                }
                // One receiver is kept for handing out; with it alone nobody looks.
                if sender.receiver_count() < 2 {
                    continue;
                }
                match read(&pool, &redis, &known).await {
                    Ok(html) => {
                        sender.send_replace(html);
                    }
                    Err(error) => tracing::warn!(error, "the live overview is not fresh"),
                }
            }
        });
        Self { newest, history }
    }

    /// What everybody who looks shares.
    pub fn history(&self) -> &Mutex<History> {
        &self.history
    }
}

async fn read(pool: &PgPool, redis: &Redis, history: &Mutex<History>) -> Result<Arc<str>, String> {
    let board = Board::read(pool, redis, history).await;
    let board = board.map_err(|error| error.to_string())?;
    Ok(board.render().map_err(|error| error.to_string())?.into())
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
            let (state, signed) = reader.as_ref();
            if !signed.still_holds(state).await {
                return None;
            }
            let html = newest.borrow_and_update().to_string();
            Some((Event::message(html).event_type("board"), newest))
        }
    });
    SSE::new(events.boxed())
        .keep_alive(Duration::from_secs(15))
        .into_response()
}
