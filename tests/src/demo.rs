//! One booking over HTTP, each step observed and timed: what a newcomer would do by hand.
//!
//! [`stage`] prints, [`client`] asks the API, [`observe`] looks at what jobs did. Every run uses new people and a new
//! property, so it can be repeated on the same data.

mod client;
mod observe;
mod stage;

use std::{io::Write, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use chrono::{Days, NaiveDate};
use roost_shared::{clock::Clock, money::Money};
use serde_json::{Value, json};

use self::{
    client::{Api, Person, text},
    observe::{Counters, Inbox, cached, until},
    stage::Stage,
};
use crate::{dev::RunEnv, services::random_hex};

/// How long a job may take before it counts as not done. It takes milliseconds; a busy machine is slower.
const PATIENCE: Duration = Duration::from_secs(20);
/// Two addresses to prove, two bookings told to both sides, one card that failed.
const MAILS: u64 = 7;

/// Drives the demo against a running Roost; fails at the first step that did not happen. Returns how many steps could not be
/// observed, as what a mail server or a Stripe that was given does with them.
pub async fn demo(env: &RunEnv, out: &mut impl Write) -> Result<usize> {
    // For a `rediss://` that was given; a second provider is refused, which is all right.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut story = Story {
        api: Api::new(&env.api_url)?,
        inbox: env.mailbox_url.as_deref().map(Inbox::new).transpose()?,
        counters: Counters::new(env)?,
        tag: random_hex().chars().take(8).collect(),
        today: Clock::default().now().date_naive(),
        env,
        stage: Stage::new(out),
    };
    let before = story.counters.read().await?;
    let (host, guest, property_id) = story.two_people_and_a_place().await?;
    let quote = story.search_and_quote(&property_id).await?;
    let booking = story.book(&guest, &quote).await?;
    story.what_jobs_did(&host, &guest, &booking).await?;
    story.cache(&property_id).await?;
    story.webhooks(&before).await?;
    story.refusals(&guest, &quote).await?;
    story.every_mail(&before).await?;
    story.totals(&before).await
}

struct Story<'a, W> {
    env: &'a RunEnv,
    api: Api,
    inbox: Option<Inbox>,
    counters: Counters,
    /// Makes addresses and idempotency keys of this run new.
    tag: String,
    today: NaiveDate,
    stage: Stage<'a, W>,
}

/// A quote and what it was asked for.
struct Quoted {
    property_id: String,
    check_in: NaiveDate,
    check_out: NaiveDate,
    total: Money,
    token: String,
}

impl Quoted {
    fn request(&self, card: &str) -> Value {
        json!({
            "property_id": self.property_id, "check_in": self.check_in, "check_out": self.check_out, "guests": 2,
            "payment_method": card,
        })
    }
}

/// A confirmed booking.
struct Booked {
    id: String,
    total: Money,
}

