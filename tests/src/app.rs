//! A whole Roost for one test: its own database and Redis, the API and a worker in this process, a Stripe and a mail
//! server beside them. People act on it over HTTP.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use reqwest::{Method, StatusCode};
use roost_api::server::{self, Running};
use roost_api::state::{AppConfig, AppState, Settings};
use roost_shared::clock::Clock;
use roost_shared::config::Secret;
use roost_shared::db::Db;
use roost_shared::jobs::Queue;
use roost_shared::redis::Redis;
use roost_shared::stripe::{Gateway, StripeArgs};
use roost_worker::email::{Links, Mailer};
use roost_worker::{Registry, Worker};
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use crate::database::{TestDatabase, TestRedis};
use crate::mailbox::{Mailbox, MailboxConfig};
use crate::stripe::{SandboxConfig, StripeSandbox};

/// Signs the sandbox's webhooks.
pub const WEBHOOK_SECRET: &str = "whsec_test_secret_of_the_sandbox";
/// Long enough for a loaded machine; what is waited for usually comes within milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);
/// Everybody's password.
pub const PASSWORD: &str = "a long enough password";

/// See the module.
pub struct TestApp {
    /// The API's own state: pool, clock, keys.
    pub state: AppState,
    /// Moves the time of API and worker together.
    pub clock: Clock,
    /// Stripe.
    pub stripe: StripeSandbox,
    /// Where mail arrives.
    pub mailbox: Mailbox,
    /// `http://127.0.0.1:port`
    pub url: String,
    worker: Option<Worker>,
    api: Option<Running>,
    http: reqwest::Client,
    redis: TestRedis,
    prefix: String,
    database: TestDatabase,
}

impl TestApp {
    /// The API alone: jobs are enqueued and wait.
    pub async fn start() -> Result<Self> {
        Self::start_with(|_| {}).await
    }

    /// The API with other settings.
    pub async fn start_with(change: impl FnOnce(&mut Settings)) -> Result<Self> {
        let database = TestDatabase::create().await?;
        let redis = TestRedis::create().await?;
        let stripe = StripeSandbox::start(SandboxConfig::default()).await?;
        let mailbox = Mailbox::start(MailboxConfig::default()).await?;
        let clock = Clock::default();
        // Published messages reach all databases of a Redis, so the prefix is the test's own as well.
        let prefix = format!("test-{}", Uuid::new_v4().simple());
        let mut settings = Settings {
            public_url: "http://roost.test".to_owned(),
            cors_allowed_origins: vec!["https://app.example.com".to_owned()],
            client_ip_header: None,
            logins_per_minute: 0,
            registrations_per_hour: 0,
            stripe_webhook_secrets: vec![Secret::new(WEBHOOK_SECRET)],
        };
        change(&mut settings);
        let state = AppState::new(AppConfig {
            pool: roost_shared::db::connect(database.url(), 10)?,
            redis: Redis::new(redis.url(), &prefix)?,
            clock: clock.clone(),
            jwt_secret: Secret::new("a secret of at least 32 bytes for tests"),
            jwt_secret_previous: None,
            settings,
        })?;
        let api = server::start(state.clone(), "127.0.0.1:0").await?;
        let url = format!("http://{}", api.address());
        stripe.set_webhook(format!("{url}/webhooks/stripe"), WEBHOOK_SECRET);
        let http = reqwest::Client::builder().timeout(PATIENCE).build()?;
        Ok(Self {
            state,
            clock,
            stripe,
            mailbox,
            url,
            worker: None,
            api: Some(api),
            http,
            redis,
            prefix,
            database,
        })
    }

    /// The API and a worker for all queues.
    pub async fn working() -> Result<Self> {
        let mut app = Self::start().await?;
        app.start_worker()?;
        Ok(app)
    }

    /// Starts the worker, if none runs.
    pub fn start_worker(&mut self) -> Result<()> {
        if self.worker.is_none() {
            self.worker = Some(self.another_worker(roost_worker::jobs::registry())?);
        }
        Ok(())
    }

    /// Stops the worker gracefully.
    pub async fn stop_worker(&mut self) {
        if let Some(worker) = self.worker.take() {
            worker.stop().await;
        }
    }

    /// One more worker on the same queues, with the kinds of `registry`.
    pub fn another_worker(&self, registry: Registry) -> Result<Worker> {
        let ctx = roost_worker::Context {
            db: self.db()?,
            redis: self.redis()?,
            stripe: Gateway::new(&StripeArgs {
                stripe_secret_key: "sk_test_roost".to_owned(),
                stripe_api_base: self.stripe.base_url().to_owned(),
            })?,
            mailer: Mailer::with_timeout(
                &self.mailbox.smtp_url(),
                "Roost <no-reply@roost.example>",
                Duration::from_secs(3),
            )?,
            links: Links::new(&self.state.settings.public_url),
        };
        Ok(Worker::run(ctx, registry, &Queue::ALL, 16, Duration::from_secs(10)))
    }

