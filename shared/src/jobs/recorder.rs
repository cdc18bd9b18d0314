//! The flight recorder of a booking: what was asked and refused, which jobs ran, what Stripe told, which mails went out
//! and how the money moved, on one line of time.

use chrono::{DateTime, Utc};
use sqlx::PgPool;
use sqlx::types::Json;
use uuid::Uuid;

use super::inspections::AtStripe;
use super::list::{JobFilter, ListError, list};
use crate::money::{Currency, Money};

/// More of one source are not shown.
const MOST: i64 = 200;

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
    let mut moments = transitions(pool, booking_id).await?;
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

async fn transitions(pool: &PgPool, booking_id: Uuid) -> Result<Vec<Moment>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT at, event, actor, from_state, to_state, accepted, reason FROM booking_events WHERE booking_id = $1 ORDER BY id LIMIT $2",
        booking_id,
        MOST
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
    let rows = list(pool, &filter, None, MOST).await?;
    Ok(rows
        .into_iter()
        .map(|row| Moment {
            at: row.finished_at.or(row.started_at).unwrap_or(row.created_at),
            source: Source::Job,
            title: format!("{} {}", row.kind, row.state),
            detail: joined([Some(format!("attempt {}", row.attempt)), row.last_error]),
            bad: matches!(row.state.as_str(), "dead" | "quarantined" | "retrying"),
            job_id: Some(row.id),
        })
        .collect())
}

async fn outside(pool: &PgPool, booking_id: Uuid) -> Result<Vec<Moment>, sqlx::Error> {
    let payments = sqlx::query!(
        "SELECT id, stripe_payment_intent_id FROM payments WHERE booking_id = $1 ORDER BY number LIMIT $2",
        booking_id,
        MOST
    )
    .fetch_all(pool)
    .await?;
    let mut entities: Vec<Uuid> = payments.iter().map(|row| row.id).collect();
    let refunds = sqlx::query!(
        "SELECT id, stripe_refund_id FROM refunds WHERE payment_id = ANY($1) ORDER BY id LIMIT $2",
        &entities,
        MOST
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
        MOST
    )
    .fetch_all(pool)
    .await?;
    entities.extend(digests);
    // What becomes of a refund is told under its own id.
    let objects: Vec<String> = payments
        .into_iter()
        .filter_map(|row| row.stripe_payment_intent_id)
        .chain(refunds.into_iter().filter_map(|row| row.stripe_refund_id))
        .collect();

    let mut moments = Vec::new();
    let events = sqlx::query!(
        "SELECT type, object_id, received_at, handled_at FROM stripe_events WHERE object_id = ANY($1) ORDER BY created_at LIMIT $2",
        &objects,
        MOST
    )
    .fetch_all(pool)
    .await?;
    moments.extend(events.into_iter().map(|row| Moment {
        at: row.received_at,
        source: Source::Stripe,
        bad: row.r#type.ends_with("failed"),
        title: row.r#type,
        detail: joined([
            Some(row.object_id),
            row.handled_at.is_none().then(|| "not handled yet".to_owned()),
        ]),
        job_id: None,
    }));
    let effects = sqlx::query!(
        "SELECT key, job_id, state, external_id, error, updated_at FROM effects WHERE entity_id = ANY($1) ORDER BY first_sent_at LIMIT $2",
        &entities,
        MOST
    )
    .fetch_all(pool)
    .await?;
    moments.extend(effects.into_iter().map(|row| Moment {
        at: row.updated_at,
        source: Source::Effect,
        title: format!("{} {}", row.key.split(':').next().unwrap_or_default(), row.state),
        detail: joined([Some(row.key), row.external_id, row.error]),
        bad: matches!(row.state.as_str(), "unknown" | "failed"),
        job_id: Some(row.job_id),
    }));
    moments.extend(inspections(pool, &entities).await?);
    let ledger = sqlx::query!(
        r#"SELECT t.created_at, t.key, e.account, e.amount_minor, e.currency AS "currency: Currency"
           FROM ledger_transactions t JOIN ledger_entries e ON e.transaction_id = t.id WHERE t.booking_id = $1
           ORDER BY t.created_at, e.account LIMIT $2"#,
        booking_id,
        MOST
    )
    .fetch_all(pool)
    .await?;
    moments.extend(ledger.into_iter().map(|row| Moment {
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
    }));
    Ok(moments)
}

/// What operators asked Stripe about the effects on these entities.
async fn inspections(pool: &PgPool, entities: &[Uuid]) -> Result<Vec<Moment>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT effect_key, asked_at, asked_by, answered_at, facts AS "facts: Json<AtStripe>", effect_inspections.error, job_id
           FROM effect_inspections JOIN effects ON effects.key = effect_key
           WHERE entity_id = ANY($1) ORDER BY asked_at LIMIT $2"#,
        entities,
        MOST
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
