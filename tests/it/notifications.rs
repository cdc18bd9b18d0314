//! People are told what concerns them, as far as they want to be.

use std::sync::Arc;

use chrono::TimeDelta;
use roost_shared::notifications::{self, Filter, Kind};
use roost_tests::app::{Actor, PASSWORD};
use roost_tests::mailbox::Message;
use roost_tests::world::{World, id_of};
use serde_json::{Value, json};
use uuid::Uuid;

/// A booking that was confirmed, and its two sides.
pub(crate) struct Scene {
    pub world: World,
    pub host: Actor,
    pub guest: Actor,
    pub booking: Uuid,
}

impl Scene {
    pub async fn set() -> Self {
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

    pub async fn writes(&self, sender: &Actor, text: &str) {
        let path = format!("/bookings/{}/messages", self.booking);
        self.world
            .post(&path, json!({"text": text}))
            .by(sender)
            .send()
            .await
            .expect(201);
    }

    async fn told(&self, reader: &Actor, query: &str) -> Vec<Value> {
        let path = format!("/notifications/?{query}");
        let page = self.world.get(&path).by(reader).send().await.expect(200);
        page["items"].as_array().unwrap().clone()
    }

    async fn events(&self, reader: &Actor, query: &str) -> Vec<String> {
        let told = self.told(reader, query).await;
        told.iter()
            .map(|item| item["event"].as_str().unwrap().to_owned())
            .collect()
    }

    /// The mails to somebody whose subject contains this.
    fn mails(&self, reader: &Actor, subject: &str) -> Vec<Arc<Message>> {
        let mails = self.world.mailbox.messages().into_iter();
        mails
            .filter(|mail| mail.is_to(&reader.email) && mail.subject.contains(subject))
            .collect()
    }

    async fn pass(&self, time: TimeDelta) {
        self.world.pass(time).await;
        self.world.run_jobs().await;
    }

    async fn again(&self, actor: &Actor) -> Actor {
        self.world.login(&actor.email, PASSWORD).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_concerns_somebody_is_in_their_list_until_they_have_read_it() {
    let scene = Scene::set().await;
    let (guest, host, world) = (&scene.guest, &scene.host, &scene.world);
    scene.writes(guest, "Hello!").await;
    world
        .post(&format!("/bookings/{}/cancel", scene.booking), json!({}))
        .by(guest)
        .send()
        .await
        .expect(200);
    assert_eq!(
        scene.events(host, "").await,
        ["booking_cancelled", "message_received", "booking_confirmed"]
    );
    assert_eq!(
        scene.events(guest, "").await,
        ["booking_cancelled", "booking_confirmed"]
    );
    let told = scene.told(host, "").await;
    assert_eq!(told[1]["kind"], "message");
    assert_eq!(told[1]["booking_id"], scene.booking.to_string());
    assert_eq!(told[1]["read_at"], Value::Null);

    let body = json!({"up_to": told[1]["id"]});
    world
        .post("/notifications/read", body.clone())
        .by(guest)
        .send()
        .await
        .refused(404, "not_found");
    assert_eq!(
        world.post("/notifications/read", body).by(host).send().await.status,
        204
    );
    assert_eq!(scene.events(host, "unread=true").await, ["booking_cancelled"]);
    assert_ne!(scene.told(host, "").await[2]["read_at"], Value::Null);
    assert_eq!(scene.events(guest, "unread=true").await.len(), 2);
    let first = world.get("/notifications/?limit=2").by(host).send().await.expect(200);
    let next = world
        .get(first["next"].as_str().unwrap())
        .by(host)
        .send()
        .await
        .expect(200);
    assert_eq!(next["items"][0]["event"], "booking_confirmed");
    assert_eq!(next["next"], Value::Null);
    let stranger = world.guest().await;
    assert!(scene.told(&stranger, "").await.is_empty());
}

/// How many notifications somebody has not read.
async fn unread_of(scene: &Scene, reader: &Actor) -> Value {
    let list = scene.world.get("/notifications/?limit=1").by(reader);
    list.send().await.expect(200)["unread_count"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_that_is_not_read_is_one_notification_that_counts() {
    let scene = Scene::set().await;
    let (guest, host, world) = (&scene.guest, &scene.host, &scene.world);
    for number in 0..5 {
        let five = (0..5).map(|more| scene.writes(guest, if more == 0 { "Hello?" } else { "Are you there?" }));
        futures::future::join_all(five).await;
        let told = scene.told(host, "kind=message&unread=true").await;
        assert_eq!((told.len(), &told[0]["count"]), (1, &json!(5 * (number + 1))));
    }
    assert_eq!(unread_of(&scene, host).await, 2, "the booking and the conversation");
    let told = scene.told(host, "kind=message").await.remove(0);
    let instant = |name: &str| {
        told[name]
            .as_str()
            .unwrap()
            .parse::<chrono::DateTime<chrono::Utc>>()
            .unwrap()
    };
    assert!(instant("last_at") > instant("created_at"), "{told}");
    assert_eq!(scene.events(host, "kind=booking").await, ["booking_confirmed"]);
    assert_eq!(scene.events(host, "kind=review").await, [""; 0]);
    assert_eq!(unread_of(&scene, guest).await, 1, "one's own messages are no news");

    // An older page shows nothing that is new; the newest does, and no message is marked by a look.
    let path = format!("/bookings/{}/messages", scene.booking);
    let page = async |actor: &Actor, path: &str| world.get(path).by(actor).send().await.expect(200);
    page(guest, &path).await;
    assert_eq!(unread_of(&scene, host).await, 2, "the author looked");
    let first = page(guest, &format!("{path}?limit=1")).await;
    let older = page(host, first["next"].as_str().unwrap()).await;
    assert_eq!(scene.told(host, "kind=message&unread=true").await.len(), 1);
    // How far somebody has read is what is left of the count.
    let up_to = older["items"][0]["id"].clone();
    let mark = async |message: &Value| {
        let read = world.post(&format!("{path}/read"), json!({"up_to": message}));
        assert_eq!(read.by(host).send().await.status, 204);
    };
    mark(&up_to).await;
    let told = scene.told(host, "unread=true&kind=message").await;
    assert_eq!((told.len(), &told[0]["count"]), (1, &json!(1)));
    let seen = page(host, &path).await;
    assert_eq!(seen["items"][0]["read_at"], Value::Null, "a look marks no message");
    assert_eq!(unread_of(&scene, host).await, 1);
    let told = scene.told(host, "kind=message").await;
    assert_ne!(told[0]["read_at"], Value::Null);

    // What comes after is news again, and the read mark is enough to end it.
    scene.writes(guest, "One more thing.").await;
    let told = scene.told(host, "kind=message").await;
    assert_eq!((told.len(), &told[0]["count"]), (2, &json!(1)));
    let last = page(guest, &format!("{path}?limit=1")).await["items"][0]["id"].clone();
    mark(&last).await;
    assert_eq!(scene.events(host, "unread=true").await, ["booking_confirmed"]);
    // Of another booking nothing is said.
    let flat = world.lists(host, json!({})).await;
    let other = world
        .books(guest, flat, world.day(60), world.day(62), "pm_card_visa")
        .await;
    let other = id_of(&other.expect(201));
    scene.writes(guest, "And another.").await;
    let elsewhere = format!("/bookings/{other}/messages");
    world
        .post(&elsewhere, json!({"text": "Here as well."}))
        .by(guest)
        .send()
        .await
        .expect(201);
    page(host, &elsewhere).await;
    let unread = scene.told(host, "kind=message&unread=true").await;
    assert_eq!((unread.len(), &unread[0]["booking_id"]), (1, &json!(scene.booking)));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_shape_of_the_list_finds_its_index() {
    let scene = Scene::set().await;
    sqlx::raw_sql(
        "INSERT INTO notifications (id, user_id, kind, event, booking_id, created_at, last_at, read_at)
         SELECT gen_random_uuid(), user_id, CASE WHEN n % 3 = 0 THEN 'booking' ELSE 'review' END, 'booking_confirmed', booking_id, created_at, created_at, CASE WHEN n % 50 > 0 THEN now() END
         FROM notifications, generate_series(1, 2000) AS n;
         ANALYZE notifications",
    )
    .execute(scene.world.pool())
    .await
    .unwrap();
    let reader = scene.host.id.parse().unwrap();
    let mut conn = scene.world.pool().acquire().await.unwrap();
    for kind in [None, Some(Kind::Message), Some(Kind::Review)] {
        for unread_only in [false, true] {
            // Of what is read the narrower one would do as well, never the other way round.
            let indexes: &[&str] = match (kind, unread_only) {
                (None, false) => &["notifications_by_user"],
                (None, true) => &["notifications_unread"],
                (Some(_), false) => &["notifications_by_kind"],
                (Some(_), true) => &["notifications_unread_by_kind"],
            };
            for before in [None, Some(Uuid::max())] {
                let filter = Filter {
                    kind,
                    unread_only,
                    before,
                };
                let plan = notifications::plan(&mut conn, reader, &filter, 21)
                    .await
                    .unwrap()
                    .join("\n");
                assert!(
                    indexes.iter().any(|index| plan.contains(&format!(" {index} "))) && !plan.contains("Seq Scan"),
                    "{filter:?}\n{plan}"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_choice_by_kind_and_channel_is_kept_to() {
    let scene = Scene::set().await;
    let (host, world) = (&scene.host, &scene.world);
    let all = json!({"email": true, "in_app": true});
    let before = world
        .get("/notifications/preferences")
        .by(host)
        .send()
        .await
        .expect(200);
    assert_eq!(before, json!({"booking": all, "message": all, "review": all}));
    let change = json!({"message": {"in_app": false}, "review": {"email": false, "in_app": null}});
    let after = world
        .patch("/notifications/preferences", change)
        .by(host)
        .send()
        .await
        .expect(200);
    assert_eq!(
        after,
        json!({"booking": all, "message": {"email": true, "in_app": false}, "review": {"email": false, "in_app": true}})
    );
    scene.writes(&scene.guest, "Hello!").await;
    scene.pass(TimeDelta::minutes(11)).await;
    assert_eq!(scene.mails(host, "unread message").len(), 1);
    let host = &scene.again(host).await;
    assert_eq!(scene.events(host, "").await, ["booking_confirmed"], "not in the list");

    let change = json!({"message": {"in_app": true, "email": false}});
    world
        .patch("/notifications/preferences", change)
        .by(host)
        .send()
        .await
        .expect(200);
    let guest = scene.again(&scene.guest).await;
    scene.writes(&guest, "Are you there?").await;
    scene.pass(TimeDelta::hours(1)).await;
    assert_eq!(scene.mails(host, "unread message").len(), 1, "no more mail");
    let host = &scene.again(host).await;
    assert_eq!(scene.events(host, "").await, ["message_received", "booking_confirmed"]);

    // Mail about money and nights is not a matter of taste.
    let change = json!({"review": {"email": true}, "booking": {"email": false}});
    world
        .patch("/notifications/preferences", change)
        .by(host)
        .send()
        .await
        .refused_field(422, "validation_failed", "booking.email");
    let kept = world
        .get("/notifications/preferences")
        .by(host)
        .send()
        .await
        .expect(200);
    assert_eq!(kept["review"]["email"], false, "all of it or nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_that_is_not_about_a_transaction_can_be_ended_by_its_link() {
    let scene = Scene::set().await;
    let (host, world) = (&scene.host, &scene.world);
    scene.writes(&scene.guest, "Hello!").await;
    scene.pass(TimeDelta::minutes(11)).await;
    let mail = scene.mails(host, "unread message").remove(0);
    let header = mail.header("List-Unsubscribe").unwrap();
    assert_eq!(mail.header("List-Unsubscribe-Post"), Some("List-Unsubscribe=One-Click"));
    let url = header.trim_start_matches('<').trim_end_matches('>');
    let path = url.strip_prefix("http://roost.test").unwrap();
    assert!(path.starts_with("/notifications/unsubscribe?token=v1."), "{path}");
    assert!(mail.links.iter().any(|link| link == url), "{:?}", mail.links);
    for transaction in world
        .mailbox
        .messages()
        .iter()
        .filter(|mail| !mail.subject.contains("unread"))
    {
        assert_eq!(transaction.header("List-Unsubscribe"), None, "{}", transaction.subject);
    }

    // A look changes nothing; the button, or a mail program's one click, does. Nobody signs in.
    let asked = world.get(path).send().await;
    assert_eq!(asked.status, 200);
    assert!(asked.header("content-type").starts_with("text/html"));
    assert!(asked.text().contains("No more mails about messages?") && asked.text().contains("<form method=\"post\">"));
    let host = &scene.again(host).await;
    let chosen = async || {
        world
            .get("/notifications/preferences")
            .by(host)
            .send()
            .await
            .expect(200)
    };
    assert_eq!(chosen().await["message"]["email"], true);
    for _ in 0..2 {
        let clicked = world.request(reqwest::Method::POST, path);
        let clicked = clicked
            .body("application/x-www-form-urlencoded", "List-Unsubscribe=One-Click")
            .send()
            .await;
        assert_eq!(clicked.status, 200, "{}", clicked.text());
        assert!(clicked.text().contains("You get no more mails about messages."));
    }
    assert_eq!(chosen().await["message"], json!({"email": false, "in_app": true}));
    assert_eq!(chosen().await["review"]["email"], true, "of this kind only");
    let guest = scene.again(&scene.guest).await;
    scene.writes(&guest, "Are you there?").await;
    scene.pass(TimeDelta::hours(1)).await;
    assert_eq!(scene.mails(host, "unread message").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_links_and_bad_input_are_refused() {
    let scene = Scene::set().await;
    let (host, world) = (&scene.host, &scene.world);
    let mut conn = world.pool().acquire().await.unwrap();
    let reader = host.id.parse().unwrap();
    let good = notifications::unsubscribe_token(&mut conn, reader, Kind::Message)
        .await
        .unwrap();
    let of_bookings = notifications::unsubscribe_token(&mut conn, reader, Kind::Booking)
        .await
        .unwrap();
    drop(conn);
    let parts: Vec<&str> = good.split('.').collect();
    let other: Vec<&str> = of_bookings.split('.').collect();
    let forged = [
        "x".to_owned(),
        "v1..".to_owned(),
        format!("v1.{}.{}", parts[1], other[2]),
        format!("v1.{}.{}", other[1], parts[2]),
        format!("v2.{}.{}", parts[1], parts[2]),
        format!("{good}.x"),
        format!("v1.{}.!!", parts[1]),
        format!("v1.{}.", parts[1]),
    ];
    for token in forged {
        let path = format!("/notifications/unsubscribe?token={token}");
        world
            .get(&path)
            .send()
            .await
            .refused_field(422, "unsubscribe_token_invalid", "token");
        world
            .post(&path, json!({}))
            .send()
            .await
            .refused_field(422, "unsubscribe_token_invalid", "token");
    }
    let path = format!("/notifications/unsubscribe?token={of_bookings}");
    world
        .post(&path, json!({}))
        .send()
        .await
        .refused_field(422, "validation_failed", "booking.email");
    for path in ["/notifications/unsubscribe", "/notifications/unsubscribe?token="] {
        world
            .get(path)
            .send()
            .await
            .refused_field(400, "invalid_parameter", "token");
        world
            .post(path, json!({}))
            .send()
            .await
            .refused_field(400, "invalid_parameter", "token");
    }
    for (field, body) in [
        ("booking", json!({"booking": true})),
        ("message.email", json!({"message": {"email": "no"}})),
        ("message.sms", json!({"message": {"sms": true}})),
        ("weather", json!({"weather": {"email": true}})),
    ] {
        world
            .patch("/notifications/preferences", body)
            .by(host)
            .send()
            .await
            .refused_field(400, "invalid_body", field);
    }
    for body in [json!({}), json!({"up_to": 1}), json!({"up_to": "x"})] {
        world
            .post("/notifications/read", body)
            .by(host)
            .send()
            .await
            .refused_field(400, "invalid_body", "up_to");
    }
    world
        .post("/notifications/read", json!({"up_to": Uuid::nil()}))
        .by(host)
        .send()
        .await
        .refused(404, "not_found");
    for (field, query) in [
        ("unread", "unread=x"),
        ("kind", "kind=weather"),
        ("limit", "limit=0"),
        ("limit", "limit=101"),
    ] {
        world
            .get(&format!("/notifications/?{query}"))
            .by(host)
            .send()
            .await
            .refused_field(400, "invalid_parameter", field);
    }
    world
        .get("/notifications/?cursor=x")
        .by(host)
        .send()
        .await
        .refused(400, "invalid_cursor");
    for path in ["/notifications/", "/notifications/preferences"] {
        world.get(path).send().await.refused(401, "unauthorized");
    }
    world
        .patch("/notifications/preferences", json!({}))
        .send()
        .await
        .refused(401, "unauthorized");
    world
        .post("/notifications/read", json!({"up_to": Uuid::nil()}))
        .send()
        .await
        .refused(401, "unauthorized");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_leaves_no_list_behind() {
    let scene = Scene::set().await;
    let (guest, world) = (&scene.guest, &scene.world);
    let change = json!({"review": {"email": false}});
    world
        .patch("/notifications/preferences", change)
        .by(guest)
        .send()
        .await
        .expect(200);
    world
        .post(&format!("/bookings/{}/cancel", scene.booking), json!({}))
        .by(guest)
        .send()
        .await
        .expect(200);
    world.run_jobs().await;
    assert_eq!(world.delete("/users/me").by(guest).send().await.status, 204);
    let guest_id: Uuid = guest.id.parse().unwrap();
    let left = async || -> i64 {
        sqlx::query_scalar(
            "SELECT (SELECT count(*) FROM notifications WHERE user_id = $1) + (SELECT count(*) FROM notification_preferences WHERE user_id = $1)",
        )
        .bind(guest_id)
        .fetch_one(world.pool())
        .await
        .unwrap()
    };
    assert_eq!(left().await, 0);
    // What happens to their bookings later is told to nobody.
    let mut tx = world.state.db.begin().await.unwrap();
    let invited = notifications::Event::ReviewInvited;
    notifications::tell(&mut tx, invited, scene.booking, &[guest_id])
        .await
        .unwrap();
    tx.commit().await.unwrap();
    assert_eq!(left().await, 0);
    assert_eq!(
        scene.events(&scene.host, "").await.len(),
        2,
        "what concerns the other side stays"
    );
}