    /// A pool and a publisher of their own, as another process has them.
    pub fn db(&self) -> Result<Db> {
        let pool = roost_shared::db::connect(self.database.url(), 10)?;
        let publisher = roost_shared::jobs::Publisher::spawn(pool.clone(), &self.redis()?)?;
        Ok(Db::new(pool, publisher, self.clock.clone()))
    }

    /// A connection to this test's Redis.
    pub fn redis(&self) -> Result<Redis> {
        Ok(Redis::new(self.redis.url(), &self.prefix)?)
    }

    /// For looking at rows.
    pub fn pool(&self) -> &PgPool {
        self.state.db.pool()
    }

    /// This test's Postgres database.
    pub fn database_url(&self) -> &str {
        self.database.url()
    }

    /// This test's Redis database.
    pub fn redis_url(&self) -> &str {
        self.redis.url()
    }

    /// The prefix of this test's Redis keys.
    pub fn redis_prefix(&self) -> &str {
        &self.prefix
    }

    /// A request by nobody in particular.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url))
    }

    /// GET by nobody in particular.
    pub async fn get(&self, path: &str) -> Result<Reply> {
        Reply::of(self.request(Method::GET, path)).await
    }

    /// POST of JSON by nobody in particular.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Reply> {
        Reply::of(self.request(Method::POST, path).json(body)).await
    }

    /// Registers and signs in.
    pub async fn person(&self, role: &str, full_name: &str) -> Result<Person> {
        let email = format!("{}@example.com", Uuid::new_v4().simple());
        let body = json!({"email": email, "password": PASSWORD, "full_name": full_name, "role": role});
        let registered = self.post("/users/", &body).await?.expect(StatusCode::CREATED)?;
        let id = registered.id()?;
        let login = self
            .post("/auth/login", &json!({"email": email, "password": PASSWORD}))
            .await?
            .expect(StatusCode::OK)?;
        let token = login.body["access_token"]
            .as_str()
            .context("an access token")?
            .to_owned();
        Ok(Person {
            id,
            email,
            token,
            http: self.http.clone(),
            url: self.url.clone(),
        })
    }

    /// A host, signed in.
    pub async fn host(&self) -> Result<Person> {
        self.person("host", "Hanna Host").await
    }

    /// A guest, signed in.
    pub async fn guest(&self) -> Result<Person> {
        self.person("guest", "Gus Guest").await
    }

    /// Today's date plus some days, UTC: far enough from now, it is the future everywhere.
    pub fn day(&self, days: i64) -> NaiveDate {
        (self.clock.now() + TimeDelta::days(days)).date_naive()
    }

    /// Waits until no job is due or running. What is scheduled for later stays.
    pub async fn run_jobs(&self) -> Result<()> {
        self.eventually("all due jobs have run", async || {
            let left: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM jobs WHERE state IN ('queued', 'running', 'retrying') OR (state = 'scheduled' AND run_at <= now())",
            )
            .fetch_one(self.pool())
            .await?;
            Ok(left == 0)
        })
        .await
    }

    /// Moves the clocks on, and with them what is scheduled.
    pub async fn pass(&self, time: TimeDelta) -> Result<()> {
        self.clock.advance(time);
        self.stripe.advance_clock(time.to_std()?);
        sqlx::query(
            "UPDATE jobs SET run_at = run_at - make_interval(secs => $1) WHERE state IN ('scheduled', 'retrying')",
        )
        .bind(time.as_seconds_f64())
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// Waits until `holds`, and fails with the jobs' errors if it never does.
    pub async fn eventually(&self, what: &str, mut holds: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
        let asked = tokio::time::timeout(PATIENCE, async {
            let mut pause = tokio::time::interval(Duration::from_millis(10));
            loop {
                pause.tick().await;
                if holds().await? {
                    return anyhow::Ok(());
                }
            }
        });
        match asked.await {
            Ok(result) => result,
            Err(_) => bail!(
                "not within {PATIENCE:?}: {what}; jobs: {:#?}",
                self.unfinished_jobs().await?
            ),
        }
    }

    async fn unfinished_jobs(&self) -> Result<Vec<(String, String, i32, Option<String>)>> {
        let rows = sqlx::query_as(
            "SELECT kind, state, attempt, last_error FROM jobs WHERE state NOT IN ('succeeded', 'scheduled') ORDER BY created_at LIMIT 20",
        );
        Ok(rows.fetch_all(self.pool()).await?)
    }

    /// How many jobs of a kind are in each state, as `state=count`.
    pub async fn jobs(&self, kind: &str) -> Result<Vec<String>> {
        let rows: Vec<(String, i64)> =
            sqlx::query_as("SELECT state, count(*) FROM jobs WHERE kind = $1 GROUP BY state ORDER BY state")
                .bind(kind)
                .fetch_all(self.pool())
                .await?;
        Ok(rows
            .into_iter()
            .map(|(state, count)| format!("{state}={count}"))
            .collect())
    }

    /// The balance of each account of the ledger; all together are zero.
    pub async fn ledger(&self) -> Result<Vec<(String, i64)>> {
        let rows: Vec<(String, i64)> = sqlx::query_as(
            "SELECT account, sum(amount_minor)::bigint FROM ledger_entries GROUP BY account HAVING sum(amount_minor) <> 0 ORDER BY account",
        )
        .fetch_all(self.pool())
        .await?;
        anyhow::ensure!(
            rows.iter().map(|(_, amount)| amount).sum::<i64>() == 0,
            "the ledger is not balanced: {rows:?}"
        );
        Ok(rows)
    }

    /// The only PaymentIntent of a booking that Stripe knows.
    pub async fn intent_of(&self, booking_id: Uuid) -> Result<String> {
        let ids: Vec<String> = sqlx::query_scalar(
            "SELECT stripe_payment_intent_id FROM payments WHERE booking_id = $1 AND stripe_payment_intent_id IS NOT NULL ORDER BY number DESC",
        )
        .bind(booking_id)
        .fetch_all(self.pool())
        .await?;
        ids.into_iter().next().context("no PaymentIntent is recorded")
    }

    /// The mails to somebody, by subject, oldest first.
    pub fn mails_to(&self, person: &Person) -> Vec<String> {
        let mut mails: Vec<Arc<crate::mailbox::Message>> = self
            .mailbox
            .messages()
            .into_iter()
            .filter(|mail| mail.is_to(&person.email))
            .collect();
        mails.sort_by_key(|mail| mail.id);
        mails.iter().map(|mail| mail.subject.clone()).collect()
    }

    /// Stops everything in order.
    pub async fn stop(mut self) -> Result<()> {
        self.stop_worker().await;
        if let Some(api) = self.api.take() {
            api.stop().await?;
        }
        self.pool().close().await;
        Ok(())
    }
}

