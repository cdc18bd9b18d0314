//! The API as a test meets it: a real server on a real port, with a database and a Redis of its own, and people who
//! use it over HTTP. Nothing here knows the API's types: a test sees what a client sees.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a step that fails ends the test that took it"
)]

use std::sync::atomic::{AtomicU32, Ordering};

use chrono::{NaiveDate, TimeDelta};
use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder};
use roost_api::server::{self, Bounds, Running};
use roost_api::state::{AppConfig, AppState, Settings};
use roost_shared::clock::Clock;
use roost_shared::config::Secret;
use roost_shared::db;
use roost_shared::redis::Redis;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::database::{TestDatabase, TestRedis};
use crate::world::{a_flat, id_of};

/// Signs the access tokens of every test app.
pub const JWT_SECRET: &str = "a secret for tests, of more than 32 bytes";
/// Signs the webhooks that every test app accepts.
pub const WEBHOOK_SECRET: &str = "whsec_for_tests";
/// The password of everybody who registers in a test.
pub const PASSWORD: &str = "correct horse battery staple";

/// A running API. When it is dropped, its data is gone.
pub struct TestApp {
    /// Moves the API's time.
    pub clock: Clock,
    /// The same parts that the handlers use.
    pub state: AppState,
    base: String,
    http: reqwest::Client,
    registered: AtomicU32,
    // The server first, then what it stands on.
    _server: Running,
    redis: TestRedis,
    database: TestDatabase,
}

/// Somebody who is signed in.
#[derive(Clone, Debug)]
pub struct Actor {
    /// The user.
    pub id: String,
    /// What they sign in with.
    pub email: String,
    /// For `Authorization: Bearer`.
    pub access_token: String,
    /// For `POST /auth/refresh`.
    pub refresh_token: String,
    /// The session.
    pub session_id: String,
}

impl TestApp {
    /// Starts one whose limits per client are off.
    pub async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    /// Starts one with other settings.
    pub async fn start_with(change: impl FnOnce(&mut Settings)) -> Self {
        let database = TestDatabase::create().await.unwrap();
        let redis = TestRedis::create().await.unwrap();
        let mut settings = Settings {
            public_url: "http://roost.test".to_owned(),
            cors_allowed_origins: Vec::new(),
            client_ip_header: None,
            logins_per_minute: 0,
            registrations_per_hour: 0,
            connections: Bounds::default(),
            graphql_introspection: false,
            graphiql: false,
            graphql_points_per_minute: 0,
            stripe_webhook_secrets: vec![Secret::new(WEBHOOK_SECRET)],
        };
        change(&mut settings);
        let clock = Clock::default();
        let state = AppState::new(AppConfig {
            pool: db::connect(database.url(), 8).unwrap(),
            redis: Redis::new(redis.url(), "test").unwrap(),
            clock: clock.clone(),
            jwt_secret: Secret::new(JWT_SECRET),
            jwt_secret_previous: None,
            settings,
        })
        .unwrap();
        let server = server::start(state.clone(), "127.0.0.1:0").await.unwrap();
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap();
        Self {
            clock,
            state,
            base: format!("http://{}", server.address()),
            http,
            registered: AtomicU32::new(0),
            _server: server,
            redis,
            database,
        }
    }

    /// Where it listens: `http://127.0.0.1:…`.
    pub fn url(&self) -> &str {
        &self.base
    }

    /// The connection string of its database.
    pub fn database_url(&self) -> &str {
        self.database.url()
    }

    /// The connection string of its Redis database.
    pub fn redis_url(&self) -> &str {
        self.redis.url()
    }

    /// A request, to be completed and sent.
    pub fn request(&self, method: Method, path: &str) -> Call {
        Call(self.http.request(method, format!("{}{path}", self.base)))
    }

    /// GET.
    pub fn get(&self, path: &str) -> Call {
        self.request(Method::GET, path)
    }

    /// POST with a JSON body.
    #[allow(clippy::needless_pass_by_value, reason = "reads better with json!() in place")]
    pub fn post(&self, path: &str, body: Value) -> Call {
        self.request(Method::POST, path).json(&body)
    }

    /// PATCH with a JSON body.
    #[allow(clippy::needless_pass_by_value, reason = "reads better with json!() in place")]
    pub fn patch(&self, path: &str, body: Value) -> Call {
        self.request(Method::PATCH, path).json(&body)
    }

    /// DELETE.
    pub fn delete(&self, path: &str) -> Call {
        self.request(Method::DELETE, path)
    }

    /// A new guest, signed in.
    pub async fn guest(&self) -> Actor {
        self.register("guest", "Grace Hopper").await
    }

