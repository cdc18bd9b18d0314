//! What can be set, as JSON under `/ops/api`: queues, kinds, how long jobs are kept, workers. And batches.

use chrono::{DateTime, Utc};
use poem_openapi::param::Path;
use poem_openapi::payload::Json;
use poem_openapi::types::Example;
use poem_openapi::{Enum, Object, OpenApi};
use roost_shared::jobs::batches::{self, Batch};
use roost_shared::jobs::settings::{self, Keep, Limits, QueueSettings, WorkerWish};
use roost_shared::jobs::{overview, retention};
use uuid::Uuid;

use super::{OpsAuth, Reason};
use crate::body::JsonBody;
use crate::error::{ApiError, ApiResult};
use crate::ops::settings::{KEEPER, SETTER};
use crate::rest::bookings::objects::{example_id, example_instant};
use crate::state::AppState;

/// The operations.
pub struct SettingsApi(pub AppState);

/// How a queue is to be worked off, by all workers together
#[derive(Object)]
#[oai(deny_unknown_fields, example)]
struct QueueSettingsBody {
    /// So many jobs run at the same time at most; null: no limit
    concurrency: Option<i32>,
    /// So many jobs begin at most; null: no limit
    rate_limit: Option<i32>,
    /// In any span of so many seconds
    #[oai(default = "one")]
    rate_seconds: i32,
    /// A due job should begin within so many seconds
    target_seconds: i32,
    /// 1 to 100: while a heavier queue comes near its target, this one has its share of the slots only
    weight: i32,
    /// Needed to change a limit of payments or confirmation
    reason: Option<String>,
}

impl Example for QueueSettingsBody {
    fn example() -> Self {
        Self {
            concurrency: Some(8),
            rate_limit: None,
            rate_seconds: 1,
            target_seconds: 60,
            weight: 10,
            reason: Some("Stripe asks for less".to_owned()),
        }
    }
}

/// Limits of a kind, for all workers together
#[derive(Object)]
#[oai(deny_unknown_fields, example)]
struct KindLimitsBody {
    /// So many jobs run at the same time at most; null: no limit
    concurrency: Option<i32>,
    /// So many jobs begin at most; null: no limit
    rate_limit: Option<i32>,
    /// In any span of so many seconds
    #[oai(default = "one")]
    rate_seconds: i32,
    /// Needed to change a limit of a kind that moves money
    reason: Option<String>,
}

impl Example for KindLimitsBody {
    fn example() -> Self {
        Self {
            concurrency: None,
            rate_limit: Some(100),
            rate_seconds: 60,
            reason: None,
        }
    }
}

fn one() -> i32 {
    1
}

/// How a queue is set
#[derive(Object)]
#[oai(example)]
struct QueueSettingsView {
    name: String,
    concurrency: Option<i32>,
    rate_limit: Option<i32>,
    rate_seconds: i32,
    target_seconds: i32,
    weight: i32,
    /// How long the job that would run next may still wait; negative: the target is missed
    seconds_to_breach: f64,
}

impl Example for QueueSettingsView {
    fn example() -> Self {
        Self {
            name: "payments".to_owned(),
            concurrency: Some(8),
            rate_limit: None,
            rate_seconds: 1,
            target_seconds: 60,
            weight: 10,
            seconds_to_breach: 59.2,
        }
    }
}

/// Limits of a kind
#[derive(Object)]
#[oai(example)]
struct KindLimitsView {
    name: String,
    concurrency: Option<i32>,
    rate_limit: Option<i32>,
    rate_seconds: i32,
}

impl Example for KindLimitsView {
    fn example() -> Self {
        Self {
            name: "mail.send".to_owned(),
            concurrency: None,
            rate_limit: Some(100),
            rate_seconds: 60,
        }
    }
}

/// How long jobs are kept after their end
#[derive(Object)]
#[oai(example)]
struct KeptView {
    /// `succeeded`, `cancelled`, `dead` or `quarantined`
    state: String,
    keep_seconds: i32,
}