/// Somebody who is signed in.
#[derive(Clone)]
pub struct Person {
    /// The user.
    pub id: Uuid,
    /// Where their mail goes.
    pub email: String,
    /// The access token.
    pub token: String,
    http: reqwest::Client,
    url: String,
}

impl Person {
    /// A request as this person.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http
            .request(method, format!("{}{path}", self.url))
            .bearer_auth(&self.token)
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Result<Reply> {
        Reply::of(self.request(Method::GET, path)).await
    }

    /// POST of JSON.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Reply> {
        Reply::of(self.request(Method::POST, path).json(body)).await
    }

    /// PATCH of JSON.
    pub async fn patch(&self, path: &str, body: &Value) -> Result<Reply> {
        Reply::of(self.request(Method::PATCH, path).json(body)).await
    }

    /// DELETE.
    pub async fn delete(&self, path: &str) -> Result<Reply> {
        Reply::of(self.request(Method::DELETE, path)).await
    }

    /// Lists a flat in Berlin; `changes` replace fields of it.
    pub async fn lists(&self, changes: Value) -> Result<Uuid> {
        let mut flat = a_flat();
        for (name, value) in changes.as_object().context("an object of changes")? {
            flat[name] = value.clone();
        }
        self.post("/properties/", &flat)
            .await?
            .expect(StatusCode::CREATED)?
            .id()
    }

    /// Asks to book.
    pub async fn books(
        &self,
        property_id: Uuid,
        check_in: NaiveDate,
        check_out: NaiveDate,
        card: &str,
    ) -> Result<Reply> {
        let body = json!({
            "property_id": property_id, "check_in": check_in, "check_out": check_out, "guests": 2, "payment_method": card,
        });
        self.post("/bookings/", &body).await
    }
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

/// A reply, read to its end.
#[derive(Debug)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: reqwest::header::HeaderMap,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// The same as JSON, null if it is none.
    pub body: Value,
}

impl Reply {
    /// Sends and reads.
    pub async fn of(request: reqwest::RequestBuilder) -> Result<Self> {
        let response = request.send().await?;
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = response.bytes().await?.to_vec();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Ok(Self {
            status,
            headers,
            bytes,
            body,
        })
    }

    /// The reply, if it has this status; else an error that shows it.
    pub fn expect(self, status: StatusCode) -> Result<Self> {
        if self.status == status {
            Ok(self)
        } else {
            bail!(
                "{} instead of {status}: {}",
                self.status,
                String::from_utf8_lossy(&self.bytes)
            )
        }
    }

    /// The `id` of the object.
    pub fn id(&self) -> Result<Uuid> {
        let id = self.body["id"]
            .as_str()
            .with_context(|| format!("no id in {}", self.body))?;
        Ok(id.parse()?)
    }

    /// The problem's code, empty if it is no problem.
    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }

    /// The fields that the problem names.
    pub fn fields(&self) -> Vec<&str> {
        let errors = self.body["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
        errors.iter().filter_map(|error| error["field"].as_str()).collect()
    }

    /// A header, empty if it is missing.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// An instant in the body.
    pub fn instant(&self, field: &str) -> Result<DateTime<Utc>> {
        Ok(self.body[field]
            .as_str()
            .with_context(|| format!("no {field} in {}", self.body))?
            .parse()?)
    }
}
