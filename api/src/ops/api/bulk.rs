//! Acting on all jobs that match.

use chrono::{DateTime, Utc};
use poem_openapi::param::{Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};
use roost_shared::jobs::bulk::{self, BulkAction};
use roost_shared::jobs::list::{self, JobFilter};
use roost_shared::operators::Role;
use serde_json::Value;
use uuid::Uuid;

use super::jobs::Verb;
use super::{DEFAULT_LIMIT, OpsAuth};
use crate::body::JsonBody;
use crate::error::{ApiError, ApiResult};
use crate::ops::acting::role_for;
use crate::state::AppState;

/// The operations.
pub struct BulkApi(pub AppState);

/// An action on all jobs that match
#[derive(Object)]
#[oai(deny_unknown_fields)]
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

/// Why it is stopped
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct StopRequest {
    /// Always needed
    reason: String,
}

/// How far a bulk action came
#[derive(Object)]
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

#[OpenApi]
impl BulkApi {
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
