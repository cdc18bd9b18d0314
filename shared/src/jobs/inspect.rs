//! One job as the dashboard shows it: its attempts, its effects on the world, and the booking it belongs to; and of many
//! what running them again would do.

mod subject;

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgPool;
use uuid::Uuid;

use self::subject::Subject;
use super::actions::editable;
use super::batches::{self, Batch};
use super::inspections::{self, Inspection, is_at_stripe};
use super::kinds;
use super::list::JobRow;
use super::outlook::{Facts, Outlook, outlook};

/// The newest attempts that are shown.
const MOST_ATTEMPTS: i64 = 50;
/// The newest children that are shown.
const MOST_CHILDREN: i64 = 50;

/// Everything there is to know of a job.
#[derive(Clone, Debug)]
pub struct JobDetail {
    /// The job.
    pub job: Job,
    /// The newest first; 50 at most.
    pub attempts: Vec<Attempt>,
    /// How many there are.
    pub attempts_total: i64,
    /// The oldest first.
    pub effects: Vec<Effect>,
    /// What Stripe was asked about them, in no order.
    pub inspections: Vec<Inspection>,
    /// The booking it works for, if it is one's.
    pub booking_id: Option<Uuid>,
    /// What running it again would do.
    pub outlook: Vec<Outlook>,
    /// The job that enqueued it, if that is still kept.
    pub parent: Option<Relative>,
    /// Jobs that it enqueued, the newest first; 50 at most.
    pub children: Vec<Relative>,
    /// How many there are.
    pub children_total: i64,
    /// The batch that it is one of.
    pub batch: Option<Batch>,
    /// The batch that it comes after.
    pub follows: Option<Batch>,
}

/// A job beside another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relative {
    /// The job.
    pub id: Uuid,
    /// Its kind.
    pub kind: String,
    /// Its state.
    pub state: String,
}

/// The row.
#[derive(Clone, Debug)]
pub struct Job {
    /// The job.
    pub id: Uuid,
    /// Its kind.
    pub kind: String,
    /// Its queue.
    pub queue: String,
    /// Lower runs first.
    pub priority: i16,
    /// Not masked.
    pub args: Value,
    /// While it has not ended, no other job has this key.
    pub dedupe_key: Option<String>,
    /// Its state.
    pub state: String,
    /// When it is due, or became so.
    pub run_at: DateTime<Utc>,
    /// Attempts begun.
    pub attempt: i32,
    /// Attempts there are.
    pub max_attempts: i32,
    /// Workers that it took down.
    pub crash_count: i32,
    /// The worker that runs it, or ran it last.
    pub lease_owner: Option<String>,
    /// Until when that worker has it.
    pub lease_until: Option<DateTime<Utc>>,
    /// When its id was last handed to Redis.
    pub published_at: Option<DateTime<Utc>>,
    /// In hundredths.
    pub progress: Option<i16>,
    /// An operator wants it stopped.
    pub cancel_requested: bool,
    /// W3C `traceparent` of what enqueued it.
    pub trace_context: Option<String>,
    /// The user behind what enqueued it.
    pub actor: Option<String>,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// When it was enqueued.
    pub created_at: DateTime<Utc>,
    /// When the last attempt began.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// The batch that it is one of.
    pub batch_id: Option<Uuid>,
    /// The job that enqueued it.
    pub parent_id: Option<Uuid>,
}

impl Job {
    /// The trace of the request that enqueued it: 32 hex digits.
    #[must_use]
    pub fn trace_id(&self) -> Option<&str> {
        self.trace_context.as_deref()?.get(3..35)
    }

    /// Whether its arguments may be changed as it is now.
    #[must_use]
    pub fn is_editable(&self) -> bool {
        editable(&self.state) && kinds::kind(&self.kind).is_some()
    }
}

impl JobDetail {
    /// Whether there is something to ask Stripe about.
    #[must_use]
    pub fn can_be_asked_about(&self) -> bool {
        self.effects.iter().any(|effect| is_at_stripe(&effect.key))
    }

    /// The newest question about an effect.
    #[must_use]
    pub fn inspection_of(&self, effect: &Effect) -> Option<&Inspection> {
        self.inspections
            .iter()
            .find(|inspection| inspection.effect_key == effect.key)
    }
}

/// An attempt that ended.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// From 1.
    pub attempt: i32,
    /// Who ran it.
    pub worker: String,
    /// Its beginning.
    pub started_at: DateTime<Utc>,
    /// Its end.
    pub ended_at: DateTime<Utc>,
    /// `succeeded`, `retry`, `interrupted`, `snoozed`, `failed`, `lost`, `cancelled` or `handed_back`.
    pub outcome: String,
    /// What went wrong.
    pub error: Option<String>,
}

/// Something that the job did, or may have done, to the world.
#[derive(Clone, Debug)]
pub struct Effect {
    /// `capture:{payment}`.
    pub key: String,
    /// `intent`, `done`, `unknown` or `failed`.
    pub state: String,
    /// The other side's id for it.
    pub external_id: Option<String>,
    /// What went wrong.
    pub error: Option<String>,
    /// When the call may first have been made.
    pub first_sent_at: DateTime<Utc>,
    /// The last change.
    pub updated_at: DateTime<Utc>,
}

