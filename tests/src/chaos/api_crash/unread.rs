//! The API dies when it has committed and answered, and the guest has not read the answer: the request is repeated and gets
//! the one that was stored.

use std::{net::SocketAddr, time::Instant};

use anyhow::{Context as _, Result, bail};
use roost_shared::clock::Clock;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    super::{
        Run,
        market::{Answer, Asked, Wish},
        proxy::{Edge, Proxy},
        testbed::Testbed,
    },
    committed, kill,
};

const PASSWORD: &str = "correct horse battery staple";

/// A guest whose replies come through a proxy.
struct Guest {
    http: reqwest::Client,
    token: String,
    wish: Wish,
}

pub async fn reply(testbed: &mut Testbed, run: &mut Run, wish: Wish, number: usize) -> Result<Asked> {
    let proxy = Proxy::start(address(&testbed.api_url(""))?).await?;
    let guest = Guest::sign_up(testbed, wish).await?;
    let (sent_at, began) = (Clock::default().now(), Instant::now());
    proxy.trip_at(0, Edge::After);
    let mut unread = tokio::spawn(guest.request(&format!("http://{}", proxy.address())).send());
    tokio::select! {
        reply = &mut unread => bail!("the reply was not held back: {reply:?}"),
        () = proxy.tripped() => {}
    }
    let there = committed(testbed, &guest.wish).await?;
    run.verdict.require(there == 1, || {
        format!("{there} bookings are committed when the API has answered")
    });
    kill(testbed, run)?;
    proxy.cut();
    let read = unread.await?;
    run.verdict
        .require(read.is_err(), || format!("the guest has read {read:?}"));
    let broke = (0, began.elapsed().as_secs_f64() * 1000.0);
    testbed.start_api().await?;

    let tried = Instant::now();
    let repeated = guest.request(&testbed.api_url("")).send().await?;
    let status = repeated.status().as_u16();
    let stored = repeated.headers().contains_key("Idempotent-Replayed");
    let booking: Value = repeated.json().await?;
    run.verdict.require(status == 201 && stored, || {
        format!("a reply that was not read is not the stored one when repeated: {status} {booking}")
    });
    let id = booking["id"].as_str().context("no booking")?;
    Ok(Asked {
        number,
        wish: guest.wish,
        answer: Answer::Booked(id.parse()?),
        sent_at,
        answered_at: Clock::default().now(),
        tries: vec![broke, (status, tried.elapsed().as_secs_f64() * 1000.0)],
    })
}

impl Guest {
    async fn sign_up(testbed: &Testbed, wish: Wish) -> Result<Self> {
        let email = format!("reader-{}@example.com", Uuid::new_v4());
        let user = json!({"email": email, "password": PASSWORD, "full_name": "Ada Lovelace", "role": "guest"});
        let users = testbed.http.post(testbed.api_url("/users")).json(&user);
        users.send().await?.error_for_status()?;
        let login = json!({"email": email, "password": PASSWORD});
        let login = testbed.http.post(testbed.api_url("/auth/login")).json(&login);
        let tokens: Value = login.send().await?.error_for_status()?.json().await?;
        let token = tokens["access_token"].as_str().context("no access token")?;
        Ok(Self {
            http: testbed.http.clone(),
            token: token.to_owned(),
            wish,
        })
    }

    fn request(&self, base: &str) -> reqwest::RequestBuilder {
        let check_out = self.wish.check_in + chrono::Days::new(self.wish.nights);
        let body = json!({
            "property_id": self.wish.flat, "check_in": self.wish.check_in, "check_out": check_out, "guests": 2,
            "payment_method": self.wish.card,
        });
        let request = self.http.post(format!("{base}/bookings/"));
        let request = request.bearer_auth(&self.token);
        request.header("Idempotency-Key", &self.wish.key).json(&body)
    }
}

fn address(url: &str) -> Result<SocketAddr> {
    let address = url.strip_prefix("http://").context("not an HTTP URL")?;
    Ok(address.parse()?)
}
