//! Acting on all jobs that match.

use chrono::{DateTime, Utc};
use poem_openapi::param::{Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};
use roost_shared::jobs::actions::JobAction;
use roost_shared::jobs::bulk::{self, BulkAction};
use roost_shared::jobs::list::{self, JobFilter, ListError};
use roost_shared::operators::Role;
use serde_json::{Value, json};
use uuid::Uuid;

use super::jobs::{JobView, Verb, states};
use super::{DEFAULT_LIMIT, OpsAuth};
use crate::body::JsonBody;
use crate::error::{ApiError, ApiResult};
use crate::ops::acting::role_for;
use crate::ops::bulk::SHOWN;
use crate::rest::bookings::objects::{example_id, example_instant};
use crate::state::AppState;

/// The operations.
pub struct BulkApi(pub AppState);

/// An action on all jobs that match
#[derive(Object)]
#[oai(deny_unknown_fields, example)]
struct BulkRequest {
    action: Verb,
    /// In one of these states; if there is none, all in which the action makes sense, but `run` takes `retrying` alone:
    /// name `scheduled` to run early what waits for a time of its own
    #[oai(default)]
    states: Vec<String>,
    kind: Option<String>,
    queue: Option<String>,
    from: Option<DateTime<Utc>>,
    to: Option<DateTime<Utc>>,
    attempts: Option<i32>,
    /// `unknown`: with a call to the outside whose outcome nobody knows
    effect: Option<String>,
    /// Running, and on this worker
    worker: Option<String>,
    q: Option<String>,
    /// Always needed
    reason: String,
}

impl Example for BulkRequest {
    fn example() -> Self {
        Self {
            action: Verb::Retry,
            states: vec!["dead".to_owned()],
            kind: Some("mail.send".to_owned()),
            queue: None,
            from: Some(example_instant()),
            to: None,
            attempts: None,
            effect: None,
            worker: None,
            q: Some("550".to_owned()),
            reason: "the mail server is back".to_owned(),
        }
    }
}

/// Why it is stopped
#[derive(Object)]
#[oai(deny_unknown_fields, example)]
struct StopRequest {
    /// Always needed
    reason: String,
}

impl Example for StopRequest {
    fn example() -> Self {
        Self {
            reason: "the wrong kind".to_owned(),
        }
    }
}

/// How far a bulk action came
#[derive(Object)]
#[oai(example)]
struct BulkView {
    id: Uuid,
    action: String,
    /// `running`, `finished` or `stopped`
    state: String,
    /// How many matched when it was asked for
    expected: i64,
    /// How many it was done to
    done: i64,
    /// How many had moved on
    refused: i64,
    /// Which jobs
    filter: Value,
    /// Who asked for it, and why
    actor: String,
    reason: Option<String>,
    created_at: DateTime<Utc>,
    finished_at: Option<DateTime<Utc>>,
    /// The job that works it off
    job_id: Option<Uuid>,
    /// That job's state
    job_state: Option<String>,
    /// Whether it is stopped only because that job has ended: a retry of the job goes on with it
    can_go_on: bool,
}

impl Example for BulkView {
    fn example() -> Self {
        Self {
            id: example_id(3),
            action: "retry".to_owned(),
            state: "running".to_owned(),
            expected: 1_200,
            done: 500,
            refused: 1,
            filter: json!({"states": ["dead"], "kind": "mail.send", "q": "550"}),
            actor: "ada@ops.example.com".to_owned(),
            reason: Some("the mail server is back".to_owned()),
            created_at: example_instant(),
            finished_at: None,
            job_id: Some(example_id(4)),
            job_state: Some("running".to_owned()),
            can_go_on: false,
        }
    }
}

impl From<BulkAction> for BulkView {
    fn from(bulk: BulkAction) -> Self {
        Self {
            id: bulk.id,
            action: bulk.action,
            state: bulk.state,
            expected: bulk.expected,
            done: bulk.done,
            refused: bulk.refused,
            filter: bulk.filter,
            actor: bulk.actor,
            reason: bulk.reason,
            created_at: bulk.created_at,
            finished_at: bulk.finished_at,
            job_id: bulk.job_id,
            job_state: bulk.job_state,
            can_go_on: bulk.can_go_on,
        }
    }
}

/// What an action on all jobs that match would be done to
#[derive(Object)]
#[oai(example)]
struct PreviewView {
    action: Verb,
    /// How many match and can have it
    expected: i64,
    /// The newest of them; 10 at most
    sample: Vec<JobView>,
    /// Whether jobs that are scheduled are left alone, because no state was asked for
    leaves_scheduled: bool,
}

impl Example for PreviewView {
    fn example() -> Self {
        Self {
            action: Verb::Retry,
            expected: 1_200,
            sample: vec![JobView::example()],
            leaves_scheduled: false,
        }
    }
}

