//! Acting on all jobs that match.

use chrono::{DateTime, Utc};
use poem_openapi::param::{Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};
use roost_shared::jobs::bulk::{self, BulkAction};
use roost_shared::jobs::kinds;
use roost_shared::jobs::list::{self, FilterError, JobFilter, KindCount, ListError};
use roost_shared::jobs::preview::{self, Previewed};
use roost_shared::operators::Role;
use serde_json::{Value, json};
use uuid::Uuid;

use super::jobs::{JobView, OutlookView, Verb, states};
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
    /// These jobs and no others, 1 to 100; what is scheduled is run as well if it is named here
    ids: Option<Vec<Uuid>>,
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
    /// Needed unless `kind` is one that moves no money, or `ids` are jobs of such kinds
    reason: Option<String>,
}

impl Example for BulkRequest {
    fn example() -> Self {
        Self {
            action: Verb::Retry,
            ids: None,
            states: vec!["dead".to_owned()],
            kind: Some("mail.send".to_owned()),
            queue: None,
            from: Some(example_instant()),
            to: None,
            attempts: None,
            effect: None,
            worker: None,
            q: Some("550".to_owned()),
            reason: Some("the mail server is back".to_owned()),
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
    /// The same by kind, the most first
    kinds: Vec<KindCountView>,
    /// The newest of them; 10 at most, or all that `ids` names
    sample: Vec<PreviewedView>,
    /// Whether `POST /bulk` needs a reason
    needs_reason: bool,
    /// Whether jobs that are scheduled are left alone, because no state was asked for
    leaves_scheduled: bool,
    /// As in `GET /jobs`; what the search does not follow is not acted on
    incomplete: bool,
}

impl Example for PreviewView {
    fn example() -> Self {
        Self {
            action: Verb::Retry,
            expected: 1_200,
            kinds: vec![KindCountView {
                kind: "mail.send".to_owned(),
                count: 1_200,
                moves_money: false,
            }],
            sample: vec![PreviewedView {
                job: JobView::example(),
                outlook: vec![OutlookView::example()],
            }],
            needs_reason: true,
            leaves_scheduled: false,
            incomplete: false,
        }
    }
}

/// How many of a kind
#[derive(Object)]
struct KindCountView {
    kind: String,
    count: i64,
    moves_money: bool,
}

impl From<KindCount> for KindCountView {
    fn from(kind: KindCount) -> Self {
        Self {
            moves_money: kinds::moves_money(&kind.kind),
            kind: kind.kind,
            count: kind.count,
        }
    }
}

/// A job and what the action would do to it
#[derive(Object)]
struct PreviewedView {
    #[oai(flatten)]
    job: JobView,
    /// What the action would do
    outlook: Vec<OutlookView>,
}

impl From<Previewed> for PreviewedView {
    fn from(previewed: Previewed) -> Self {
        Self {
            job: previewed.job.into(),
            outlook: previewed.lines.into_iter().map(OutlookView::from).collect(),
        }
    }
}

/// The field as the body names it.
fn in_body(error: FilterError) -> FilterError {
    match error.field {
        "state" => FilterError {
            field: "states",
            ..error
        },
        _ => error,
    }
}

fn job_ids(text: Option<&str>) -> ApiResult<Option<Vec<Uuid>>> {
    let Some(text) = text else { return Ok(None) };
    let ids = text.split(',').filter(|id| !id.is_empty()).map(|id| {
        id.parse().map_err(|_| {
            let message = format!("{id:?} is no job's id");
            ListError::from(FilterError { field: "ids", message })
        })
    });
    Ok(Some(ids.collect::<Result<_, _>>()?))
}

/// The ids of a filter. A selection that came out empty does not mean all jobs.
fn named(ids: Option<Vec<Uuid>>) -> ApiResult<Vec<Uuid>> {
    if ids.as_ref().is_some_and(Vec::is_empty) {
        let message = "name at least one job, or leave ids out".to_owned();
        return Err(ListError::from(FilterError { field: "ids", message }).into());
    }
    Ok(ids.unwrap_or_default())
}

#[OpenApi]
impl BulkApi {
    /// See what an action on all jobs that match would do
    ///
    /// Nothing is done. `POST /bulk` with the same filter does it.
    #[oai(path = "/bulk/preview", method = "get", operation_id = "ops_preview_bulk")]
    #[allow(clippy::too_many_arguments, reason = "each is a parameter of the URL")]
    async fn preview_bulk(
        &self,
        auth: OpsAuth,
        /// Ids of jobs, separated by commas: these and no others, 1 to 100
        ids: Query<Option<String>>,
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
            ids: named(job_ids(ids.0.as_deref())?)?,
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
        let shown = i64::try_from(filter.ids.len()).map_or(SHOWN, |ids| ids.max(SHOWN));
        let preview = preview::preview(self.0.db.pool(), &filter, action, shown).await?;
        Ok(Json(PreviewView {
            action: verb,
            expected: preview.expected,
            kinds: preview.kinds.into_iter().map(KindCountView::from).collect(),
            sample: preview.sample.into_iter().map(PreviewedView::from).collect(),
            needs_reason: preview.needs_reason,
            leaves_scheduled: preview.leaves_scheduled,
            incomplete: preview.cut,
        }))
    }

    /// Act on all jobs that match, in the background
    #[oai(path = "/bulk", method = "post", operation_id = "ops_begin_bulk")]
    async fn begin_bulk(&self, auth: OpsAuth, body: JsonBody<BulkRequest>) -> ApiResult<Json<BulkView>> {
        let body = body.into_inner();
        let action = body.action.action();
        auth.require(role_for(action))?;
        let filter = JobFilter {
            ids: named(body.ids)?,
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
        filter.check().map_err(|error| ListError::from(in_body(error)))?;
        let expected = list::count(self.0.db.pool(), &bulk::narrowed(&filter, action)).await?;
        let mut tx = self.0.db.begin().await?;
        let id = bulk::begin(&mut tx, &filter, action, expected, auth.by(body.reason.as_deref())).await?;
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
