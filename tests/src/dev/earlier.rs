//! The sandbox forgets when it ends and the database does not: what was paid in earlier runs, and in the demo data, is
//! told to it again, so that it can still be captured and refunded.

use anyhow::{Context, Result};
use serde_json::Value;
use sqlx::{Connection, PgConnection, types::Json};

/// Tells the sandbox at `sandbox_url` of the payments that may still move: those of bookings that are not over.
pub async fn remind_sandbox(database_url: &str, sandbox_url: &str) -> Result<()> {
    let mut connection = PgConnection::connect(database_url)
        .await
        .context("connecting to read payments")?;
    let payments: Json<Value> = sqlx::query_scalar(
        "SELECT coalesce(jsonb_agg(jsonb_build_object(
             'id', p.stripe_payment_intent_id, 'created', extract(epoch FROM p.created_at)::bigint,
             'amount', p.amount_minor, 'currency', lower(p.currency), 'fate', p.state, 'refunded', p.refunded_minor,
             'metadata', jsonb_build_object('booking_id', b.id, 'payment_id', p.id)) ORDER BY p.created_at), '[]')
         FROM payments p JOIN bookings b ON b.id = p.booking_id
         WHERE p.stripe_payment_intent_id IS NOT NULL AND p.state IN ('authorized', 'captured')
           AND (b.state IN ('held', 'pending_approval', 'confirmed', 'checked_in')
                OR EXISTS (SELECT 1 FROM refunds r WHERE r.payment_id = p.id AND r.state = 'pending'))",
    )
    .fetch_one(&mut connection)
    .await?;
    connection.close().await?;
    let url = format!("{}/_control/payment_intents", sandbox_url.trim_end_matches('/'));
    let client = reqwest::Client::builder().no_proxy().build()?;
    let reply = client.post(url).json(&payments.0).send().await?;
    if let Err(error) = reply.error_for_status_ref() {
        return Err(error).context(reply.text().await.unwrap_or_default());
    }
    Ok(())
}