impl Example for KeptView {
    fn example() -> Self {
        Self {
            state: "dead".to_owned(),
            keep_seconds: 15_552_000,
        }
    }
}

/// How long jobs are to be kept
#[derive(Object)]
#[oai(deny_unknown_fields, example)]
struct KeptBody {
    /// 3600 to 315360000
    keep_seconds: i32,
    reason: Option<String>,
}

impl Example for KeptBody {
    fn example() -> Self {
        Self {
            keep_seconds: 15_552_000,
            reason: None,
        }
    }
}

/// What a worker is to do
#[derive(Enum, Clone, Copy)]
#[oai(rename_all = "lowercase")]
enum Wish {
    Quiet,
    Resume,
    Stop,
}

impl From<Wish> for WorkerWish {
    fn from(wish: Wish) -> Self {
        match wish {
            Wish::Quiet => Self::Quiet,
            Wish::Resume => Self::Resume,
            Wish::Stop => Self::Stop,
        }
    }
}

/// What was asked of a worker
#[derive(Object)]
#[oai(example)]
struct WishView {
    name: String,
    quiet: bool,
    stop: bool,
}

impl Example for WishView {
    fn example() -> Self {
        Self {
            name: "roost-1-4711-0194be64".to_owned(),
            quiet: true,
            stop: false,
        }
    }
}

/// A set of jobs and how far it is
#[derive(Object)]
#[oai(example)]
pub(super) struct BatchView {
    id: Uuid,
    total: i64,
    /// Those that succeeded
    done: i64,
    /// Those that are dead, quarantined or cancelled
    failed: i64,
    /// The job after the last
    after_id: Uuid,
    after_kind: String,
    created_at: DateTime<Utc>,
    /// When the last of its jobs had ended
    finished_at: Option<DateTime<Utc>>,
}

impl Example for BatchView {
    fn example() -> Self {
        Self {
            id: example_id(5),
            total: 20,
            done: 18,
            failed: 1,
            after_id: example_id(6),
            after_kind: "stays.complete".to_owned(),
            created_at: example_instant(),
            finished_at: None,
        }
    }
}

impl From<Batch> for BatchView {
    fn from(batch: Batch) -> Self {
        Self {
            id: batch.id,
            total: batch.total,
            done: batch.done,
            failed: batch.failed,
            after_id: batch.after_id,
            after_kind: batch.after_kind,
            created_at: batch.created_at,
            finished_at: batch.finished_at,
        }
    }
}

#[OpenApi]
impl SettingsApi {
    /// How the queues are set
    #[oai(path = "/settings/queues", method = "get", operation_id = "ops_list_queue_settings")]
    async fn queues(&self, _auth: OpsAuth) -> ApiResult<Json<Vec<QueueSettingsView>>> {
        let queues = overview::queues(self.0.db.pool()).await?;
        let views = queues.into_iter().map(|queue| QueueSettingsView {
            seconds_to_breach: queue.seconds_to_breach(),
            name: queue.name,
            concurrency: queue.concurrency,
            rate_limit: queue.rate_limit,
            rate_seconds: queue.rate_seconds,
            target_seconds: queue.target_seconds,
            weight: queue.weight,
        });
        Ok(Json(views.collect()))
    }

    /// Set a queue; effective within two seconds
    #[oai(path = "/settings/queues/:name", method = "put", operation_id = "ops_set_queue")]
    async fn set_queue(
        &self,
        auth: OpsAuth,
        name: Path<String>,
        body: JsonBody<QueueSettingsBody>,
    ) -> ApiResult<Json<Vec<QueueSettingsView>>> {
        auth.require(SETTER)?;
        let wanted = QueueSettings {
            limits: Limits {
                concurrency: body.concurrency,
                rate_limit: body.rate_limit,
                rate_seconds: body.rate_seconds,
            },
            target_seconds: body.target_seconds,
            weight: body.weight,
        };
        let mut tx = self.0.db.begin().await?;
        settings::set_queue(&mut tx, &name, wanted, auth.by(body.reason.as_deref())).await?;
        tx.commit().await?;
        self.queues(auth).await
    }

