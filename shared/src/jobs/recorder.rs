//! The flight recorder of a booking: what was asked and refused, which jobs ran and which of their attempts failed, what
//! operators did about them, what Stripe told, which mails went out and how the money moved, on one line of time.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::PgPool;
use sqlx::types::Json;
use uuid::Uuid;

use super::inspections::AtStripe;
use super::list::{JobFilter, JobRow, ListError, list};
use crate::money::{Currency, Money};

/// The newest of each kind of line that are shown; a line says so where older ones are not.
const MOST: usize = 200;
/// One more than are shown: whether there are older ones.
const ASKED: i64 = 201;

/// Where an entry comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The booking's own timeline.
    Booking,
    /// The job table.
    Job,
    /// A webhook.
    Stripe,
    /// An effect: a call to Stripe, a mail; and what Stripe said when an operator asked about one.
    Effect,
    /// The ledger.
    Money,
    /// The audit log of operators.
    Operator,
}

impl Source {
    /// On pages and in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Booking => "booking",
            Self::Job => "job",
            Self::Stripe => "webhook",
            Self::Effect => "effect",
            Self::Money => "ledger",
            Self::Operator => "operator",
        }
    }
}

/// Something that happened.
#[derive(Clone, Debug)]
pub struct Moment {
    /// When.
    pub at: DateTime<Utc>,
    /// Who tells it.
    pub source: Source,
    /// What.
    pub title: String,
    /// More of it.
    pub detail: String,
    /// Whether it went wrong or was refused.
    pub bad: bool,
    /// The job, if it was one.
    pub job_id: Option<Uuid>,
}

/// A booking with its moments, the oldest first.
#[derive(Clone, Debug)]
pub struct Flight {
    /// The booking.
    pub booking_id: Uuid,
    /// Its state.
    pub state: String,
    /// The stay, as `2030-06-01 to 2030-06-04`.
    pub stay: String,
    /// What the guest pays.
    pub total: Money,
    /// Everything.
    pub moments: Vec<Moment>,
}

/// The recorder of a booking; none if there is no such booking.
///
/// # Errors
/// Postgres could not be reached.
pub async fn flight(pool: &PgPool, booking_id: Uuid) -> Result<Option<Flight>, ListError> {
    let Some(booking) = sqlx::query!(
        r#"SELECT state, total_minor, currency AS "currency: Currency", lower(stay)::text || ' to ' || upper(stay)::text AS "stay!"
           FROM bookings WHERE id = $1"#,
        booking_id
    )
    .fetch_optional(pool)
    .await?
    else {
        return Ok(None);
    };
    let mut moments = newest("transitions", transitions(pool, booking_id).await?);
    moments.extend(jobs(pool, booking_id).await?);
    moments.extend(outside(pool, booking_id).await?);
    moments.sort_by_key(|moment| moment.at);
    Ok(Some(Flight {
        booking_id,
        state: booking.state,
        stay: booking.stay,
        total: Money::new(booking.total_minor, booking.currency),
        moments,
    }))
}

/// The newest of these, which come in the order of [`ASKED`], the newest first; where there are more, with a line before
/// the oldest one that says so.
fn newest(what: &str, mut moments: Vec<Moment>) -> Vec<Moment> {
    let more = moments.len() > MOST;
    moments.truncate(MOST);
    moments.reverse();
    if let Some(oldest) = moments.first().filter(|_| more) {
        let cut = Moment {
            at: oldest.at,
            source: oldest.source,
            title: format!("older {what} are not shown"),
            detail: format!("these are the newest {MOST}"),
            bad: false,
            job_id: None,
        };
        moments.insert(0, cut);
    }
    moments
}

async fn transitions(pool: &PgPool, booking_id: Uuid) -> Result<Vec<Moment>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT at, event, actor, from_state, to_state, accepted, reason FROM booking_events WHERE booking_id = $1 ORDER BY id DESC LIMIT $2",
        booking_id,
        ASKED
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let moved = match (&row.from_state, &row.to_state) {
                (Some(from), Some(to)) => format!("{from} → {to}"),
                (None, Some(to)) => format!("→ {to}"),
                _ => String::new(),
            };
            let parts = [Some(format!("by {}", row.actor)), Some(moved), row.reason];
            Moment {
                at: row.at,
                source: Source::Booking,
                title: if row.accepted {
                    row.event
                } else {
                    format!("{} refused", row.event)
                },
                detail: joined(parts),
                bad: !row.accepted,
                job_id: None,
            }
        })
        .collect())
}

