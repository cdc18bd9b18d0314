//! One job as the dashboard shows it: its attempts, its effects on the world, and the booking it belongs to.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgPool;
use uuid::Uuid;

use super::batches::{self, Batch};
use super::inspections::{self, Inspection, is_at_stripe};
use super::outlook::{Facts, Outlook, PaymentFacts, RefundFacts, outlook};
use crate::money::{Currency, Money};

/// The newest attempts that are shown.
const MOST_ATTEMPTS: i64 = 50;
/// Children that are shown.
const MOST_CHILDREN: i64 = 50;

/// Everything there is to know of a job.
#[derive(Clone, Debug)]
pub struct JobDetail {
    /// The job.
    pub job: Job,
    /// The newest first.
    pub attempts: Vec<Attempt>,
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
    /// Jobs that it enqueued, the first ones first; 50 at most.
    pub children: Vec<Relative>,
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
    /// `succeeded`, `retry`, `snoozed`, `failed`, `lost`, `cancelled` or `handed_back`.
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
    let subject = subject(pool, &job.args).await?;
    let effects = effects(pool, &job, &subject).await?;
    let keys: Vec<String> = effects.iter().map(|effect| effect.key.clone()).collect();
    let inspections = inspections::of(pool, &keys).await?;
    let outlook = outlook(&Facts {
        kind: &job.kind,
        state: &job.state,
        last_outcome: attempts.first().map(|attempt| attempt.outcome.as_str()),
        effects: &effects,
        inspections: &inspections,
        payment: subject.payment.as_ref().map(|payment| payment.facts),
        refund: subject.refund.as_ref().map(|refund| refund.facts),
    });
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
    Ok(Some(JobDetail {
        children: children(pool, job.id).await?,
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

async fn relative(pool: &PgPool, id: Uuid) -> Result<Option<Relative>, sqlx::Error> {
    sqlx::query_as!(Relative, "SELECT id, kind, state FROM jobs WHERE id = $1", id)
        .fetch_optional(pool)
        .await
}

async fn children(pool: &PgPool, id: Uuid) -> Result<Vec<Relative>, sqlx::Error> {
    sqlx::query_as!(
        Relative,
        "SELECT id, kind, state FROM jobs WHERE parent_id = $1 ORDER BY id LIMIT $2",
        id,
        MOST_CHILDREN
    )
    .fetch_all(pool)
    .await
}

/// What a job's arguments point at.
#[derive(Default)]
struct Subject {
    booking_id: Option<Uuid>,
    payment: Option<PaymentOf>,
    refund: Option<RefundOf>,
}

struct PaymentOf {
    id: Uuid,
    number: i32,
    facts: PaymentFacts,
}

struct RefundOf {
    id: Uuid,
    facts: RefundFacts,
}

async fn subject(pool: &PgPool, args: &Value) -> Result<Subject, sqlx::Error> {
    let id = |name: &str| args.get(name)?.as_str()?.parse::<Uuid>().ok();
    let mut subject = Subject {
        booking_id: id("booking_id"),
        ..Subject::default()
    };
    let mut payment_id = id("payment_id");
    if let Some(refund_id) = id("refund_id")
        && let Some(row) = sqlx::query!(
            r#"SELECT r.payment_id, r.amount_minor, r.state, p.currency AS "currency: Currency"
               FROM refunds r JOIN payments p ON p.id = r.payment_id WHERE r.id = $1"#,
            refund_id
        )
        .fetch_optional(pool)
        .await?
    {
        payment_id = Some(row.payment_id);
        subject.refund = Some(RefundOf {
            id: refund_id,
            facts: RefundFacts {
                amount: Money::new(row.amount_minor, row.currency),
                succeeded: row.state == "succeeded",
            },
        });
    }
    if let Some(event_id) = args.get("event_id").and_then(Value::as_str) {
        // An event is kept under its refund or else its PaymentIntent.
        payment_id = sqlx::query_scalar!(
            r#"SELECT p.id AS "id!" FROM stripe_events e JOIN payments p ON p.stripe_payment_intent_id = e.object_id WHERE e.id = $1
               UNION ALL SELECT r.payment_id FROM stripe_events e JOIN refunds r ON r.stripe_refund_id = e.object_id WHERE e.id = $1"#,
            event_id
        )
        .fetch_optional(pool)
        .await?;
    }
    if let Some(effect_key) = args.get("effect_key").and_then(Value::as_str) {
        payment_id = sqlx::query_scalar!("SELECT entity_id FROM effects WHERE key = $1", effect_key)
            .fetch_optional(pool)
            .await?
            .flatten();
    }
    // A mail is about a booking, a payment, a refund, a message or a user; ids of different tables never collide.
    payment_id = payment_id.or(id("subject_id"));
    if let Some(payment_id) = payment_id
        && let Some(row) = sqlx::query!(
            r#"SELECT booking_id, number, state, amount_minor, captured_minor, refunded_minor, currency AS "currency: Currency"
               FROM payments WHERE id = $1"#,
            payment_id
        )
        .fetch_optional(pool)
        .await?
    {
        subject.booking_id = Some(row.booking_id);
        subject.payment = Some(PaymentOf {
            id: payment_id,
            number: row.number,
            facts: PaymentFacts {
                state: payment_state(&row.state),
                amount: Money::new(row.amount_minor, row.currency),
                captured: Money::new(row.captured_minor, row.currency),
                refunded: Money::new(row.refunded_minor, row.currency),
            },
        });
    }
    if let (None, Some(subject_id)) = (subject.booking_id, id("subject_id").or(id("message_id"))) {
        subject.booking_id = sqlx::query_scalar!(
            r#"SELECT id AS "id!" FROM bookings WHERE id = $1 UNION ALL SELECT booking_id FROM messages WHERE id = $1
               UNION ALL SELECT p.booking_id FROM refunds r JOIN payments p ON p.id = r.payment_id WHERE r.id = $1"#,
            subject_id
        )
        .fetch_optional(pool)
        .await?;
    }
    Ok(subject)
}

/// The name that a check constraint allows, as one that lives as long as the program.
fn payment_state(name: &str) -> &'static str {
    [
        "pending",
        "requires_action",
        "authorized",
        "captured",
        "voided",
        "failed",
    ]
    .into_iter()
    .find(|known| *known == name)
    .unwrap_or("pending")
}

async fn effects(pool: &PgPool, job: &Job, subject: &Subject) -> Result<Vec<Effect>, sqlx::Error> {
    let mut keys = Vec::new();
    if let Some(payment) = &subject.payment {
        match job.kind.as_str() {
            "payment.authorize" => {
                if let Some(booking_id) = subject.booking_id {
                    keys.push(format!("authorize:{booking_id}:{}", payment.number));
                }
            }
            "payment.capture" => keys.push(format!("capture:{}", payment.id)),
            "payment.void" => keys.push(format!("void:{}", payment.id)),
            _ => {}
        }
    }
    if let Some(refund) = &subject.refund {
        keys.push(format!("refund:{}", refund.id));
    }
    let text = |name: &str| job.args.get(name).and_then(Value::as_str);
    keys.extend(text("effect_key").map(str::to_owned));
    if let (Some(mail), Some(subject_id)) = (text("mail"), text("subject_id")) {
        keys.push(format!("mail:{mail}:{subject_id}"));
    }
    sqlx::query_as!(
        Effect,
        r#"SELECT key AS "key!", state AS "state!", external_id, error, first_sent_at AS "first_sent_at!", updated_at AS "updated_at!" FROM (
               SELECT key, state, external_id, error, first_sent_at, updated_at FROM effects WHERE job_id = $1
               UNION SELECT key, state, external_id, error, first_sent_at, updated_at FROM effects WHERE key = ANY($2)) AS found
           ORDER BY first_sent_at, key LIMIT 50"#,
        job.id,
        &keys
    )
    .fetch_all(pool)
    .await
}
