//! A whole Roost for one test: the API of [`TestApp`], a worker in this process, a Stripe and a mail server.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a step that fails ends the test that took it"
)]

use std::ops::Deref;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use roost_api::state::Settings;
use roost_shared::config::Secret;
use roost_shared::db::Db;
use roost_shared::jobs::{Publisher, Queue};
use roost_shared::operators::audit::SealKeys;
use roost_shared::redis::Redis;
use roost_shared::stripe::{Gateway, StripeArgs};
use roost_worker::email::{Links, Mailer};
use roost_worker::{Context, Registry, Worker};
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use crate::app::{Actor, JWT_SECRET, Reply, TestApp, WEBHOOK_SECRET};
use crate::mailbox::{Mailbox, MailboxConfig};
use crate::stripe::{PaymentRecord, SandboxConfig, StripeSandbox};

/// Long enough for a loaded machine; what is waited for usually comes within milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where the pages are that mails link to.
pub const WEB_URL: &str = "http://pages.roost.test";

/// See the module. Everything of [`TestApp`] is there as well.
pub struct World {
    /// Stripe.
    pub stripe: StripeSandbox,
    /// Where mail arrives.
    pub mailbox: Mailbox,
    worker: Option<Worker>,
    app: TestApp,
}

impl Deref for World {
    type Target = TestApp;

    fn deref(&self) -> &TestApp {
        &self.app
    }
}

impl World {
    /// With a worker for all queues.
    pub async fn start() -> Self {
        let mut world = Self::without_worker().await;
        world.start_worker();
        world
    }

    /// Jobs are enqueued and wait.
    pub async fn without_worker() -> Self {
        Self::without_worker_with(|_| {}).await
    }

    /// The same, with other settings.
    pub async fn without_worker_with(change: impl FnOnce(&mut Settings)) -> Self {
        let app = TestApp::start_with(change).await;
        let stripe = StripeSandbox::start(SandboxConfig::default()).await.unwrap();
        stripe.set_webhook(format!("{}/webhooks/stripe", app.url()), WEBHOOK_SECRET);
        let mailbox = Mailbox::start(MailboxConfig::default()).await.unwrap();
        Self {
            stripe,
            mailbox,
            worker: None,
            app,
        }
    }

    /// Starts the worker, unless it runs.
    pub fn start_worker(&mut self) {
        if self.worker.is_none() {
            self.worker = Some(self.another_worker(roost_worker::jobs::registry()));
        }
    }

    /// Stops the worker gracefully.
    pub async fn stop_worker(&mut self) {
        if let Some(worker) = self.worker.take() {
            worker.stop().await;
        }
    }

    /// One more worker on all queues, with the kinds of `registry`.
    pub fn another_worker(&self, registry: Registry) -> Worker {
        Worker::run(self.context(), registry, &Queue::ALL, 16, Duration::from_secs(10))
    }

    /// What a worker of this world is connected to.
    pub fn context(&self) -> Context {
        let stripe = StripeArgs {
            stripe_secret_key: Some(Secret::new("sk_test_roost")),
            stripe_api_base: self.stripe.base_url().to_owned(),
        };
        let sender = "Roost <no-reply@roost.example>";
        Context {
            db: self.db(),
            redis: self.redis(),
            stripe: Gateway::new(&stripe).unwrap(),
            mailer: Mailer::with_timeout(&self.mailbox.smtp_url(), sender, Duration::from_secs(3)).unwrap(),
            links: Links::new(&self.state.settings.public_url, WEB_URL),
            audit_seals: Some(SealKeys::derive(&Secret::new(JWT_SECRET), None).unwrap()),
        }
    }

    /// A pool and a publisher of their own, as another process has them.
    pub fn db(&self) -> Db {
        let pool = roost_shared::db::connect(self.database_url(), 10).unwrap();
        let publisher = Publisher::spawn(pool.clone(), &self.redis()).unwrap();
        Db::new(pool, publisher, self.clock.clone())
    }

