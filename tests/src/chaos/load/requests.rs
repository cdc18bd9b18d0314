//! What else is asked for meanwhile: a page, a list and a sign-in every so often, whether or not those before were
//! answered. Unlike a booking, none of them is repeated.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use reqwest::{Client, RequestBuilder, header};
use serde_json::{Value, json};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::EVERY;
use crate::{
    bench::figure::percentile,
    chaos::{Run, testbed::Testbed},
};

const READER: &str = "reader@example.com";
/// Somebody else signs in again and again: many sign-ins end the oldest sessions, and the reader has to keep the one it has.
const SIGNER: &str = "signer@example.com";
const PASSWORD: &str = "correct horse battery staple";
/// A sign-in costs much of a core.
const LOGIN_EVERY: u32 = 3;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    /// A flat, which the API may know without Postgres.
    Property,
    /// The bookings of a guest, which it may not.
    Bookings,
    /// A session.
    Login,
}

impl Wanted {
    const ALL: [Self; 3] = [Self::Property, Self::Bookings, Self::Login];

    /// The names of its figures: its slowest reply, and how often it was refused.
    const fn figures(self) -> (&'static str, &'static str) {
        match self {
            Self::Property => ("property_max_ms", "property_refused"),
            Self::Bookings => ("bookings_list_max_ms", "bookings_list_refused"),
            Self::Login => ("login_max_ms", "login_refused"),
        }
    }
}

/// One request and what came of it.
struct Exchange {
    wanted: Wanted,
    milliseconds: f64,
    /// It was refused; otherwise it was served.
    refused: bool,
    /// Neither the one nor the other.
    wrong: Option<String>,
}

/// A reader of the API.
#[derive(Clone)]
struct Reader {
    http: Client,
    base: String,
    flat: Uuid,
    token: String,
}

/// The requests of a reader, until [`Self::finish`].
pub struct Requests {
    stop: CancellationToken,
    asking: JoinHandle<Result<Vec<Exchange>>>,
}

impl Requests {
    /// Begins to ask. `flat`: what is read.
    pub async fn start(testbed: &Testbed, flat: Uuid) -> Result<Self> {
        let reader = Reader::register(testbed, flat).await?;
        let stop = CancellationToken::new();
        Ok(Self {
            asking: tokio::spawn(ask_until(reader, stop.clone())),
            stop,
        })
    }

    /// Stops asking, and looks: each request was served, or refused as it should be, within `limit` milliseconds; and of
    /// those that need Postgres some were refused, if they must have `met` its absence, or this proves nothing.
    pub async fn finish(self, run: &mut Run, limit: f64, met: bool) -> Result<()> {
        self.stop.cancel();
        let exchanges = self.asking.await??;
        let wrong: Vec<&String> = exchanges.iter().filter_map(|one| one.wrong.as_ref()).collect();
        run.verdict.require(wrong.is_empty(), || {
            format!("{} replies were neither 200 nor 503: {:?}", wrong.len(), wrong.first())
        });
        for wanted in Wanted::ALL {
            let of_it = || exchanges.iter().filter(|one| one.wanted == wanted);
            let times: Vec<f64> = of_it().map(|one| one.milliseconds).collect();
            let refused = of_it().filter(|one| one.refused).count();
            let slowest = percentile(&times, 1.0);
            let (slowest_figure, refused_figure) = wanted.figures();
            run.verdict.figure(slowest_figure, slowest);
            run.verdict.figure(refused_figure, refused as f64);
            run.verdict
                .in_time(slowest, limit, &format!("the slowest reply to {wanted:?}"));
            run.verdict.require(
                refused < times.len() && (refused > 0 || !met || wanted == Wanted::Property),
                || format!("{refused} of {} requests for {wanted:?} were refused", times.len()),
            );
        }
        Ok(())
    }
}

/// Asks for everything at each tick, but for sign-ins.
async fn ask_until(reader: Reader, stop: CancellationToken) -> Result<Vec<Exchange>> {
    let (mut tasks, mut ticks, mut number) = (JoinSet::new(), tokio::time::interval(EVERY), 0_u32);
    while !stop.is_cancelled() {
        ticks.tick().await;
        number += 1;
        for wanted in Wanted::ALL {
            if wanted != Wanted::Login || number.is_multiple_of(LOGIN_EVERY) {
                let reader = reader.clone();
                tasks.spawn(async move { reader.ask(wanted).await });
            }
        }
    }
    Ok(tasks.join_all().await)
}

impl Reader {
    async fn register(testbed: &Testbed, flat: Uuid) -> Result<Self> {
        let mut reader = Self {
            http: testbed.http.clone(),
            base: testbed.api_url(""),
            flat,
            token: String::new(),
        };
        for email in [READER, SIGNER] {
            let user = json!({"email": email, "password": PASSWORD, "full_name": "Grace Hopper", "role": "guest"});
            let reply = reader.http.post(reader.url("/users")).json(&user).send().await?;
            ensure!(reply.status() == 201, "registering {email}: {}", reply.status());
        }
        let tokens: Value = reader.login(READER).send().await?.json().await?;
        let token = tokens["access_token"].as_str().context("no access token")?;
        token.clone_into(&mut reader.token);
        Ok(reader)
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    fn request(&self, wanted: Wanted) -> RequestBuilder {
        match wanted {
            Wanted::Property => self.http.get(self.url(&format!("/properties/{}", self.flat))),
            Wanted::Bookings => self.http.get(self.url("/bookings/")).bearer_auth(&self.token),
            Wanted::Login => self.login(SIGNER),
        }
    }

    fn login(&self, email: &str) -> RequestBuilder {
        let login = json!({"email": email, "password": PASSWORD});
        self.http.post(self.url("/auth/login")).json(&login)
    }

    async fn ask(&self, wanted: Wanted) -> Exchange {
        let began = Instant::now();
        let outcome = answer(self.request(wanted)).await;
        Exchange {
            wanted,
            milliseconds: began.elapsed().max(Duration::from_micros(1)).as_secs_f64() * 1000.0,
            refused: matches!(outcome, Ok(503)),
            wrong: outcome.err().map(|error| format!("{wanted:?}: {error:#}")),
        }
    }
}

/// 200 with a body that can be read, or 503 with a problem that says which.
async fn answer(request: RequestBuilder) -> Result<u16> {
    let reply = request.send().await?;
    let status = reply.status().as_u16();
    let kind = reply.headers().get(header::CONTENT_TYPE).cloned();
    let text = reply.text().await?;
    let body: Value = serde_json::from_str(&text).with_context(|| format!("{status} {text:?}"))?;
    let is_problem = kind.is_some_and(|kind| kind == "application/problem+json")
        && body["status"] == status
        && body["code"].as_str().is_some_and(|code| !code.is_empty());
    ensure!(status == 200 || status == 503 && is_problem, "{status} {body}");
    Ok(status)
}
