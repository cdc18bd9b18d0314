//! A call that moves money, in three phases: the intent is committed, Stripe is called with no transaction open, and
//! the caller commits the result. Here are the first two, and what is done about outcomes that nobody knows.

use std::future::Future;

use chrono::TimeDelta;
use roost_shared::jobs::Lease;
use roost_shared::jobs::crash_point::{self, Boundary};
use roost_shared::jobs::effects::{self, Effect};
use roost_shared::stripe::Failure;
use uuid::Uuid;

use crate::context::Context;
use crate::error::JobError;
use crate::handler::Done;

/// Commits the intent to do `key` for a payment. `name`: what is going to be asked of Stripe.
pub(super) async fn begin(
    ctx: &Context,
    lease: &Lease,
    name: &'static str,
    key: &str,
    payment_id: Uuid,
) -> Result<Effect, JobError> {
    let effect = effects::begin(ctx.db.pool(), lease, key, payment_id, ctx.clock().now()).await?;
    crash_point::reach(lease.job_id, Boundary::AfterIntent(name));
    Ok(effect)
}

/// Stripe forgets idempotency keys after a day; until then the same key is safe.
const KEY_IS_SAFE_FOR: TimeDelta = TimeDelta::hours(23);

/// Whether only Stripe itself can tell what became of an earlier call: its key is spent, or forgotten by now.
pub(super) fn must_look_first(ctx: &Context, effect: &Effect) -> bool {
    !effect.fresh && (effect.generation > 0 || ctx.clock().now() - effect.first_sent_at >= KEY_IS_SAFE_FOR)
}

/// The idempotency key to send. Stripe repeats a failure of its own under the same key for a day, so after one of
/// those, once it is known that nothing was done, the next key of the series is used.
pub(super) fn idempotency_key(key: &str, effect: &Effect) -> String {
    if effect.generation == 0 {
        key.to_owned()
    } else {
        format!("{key}:r{}", effect.generation)
    }
}

/// Makes the call. When nobody can know its outcome, that is recorded before the attempt ends.
pub(super) async fn call<T>(
    ctx: &Context,
    lease: &Lease,
    name: &'static str,
    key: &str,
    request: impl Future<Output = Result<T, Failure>> + Send,
) -> Result<Result<T, Failure>, JobError> {
    let failure = match request.await {
        Ok(reply) => {
            crash_point::reach(lease.job_id, Boundary::AfterCall(name));
            return Ok(Ok(reply));
        }
        Err(failure) => failure,
    };
    let outcome = match &failure {
        Failure::Unknown(error) => {
            effects::unknown(ctx.db.pool(), lease, key, error, false).await?;
            "unknown"
        }
        Failure::Broken(error) => {
            effects::unknown(ctx.db.pool(), lease, key, error, true).await?;
            "broken"
        }
        Failure::Busy(_) => "busy",
        Failure::Declined(..) | Failure::UnexpectedState(_) | Failure::Refused(_) => return Ok(Err(failure)),
    };
    // These calls are repeated practically without end: somebody has to see that they are.
    metrics::counter!("roost_stripe_calls_failed_total", "outcome" => outcome).increment(1);
    Err(failure.into())
}

/// Ends a job whose work is on record already: a webhook told of it before the attempt that called could, because its
/// worker died. What that attempt left open is closed: each of its `calls` by whether the record says that it was done.
pub(super) async fn on_record(ctx: &Context, lease: Lease, calls: &[(String, bool)]) -> Result<Done, JobError> {
    let mut tx = ctx.db.begin().await?;
    for (key, done) in calls {
        effects::close(&mut tx, key, *done).await?;
    }
    lease.complete(&mut tx).await?;
    tx.commit().await?;
    Ok(Done::Settled)
}