    /// A connection to this test's Redis.
    pub fn redis(&self) -> Redis {
        Redis::new(self.redis_url(), "test").unwrap()
    }

    /// For looking at rows.
    pub fn pool(&self) -> &PgPool {
        self.state.db.pool()
    }

    /// The number that a query counts.
    pub async fn counts(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(self.pool()).await.unwrap()
    }

    /// Asks to book for two.
    pub async fn books(
        &self,
        guest: &Actor,
        property_id: Uuid,
        check_in: NaiveDate,
        check_out: NaiveDate,
        card: &str,
    ) -> Reply {
        let body = json!({
            "property_id": property_id, "check_in": check_in, "check_out": check_out, "guests": 2, "payment_method": card,
        });
        self.post("/bookings/", body).by(guest).send().await
    }

    /// The booking as one of its sides sees it.
    pub async fn booking(&self, actor: &Actor, id: Uuid) -> Value {
        self.get(&format!("/bookings/{id}/")).by(actor).send().await.expect(200)
    }

    /// The newest payment of a booking as its guest sees it.
    pub async fn payment(&self, guest: &Actor, booking_id: Uuid) -> Value {
        let page = self
            .get(&format!("/payments/?booking_id={booking_id}"))
            .by(guest)
            .send()
            .await
            .expect(200);
        let id = page["items"][0]["id"].as_str().unwrap().to_owned();
        self.get(&format!("/payments/{id}/")).by(guest).send().await.expect(200)
    }

    /// What happened to a booking, as its timeline names it.
    pub async fn events(&self, booking_id: Uuid) -> Vec<String> {
        sqlx::query_scalar("SELECT event FROM booking_events WHERE booking_id = $1 ORDER BY id")
            .bind(booking_id)
            .fetch_all(self.pool())
            .await
            .unwrap()
    }

