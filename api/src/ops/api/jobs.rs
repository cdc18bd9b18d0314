//! Jobs: finding them, what each did, and acting on one.

use chrono::{DateTime, Utc};
use poem_openapi::param::{Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::types::Example;
use poem_openapi::{Enum, Object, OpenApi};
use roost_shared::jobs::Outlook;
use roost_shared::jobs::actions::{self, JobAction};
use roost_shared::jobs::inspect::{self, Relative};
use roost_shared::jobs::inspections;
use roost_shared::jobs::kinds;
use roost_shared::jobs::list::{self, JobFilter, JobRow};
use roost_shared::operators::{Role, audit};
use serde_json::{Value, json};
use uuid::Uuid;

use super::audit::AuditView;
use super::effects::EffectView;
use super::settings::BatchView;
use super::{DEFAULT_LIMIT, OpsAuth, Reason};
use crate::body::JsonBody;
use crate::error::{ApiError, ApiResult};
use crate::ops::acting::{EDITOR, role_for, role_for_job};
use crate::rest::bookings::objects::{example_id, example_instant};
use crate::state::AppState;

/// The operations.
pub struct JobsApi(pub AppState);

/// A job
#[derive(Object)]
#[oai(example)]
pub(super) struct JobView {
    id: Uuid,
    kind: String,
    queue: String,
    /// `scheduled`, `queued`, `running`, `retrying`, `succeeded`, `dead`, `cancelled` or `quarantined`
    state: String,
    /// Masked by kind
    args: Value,
    attempt: i32,
    max_attempts: i32,
    /// When it is due, or became so
    run_at: DateTime<Utc>,
    created_at: DateTime<Utc>,
    started_at: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
    last_error: Option<String>,
    worker: Option<String>,
    cancel_requested: bool,
}

impl Example for JobView {
    fn example() -> Self {
        Self {
            id: example_id(1),
            kind: "mail.send".to_owned(),
            queue: "notifications".to_owned(),
            state: "dead".to_owned(),
            args: json!({"mail": "booking-confirmed-guest", "subject_id": example_id(2)}),
            attempt: 1,
            max_attempts: 875,
            run_at: example_instant(),
            created_at: example_instant(),
            started_at: Some(example_instant()),
            finished_at: Some(example_instant()),
            last_error: Some("the mail server refused it: 550".to_owned()),
            worker: Some("roost-1-4711-0194be64".to_owned()),
            cancel_requested: false,
        }
    }
}

impl From<JobRow> for JobView {
    fn from(job: JobRow) -> Self {
        Self {
            args: kinds::masked(&job.kind, &job.args),
            id: job.id,
            kind: job.kind,
            queue: job.queue,
            state: job.state,
            attempt: job.attempt,
            max_attempts: job.max_attempts,
            run_at: job.run_at,
            created_at: job.created_at,
            started_at: job.started_at,
            finished_at: job.finished_at,
            last_error: job.last_error,
            worker: job.lease_owner,
            cancel_requested: job.cancel_requested,
        }
    }
}

/// A page of jobs, the newest first
#[derive(Object)]
#[oai(example)]
struct JobPage {
    items: Vec<JobView>,
    /// Whether more belongs to the id in `q` than the search follows: it follows the newest 40 bookings of a user as a guest and as a
    /// host, and of each booking 40 messages and of each payment 40 Stripe events, 400 together
    incomplete: bool,
    /// Give it as `before` for the next page; none on the last
    next_before: Option<Uuid>,
}

impl Example for JobPage {
    fn example() -> Self {
        Self {
            items: vec![JobView::example()],
            incomplete: false,
            next_before: Some(example_id(1)),
        }
    }
}

/// An attempt that ended
#[derive(Object)]
struct AttemptView {
    attempt: i32,
    worker: String,
    started_at: DateTime<Utc>,
    ended_at: DateTime<Utc>,
    /// `succeeded`, `retry`, `interrupted`, `snoozed`, `failed`, `lost`, `cancelled` or `handed_back`
    outcome: String,
    error: Option<String>,
}

/// A sentence about what a retry, or another action, would do
#[derive(Object)]
pub(super) struct OutlookView {
    /// `safe`, `acts`, `asks` or `futile`
    tone: String,
    text: String,
}

impl Example for OutlookView {
    fn example() -> Self {
        Self {
            tone: "acts".to_owned(),
            text: "The mail was refused. A retry offers it once more.".to_owned(),
        }
    }
}

impl From<Outlook> for OutlookView {
    fn from(line: Outlook) -> Self {
        Self {
            tone: line.tone.name().to_owned(),
            text: line.text,
        }
    }
}

/// A job with what belongs to it
#[derive(Object)]
#[oai(example)]
struct JobDetailView {
    id: Uuid,
    kind: String,
    queue: String,
    /// So many seconds after it is due it ought to have begun; of the due jobs of its queue the one nearest to that runs first
    priority: i16,
    state: String,
    /// Masked by kind
    args: Value,
    /// The same as they are, for whom may replace them and while that can be done: an admin, and a job of a known kind that neither
    /// runs nor has succeeded. Null otherwise
    editable_args: Option<Value>,
    attempt: i32,
    max_attempts: i32,
    /// Workers that it took down, one after the other
    crash_count: i32,
    /// When it is due, or became so
    run_at: DateTime<Utc>,
    created_at: DateTime<Utc>,
    started_at: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
    last_error: Option<String>,
    /// The worker that runs it, or ran it last
    worker: Option<String>,
    /// Until when that worker has it, unless it renews before
    lease_until: Option<DateTime<Utc>>,
    /// When its id was last handed to Redis; none: it was not, or is to be handed there again
    published_at: Option<DateTime<Utc>>,
    /// In hundredths, where the kind tells
    progress: Option<i16>,
    /// An operator wants it stopped
    cancel_requested: bool,
    /// While it has not ended, no other job has this key
    dedupe_key: Option<String>,
    /// The user behind what enqueued it
    actor: Option<String>,
    trace_id: Option<String>,
    /// The booking it works for
    booking_id: Option<Uuid>,
    /// What a retry would do
    outlook: Vec<OutlookView>,
    /// The newest first; 50 at most
    attempts: Vec<AttemptView>,
    /// How many have ended
    attempts_total: i64,
    effects: Vec<EffectView>,
    /// The job that enqueued it
    parent_id: Option<Uuid>,
    /// What that is, if it is still kept
    parent: Option<RelativeView>,
    /// Jobs that it enqueued, the newest first; 50 at most
    children: Vec<RelativeView>,
    /// How many it enqueued
    children_total: i64,
    /// What operators did to it, the newest first; 50 at most, and `GET /audit?target=` has all
    audit: Vec<AuditView>,
    /// The batch that it is one of
    batch: Option<BatchView>,
    /// The batch that it comes after
    follows: Option<BatchView>,
}

impl Example for JobDetailView {
    fn example() -> Self {
        let job = JobView::example();
        Self {
            id: job.id,
            kind: job.kind,
            queue: job.queue,
            priority: 50,
            state: job.state,
            editable_args: Some(job.args.clone()),
            args: job.args,
            attempt: job.attempt,
            max_attempts: job.max_attempts,
            crash_count: 0,
            run_at: job.run_at,
            created_at: job.created_at,
            started_at: job.started_at,
            finished_at: job.finished_at,
            last_error: job.last_error.clone(),
            worker: job.worker,
            lease_until: None,
            published_at: None,
            progress: None,
            cancel_requested: false,
            dedupe_key: None,
            actor: None,
            trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736".to_owned()),
            booking_id: Some(example_id(2)),
            outlook: vec![OutlookView::example()],
            attempts: vec![AttemptView {
                attempt: 1,
                worker: "roost-1-4711-0194be64".to_owned(),
                started_at: example_instant(),
                ended_at: example_instant(),
                outcome: "failed".to_owned(),
                error: job.last_error,
            }],
            attempts_total: 1,
            effects: Vec::new(),
            parent_id: Some(example_id(3)),
            parent: Some(RelativeView {
                id: example_id(3),
                kind: "booking.confirm".to_owned(),
                state: "succeeded".to_owned(),
            }),
            children: Vec::new(),
            children_total: 0,
            audit: vec![AuditView::example()],
            batch: None,
            follows: None,
        }
    }
}

/// A job beside another one
#[derive(Object)]
struct RelativeView {
    id: Uuid,
    kind: String,
    state: String,
}

impl From<Relative> for RelativeView {
    fn from(job: Relative) -> Self {
        Self {
            id: job.id,
            kind: job.kind,
            state: job.state,
        }
    }
}

/// New arguments
#[derive(Object)]
#[oai(deny_unknown_fields, example)]
struct Edit {
    /// All of them, as the kind wants them
    args: Value,
    /// Needed where money is touched
    reason: Option<String>,
}

impl Example for Edit {
    fn example() -> Self {
        Self {
            args: json!({"mail": "booking-confirmed-guest", "subject_id": example_id(2)}),
            reason: Some("the wrong booking".to_owned()),
        }
    }
}

/// What a job is after an action
#[derive(Object)]
#[oai(example)]
struct NewState {
    /// Its state, or `deleted`
    state: String,
}

impl Example for NewState {
    fn example() -> Self {
        Self {
            state: "queued".to_owned(),
        }
    }
}

/// What to do
#[derive(Enum, Clone, Copy)]
#[oai(rename_all = "lowercase")]
pub(super) enum Verb {
    Retry,
    Run,
    Cancel,
    Delete,
}

impl Verb {
    pub(super) fn action(self) -> JobAction {
        match self {
            Self::Retry => JobAction::Retry,
            Self::Run => JobAction::RunNow,
            Self::Cancel => JobAction::Cancel,
            Self::Delete => JobAction::Delete,
        }
    }
}

/// Reads `dead,quarantined`.
pub(super) fn states(text: Option<&str>) -> Vec<String> {
    let states = text.iter().flat_map(|text| text.split(','));
    states.filter(|state| !state.is_empty()).map(str::to_owned).collect()
}

#[OpenApi]
impl JobsApi {
    /// Find jobs
    #[oai(path = "/jobs", method = "get", operation_id = "ops_list_jobs")]
    #[allow(clippy::too_many_arguments, reason = "each is a parameter of the URL")]
    async fn jobs(
        &self,
        _auth: OpsAuth,
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
        /// An id of a job, booking, payment, user or event; a JSON object that the arguments contain; or text of an error
        q: Query<Option<String>>,
        /// `next_before` of the page before
        before: Query<Option<Uuid>>,
        /// 1 to 200, 50 if it is not given
        #[oai(validator(minimum(value = "1"), maximum(value = "200")))]
        limit: Query<Option<i64>>,
    ) -> ApiResult<Json<JobPage>> {
        let filter = JobFilter {
            ids: Vec::new(),
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
        let limit = limit.0.unwrap_or(DEFAULT_LIMIT);
        let page = list::page(self.0.db.pool(), &filter, before.0, limit).await?;
        let full = i64::try_from(page.jobs.len()).is_ok_and(|jobs| jobs == limit);
        Ok(Json(JobPage {
            next_before: page.jobs.last().filter(|_| full).map(|last| last.id),
            items: page.jobs.into_iter().map(JobView::from).collect(),
            incomplete: page.cut,
        }))
    }

    /// One job, with its attempts, its effects, and what a retry would do
    #[oai(path = "/jobs/:job_id", method = "get", operation_id = "ops_get_job")]
    async fn job(&self, auth: OpsAuth, job_id: Path<Uuid>) -> ApiResult<Json<JobDetailView>> {
        let detail = inspect::inspect(self.0.db.pool(), job_id.0)
            .await?
            .ok_or_else(|| ApiError::not_found("job"))?;
        let audit = audit::of_job(self.0.db.pool(), job_id.0).await?;
        let effects = detail.effects.iter();
        let effects = effects.map(|effect| EffectView::of(effect, &detail)).collect();
        let job = detail.job;
        let editable = job.is_editable() && auth.require(EDITOR).is_ok();
        Ok(Json(JobDetailView {
            editable_args: editable.then(|| job.args.clone()),
            args: kinds::masked(&job.kind, &job.args),
            trace_id: job.trace_id().map(str::to_owned),
            id: job.id,
            kind: job.kind,
            queue: job.queue,
            priority: job.priority,
            state: job.state,
            attempt: job.attempt,
            max_attempts: job.max_attempts,
            crash_count: job.crash_count,
            run_at: job.run_at,
            created_at: job.created_at,
            started_at: job.started_at,
            finished_at: job.finished_at,
            last_error: job.last_error,
            worker: job.lease_owner,
            lease_until: job.lease_until,
            published_at: job.published_at,
            progress: job.progress,
            cancel_requested: job.cancel_requested,
            dedupe_key: job.dedupe_key,
            actor: job.actor,
            booking_id: detail.booking_id,
            parent_id: job.parent_id,
            parent: detail.parent.map(RelativeView::from),
            audit: audit.into_iter().map(AuditView::from).collect(),
            attempts_total: detail.attempts_total,
            children_total: detail.children_total,
            batch: detail.batch.map(BatchView::from),
            follows: detail.follows.map(BatchView::from),
            children: detail.children.into_iter().map(RelativeView::from).collect(),
            outlook: detail.outlook.into_iter().map(OutlookView::from).collect(),
            attempts: detail
                .attempts
                .into_iter()
                .map(|attempt| AttemptView {
                    attempt: attempt.attempt,
                    worker: attempt.worker,
                    started_at: attempt.started_at,
                    ended_at: attempt.ended_at,
                    outcome: attempt.outcome,
                    error: attempt.error,
                })
                .collect(),
            effects,
        }))
    }

    /// Retry, run now, cancel or delete a job
    #[oai(path = "/jobs/:job_id/:action", method = "post", operation_id = "ops_act_on_job")]
    async fn act(
        &self,
        auth: OpsAuth,
        job_id: Path<Uuid>,
        action: Path<Verb>,
        body: JsonBody<Reason>,
    ) -> ApiResult<Json<NewState>> {
        let action = action.0.action();
        auth.require(role_for(action))?;
        let mut tx = self.0.db.begin().await?;
        auth.require(role_for_job(&mut tx, action, job_id.0).await?)?;
        let state = actions::act(&mut tx, job_id.0, action, auth.by(body.reason.as_deref())).await?;
        tx.commit().await?;
        Ok(Json(NewState { state }))
    }

    /// Ask Stripe how the job's effects stand
    ///
    /// A worker looks them up and changes nothing; `GET /jobs/{job_id}` has the answer as soon as it has.
    #[oai(path = "/jobs/:job_id/ask", method = "post", operation_id = "ops_ask_stripe")]
    async fn ask(&self, auth: OpsAuth, job_id: Path<Uuid>, body: JsonBody<Reason>) -> ApiResult<Json<JobDetailView>> {
        auth.require(Role::Operator)?;
        let detail = inspect::inspect(self.0.db.pool(), job_id.0)
            .await?
            .ok_or_else(|| ApiError::not_found("job"))?;
        let mut tx = self.0.db.begin().await?;
        inspections::ask(&mut tx, &detail, auth.by(body.reason.as_deref())).await?;
        tx.commit().await?;
        self.job(auth, job_id).await
    }

    /// Replace the arguments of a job that is not running
    #[oai(path = "/jobs/:job_id/args", method = "put", operation_id = "ops_edit_job")]
    async fn edit(&self, auth: OpsAuth, job_id: Path<Uuid>, body: JsonBody<Edit>) -> ApiResult<Json<JobDetailView>> {
        auth.require(EDITOR)?;
        let mut tx = self.0.db.begin().await?;
        actions::edit_args(&mut tx, job_id.0, &body.args, auth.by(body.reason.as_deref())).await?;
        tx.commit().await?;
        self.job(auth, job_id).await
    }
}
