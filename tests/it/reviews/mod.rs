//! Two people write about the same days, neither knowing what the other says.

mod aftermath;
mod bad_input;
mod constraints;
mod lists;
mod moderation;
mod sums;

use chrono::{DateTime, TimeDelta, Utc};
use roost_tests::app::{Actor, PASSWORD, Reply};
use roost_tests::stars::wrong_sums;
use roost_tests::world::{World, id_of};
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

const WORDS: &str = "Quiet at night, strong coffee in the morning.";

pub(crate) struct Scene {
    pub(crate) world: World,
    pub(crate) host: Actor,
    pub(crate) guest: Actor,
    flat: Uuid,
}

impl Scene {
    pub(crate) async fn set() -> Self {
        let world = World::start().await;
        let (host, guest) = (world.host().await, world.guest().await);
        let flat = world.lists(&host, json!({})).await;
        Self {
            world,
            host,
            guest,
            flat,
        }
    }

    /// A stay of `guest` that has just ended.
    pub(crate) async fn ended_stay(&self, guest: &Actor) -> Uuid {
        self.ended_stay_at(guest, self.flat).await
    }

    /// The same, in this place.
    async fn ended_stay_at(&self, guest: &Actor, flat: Uuid) -> Uuid {
        let world = &self.world;
        let (from, to) = (world.day(2), world.day(4));
        let booked = world.books(guest, flat, from, to, "pm_card_visa").await.expect(201);
        let booking = id_of(&booked);
        world.run_jobs().await;
        // Brought forward, so that the story can go on today.
        sqlx::query("UPDATE bookings SET stay = daterange(lower(stay) - 2, upper(stay) - 2) WHERE id = $1")
            .bind(booking)
            .execute(world.pool())
            .await
            .unwrap();
        for step in ["check-in", "check-out"] {
            world
                .post(&format!("/bookings/{booking}/{step}"), json!({}))
                .by(guest)
                .send()
                .await
                .expect(200);
        }
        // The next stay in the same place is another one.
        sqlx::query("UPDATE bookings SET stay = daterange(lower(stay) - 3 * n, upper(stay) - 3 * n) FROM (SELECT count(*)::int AS n FROM bookings) c WHERE id = $1")
            .bind(booking)
            .execute(world.pool())
            .await
            .unwrap();
        booking
    }

    async fn writes(&self, author: &Actor, booking: Uuid, rating: i64) -> Reply {
        let body = json!({"booking_id": booking, "rating": rating, "text": WORDS});
        self.world.post("/reviews/", body).by(author).send().await
    }

    /// Both write; the reviews' ids, the guest's first.
    pub(crate) async fn both_write(&self, guest: &Actor, booking: Uuid, stars: [i64; 2]) -> [Uuid; 2] {
        let first = id_of(&self.writes(guest, booking, stars[0]).await.expect(201));
        let second = id_of(&self.writes(&self.host, booking, stars[1]).await.expect(201));
        self.world.run_jobs().await;
        [first, second]
    }

    async fn read(&self, reader: &Actor, review: Uuid) -> Reply {
        self.world.get(&format!("/reviews/{review}/")).by(reader).send().await
    }

    async fn list(&self, reader: &Actor, query: &str) -> Vec<Value> {
        let page = self
            .world
            .get(&format!("/reviews/?{query}"))
            .by(reader)
            .send()
            .await
            .expect(200);
        page["items"].as_array().unwrap().clone()
    }

    async fn summary(&self, query: &str) -> Value {
        let path = format!("/reviews/summary?{query}");
        self.world.get(&path).by(&self.guest).send().await.expect(200)
    }

    /// Signed in anew, because time has passed.
    pub(crate) async fn again(&self, actor: &Actor) -> Actor {
        self.world.login(&actor.email, PASSWORD).await
    }

    pub(crate) async fn moderator(&self) -> Actor {
        let moderator = self.world.register("guest", "Mo Derator").await;
        assert!(
            roost_shared::users::set_moderator(self.world.pool(), &moderator.email.to_uppercase(), true)
                .await
                .unwrap()
        );
        moderator
    }
}

