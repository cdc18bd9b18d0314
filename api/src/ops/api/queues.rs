//! Queues, kinds and the cron table.

use chrono::{DateTime, Utc};
use poem_openapi::param::Path;
use poem_openapi::payload::Json;
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};
use roost_shared::jobs::kinds::KINDS;
use roost_shared::jobs::schedules::{self, ScheduleSettings};
use roost_shared::jobs::{actions, overview};
use roost_shared::operators::Role;

use super::{OpsAuth, Reason};
use crate::body::JsonBody;
use crate::error::ApiResult;
use crate::ops::settings::SETTER;
use crate::rest::bookings::objects::example_instant;
use crate::state::AppState;

/// The operations.
pub struct QueuesApi(pub AppState);

/// A queue
#[derive(Object)]
#[oai(example)]
pub(super) struct QueueView {
    name: String,
    paused: bool,
    /// Up to 10,000
    due: i64,
    /// Of those, not handed to Redis
    unpublished: i64,
    /// Up to 10,000
    running: i64,
    oldest_due_seconds: f64,
    publish_lag_seconds: f64,
    /// The workers that take its jobs: alive, and neither quiet nor stopping
    workers: Vec<String>,
}

impl Example for QueueView {
    fn example() -> Self {
        Self {
            name: "payments".to_owned(),
            paused: false,
            due: 12,
            unpublished: 0,
            running: 3,
            oldest_due_seconds: 0.8,
            publish_lag_seconds: 0.0,
            workers: vec!["roost-1-4711-0194be64".to_owned()],
        }
    }
}

/// A kind of job
#[derive(Object)]
#[oai(example)]
struct JobKindView {
    name: String,
    /// Where its jobs run
    queue: String,
    /// What it does
    about: String,
    /// Acting on one of its jobs needs a reason
    moves_money: bool,
    /// So many jobs run at the same time at most; null: no limit of its own
    concurrency: Option<i32>,
    /// So many jobs begin at most; null: no limit of its own
    rate_limit: Option<i32>,
    /// In any span of so many seconds
    rate_seconds: i32,
}

impl Example for JobKindView {
    fn example() -> Self {
        Self {
            name: "mail.send".to_owned(),
            queue: "notifications".to_owned(),
            about: "Sends one mail.".to_owned(),
            moves_money: false,
            concurrency: None,
            rate_limit: Some(100),
            rate_seconds: 60,
        }
    }
}

/// A line of the cron table
#[derive(Object)]
#[oai(example)]
struct ScheduleView {
    name: String,
    /// Minute, hour, day, month, weekday; UTC
    expression: String,
    /// What it goes by if no operator has changed it
    default_expression: String,
    /// It does not fire by the clock
    paused: bool,
    /// Null while it is paused
    next_tick: Option<DateTime<Utc>>,
    last_tick: Option<DateTime<Utc>>,
}

impl Example for ScheduleView {
    fn example() -> Self {
        Self {
            name: "stays.complete".to_owned(),
            expression: "0 5 * * *".to_owned(),
            default_expression: "41 * * * *".to_owned(),
            paused: false,
            next_tick: Some(example_instant()),
            last_tick: Some(example_instant()),
        }
    }
}

/// What a schedule is to go by
#[derive(Object)]
#[oai(deny_unknown_fields, example)]
struct ScheduleBody {
    /// Do not fire by the clock
    paused: bool,
    /// Minute, hour, day, month, weekday; UTC. Null: what the program has
    expression: Option<String>,
    /// Needed if its jobs move money
    reason: Option<String>,
}

impl Example for ScheduleBody {
    fn example() -> Self {
        Self {
            paused: false,
            expression: Some("0 5 * * *".to_owned()),
            reason: None,
        }
    }
}

#[OpenApi]
impl QueuesApi {
    /// The queues
    #[oai(path = "/queues", method = "get", operation_id = "ops_list_queues")]
    async fn queues(&self, _auth: OpsAuth) -> ApiResult<Json<Vec<QueueView>>> {
        self.queue_views().await
    }

    /// The kinds of jobs, each with its limits
    ///
    /// `PUT /settings/kinds/{name}` sets them.
    #[oai(path = "/kinds", method = "get", operation_id = "ops_list_kinds")]
    async fn kinds(&self, _auth: OpsAuth) -> ApiResult<Json<Vec<JobKindView>>> {
        let limited = overview::limited_kinds(self.0.db.pool()).await?;
        let views = KINDS.iter().map(|kind| {
            let limits = limited.iter().find(|limited| limited.name == kind.name);
            JobKindView {
                name: kind.name.to_owned(),
                queue: kind.queue.name().to_owned(),
                about: kind.about.to_owned(),
                moves_money: kind.moves_money,
                concurrency: limits.and_then(|limits| limits.concurrency),
                rate_limit: limits.and_then(|limits| limits.rate_limit),
                rate_seconds: limits.map_or(1, |limits| limits.rate_seconds),
            }
        });
        Ok(Json(views.collect()))
    }

