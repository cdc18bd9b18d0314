//! How jobs of each kind come about.

use anyhow::{Context as _, Result, bail, ensure};
use chrono::TimeDelta;
use roost_shared::{
    jobs::{
        Job,
        actions::{By, JobAction},
        bulk,
        catalogue::{CompleteStays, PruneOutbox, SweepOverdue, VerifyAudit},
        crash_point::Boundary,
        inspect, inspections,
        list::JobFilter,
    },
    payments,
    stripe::{Authorization, Gateway, StripeArgs},
};
use serde_json::json;
use uuid::Uuid;

use super::{
    super::{audit::Fate, jobs::Mark, market::Answer, testbed::Testbed},
    Scene,
    plan::Cell,
};

/// Kinds that every booking brings about.
const OF_A_BOOKING: [&str; 6] = [
    "booking.confirm",
    "cache.warm",
    "mail.send",
    "payment.authorize",
    "payment.capture",
    "stripe.event.handle",
];

/// Bookings that would have been needed.
#[derive(Default)]
pub(super) struct Shortage {
    /// Whose jobs are wanted, not they themselves.
    any: usize,
    /// To do something to.
    paid: usize,
    /// The same, waiting for their host.
    requests: usize,
}

impl Shortage {
    fn more(&mut self, count: usize) {
        self.any = self.any.max(count);
    }
}

impl Scene {
    /// Does what brings about jobs of this kind that come to the boundaries that are wanted. Some need a booking first, and
    /// come about in a later round.
    pub(super) async fn supply(&mut self, testbed: &Testbed, kind: &str, wanted: &[Cell]) -> Result<()> {
        let db = testbed.db()?;
        let count = wanted.len();
        let calls = wanted.iter().filter(|cell| cell.call.is_some()).count();
        let steps = wanted.iter().filter(|cell| cell.is(Boundary::BeforeStep)).count();
        let releases = wanted.iter().filter(|cell| cell.releases()).count();
        match kind {
            "stripe.event.handle" if calls + steps > 0 => self.leave_strays(testbed, calls + steps).await?,
            "mail.send" if steps > 0 => self.sign_up(testbed).await?,
            "payment.authorize" if releases > 0 => self.ask_in_vain(testbed, releases).await?,
            // No other capture has a step before its end.
            "payment.capture" if releases + steps > 0 => self.refuse_captures(testbed, releases + steps).await?,
            kind if OF_A_BOOKING.contains(&kind) => self.short_of.more(count),
            "payment.refund" => {
                for (number, id) in self.paid(testbed, count, Fate::Refunded).await? {
                    self.market.cancel(number, id).await?;
                }
            }
            "payment.void" => {
                for (number, id) in self.waiting(testbed, count, Fate::Released).await? {
                    self.market.cancel(number, id).await?;
                }
            }
            "booking.expire_hold" => {
                for (_, id) in self.waiting(testbed, count, Fate::Expired).await? {
                    sqlx::query("UPDATE bookings SET approval_expires_at = now() - interval '1 second' WHERE id = $1")
                        .bind(id)
                        .execute(&testbed.pool)
                        .await?;
                }
                bring_forward(testbed, kind).await?;
            }
            "stays.complete" | "review.open" | "review.remind" | "review.publish" => {
                self.stay_and_review(testbed, kind, count).await?;
            }
            "message.notify" => {
                for (number, id) in self.paid(testbed, count, Fate::Captured).await? {
                    self.market.write(number, id).await?;
                }
                bring_forward(testbed, kind).await?;
            }
            "ops.bulk" => {
                for _ in 0..count {
                    cancel_in_bulk(testbed).await?;
                }
            }
            "effect.inspect" => {
                if ask_stripe(testbed, count).await? == 0 {
                    self.short_of.more(1);
                }
            }
            "outbox.prune" => {
                let mut tx = db.begin().await?;
                tx.enqueue(&PruneOutbox {});
                tx.commit().await?;
            }
            "audit.verify" => {
                let mut tx = db.begin().await?;
                tx.enqueue(&VerifyAudit {});
                tx.commit().await?;
            }
            "overdue.sweep" => {
                let mut tx = db.begin().await?;
                tx.enqueue(&SweepOverdue {});
                tx.commit().await?;
            }
            other => bail!("nobody knows how {other} comes about: say so here"),
        }
        Ok(())
    }

