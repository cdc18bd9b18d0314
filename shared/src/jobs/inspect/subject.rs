//! What the arguments of jobs point at, and what the jobs did to the world: of one or of a page of them, in the same
//! number of statements.

use std::collections::HashMap;

use serde_json::Value;
use sqlx::PgPool;
use uuid::Uuid;

use super::Effect;
use crate::jobs::outlook::{PaymentFacts, RefundFacts};
use crate::money::{Currency, Money};

/// Effects of one job that are read.
const MOST_EFFECTS: i64 = 50;

/// What a job's arguments point at.
#[derive(Clone, Debug, Default)]
pub(super) struct Subject {
    pub booking_id: Option<Uuid>,
    pub payment: Option<PaymentOf>,
    pub refund: Option<RefundOf>,
}

#[derive(Clone, Debug)]
pub(super) struct PaymentOf {
    pub id: Uuid,
    pub booking_id: Uuid,
    pub number: i32,
    pub facts: PaymentFacts,
}

#[derive(Clone, Debug)]
pub(super) struct RefundOf {
    pub id: Uuid,
    pub payment_id: Uuid,
    pub facts: RefundFacts,
}

fn text<'a>(args: &'a Value, name: &str) -> Option<&'a str> {
    args.get(name)?.as_str()
}

fn id(args: &Value, name: &str) -> Option<Uuid> {
    text(args, name)?.parse().ok()
}

/// The subjects of jobs with these arguments, in their order.
pub(super) async fn of(pool: &PgPool, jobs: &[&Value]) -> Result<Vec<Subject>, sqlx::Error> {
    let texts = |name: &str| -> Vec<String> {
        let texts = jobs.iter().filter_map(|args| text(args, name));
        texts.map(str::to_owned).collect()
    };
    let refunds = refunds(pool, jobs.iter().filter_map(|args| id(args, "refund_id")).collect()).await?;
    let of_events = payments_of_events(pool, texts("event_id")).await?;
    let of_effects = entities_of_effects(pool, texts("effect_key")).await?;
    let payment_id = |args: &Value| {
        let refund = id(args, "refund_id").and_then(|id| refunds.get(&id));
        let mut payment_id = refund.map(|refund| refund.payment_id).or(id(args, "payment_id"));
        if let Some(event) = text(args, "event_id") {
            payment_id = of_events.get(event).copied();
        }
        if let Some(key) = text(args, "effect_key") {
            payment_id = of_effects.get(key).copied();
        }
        // A mail is about a booking, a payment, a refund, a message, a decision or a user; ids of different tables never
        // collide.
        payment_id.or(id(args, "subject_id"))
    };
    let payments = payments(pool, jobs.iter().filter_map(|args| payment_id(args)).collect()).await?;
    let mut subjects: Vec<Subject> = jobs
        .iter()
        .map(|args| {
            let payment = payment_id(args).and_then(|id| payments.get(&id)).cloned();
            let refund = id(args, "refund_id").and_then(|id| refunds.get(&id)).cloned();
            Subject {
                booking_id: payment
                    .as_ref()
                    .map(|payment| payment.booking_id)
                    .or(id(args, "booking_id")),
                payment,
                refund,
            }
        })
        .collect();
    let mentioned = |args: &Value| id(args, "subject_id").or(id(args, "message_id"));
    let without = jobs
        .iter()
        .zip(&subjects)
        .filter(|(_, subject)| subject.booking_id.is_none());
    let bookings = bookings(pool, without.filter_map(|(args, _)| mentioned(args)).collect()).await?;
    for (args, subject) in jobs.iter().zip(&mut subjects) {
        subject.booking_id = subject.booking_id.or_else(|| bookings.get(&mentioned(args)?).copied());
    }
    Ok(subjects)
}

async fn refunds(pool: &PgPool, ids: Vec<Uuid>) -> Result<HashMap<Uuid, RefundOf>, sqlx::Error> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query!(
        r#"SELECT r.id, r.payment_id, r.amount_minor, r.state, p.currency AS "currency: Currency"
           FROM refunds r JOIN payments p ON p.id = r.payment_id WHERE r.id = ANY($1)"#,
        &ids
    )
    .fetch_all(pool)
    .await?;
    let refunds = rows.into_iter().map(|row| RefundOf {
        id: row.id,
        payment_id: row.payment_id,
        facts: RefundFacts {
            amount: Money::new(row.amount_minor, row.currency),
            succeeded: row.state == "succeeded",
        },
    });
    Ok(refunds.map(|refund| (refund.id, refund)).collect())
}

/// An event is kept under its refund or else its PaymentIntent.
async fn payments_of_events(pool: &PgPool, events: Vec<String>) -> Result<HashMap<String, Uuid>, sqlx::Error> {
    if events.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query!(
        r#"SELECT e.id AS "event!", p.id AS "payment!" FROM stripe_events e JOIN payments p ON p.stripe_payment_intent_id = e.object_id
           WHERE e.id = ANY($1)
           UNION ALL SELECT e.id, r.payment_id FROM stripe_events e JOIN refunds r ON r.stripe_refund_id = e.object_id WHERE e.id = ANY($1)"#,
        &events
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|row| (row.event, row.payment)).collect())
}

