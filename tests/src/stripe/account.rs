//! The state of the one Stripe account the sandbox plays, and the context operations run in.
//!
//! An operation is a method on [`Call`], spread over one file a resource. It runs under the
//! account's lock and is therefore atomic, as a request at Stripe is.

use std::collections::BTreeSet;

use serde_json::Value;

use super::balance::BalanceTransaction;
use super::charges::Charge;
use super::disputes::Dispute;
use super::events::Event;
use super::payment_intents::PaymentIntent;
use super::payment_methods::PaymentMethod;
use super::refunds::Refund;
use super::table::Table;

/// Everything the account holds.
#[derive(Debug, Default)]
pub(super) struct Account {
    pub payment_intents: Table<PaymentIntent>,
    pub payment_methods: Table<PaymentMethod>,
    pub charges: Table<Charge>,
    pub refunds: Table<Refund>,
    pub disputes: Table<Dispute>,
    pub balance_transactions: Table<BalanceTransaction>,
    pub events: Table<Event>,
    /// Uncaptured authorisations by the instant they lapse.
    pub open_authorisations: BTreeSet<(i64, String)>,
    /// Ids of events not yet handed to webhook delivery.
    pub outbox: Vec<String>,
}

/// The request that causes a change, as events quote it; empty for what Stripe does by itself.
#[derive(Clone, Debug, Default)]
pub(super) struct RequestRef {
    pub id: Option<String>,
    pub idempotency_key: Option<String>,
}

/// What operations need to know besides the state.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub base_url: String,
    pub api_version: String,
    pub authorisation_lifetime_seconds: i64,
    pub fee_basis_points: i64,
}

/// One operation on the account: at an instant, for a request.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub account: &'a mut Account,
    pub settings: &'a Settings,
    pub now: i64,
    pub request: RequestRef,
}

impl Account {
    /// The JSON of whichever object has this id, as of `now`.
    pub fn render(&self, id: &str, now: i64) -> Option<Value> {
        let (prefix, _) = id.split_once('_')?;
        match prefix {
            "pi" => self.payment_intents.find(id).map(PaymentIntent::to_json),
            "pm" => self.payment_methods.find(id).map(PaymentMethod::to_json),
            "ch" => self.charges.find(id).map(Charge::to_json),
            "re" => self.refunds.find(id).map(Refund::to_json),
            "dp" => self.render_dispute(id, now),
            "txn" => self.balance_transactions.find(id).map(|txn| txn.to_json(now)),
            _ => None,
        }
    }

    fn render_dispute(&self, id: &str, now: i64) -> Option<Value> {
        let dispute = self.disputes.find(id)?;
        let transactions = dispute.balance_transactions.iter();
        let transactions: Vec<Value> = transactions.filter_map(|txn| self.render(txn, now)).collect();
        Some(dispute.to_json(&transactions))
    }
}