    /// Makes the bookings that were missing in a round, unless they are on their way.
    pub(super) async fn restock(&mut self, testbed: &Testbed) -> Result<()> {
        let short = std::mem::take(&mut self.short_of);
        let untouched = self.asked.iter().filter_map(|one| match one.answer {
            Answer::Booked(id) if !self.fates.contains_key(&id) => Some(id),
            _ => None,
        });
        let untouched: Vec<Uuid> = untouched.collect();
        let (held, paid, requests): (i64, i64, i64) = sqlx::query_as(
            "SELECT count(*) FILTER (WHERE state = 'held'), count(*) FILTER (WHERE instant_book), count(*) FILTER (WHERE NOT instant_book)
             FROM bookings WHERE id = ANY($1) AND state IN ('held', 'pending_approval', 'confirmed')",
        )
        .bind(&untouched)
        .fetch_one(&testbed.pool)
        .await?;
        let any = if held == 0 { short.any } else { 0 };
        self.book(any.max(short.paid.saturating_sub(usize::try_from(paid)?)))
            .await?;
        let requests = short.requests.saturating_sub(usize::try_from(requests)?);
        if requests > 0 {
            self.asked
                .extend(self.market.ask_a_careful_host(requests as u64).await?);
        }
        Ok(())
    }

    async fn book(&mut self, count: usize) -> Result<()> {
        for _ in 0..count {
            let number = self.next;
            self.next += 1;
            self.asked
                .push(self.market.ask(number, self.market.wish(number)).await?);
        }
        Ok(())
    }

    /// Bookings in this state that nothing was done to, with who made them; from now on they are meant to end so.
    pub(super) async fn take(
        &mut self,
        testbed: &Testbed,
        state: &str,
        payment: &str,
        count: usize,
        fate: Fate,
    ) -> Result<Vec<(usize, Uuid)>> {
        let ready: Vec<Uuid> = sqlx::query_scalar(
            "SELECT bookings.id FROM bookings JOIN payments ON payments.booking_id = bookings.id WHERE bookings.state = $1 AND payments.state = $2
             -- Its mails are out.
             AND NOT EXISTS (SELECT FROM jobs WHERE args->>'subject_id' = bookings.id::text AND state <> 'succeeded')",
        )
        .bind(state)
        .bind(payment)
        .fetch_all(&testbed.pool)
        .await?;
        let mut taken = Vec::new();
        for one in &self.asked {
            let Answer::Booked(id) = one.answer else { continue };
            if taken.len() < count && ready.contains(&id) && !self.fates.contains_key(&id) {
                self.fates.insert(id, fate);
                taken.push((one.number, id));
            }
        }
        Ok(taken)
    }

    async fn paid(&mut self, testbed: &Testbed, count: usize, fate: Fate) -> Result<Vec<(usize, Uuid)>> {
        let taken = self.take(testbed, "confirmed", "captured", count, fate).await?;
        self.short_of.paid += count - taken.len();
        Ok(taken)
    }

    pub(super) async fn waiting(&mut self, testbed: &Testbed, count: usize, fate: Fate) -> Result<Vec<(usize, Uuid)>> {
        let taken = self
            .take(testbed, "pending_approval", "authorized", count, fate)
            .await?;
        self.short_of.requests += count - taken.len();
        Ok(taken)
    }

    /// PaymentIntents for payments that have another one, as when the reply to a creation was lost: the event that tells of
    /// it has them cancelled.
    async fn leave_strays(&mut self, testbed: &Testbed, count: usize) -> Result<()> {
        let paid: Vec<Uuid> = sqlx::query_scalar("SELECT id FROM payments WHERE state = 'captured' LIMIT $1")
            .bind(i64::try_from(count)?)
            .fetch_all(&testbed.pool)
            .await?;
        if paid.is_empty() {
            self.short_of.more(1);
        }
        let stripe = Gateway::new(&StripeArgs {
            stripe_secret_key: Some("sk_test_chaos".into()),
            stripe_api_base: testbed.sandbox_url("/"),
        })?;
        for id in paid {
            let mut connection = testbed.pool.acquire().await?;
            let payment = payments::get(&mut connection, id).await?;
            let payment = payment.context("the payment is gone")?;
            let request = Authorization {
                booking_id: payment.booking_id,
                payment_id: payment.id,
                amount_minor: payment.amount_minor,
                currency: payment.currency,
                payment_method: &payment.payment_method,
            };
            stripe.create(&format!("stray:{}", Uuid::new_v4()), &request).await?;
        }
        Ok(())
    }