async fn entities_of_effects(pool: &PgPool, keys: Vec<String>) -> Result<HashMap<String, Uuid>, sqlx::Error> {
    if keys.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query!(
        r#"SELECT key, entity_id AS "entity_id!" FROM effects WHERE key = ANY($1) AND entity_id IS NOT NULL"#,
        &keys
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|row| (row.key, row.entity_id)).collect())
}

async fn payments(pool: &PgPool, ids: Vec<Uuid>) -> Result<HashMap<Uuid, PaymentOf>, sqlx::Error> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query!(
        r#"SELECT id, booking_id, number, state, amount_minor, captured_minor, refunded_minor, currency AS "currency: Currency"
           FROM payments WHERE id = ANY($1)"#,
        &ids
    )
    .fetch_all(pool)
    .await?;
    let payments = rows.into_iter().map(|row| PaymentOf {
        id: row.id,
        booking_id: row.booking_id,
        number: row.number,
        facts: PaymentFacts {
            state: payment_state(&row.state),
            amount: Money::new(row.amount_minor, row.currency),
            captured: Money::new(row.captured_minor, row.currency),
            refunded: Money::new(row.refunded_minor, row.currency),
        },
    });
    Ok(payments.map(|payment| (payment.id, payment)).collect())
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

/// The bookings that these ids of bookings, messages, refunds and moderators' decisions belong to.
async fn bookings(pool: &PgPool, ids: Vec<Uuid>) -> Result<HashMap<Uuid, Uuid>, sqlx::Error> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query!(
        r#"SELECT id AS "id!", id AS "booking_id!" FROM bookings WHERE id = ANY($1)
           UNION ALL SELECT id, booking_id FROM messages WHERE id = ANY($1)
           UNION ALL SELECT r.id, p.booking_id FROM refunds r JOIN payments p ON p.id = r.payment_id WHERE r.id = ANY($1)
           UNION ALL SELECT d.id, v.booking_id FROM review_decisions d JOIN reviews v ON v.id = d.review_id WHERE d.id = ANY($1)"#,
        &ids
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|row| (row.id, row.booking_id)).collect())
}

/// The keys of the effects that a job has, or would have.
fn keys(kind: &str, args: &Value, subject: &Subject) -> Vec<String> {
    let mut keys = Vec::new();
    if let Some(payment) = &subject.payment {
        match kind {
            "payment.authorize" => keys.push(format!("authorize:{}:{}", payment.booking_id, payment.number)),
            "payment.capture" => keys.push(format!("capture:{}", payment.id)),
            "payment.void" => keys.push(format!("void:{}", payment.id)),
            _ => {}
        }
    }
    if let Some(refund) = &subject.refund {
        keys.push(format!("refund:{}", refund.id));
    }
    keys.extend(text(args, "effect_key").map(str::to_owned));
    if let (Some(mail), Some(subject_id)) = (text(args, "mail"), text(args, "subject_id")) {
        keys.push(format!("mail:{mail}:{subject_id}"));
    }
    keys
}

/// The effects of each of these jobs, in their order: what it did itself, and what others did under its keys.
pub(super) async fn effects(
    pool: &PgPool,
    jobs: &[(Uuid, &str, &Value, &Subject)],
) -> Result<Vec<Vec<Effect>>, sqlx::Error> {
    let ids: Vec<Uuid> = jobs.iter().map(|(id, ..)| *id).collect();
    let keys: Vec<Vec<String>> = jobs
        .iter()
        .map(|(_, kind, args, subject)| keys(kind, args, subject))
        .collect();
    let found = sqlx::query!(
        r#"SELECT job_id AS "job_id!", key AS "key!", state AS "state!", external_id, error, first_sent_at AS "first_sent_at!",
                  updated_at AS "updated_at!"
           FROM (SELECT own.* FROM unnest($1::uuid[]) AS job CROSS JOIN LATERAL (
                     SELECT job_id, key, state, external_id, error, first_sent_at, updated_at FROM effects WHERE job_id = job
                     ORDER BY first_sent_at, key LIMIT $3) AS own
                 UNION SELECT job_id, key, state, external_id, error, first_sent_at, updated_at FROM effects WHERE key = ANY($2)) AS found
           ORDER BY first_sent_at, key"#,
        &ids,
        &keys.concat(),
        MOST_EFFECTS
    )
    .fetch_all(pool)
    .await?;
    Ok(ids
        .iter()
        .zip(&keys)
        .map(|(id, keys)| {
            let of_job = found.iter().filter(|row| row.job_id == *id || keys.contains(&row.key));
            of_job
                .map(|row| Effect {
                    key: row.key.clone(),
                    state: row.state.clone(),
                    external_id: row.external_id.clone(),
                    error: row.error.clone(),
                    first_sent_at: row.first_sent_at,
                    updated_at: row.updated_at,
                })
                .collect()
        })
        .collect())
}
