//! A guest does not come, and the host says so.

use chrono::{DateTime, FixedOffset, TimeDelta, Utc};
use roost_shared::jobs::catalogue::{CompleteStays, VoidPayment};
use roost_tests::app::{Actor, PASSWORD, Reply};
use roost_tests::world::{World, id_of};
use serde_json::{Value, json};
use uuid::Uuid;

const REASON: &str = "<script>alert('x')</script> I waited until midnight.";

struct Scene {
    world: World,
    host: Actor,
    guest: Actor,
    flat: Uuid,
    booking: Uuid,
}

impl Scene {
    /// A confirmed stay of three nights, to begin in two days.
    async fn set(policy: &str) -> Self {
        let world = World::start().await;
        let (host, guest) = (world.host().await, world.guest().await);
        let flat = world.lists(&host, json!({"cancellation_policy": policy})).await;
        let booked = world.books(&guest, flat, world.day(2), world.day(5), "pm_card_visa");
        let booking = id_of(&booked.await.expect(201));
        world.run_jobs().await;
        assert_eq!(world.booking(&guest, booking).await["state"], "confirmed");
        Self {
            world,
            host,
            guest,
            flat,
            booking,
        }
    }

    async fn reports(&self, actor: &Actor, body: Value) -> Reply {
        let path = format!("/bookings/{}/no-show", self.booking);
        self.world.post(&path, body).by(actor).send().await
    }

    /// Goes on to an instant; who takes part signs in again, because access tokens do not last that long.
    async fn at(&mut self, instant: DateTime<Utc>) {
        // The clock goes by seconds.
        self.world
            .pass(instant - self.world.clock.now() + TimeDelta::seconds(1))
            .await;
        self.host = self.world.login(&self.host.email, PASSWORD).await;
        self.guest = self.world.login(&self.guest.email, PASSWORD).await;
    }

    async fn told(&self, reader: &Actor) -> Vec<String> {
        let page = self.world.get("/notifications/").by(reader).send().await.expect(200);
        let items = page["items"].as_array().unwrap().iter();
        items.map(|item| item["event"].as_str().unwrap().to_owned()).collect()
    }
}