    /// Pause a queue
    #[oai(path = "/queues/:name/pause", method = "post", operation_id = "ops_pause_queue")]
    async fn pause(
        &self,
        auth: OpsAuth,
        name: Path<String>,
        body: JsonBody<Reason>,
    ) -> ApiResult<Json<Vec<QueueView>>> {
        self.set_paused(&auth, &name, true, body.reason.as_deref()).await
    }

    /// Resume a queue
    #[oai(path = "/queues/:name/resume", method = "post", operation_id = "ops_resume_queue")]
    async fn resume(
        &self,
        auth: OpsAuth,
        name: Path<String>,
        body: JsonBody<Reason>,
    ) -> ApiResult<Json<Vec<QueueView>>> {
        self.set_paused(&auth, &name, false, body.reason.as_deref()).await
    }

    /// The cron table
    #[oai(path = "/schedules", method = "get", operation_id = "ops_list_schedules")]
    async fn schedules(&self, _auth: OpsAuth) -> ApiResult<Json<Vec<ScheduleView>>> {
        let schedules = schedules::all(self.0.db.pool()).await?;
        let views = schedules.into_iter().map(|line| ScheduleView {
            name: line.name,
            expression: line.expression,
            default_expression: line.default_expression,
            paused: line.paused,
            next_tick: line.next_tick,
            last_tick: line.last_tick,
        });
        Ok(Json(views.collect()))
    }

    /// Pause a schedule, or have it go by another expression
    #[oai(path = "/schedules/:name", method = "put", operation_id = "ops_set_schedule")]
    async fn set_schedule(
        &self,
        auth: OpsAuth,
        name: Path<String>,
        body: JsonBody<ScheduleBody>,
    ) -> ApiResult<Json<Vec<ScheduleView>>> {
        auth.require(SETTER)?;
        let wanted = ScheduleSettings {
            paused: body.paused,
            expression: body.expression.clone(),
        };
        let mut tx = self.0.db.begin().await?;
        schedules::set(&mut tx, &name, &wanted, auth.by(body.reason.as_deref())).await?;
        tx.commit().await?;
        self.schedules(auth).await
    }

    /// Fire a schedule once, now
    #[oai(path = "/schedules/:name/run", method = "post", operation_id = "ops_run_schedule")]
    async fn run_schedule(
        &self,
        auth: OpsAuth,
        name: Path<String>,
        body: JsonBody<Reason>,
    ) -> ApiResult<Json<Vec<ScheduleView>>> {
        auth.require(Role::Operator)?;
        let mut tx = self.0.db.begin().await?;
        actions::run_schedule(&mut tx, &name, auth.by(body.reason.as_deref())).await?;
        tx.commit().await?;
        self.schedules(auth).await
    }
}

impl QueuesApi {
    async fn set_paused(
        &self,
        auth: &OpsAuth,
        name: &str,
        paused: bool,
        reason: Option<&str>,
    ) -> ApiResult<Json<Vec<QueueView>>> {
        auth.require(Role::Operator)?;
        let mut tx = self.0.db.begin().await?;
        actions::set_paused(&mut tx, name, paused, auth.by(reason)).await?;
        tx.commit().await?;
        self.queue_views().await
    }

    async fn queue_views(&self) -> ApiResult<Json<Vec<QueueView>>> {
        let pool = self.0.db.pool();
        let workers = overview::workers(pool).await?;
        Ok(Json(queue_views(overview::queues(pool).await?, &workers)))
    }
}

pub(super) fn queue_views(queues: Vec<overview::QueueState>, workers: &[overview::WorkerState]) -> Vec<QueueView> {
    queues
        .into_iter()
        .map(|queue| QueueView {
            workers: workers
                .iter()
                .filter(|worker| worker.takes_jobs() && worker.queues.contains(&queue.name))
                .map(|worker| worker.name.clone())
                .collect(),
            name: queue.name,
            paused: queue.paused,
            due: queue.due,
            unpublished: queue.unpublished,
            running: queue.running,
            oldest_due_seconds: queue.oldest_due_seconds,
            publish_lag_seconds: queue.publish_lag_seconds,
        })
        .collect()
}
