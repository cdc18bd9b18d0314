//! `effect.inspect`: looks up at Stripe what became of an effect, for an operator who asked. It reads and nothing else. A
//! Stripe that cannot be read is an answer too, and so is an effect that names nothing to read: who asked sees it at once.

use roost_shared::jobs::Lease;
use roost_shared::jobs::catalogue::InspectEffect;
use roost_shared::jobs::inspections::{self, Asked, AtStripe};
use roost_shared::payments;
use uuid::Uuid;

use crate::context::Context;
use crate::error::JobError;
use crate::handler::{DONE, Done, Handler};

impl Handler for InspectEffect {
    async fn run(self, ctx: &Context, lease: Lease) -> Result<Done, JobError> {
        let Some(asked) = inspections::asked(ctx.db.pool(), &self.effect_key).await? else {
            return Ok(DONE);
        };
        let answer = look(ctx, &self.effect_key, &asked).await?;
        let mut tx = ctx.db.begin().await?;
        let told = answer.as_ref().map_err(String::as_str);
        inspections::answer(&mut tx, &self.effect_key, &asked, told).await?;
        lease.complete(&mut tx).await?;
        tx.commit().await?;
        Ok(Done::Settled)
    }
}

async fn look(ctx: &Context, key: &str, asked: &Asked) -> Result<Result<AtStripe, String>, JobError> {
    let Some(payment_id) = asked.payment_id else {
        return Ok(Err("the effect belongs to no payment".to_owned()));
    };
    let mut connection = ctx.db.pool().acquire().await?;
    let Some(payment) = payments::get(&mut connection, payment_id).await? else {
        return Ok(Err("the effect's payment is missing".to_owned()));
    };
    let (kind, of) = key.split_once(':').unwrap_or((key, ""));
    let refund = match (kind, of.parse::<Uuid>()) {
        ("refund", Ok(refund_id)) => payments::refund(&mut connection, refund_id).await?,
        _ => None,
    };
    drop(connection);
    // A stray PaymentIntent is released under its own id.
    let intent_id = if of.starts_with("pi_") {
        Some(of)
    } else {
        payment.stripe_payment_intent_id.as_deref()
    };
    let Some(intent_id) = intent_id else {
        return Ok(Ok(AtStripe::NoIntent));
    };
    if let Some(refund) = refund {
        let found = match &refund.stripe_refund_id {
            Some(id) => ctx.stripe.read_refund(id).await.map(Some),
            None => ctx.stripe.refund_made_for(refund.id, intent_id).await,
        };
        return Ok(found
            .map(|found| AtStripe::refund(found, payment.currency))
            .map_err(|failure| failure.to_string()));
    }
    let found = ctx.stripe.intent(intent_id).await;
    Ok(found
        .map(|intent| AtStripe::intent(intent, payment.currency))
        .map_err(|failure| failure.to_string()))
}