async fn jobs(pool: &PgPool, booking_id: Uuid) -> Result<Vec<Moment>, ListError> {
    let filter = JobFilter {
        q: Some(booking_id.to_string()),
        ..JobFilter::default()
    };
    let rows = list(pool, &filter, None, ASKED).await?;
    let by_id: HashMap<Uuid, &JobRow> = rows.iter().map(|row| (row.id, row)).collect();
    let mut moments = newest("failed attempts", failures(pool, &by_id).await?);
    moments.extend(newest("actions of operators", actions(pool, &by_id).await?));
    let ends = rows.iter().map(|row| Moment {
        at: row.finished_at.or(row.started_at).unwrap_or(row.created_at),
        source: Source::Job,
        title: format!("{} {}", row.kind, row.state),
        detail: joined([Some(format!("attempt {}", row.attempt)), row.last_error.clone()]),
        bad: matches!(row.state.as_str(), "dead" | "quarantined" | "retrying"),
        job_id: Some(row.id),
    });
    moments.extend(newest("jobs", ends.collect()));
    Ok(moments)
}

/// The attempts that failed, without the one that a dead job ended with: the job's own line tells it.
async fn failures(pool: &PgPool, jobs: &HashMap<Uuid, &JobRow>) -> Result<Vec<Moment>, sqlx::Error> {
    let ids: Vec<Uuid> = jobs.keys().copied().collect();
    let rows = sqlx::query!(
        r#"SELECT job AS "job!", failed.attempt, failed.worker, failed.ended_at, failed.outcome, failed.error
           FROM unnest($1::uuid[]) AS job JOIN jobs ON jobs.id = job CROSS JOIN LATERAL (
               SELECT attempt, worker, ended_at, outcome, error FROM job_attempts
               WHERE job_id = job AND outcome IN ('retry', 'failed', 'lost') AND ended_at IS DISTINCT FROM jobs.finished_at
               ORDER BY fence DESC LIMIT $2) AS failed
           ORDER BY failed.ended_at DESC LIMIT $2"#,
        &ids,
        ASKED
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Moment {
            at: row.ended_at,
            source: Source::Job,
            title: match jobs.get(&row.job) {
                Some(job) => format!("{} attempt {} {}", job.kind, row.attempt, failed(&row.outcome)),
                None => format!("attempt {} {}", row.attempt, failed(&row.outcome)),
            },
            detail: joined([row.error, Some(format!("on {}", row.worker))]),
            bad: true,
            job_id: Some(row.job),
        })
        .collect())
}

/// How an attempt failed, in words.
fn failed(outcome: &str) -> &str {
    match outcome {
        "retry" => "failed, to be tried again",
        "lost" => "was lost with its worker",
        _ => "failed",
    }
}

/// What operators did to the jobs.
async fn actions(pool: &PgPool, jobs: &HashMap<Uuid, &JobRow>) -> Result<Vec<Moment>, sqlx::Error> {
    let ids: Vec<Uuid> = jobs.keys().copied().collect();
    let rows = sqlx::query!(
        r#"SELECT job AS "job!", entry.seq, entry.at, entry.actor, entry.action, entry.reason
           FROM unnest($1::uuid[]) AS job CROSS JOIN LATERAL (
               SELECT seq, at, actor, action, reason FROM operator_audit WHERE job_id = job ORDER BY seq DESC LIMIT $2) AS entry
           ORDER BY entry.seq DESC LIMIT $2"#,
        &ids,
        ASKED
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Moment {
            at: row.at,
            source: Source::Operator,
            title: row.action,
            detail: joined([
                jobs.get(&row.job).map(|job| job.kind.clone()),
                Some(format!("by {}", row.actor)),
                row.reason.map(|reason| format!("because “{reason}”")),
            ]),
            bad: false,
            job_id: Some(row.job),
        })
        .collect())
}

