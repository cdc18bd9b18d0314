//! The events that Stripe sent, each kept once: which object to read again at Stripe, and whether that was done.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::webhook::Event;
use crate::db::Tx;
use crate::jobs::catalogue::HandleStripeEvent;

/// An event as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    /// `evt_…`
    pub id: String,
    /// `payment_intent.succeeded`, …
    pub kind: String,
    /// The refund or else the PaymentIntent it is about; without either the object itself.
    pub object_id: String,
    /// When Stripe made it.
    pub created_at: DateTime<Utc>,
    /// When it first reached us.
    pub received_at: DateTime<Utc>,
    /// When its job was done with it.
    pub handled_at: Option<DateTime<Utc>>,
}

/// Whether an event may change what we know of a payment. Stripe sends whatever its dashboard is told to send; the
/// rest is of no use here and is not kept.
#[must_use]
pub fn is_about_payments(kind: &str) -> bool {
    ["payment_intent.", "charge.", "refund."]
        .iter()
        .any(|family| kind.starts_with(family))
}

/// Keeps an event and enqueues its job, unless it was received before. Returns whether it is new.
///
/// A second delivery of the same event waits here until the first one's transaction has ended.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn receive(tx: &mut Tx, event: &Event) -> Result<bool, sqlx::Error> {
    let now = tx.now();
    let inserted = sqlx::query!(
        "INSERT INTO stripe_events (id, type, object_id, created_at, received_at) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (id) DO NOTHING",
        event.id,
        event.kind,
        event.object_id,
        event.created_at,
        now
    )
    .execute(tx.conn())
    .await?;
    let new = inserted.rows_affected() == 1;
    if new {
        tx.enqueue(&HandleStripeEvent {
            event_id: event.id.clone(),
        });
    }
    Ok(new)
}

/// The event, if it was received.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn get(conn: &mut PgConnection, id: &str) -> Result<Option<StoredEvent>, sqlx::Error> {
    sqlx::query_as!(
        StoredEvent,
        r#"SELECT id, type AS kind, object_id, created_at, received_at, handled_at FROM stripe_events WHERE id = $1"#,
        id
    )
    .fetch_optional(conn)
    .await
}

/// Notes that an event's job is done with it; the first time counts.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn mark_handled(tx: &mut Tx, id: &str) -> Result<(), sqlx::Error> {
    let now = tx.now();
    sqlx::query!(
        "UPDATE stripe_events SET handled_at = $2 WHERE id = $1 AND handled_at IS NULL",
        id,
        now
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::is_about_payments;

    #[test]
    fn only_the_families_that_move_money_are_kept() {
        for kind in [
            "payment_intent.amount_capturable_updated",
            "charge.refunded",
            "charge.dispute.created",
            "refund.failed",
        ] {
            assert!(is_about_payments(kind), "{kind}");
        }
        for kind in ["customer.created", "payout.paid", "charges.refunded", "charge", ""] {
            assert!(!is_about_payments(kind), "{kind}");
        }
    }
}
