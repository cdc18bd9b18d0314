//! Guest and host write to each other.

use chrono::TimeDelta;
use roost_tests::app::{Actor, PASSWORD};
use roost_tests::world::{World, id_of};
use serde_json::{Value, json};
use uuid::Uuid;

struct Scene {
    world: World,
    host: Actor,
    guest: Actor,
    booking: Uuid,
}

impl Scene {
    async fn set() -> Self {
        let world = World::start().await;
        let (host, guest) = (world.host().await, world.guest().await);
        let flat = world.lists(&host, json!({})).await;
        let (from, to) = (world.day(30), world.day(33));
        let booking = id_of(&world.books(&guest, flat, from, to, "pm_card_visa").await.expect(201));
        world.run_jobs().await;
        Self {
            world,
            host,
            guest,
            booking,
        }
    }

    fn path(&self) -> String {
        format!("/bookings/{}/messages", self.booking)
    }

    async fn writes(&self, sender: &Actor, text: &str) -> Uuid {
        let call = self.world.post(&self.path(), json!({"text": text})).by(sender);
        id_of(&call.send().await.expect(201))
    }

    async fn read_by(&self, reader: &Actor, up_to: Uuid) -> u16 {
        let path = format!("{}/read", self.path());
        self.world
            .post(&path, json!({"up_to": up_to}))
            .by(reader)
            .send()
            .await
            .status
    }

    async fn seen_by(&self, reader: &Actor) -> Vec<Value> {
        let page = self.world.get(&self.path()).by(reader).send().await.expect(200);
        page["items"].as_array().unwrap().clone()
    }

    fn digests_to(&self, reader: &Actor) -> Vec<String> {
        let mails = self.world.mails_to(reader);
        mails.into_iter().filter(|subject| subject.contains("unread")).collect()
    }