/// A job and what belongs to it; none if there is no such job.
///
/// # Errors
/// Postgres could not be reached.
pub async fn inspect(pool: &PgPool, id: Uuid) -> Result<Option<JobDetail>, sqlx::Error> {
    let Some(job) = sqlx::query_as!(
        Job,
        "SELECT id, kind, queue, priority, args, dedupe_key, state, run_at, attempt, max_attempts, crash_count, lease_owner,
             lease_until, published_at, progress, cancel_requested, trace_context, actor, last_error, created_at, started_at, finished_at,
             batch_id, parent_id
         FROM jobs WHERE id = $1",
        id
    )
    .fetch_optional(pool)
    .await?
    else {
        return Ok(None);
    };
    let attempts = sqlx::query_as!(
        Attempt,
        "SELECT attempt, worker, started_at, ended_at, outcome, error FROM job_attempts WHERE job_id = $1 ORDER BY fence DESC LIMIT $2",
        id,
        MOST_ATTEMPTS
    )
    .fetch_all(pool)
    .await?;
    let subjects = subject::of(pool, &[&job.args]).await?;
    let subject = subjects.into_iter().next().unwrap_or_default();
    let about = [(job.id, job.kind.as_str(), &job.args, &subject)];
    let effects = subject::effects(pool, &about).await?.pop().unwrap_or_default();
    let keys: Vec<String> = effects.iter().map(|effect| effect.key.clone()).collect();
    let inspections = inspections::of(pool, &keys).await?;
    let last_outcome = attempts.first().map(|attempt| attempt.outcome.as_str());
    let outlook = subject.outlook(&job.kind, &job.state, last_outcome, &effects, &inspections);
    let batch = match job.batch_id {
        Some(id) => batches::find(pool, id).await?,
        None => None,
    };
    let follows = match batches::before(pool, job.id).await? {
        Some(id) => batches::find(pool, id).await?,
        None => None,
    };
    let parent = match job.parent_id {
        Some(id) => relative(pool, id).await?,
        None => None,
    };
    let attempts_total = match shown(attempts.len(), MOST_ATTEMPTS) {
        Some(all) => all,
        None => count_attempts(pool, id).await?,
    };
    let children = children(pool, id).await?;
    let children_total = match shown(children.len(), MOST_CHILDREN) {
        Some(all) => all,
        None => count_children(pool, id).await?,
    };
    Ok(Some(JobDetail {
        attempts_total,
        children,
        children_total,
        parent,
        batch,
        follows,
        job,
        attempts,
        effects,
        inspections,
        booking_id: subject.booking_id,
        outlook,
    }))
}

/// What running each of these again would do, in their order. As many statements as for one.
///
/// # Errors
/// Postgres could not be reached.
pub async fn outlooks(pool: &PgPool, jobs: &[JobRow]) -> Result<Vec<Vec<Outlook>>, sqlx::Error> {
    let args: Vec<&Value> = jobs.iter().map(|job| &job.args).collect();
    let subjects = subject::of(pool, &args).await?;
    let about: Vec<_> = jobs
        .iter()
        .zip(&subjects)
        .map(|(job, subject)| (job.id, job.kind.as_str(), &job.args, subject))
        .collect();
    let effects = subject::effects(pool, &about).await?;
    let keys: Vec<String> = effects.iter().flatten().map(|effect| effect.key.clone()).collect();
    let inspections = inspections::of(pool, &keys).await?;
    let ids: Vec<Uuid> = jobs.iter().map(|job| job.id).collect();
    let outcomes: HashMap<Uuid, String> = sqlx::query!(
        r#"SELECT job AS "job!", newest.outcome FROM unnest($1::uuid[]) AS job
           CROSS JOIN LATERAL (SELECT outcome FROM job_attempts WHERE job_id = job ORDER BY fence DESC LIMIT 1) AS newest"#,
        &ids
    )
    .fetch_all(pool)
    .await?
    .into_iter()
    .map(|row| (row.job, row.outcome))
    .collect();
    let each = jobs.iter().zip(&subjects).zip(&effects);
    Ok(each
        .map(|((job, subject), effects)| {
            let last_outcome = outcomes.get(&job.id).map(String::as_str);
            subject.outlook(&job.kind, &job.state, last_outcome, effects, &inspections)
        })
        .collect())
}

impl Subject {
    fn outlook(
        &self,
        kind: &str,
        state: &str,
        last_outcome: Option<&str>,
        effects: &[Effect],
        inspections: &[Inspection],
    ) -> Vec<Outlook> {
        outlook(&Facts {
            kind,
            state,
            last_outcome,
            effects,
            inspections,
            payment: self.payment.as_ref().map(|payment| payment.facts),
            refund: self.refund.as_ref().map(|refund| refund.facts),
        })
    }
}

async fn relative(pool: &PgPool, id: Uuid) -> Result<Option<Relative>, sqlx::Error> {
    sqlx::query_as!(Relative, "SELECT id, kind, state FROM jobs WHERE id = $1", id)
        .fetch_optional(pool)
        .await
}

async fn children(pool: &PgPool, id: Uuid) -> Result<Vec<Relative>, sqlx::Error> {
    sqlx::query_as!(
        Relative,
        "SELECT id, kind, state FROM jobs WHERE parent_id = $1 ORDER BY id DESC LIMIT $2",
        id,
        MOST_CHILDREN
    )
    .fetch_all(pool)
    .await
}

/// How many there are, if fewer came than were asked for.
fn shown(came: usize, most: i64) -> Option<i64> {
    i64::try_from(came).ok().filter(|came| *came < most)
}

async fn count_attempts(pool: &PgPool, id: Uuid) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM job_attempts WHERE job_id = $1"#, id)
        .fetch_one(pool)
        .await
}

async fn count_children(pool: &PgPool, id: Uuid) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM jobs WHERE parent_id = $1"#, id)
        .fetch_one(pool)
        .await
}
