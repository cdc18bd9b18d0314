//! Waiting for a booking instead of asking again and again: `Prefer: wait`, and the stream of events.

use std::time::{Duration, Instant};

use futures::future::join;
use roost_api::server;
use roost_api::state::{AppConfig, AppState};
use roost_shared::config::Secret;
use roost_shared::jobs::Publisher;
use roost_shared::redis::Redis;
use roost_tests::app::{Actor, Call, JWT_SECRET, PASSWORD, Reply};
use roost_tests::world::{World, id_of};
use serde_json::{Value, json};
use uuid::Uuid;

const VISA: &str = "pm_card_visa";
/// Longer than anything here waits.
const PATIENCE: Duration = Duration::from_secs(30);

fn asks(world: &World, guest: &Actor, flat: Uuid, card: &str) -> Call {
    let body = json!({
        "property_id": flat, "check_in": world.day(30), "check_out": world.day(33), "guests": 2, "payment_method": card,
    });
    world.post("/bookings", body).by(guest)
}

async fn with_flat(world: &World) -> (Actor, Actor, Uuid) {
    let (host, guest) = (world.host().await, world.guest().await);
    let flat = world.lists(&host, json!({})).await;
    (host, guest, flat)
}

#[tokio::test]
async fn the_reply_is_held_until_the_booking_is_confirmed() {
    let world = World::start().await;
    let (_, guest, flat) = with_flat(&world).await;
    let reply = asks(&world, &guest, flat, VISA)
        .header("Prefer", "wait=20")
        .send()
        .await;
    assert_eq!(reply.expect(201)["state"], "confirmed");
    assert_eq!(reply.header("preference-applied"), "wait=20");
    assert!(reply.header("location").starts_with("/bookings/"));
}

#[tokio::test]
async fn a_card_that_needs_the_guest_ends_the_wait() {
    let world = World::start().await;
    let (_, guest, flat) = with_flat(&world).await;
    for (card, state) in [
        ("pm_card_chargeDeclined", "failed"),
        ("pm_card_threeDSecure2Required", "requires_action"),
    ] {
        let began = Instant::now();
        let reply = asks(&world, &guest, flat, card)
            .header("Prefer", "wait=20")
            .send()
            .await;
        let booking = reply.expect(201);
        assert_eq!(
            (&booking["state"], &booking["payment_state"]),
            (&json!("held"), &json!(state))
        );
        assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
        let cancel = world.post(&format!("/bookings/{}/cancel", id_of(&booking)), json!({}));
        cancel.by(&guest).send().await.expect(200);
    }
}