#[OpenApi]
impl BulkApi {
    /// See what an action on all jobs that match would be done to
    ///
    /// Nothing is done. `POST /bulk` with the same filter does it.
    #[oai(path = "/bulk/preview", method = "get", operation_id = "ops_preview_bulk")]
    #[allow(clippy::too_many_arguments, reason = "each is a parameter of the URL")]
    async fn preview_bulk(
        &self,
        auth: OpsAuth,
        /// States, separated by commas
        state: Query<Option<String>>,
        kind: Query<Option<String>>,
        queue: Query<Option<String>>,
        /// Enqueued at or after
        from: Query<Option<DateTime<Utc>>>,
        /// Enqueued before
        to: Query<Option<DateTime<Utc>>>,
        /// With so many attempts at least
        attempts: Query<Option<i32>>,
        /// `unknown`: with a call to the outside whose outcome nobody knows
        effect: Query<Option<String>>,
        /// Running, and on this worker
        worker: Query<Option<String>>,
        /// As in `GET /jobs`
        q: Query<Option<String>>,
        action: Query<Verb>,
    ) -> ApiResult<Json<PreviewView>> {
        let verb = action.0;
        let action = verb.action();
        auth.require(role_for(action))?;
        let filter = JobFilter {
            states: states(state.0.as_deref()),
            kind: kind.0,
            queue: queue.0,
            from: from.0,
            to: to.0,
            attempts: attempts.0,
            effect: effect.0,
            worker: worker.0,
            q: q.0,
        };
        filter.check().map_err(ListError::from)?;
        let narrowed = bulk::narrowed(&filter, action);
        let pool = self.0.db.pool();
        let sample = list::list(pool, &narrowed, None, SHOWN).await?;
        Ok(Json(PreviewView {
            action: verb,
            expected: list::count(pool, &narrowed).await?,
            sample: sample.into_iter().map(JobView::from).collect(),
            leaves_scheduled: action == JobAction::RunNow && filter.states.is_empty(),
        }))
    }

    /// Act on all jobs that match, in the background
    #[oai(path = "/bulk", method = "post", operation_id = "ops_begin_bulk")]
    async fn begin_bulk(&self, auth: OpsAuth, body: JsonBody<BulkRequest>) -> ApiResult<Json<BulkView>> {
        let body = body.into_inner();
        let action = body.action.action();
        auth.require(role_for(action))?;
        let filter = JobFilter {
            states: body.states,
            kind: body.kind,
            queue: body.queue,
            from: body.from,
            to: body.to,
            attempts: body.attempts,
            effect: body.effect,
            worker: body.worker,
            q: body.q,
        };
        let expected = list::count(self.0.db.pool(), &bulk::narrowed(&filter, action)).await?;
        let mut tx = self.0.db.begin().await?;
        let id = bulk::begin(&mut tx, &filter, action, expected, auth.by(Some(&body.reason))).await?;
        tx.commit().await?;
        self.bulk_view(id).await
    }

    /// How far a bulk action came
    #[oai(path = "/bulk/:action_id", method = "get", operation_id = "ops_get_bulk")]
    async fn bulk(&self, _auth: OpsAuth, action_id: Path<Uuid>) -> ApiResult<Json<BulkView>> {
        self.bulk_view(action_id.0).await
    }

    /// The newest bulk actions
    #[oai(path = "/bulk", method = "get", operation_id = "ops_list_bulk")]
    async fn newest_bulk(
        &self,
        _auth: OpsAuth,
        /// 1 to 200, 50 if it is not given
        #[oai(validator(minimum(value = "1"), maximum(value = "200")))]
        limit: Query<Option<i64>>,
    ) -> ApiResult<Json<Vec<BulkView>>> {
        let newest = bulk::newest(self.0.db.pool(), limit.0.unwrap_or(DEFAULT_LIMIT)).await?;
        Ok(Json(newest.into_iter().map(BulkView::from).collect()))
    }

    /// Stop a bulk action for good
    ///
    /// No job more is acted on; what was done stays done.
    #[oai(path = "/bulk/:action_id/stop", method = "post", operation_id = "ops_stop_bulk")]
    async fn stop_bulk(
        &self,
        auth: OpsAuth,
        action_id: Path<Uuid>,
        body: JsonBody<StopRequest>,
    ) -> ApiResult<Json<BulkView>> {
        auth.require(Role::Operator)?;
        let mut tx = self.0.db.begin().await?;
        bulk::stop(&mut tx, action_id.0, auth.by(Some(&body.reason))).await?;
        tx.commit().await?;
        self.bulk_view(action_id.0).await
    }
}

impl BulkApi {
    async fn bulk_view(&self, id: Uuid) -> ApiResult<Json<BulkView>> {
        let bulk = bulk::find(self.0.db.pool(), id)
            .await?
            .ok_or_else(|| ApiError::not_found("bulk action"))?;
        Ok(Json(bulk.into()))
    }
}
