//! Tells Postgres every second that this worker lives, and learns what operators want of it.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use rand::Rng;
use roost_shared::clock::Clock;
use roost_shared::jobs::presence::{Presence, Standing, leave, show};
use roost_shared::jobs::{Queue, pressure};
use sqlx::PgPool;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::engine::Engine;
use crate::{observe, postgres};

const EVERY: Duration = Duration::from_secs(1);
const SHOW_TIMEOUT: Duration = Duration::from_secs(2);

/// Shows the worker until `stop`, and rings `shown` each time. The first answer is what consumers wait for before they take
/// anything.
pub(crate) async fn run(
    engine: Arc<Engine>,
    worker: Presence,
    standing: watch::Sender<Option<Standing>>,
    shown: Arc<Notify>,
    clock: Clock,
    stop: CancellationToken,
) {
    let mut last = clock.now();
    let mut hearing = Hearing::default();
    while !stop.is_cancelled() {
        match show_in_time(engine.pool(), &worker, engine.running_count()).await {
            Ok(learnt) => {
                hearing.is_heard();
                let mut paused: HashSet<Queue> = learnt.paused.iter().filter_map(|name| Queue::by_name(name)).collect();
                if learnt.quiet || learnt.stop {
                    paused.extend(Queue::ALL);
                }
                engine.set_paused(paused);
                engine.set_limited(learnt.limited.iter().filter_map(|name| Queue::by_name(name)).collect());
                engine.share_out(&pressure::shares(&learnt, &worker.queues, worker.concurrency));
                if learnt.suspects {
                    engine.look_for_suspects();
                }
                if standing.borrow().is_none() {
                    engine.warm_up().await;
                }
                // Whoever waits is woken by news only: each consumer that wakes asks Redis for messages.
                standing.send_if_modified(|known| {
                    let is_news = known.as_ref() != Some(&learnt);
                    *known = Some(learnt);
                    is_news
                });
            }
            Err(error) => {
                engine.note_outage();
                hearing.is_not_heard(&error);
            }
        }
        shown.notify_one();
        last = set_back(&clock, last);
        engine.give_back().await;
        let pause = EVERY.mul_f64(rand::rng().random_range(0.9..1.1));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => {}
        }
    }
    observe::set_ready(false);
    depart(engine.pool(), &worker.name).await;
}

/// Whether Postgres hears this worker: one line when that ends and one when it is so again, whatever lies between.
#[derive(Default)]
struct Hearing {
    /// Since when not, and the code of what Postgres said against it.
    unheard: Option<(Instant, Option<String>)>,
}

impl Hearing {
    fn is_heard(&mut self) {
        observe::set_ready(true);
        if let Some((since, _)) = self.unheard.take() {
            tracing::info!(seconds = since.elapsed().as_secs(), "Postgres hears this worker again");
        }
    }

    fn is_not_heard(&mut self, error: &sqlx::Error) {
        observe::set_ready(false);
        metrics::counter!("roost_presence_errors_total").increment(1);
        let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
        // An answer is news after silence: there is a server now, and the password is wrong or a migration missing.
        let is_news = match &self.unheard {
            None => true,
            Some((_, told)) => code.is_some() && code.as_deref() != told.as_deref(),
        };
        if is_news {
            tracing::warn!(%error, "Postgres does not hear this worker: it takes no jobs");
            let since = self.unheard.take().map_or_else(Instant::now, |(since, _)| since);
            self.unheard = Some((since, code.map(Cow::into_owned)));
        }
    }
}

/// Tells when the machine's clock was set back. It does no harm: leases and due times are Postgres' own, pauses are
/// counted by a clock that only goes on, and what was due by this one stays so a little later.
fn set_back(clock: &Clock, last: DateTime<Utc>) -> DateTime<Utc> {
    let now = clock.now();
    if now < last {
        metrics::counter!("roost_clock_set_back_total").increment(1);
        tracing::warn!(milliseconds = (last - now).num_milliseconds(), "the clock was set back");
    }
    now
}

async fn show_in_time(pool: &PgPool, worker: &Presence, running: usize) -> Result<Standing, sqlx::Error> {
    let mut connection = postgres::connection(pool).await?;
    let answer = tokio::time::timeout(SHOW_TIMEOUT, show(&mut *connection, worker, running)).await;
    postgres::answer(connection, answer)
}

/// Says goodbye, so that another worker looks after the queues at once.
async fn depart(pool: &PgPool, name: &str) {
    let gone = async {
        let mut connection = postgres::connection(pool).await?;
        leave(&mut *connection, name).await
    };
    if !matches!(tokio::time::timeout(SHOW_TIMEOUT, gone).await, Ok(Ok(()))) {
        tracing::debug!("this worker could not say goodbye");
    }
}