#[tokio::test]
async fn a_wait_ends_when_its_time_is_up() {
    let world = World::without_worker().await;
    let (_, guest, flat) = with_flat(&world).await;
    let began = Instant::now();
    let reply = asks(&world, &guest, flat, VISA)
        .header("Prefer", "respond-async, wait=1")
        .send()
        .await;
    let booking = reply.expect(201);
    assert_eq!(
        (&booking["state"], reply.header("preference-applied")),
        (&json!("held"), "wait=1")
    );
    assert!(began.elapsed() >= Duration::from_secs(1));
    // What is not understood is not granted, and nobody waits for what is not theirs.
    let path = format!("/bookings/{}", id_of(&booking));
    for preference in ["wait=soon", "wait=-1", "handling=lenient"] {
        let reply = world.get(&path).by(&guest).header("Prefer", preference).send().await;
        reply.expect(200);
        assert_eq!(reply.header("preference-applied"), "", "{preference}");
    }
    let stranger = world.guest().await;
    let began = Instant::now();
    let call = world.get(&path).by(&stranger).header("Prefer", "wait=20");
    call.send().await.refused(404, "not_found");
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn reading_waits_as_well_and_a_longer_wait_is_cut() {
    let mut world = World::without_worker().await;
    let (host, guest, flat) = with_flat(&world).await;
    let booking = id_of(&asks(&world, &guest, flat, VISA).send().await.expect(201));
    let path = format!("/bookings/{booking}");
    let waiting = [&guest, &host].map(|actor| world.get(&path).by(actor).header("Prefer", "wait=3600").send());
    let waiting = waiting.map(tokio::spawn);
    world
        .eventually("both wait", async || {
            world.state.announcements.waiting_for(booking) == 2
        })
        .await;
    world.start_worker();
    for reply in waiting {
        let reply = reply.await.unwrap();
        assert_eq!(reply.expect(200)["state"], "confirmed");
        assert_eq!(reply.header("preference-applied"), "wait=20");
    }
    assert_eq!(world.state.announcements.waiting_for(booking), 0);
}

#[tokio::test]
async fn a_held_reply_is_the_one_that_is_kept() {
    let mut world = World::without_worker().await;
    let (_, guest, flat) = with_flat(&world).await;
    let ask = || {
        asks(&world, &guest, flat, VISA)
            .header("Idempotency-Key", "one")
            .header("Prefer", "wait=20")
    };
    let first = tokio::spawn(ask().send());
    world
        .eventually("the booking is made", async || {
            world.jobs_of("payment.authorize").await == 1
        })
        .await;
    let second = tokio::spawn(ask().send());
    let booking: Uuid = sqlx::query_scalar("SELECT id FROM bookings")
        .fetch_one(world.pool())
        .await
        .unwrap();
    world
        .eventually("both wait", async || {
            world.state.announcements.waiting_for(booking) == 2
        })
        .await;
    // Who did not ask to wait does so as well: a key has one reply, and it is not known yet.
    let plain = || asks(&world, &guest, flat, VISA).header("Idempotency-Key", "one");
    let third = tokio::spawn(plain().send());
    world
        .eventually("all wait", async || world.state.announcements.waiting_for(booking) == 3)
        .await;
    let (ask_again, ask_without) = (ask(), plain());
    world.start_worker();
    let (first, (second, third)) = join(first, join(second, third)).await;
    let (first, second, third) = (first.unwrap(), second.unwrap(), third.unwrap());
    assert_eq!(first.expect(201)["state"], "confirmed");
    assert_eq!((&first.body, &first.body), (&second.body, &third.body));
    assert_eq!(third.header("preference-applied"), "");
    world.run_jobs().await;
    for call in [ask_again, ask_without] {
        let again = call.send().await;
        assert_eq!((again.status, &again.body), (201, &first.body));
        assert_eq!(again.header("idempotent-replayed"), "true");
    }
}

#[tokio::test]
async fn a_reply_that_was_sent_stays_the_reply() {
    let mut world = World::without_worker().await;
    let (_, guest, flat) = with_flat(&world).await;
    let plain = || asks(&world, &guest, flat, VISA).header("Idempotency-Key", "one");
    let first = plain().send().await;
    assert_eq!(first.expect(201)["state"], "held");
    let (wait, again) = (plain().header("Prefer", "wait=20"), plain());
    let waited = wait.send().await;
    assert_eq!((waited.status, &waited.body), (201, &first.body));
    let began = Instant::now();
    world.start_worker();
    world.run_jobs().await;
    assert_eq!(again.send().await.body, first.body);
    assert!(began.elapsed() < Duration::from_secs(15));

    // One whose wait ran out, too, even if everything is known by then.
    world.stop_worker().await;
    let late = || {
        let body = json!({
            "property_id": flat, "check_in": world.day(40), "check_out": world.day(43), "guests": 2, "payment_method": VISA,
        });
        let call = world.post("/bookings", body).by(&guest);
        call.header("Idempotency-Key", "two").header("Prefer", "wait=1")
    };
    let first = late().send().await;
    assert_eq!(first.expect(201)["state"], "held");
    let again = late();
    world.start_worker();
    world.run_jobs().await;
    assert_eq!(again.send().await.body, first.body);
}

/// The same API in another process, whose Redis is away.
async fn without_redis(world: &World) -> (server::Running, AppState) {
    let state = AppState::new(AppConfig {
        pool: roost_shared::db::connect(world.database_url(), 4).unwrap(),
        redis: Redis::new("redis://127.0.0.1:1", "test").unwrap(),
        clock: world.clock.clone(),
        jwt_secret: Secret::new(JWT_SECRET),
        jwt_secret_previous: None,
        settings: (*world.state.settings).clone(),
    })
    .unwrap();
    (server::start(state.clone(), "127.0.0.1:0").await.unwrap(), state)
}

#[tokio::test]
async fn without_redis_a_wait_ends_within_a_second_of_the_change() {
    let mut world = World::without_worker().await;
    let (_, guest, flat) = with_flat(&world).await;
    let booking = id_of(&asks(&world, &guest, flat, VISA).send().await.expect(201));
    let (lonely, state) = without_redis(&world).await;
    let url = format!("http://{}/bookings/{booking}", lonely.address());
    let request = reqwest::Client::new()
        .get(url)
        .bearer_auth(&guest.access_token)
        .header("Prefer", "wait=20");
    let waiting = tokio::spawn(request.send());
    world
        .eventually("it waits", async || state.announcements.waiting_for(booking) == 1)
        .await;
    world.start_worker();
    world
        .eventually("the booking is confirmed", async || {
            world.booking(&guest, booking).await["state"] == "confirmed"
        })
        .await;
    let confirmed = Instant::now();
    let seen: Value = waiting.await.unwrap().unwrap().json().await.unwrap();
    assert_eq!(seen["state"], "confirmed");
    assert!(
        confirmed.elapsed() < Duration::from_secs(4),
        "{:?}",
        confirmed.elapsed()
    );
    lonely.stop().await.unwrap();
}

#[tokio::test]
async fn an_announcement_wakes_those_it_concerns() {
    let world = World::without_worker().await;
    let announcements = &world.state.announcements;
    let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
    world
        .eventually("the subscription stands", async || announcements.are_heard())
        .await;
    let (mut mine, mut theirs) = (announcements.of(one), announcements.of(other));
    let channel = Publisher::booking_channel(&world.redis());
    let mut redis = world.redis().connection();
    redis::cmd("PUBLISH")
        .arg(&channel)
        .arg("no id")
        .exec_async(&mut redis)
        .await
        .unwrap();
    redis::cmd("PUBLISH")
        .arg(&channel)
        .arg(one.to_string())
        .exec_async(&mut redis)
        .await
        .unwrap();
    tokio::time::timeout(Duration::from_secs(4), mine.next())
        .await
        .expect("woken before it would look by itself");
    let quiet = tokio::time::timeout(Duration::from_millis(200), theirs.next()).await;
    assert!(quiet.is_err(), "nothing was said about the other one");
}

/// A stream of events, read one by one.
struct Events {
    response: reqwest::Response,
    unread: String,
}

impl Events {
    async fn of(world: &World, actor: &Actor, booking: Uuid) -> Self {
        let url = format!("{}/bookings/{booking}/events", world.url());
        let request = reqwest::Client::new().get(url).bearer_auth(&actor.access_token);
        // As a browser asks.
        let request = request
            .header("Accept", "text/event-stream")
            .header("Accept-Encoding", "gzip, br");
        let response = request.header("Last-Event-ID", "1").send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert!(!response.headers().contains_key("content-encoding"));
        Self {
            response,
            unread: String::new(),
        }
    }

    /// The next event as its name, id and data; nothing when the stream has ended.
    async fn next(&mut self) -> Option<(String, String, Value)> {
        loop {
            if let Some((event, rest)) = self.unread.split_once("\n\n") {
                let lines: Vec<(String, String)> = event
                    .lines()
                    .filter_map(|line| line.split_once(": "))
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .collect();
                self.unread = rest.to_owned();
                let field = |name: &str| lines.iter().find(|line| line.0 == name).map(|line| line.1.clone());
                match (field("event"), field("id"), field("data")) {
                    (Some(event), Some(id), Some(data)) => {
                        return Some((event, id, serde_json::from_str(&data).unwrap()));
                    }
                    // A comment.
                    _ => continue,
                }
            }
            let chunk = tokio::time::timeout(PATIENCE, self.response.chunk())
                .await
                .expect("an event")
                .unwrap()?;
            self.unread.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }
}

#[tokio::test]
async fn a_stream_tells_how_the_booking_stands_and_then_each_change() {
    let mut world = World::without_worker().await;
    let (host, guest, flat) = with_flat(&world).await;
    let booking = id_of(&asks(&world, &guest, flat, VISA).send().await.expect(201));
    let mut events = Events::of(&world, &guest, booking).await;
    let (event, id, data) = events.next().await.unwrap();
    assert_eq!((event.as_str(), id.as_str()), ("booking", "1"));
    assert_eq!((&data["id"], &data["state"]), (&json!(booking), &json!("held")));
    assert_eq!(
        (&data["payment_state"], &data["version"]),
        (&json!("pending"), &json!(1))
    );

    world.start_worker();
    let mut last = data;
    while last["payment_state"] != "captured" {
        let (_, id, data) = events.next().await.unwrap();
        assert_eq!(id, data["version"].to_string());
        assert_ne!(data, last, "only changes are told");
        assert!(data["version"].as_i64() >= last["version"].as_i64());
        last = data;
    }
    assert_eq!(last["state"], "confirmed");

    let cancel = world.post(&format!("/bookings/{booking}/cancel"), json!({})).by(&host);
    cancel.send().await.expect(200);
    let (_, _, data) = events.next().await.unwrap();
    assert_eq!(data["state"], "cancelled_by_host");
    assert_eq!(events.next().await, None, "nothing follows the end");
    // Of what has ended there is one event.
    let mut events = Events::of(&world, &host, booking).await;
    assert_eq!(events.next().await.unwrap().2["state"], "cancelled_by_host");
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn a_stream_is_for_the_two_sides_only_and_ends_with_the_server() {
    let world = World::without_worker().await;
    let (_, guest, flat) = with_flat(&world).await;
    let booking = id_of(&asks(&world, &guest, flat, VISA).send().await.expect(201));
    let stranger = world.guest().await;
    let path = format!("/bookings/{booking}/events");
    world.get(&path).send().await.refused(401, "unauthorized");
    let refused: Reply = world.get(&path).by(&stranger).send().await;
    refused.refused(404, "not_found");
    world
        .get("/bookings/x/events")
        .by(&guest)
        .send()
        .await
        .refused_field(400, "invalid_parameter", "booking_id");

    let (other, state) = without_redis(&world).await;
    let url = format!("http://{}{path}", other.address());
    let mut response = reqwest::Client::new()
        .get(url)
        .bearer_auth(&guest.access_token)
        .send()
        .await
        .unwrap();
    assert!(response.chunk().await.unwrap().is_some());
    let began = Instant::now();
    let (stopped, rest) = join(other.stop(), response.text()).await;
    stopped.unwrap();
    rest.expect("the stream ends, it does not break");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(state.announcements.waiting_for(booking), 0);
}

#[tokio::test]
async fn a_stream_ends_with_its_session_and_there_are_not_too_many() {
    let world = World::without_worker().await;
    let (_, guest, flat) = with_flat(&world).await;
    let booking = id_of(&asks(&world, &guest, flat, VISA).send().await.expect(201));
    let phone = world.login(&guest.email, PASSWORD).await;
    let mut streams = Vec::new();
    for _ in 0..19 {
        streams.push(Events::of(&world, &guest, booking).await);
    }
    let mut leaving = Events::of(&world, &phone, booking).await;
    leaving.next().await.unwrap();
    let one_more = world
        .get(&format!("/bookings/{booking}/events"))
        .by(&guest)
        .send()
        .await;
    one_more.refused(429, "rate_limited");
    world
        .post("/auth/logout", json!({}))
        .by(&phone)
        .send()
        .await
        .expect(204);
    assert_eq!(leaving.next().await, None);
    // The one that ended, and one that its client left, make room.
    streams.pop();
    let path = format!("/bookings/{booking}/events");
    world
        .eventually("there is room", async || {
            let url = format!("{}{path}", world.url());
            let response = reqwest::Client::new()
                .get(url)
                .bearer_auth(&guest.access_token)
                .send()
                .await;
            response.unwrap().status() == 200
        })
        .await;
}
