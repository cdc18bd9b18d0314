//! The rows of payments and refunds.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::PaymentState;
use crate::bookings::Booking;
use crate::db::Tx;
use crate::ids;
use crate::jobs::Job;
use crate::jobs::catalogue::AuthorizePayment;
use crate::money::Currency;
use crate::properties::pricing::{LineKind, PriceLine};

/// A payment as it stands. Amounts in minor units.
#[derive(Clone, Debug)]
pub struct Payment {
    /// The payment.
    pub id: Uuid,
    /// What it pays for.
    pub booking_id: Uuid,
    /// Who pays.
    pub guest_id: Uuid,
    /// Who is paid.
    pub host_id: Uuid,
    /// 1 for the booking's first card, 2 for the second …
    pub number: i32,
    /// Where it stands.
    pub state: PaymentState,
    /// Of all amounts.
    pub currency: Currency,
    /// What is to be paid.
    pub amount_minor: i64,
    /// Reserved on the card.
    pub authorized_minor: i64,
    /// Taken.
    pub captured_minor: i64,
    /// Paid back.
    pub refunded_minor: i64,
    /// `pm_…`
    pub payment_method: String,
    /// `pi_…`
    pub stripe_payment_intent_id: Option<String>,
    /// For 3-D Secure, for the guest only.
    pub client_secret: Option<String>,
    /// When the authorisation lapses.
    pub capture_before: Option<DateTime<Utc>>,
    /// Since when the card is only ever released: nothing is confirmed, approved or captured on it any more.
    pub release_started_at: Option<DateTime<Utc>>,
    /// Why the card was refused.
    pub failure_code: Option<String>,
    /// The issuer's reason.
    pub decline_code: Option<String>,
    /// The same for the cardholder.
    pub failure_message: Option<String>,
    /// When it was begun.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
}

impl Payment {
    /// Whether a booking may be bound on it: the amount is reserved and nobody is releasing it.
    #[must_use]
    pub fn may_be_captured(&self) -> bool {
        self.state == PaymentState::Authorized && self.release_started_at.is_none()
    }

    /// The payment that a new booking begins with.
    pub(crate) fn first_of(booking: &Booking, id: Uuid, payment_method: String) -> Self {
        Self {
            id,
            booking_id: booking.id,
            guest_id: booking.guest_id,
            host_id: booking.host_id,
            number: 1,
            state: PaymentState::Pending,
            currency: booking.currency,
            amount_minor: booking.total_minor,
            authorized_minor: 0,
            captured_minor: 0,
            refunded_minor: 0,
            payment_method,
            stripe_payment_intent_id: None,
            client_secret: None,
            capture_before: None,
            release_started_at: None,
            failure_code: None,
            decline_code: None,
            failure_message: None,
            created_at: booking.created_at,
            updated_at: booking.created_at,
        }
    }
}

/// Money on its way back.
#[derive(Clone, Debug)]
pub struct Refund {
    /// The refund.
    pub id: Uuid,
    /// Of which payment.
    pub payment_id: Uuid,
    /// How much, in minor units.
    pub amount_minor: i64,
    /// The rule that decided it.
    pub reason: String,
    /// `pending`, `succeeded` or `failed`.
    pub state: String,
    /// `re_…`
    pub stripe_refund_id: Option<String>,
    /// When it was promised.
    pub created_at: DateTime<Utc>,
}

/// One operation at Stripe: what was tried and what came of it.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// `authorize:…`, `capture:…`, `void:…`, `refund:…`: also the idempotency key at Stripe.
    pub key: String,
    /// `intent`, `done`, `unknown` or `failed`.
    pub state: String,
    /// Stripe's id for the outcome.
    pub external_id: Option<String>,
    /// Why not.
    pub error: Option<String>,
    /// When it was first sent.
    pub first_sent_at: DateTime<Utc>,
    /// When its outcome was last written.
    pub updated_at: DateTime<Utc>,
}

macro_rules! select_payment {
    ($($tail:tt)*) => {
        sqlx::query_as!(
            Payment,
            r#"SELECT id, booking_id, guest_id, host_id, number, state AS "state: PaymentState", currency AS "currency: Currency", amount_minor,
                authorized_minor, captured_minor, refunded_minor, payment_method, stripe_payment_intent_id, client_secret, capture_before,
                release_started_at, failure_code, decline_code, failure_message, created_at, updated_at
               FROM payments "# + $($tail)*
        )
    };
}

/// The payment, if there is one.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn get(conn: &mut PgConnection, id: Uuid) -> Result<Option<Payment>, sqlx::Error> {
    select_payment!("WHERE id = $1", id).fetch_optional(conn).await
}

