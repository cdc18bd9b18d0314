//! `overdue.sweep`: looks for what is past its time and has no job any more, and gives it one. A job that took workers
//! down with it is left to an operator.

use chrono::{DateTime, TimeDelta, Utc};
use roost_shared::db::Tx;
use roost_shared::jobs::Lease;
use roost_shared::jobs::catalogue::{CapturePayment, ExpireHold, HandleStripeEvent, RefundPayment, SweepOverdue};

use crate::context::Context;
use crate::error::JobError;
use crate::handler::{Done, Handler};

/// Time for the ordinary way to come to its end.
const PATIENCE: TimeDelta = TimeDelta::minutes(10);
/// What an event said long ago is known by now or never will be.
const EVENTS_OF: TimeDelta = TimeDelta::days(30);

impl Handler for SweepOverdue {
    async fn run(self, ctx: &Context, lease: Lease) -> Result<Done, JobError> {
        let mut tx = ctx.db.begin().await?;
        let now = tx.now();
        let found = [
            ("hold", overdue_holds(&mut tx, now - PATIENCE).await?),
            ("request", overdue_requests(&mut tx, now - PATIENCE).await?),
            ("capture", captures(&mut tx, now - PATIENCE).await?),
            ("refund", refunds(&mut tx, now - PATIENCE).await?),
            ("event", events(&mut tx, now - EVENTS_OF, now - PATIENCE).await?),
        ];
        lease.complete(&mut tx).await?;
        tx.commit().await?;
        for (what, count) in found.into_iter().filter(|(_, count)| *count > 0) {
            tracing::error!(what, count, "overdue without a job: put back to work");
            metrics::counter!("roost_overdue_total", "what" => what)
                .increment(u64::try_from(count).unwrap_or_default());
        }
        Ok(Done::Settled)
    }
}

// The batches are found by an index, and what has a job is passed over by another one.

async fn overdue_holds(tx: &mut Tx, before: DateTime<Utc>) -> Result<usize, sqlx::Error> {
    let bookings = sqlx::query_scalar!(
        "SELECT id FROM bookings WHERE state = 'held' AND hold_expires_at < $1
         AND NOT EXISTS (SELECT FROM jobs WHERE dedupe_key = 'booking.expire_hold:' || bookings.id AND state IN ('scheduled', 'queued', 'running', 'retrying'))
         AND NOT EXISTS (SELECT FROM jobs WHERE dedupe_key = 'booking.expire_hold:' || bookings.id AND state = 'quarantined')
         ORDER BY hold_expires_at LIMIT 500",
        before
    )
    .fetch_all(tx.conn())
    .await?;
    for booking_id in &bookings {
        tx.enqueue(&ExpireHold {
            booking_id: *booking_id,
        });
    }
    Ok(bookings.len())
}

async fn overdue_requests(tx: &mut Tx, before: DateTime<Utc>) -> Result<usize, sqlx::Error> {
    let bookings = sqlx::query_scalar!(
        "SELECT id FROM bookings WHERE state = 'pending_approval' AND approval_expires_at < $1
         AND NOT EXISTS (SELECT FROM jobs WHERE dedupe_key = 'booking.expire_hold:' || bookings.id AND state IN ('scheduled', 'queued', 'running', 'retrying'))
         AND NOT EXISTS (SELECT FROM jobs WHERE dedupe_key = 'booking.expire_hold:' || bookings.id AND state = 'quarantined')
         ORDER BY approval_expires_at LIMIT 500",
        before
    )
    .fetch_all(tx.conn())
    .await?;
    for booking_id in &bookings {
        tx.enqueue(&ExpireHold {
            booking_id: *booking_id,
        });
    }
    Ok(bookings.len())
}

async fn captures(tx: &mut Tx, before: DateTime<Utc>) -> Result<usize, sqlx::Error> {
    let payments = sqlx::query_scalar!(
        "SELECT payments.id FROM payments JOIN bookings ON bookings.id = payments.booking_id
         WHERE payments.state = 'authorized' AND payments.updated_at < $1 AND bookings.confirmed_at < $1
         AND bookings.state IN ('confirmed', 'checked_in', 'checked_out', 'completed', 'no_show')
         AND NOT EXISTS (SELECT FROM jobs WHERE dedupe_key = 'payment.capture:' || payments.id AND jobs.state IN ('scheduled', 'queued', 'running', 'retrying'))
         AND NOT EXISTS (SELECT FROM jobs WHERE dedupe_key = 'payment.capture:' || payments.id AND jobs.state = 'quarantined')
         ORDER BY payments.updated_at LIMIT 500",
        before
    )
    .fetch_all(tx.conn())
    .await?;
    for payment_id in &payments {
        tx.enqueue(&CapturePayment {
            payment_id: *payment_id,
        });
    }
    Ok(payments.len())
}

async fn refunds(tx: &mut Tx, before: DateTime<Utc>) -> Result<usize, sqlx::Error> {
    let refunds = sqlx::query_scalar!(
        "SELECT id FROM refunds WHERE state = 'pending' AND created_at < $1
         AND NOT EXISTS (SELECT FROM jobs WHERE dedupe_key = 'payment.refund:' || refunds.id AND jobs.state IN ('scheduled', 'queued', 'running', 'retrying'))
         AND NOT EXISTS (SELECT FROM jobs WHERE dedupe_key = 'payment.refund:' || refunds.id AND jobs.state = 'quarantined')
         ORDER BY created_at LIMIT 500",
        before
    )
    .fetch_all(tx.conn())
    .await?;
    for refund_id in &refunds {
        tx.enqueue(&RefundPayment { refund_id: *refund_id });
    }
    Ok(refunds.len())
}

async fn events(tx: &mut Tx, after: DateTime<Utc>, before: DateTime<Utc>) -> Result<usize, sqlx::Error> {
    let events = sqlx::query_scalar!(
        "SELECT id FROM stripe_events WHERE handled_at IS NULL AND received_at > $1 AND received_at < $2
         AND NOT EXISTS (SELECT FROM jobs WHERE dedupe_key = 'stripe.event.handle:' || stripe_events.id AND state IN ('scheduled', 'queued', 'running', 'retrying'))
         AND NOT EXISTS (SELECT FROM jobs WHERE dedupe_key = 'stripe.event.handle:' || stripe_events.id AND state = 'quarantined')
         ORDER BY received_at LIMIT 500",
        after,
        before
    )
    .fetch_all(tx.conn())
    .await?;
    for event_id in &events {
        tx.enqueue(&HandleStripeEvent {
            event_id: event_id.clone(),
        });
    }
    Ok(events.len())
}
