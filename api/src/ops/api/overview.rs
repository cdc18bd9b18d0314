//! How it all stands: counts, trouble, workers.

use chrono::{DateTime, TimeDelta, Utc};
use poem::web::Data;
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};
use roost_shared::jobs::history::Slice;
use roost_shared::jobs::overview::KindFigures;
use roost_shared::jobs::{JobState, failing, overview};

use super::OpsAuth;
use super::queues::{QueueView, queue_views};
use crate::error::ApiResult;
use crate::ops::live::Live;
use crate::state::AppState;

/// The operations.
pub struct OverviewApi(pub AppState);

/// Jobs of a kind in a state
#[derive(Object)]
struct CountView {
    kind: String,
    state: String,
    /// Up to 10,000
    count: i64,
}

/// Attempts that ended within a slice of time
#[derive(Object)]
struct SliceView {
    /// Its beginning
    at: DateTime<Utc>,
    succeeded: i64,
    failed: i64,
}

/// How a kind did in its newest 1,000 attempts of the last hour
#[derive(Object)]
struct KindView {
    kind: String,
    attempts: i64,
    /// Of those that succeeded or failed, the share that succeeded: 0 to 1
    success: f64,
    /// Durations of attempts in seconds
    p50: f64,
    p95: f64,
    p99: f64,
}

/// A kind of which most attempts of the last 10 minutes failed
#[derive(Object)]
struct FailingView {
    kind: String,
    failed: i64,
    succeeded: i64,
    newest_error: Option<String>,
}

/// How it all stands
#[derive(Object)]
struct OverviewView {
    counts: Vec<CountView>,
    queues: Vec<QueueView>,
    kinds: Vec<KindView>,
    /// By the minute, the oldest first
    last_hour: Vec<SliceView>,
    /// By the quarter of an hour, the oldest first
    last_day: Vec<SliceView>,
    unknown_effects: i64,
    died_today: i64,
    overdue_leases: i64,
    workers_alive: i64,
    /// Whether Redis answers within a second
    redis_answers: bool,
    failing: Vec<FailingView>,
}

impl From<KindFigures> for KindView {
    fn from(figures: KindFigures) -> Self {
        Self {
            kind: figures.kind,
            attempts: figures.attempts,
            success: figures.success,
            p50: figures.p50,
            p95: figures.p95,
            p99: figures.p99,
        }
    }
}

fn slice_views(slices: Vec<Slice>) -> Vec<SliceView> {
    let views = slices.into_iter().map(|slice| SliceView {
        at: slice.at,
        succeeded: slice.succeeded,
        failed: slice.failed,
    });
    views.collect()
}

/// A worker
#[derive(Object)]
struct WorkerView {
    name: String,
    /// The machine
    host: String,
    version: String,
    queues: Vec<String>,
    concurrency: i32,
    alive: bool,
    /// It is to take nothing new
    quiet: bool,
    /// It is to end
    stop: bool,
    running: i64,
    started_at: DateTime<Utc>,
    seen_at: DateTime<Utc>,
}

#[OpenApi]
impl OverviewApi {
    /// How it all stands
    #[oai(path = "/overview", method = "get", operation_id = "ops_overview")]
    async fn overview(&self, _auth: OpsAuth, live: Data<&Live>) -> ApiResult<Json<OverviewView>> {
        let pool = self.0.db.pool();
        let (last_hour, last_day) = {
            let mut history = live.history().lock().await;
            history.renew(pool).await?;
            (
                slice_views(history.slices(60, TimeDelta::minutes(1))),
                slice_views(history.slices(96, TimeDelta::minutes(15))),
            )
        };
        let kinds = overview::kinds(&mut *pool.acquire().await?).await?;
        let kinds = kinds.into_iter().map(KindView::from).collect();
        let trouble = overview::trouble(pool).await?;
        let alive = overview::workers(pool)
            .await?
            .iter()
            .filter(|worker| worker.is_alive())
            .count();
        let counts = overview::counts(&mut *pool.acquire().await?, JobState::ALL).await?;
        let failing = failing::kinds(pool).await?;
        Ok(Json(OverviewView {
            redis_answers: self.0.redis.answers().await,
            failing: failing
                .into_iter()
                .map(|kind| FailingView {
                    kind: kind.kind,
                    failed: kind.failed,
                    succeeded: kind.succeeded,
                    newest_error: kind.newest_error,
                })
                .collect(),
            counts: counts
                .into_iter()
                .map(|one| CountView {
                    kind: one.kind,
                    state: one.state,
                    count: one.count,
                })
                .collect(),
            queues: queue_views(overview::queues(pool).await?),
            kinds,
            last_hour,
            last_day,
            unknown_effects: trouble.unknown_effects,
            died_today: trouble.died_today,
            overdue_leases: trouble.overdue_leases,
            workers_alive: i64::try_from(alive).unwrap_or(i64::MAX),
        }))
    }

    /// The workers heard of within a day
    #[oai(path = "/workers", method = "get", operation_id = "ops_list_workers")]
    async fn workers(&self, _auth: OpsAuth) -> ApiResult<Json<Vec<WorkerView>>> {
        let workers = overview::workers(self.0.db.pool()).await?;
        let views = workers.into_iter().map(|worker| WorkerView {
            alive: worker.is_alive(),
            quiet: worker.quiet,
            stop: worker.stop,
            name: worker.name,
            host: worker.host,
            version: worker.version,
            queues: worker.queues,
            concurrency: worker.concurrency,
            running: worker.running,
            started_at: worker.started_at,
            seen_at: worker.seen_at,
        });
        Ok(Json(views.collect()))
    }
}