    /// A new host, signed in.
    pub async fn host(&self) -> Actor {
        self.register("host", "Heinz Nixdorf").await
    }

    /// A new user, signed in.
    pub async fn register(&self, role: &str, full_name: &str) -> Actor {
        let number = self.registered.fetch_add(1, Ordering::Relaxed);
        let email = format!("{role}{number}@example.com");
        self.post(
            "/users",
            json!({"email": email, "password": PASSWORD, "full_name": full_name, "role": role}),
        )
        .send()
        .await
        .expect(201);
        self.login(&email, PASSWORD).await
    }

    /// Signs in.
    pub async fn login(&self, email: &str, password: &str) -> Actor {
        let tokens = self
            .post("/auth/login", json!({"email": email, "password": password}))
            .send()
            .await
            .expect(200);
        let text = |name: &str| tokens[name].as_str().unwrap().to_owned();
        let mut actor = Actor {
            id: String::new(),
            email: email.to_owned(),
            access_token: text("access_token"),
            refresh_token: text("refresh_token"),
            session_id: text("session_id"),
        };
        let own = self.get("/users/me").by(&actor).send().await.expect(200);
        own["id"].as_str().unwrap().clone_into(&mut actor.id);
        actor
    }

    /// Today's date plus some days, UTC.
    pub fn day(&self, days: i64) -> NaiveDate {
        (self.clock.now() + TimeDelta::days(days)).date_naive()
    }

    /// Lists a flat in Berlin; `changes` replace fields of it.
    pub async fn lists(&self, host: &Actor, changes: Value) -> Uuid {
        let mut flat = a_flat();
        for (name, value) in changes.as_object().unwrap() {
            flat[name] = value.clone();
        }
        id_of(&self.post("/properties/", flat).by(host).send().await.expect(201))
    }

    /// How many rows of the jobs table are of this kind.
    pub async fn jobs_of(&self, kind: &str) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM jobs WHERE kind = $1")
            .bind(kind)
            .fetch_one(self.state.db.pool())
            .await
            .unwrap()
    }
}

/// A request on its way.
#[must_use = "a call does nothing until it is sent"]
pub struct Call(RequestBuilder);

impl Call {
    /// Any request, to anywhere.
    pub fn of(request: RequestBuilder) -> Self {
        Self(request)
    }

    /// As this user.
    pub fn by(self, actor: &Actor) -> Self {
        Self(self.0.bearer_auth(&actor.access_token))
    }

    /// With a header.
    pub fn header(self, name: &str, value: &str) -> Self {
        Self(self.0.header(name, value))
    }

    /// With a JSON body.
    pub fn json(self, body: &Value) -> Self {
        Self(self.0.json(body))
    }

    /// With these bytes as its body, said to be JSON.
    pub fn bytes(self, body: impl Into<reqwest::Body>) -> Self {
        Self(self.0.header("content-type", "application/json").body(body))
    }

    /// With these bytes as its body, of any type.
    pub fn body(self, content_type: &str, body: impl Into<reqwest::Body>) -> Self {
        Self(self.0.header("content-type", content_type).body(body))
    }

    /// Sends it.
    pub async fn send(self) -> Reply {
        let response = self.0.send().await.unwrap();
        Reply {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.bytes().await.unwrap().to_vec(),
        }
    }
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The bytes.
    pub body: Vec<u8>,
}

impl Reply {
    /// The body as JSON; null if it is empty.
    pub fn json(&self) -> Value {
        if self.body.is_empty() {
            return Value::Null;
        }
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header's text; empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap_or_default())
    }

    /// The JSON of a reply that must have this status.
    #[track_caller]
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        self.json()
    }

    /// The problem of a refusal, which must be complete, of this status and code.
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str) -> Value {
        let problem = self.expect(status);
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(self.header("content-type"), "application/problem+json", "{problem}");
        assert_eq!(problem["status"], status, "{problem}");
        assert_eq!(problem["type"], format!("/problems/{code}"), "{problem}");
        assert_eq!(problem["request_id"], self.header("x-request-id"), "{problem}");
        assert!(
            roost_api::problems::meaning(code).is_some(),
            "{code} is not told in problems.rs"
        );
        assert!(!problem["detail"].as_str().unwrap().is_empty(), "{problem}");
        problem
    }

    /// The same, and it must be this field, among others, that was refused.
    #[track_caller]
    pub fn refused_field(&self, status: u16, code: &str, field: &str) {
        let problem = self.refused(status, code);
        let fields: Vec<&Value> = problem["errors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|error| &error["field"])
            .collect();
        assert!(
            fields.iter().any(|given| **given == field),
            "{field} is not among {fields:?}: {problem}"
        );
    }
}
