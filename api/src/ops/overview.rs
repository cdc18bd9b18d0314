//! The first page: what is wrong, in ten seconds.

use askama::Template;
use chrono::{DateTime, TimeDelta, Utc};
use poem::web::Data;
use poem::{Response, handler};
use roost_shared::db;
use roost_shared::jobs::list::STATES;
use roost_shared::jobs::overview::{self, KindFigures, QueueState, SAMPLED};
use roost_shared::jobs::{JobState, failing};
use roost_shared::redis::Redis;
use sqlx::PgPool;

use super::access::Signed;
use super::alarms::{Alarm, alarms};
use super::chart::Chart;
use super::fault::Fault;
use super::live::{Known, Live};
use super::shell::{Shell, html};
use super::view::{bounded, count, span, to_breach};
use crate::state::AppState;

const MINUTE: TimeDelta = TimeDelta::minutes(1);
const QUARTER: TimeDelta = TimeDelta::minutes(15);

/// A state and how many jobs are in it.
pub struct StateCount {
    /// The state.
    pub state: &'static str,
    /// How many, as written.
    pub count: String,
    /// Whether there are any.
    pub any: bool,
}

/// All that the page shows and the live stream renews.
#[derive(Template)]
#[template(path = "ops/board.html")]
pub struct Board {
    alarms: Vec<Alarm>,
    states: Vec<StateCount>,
    charts: Vec<Chart>,
    queues: Vec<QueueState>,
    kinds: Vec<KindFigures>,
    alive: usize,
    running: i64,
    at: DateTime<Utc>,
}

impl Board {
    /// Reads it all. Redis is only asked whether it is there, meanwhile.
    ///
    /// # Errors
    /// Postgres could not be reached.
    pub async fn read(pool: &PgPool, redis: &Redis, known: &Known) -> Result<Self, sqlx::Error> {
        let (redis_answers, board) = tokio::join!(redis.answers(), Self::of_postgres(pool, known));
        let mut board = board?;
        if !redis_answers {
            board.alarms.insert(0, Alarm::redis_is_down());
        }
        Ok(board)
    }

    async fn of_postgres(pool: &PgPool, known: &Known) -> Result<Self, sqlx::Error> {
        let counts = overview::counts(&mut *db::begin(pool).await?, JobState::ALL).await?;
        let kinds = known.kinds(pool).await?;
        let queues = overview::queues(pool).await?;
        let workers = overview::workers(pool).await?;
        let trouble = overview::trouble(pool).await?;
        let failing = failing::kinds(pool).await?;
        let (hour, day) = {
            let mut history = known.history.lock().await;
            history.renew(pool).await?;
            (history.slices(60, MINUTE), history.slices(96, QUARTER))
        };
        let at = sqlx::query_scalar!(r#"SELECT now() AS "now!""#).fetch_one(pool).await?;
        let states = STATES
            .into_iter()
            .map(|state| {
                let of_state = counts.iter().filter(|one| one.state == state);
                let total: i64 = of_state.map(|one| one.count).sum();
                StateCount {
                    state,
                    count: bounded(total),
                    any: total > 0,
                }
            })
            .collect();
        Ok(Self {
            alarms: alarms(&queues, &workers, &failing, trouble),
            states,
            charts: vec![
                Chart::of("Last hour, by the minute", "hour", &hour, MINUTE),
                Chart::of("Last day, by the quarter of an hour", "day", &day, QUARTER),
            ],
            running: queues.iter().map(|queue| queue.running).sum(),
            queues,
            kinds,
            alive: workers.iter().filter(|worker| worker.is_alive()).count(),
            at,
        })
    }
}

#[derive(Template)]
#[template(path = "ops/overview.html")]
struct Page {
    shell: Shell,
    board: String,
}

#[handler]
pub async fn page(state: Data<&AppState>, live: Data<&Live>, signed: Signed) -> Result<Response, Fault> {
    let board = Board::read(state.db.pool(), &state.redis, live.known()).await?;
    html(&Page {
        shell: Shell::new(&signed, "overview", "Overview"),
        board: board.render()?,
    })
}
