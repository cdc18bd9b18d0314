//! The job dashboard as a test meets it: a real listener, and operators who use its pages over HTTP.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a step that fails ends the test that took it"
)]

use reqwest::redirect::Policy;
use reqwest::{Client, Method, Response, StatusCode};
use roost_api::server::{self, Running};
use roost_api::state::AppState;
use roost_shared::operators::{self, NewOperator, Role};
use serde_json::{Value, json};

/// The password of every operator.
pub const PASSWORD: &str = "a password for operators";

/// A dashboard that listens.
pub struct Dashboard {
    /// `http://127.0.0.1:…`
    pub base: String,
    state: AppState,
    _server: Running,
}

/// Somebody who is signed in.
pub struct Browser {
    /// Goes with every form.
    pub csrf: String,
    /// `name=value`
    pub cookie: String,
    base: String,
    http: Client,
}

/// A script that is signed in at `/ops/api`.
pub struct Script {
    base: String,
    token: String,
    http: Client,
}

/// A page that came back.
#[derive(Debug)]
pub struct Page {
    /// Its status.
    pub status: StatusCode,
    /// Where it sends the browser.
    pub location: String,
    /// Its headers.
    pub headers: reqwest::header::HeaderMap,
    /// Its HTML.
    pub html: String,
}

impl Page {
    async fn of(response: Response) -> Self {
        let location = response.headers().get("location");
        Self {
            status: response.status(),
            location: location.map_or_else(String::new, |value| value.to_str().unwrap().to_owned()),
            headers: response.headers().clone(),
            html: response.text().await.unwrap(),
        }
    }

    /// The page must have this status.
    #[track_caller]
    pub fn is(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", self.html);
        self
    }

    /// The page must say this.
    #[track_caller]
    pub fn says(&self, text: &str) {
        assert!(self.html.contains(text), "{text:?} is not on the page:\n{}", self.html);
    }

    /// What is under this heading in the line of a table in which this stands first.
    #[track_caller]
    pub fn cell(&self, line: &str, heading: &str) -> &str {
        let line = self.html.split(line).nth(1).expect(line);
        let line = line.split("</tr>").next().unwrap();
        let cell = line.split(&format!("data-label=\"{heading}\">")).nth(1).expect(heading);
        cell.split("</td>").next().unwrap()
    }

    /// The page must not say this.
    #[track_caller]
    pub fn is_silent_about(&self, text: &str) {
        assert!(!self.html.contains(text), "{text:?} is on the page:\n{}", self.html);
    }
}

impl Dashboard {
    /// Starts one beside an API.
    pub async fn start(state: &AppState) -> Self {
        let server = server::start_ops(state.clone(), "127.0.0.1:0").await.unwrap();
        Self {
            base: format!("http://{}", server.address()),
            state: state.clone(),
            _server: server,
        }
    }

    /// Makes an operator named after the role.
    pub async fn make(&self, role: Role) -> String {
        let email = format!("{}@ops.example.com", role.name());
        let new = NewOperator::new(&self.state.passwords, &email, PASSWORD.to_owned(), role)
            .await
            .unwrap();
        let mut tx = self.state.db.begin().await.unwrap();
        operators::create(&mut tx, new, "test").await.unwrap();
        tx.commit().await.unwrap();
        email
    }

    /// A new operator of this role, signed in.
    pub async fn signed_in(&self, role: Role) -> Browser {
        let email = self.make(role).await;
        self.opens(&email, PASSWORD, "").await
    }

    /// A session of an operator whom there is.
    pub async fn opens(&self, email: &str, password: &str, code: &str) -> Browser {
        let page = self.signs_in(email, password, code).await.is(303);
        let cookie = page.headers["set-cookie"].to_str().unwrap();
        let mut browser = Browser {
            csrf: String::new(),
            cookie: cookie.split(';').next().unwrap().to_owned(),
            base: self.base.clone(),
            http: plain(),
        };
        let home = browser.get("/ops").await.is(200);
        let after = home.html.split("name=\"csrf\" value=\"").nth(1).unwrap();
        browser.csrf = after.split('"').next().unwrap().to_owned();
        browser
    }

