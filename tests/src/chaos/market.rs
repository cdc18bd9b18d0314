//! Hosts, guests and their requests over HTTP: a client that repeats a request, under the same idempotency key, until
//! it knows how it ended.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use chrono::{DateTime, Days, NaiveDate, Utc};
use reqwest::Method;
use roost_shared::clock::Clock;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::testbed::Testbed;
use crate::{
    bench::figure::percentile,
    world::{a_flat, id_of},
};

const PASSWORD: &str = "correct horse battery staple";
/// The first check-in of all, in days from today.
const FIRST_DAY: u64 = 20;
/// A request that has no definite answer by then is given up.
const PATIENCE: Duration = Duration::from_secs(180);
const PAUSE: Duration = Duration::from_millis(200);

/// Somebody who signs in, and signs in again when the session is gone.
struct Person {
    email: String,
    token: Mutex<String>,
}

impl Person {
    fn token(&self) -> String {
        self.token.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Who books what where.
#[derive(Clone)]
pub struct Market {
    http: reqwest::Client,
    base: String,
    host: Arc<Person>,
    guests: Vec<Arc<Person>>,
    pub flats: Vec<Uuid>,
    today: NaiveDate,
}

/// A request for nights.
#[derive(Clone, Debug)]
pub struct Wish {
    pub flat: Uuid,
    pub check_in: NaiveDate,
    pub nights: u64,
    pub card: &'static str,
    pub key: String,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Booked(Uuid),
    /// Status and code.
    Refused(u16, String),
}

/// One request with all its tries.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Says who asked.
    pub number: usize,
    pub wish: Wish,
    pub answer: Answer,
    pub sent_at: DateTime<Utc>,
    pub answered_at: DateTime<Utc>,
    /// Status and milliseconds of each try; 0 when the connection broke.
    pub tries: Vec<(u16, f64)>,
}

impl Market {
    /// A host with so many flats, and guests.
    pub async fn open(testbed: &Testbed, flats: usize, guests: usize) -> Result<Self> {
        let mut market = Self {
            http: testbed.http.clone(),
            base: testbed.api_url(""),
            host: Arc::new(Person {
                email: String::new(),
                token: Mutex::default(),
            }),
            guests: Vec::new(),
            flats: Vec::new(),
            today: Clock::default().now().date_naive(),
        };
        market.host = market.register("host", 0).await?;
        for number in 0..guests {
            market.guests.push(market.register("guest", number).await?);
        }
        for number in 0..flats {
            let title = format!("Bright flat number {number} by the canal");
            market.flats.push(market.list(&json!({"title": title})).await?);
        }
        Ok(market)
    }

    /// The host lists one more flat; `changes` replace fields of it.
    pub async fn list(&self, changes: &Value) -> Result<Uuid> {
        let mut flat = a_flat();
        for (name, value) in changes.as_object().into_iter().flatten() {
            flat[name] = value.clone();
        }
        let sent = self.send(Method::POST, "/properties/", Some(&self.host), None, Some(&flat));
        let (status, body) = sent.await?;
        ensure!(status == 201, "listing a flat: {status} {body}");
        Ok(id_of(&body))
    }

    async fn register(&self, role: &str, number: usize) -> Result<Arc<Person>> {
        let email = format!("{role}{number}@example.com");
        let user = json!({"email": email, "password": PASSWORD, "full_name": "Ada Lovelace", "role": role});
        let (status, body) = self.send(Method::POST, "/users", None, None, Some(&user)).await?;
        ensure!(status == 201, "registering: {status} {body}");
        let person = Arc::new(Person {
            email,
            token: Mutex::default(),
        });
        ensure!(self.sign_in(&person).await?, "signing in");
        Ok(person)
    }