/// When the host may say it first, by the problem that refuses it before.
async fn from(scene: &Scene) -> DateTime<FixedOffset> {
    let early = scene.reports(&scene.host, json!({})).await.refused(409, "too_early");
    DateTime::parse_from_rfc3339(early["from"].as_str().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_who_does_not_come_pays_and_the_nights_are_free() {
    // Whoever cancelled now would get two of the three nights back.
    let mut scene = Scene::set("flexible").await;
    let from = from(&scene).await;
    let expected = scene.world.day(2).and_hms_opt(15, 0, 0).unwrap();
    assert_eq!(
        from.naive_local(),
        expected,
        "the time of check-in on the property's wall"
    );
    scene.at(from.to_utc() - TimeDelta::minutes(10)).await;
    scene.reports(&scene.host, json!({})).await.refused(409, "too_early");
    scene.at(from.to_utc()).await;
    let world = &scene.world;
    let stranger = world.guest().await;
    scene.reports(&stranger, json!({})).await.refused(404, "not_found");
    scene.reports(&scene.guest, json!({})).await.refused(403, "forbidden");
    let anonymous = world.post(&format!("/bookings/{}/no-show", scene.booking), json!({}));
    anonymous.send().await.refused(401, "unauthorized");
    for (status, code, body) in [
        (400, "invalid_body", json!({"reason": 1})),
        (400, "invalid_body", json!({"reason": "x".repeat(501)})),
        (422, "validation_failed", json!({"reason": "bell \u{7}"})),
        (400, "invalid_body", json!({"guest": scene.guest.id})),
    ] {
        let field = body.as_object().unwrap().keys().next().unwrap().clone();
        let reply = scene.reports(&scene.host, body).await;
        reply.refused_field(status, code, &field);
    }

    let body = json!({"reason": REASON});
    let reported = scene.reports(&scene.host, body.clone()).await.expect(200);
    assert_eq!(reported["state"], "no_show");
    let last = reported["timeline"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(
        (&last["event"], &last["actor"], &last["to_state"], &last["reason"]),
        (&json!("no_show"), &json!("host"), &json!("no_show"), &json!(REASON))
    );
    // A reply that was lost is asked for again, and nothing happens twice.
    let events = world.events(scene.booking).await;
    let again = scene.reports(&scene.host, body).await.expect(200);
    assert_eq!(
        (&again["state"], &again["version"]),
        (&json!("no_show"), &reported["version"])
    );
    assert_eq!(world.events(scene.booking).await, events);
    world.run_jobs().await;

    // The guest is told, once, and what the host wrote stays text.
    assert_eq!(scene.told(&scene.guest).await, ["booking_no_show", "booking_confirmed"]);
    assert_eq!(scene.told(&scene.host).await, ["booking_confirmed"]);
    let mails = world.mailbox.messages();
    let mails: Vec<_> = mails
        .iter()
        .filter(|mail| mail.is_to(&scene.guest.email) && mail.subject == "Not arrived: Bright flat by the canal")
        .collect();
    assert_eq!(mails.len(), 1, "{:?}", world.mails_to(&scene.guest));
    let (text, html) = (mails[0].text.clone().unwrap(), mails[0].html.clone().unwrap());
    assert!(
        text.contains("€358.40, is not paid back") && text.contains("writes: <script>"),
        "{text}"
    );
    assert!(!html.contains("<script") && html.contains("&lt;script&gt;"), "{html}");

    // The money stays where it is, also when somebody asks for its release.
    let payment = world.payment(&scene.guest, scene.booking).await;
    let mut tx = world.state.db.begin().await.unwrap();
    tx.enqueue(&VoidPayment {
        payment_id: id_of(&payment),
    });
    tx.commit().await.unwrap();
    world.run_jobs().await;
    let payment = world.payment(&scene.guest, scene.booking).await;
    assert_eq!(
        (&payment["captured_minor"], &payment["refunded_minor"]),
        (&json!(35_840), &json!(0))
    );
    let record = world.at_stripe(scene.booking).await;
    assert_eq!((record.captured, record.refunded), (35_840, 0));

    // It has ended, for both.
    for (actor, step) in [
        (&scene.guest, "cancel"),
        (&scene.host, "cancel"),
        (&scene.guest, "check-in"),
        (&scene.host, "check-out"),
    ] {
        let call = world.post(&format!("/bookings/{}/{step}", scene.booking), json!({}));
        let refused = call.by(actor).send().await.refused(409, "wrong_state");
        assert_eq!(refused["state"], "no_show", "{step}");
    }
    for author in [&scene.guest, &scene.host] {
        let review = json!({"booking_id": scene.booking, "rating": 1, "text": "Nobody was there at all."});
        let refused = world.post("/reviews/", review).by(author).send().await;
        assert_eq!(refused.refused(409, "wrong_state")["state"], "no_show");
    }
    // Tonight can be somebody else's.
    let today = world.day(0);
    let other = world.books(
        &stranger,
        scene.flat,
        today,
        today + chrono::Days::new(3),
        "pm_card_visa",
    );
    other.await.expect(201);
    world.run_jobs().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_check_out_time_nobody_is_missing_any_more() {
    let mut scene = Scene::set("firm").await;
    let from = from(&scene).await;
    // Three nights later, early in the afternoon.
    scene.at((from + TimeDelta::hours(3 * 24 - 2)).to_utc()).await;
    scene.reports(&scene.host, json!({})).await.refused(409, "stay_over");
    let refusals = scene.world.events(scene.booking).await;
    assert_eq!(
        refusals.iter().filter(|event| *event == "no_show").count(),
        2,
        "{refusals:?}"
    );
    // Nobody said anything in time: the guest is taken to have stayed.
    scene.at((from + TimeDelta::days(5)).to_utc()).await;
    let db = scene.world.db();
    let mut tx = db.begin().await.unwrap();
    tx.enqueue(&CompleteStays {});
    tx.commit().await.unwrap();
    scene.world.run_jobs().await;
    let seen = scene.world.booking(&scene.host, scene.booking).await;
    assert_eq!(seen["state"], "completed");
    let refused = scene.reports(&scene.host, json!({})).await.refused(409, "wrong_state");
    assert_eq!(refused["state"], "completed");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_checked_in_is_there_and_who_is_missing_is_not_completed() {
    let mut scene = Scene::set("moderate").await;
    let from = from(&scene).await;
    scene.at(from.to_utc() + TimeDelta::hours(8)).await;
    let check_in = scene
        .world
        .post(&format!("/bookings/{}/check-in", scene.booking), json!({}));
    let both = tokio::join!(check_in.by(&scene.guest).send(), scene.reports(&scene.host, json!({})));
    let accepted = [&both.0, &both.1].iter().filter(|reply| reply.status == 200).count();
    assert_eq!(accepted, 1, "{} {}", both.0.text(), both.1.text());
    let state = scene.world.booking(&scene.guest, scene.booking).await["state"].clone();
    let expected = if both.0.status == 200 { "checked_in" } else { "no_show" };
    assert_eq!(state, expected);
    scene.at(from.to_utc() + TimeDelta::days(5)).await;
    let mut tx = scene.world.state.db.begin().await.unwrap();
    tx.enqueue(&CompleteStays {});
    tx.commit().await.unwrap();
    scene.world.run_jobs().await;
    let state = scene.world.booking(&scene.guest, scene.booking).await["state"].clone();
    assert_eq!(state, if expected == "no_show" { "no_show" } else { "completed" });
    let windows = if expected == "no_show" { 0 } else { 1 };
    assert_eq!(scene.world.counts("SELECT count(*) FROM review_windows").await, windows);
}