    async fn again(&self, actor: &Actor) -> Actor {
        self.world.login(&actor.email, PASSWORD).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_talk_and_see_what_the_other_has_read() {
    let scene = Scene::set().await;
    let (guest, host) = (&scene.guest, &scene.host);
    let first = scene.writes(guest, " Is there somewhere for two bicycles? ").await;
    let second = scene.writes(guest, "<b>And</b> a pump?").await;
    let answer = scene.writes(host, "Yes, in the yard.").await;
    let seen = scene.seen_by(host).await;
    assert_eq!(seen.iter().map(id_of).collect::<Vec<_>>(), [answer, second, first]);
    assert_eq!(seen[1]["text"], "<b>And</b> a pump?");
    assert_eq!(seen[2]["text"], "Is there somewhere for two bicycles?");
    assert_eq!((&seen[0]["own"], &seen[1]["own"]), (&json!(true), &json!(false)));
    assert!(
        seen.iter().all(|message| message["read_at"] == Value::Null),
        "a look marks nothing"
    );

    assert_eq!(scene.read_by(host, first).await, 204);
    let seen = scene.seen_by(guest).await;
    assert_ne!(seen[2]["read_at"], Value::Null);
    assert_eq!(seen[1]["read_at"], Value::Null);
    let mark = seen[2]["read_at"].clone();
    assert_eq!(scene.read_by(host, answer).await, 204);
    let seen = scene.seen_by(guest).await;
    assert_ne!(seen[1]["read_at"], Value::Null);
    assert_eq!(seen[0]["read_at"], Value::Null, "one's own is for the other to read");
    assert_eq!(seen[2]["read_at"], mark, "the first mark stays");

    // Page by page.
    let mut path = format!("{}?limit=2", scene.path());
    let mut found = Vec::new();
    loop {
        let page = scene.world.get(&path).by(guest).send().await.expect(200);
        found.extend(page["items"].as_array().unwrap().iter().map(id_of));
        match page["next"].as_str() {
            Some(next) => path = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(found, [answer, second, first]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_unread_after_ten_minutes_comes_in_one_mail() {
    let scene = Scene::set().await;
    let world = &scene.world;
    scene
        .writes(
            &scene.guest,
            "Is there somewhere for <script>alert(1)</script> bicycles?",
        )
        .await;
    world.pass(TimeDelta::minutes(6)).await;
    scene.writes(&scene.guest, "And a pump?").await;
    world.run_jobs().await;
    assert!(scene.digests_to(&scene.host).is_empty(), "too early");
    world.pass(TimeDelta::minutes(4)).await;
    world.run_jobs().await;
    assert_eq!(
        scene.digests_to(&scene.host),
        ["2 unread messages: Bright flat by the canal"]
    );
    let messages = world.mailbox.messages();
    let mail = messages.iter().find(|mail| mail.subject.contains("unread")).unwrap();
    let html = mail.html.as_deref().unwrap();
    assert!(!html.contains("<script") && html.contains("&lt;script&gt;"), "{html}");
    assert!(mail.text.as_deref().unwrap().contains("And a pump?"));
    // The second message is ten minutes old as well by now; it was in the mail.
    world.pass(TimeDelta::minutes(20)).await;
    world.run_jobs().await;
    assert_eq!(scene.digests_to(&scene.host).len(), 1);

    // What is read in time is not mailed, and what comes later is.
    let guest = scene.again(&scene.guest).await;
    let host = scene.again(&scene.host).await;
    let third = scene.writes(&guest, "Never mind.").await;
    assert_eq!(scene.read_by(&host, third).await, 204);
    world.pass(TimeDelta::hours(1)).await;
    world.run_jobs().await;
    assert_eq!(scene.digests_to(&scene.host).len(), 1);
    let guest = scene.again(&scene.guest).await;
    scene.writes(&guest, "One more thing.").await;
    world.pass(TimeDelta::hours(2)).await;
    world.run_jobs().await;
    assert_eq!(
        scene.digests_to(&scene.host)[1..],
        ["1 unread message: Bright flat by the canal"]
    );
    assert!(scene.digests_to(&scene.guest).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_messages_is_one_mail() {
    let scene = Scene::set().await;
    for number in 0..25 {
        scene.writes(&scene.guest, &format!("Question {number}")).await;
    }
    scene.world.pass(TimeDelta::minutes(11)).await;
    scene.world.run_jobs().await;
    assert_eq!(
        scene.digests_to(&scene.host),
        ["25 unread messages: Bright flat by the canal"]
    );
    assert_eq!(scene.world.jobs("message.notify").await, ["succeeded=25"]);
    let messages = scene.world.mailbox.messages();
    let mail = messages.iter().find(|mail| mail.subject.contains("unread")).unwrap();
    let text = mail.text.as_deref().unwrap();
    assert!(
        text.contains("Question 19") && !text.contains("Question 20") && text.contains("And 5 more messages."),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_bad_input_are_refused() {
    let scene = Scene::set().await;
    let world = &scene.world;
    let message = scene.writes(&scene.guest, "Hello!").await;
    let (path, read) = (scene.path(), format!("{}/read", scene.path()));
    let stranger = world.host().await;
    world
        .post(&path, json!({"text": "Hello!"}))
        .by(&stranger)
        .send()
        .await
        .refused(404, "not_found");
    world.get(&path).by(&stranger).send().await.refused(404, "not_found");
    world
        .post(&read, json!({"up_to": message}))
        .by(&stranger)
        .send()
        .await
        .refused(404, "not_found");
    world.get(&path).send().await.refused(401, "unauthorized");
    world
        .post(&path, json!({"text": "Hello!"}))
        .send()
        .await
        .refused(401, "unauthorized");
    for (status, code, body) in [
        (400, "invalid_body", json!({})),
        (400, "invalid_body", json!({"text": ""})),
        (400, "invalid_body", json!({"text": 1})),
        (400, "invalid_body", json!({"text": "x".repeat(2_001)})),
        (422, "validation_failed", json!({"text": " \n "})),
        (422, "validation_failed", json!({"text": "bell \u{7}"})),
    ] {
        world
            .post(&path, body)
            .by(&scene.guest)
            .send()
            .await
            .refused_field(status, code, "text");
    }
    let more = json!({"text": "Hello!", "recipient_id": stranger.id});
    world
        .post(&path, more)
        .by(&scene.guest)
        .send()
        .await
        .refused_field(400, "invalid_body", "recipient_id");
    for body in [json!({}), json!({"up_to": "x"}), json!({"up_to": null})] {
        world
            .post(&read, body)
            .by(&scene.host)
            .send()
            .await
            .refused_field(400, "invalid_body", "up_to");
    }
    world
        .post(&read, json!({"up_to": Uuid::nil()}))
        .by(&scene.host)
        .send()
        .await
        .refused(404, "not_found");
    world
        .get(&format!("{path}?cursor=x"))
        .by(&scene.host)
        .send()
        .await
        .refused(400, "invalid_cursor");
    world
        .get("/bookings/x/messages")
        .by(&scene.host)
        .send()
        .await
        .refused_field(400, "invalid_parameter", "booking_id");
    // The same request again is the same message.
    for _ in 0..2 {
        let call = world.post(&path, json!({"text": "Once."})).by(&scene.guest);
        call.header("idempotency-key", "once").send().await.expect(201);
    }
    assert_eq!(scene.seen_by(&scene.host).await.len(), 2);
}