    async fn sign_in(&self, person: &Person) -> Result<bool> {
        let login = json!({"email": person.email, "password": PASSWORD});
        let Ok((200, tokens)) = self.send(Method::POST, "/auth/login", None, None, Some(&login)).await else {
            return Ok(false);
        };
        let token = tokens["access_token"].as_str().context("no access token")?;
        token.clone_into(&mut person.token.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(true)
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        by: Option<&Person>,
        key: Option<&str>,
        body: Option<&Value>,
    ) -> Result<(u16, Value)> {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if let Some(person) = by {
            request = request.bearer_auth(person.token());
        }
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let reply = request.send().await?;
        let status = reply.status().as_u16();
        let bytes = reply.bytes().await?;
        Ok((status, serde_json::from_slice(&bytes).unwrap_or(Value::Null)))
    }

    /// The wish of this number; no two want the same night.
    pub fn wish(&self, number: usize) -> Wish {
        let flats = self.flats.len().max(1);
        let days = FIRST_DAY + 3 * u64::try_from(number / flats).unwrap_or(0);
        Wish {
            flat: self.flats.get(number % flats).copied().unwrap_or_default(),
            check_in: self.day(days),
            nights: 2,
            card: "pm_card_visa",
            key: format!("wish-{number}-{}", Uuid::new_v4()),
        }
    }

    /// Today plus some days.
    pub fn day(&self, days: u64) -> NaiveDate {
        self.today.checked_add_days(Days::new(days)).unwrap_or(self.today)
    }

    /// Asks once. None: nobody knows what became of it.
    pub async fn ask_once(&self, number: usize, wish: &Wish) -> (u16, Option<Answer>) {
        let check_out = wish.check_in.checked_add_days(Days::new(wish.nights));
        let body = json!({
            "property_id": wish.flat, "check_in": wish.check_in, "check_out": check_out, "guests": 2,
            "payment_method": wish.card,
        });
        let guest = self.guest(number);
        let sent = self.send(
            Method::POST,
            "/bookings/",
            guest.as_deref(),
            Some(&wish.key),
            Some(&body),
        );
        match sent.await {
            Ok((201, booking)) => match booking["id"].as_str().and_then(|id| id.parse().ok()) {
                Some(id) => (201, Some(Answer::Booked(id))),
                // The reply was cut short.
                None => (0, None),
            },
            Ok((status @ (401 | 429 | 500..), _)) => (status, None),
            Ok((status, problem)) => {
                let code = problem["code"].as_str().unwrap_or_default().to_owned();
                (status, Some(Answer::Refused(status, code)))
            }
            Err(_) => (0, None),
        }
    }

    /// Asks until there is a definite answer.
    pub async fn ask(&self, number: usize, wish: Wish) -> Result<Asked> {
        let clock = Clock::default();
        let (sent_at, began) = (clock.now(), Instant::now());
        let mut tries = Vec::new();
        loop {
            let tried = Instant::now();
            let (status, answer) = self.ask_once(number, &wish).await;
            tries.push((status, tried.elapsed().as_secs_f64() * 1000.0));
            if let Some(answer) = answer {
                return Ok(Asked {
                    number,
                    wish,
                    answer,
                    sent_at,
                    answered_at: clock.now(),
                    tries,
                });
            }
            if began.elapsed() > PATIENCE {
                bail!("no answer to {wish:?} in {PATIENCE:?}: {tries:?}");
            }
            if status == 401
                && let Some(guest) = self.guest(number)
            {
                self.sign_in(&guest).await?;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn guest(&self, number: usize) -> Option<Arc<Person>> {
        self.guests.get(number % self.guests.len().max(1)).cloned()
    }

    /// Asks for nights at a flat whose host has to approve, one after the other.
    pub async fn ask_a_careful_host(&self, count: u64) -> Result<Vec<Asked>> {
        let flat = json!({"title": "The flat of a careful host", "instant_book": false});
        let flat = self.list(&flat).await?;
        let mut asked = Vec::new();
        for number in 0..count {
            let mut wish = self.wish(0);
            wish.flat = flat;
            wish.check_in = self.day(30 + 3 * number);
            asked.push(self.ask(0, wish).await?);
        }
        Ok(asked)
    }

    /// Sends wishes `first..first + count`, one every so often whether or not the ones before were answered.
    pub async fn ask_steadily(&self, first: usize, count: usize, every: Duration) -> Result<Vec<Asked>> {
        let mut tasks = JoinSet::new();
        let mut ticks = tokio::time::interval(every);
        for number in first..first + count {
            ticks.tick().await;
            let market = self.clone();
            tasks.spawn(async move { market.ask(number, market.wish(number)).await });
        }
        let mut asked = Vec::with_capacity(count);
        while let Some(done) = tasks.join_next().await {
            asked.push(done??);
        }
        Ok(asked)
    }

    /// The guest gives the booking up.
    pub async fn cancel(&self, number: usize, booking: Uuid) -> Result<()> {
        let guest = self.guest(number);
        self.act(guest.as_deref(), booking, "cancel").await
    }

    /// The guest writes to the host.
    pub async fn write(&self, number: usize, booking: Uuid) -> Result<()> {
        let guest = self.guest(number);
        let text = json!({"text": "Is there a place for two bicycles?"});
        let path = format!("/bookings/{booking}/messages");
        self.insist(&path, guest.as_deref(), Some(&text), 201).await
    }

    /// Both sides review a stay, with other stars each time.
    pub async fn review(&self, number: usize, booking: Uuid) -> Result<()> {
        let guest = self.guest(number);
        let text = "Quiet at night, strong coffee in the morning.";
        let stars = |more: usize| 1 + (number + more) % 5;
        let of_stay = json!({"booking_id": booking, "rating": stars(0), "text": text, "categories": {
            "cleanliness": stars(1), "accuracy": stars(2), "check_in": stars(3), "communication": stars(4), "location": stars(5),
        }});
        let of_guest = json!({"booking_id": booking, "rating": stars(2), "text": text});
        for (author, words) in [(guest.as_deref(), &of_stay), (Some(&*self.host), &of_guest)] {
            self.insist("/reviews/", author, Some(words), 201).await?;
        }
        Ok(())
    }

    /// The host takes the guest.
    pub async fn approve(&self, booking: Uuid) -> Result<()> {
        self.act(Some(&self.host), booking, "approve").await
    }

    async fn act(&self, by: Option<&Person>, booking: Uuid, verb: &str) -> Result<()> {
        self.insist(&format!("/bookings/{booking}/{verb}"), by, None, 200).await
    }

    /// Posts until the API, which may be busy, has the time for it.
    async fn insist(&self, path: &str, by: Option<&Person>, body: Option<&Value>, expected: u16) -> Result<()> {
        let began = Instant::now();
        loop {
            let (status, reply) = self.send(Method::POST, path, by, None, body).await?;
            if status == expected {
                return Ok(());
            }
            let busy = status == 503 && reply["code"] != "outcome_uncertain" && began.elapsed() < PATIENCE;
            ensure!(busy, "{path}: {status} {reply}");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// The bookings that were answered for, by id.
pub fn booked(asked: &[Asked]) -> HashMap<Uuid, &Asked> {
    let ids = asked.iter().filter_map(|one| match one.answer {
        Answer::Booked(id) => Some((id, one)),
        Answer::Refused(..) => None,
    });
    ids.collect()
}

/// How many tries got each status; 0 when the connection broke.
pub fn statuses(asked: &[Asked]) -> HashMap<u16, u64> {
    let mut counts = HashMap::new();
    for (status, _) in asked.iter().flat_map(|one| &one.tries) {
        *counts.entry(*status).or_default() += 1;
    }
    counts
}

/// A share of the tries with this status took no longer than this, in milliseconds.
pub fn latency(asked: &[Asked], status: u16, share: f64) -> f64 {
    let times: Vec<f64> = asked
        .iter()
        .flat_map(|one| &one.tries)
        .filter(|(got, _)| *got == status)
        .map(|(_, time)| *time)
        .collect();
    percentile(&times, share)
}