impl<W: Write> Story<'_, W> {
    async fn two_people_and_a_place(&mut self) -> Result<(Person, Person, String)> {
        let host = self.joins("host", "Robin Featherstone").await?;
        let (api, tag) = (&self.api, &self.tag);
        let property_id = self
            .stage
            .step("host lists a property", async || {
                let property = api
                    .post("/properties/", the_birdhouse())
                    .by(&host)
                    .key(&format!("demo-{tag}-list"));
                let property = property.send().await?.expect(201)?;
                let id = text(&property, "id")?;
                Ok((id.clone(), format!("{id}  \"{}\"", text(&property, "title")?)))
            })
            .await?;
        let guest = self.joins("guest", "Martin Swallow").await?;
        Ok((host, guest, property_id))
    }

    /// Registers, proves the e-mail address, signs in.
    async fn joins(&mut self, role: &'static str, full_name: &'static str) -> Result<Person> {
        let email = format!(
            "{}.{}@example.com",
            full_name.to_lowercase().replace(' ', "."),
            self.tag
        );
        let (api, inbox) = (&self.api, self.inbox.as_ref());
        let mut person = self
            .stage
            .step(&format!("{role} registers"), async || {
                let person = Person::registers(api, role, full_name, &email).await?;
                let facts = format!("{}  {email}", person.id);
                Ok((person, facts))
            })
            .await?;
        let what = format!("{role} proves the address");
        match inbox {
            Some(inbox) => {
                self.stage
                    .step(&what, async || {
                        let mail = inbox.wait(&email, "Confirm your e-mail address").await?;
                        let token = mail.token("/auth/verify-email?token=")?;
                        let profile = api.post("/auth/verify-email", json!({"token": token})).send().await?;
                        let profile = profile.expect(200)?;
                        ensure!(profile["email_verified"] == true, "the API answered {profile}");
                        Ok(((), format!("by the link in \"{}\"", mail.subject())))
                    })
                    .await?;
            }
            None => self
                .stage
                .skip(&what, "the mail went out over SMTP_URL, where it cannot be read")?,
        }
        self.stage
            .step(&format!("{role} signs in"), async || {
                let seconds = person.signs_in(api).await?;
                Ok((person, format!("access token for {} min", seconds / 60)))
            })
            .await
    }

    async fn search_and_quote(&mut self, property_id: &str) -> Result<Quoted> {
        let (check_in, check_out) = (self.today + Days::new(30), self.today + Days::new(33));
        let api = &self.api;
        self.stage
            .step("guest searches", async || {
                let first =
                    format!("/properties/?city=Lisbon&check_in={check_in}&check_out={check_out}&guests=2&limit=100");
                let (mut next, mut seen, mut pages) = (Some(first), 0, 0);
                while let Some(path) = next {
                    let page = api.get(&path).send().await?.expect(200)?;
                    let items = page["items"].as_array().context("a list has items")?;
                    seen += items.len();
                    pages += 1;
                    if items.iter().any(|item| item["id"] == property_id) {
                        return Ok((
                            (),
                            format!("Lisbon, {check_in} to {check_out}: {seen} free, ours among them"),
                        ));
                    }
                    next = page["next"].as_str().map(str::to_owned);
                }
                bail!("{seen} free properties on {pages} pages, ours not among them")
            })
            .await?;
        self.quote(property_id, check_in, check_out).await
    }

    async fn quote(&mut self, property_id: &str, check_in: NaiveDate, check_out: NaiveDate) -> Result<Quoted> {
        let api = &self.api;
        self.stage
            .step("guest asks for a quote", async || {
                let request = json!({
                    "property_id": property_id, "check_in": check_in, "check_out": check_out, "guests": 2,
                });
                let quote = api.post("/quotes", request).send().await?.expect(200)?;
                let total = money(&quote, "total_minor")?;
                let lines = quote["lines"].as_array().context("a quote has lines")?;
                let parts: Result<Vec<String>> = lines
                    .iter()
                    .map(|line| {
                        let amount = Money {
                            minor: number(line, "amount_minor")?,
                            currency: total.currency,
                        };
                        Ok(format!(
                            "{} {}",
                            text(line, "label")?.to_lowercase(),
                            amount.format("en")
                        ))
                    })
                    .collect();
                let facts = format!("{} = {}", parts?.join(" + "), total.format("en"));
                let quoted = Quoted {
                    property_id: property_id.to_owned(),
                    check_in,
                    check_out,
                    total,
                    token: text(&quote, "token")?,
                };
                Ok((quoted, facts))
            })
            .await
    }

    async fn book(&mut self, guest: &Person, quote: &Quoted) -> Result<Booked> {
        let mut request = quote.request("pm_card_visa");
        request["quote_token"] = json!(quote.token);
        let key = format!("demo-{}-book", self.tag);
        let api = &self.api;
        let send = || {
            api.post("/bookings/", request.clone())
                .by(guest)
                .key(&key)
                .prefer_wait()
                .send()
        };
        let (reply, booking) = self
            .stage
            .step("guest books, pm_card_visa", async || {
                let reply = send().await?;
                let booking = reply.expect(201)?;
                let state = text(&booking, "state")?;
                ensure!(
                    state == "confirmed",
                    "the booking is {state} after {} s: {booking}",
                    client::WAIT
                );
                ensure!(
                    money(&booking, "total_minor")? == quote.total,
                    "another price than quoted: {booking}"
                );
                let id = text(&booking, "id")?;
                let total = quote.total;
                let facts = format!("{id}  {state} at {}", total.format("en"));
                Ok(((reply, Booked { id, total }), facts))
            })
            .await?;
        self.stage
            .step("the same request again", async || {
                let again = send().await?;
                ensure!(again.body == reply.body, "another reply: {}", again.summary());
                ensure!(again.replayed, "the reply is not marked as a replay");
                Ok(((), format!("the same {} bytes, nothing booked twice", again.body.len())))
            })
            .await?;
        Ok(booking)
    }

    async fn what_jobs_did(&mut self, host: &Person, guest: &Person, booking: &Booked) -> Result<()> {
        let api = &self.api;
        self.stage
            .step("live events until captured", async || {
                let events = observe::follow(api, guest, &booking.id, "captured", PATIENCE).await?;
                Ok(((), events.join(", then ")))
            })
            .await?;
        self.stage
            .step("payment", async || {
                let payment = observe::settled(PATIENCE, async || payment_of(api, guest, &booking.id).await).await?;
                for amount in ["amount_minor", "authorized_minor", "captured_minor"] {
                    ensure!(
                        money(&payment, amount)? == booking.total,
                        "{amount} is not the total: {payment}"
                    );
                }
                let attempts = payment["attempts"].as_array().context("a payment has attempts")?;
                let done: Vec<&str> = attempts
                    .iter()
                    .filter(|attempt| attempt["state"] == "done")
                    .filter_map(|attempt| attempt["operation"].as_str())
                    .collect();
                ensure!(done == ["authorize", "capture"], "asked of Stripe: {attempts:?}");
                let (intent, amount) = (text(&payment, "stripe_payment_intent_id")?, booking.total.format("en"));
                Ok(((), format!("{intent}  authorised {amount}, captured {amount}")))
            })
            .await?;
        self.mail(guest, "Booked:").await?;
        self.mail(host, "New booking:").await
    }

    /// Waits for a mail, where mail can be read.
    async fn mail(&mut self, person: &Person, subject: &str) -> Result<()> {
        let what = format!("mail to the {}", person.role);
        match &self.inbox {
            Some(inbox) => {
                self.stage
                    .step(&what, async || {
                        let mail = inbox.wait(&person.email, subject).await?;
                        Ok(((), format!("\"{}\"", mail.subject())))
                    })
                    .await
            }
            None => self
                .stage
                .skip(&what, "it went out over SMTP_URL, where it cannot be read"),
        }
    }

    async fn cache(&mut self, property_id: &str) -> Result<()> {
        let (api, env) = (&self.api, self.env);
        self.stage
            .step("the property's page is cached", async || {
                let rendered = until(PATIENCE, "worker", async || cached(env, property_id).await).await?;
                let shown = api.get(&format!("/properties/{property_id}/")).send().await?;
                shown.expect(200)?;
                ensure!(
                    shown.body == rendered.json,
                    "the API shows something else than what is cached"
                );
                Ok((
                    (),
                    format!(
                        "{} bytes, version {}, as the API shows them",
                        rendered.json.len(),
                        rendered.version
                    ),
                ))
            })
            .await
    }

    async fn webhooks(&mut self, before: &observe::Counts) -> Result<()> {
        let counters = &self.counters;
        // Without the sandbox, webhooks come only if somebody forwards them.
        let forwarded = self.env.stripe_api_base.is_some();
        let patience = if forwarded { PATIENCE } else { Duration::from_secs(5) };
        let seen = until(patience, "api", async || {
            let counts = counters.read().await?;
            let taken_in = counts.events_taken_in - before.events_taken_in;
            let handled = counts.events_handled - before.events_handled;
            let seen = format!("{taken_in} taken in, {handled} handled");
            // At the least: authorised, captured.
            Ok(if taken_in >= 2 && handled >= taken_in {
                Ok(seen)
            } else {
                Err(seen)
            })
        });
        if forwarded {
            return self
                .stage
                .step("Stripe's webhooks", async || Ok(((), seen.await?)))
                .await;
        }
        match seen.await {
            Ok(seen) => self.stage.step("Stripe's webhooks", async || Ok(((), seen))).await,
            Err(_) => self.stage.skip(
                "Stripe's webhooks",
                "none came; `stripe listen --forward-to …/webhooks/stripe` brings them",
            ),
        }
    }

    async fn refusals(&mut self, guest: &Person, taken: &Quoted) -> Result<()> {
        let (api, key) = (&self.api, format!("demo-{}-taken", self.tag));
        self.stage
            .step("the same nights once more", async || {
                let reply = api
                    .post("/bookings/", taken.request("pm_card_visa"))
                    .by(guest)
                    .key(&key)
                    .send()
                    .await?;
                let problem = reply.expect(409)?;
                ensure!(problem["code"] == "dates_taken", "{problem}");
                let conflict = &problem["conflict"];
                let (from, to) = (text(conflict, "check_in")?, text(conflict, "check_out")?);
                Ok(((), format!("409 dates_taken: {from} to {to}")))
            })
            .await?;

        // The day of check-out is free for the next guest.
        let next = Quoted {
            property_id: taken.property_id.clone(),
            check_in: taken.check_out,
            check_out: taken.check_out + Days::new(2),
            total: taken.total,
            token: String::new(),
        };
        let key = format!("demo-{}-declined", self.tag);
        let booking_id = self
            .stage
            .step("a card that is declined", async || {
                let request = next.request("pm_card_chargeDeclined");
                let reply = api
                    .post("/bookings/", request)
                    .by(guest)
                    .key(&key)
                    .prefer_wait()
                    .send()
                    .await?;
                let booking = reply.expect(201)?;
                ensure!(booking["state"] == "held", "{booking}");
                ensure!(booking["payment_state"] == "failed", "{booking}");
                let (id, why) = (text(&booking, "id")?, text(&booking["payment"], "failure_code")?);
                let until = text(&booking, "hold_expires_at")?;
                let until = until.get(11..16).unwrap_or(&until).to_owned();
                Ok((
                    id.clone(),
                    format!("{id}  {why}; the nights stay held until {until} UTC"),
                ))
            })
            .await?;
        self.mail(guest, "Your payment did not go through").await?;
        let (api, key) = (&self.api, format!("demo-{}-second-card", self.tag));
        self.stage
            .step("another card, pm_card_mastercard", async || {
                let request = json!({"booking_id": booking_id, "payment_method": "pm_card_mastercard"});
                api.post("/payments/", request)
                    .by(guest)
                    .key(&key)
                    .send()
                    .await?
                    .expect(201)?;
                let events = observe::follow(api, guest, &booking_id, "captured", PATIENCE).await?;
                let payment = payment_of(api, guest, &booking_id).await?;
                let captured = money(&payment, "captured_minor")?;
                let last = events.last().map(String::as_str).unwrap_or_default();
                Ok(((), format!("{last}: {} captured", captured.format("en"))))
            })
            .await
    }

    /// The worker's own count, which does not need to read a mailbox.
    async fn every_mail(&mut self, before: &observe::Counts) -> Result<()> {
        let counters = &self.counters;
        self.stage
            .step("mail in all", async || {
                until(PATIENCE, "worker", async || {
                    let sent = counters.read().await?.mails - before.mails;
                    Ok(if sent >= MAILS {
                        Ok(((), format!("{sent} handed to the SMTP server")))
                    } else {
                        Err(format!("{sent} of {MAILS} handed to the SMTP server"))
                    })
                })
                .await
            })
            .await
    }

    async fn totals(&mut self, before: &observe::Counts) -> Result<usize> {
        let now = self.counters.read().await?;
        let mails = now.mails - before.mails;
        let (jobs, requests) = (now.jobs - before.jobs, now.requests - before.requests);
        let events = now.events_taken_in - before.events_taken_in;
        self.stage.close(&format!(
            "2 bookings confirmed, 3 cards tried, {mails} mails sent, {jobs} jobs done, {events} webhooks taken in, \
             {requests} requests answered"
        ))
    }
}

