//! Acting on all jobs that match.

use chrono::{DateTime, Utc};
use poem_openapi::param::Path;
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};
use roost_shared::jobs::bulk;
use roost_shared::jobs::list::{self, JobFilter};
use uuid::Uuid;

use super::OpsAuth;
use super::jobs::Verb;
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
    /// `retry`, `cancel` or `delete`
    action: Verb,
    /// In one of these states; all in which the action makes sense if there is none
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
}

impl BulkApi {
    async fn bulk_view(&self, id: Uuid) -> ApiResult<Json<BulkView>> {
        let bulk = bulk::find(self.0.db.pool(), id)
            .await?
            .ok_or_else(|| ApiError::not_found("bulk action"))?;
        Ok(Json(BulkView {
            id: bulk.id,
            action: bulk.action,
            state: bulk.state,
            expected: bulk.expected,
            done: bulk.done,
            refused: bulk.refused,
        }))
    }
}