/// The payment and its booking, which nobody else changes until the transaction ends. The booking first: the order in
/// which everything locks.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn lock(tx: &mut Tx, id: Uuid) -> Result<Option<Payment>, sqlx::Error> {
    sqlx::query!(
        "SELECT id FROM bookings WHERE id = (SELECT booking_id FROM payments WHERE id = $1) FOR NO KEY UPDATE",
        id
    )
    .fetch_optional(tx.conn())
    .await?;
    select_payment!("WHERE id = $1 FOR NO KEY UPDATE", id)
        .fetch_optional(tx.conn())
        .await
}

/// The payment that a PaymentIntent belongs to.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn by_intent(conn: &mut PgConnection, intent_id: &str) -> Result<Option<Payment>, sqlx::Error> {
    select_payment!("WHERE stripe_payment_intent_id = $1", intent_id)
        .fetch_optional(conn)
        .await
}

/// The booking's newest payment.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn latest_of(conn: &mut PgConnection, booking_id: Uuid) -> Result<Option<Payment>, sqlx::Error> {
    select_payment!("WHERE booking_id = $1 ORDER BY number DESC LIMIT 1", booking_id)
        .fetch_optional(conn)
        .await
}

/// The newest payment of each booking, for lists.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn latest_of_each(conn: &mut PgConnection, booking_ids: &[Uuid]) -> Result<Vec<Payment>, sqlx::Error> {
    select_payment!(
        "WHERE id IN (SELECT DISTINCT ON (booking_id) id FROM payments WHERE booking_id = ANY($1) ORDER BY booking_id, number DESC)",
        booking_ids
    )
    .fetch_all(conn)
    .await
}

/// What a list of payments is narrowed to.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Payments to the user's properties instead of by the user.
    pub as_host: bool,
    /// Only of this booking.
    pub booking_id: Option<Uuid>,
    /// Only in these states; all when empty.
    pub states: Vec<PaymentState>,
    /// Only older than this one: the last of the page before.
    pub before: Option<Uuid>,
    /// How many.
    pub limit: i64,
}

/// A user's payments, newest first.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn list(pool: &PgPool, user_id: Uuid, filter: &Filter) -> Result<Vec<Payment>, sqlx::Error> {
    let states: Vec<String> = filter.states.iter().map(|state| state.name().to_owned()).collect();
    let states = (!states.is_empty()).then_some(states);
    if filter.as_host {
        return select_payment!(
            "WHERE host_id = $1 AND ($2::uuid IS NULL OR booking_id = $2) AND ($3::text[] IS NULL OR state = ANY($3))
             AND ($4::uuid IS NULL OR id < $4) ORDER BY id DESC LIMIT $5",
            user_id,
            filter.booking_id,
            states.as_deref(),
            filter.before,
            filter.limit
        )
        .fetch_all(pool)
        .await;
    }
    select_payment!(
        "WHERE guest_id = $1 AND ($2::uuid IS NULL OR booking_id = $2) AND ($3::text[] IS NULL OR state = ANY($3))
         AND ($4::uuid IS NULL OR id < $4) ORDER BY id DESC LIMIT $5",
        user_id,
        filter.booking_id,
        states.as_deref(),
        filter.before,
        filter.limit
    )
    .fetch_all(pool)
    .await
}

/// What was asked of Stripe for a payment, refunds included, oldest first.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn attempts(conn: &mut PgConnection, payment_id: Uuid) -> Result<Vec<Attempt>, sqlx::Error> {
    sqlx::query_as!(
        Attempt,
        "SELECT key, state, external_id, error, first_sent_at, updated_at FROM effects
         WHERE entity_id = $1 AND key NOT LIKE 'mail:%' ORDER BY first_sent_at, key",
        payment_id
    )
    .fetch_all(conn)
    .await
}

/// The same for several payments, each by its id.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn attempts_of_each(pool: &PgPool, payment_ids: &[Uuid]) -> Result<HashMap<Uuid, Vec<Attempt>>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT entity_id AS "payment_id!", key, state, external_id, error, first_sent_at, updated_at FROM effects
           WHERE entity_id = ANY($1) AND key NOT LIKE 'mail:%' ORDER BY entity_id, first_sent_at, key"#,
        payment_ids
    )
    .fetch_all(pool)
    .await?;
    let mut attempts: HashMap<Uuid, Vec<Attempt>> = HashMap::new();
    for row in rows {
        attempts.entry(row.payment_id).or_default().push(Attempt {
            key: row.key,
            state: row.state,
            external_id: row.external_id,
            error: row.error,
            first_sent_at: row.first_sent_at,
            updated_at: row.updated_at,
        });
    }
    Ok(attempts)
}

