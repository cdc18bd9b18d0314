//! The money: Stripe's record, the payments and the ledger must tell the same, each payment once.

use std::collections::HashMap;

use anyhow::{Context, Result};
use uuid::Uuid;

use super::{testbed::Testbed, verdict::Verdict};

/// What the sandbox did for one payment.
#[derive(Clone, Copy, Debug, Default)]
struct AtStripe {
    captured: i64,
    refunded: i64,
    captures: u64,
    still_held: bool,
}

/// What the sandbox has on record, summed by our payment: several PaymentIntents of one payment count together.
async fn at_stripe(testbed: &Testbed) -> Result<HashMap<Uuid, AtStripe>> {
    let record = testbed.sandbox("/_control/record").await?;
    let mut sums: HashMap<Uuid, AtStripe> = HashMap::new();
    for intent in record["payment_intents"].as_array().context("no record")? {
        let payment = intent["metadata"]["payment_id"].as_str().and_then(|id| id.parse().ok());
        let sum = sums.entry(payment.unwrap_or_default()).or_default();
        sum.captured += intent["captured"].as_i64().unwrap_or(0);
        sum.refunded += intent["refunded"].as_i64().unwrap_or(0);
        sum.captures += intent["captures"].as_u64().unwrap_or(0);
        sum.still_held |= intent["status"] == "requires_capture";
    }
    Ok(sums)
}

/// Every payment has taken and paid back what Stripe did for it, in one capture; and Stripe did nothing for anyone else.
pub async fn agrees_with_stripe(testbed: &Testbed, verdict: &mut Verdict) -> Result<()> {
    let payments: Vec<(Uuid, String, i64, i64)> =
        sqlx::query_as("SELECT id, state, captured_minor, refunded_minor FROM payments")
            .fetch_all(&testbed.pool)
            .await?;
    let mut at_stripe = at_stripe(testbed).await?;
    let mut wrong = Vec::new();
    for (payment, state, captured, refunded) in payments {
        let record = at_stripe.remove(&payment).unwrap_or_default();
        if (record.captured, record.refunded) != (captured, refunded) || record.still_held != (state == "authorized") {
            wrong.push(format!(
                "{payment}: {state}, {captured} captured, {refunded} refunded; at Stripe {record:?}"
            ));
        }
        verdict.double(record.captures.saturating_sub(1), "captures at Stripe");
    }
    let examples: Vec<&String> = wrong.iter().take(3).collect();
    verdict.require(wrong.is_empty(), || {
        format!("{} payments differ from Stripe's record: {examples:?}", wrong.len())
    });
    verdict.require(at_stripe.is_empty(), || {
        format!("{} payments are at Stripe only", at_stripe.len())
    });
    Ok(())
}

/// The ledger says what the payments say: for each that was captured one transaction with that amount, split as the
/// booking's fees say; for each refund one of its amount; nothing else; and a full refund leaves every account empty.
pub async fn books(testbed: &Testbed, verdict: &mut Verdict) -> Result<()> {
    // By payment and by refund: errors that cancel each other out in sums do not hide here.
    let wrong: Vec<String> = sqlx::query_scalar(
        "WITH owed AS (
             SELECT 'capture:' || payments.id AS key, payments.booking_id, captured_minor AS amount, refunded_minor,
                    least(captured_minor, host_fee_minor + coalesce((
                        SELECT sum((line->>'amount_minor')::bigint) FROM jsonb_array_elements(price_lines) AS line
                        WHERE line->>'kind' = 'guest_service_fee'), 0))::bigint AS fees
             FROM payments JOIN bookings ON bookings.id = payments.booking_id WHERE captured_minor > 0),
         paid_back AS (
             SELECT 'refund:' || refunds.id AS key, booking_id, -refunds.amount_minor AS amount
             FROM refunds JOIN payments ON payments.id = payment_id WHERE refunds.state = 'succeeded'),
         expected AS (SELECT key, booking_id, amount FROM owed UNION ALL SELECT key, booking_id, amount FROM paid_back),
         booked AS (
             SELECT key, booking_id, coalesce(sum(amount_minor) FILTER (WHERE account = 'stripe_balance'), 0) AS balance,
                    coalesce(sum(amount_minor) FILTER (WHERE account = 'host_payable'), 0) AS host,
                    coalesce(sum(amount_minor) FILTER (WHERE account = 'platform_revenue'), 0) AS platform
             FROM ledger_transactions LEFT JOIN ledger_entries ON transaction_id = ledger_transactions.id GROUP BY key, booking_id)
         SELECT concat_ws(' ', coalesce(expected.key, booked.key), 'should be', expected.amount, 'is', booked.balance)
         FROM expected FULL JOIN booked USING (key)
         WHERE expected.booking_id IS DISTINCT FROM booked.booking_id OR expected.amount IS DISTINCT FROM booked.balance
            OR booked.balance + booked.host + booked.platform <> 0
         UNION ALL
         SELECT concat_ws(' ', key, 'gives the host', -host, 'and the platform', -platform, 'of', amount)
         FROM owed JOIN booked USING (key) WHERE -platform <> fees OR -host <> amount - fees
         UNION ALL
         SELECT concat_ws(' ', owed.key, 'was paid back in full and', account, 'has', sum(amount_minor))
         FROM owed JOIN ledger_transactions USING (booking_id) JOIN ledger_entries ON transaction_id = ledger_transactions.id
         WHERE owed.amount = refunded_minor GROUP BY owed.key, account HAVING sum(amount_minor) <> 0
         UNION ALL
         SELECT concat_ws(' ', 'payment', payments.id, 'paid back', refunded_minor, 'and has refunds of', coalesce(sum(refunds.amount_minor), 0))
         FROM payments LEFT JOIN refunds ON payment_id = payments.id AND refunds.state = 'succeeded'
         GROUP BY payments.id HAVING refunded_minor <> coalesce(sum(refunds.amount_minor), 0)",
    )
    .fetch_all(&testbed.pool)
    .await?;
    let examples: Vec<&String> = wrong.iter().take(3).collect();
    verdict.require(wrong.is_empty(), || {
        format!("{} entries of the ledger are wrong: {examples:?}", wrong.len())
    });
    Ok(())
}
