//! How it all stands: counts, trouble, workers.

use chrono::{DateTime, TimeDelta, Utc};
use poem::web::Data;
use poem_openapi::payload::Json;
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};
use roost_shared::db;
use roost_shared::jobs::history::Slice;
use roost_shared::jobs::overview::KindFigures;
use roost_shared::jobs::{JobState, failing, overview};

use super::OpsAuth;
use super::queues::{QueueView, queue_views};
use crate::error::ApiResult;
use crate::ops::alarms::{Alarm, AlarmCode, alarms};
use crate::ops::live::Live;
use crate::rest::bookings::objects::example_instant;
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

/// Something that needs a person
#[derive(Object)]
struct AlarmView {
    /// Which sort of trouble it is
    code: AlarmCode,
    /// The queue or kind that has it, if it is that of one
    subject: Option<String>,
    /// What is wrong
    message: String,
    /// What to do about it; of a kind that fails, its newest error
    advice: String,
    /// The page where to do it
    href: String,
}

impl From<Alarm> for AlarmView {
    fn from(alarm: Alarm) -> Self {
        Self {
            code: alarm.code,
            subject: alarm.subject,
            message: alarm.title,
            advice: alarm.advice,
            href: alarm.href,
        }
    }
}

/// How it all stands
#[derive(Object)]
#[oai(example)]
struct OverviewView {
    /// What needs a person, the worst first; none: all is well
    alarms: Vec<AlarmView>,
    counts: Vec<CountView>,
    queues: Vec<QueueView>,
    kinds: Vec<KindView>,
    /// By the minute, the oldest first. Attempts of jobs that are not kept any more may be missing
    last_hour: Vec<SliceView>,
    /// By the quarter of an hour, the oldest first. Attempts of jobs that are not kept any more may be missing
    last_day: Vec<SliceView>,
    unknown_effects: i64,
    died_today: i64,
    overdue_leases: i64,
    workers_alive: i64,
    /// Whether Redis answers within a second
    redis_answers: bool,
    failing: Vec<FailingView>,
}

impl Example for OverviewView {
    fn example() -> Self {
        let slice = || SliceView {
            at: example_instant(),
            succeeded: 118,
            failed: 2,
        };
        Self {
            alarms: vec![AlarmView {
                code: AlarmCode::JobsDied,
                subject: None,
                message: "2 jobs died within a day".to_owned(),
                advice: "Look at their errors; retry them when the cause is gone.".to_owned(),
                href: "/ops/jobs?state=dead&state=quarantined".to_owned(),
            }],
            counts: vec![CountView {
                kind: "mail.send".to_owned(),
                state: "dead".to_owned(),
                count: 2,
            }],
            queues: vec![QueueView::example()],
            kinds: vec![KindView {
                kind: "payment.capture".to_owned(),
                attempts: 120,
                success: 0.983,
                p50: 0.21,
                p95: 0.48,
                p99: 1.1,
            }],
            last_hour: vec![slice()],
            last_day: vec![slice()],
            unknown_effects: 0,
            died_today: 2,
            overdue_leases: 0,
            workers_alive: 4,
            redis_answers: true,
            failing: Vec::new(),
        }
    }
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
#[oai(example)]
struct WorkerView {
    name: String,
    /// The machine
    host: String,
    version: String,
    queues: Vec<String>,
    concurrency: i32,
    /// It has shown itself within 15 seconds and has not said that it stops
    alive: bool,
    /// It is gone without a word: dead, or cut off
    silent: bool,
    /// It is to take nothing new
    quiet: bool,
    /// It is to end
    stop: bool,
    running: i64,
    started_at: DateTime<Utc>,
    seen_at: DateTime<Utc>,
    /// When it said that it stops
    stopped_at: Option<DateTime<Utc>>,
}

impl Example for WorkerView {
    fn example() -> Self {
        Self {
            name: "roost-1-4711-0194be64".to_owned(),
            host: "roost-1".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            queues: vec!["payments".to_owned(), "confirmation".to_owned()],
            concurrency: 256,
            alive: true,
            silent: false,
            quiet: false,
            stop: false,
            running: 3,
            started_at: example_instant(),
            seen_at: example_instant(),
            stopped_at: None,
        }
    }
}

#[OpenApi]
impl OverviewApi {
    /// How it all stands
    #[oai(path = "/overview", method = "get", operation_id = "ops_overview")]
    async fn overview(&self, _auth: OpsAuth, live: Data<&Live>) -> ApiResult<Json<OverviewView>> {
        let pool = self.0.db.pool();
        let (last_hour, last_day) = {
            let mut history = live.known().history.lock().await;
            history.renew(pool).await?;
            (
                slice_views(history.slices(60, TimeDelta::minutes(1))),
                slice_views(history.slices(96, TimeDelta::minutes(15))),
            )
        };
        let kinds = live.known().kinds(pool).await?;
        let counts = overview::counts(&mut *db::begin(pool).await?, JobState::ALL).await?;
        let queues = overview::queues(pool).await?;
        let workers = overview::workers(pool).await?;
        let trouble = overview::trouble(pool).await?;
        let failing = failing::kinds(pool).await?;
        let redis_answers = self.0.redis.answers().await;
        let mut alarms = alarms(&queues, &workers, &failing, trouble);
        if !redis_answers {
            alarms.insert(0, Alarm::redis_is_down());
        }
        let alive = workers.iter().filter(|worker| worker.is_alive()).count();
        Ok(Json(OverviewView {
            alarms: alarms.into_iter().map(AlarmView::from).collect(),
            redis_answers,
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
            queues: queue_views(queues, &workers),
            kinds: kinds.into_iter().map(KindView::from).collect(),
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
            silent: worker.is_silent(),
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
            stopped_at: worker.stopped_at,
        });
        Ok(Json(views.collect()))
    }
}