    /// What a script sends as a bearer to `/ops/api`, signed in as this operator.
    pub async fn token(&self, email: &str) -> String {
        let credentials = json!({"email": email, "password": PASSWORD});
        let sent = plain()
            .post(format!("{}/ops/api/session", self.base))
            .json(&credentials);
        let session: Value = sent.send().await.unwrap().json().await.unwrap();
        session["token"].as_str().unwrap().to_owned()
    }

    /// A script, signed in as this operator.
    pub async fn script(&self, email: &str) -> Script {
        Script {
            base: format!("{}/ops/api", self.base),
            token: self.token(email).await,
            http: plain(),
        }
    }

    /// What the sign-in form answers.
    pub async fn signs_in(&self, email: &str, password: &str, code: &str) -> Page {
        self.signs_in_for(email, password, code, "").await
    }

    /// The same on the way to a page.
    pub async fn signs_in_for(&self, email: &str, password: &str, code: &str, next: &str) -> Page {
        let form = [("email", email), ("password", password), ("code", code), ("next", next)];
        let request = plain()
            .post(format!("{}/ops/login", self.base))
            .header("content-type", "application/x-www-form-urlencoded");
        Page::of(request.body(encoded(&form)).send().await.unwrap()).await
    }

    /// A page for nobody in particular.
    pub async fn get(&self, path: &str) -> Page {
        Page::of(plain().get(format!("{}{path}", self.base)).send().await.unwrap()).await
    }
}

impl Browser {
    /// A page.
    pub async fn get(&self, path: &str) -> Page {
        let request = self.http.get(format!("{}{path}", self.base));
        Page::of(request.header("cookie", &self.cookie).send().await.unwrap()).await
    }

    /// A page that asks for itself again, to keep itself fresh.
    pub async fn refreshes(&self, path: &str) -> Page {
        let request = self.http.get(format!("{}{path}", self.base));
        let request = request.header("cookie", &self.cookie).header("x-roost-refresh", "1");
        Page::of(request.send().await.unwrap()).await
    }

    /// The key of an authenticator that is about to be set up, as the page shows it.
    pub async fn new_key(&self, proof: &str) -> String {
        self.post("/ops/account/authenticator", &[("proof", proof)])
            .await
            .is(303);
        self.shown_key().await.expect("no key is shown")
    }

    /// The key that waits to be confirmed.
    pub async fn shown_key(&self) -> Option<String> {
        let page = self.get("/ops/account").await.is(200);
        let after = page.html.split("class=\"key\">").nth(1)?;
        Some(after.split('<').next()?.to_owned())
    }

    /// Sets up what this code is of.
    pub async fn confirms(&self, code: &str) -> Page {
        self.post("/ops/account/authenticator/confirm", &[("code", code)]).await
    }

    /// A form with its token.
    pub async fn post(&self, path: &str, form: &[(&str, &str)]) -> Page {
        let mut form = form.to_vec();
        form.push(("csrf", &self.csrf));
        self.post_without_token(path, &form).await
    }

    /// A form as another site would send it.
    pub async fn post_without_token(&self, path: &str, form: &[(&str, &str)]) -> Page {
        let request = self
            .http
            .post(format!("{}{path}", self.base))
            .header("cookie", &self.cookie)
            .header("content-type", "application/x-www-form-urlencoded");
        Page::of(request.body(encoded(form)).send().await.unwrap()).await
    }
}

impl Script {
    /// What it reads.
    pub async fn get(&self, path: &str) -> Value {
        let (status, told) = self.send(Method::GET, path, &Value::Null).await;
        assert_eq!(status, 200, "{path}: {told}");
        told
    }

    /// What it is answered, as status and JSON.
    pub async fn send(&self, method: Method, path: &str, body: &Value) -> (u16, Value) {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if !body.is_null() {
            request = request.json(body);
        }
        let reply = request.bearer_auth(&self.token).send().await.unwrap();
        let status = reply.status().as_u16();
        (status, reply.json().await.unwrap_or_default())
    }
}

fn plain() -> Client {
    Client::builder().redirect(Policy::none()).no_proxy().build().unwrap()
}

fn encoded(form: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new())
        .extend_pairs(form)
        .finish()
}