    /// Waits until no job is due or running. What is scheduled for later stays.
    pub async fn run_jobs(&self) {
        self.eventually("all due jobs have run", async || {
            let left: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM jobs WHERE state IN ('queued', 'running', 'retrying') OR (state = 'scheduled' AND run_at <= now() + interval '5 seconds')",
            )
            .fetch_one(self.pool())
            .await
            .unwrap();
            left == 0
        })
        .await;
    }

    /// Moves the clocks on, and with them what is scheduled.
    pub async fn pass(&self, time: TimeDelta) {
        self.clock.advance(time);
        self.stripe.advance_clock(time.to_std().unwrap());
        sqlx::query(
            "UPDATE jobs SET run_at = run_at - make_interval(secs => $1) WHERE state IN ('scheduled', 'retrying')",
        )
        .bind(time.as_seconds_f64())
        .execute(self.pool())
        .await
        .unwrap();
    }

    /// Waits until `holds`, and fails with the jobs' errors if it never does.
    pub async fn eventually(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let asked = tokio::time::timeout(PATIENCE, async {
            let mut pause = tokio::time::interval(Duration::from_millis(10));
            loop {
                pause.tick().await;
                if holds().await {
                    break;
                }
            }
        });
        if asked.await.is_err() {
            let jobs: Vec<(String, String, i32, Option<String>)> = sqlx::query_as(
                "SELECT kind, state, attempt, last_error FROM jobs ORDER BY state = 'succeeded', created_at LIMIT 40",
            )
            .fetch_all(self.pool())
            .await
            .unwrap();
            panic!("not within {PATIENCE:?}: {what}; jobs: {jobs:#?}");
        }
    }

    /// The name of the worker that lives, when it has shown itself.
    pub async fn only_worker(&self) -> String {
        let mut living = Vec::new();
        self.eventually("one worker", async || {
            living = sqlx::query_scalar("SELECT name FROM workers WHERE stopped_at IS NULL")
                .fetch_all(self.pool())
                .await
                .unwrap();
            living.len() == 1
        })
        .await;
        living.remove(0)
    }

    /// Waits until every living worker has heeded what operators wanted before this call. A worker asks what they want
    /// when it shows itself, so it has heeded the answer when it shows itself once more.
    pub async fn workers_heed(&self) {
        for _ in 0..2 {
            let asked: DateTime<Utc> = sqlx::query_scalar("SELECT clock_timestamp()")
                .fetch_one(self.pool())
                .await
                .unwrap();
            self.eventually("each worker has shown itself", async || {
                let late: Option<bool> =
                    sqlx::query_scalar("SELECT bool_or(seen_at <= $1) FROM workers WHERE stopped_at IS NULL")
                        .bind(asked)
                        .fetch_one(self.pool())
                        .await
                        .unwrap();
                late == Some(false)
            })
            .await;
        }
    }

    /// How many jobs of a kind are in each state, as `state=count`.
    pub async fn jobs(&self, kind: &str) -> Vec<String> {
        let rows: Vec<(String, i64)> =
            sqlx::query_as("SELECT state, count(*) FROM jobs WHERE kind = $1 GROUP BY state ORDER BY state")
                .bind(kind)
                .fetch_all(self.pool())
                .await
                .unwrap();
        rows.into_iter()
            .map(|(state, count)| format!("{state}={count}"))
            .collect()
    }

    /// The balance of each account that has one; all together must be zero.
    pub async fn ledger(&self) -> Vec<(String, i64)> {
        let rows: Vec<(String, i64)> = sqlx::query_as(
            "SELECT account, sum(amount_minor)::bigint FROM ledger_entries GROUP BY account HAVING sum(amount_minor) <> 0 ORDER BY account",
        )
        .fetch_all(self.pool())
        .await
        .unwrap();
        assert_eq!(rows.iter().map(|(_, amount)| amount).sum::<i64>(), 0, "{rows:?}");
        rows
    }

    /// What Stripe itself has on record of a booking's newest payment.
    pub async fn at_stripe(&self, booking_id: Uuid) -> PaymentRecord {
        let id: String = sqlx::query_scalar(
            "SELECT stripe_payment_intent_id FROM payments WHERE booking_id = $1 AND stripe_payment_intent_id IS NOT NULL ORDER BY number DESC LIMIT 1",
        )
        .bind(booking_id)
        .fetch_one(self.pool())
        .await
        .unwrap();
        self.stripe.payment(&id).unwrap()
    }

    /// The subjects of the mails to somebody, oldest first.
    pub fn mails_to(&self, actor: &Actor) -> Vec<String> {
        let mut mails: Vec<_> = self
            .mailbox
            .messages()
            .into_iter()
            .filter(|mail| mail.is_to(&actor.email))
            .collect();
        mails.sort_by_key(|mail| mail.id);
        mails.iter().map(|mail| mail.subject.clone()).collect()
    }
}

/// The id of an object.
#[must_use]
pub fn id_of(object: &Value) -> Uuid {
    object["id"].as_str().expect("an id").parse().expect("a UUID")
}

/// What a host writes to list a flat: 100.00 a night, 20.00 for cleaning.
#[must_use]
pub fn a_flat() -> Value {
    json!({
        "title": "Bright flat by the canal",
        "description": "Two quiet rooms over the water, ten minutes from the station.",
        "city": "Berlin",
        "country": "DE",
        "latitude": 52.4934,
        "longitude": 13.4234,
        "time_zone": "Europe/Berlin",
        "currency": "EUR",
        "nightly_rate_minor": 10_000,
        "cleaning_fee_minor": 2_000,
        "max_guests": 4,
        "bedrooms": 1,
        "beds": 2,
        "bathrooms": 1,
        "amenities": ["wifi", "kitchen"],
        "house_rules": "No parties.",
        "check_in_from": "15:00",
        "check_out_by": "11:00",
        "min_nights": 1,
        "max_nights": 30,
        "instant_book": true,
        "cancellation_policy": "flexible",
        "status": "listed",
    })
}