/// The sums of stars are those of the reviews that are public, everywhere they are kept.
async fn sums_are_exact(pool: &PgPool) {
    assert_eq!(wrong_sums(pool).await.unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_side_sees_the_others_words_before_both_have_written() {
    let scene = Scene::set().await;
    let (guest, host) = (&scene.guest, &scene.host);
    let booking = scene.ended_stay(guest).await;
    scene.world.run_jobs().await;
    assert_eq!(
        scene.world.mails_to(guest).last().unwrap(),
        "How was your stay? Bright flat by the canal"
    );
    assert_eq!(scene.world.mails_to(host).last().unwrap(), "How was your guest Grace?");

    let body = json!({"booking_id": booking, "rating": 4, "categories": {"cleanliness": 5, "location": 3}, "text": format!("  {WORDS}\n")});
    let reply = scene.world.post("/reviews/", body).by(guest).send().await;
    let written = reply.expect(201);
    let review = id_of(&written);
    assert_eq!(reply.header("location"), format!("/reviews/{review}"));
    assert_eq!(written["state"], "unpublished");
    assert_eq!(written["text"], WORDS);
    assert_eq!(written["side"], "guest");
    assert_eq!(written["author"], json!({"id": guest.id, "first_name": "Grace"}));
    assert_eq!(written["subject_id"], host.id.as_str());
    assert_eq!(written["categories"]["cleanliness"], 5);
    assert_eq!(written["categories"]["value"], Value::Null);
    scene.world.run_jobs().await;

    // Nothing tells the host, or anybody else, that it exists.
    let stranger = scene.world.guest().await;
    let before = scene.world.get(&format!("/properties/{}", scene.flat)).send().await;
    assert_eq!(
        (&before.json()["rating"], &before.json()["review_count"]),
        (&Value::Null, &json!(0))
    );
    for reader in [host, &stranger] {
        scene.read(reader, review).await.refused(404, "not_found");
        for query in [
            String::new(),
            format!("author_id={}", guest.id),
            format!("subject_id={}", host.id),
            format!("property_id={}", scene.flat),
            format!("property_id={}&rating=4&side=guest&sort=highest", scene.flat),
        ] {
            assert_eq!(scene.list(reader, &query).await, Vec::<Value>::new(), "{query}");
        }
        for action in [
            ("answer", json!({"text": "Thank you!"})),
            ("report", json!({"reason": "spam"})),
            ("hide", json!({"reason": "spam"})),
        ] {
            let path = format!("/reviews/{review}/{}", action.0);
            scene
                .world
                .post(&path, action.1)
                .by(reader)
                .send()
                .await
                .refused(404, "not_found");
        }
        let path = format!("/reviews/{review}");
        scene
            .world
            .patch(&path, json!({"rating": 1}))
            .by(reader)
            .send()
            .await
            .refused(404, "not_found");
        scene
            .world
            .delete(&path)
            .by(reader)
            .send()
            .await
            .refused(404, "not_found");
    }
    let path = format!("/reviews/{review}");
    scene.world.get(&path).send().await.refused(404, "not_found");
    let moderator = scene.moderator().await;
    scene
        .world
        .post(&format!("{path}/hide"), json!({"reason": "x"}))
        .by(&moderator)
        .send()
        .await
        .refused(404, "not_found");
    for query in [format!("property_id={}", scene.flat), format!("host_id={}", host.id)] {
        assert_eq!(scene.summary(&query).await["review_count"], 0, "{query}");
    }
    let told = scene.world.booking(host, booking).await.to_string();
    assert!(!told.contains("review") && !told.contains(WORDS), "{told}");
    assert!(
        !scene
            .world
            .mails_to(host)
            .iter()
            .any(|subject| subject.contains("wrote"))
    );

    // Its author sees it, and so nowhere but in their own list.
    assert_eq!(scene.read(guest, review).await.expect(200), written);
    assert_eq!(
        scene.list(guest, &format!("author_id={}", guest.id)).await,
        std::slice::from_ref(&written)
    );
    assert!(
        scene
            .list(guest, &format!("property_id={}", scene.flat))
            .await
            .is_empty()
    );

    // The host writes, and both are public.
    let of_guest = id_of(&scene.writes(host, booking, 5).await.expect(201));
    scene.world.run_jobs().await;
    let public = scene.world.get(&path).send().await.expect(200);
    assert_eq!(public["state"], "published");
    assert_eq!(public["booking_id"], Value::Null, "not for everybody");
    assert_eq!(
        scene.read(host, review).await.expect(200)["booking_id"],
        booking.to_string()
    );
    assert_eq!(scene.read(guest, of_guest).await.expect(200)["rating"], 5);
    scene
        .world
        .get(&format!("/reviews/{of_guest}"))
        .send()
        .await
        .refused(404, "not_found");
    assert_eq!(
        scene.list(&stranger, &format!("subject_id={}", guest.id)).await.len(),
        1
    );
    let shown = scene
        .world
        .get(&format!("/properties/{}", scene.flat))
        .send()
        .await
        .json();
    assert_eq!(
        (&shown["rating"], &shown["review_count"]),
        (&json!(4.0), &json!(1)),
        "the cache follows"
    );
    // Of a property, what guests wrote; what its host wrote of them is asked for.
    for (query, rating) in [("", 4), ("&side=host", 5)] {
        let listed = scene.list(host, &format!("property_id={}{query}", scene.flat)).await;
        let stars: Vec<i64> = listed.iter().map(|one| one["rating"].as_i64().unwrap()).collect();
        assert_eq!(stars, [rating], "{query}");
    }
    let summary = scene.summary(&format!("property_id={}", scene.flat)).await;
    assert_eq!(
        summary["histogram"],
        json!({"one": 0, "two": 0, "three": 0, "four": 1, "five": 0})
    );
    assert_eq!(summary["categories"]["location"], 3.0);
    assert_eq!(scene.summary(&format!("guest_id={}", guest.id)).await["rating"], 5.0);
    assert_eq!(scene.world.events(booking).await.last().unwrap(), "reviews_published");
    sums_are_exact(scene.world.pool()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_is_published_when_the_time_is_over() {
    let scene = Scene::set().await;
    let booking = scene.ended_stay(&scene.guest).await;
    let review = id_of(&scene.writes(&scene.guest, booking, 3).await.expect(201));
    scene.world.run_jobs().await;
    let closes_at: DateTime<Utc> = sqlx::query_scalar("SELECT closes_at FROM review_windows WHERE booking_id = $1")
        .bind(booking)
        .fetch_one(scene.world.pool())
        .await
        .unwrap();
    // 14 days by Berlin's clock: an hour more or less where the clocks are changed in between.
    let length = closes_at - scene.world.clock.now();
    assert!(
        (length - TimeDelta::days(14)).abs() < TimeDelta::minutes(62),
        "{length}"
    );

    // Three days before the end, who has not written is reminded.
    scene.world.pass(length - TimeDelta::days(3)).await;
    scene.world.run_jobs().await;
    assert_eq!(
        scene.world.mails_to(&scene.host).last().unwrap(),
        "A few days left to review Grace"
    );
    assert!(
        !scene
            .world
            .mails_to(&scene.guest)
            .last()
            .unwrap()
            .starts_with("A few days left")
    );
    let host = scene.again(&scene.host).await;
    scene.read(&host, review).await.refused(404, "not_found");
    for (reader, reminded) in [(&host, true), (&scene.again(&scene.guest).await, false)] {
        let told = scene.world.get("/notifications/").by(reader).send().await.expect(200);
        let newest = &told["items"][0];
        assert_eq!(newest["event"] == "review_reminded", reminded, "{told}");
        assert_eq!(newest["booking_id"], booking.to_string());
    }

    scene.world.pass(TimeDelta::days(3) + TimeDelta::seconds(5)).await;
    scene.world.run_jobs().await;
    let host = scene.again(&scene.host).await;
    assert_eq!(scene.read(&host, review).await.expect(200)["rating"], 3);
    let late = scene
        .writes(&host, booking, 5)
        .await
        .refused(409, "review_window_closed");
    assert_eq!(
        late["closed_at"].as_str().unwrap().parse::<DateTime<Utc>>().unwrap(),
        closes_at
    );
    let guest = scene.again(&scene.guest).await;
    scene
        .world
        .patch(&format!("/reviews/{review}"), json!({"rating": 1}))
        .by(&guest)
        .send()
        .await
        .refused(409, "review_published");
    sums_are_exact(scene.world.pool()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clock_closes_the_window_even_while_no_worker_runs() {
    let mut scene = Scene::set().await;
    let booking = scene.ended_stay(&scene.guest).await;
    let review = id_of(&scene.writes(&scene.guest, booking, 3).await.expect(201));
    scene.world.run_jobs().await;
    scene.world.stop_worker().await;
    scene.world.pass(TimeDelta::days(15)).await;
    let (host, guest) = (scene.again(&scene.host).await, scene.again(&scene.guest).await);
    scene
        .writes(&host, booking, 5)
        .await
        .refused(409, "review_window_closed");
    let path = format!("/reviews/{review}");
    scene
        .world
        .patch(&path, json!({"rating": 1}))
        .by(&guest)
        .send()
        .await
        .refused(409, "review_window_closed");
    scene
        .world
        .delete(&path)
        .by(&guest)
        .send()
        .await
        .refused(409, "review_window_closed");
    scene.world.start_worker();
    scene.world.run_jobs().await;
    assert_eq!(scene.read(&host, review).await.expect(200)["rating"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_author_changes_and_takes_back_until_it_is_public() {
    let scene = Scene::set().await;
    let (guest, world) = (&scene.guest, &scene.world);
    let booking = scene.ended_stay(guest).await;
    let review = id_of(&scene.writes(guest, booking, 2).await.expect(201));
    let path = format!("/reviews/{review}");
    let change = json!({"rating": 3, "categories": {"value": 4}, "text": "On second thoughts it was not so bad."});
    let changed = world.patch(&path, change).by(guest).send().await.expect(200);
    assert_eq!(
        (&changed["rating"], &changed["categories"]["value"]),
        (&json!(3), &json!(4))
    );
    assert_ne!(changed["edited_at"], Value::Null);
    // What is not named stays; null takes the stars of a category back, and of nothing else.
    let categories = async |change: Value| {
        let changed = world.patch(&path, change).by(guest).send().await.expect(200);
        assert_eq!(
            (&changed["rating"], &changed["text"]),
            (&json!(3), &json!("On second thoughts it was not so bad."))
        );
        (
            changed["categories"]["value"].clone(),
            changed["categories"]["accuracy"].clone(),
        )
    };
    let given = categories(json!({"categories": {"accuracy": 1}})).await;
    assert_eq!(given, (json!(4), json!(1)));
    for nothing in [
        json!({}),
        json!({"categories": {}}),
        json!({"categories": null, "rating": null, "text": null}),
    ] {
        assert_eq!(categories(nothing).await, (json!(4), json!(1)));
    }
    let taken_back = categories(json!({"categories": {"value": null, "location": null}})).await;
    assert_eq!(taken_back, (Value::Null, json!(1)));
    for (category, wrong) in [("value", json!(6)), ("value", json!("5")), ("noise", Value::Null)] {
        let mut body = json!({"categories": {}});
        body["categories"][category] = wrong;
        let reply = world.patch(&path, body).by(guest).send().await;
        reply.refused_field(400, "invalid_body", &format!("categories.{category}"));
    }

    assert_eq!(world.delete(&path).by(guest).send().await.status, 204);
    world.delete(&path).by(guest).send().await.refused(404, "not_found");
    scene.read(guest, review).await.refused(404, "not_found");
    assert!(scene.list(guest, &format!("author_id={}", guest.id)).await.is_empty());

    // The host writes: alone, so nothing is published. Then the guest thinks of other words.
    let of_guest = id_of(&scene.writes(&scene.host, booking, 5).await.expect(201));
    world.run_jobs().await;
    assert_eq!(
        scene.read(&scene.host, of_guest).await.expect(200)["state"],
        "unpublished"
    );
    let second = id_of(&scene.writes(guest, booking, 5).await.expect(201));
    let again = scene.writes(guest, booking, 5).await.refused(409, "already_reviewed");
    assert_eq!(again["review_id"], second.to_string());
    world.run_jobs().await;
    assert_eq!(scene.read(guest, second).await.expect(200)["state"], "published");
    let path = format!("/reviews/{second}");
    world
        .patch(&path, json!({"rating": 1}))
        .by(guest)
        .send()
        .await
        .refused(409, "review_published");
    world
        .delete(&path)
        .by(guest)
        .send()
        .await
        .refused(409, "review_published");
    sums_are_exact(world.pool()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_those_who_were_there_write_and_only_afterwards() {
    let scene = Scene::set().await;
    let world = &scene.world;
    let (from, to) = (world.day(10), world.day(12));
    let ahead = id_of(
        &world
            .books(&scene.guest, scene.flat, from, to, "pm_card_visa")
            .await
            .expect(201),
    );
    world.run_jobs().await;
    let early = scene.writes(&scene.guest, ahead, 5).await.refused(409, "wrong_state");
    assert_eq!(early["state"], "confirmed");
    let booking = scene.ended_stay(&scene.guest).await;
    let stranger = world.guest().await;
    scene.writes(&stranger, booking, 5).await.refused(404, "not_found");
    scene.writes(&stranger, Uuid::nil(), 5).await.refused(404, "not_found");
    let body = json!({"booking_id": booking, "rating": 5, "text": WORDS});
    world.post("/reviews/", body).send().await.refused(401, "unauthorized");
    // A host rates guests, not their homes.
    let body = json!({"booking_id": booking, "rating": 5, "categories": {"cleanliness": 5, "location": 5, "value": 1}, "text": WORDS});
    let reply = world.post("/reviews/", body).by(&scene.host).send().await;
    for field in ["categories.location", "categories.value"] {
        reply.refused_field(422, "validation_failed", field);
    }
    // The same request again is the same review.
    let body = json!({"booking_id": booking, "rating": 5, "text": WORDS});
    let send = || {
        let call = world.post("/reviews/", body.clone()).by(&scene.guest);
        call.header("idempotency-key", "my review").send()
    };
    let (first, second) = (send().await, send().await);
    assert_eq!(first.expect(201), second.expect(201));
    assert_eq!(second.header("idempotent-replayed"), "true");
    let stored: i64 = sqlx::query_scalar("SELECT count(*) FROM reviews")
        .fetch_one(world.pool())
        .await
        .unwrap();
    assert_eq!(stored, 1);
}
