//! How it all stands: counts, trouble, workers.

use chrono::{DateTime, Utc};
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};
use roost_shared::jobs::{JobState, failing, overview};

use super::OpsAuth;
use super::queues::{QueueView, queue_views};
use crate::error::ApiResult;
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
    unknown_effects: i64,
    died_today: i64,
    overdue_leases: i64,
    workers_alive: i64,
    /// Whether Redis answers within a second
    redis_answers: bool,
    failing: Vec<FailingView>,
}

/// A worker
#[derive(Object)]
struct WorkerView {
    name: String,
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
    async fn overview(&self, _auth: OpsAuth) -> ApiResult<Json<OverviewView>> {
        let pool = self.0.db.pool();
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