    /// The kinds that have limits of their own
    #[oai(path = "/settings/kinds", method = "get", operation_id = "ops_list_kind_limits")]
    async fn kinds(&self, _auth: OpsAuth) -> ApiResult<Json<Vec<KindLimitsView>>> {
        let kinds = overview::limited_kinds(self.0.db.pool()).await?;
        let views = kinds.into_iter().map(|kind| KindLimitsView {
            name: kind.name,
            concurrency: kind.concurrency,
            rate_limit: kind.rate_limit,
            rate_seconds: kind.rate_seconds,
        });
        Ok(Json(views.collect()))
    }

    /// Limit a kind, or lift its limits; effective within two seconds
    #[oai(path = "/settings/kinds/:name", method = "put", operation_id = "ops_limit_kind")]
    async fn set_kind(
        &self,
        auth: OpsAuth,
        name: Path<String>,
        body: JsonBody<KindLimitsBody>,
    ) -> ApiResult<Json<Vec<KindLimitsView>>> {
        auth.require(SETTER)?;
        let wanted = Limits {
            concurrency: body.concurrency,
            rate_limit: body.rate_limit,
            rate_seconds: body.rate_seconds,
        };
        let mut tx = self.0.db.begin().await?;
        settings::set_kind(&mut tx, &name, wanted, auth.by(body.reason.as_deref())).await?;
        tx.commit().await?;
        self.kinds(auth).await
    }

    /// How long jobs are kept after their end
    #[oai(path = "/settings/retention", method = "get", operation_id = "ops_list_retention")]
    async fn retention(&self, _auth: OpsAuth) -> ApiResult<Json<Vec<KeptView>>> {
        let kept = retention::kept(self.0.db.pool()).await?;
        let views = kept.into_iter().map(|kept| KeptView {
            state: kept.state,
            keep_seconds: kept.seconds,
        });
        Ok(Json(views.collect()))
    }

    /// Set how long jobs that ended in a state are kept
    ///
    /// Their attempts go with them: where that is less than a day, `last_day` of the overview may miss some.
    #[oai(
        path = "/settings/retention/:state",
        method = "put",
        operation_id = "ops_set_retention"
    )]
    async fn set_retention(
        &self,
        auth: OpsAuth,
        state: Path<String>,
        body: JsonBody<KeptBody>,
    ) -> ApiResult<Json<Vec<KeptView>>> {
        auth.require(KEEPER)?;
        let mut tx = self.0.db.begin().await?;
        settings::set_retention(
            &mut tx,
            &state,
            Keep::Seconds(body.keep_seconds),
            auth.by(body.reason.as_deref()),
        )
        .await?;
        tx.commit().await?;
        self.retention(auth).await
    }

    /// Tell a worker to take nothing new, to go on, or to end; effective within two seconds
    ///
    /// Needs a reason unless it goes on or serves no queue that moves money.
    #[oai(path = "/workers/:name/:wish", method = "post", operation_id = "ops_tell_worker")]
    async fn tell_worker(
        &self,
        auth: OpsAuth,
        name: Path<String>,
        wish: Path<Wish>,
        body: JsonBody<Reason>,
    ) -> ApiResult<Json<WishView>> {
        auth.require(SETTER)?;
        let mut tx = self.0.db.begin().await?;
        let (quiet, stop) =
            settings::tell_worker(&mut tx, &name, wish.0.into(), auth.by(body.reason.as_deref())).await?;
        tx.commit().await?;
        Ok(Json(WishView {
            name: name.0,
            quiet,
            stop,
        }))
    }

    /// A batch and how far it is
    #[oai(path = "/batches/:batch_id", method = "get", operation_id = "ops_get_batch")]
    async fn batch(&self, _auth: OpsAuth, batch_id: Path<Uuid>) -> ApiResult<Json<BatchView>> {
        let batch = batches::find(self.0.db.pool(), batch_id.0)
            .await?
            .ok_or_else(|| ApiError::not_found("batch"))?;
        Ok(Json(batch.into()))
    }
}