    /// Somebody new, whose address is to be verified.
    async fn sign_up(&self, testbed: &Testbed) -> Result<()> {
        let email = format!("newcomer-{}@example.com", Uuid::new_v4());
        let user = json!({"email": email, "password": "correct horse battery staple", "full_name": "Ada Lovelace", "role": "guest"});
        let reply = testbed.http.post(testbed.api_url("/users")).json(&user).send().await?;
        ensure!(reply.status() == 201, "registering: {}", reply.text().await?);
        Ok(())
    }

    /// Stays that are over, and what both sides say about them.
    async fn stay_and_review(&mut self, testbed: &Testbed, kind: &str, count: usize) -> Result<()> {
        match kind {
            "review.remind" if bring_forward(testbed, kind).await? > 0 => return Ok(()),
            "review.publish" => {
                let over: Vec<Uuid> = sqlx::query_scalar(
                    "SELECT id FROM bookings WHERE state = 'completed' AND NOT EXISTS (SELECT FROM reviews WHERE booking_id = bookings.id)",
                )
                .fetch_all(&testbed.pool)
                .await?;
                let over = self.asked.iter().filter_map(|one| match one.answer {
                    Answer::Booked(id) if over.contains(&id) => Some((one.number, id)),
                    _ => None,
                });
                let over: Vec<_> = over.take(count).collect();
                for (number, id) in &over {
                    self.market.review(*number, *id).await?;
                }
                if !over.is_empty() {
                    return Ok(());
                }
            }
            _ => {}
        }
        for (_, id) in self.paid(testbed, count, Fate::Completed).await? {
            sqlx::query("UPDATE bookings SET stay = daterange(lower(stay) - 35, upper(stay) - 35) WHERE id = $1")
                .bind(id)
                .execute(&testbed.pool)
                .await?;
        }
        let mut tx = testbed.db()?.begin().await?;
        tx.enqueue(&CompleteStays {});
        tx.commit().await?;
        Ok(())
    }
}

/// Has the jobs of a kind that wait for later run now. How many there were.
async fn bring_forward(testbed: &Testbed, kind: &str) -> Result<u64> {
    let done = sqlx::query(
        "UPDATE jobs SET run_at = now() WHERE kind = $1 AND state = 'scheduled'
         -- A request to book is given up only when its host had the time to answer.
         AND (kind <> 'booking.expire_hold'
              OR args->>'booking_id' IN (SELECT id::text FROM bookings WHERE approval_expires_at < now()))",
    )
    .bind(kind)
    .execute(&testbed.pool)
    .await?;
    Ok(done.rows_affected())
}

/// Has an operator ask Stripe about captures that nobody has asked about. How many there were.
async fn ask_stripe(testbed: &Testbed, count: usize) -> Result<usize> {
    let jobs: Vec<Uuid> = sqlx::query_scalar(
        "SELECT DISTINCT job_id FROM effects JOIN jobs ON jobs.id = job_id
         WHERE key LIKE 'capture:%' AND NOT EXISTS (SELECT FROM effect_inspections WHERE effect_key = key) LIMIT $1",
    )
    .bind(i64::try_from(count)?)
    .fetch_all(&testbed.pool)
    .await?;
    for id in &jobs {
        let detail = inspect::inspect(&testbed.pool, *id).await?.context("the job is gone")?;
        let by = By {
            actor: "chaos@example.com",
            reason: None,
        };
        let mut tx = testbed.db()?.begin().await?;
        inspections::ask(&mut tx, &detail, by).await?;
        tx.commit().await?;
    }
    Ok(jobs.len())
}

/// Schedules a job for later and has an operator cancel all of its kind.
async fn cancel_in_bulk(testbed: &Testbed) -> Result<()> {
    let mut tx = testbed.db()?.begin().await?;
    let later = tx.now() + TimeDelta::days(1);
    let nonce = Uuid::new_v4();
    tx.enqueue_at(&Mark { nonce, hold_ms: 0 }, later);
    tx.commit().await?;
    let mut tx = testbed.db()?.begin().await?;
    let filter = JobFilter {
        kind: Some(Mark::KIND.to_owned()),
        ..JobFilter::default()
    };
    let by = By {
        actor: "chaos@example.com",
        reason: Some("not wanted any more"),
    };
    bulk::begin(&mut tx, &filter, JobAction::Cancel, 1, by).await?;
    tx.commit().await?;
    Ok(())
}
