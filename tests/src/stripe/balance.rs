//! The account's balance: a transaction for every movement of money, pending for two days.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::account::Call;
use super::errors::ApiError;
use super::ids::new_id;
use super::params::Params;
use super::table::{Paging, Row, list_object};

const SETTLEMENT_SECONDS: i64 = 2 * 24 * 60 * 60;

/// A movement on the balance; `net = amount - fee`.
#[derive(Debug)]
pub(super) struct BalanceTransaction {
    pub id: String,
    pub created: i64,
    available_on: i64,
    amount: i64,
    fee: i64,
    currency: String,
    kind: &'static str,
    source: String,
}

impl Row for BalanceTransaction {
    const KIND: &'static str = "balance_transaction";
    fn id(&self) -> &str {
        &self.id
    }
    fn created(&self) -> i64 {
        self.created
    }
}

impl BalanceTransaction {
    /// The JSON as of an instant, which decides between pending and available.
    pub fn to_json(&self, now: i64) -> Value {
        let fees = if self.fee == 0 {
            json!([])
        } else {
            json!([{"amount": self.fee, "application": null, "currency": self.currency,
                    "description": "Stripe processing fees", "type": "stripe_fee"}])
        };
        json!({
            "id": self.id,
            "object": "balance_transaction",
            "amount": self.amount,
            "available_on": self.available_on,
            "balance_type": "payments",
            "created": self.created,
            "currency": self.currency,
            "description": null,
            "exchange_rate": null,
            "fee": self.fee,
            "fee_details": fees,
            "net": self.amount - self.fee,
            "reporting_category": match self.kind {
                "adjustment" => "dispute",
                "refund_failure" => "refund_failure",
                kind => kind,
            },
            "source": self.source,
            "status": if self.available_on <= now { "available" } else { "pending" },
            "type": self.kind,
        })
    }
}

impl Call<'_> {
    /// Books a movement; `amount` is negative for money that leaves. Returns its id.
    pub fn book(&mut self, kind: &'static str, amount: i64, currency: &str, source: &str) -> String {
        let fee = match kind {
            "charge" => (amount * self.settings.fee_basis_points + 5_000) / 10_000,
            _ => 0,
        };
        let wait = if amount > 0 { SETTLEMENT_SECONDS } else { 0 };
        let transaction = BalanceTransaction {
            id: new_id("txn"),
            created: self.now,
            available_on: self.now + wait,
            amount,
            fee,
            currency: currency.to_owned(),
            kind,
            source: source.to_owned(),
        };
        let id = transaction.id.clone();
        self.account.balance_transactions.insert(transaction);
        id
    }

    pub fn get_balance(&mut self, params: Params) -> Result<Value, ApiError> {
        params.finish()?;
        let mut totals: BTreeMap<&str, (i64, i64)> = BTreeMap::new();
        for transaction in self.account.balance_transactions.iter() {
            let (available, pending) = totals.entry(&transaction.currency).or_default();
            let net = transaction.amount - transaction.fee;
            if transaction.available_on <= self.now {
                *available += net;
            } else {
                *pending += net;
            }
        }
        if totals.is_empty() {
            totals.insert("usd", (0, 0));
        }
        let line = |currency: &str, amount: i64| json!({"amount": amount, "currency": currency, "source_types": {"card": amount}});
        let available: Vec<Value> = totals
            .iter()
            .map(|(currency, (amount, _))| line(currency, *amount))
            .collect();
        let pending: Vec<Value> = totals
            .iter()
            .map(|(currency, (_, amount))| line(currency, *amount))
            .collect();
        Ok(json!({
            "object": "balance",
            "available": available,
            "livemode": false,
            "pending": pending,
        }))
    }

    pub fn get_balance_transaction(&mut self, id: &str, params: Params) -> Result<Value, ApiError> {
        params.finish()?;
        Ok(self.account.balance_transactions.get(id)?.to_json(self.now))
    }

    pub fn list_balance_transactions(&mut self, mut params: Params) -> Result<Value, ApiError> {
        let paging = Paging::read(&mut params)?;
        let source = params.text("source")?;
        let kind = params.text("type")?;
        params.finish()?;
        let wanted = |txn: &BalanceTransaction| {
            source.as_ref().is_none_or(|source| *source == txn.source)
                && kind.as_ref().is_none_or(|kind| kind == txn.kind)
        };
        let (rows, more) = self.account.balance_transactions.page(&paging, wanted)?;
        let data = rows.into_iter().map(|txn| txn.to_json(self.now)).collect();
        Ok(list_object("/v1/balance_transactions", data, more))
    }
}
