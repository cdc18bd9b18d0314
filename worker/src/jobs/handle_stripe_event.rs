//! `stripe.event.handle`: an event only says where to look. The object's current state at Stripe decides, so events
//! that come late, twice or in another order do no harm.

use roost_shared::bookings::Actor;
use roost_shared::jobs::Lease;
use roost_shared::jobs::catalogue::HandleStripeEvent;
use roost_shared::payments;
use roost_shared::stripe::{Failure, events};

use crate::context::Context;
use crate::error::JobError;
use crate::handler::{DONE, Done, Handler};

impl Handler for HandleStripeEvent {
    async fn run(self, ctx: &Context, lease: Lease) -> Result<Done, JobError> {
        let mut connection = ctx.db.pool().acquire().await?;
        let Some(event) = events::get(&mut connection, &self.event_id).await? else {
            return Ok(DONE);
        };
        let payment = payments::by_intent(&mut connection, &event.object_id).await?;
        drop(connection);
        let intent = match payment {
            // Not one of ours, or its authorisation is still on its way and will see the state itself.
            None => None,
            Some(_) => match ctx.stripe.intent(&event.object_id).await {
                Ok(intent) => Some(intent),
                Err(Failure::Refused(reason)) => {
                    tracing::warn!(event_id = event.id, reason, "the event's object cannot be read");
                    None
                }
                Err(failure) => return Err(failure.into()),
            },
        };
        let mut tx = ctx.db.begin().await?;
        if let (Some(payment), Some(intent)) = (payment, intent)
            && let Some(current) = payments::lock(&mut tx, payment.id).await?
        {
            payments::follow(&mut tx, &current, &intent, Actor::Stripe).await?;
        }
        events::mark_handled(&mut tx, &event.id).await?;
        lease.complete(&mut tx).await?;
        tx.commit().await?;
        Ok(Done::Settled)
    }
}