/// The booking's latest payment with everything about it.
async fn payment_of(api: &Api, person: &Person, booking_id: &str) -> Result<Value> {
    let list = api
        .get(&format!("/payments/?booking_id={booking_id}"))
        .by(person)
        .send()
        .await?
        .expect(200)?;
    let id = text(&list["items"][0], "id")?;
    api.get(&format!("/payments/{id}/"))
        .by(person)
        .send()
        .await?
        .expect(200)
}

fn money(object: &Value, field: &str) -> Result<Money> {
    Ok(Money {
        minor: number(object, field)?,
        currency: text(object, "currency")?.parse()?,
    })
}

fn number(object: &Value, field: &str) -> Result<i64> {
    object[field]
        .as_i64()
        .with_context(|| format!("{field} is not a number in {object}"))
}

fn the_birdhouse() -> Value {
    json!({
        "title": "The birdhouse above the tram stop",
        "description": "Two rooms under the roof in Graça, with a view over the river and a tram that rings good night.",
        "city": "Lisbon", "country": "PT", "latitude": 38.7175, "longitude": -9.1310, "time_zone": "Europe/Lisbon",
        "currency": "EUR", "nightly_rate_minor": 9_500, "cleaning_fee_minor": 3_000,
        "max_guests": 3, "bedrooms": 1, "beds": 2, "bathrooms": 1,
        "amenities": ["wifi", "kitchen", "balcony", "washing_machine"],
        "house_rules": "Please feed nobody on the balcony.",
        "min_nights": 2, "max_nights": 21, "instant_book": true, "cancellation_policy": "moderate", "status": "listed",
    })
}