/// The refunds of several payments, oldest first.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn refunds_of_each(pool: &PgPool, payment_ids: &[Uuid]) -> Result<HashMap<Uuid, Vec<Refund>>, sqlx::Error> {
    let rows = sqlx::query_as!(
        Refund,
        "SELECT id, payment_id, amount_minor, reason, state, stripe_refund_id, created_at FROM refunds
         WHERE payment_id = ANY($1) ORDER BY id",
        payment_ids
    )
    .fetch_all(pool)
    .await?;
    let mut refunds: HashMap<Uuid, Vec<Refund>> = HashMap::new();
    for row in rows {
        refunds.entry(row.payment_id).or_default().push(row);
    }
    Ok(refunds)
}

/// The refunds of a payment, oldest first.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn refunds_of(conn: &mut PgConnection, payment_id: Uuid) -> Result<Vec<Refund>, sqlx::Error> {
    sqlx::query_as!(
        Refund,
        "SELECT id, payment_id, amount_minor, reason, state, stripe_refund_id, created_at FROM refunds WHERE payment_id = $1 ORDER BY id",
        payment_id
    )
    .fetch_all(conn)
    .await
}

/// A refund.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn refund(conn: &mut PgConnection, id: Uuid) -> Result<Option<Refund>, sqlx::Error> {
    sqlx::query_as!(
        Refund,
        "SELECT id, payment_id, amount_minor, reason, state, stripe_refund_id, created_at FROM refunds WHERE id = $1",
        id
    )
    .fetch_optional(conn)
    .await
}

/// The refund, which nobody else changes until the transaction ends. Its payment must be locked before it.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn lock_refund(tx: &mut Tx, id: Uuid) -> Result<Option<Refund>, sqlx::Error> {
    sqlx::query_as!(
        Refund,
        "SELECT id, payment_id, amount_minor, reason, state, stripe_refund_id, created_at FROM refunds WHERE id = $1 FOR NO KEY UPDATE",
        id
    )
    .fetch_optional(tx.conn())
    .await
}

/// Whether the payment's authorisation still has a job that will come to an end by itself.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn authorization_is_active(conn: &mut PgConnection, payment_id: Uuid) -> Result<bool, sqlx::Error> {
    let key = AuthorizePayment { payment_id }.dedupe_key();
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM jobs WHERE dedupe_key = $1 AND state IN ('scheduled', 'queued', 'running', 'retrying')) AS "active!""#,
        key
    )
    .fetch_one(conn)
    .await
}

pub(super) async fn insert(
    tx: &mut Tx,
    booking: &Booking,
    number: i32,
    payment_method: &str,
) -> Result<Payment, sqlx::Error> {
    let now = tx.now();
    let id = ids::new(now);
    sqlx::query!(
        "INSERT INTO payments (id, booking_id, guest_id, host_id, number, state, currency, amount_minor, payment_method, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, 'pending', $6, $7, $8, $9, $9)",
        id,
        booking.id,
        booking.guest_id,
        booking.host_id,
        number,
        booking.currency.code(),
        booking.total_minor,
        payment_method,
        now
    )
    .execute(tx.conn())
    .await?;
    get(tx.conn(), id).await?.ok_or(sqlx::Error::RowNotFound)
}

pub(super) async fn insert_refund(
    tx: &mut Tx,
    payment_id: Uuid,
    amount_minor: i64,
    reason: &str,
) -> Result<Uuid, sqlx::Error> {
    let now = tx.now();
    let id = ids::new(now);
    sqlx::query!(
        "INSERT INTO refunds (id, payment_id, amount_minor, reason, state, created_at, updated_at) VALUES ($1, $2, $3, $4, 'pending', $5, $5)",
        id,
        payment_id,
        amount_minor,
        reason,
        now
    )
    .execute(tx.conn())
    .await?;
    Ok(id)
}

/// What of a booking's total is the platform's: the guest's service fee and the host's fee, in minor units.
pub(super) async fn platform_fees(tx: &mut Tx, booking_id: Uuid) -> Result<i64, sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT price_lines AS "price_lines: Json<Vec<PriceLine>>", host_fee_minor FROM bookings WHERE id = $1"#,
        booking_id
    )
    .fetch_one(tx.conn())
    .await?;
    let guest_fee: i64 = row
        .price_lines
        .iter()
        .filter(|line| line.kind == LineKind::GuestServiceFee)
        .map(|line| line.amount_minor)
        .sum();
    Ok(guest_fee + row.host_fee_minor)
}
