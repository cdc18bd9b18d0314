//! Money on its way back: promised, accepted by Stripe, settled, and sometimes returned by the card's bank.

use uuid::Uuid;

use super::refund_key;
use super::store::{self, Payment, Refund, latest_of};
use crate::bookings::{self, Actor};
use crate::db::Tx;
use crate::jobs::catalogue::{MailKind, RefundPayment, SendMail};
use crate::ledger::{self, Account};
use crate::money::share_of;
use crate::stripe::{RefundStatus, StripeRefund};

/// Promises `amount_minor` of a confirmed booking's payment back. The job waits for the capture, should that still be
/// under way.
///
/// # Errors
/// Postgres refused.
pub async fn pay_back(tx: &mut Tx, booking_id: Uuid, amount_minor: i64, rule: &str) -> Result<(), sqlx::Error> {
    let payment = latest_of(tx.conn(), booking_id)
        .await?
        .filter(|payment| payment.state.is_live());
    if let Some(payment) = payment.filter(|_| amount_minor > 0) {
        promise(tx, payment.id, amount_minor, rule).await?;
    }
    Ok(())
}

/// Promises back what of a payment's `captured_minor` was neither paid back nor promised. The payment must be locked.
///
/// # Errors
/// Postgres refused.
pub async fn pay_back_rest(tx: &mut Tx, payment: &Payment, captured_minor: i64, rule: &str) -> Result<(), sqlx::Error> {
    let promised = sqlx::query_scalar!(
        r#"SELECT coalesce(sum(amount_minor), 0)::bigint AS "promised!" FROM refunds WHERE payment_id = $1 AND state = 'pending'"#,
        payment.id
    )
    .fetch_one(tx.conn())
    .await?;
    let rest = captured_minor - payment.refunded_minor - promised;
    if rest > 0 {
        promise(tx, payment.id, rest, rule).await?;
    }
    Ok(())
}

async fn promise(tx: &mut Tx, payment_id: Uuid, amount_minor: i64, rule: &str) -> Result<(), sqlx::Error> {
    let refund_id = store::insert_refund(tx, payment_id, amount_minor, rule).await?;
    tx.enqueue(&RefundPayment { refund_id });
    Ok(())
}

/// Moves a refund to what Stripe says of it. Both the refund and its payment must be locked.
///
/// # Errors
/// Postgres refused.
pub async fn follow_refund(
    tx: &mut Tx,
    refund: &Refund,
    payment: &Payment,
    reply: &StripeRefund,
) -> Result<(), sqlx::Error> {
    match (refund.state.as_str(), reply.status) {
        ("pending", RefundStatus::Succeeded) => refunded(tx, refund, payment, &reply.id).await,
        ("pending", RefundStatus::Pending) => accepted(tx, refund, &reply.id).await,
        ("pending", RefundStatus::Failed) => {
            accepted(tx, refund, &reply.id).await?;
            refund_refused(tx, refund, payment, "the card's bank did not take it").await
        }
        ("succeeded", RefundStatus::Failed) => came_back(tx, refund, payment).await,
        _ => Ok(()),
    }
}

