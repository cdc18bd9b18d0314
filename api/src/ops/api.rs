//! The dashboard as JSON under `/ops/api`, for scripts: the same data, roles, rules and audit log as the pages.

use chrono::{DateTime, Utc};
use poem::Request;
use poem_openapi::auth::Bearer;
use poem_openapi::param::{Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::{Enum, Object, OpenApi, SecurityScheme};
use roost_shared::jobs::actions::{self, ActionError, By, JobAction};
use roost_shared::jobs::bulk::{self, BulkError};
use roost_shared::jobs::inspect::{self, Effect, JobDetail};
use roost_shared::jobs::inspections;
use roost_shared::jobs::kinds;
use roost_shared::jobs::list::{self, JobFilter, JobRow, ListError};
use roost_shared::jobs::overview;
use roost_shared::jobs::recorder;
use roost_shared::operators::Role;
use roost_shared::operators::audit::{self, Verdict};
use serde_json::Value;
use uuid::Uuid;

use super::access::{self, Signed};
use super::acting::role_for;
use super::fault::Fault;
use super::settings_api::BatchView;
use crate::body::JsonBody;
use crate::client::Client;
use crate::error::{ApiError, ApiResult};
use crate::problem::FieldError;
use crate::state::AppState;

/// The beginning of the document.
pub const DESCRIPTION: &str = "Jobs, queues, workers and the audit log, for operators. `POST /session` gives a token; send it as \
`Authorization: Bearer …`. It ends after 30 minutes without a request and after 12 hours in any case. Viewers read; operators \
ask Stripe, retry, run, cancel, pause, resume, limit, and quiet or stop workers; admins also delete, edit, and set how long jobs are kept. What touches money needs a reason. Refusals are problems \
(RFC 9457) with a stable `code`.";

/// The operations.
pub struct OpsApi(pub AppState);

/// The token of `POST /session`.
#[derive(SecurityScheme)]
#[oai(ty = "bearer", rename = "OperatorToken", checker = "check")]
pub struct OpsAuth(Signed);

async fn check(request: &Request, _: Bearer) -> poem::Result<Signed> {
    // The same header is read there.
    let signed = Signed::of_request(request).await.map_err(ApiError::from)?;
    Ok(signed.0)
}

impl OpsAuth {
    pub(super) fn by<'a>(&'a self, reason: Option<&'a str>) -> By<'a> {
        By {
            actor: &self.0.operator().email,
            reason,
        }
    }

    pub(super) fn require(&self, role: Role) -> ApiResult<()> {
        Ok(self.0.require(role)?)
    }
}

/// Who signs in
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct Credentials {
    /// Of the operator
    #[oai(validator(min_length = 1, max_length = 254))]
    email: String,
    /// Of the operator
    #[oai(validator(min_length = 1, max_length = 128))]
    password: String,
    /// Of the authenticator, if one is set up
    code: Option<String>,
}

/// A session
#[derive(Object)]
struct Session {
    /// Send it as `Authorization: Bearer …`
    token: String,
    /// `viewer`, `operator` or `admin`
    role: String,
}

/// A job
#[derive(Object)]
struct JobView {
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
struct JobPage {
    items: Vec<JobView>,
    /// Give it as `before` for the next page; none on the last
    next_before: Option<Uuid>,
}

/// An attempt that ended
#[derive(Object)]
struct AttemptView {
    attempt: i32,
    worker: String,
    started_at: DateTime<Utc>,
    ended_at: DateTime<Utc>,
    /// `succeeded`, `retry`, `snoozed`, `failed`, `lost`, `cancelled` or `handed_back`
    outcome: String,
    error: Option<String>,
}

/// Something that the job did, or may have done, to the world
#[derive(Object)]
struct EffectView {
    key: String,
    /// `intent`, `done`, `unknown` or `failed`
    state: String,
    external_id: Option<String>,
    error: Option<String>,
    first_sent_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    /// What Stripe was asked about it last
    inspection: Option<InspectionView>,
}

impl EffectView {
    fn of(effect: &Effect, detail: &JobDetail) -> Self {
        let inspection = detail.inspection_of(effect).map(|inspection| InspectionView {
            asked_at: inspection.asked_at,
            asked_by: inspection.asked_by.clone(),
            answered_at: inspection.answered_at,
            answer: inspection.words(),
            facts: inspection
                .facts
                .as_ref()
                .and_then(|facts| serde_json::to_value(facts).ok()),
            holds: inspection.answer_on(effect).is_some(),
        });
        Self {
            key: effect.key.clone(),
            state: effect.state.clone(),
            external_id: effect.external_id.clone(),
            error: effect.error.clone(),
            first_sent_at: effect.first_sent_at,
            updated_at: effect.updated_at,
            inspection,
        }
    }
}

/// A question to Stripe about an effect
#[derive(Object)]
struct InspectionView {
    asked_at: DateTime<Utc>,
    asked_by: String,
    /// None while nobody has looked
    answered_at: Option<DateTime<Utc>>,
    /// In words; also why Stripe could not be asked
    answer: Option<String>,
    /// The object as it was at Stripe: `object`, `id`, `status`, amounts in minor units; none if it could not be read
    facts: Option<Value>,
    /// Whether no attempt has run since
    holds: bool,
}

/// A sentence about what a retry would do
#[derive(Object)]
struct OutlookView {
    /// `safe`, `acts`, `asks` or `futile`
    tone: String,
    text: String,
}

/// A job with what belongs to it
#[derive(Object)]
struct JobDetailView {
    id: Uuid,
    kind: String,
    queue: String,
    state: String,
    /// Masked by kind
    args: Value,
    attempt: i32,
    max_attempts: i32,
    last_error: Option<String>,
    trace_id: Option<String>,
    /// The booking it works for
    booking_id: Option<Uuid>,
    /// What a retry would do
    outlook: Vec<OutlookView>,
    /// The newest first
    attempts: Vec<AttemptView>,
    effects: Vec<EffectView>,
    /// The job that enqueued it
    parent_id: Option<Uuid>,
    /// Jobs that it enqueued; 50 at most
    children: Vec<RelativeView>,
    /// The batch that it is one of
    batch: Option<BatchView>,
    /// The batch that it comes after
    follows: Option<BatchView>,
}

/// A job beside another one
#[derive(Object)]
struct RelativeView {
    id: Uuid,
    kind: String,
    state: String,
}

/// Why
#[derive(Object)]
#[oai(deny_unknown_fields)]
pub(super) struct Reason {
    /// Needed where money is touched; 500 characters at most
    pub reason: Option<String>,
}

/// New arguments
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct Edit {
    /// All of them, as the kind wants them
    args: Value,
    /// Needed where money is touched
    reason: Option<String>,
}

/// What a job is after an action
#[derive(Object)]
struct NewState {
    /// Its state, or `deleted`
    state: String,
}

/// What to do
#[derive(Enum, Clone, Copy)]
#[oai(rename_all = "lowercase")]
enum Verb {
    Retry,
    Run,
    Cancel,
    Delete,
}

impl Verb {
    fn action(self) -> JobAction {
        match self {
            Self::Retry => JobAction::Retry,
            Self::Run => JobAction::RunNow,
            Self::Cancel => JobAction::Cancel,
            Self::Delete => JobAction::Delete,
        }
    }
}

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

/// A queue
#[derive(Object)]
struct QueueView {
    name: String,
    paused: bool,
    /// Up to 10,000
    due: i64,
    /// Up to 10,000
    running: i64,
    oldest_due_seconds: f64,
    publish_lag_seconds: f64,
}

/// Jobs of a kind in a state
#[derive(Object)]
struct CountView {
    kind: String,
    state: String,
    /// Up to 10,000
    count: i64,
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
}

/// A worker
#[derive(Object)]
struct WorkerView {
    name: String,
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

/// A line of the cron table
#[derive(Object)]
struct ScheduleView {
    name: String,
    expression: String,
    next_tick: DateTime<Utc>,
    last_tick: Option<DateTime<Utc>>,
}

/// An entry of the audit log
#[derive(Object)]
struct AuditView {
    seq: i64,
    at: DateTime<Utc>,
    actor: String,
    action: String,
    target: String,
    before: Option<Value>,
    after: Option<Value>,
    reason: Option<String>,
    hash: String,
}

/// Whether the audit log is as it was written
#[derive(Object)]
struct VerdictView {
    whole: bool,
    entries: Option<i64>,
    /// The first entry that is not as it was written, or is missing
    broken_at: Option<i64>,
}

/// Something that happened to a booking
#[derive(Object)]
struct MomentView {
    at: DateTime<Utc>,
    /// `booking`, `job`, `webhook`, `effect` or `ledger`
    source: String,
    title: String,
    detail: String,
    /// Whether it went wrong or was refused
    bad: bool,
    job_id: Option<Uuid>,
}

const DEFAULT_LIMIT: i64 = 50;

#[OpenApi]
impl OpsApi {
    /// Sign in
    #[oai(path = "/session", method = "post", operation_id = "ops_sign_in")]
    async fn sign_in(&self, client: Client, body: JsonBody<Credentials>) -> ApiResult<Json<Session>> {
        let code = body.code.as_deref().unwrap_or_default();
        let signed = access::sign_in(&self.0, &client, &body.email, &body.password, code).await?;
        let (operator, opened) = signed.ok_or_else(|| {
            ApiError::unauthorized(
                "invalid_credentials",
                "The e-mail address, the password or the code is not right.",
                None,
            )
        })?;
        Ok(Json(Session {
            token: opened.token,
            role: operator.role.name().to_owned(),
        }))
    }

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
        let counts = overview::counts(&mut *pool.acquire().await?).await?;
        Ok(Json(OverviewView {
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
        /// An id of a job, booking, payment, user or event; a JSON object that the arguments contain; or text of an error
        q: Query<Option<String>>,
        /// `next_before` of the page before
        before: Query<Option<Uuid>>,
        /// 1 to 200, 50 if it is not given
        #[oai(validator(minimum(value = "1"), maximum(value = "200")))]
        limit: Query<Option<i64>>,
    ) -> ApiResult<Json<JobPage>> {
        let states = state.0.iter().flat_map(|states| states.split(','));
        let filter = JobFilter {
            states: states.filter(|state| !state.is_empty()).map(str::to_owned).collect(),
            kind: kind.0,
            queue: queue.0,
            from: from.0,
            to: to.0,
            attempts: attempts.0,
            q: q.0,
        };
        let limit = limit.0.unwrap_or(DEFAULT_LIMIT);
        let rows = list::list(self.0.db.pool(), &filter, before.0, limit).await?;
        let full = i64::try_from(rows.len()).is_ok_and(|rows| rows == limit);
        Ok(Json(JobPage {
            next_before: rows.last().filter(|_| full).map(|last| last.id),
            items: rows.into_iter().map(JobView::from).collect(),
        }))
    }

    /// One job, with its attempts, its effects, and what a retry would do
    #[oai(path = "/jobs/:job_id", method = "get", operation_id = "ops_get_job")]
    async fn job(&self, _auth: OpsAuth, job_id: Path<Uuid>) -> ApiResult<Json<JobDetailView>> {
        let detail = inspect::inspect(self.0.db.pool(), job_id.0)
            .await?
            .ok_or_else(|| ApiError::not_found("job"))?;
        let effects = detail.effects.iter();
        let effects = effects.map(|effect| EffectView::of(effect, &detail)).collect();
        let job = detail.job;
        Ok(Json(JobDetailView {
            args: kinds::masked(&job.kind, &job.args),
            trace_id: job.trace_id().map(str::to_owned),
            id: job.id,
            kind: job.kind,
            queue: job.queue,
            state: job.state,
            attempt: job.attempt,
            max_attempts: job.max_attempts,
            last_error: job.last_error,
            booking_id: detail.booking_id,
            parent_id: job.parent_id,
            batch: detail.batch.map(BatchView::from),
            follows: detail.follows.map(BatchView::from),
            children: detail
                .children
                .into_iter()
                .map(|child| RelativeView {
                    id: child.id,
                    kind: child.kind,
                    state: child.state,
                })
                .collect(),
            outlook: detail
                .outlook
                .into_iter()
                .map(|line| OutlookView {
                    tone: line.tone.name().to_owned(),
                    text: line.text,
                })
                .collect(),
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
        auth.require(Role::Admin)?;
        let mut tx = self.0.db.begin().await?;
        actions::edit_args(&mut tx, job_id.0, &body.args, auth.by(body.reason.as_deref())).await?;
        tx.commit().await?;
        self.job(auth, job_id).await
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

    /// The queues
    #[oai(path = "/queues", method = "get", operation_id = "ops_list_queues")]
    async fn queues(&self, _auth: OpsAuth) -> ApiResult<Json<Vec<QueueView>>> {
        Ok(Json(queue_views(overview::queues(self.0.db.pool()).await?)))
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

    /// The workers heard of within a day
    #[oai(path = "/workers", method = "get", operation_id = "ops_list_workers")]
    async fn workers(&self, _auth: OpsAuth) -> ApiResult<Json<Vec<WorkerView>>> {
        let workers = overview::workers(self.0.db.pool()).await?;
        let views = workers.into_iter().map(|worker| WorkerView {
            alive: worker.is_alive(),
            quiet: worker.quiet,
            stop: worker.stop,
            name: worker.name,
            version: worker.version,
            queues: worker.queues,
            concurrency: worker.concurrency,
            running: worker.running,
            started_at: worker.started_at,
            seen_at: worker.seen_at,
        });
        Ok(Json(views.collect()))
    }

    /// The cron table
    #[oai(path = "/schedules", method = "get", operation_id = "ops_list_schedules")]
    async fn schedules(&self, _auth: OpsAuth) -> ApiResult<Json<Vec<ScheduleView>>> {
        let schedules = overview::schedules(self.0.db.pool()).await?;
        let views = schedules.into_iter().map(|line| ScheduleView {
            name: line.name,
            expression: line.expression,
            next_tick: line.next_tick,
            last_tick: line.last_tick,
        });
        Ok(Json(views.collect()))
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

    /// What happened to a booking: transitions, jobs, webhooks, effects, money
    #[oai(path = "/bookings/:booking_id/flight", method = "get", operation_id = "ops_flight")]
    async fn flight(&self, _auth: OpsAuth, booking_id: Path<Uuid>) -> ApiResult<Json<Vec<MomentView>>> {
        let flight = recorder::flight(self.0.db.pool(), booking_id.0)
            .await?
            .ok_or_else(|| ApiError::not_found("booking"))?;
        let views = flight.moments.into_iter().map(|moment| MomentView {
            at: moment.at,
            source: moment.source.name().to_owned(),
            title: moment.title,
            detail: moment.detail,
            bad: moment.bad,
            job_id: moment.job_id,
        });
        Ok(Json(views.collect()))
    }

    /// What operators did, the newest first
    #[oai(path = "/audit", method = "get", operation_id = "ops_audit")]
    async fn audit(
        &self,
        _auth: OpsAuth,
        /// Entries before this one
        before: Query<Option<i64>>,
        /// 1 to 200, 50 if it is not given
        #[oai(validator(minimum(value = "1"), maximum(value = "200")))]
        limit: Query<Option<i64>>,
    ) -> ApiResult<Json<Vec<AuditView>>> {
        let entries = audit::list(self.0.db.pool(), before.0, limit.0.unwrap_or(DEFAULT_LIMIT)).await?;
        let views = entries.into_iter().map(|entry| AuditView {
            seq: entry.seq,
            at: entry.at,
            actor: entry.actor,
            action: entry.action,
            target: entry.target,
            before: entry.before,
            after: entry.after,
            reason: entry.reason,
            hash: entry.hash,
        });
        Ok(Json(views.collect()))
    }

    /// Whether the audit log is as it was written
    #[oai(path = "/audit/verify", method = "get", operation_id = "ops_verify_audit")]
    async fn verify(&self, _auth: OpsAuth) -> ApiResult<Json<VerdictView>> {
        Ok(Json(match audit::verify(self.0.db.pool(), None).await? {
            Verdict::Whole { entries, .. } => VerdictView {
                whole: true,
                entries: Some(entries),
                broken_at: None,
            },
            Verdict::Broken { seq } => VerdictView {
                whole: false,
                entries: None,
                broken_at: Some(seq),
            },
        }))
    }
}

impl OpsApi {
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
        Ok(Json(queue_views(overview::queues(self.0.db.pool()).await?)))
    }

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

fn queue_views(queues: Vec<overview::QueueState>) -> Vec<QueueView> {
    queues
        .into_iter()
        .map(|queue| QueueView {
            name: queue.name,
            paused: queue.paused,
            due: queue.due,
            running: queue.running,
            oldest_due_seconds: queue.oldest_due_seconds,
            publish_lag_seconds: queue.publish_lag_seconds,
        })
        .collect()
}

impl From<Fault> for ApiError {
    fn from(fault: Fault) -> Self {
        let detail = fault.to_string();
        match fault {
            Fault::SignIn => Self::unauthorized("unauthorized", "POST /ops/api/session gives a token.", None),
            Fault::Forbidden(_) => Self::forbidden(detail),
            Fault::NotFound(what) => Self::not_found(what),
            Fault::Bad(_) => Self::unprocessable("validation_failed", detail),
            Fault::Conflict(_) => Self::conflict("wrong_state", detail),
            Fault::TooMany(seconds) => Self::too_many_requests(detail, seconds),
            Fault::Unavailable => Self::unavailable("database_unavailable", detail, 5),
            Fault::Internal => Self::internal(detail),
        }
    }
}

impl From<ActionError> for ApiError {
    fn from(error: ActionError) -> Self {
        let field = match &error {
            ActionError::ReasonNeeded => "reason",
            ActionError::InvalidArgs { .. } | ActionError::UnknownKind(_) => "args",
            ActionError::InvalidSetting { field, .. } => field,
            ActionError::Database(_)
            | ActionError::NotFound(_)
            | ActionError::WrongState { .. }
            | ActionError::NothingToAsk
            | ActionError::Duplicate => {
                return Fault::from(error).into();
            }
        };
        Self::invalid(vec![FieldError::new(field, error.to_string())])
    }
}

impl From<ListError> for ApiError {
    fn from(error: ListError) -> Self {
        match error {
            ListError::Filter(error) => Self::invalid(vec![FieldError::new(error.field, error.message)]),
            ListError::Database(error) => error.into(),
        }
    }
}

impl From<BulkError> for ApiError {
    fn from(error: BulkError) -> Self {
        match error {
            BulkError::List(error) => error.into(),
            BulkError::Action(error) => error.into(),
            BulkError::Unsupported(_) => Self::invalid(vec![FieldError::new("action", error.to_string())]),
            BulkError::LeaseLost => Self::internal(error),
            BulkError::Database(error) => error.into(),
        }
    }
}
