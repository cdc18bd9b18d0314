//! Roost's API as a client sees it: paths, JSON, and problems in place of what was expected.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// Seconds for which a reply may be held: `Prefer: wait`.
pub const WAIT: u32 = 20;
const PASSWORD: &str = "a feather for every guest";

/// The way to one API.
pub struct Api {
    http: reqwest::Client,
    base: String,
}

/// A request that is being put together.
pub struct Call(reqwest::RequestBuilder);

/// A reply, read to its end.
pub struct Reply {
    status: u16,
    pub body: Vec<u8>,
    /// Whether it was stored when the request first came.
    pub replayed: bool,
    request_id: String,
}

/// Somebody who uses the API.
pub struct Person {
    pub id: String,
    pub role: &'static str,
    pub email: String,
    token: String,
}

impl Api {
    pub fn new(base: &str) -> Result<Self> {
        let patience = Duration::from_secs(u64::from(WAIT) + 10);
        Ok(Self {
            http: reqwest::Client::builder().no_proxy().timeout(patience).build()?,
            base: base.trim_end_matches('/').to_owned(),
        })
    }

    pub fn get(&self, path: &str) -> Call {
        Call(self.http.get(format!("{}{path}", self.base)))
    }

    #[allow(clippy::needless_pass_by_value, reason = "reads better with json!() in place")]
    pub fn post(&self, path: &str, body: Value) -> Call {
        Call(self.http.post(format!("{}{path}", self.base)).json(&body))
    }
}

impl Call {
    pub fn by(self, person: &Person) -> Self {
        Self(self.0.bearer_auth(&person.token))
    }

    pub fn key(self, key: &str) -> Self {
        Self(self.0.header("Idempotency-Key", key))
    }

    pub fn prefer_wait(self) -> Self {
        Self(self.0.header("Prefer", format!("wait={WAIT}")))
    }

    pub async fn send(self) -> Result<Reply> {
        let reply = self.0.send().await?;
        let header = |name: &str| reply.headers().get(name).and_then(|value| value.to_str().ok());
        Ok(Reply {
            status: reply.status().as_u16(),
            replayed: header("idempotent-replayed").is_some(),
            request_id: header("x-request-id").unwrap_or_default().to_owned(),
            body: reply.bytes().await?.to_vec(),
        })
    }

    /// The reply with its body still to come.
    pub async fn open(self) -> Result<reqwest::Response> {
        Ok(self.0.send().await?.error_for_status()?)
    }
}

impl Reply {
    /// The body of a reply with this status. Another status is an error that says what came.
    pub fn expect(&self, status: u16) -> Result<Value> {
        if self.status != status {
            bail!(
                "expected {status} and got {}; its request id in .roost/log/api.log is {}",
                self.summary(),
                self.request_id
            );
        }
        serde_json::from_slice(&self.body).with_context(|| format!("no JSON in {}", self.summary()))
    }

    /// For messages.
    pub fn summary(&self) -> String {
        let body: String = String::from_utf8_lossy(&self.body).chars().take(600).collect();
        format!("{} {body}", self.status)
    }
}

impl Person {
    pub async fn registers(api: &Api, role: &'static str, full_name: &str, email: &str) -> Result<Self> {
        let registration = json!({
            "email": email, "password": PASSWORD, "full_name": full_name, "role": role, "locale": "en-GB",
        });
        let profile = api.post("/users/", registration).send().await?.expect(201)?;
        Ok(Self {
            id: text(&profile, "id")?,
            role,
            email: email.to_owned(),
            token: String::new(),
        })
    }

    /// Returns for how many seconds the token is good.
    pub async fn signs_in(&mut self, api: &Api) -> Result<i64> {
        let credentials = json!({"email": self.email, "password": PASSWORD});
        let tokens = api.post("/auth/login", credentials).send().await?.expect(200)?;
        self.token = text(&tokens, "access_token")?;
        tokens["expires_in"].as_i64().context("no expires_in")
    }
}

/// A text field of a JSON object.
pub fn text(object: &Value, field: &str) -> Result<String> {
    let text = object[field].as_str();
    text.map(str::to_owned)
        .with_context(|| format!("{field} is missing in {object}"))
}