async fn outside(pool: &PgPool, booking_id: Uuid) -> Result<Vec<Moment>, sqlx::Error> {
    let payments = sqlx::query!(
        "SELECT id, stripe_payment_intent_id FROM payments WHERE booking_id = $1 ORDER BY number DESC LIMIT $2",
        booking_id,
        ASKED
    )
    .fetch_all(pool)
    .await?;
    let mut entities: Vec<Uuid> = payments.iter().map(|row| row.id).collect();
    let refunds = sqlx::query!(
        "SELECT id, stripe_refund_id FROM refunds WHERE payment_id = ANY($1) ORDER BY id DESC LIMIT $2",
        &entities,
        ASKED
    )
    .fetch_all(pool)
    .await?;
    entities.push(booking_id);
    entities.extend(refunds.iter().map(|row| row.id));
    // A mail about unread messages is named after one of them, perhaps of another booking.
    let digests = sqlx::query_scalar!(
        r#"SELECT DISTINCT digest_id AS "id!" FROM (
               SELECT digest_id FROM messages WHERE booking_id = $1 AND digest_id IS NOT NULL ORDER BY id DESC LIMIT $2) AS newest"#,
        booking_id,
        ASKED
    )
    .fetch_all(pool)
    .await?;
    entities.extend(digests);
    // A mail about a review that was hidden or shown again is named after that decision.
    let decisions = sqlx::query_scalar!(
        "SELECT review_decisions.id FROM reviews JOIN review_decisions ON review_id = reviews.id
         WHERE booking_id = $1 AND deleted_at IS NULL ORDER BY review_decisions.id DESC LIMIT $2",
        booking_id,
        ASKED
    )
    .fetch_all(pool)
    .await?;
    entities.extend(decisions);
    // What becomes of a refund is told under its own id.
    let objects: Vec<String> = payments
        .into_iter()
        .filter_map(|row| row.stripe_payment_intent_id)
        .chain(refunds.into_iter().filter_map(|row| row.stripe_refund_id))
        .collect();

    let mut moments = Vec::new();
    let events = sqlx::query!(
        "SELECT type, object_id, received_at, handled_at FROM stripe_events WHERE object_id = ANY($1) ORDER BY created_at DESC LIMIT $2",
        &objects,
        ASKED
    )
    .fetch_all(pool)
    .await?;
    let events = events.into_iter().map(|row| Moment {
        at: row.received_at,
        source: Source::Stripe,
        bad: row.r#type.ends_with("failed"),
        title: row.r#type,
        detail: joined([
            Some(row.object_id),
            row.handled_at.is_none().then(|| "not handled yet".to_owned()),
        ]),
        job_id: None,
    });
    moments.extend(newest("webhooks", events.collect()));
    let effects = sqlx::query!(
        "SELECT key, job_id, state, external_id, error, updated_at FROM effects WHERE entity_id = ANY($1) ORDER BY first_sent_at DESC LIMIT $2",
        &entities,
        ASKED
    )
    .fetch_all(pool)
    .await?;
    let effects = effects.into_iter().map(|row| Moment {
        at: row.updated_at,
        source: Source::Effect,
        title: format!("{} {}", row.key.split(':').next().unwrap_or_default(), row.state),
        detail: joined([Some(row.key), row.external_id, row.error]),
        bad: matches!(row.state.as_str(), "unknown" | "failed"),
        job_id: Some(row.job_id),
    });
    moments.extend(newest("effects", effects.collect()));
    moments.extend(newest("questions to Stripe", inspections(pool, &entities).await?));
    let ledger = sqlx::query!(
        r#"SELECT t.created_at, t.key, e.account, e.amount_minor, e.currency AS "currency: Currency"
           FROM ledger_transactions t JOIN ledger_entries e ON e.transaction_id = t.id WHERE t.booking_id = $1
           ORDER BY t.created_at DESC, e.account DESC LIMIT $2"#,
        booking_id,
        ASKED
    )
    .fetch_all(pool)
    .await?;
    let ledger = ledger.into_iter().map(|row| Moment {
        at: row.created_at,
        source: Source::Money,
        title: format!(
            "{} {}",
            row.account,
            Money::new(row.amount_minor, row.currency).format("en")
        ),
        detail: row.key,
        bad: false,
        job_id: None,
    });
    moments.extend(newest("entries of the ledger", ledger.collect()));
    Ok(moments)
}

/// What operators asked Stripe about the effects on these entities.
async fn inspections(pool: &PgPool, entities: &[Uuid]) -> Result<Vec<Moment>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT effect_key, asked_at, asked_by, answered_at, facts AS "facts: Json<AtStripe>", effect_inspections.error, job_id
           FROM effect_inspections JOIN effects ON effects.key = effect_key
           WHERE entity_id = ANY($1) ORDER BY asked_at DESC LIMIT $2"#,
        entities,
        ASKED
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Moment {
            at: row.answered_at.unwrap_or(row.asked_at),
            source: Source::Effect,
            title: if row.answered_at.is_some() {
                "Stripe was asked".to_owned()
            } else {
                "Stripe is being asked".to_owned()
            },
            detail: joined([
                row.facts.map(|facts| format!("it {}", facts.0.words())),
                row.error.clone(),
                Some(row.effect_key),
                Some(format!("by {}", row.asked_by)),
            ]),
            bad: row.error.is_some(),
            job_id: Some(row.job_id),
        })
        .collect())
}

fn joined<const N: usize>(parts: [Option<String>; N]) -> String {
    let parts: Vec<String> = parts.into_iter().flatten().filter(|part| !part.is_empty()).collect();
    parts.join(" · ")
}
