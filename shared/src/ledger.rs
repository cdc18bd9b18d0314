//! Double entry: what a capture or a refund moves between accounts. The database checks at commit that the entries
//! of a transaction sum to zero, and refuses any change of them.

use uuid::Uuid;

use crate::db::Tx;
use crate::ids;
use crate::money::Currency;

/// Where money lies or is owed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Account {
    /// Our balance at Stripe.
    StripeBalance,
    /// Owed to hosts.
    HostPayable,
    /// The platform's fees.
    PlatformRevenue,
}

impl Account {
    const fn name(self) -> &'static str {
        match self {
            Self::StripeBalance => "stripe_balance",
            Self::HostPayable => "host_payable",
            Self::PlatformRevenue => "platform_revenue",
        }
    }
}

/// Records a transaction once by its key. `entries` are debits (positive) and credits (negative) in minor units.
///
/// # Errors
/// Postgres refused; an unbalanced transaction is refused at commit.
pub async fn record(
    tx: &mut Tx,
    key: &str,
    booking_id: Uuid,
    currency: Currency,
    entries: &[(Account, i64)],
) -> Result<(), sqlx::Error> {
    let now = tx.now();
    let inserted = sqlx::query!(
        "INSERT INTO ledger_transactions (id, key, booking_id, created_at) VALUES ($1, $2, $3, $4) ON CONFLICT (key) DO NOTHING RETURNING id",
        ids::new(now),
        key,
        booking_id,
        now
    )
    .fetch_optional(tx.conn())
    .await?;
    let Some(transaction) = inserted else { return Ok(()) };
    let entries: Vec<_> = entries.iter().filter(|(_, amount)| *amount != 0).collect();
    let accounts: Vec<String> = entries.iter().map(|(account, _)| account.name().to_owned()).collect();
    let amounts: Vec<i64> = entries.iter().map(|(_, amount)| *amount).collect();
    sqlx::query!(
        "INSERT INTO ledger_entries (transaction_id, account, currency, amount_minor)
         SELECT $1, account, $2, amount FROM unnest($3::text[], $4::bigint[]) AS entry (account, amount)",
        transaction.id,
        currency.code(),
        &accounts,
        &amounts
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// What an account has of a booking: debits less credits, in minor units of the booking's currency.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn balance(tx: &mut Tx, booking_id: Uuid, account: Account) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT coalesce(sum(entry.amount_minor), 0)::bigint AS "balance!"
           FROM ledger_transactions AS transaction JOIN ledger_entries AS entry ON entry.transaction_id = transaction.id
           WHERE transaction.booking_id = $1 AND entry.account = $2"#,
        booking_id,
        account.name()
    )
    .fetch_one(tx.conn())
    .await
}

/// Records, once, the opposite of the transaction `of`.
///
/// # Errors
/// Postgres refused.
pub async fn reverse(tx: &mut Tx, of: &str, key: &str, booking_id: Uuid) -> Result<(), sqlx::Error> {
    let now = tx.now();
    sqlx::query!(
        "WITH reversal AS (
             INSERT INTO ledger_transactions (id, key, booking_id, created_at) VALUES ($1, $2, $3, $4)
             ON CONFLICT (key) DO NOTHING RETURNING id)
         INSERT INTO ledger_entries (transaction_id, account, currency, amount_minor)
         SELECT reversal.id, entry.account, entry.currency, -entry.amount_minor
         FROM reversal, ledger_transactions AS original JOIN ledger_entries AS entry ON entry.transaction_id = original.id
         WHERE original.key = $5",
        ids::new(now),
        key,
        booking_id,
        now,
        of
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}