/// Stripe has it, the card's bank not yet.
async fn accepted(tx: &mut Tx, refund: &Refund, stripe_refund_id: &str) -> Result<(), sqlx::Error> {
    let now = tx.now();
    sqlx::query!(
        "UPDATE refunds SET stripe_refund_id = $2, updated_at = $3 WHERE id = $1 AND state = 'pending'",
        refund.id,
        stripe_refund_id,
        now
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Money went back: the refund is settled and the ledger gives back what the parties had of it.
async fn refunded(tx: &mut Tx, refund: &Refund, payment: &Payment, stripe_refund_id: &str) -> Result<(), sqlx::Error> {
    let now = tx.now();
    let done = sqlx::query!(
        "UPDATE refunds SET state = 'succeeded', stripe_refund_id = $2, updated_at = $3 WHERE id = $1 AND state = 'pending'",
        refund.id,
        stripe_refund_id,
        now
    )
    .execute(tx.conn())
    .await?;
    if done.rows_affected() == 0 {
        return Ok(());
    }
    let refunded_minor = add_refunded(tx, payment, refund.amount_minor).await?;
    // Fees go back in proportion to all that went back so far, so that the shares of several refunds add up and a full
    // refund leaves every account as it was.
    let fees = store::platform_fees(tx, payment.booking_id)
        .await?
        .min(payment.captured_minor);
    let kept = fees - share_of(fees, refunded_minor, payment.captured_minor);
    let held = -ledger::balance(tx, payment.booking_id, Account::PlatformRevenue).await?;
    let fees_back = held - kept;
    let entries = [
        (Account::StripeBalance, -refund.amount_minor),
        (Account::HostPayable, refund.amount_minor - fees_back),
        (Account::PlatformRevenue, fees_back),
    ];
    ledger::record(
        tx,
        &refund_key(refund.id),
        payment.booking_id,
        payment.currency,
        &entries,
    )
    .await?;
    note(tx, payment, "payment_refunded", &refund.reason).await
}

/// A refund that was settled came back from the card's bank: the money is with us again and owed to the guest.
async fn came_back(tx: &mut Tx, refund: &Refund, payment: &Payment) -> Result<(), sqlx::Error> {
    let now = tx.now();
    let done = sqlx::query!(
        "UPDATE refunds SET state = 'failed', updated_at = $2 WHERE id = $1 AND state = 'succeeded'",
        refund.id,
        now
    )
    .execute(tx.conn())
    .await?;
    if done.rows_affected() == 0 {
        return Ok(());
    }
    add_refunded(tx, payment, -refund.amount_minor).await?;
    ledger::reverse(
        tx,
        &refund_key(refund.id),
        &format!("refund-failed:{}", refund.id),
        payment.booking_id,
    )
    .await?;
    tell_of_failure(tx, refund, payment, "the card's bank sent it back").await
}

/// Stripe will not refund: an operator has to look, and the guest is told.
///
/// # Errors
/// Postgres refused.
pub async fn refund_refused(tx: &mut Tx, refund: &Refund, payment: &Payment, reason: &str) -> Result<(), sqlx::Error> {
    let now = tx.now();
    let done = sqlx::query!(
        "UPDATE refunds SET state = 'failed', updated_at = $2 WHERE id = $1 AND state = 'pending'",
        refund.id,
        now
    )
    .execute(tx.conn())
    .await?;
    if done.rows_affected() == 0 {
        return Ok(());
    }
    tell_of_failure(tx, refund, payment, reason).await
}

async fn tell_of_failure(tx: &mut Tx, refund: &Refund, payment: &Payment, reason: &str) -> Result<(), sqlx::Error> {
    // Where nothing was taken, nothing is missing.
    if payment.captured_minor > 0 {
        tracing::error!(refund_id = %refund.id, reason, "money could not be paid back");
        metrics::counter!("roost_refunds_failed_total").increment(1);
        tx.enqueue(&SendMail {
            mail: MailKind::RefundFailed,
            subject_id: refund.id,
        });
    }
    note(tx, payment, "refund_failed", reason).await
}

/// Returns what has been paid back in all.
async fn add_refunded(tx: &mut Tx, payment: &Payment, amount_minor: i64) -> Result<i64, sqlx::Error> {
    let now = tx.now();
    sqlx::query_scalar!(
        "UPDATE payments SET refunded_minor = refunded_minor + $2, updated_at = $3 WHERE id = $1 RETURNING refunded_minor",
        payment.id,
        amount_minor,
        now
    )
    .fetch_one(tx.conn())
    .await
}

async fn note(tx: &mut Tx, payment: &Payment, event: &str, reason: &str) -> Result<(), sqlx::Error> {
    bookings::note(tx, payment.booking_id, event, Actor::System, Some(reason)).await?;
    tx.booking_changed(payment.booking_id);
    Ok(())
}
