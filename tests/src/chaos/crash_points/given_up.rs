//! Payments that their own job gives up half way, and releases the card: a guest calls a booking off when its PaymentIntent is
//! there and not confirmed yet, and a bank does not pay what it had reserved.

use anyhow::Result;
use serde_json::json;
use uuid::Uuid;

use super::{
    super::{audit::Fate, market::Answer, testbed::Testbed},
    Scene,
};

const FAULTS: &str = "/_control/faults";

impl Scene {
    /// Has guests ask for a careful host's nights while Stripe confirms nothing, to call them off by
    /// [`Self::call_off`]. With that host a booking ends in the same way should the card have been asked.
    pub(super) async fn ask_in_vain(&mut self, testbed: &Testbed, count: usize) -> Result<()> {
        if any_fault_is_left(testbed).await? {
            return Ok(());
        }
        let busy = json!({"match": {"method": "POST", "path_suffix": "/confirm"}, "kind": "429", "times": 1_000_000});
        testbed.tell_sandbox(FAULTS, &busy).await?;
        for one in self.market.ask_a_careful_host(count as u64).await? {
            if let Answer::Booked(id) = one.answer {
                self.fates.insert(id, Fate::Released);
                self.to_call_off.push((one.number, id));
            }
            self.asked.push(one);
        }
        Ok(())
    }

    /// Calls off what [`Self::ask_in_vain`] asked for, once Stripe has been told of it.
    pub(super) async fn call_off(&mut self, testbed: &Testbed) -> Result<()> {
        if self.to_call_off.is_empty() {
            return Ok(());
        }
        let ids: Vec<Uuid> = self.to_call_off.iter().map(|(_, id)| *id).collect();
        let known: Vec<Uuid> = sqlx::query_scalar(
            "SELECT booking_id FROM payments WHERE booking_id = ANY($1) AND stripe_payment_intent_id IS NOT NULL",
        )
        .bind(ids)
        .fetch_all(&testbed.pool)
        .await?;
        let (known, waiting) = self.to_call_off.drain(..).partition(|(_, id)| known.contains(id));
        self.to_call_off = waiting;
        let known: Vec<(usize, Uuid)> = known;
        for (number, id) in known {
            self.market.cancel(number, id).await?;
        }
        if self.to_call_off.is_empty() {
            let cleared = testbed.http.delete(testbed.sandbox_url(FAULTS)).send().await?;
            cleared.error_for_status()?;
        }
        Ok(())
    }

    /// Hosts take guests whose banks do not pay what they reserved.
    pub(super) async fn refuse_captures(&mut self, testbed: &Testbed, count: usize) -> Result<()> {
        if any_fault_is_left(testbed).await? {
            return Ok(());
        }
        for (_, id) in self.waiting(testbed, count, Fate::Unpaid).await? {
            let intent: String =
                sqlx::query_scalar("SELECT stripe_payment_intent_id FROM payments WHERE booking_id = $1")
                    .bind(id)
                    .fetch_one(&testbed.pool)
                    .await?;
            let capture = format!("/v1/payment_intents/{intent}/capture");
            let refusal = json!({"match": {"method": "POST", "path_prefix": capture}, "kind": "402"});
            testbed.tell_sandbox(FAULTS, &refusal).await?;
            self.market.approve(id).await?;
        }
        Ok(())
    }
}

/// One after the other: when bookings have been called off, all faults are cleared.
async fn any_fault_is_left(testbed: &Testbed) -> Result<bool> {
    let left = testbed.sandbox(FAULTS).await?;
    Ok(left.as_array().is_some_and(|left| !left.is_empty()))
}
