//! Stays come to an end, whether or not anybody says so.

use chrono::{DateTime, TimeDelta, Utc};
use roost_shared::jobs::catalogue::CompleteStays;
use roost_tests::app::{Actor, PASSWORD};
use roost_tests::world::{World, id_of};
use serde_json::{Value, json};
use uuid::Uuid;

/// A confirmed stay of three nights, ten days from now.
async fn a_stay(world: &World) -> (Actor, Actor, Uuid) {
    let (host, guest) = (world.host().await, world.guest().await);
    let flat = world.lists(&host, json!({})).await;
    let booked = world
        .books(&guest, flat, world.day(10), world.day(13), "pm_card_visa")
        .await;
    let booking = id_of(&booked.expect(201));
    world.run_jobs().await;
    (host, guest, booking)
}

/// Time passes; access tokens do not last that long.
async fn later(world: &World, days: i64, actors: [&Actor; 2]) -> (Actor, Actor) {
    world.pass(TimeDelta::days(days)).await;
    (
        world.login(&actors[0].email, PASSWORD).await,
        world.login(&actors[1].email, PASSWORD).await,
    )
}

#[tokio::test]
async fn what_is_over_is_neither_called_off_nor_changed_nor_begun() {
    let world = World::start().await;
    let (host, guest, booking) = a_stay(&world).await;
    let (host, guest) = later(&world, 14, [&host, &guest]).await;
    let path = |what: &str| format!("/bookings/{booking}{what}");
    for actor in [&host, &guest] {
        for what in ["/cancel", "/check-in"] {
            let call = world.post(&path(what), json!({})).by(actor);
            call.send().await.refused(409, "stay_over");
        }
        let call = world.get(&path("/cancellation-quote")).by(actor);
        call.send().await.refused(409, "stay_over");
    }
    let call = world.patch(&path(""), json!({"guests": 1})).by(&guest);
    call.send().await.refused(409, "stay_over");
    assert_eq!(world.booking(&guest, booking).await["state"], "confirmed");
    assert_eq!(world.payment(&guest, booking).await["refunded_minor"], 0);

    // Nothing is left to come, so both may leave, before anything has noted the end.
    for actor in [&guest, &host] {
        world.delete("/users/me").by(actor).send().await.expect(204);
    }
}

#[tokio::test]
async fn a_stay_that_is_over_is_neither_approved_nor_confirmed() {
    let world = World::start().await;
    let host = world.host().await;
    let at_once = world.lists(&host, json!({})).await;
    let on_request = world.lists(&host, json!({"instant_book": false})).await;
    // By day, so that it is the same one at the property for a while.
    let now = world.clock.now();
    let noon = (now.date_naive() + chrono::Days::new(1)).and_hms_opt(12, 0, 0).unwrap();
    world.pass(noon.and_utc() - now).await;
    let guest = world.guest().await;
    let (today, tomorrow) = (world.day(0), world.day(1));
    let requested = world.books(&guest, on_request, today, tomorrow, "pm_card_visa").await;
    let requested = id_of(&requested.expect(201));
    world.run_jobs().await;
    let asked = world.booking(&guest, requested).await;
    assert_eq!(asked["state"], "pending_approval");
    // The host has until midnight in Berlin.
    let until = asked["approval_expires_at"].as_str().unwrap();
    assert!(until.starts_with(&format!("{today}T2")), "{until}");

    set_paused(&world, "confirmation", true).await;
    let booked = world.books(&guest, at_once, today, tomorrow, "pm_card_visa").await;
    let booked = id_of(&booked.expect(201));
    world
        .eventually("the card is authorised", async || {
            world.payment(&guest, booked).await["state"] == "authorized"
        })
        .await;
    let (host, guest) = {
        world.pass(TimeDelta::hours(13)).await;
        (
            world.login(&host.email, PASSWORD).await,
            world.login(&guest.email, PASSWORD).await,
        )
    };
    let approve = world.post(&format!("/bookings/{requested}/approve"), json!({}));
    approve.by(&host).send().await.refused(409, "stay_over");
    set_paused(&world, "confirmation", false).await;
    // Their times were set by a clock that was ahead already, so they are not due by Postgres'.
    sqlx::query("UPDATE jobs SET run_at = now() WHERE kind = 'booking.expire_hold' AND state = 'scheduled'")
        .execute(world.pool())
        .await
        .unwrap();
    for booking in [requested, booked] {
        world
            .eventually("it ends", async || {
                world.booking(&guest, booking).await["state"] == "expired"
            })
            .await;
    }
    world.run_jobs().await;
    for booking in [requested, booked] {
        let record = world.at_stripe(booking).await;
        assert_eq!((record.status, record.captured), ("canceled", 0));
    }
    assert_eq!(world.ledger().await, []);
    let mails = world.mailbox.messages();
    let told = mails
        .iter()
        .filter(|mail| mail.is_to(&guest.email) && mail.subject.starts_with("Expired"));
    let told: Vec<_> = told.map(|mail| mail.text.clone().unwrap()).collect();
    for reason in [
        "did not answer your request in time",
        "the stay was over before it could be confirmed",
    ] {
        let with = told
            .iter()
            .filter(|text| text.split_whitespace().collect::<Vec<_>>().join(" ").contains(reason));
        assert_eq!(with.count(), 1, "{reason}: {told:?}");
    }
}

async fn set_paused(world: &World, queue: &str, paused: bool) {
    sqlx::query("UPDATE queues SET paused = $2 WHERE name = $1")
        .bind(queue)
        .bind(paused)
        .execute(world.pool())
        .await
        .unwrap();
    world.workers_heed().await;
}

#[tokio::test]
async fn a_stay_is_completed_once_its_last_day_is_over_everywhere() {
    let world = World::start().await;
    let (host, guest, booking) = a_stay(&world).await;
    let complete = async || {
        let before = world.jobs("stays.complete").await;
        let db = world.db();
        let mut tx = db.begin().await.unwrap();
        tx.enqueue(&CompleteStays {});
        tx.commit().await.unwrap();
        world
            .eventually("completed", async || {
                let now = world.jobs("stays.complete").await;
                now != before && now.iter().all(|state| state.starts_with("succeeded"))
            })
            .await;
    };
    let (host, guest) = later(&world, 12, [&host, &guest]).await;
    complete().await;
    assert_eq!(
        world.booking(&guest, booking).await["state"],
        "confirmed",
        "a night is left"
    );
    let (_, guest) = later(&world, 3, [&host, &guest]).await;
    complete().await;
    let seen = world.booking(&guest, booking).await;
    assert_eq!(seen["state"], "completed");
    let last: &Value = seen["timeline"].as_array().unwrap().last().unwrap();
    assert_eq!(
        (&last["event"], &last["actor"]),
        (&json!("completed"), &json!("system"))
    );
    assert_eq!(world.payment(&guest, booking).await["captured_minor"], 35_840);
    assert_eq!(world.jobs_of("review.open").await, 1);
    // Nobody checked out, so the two weeks are those after the time of departure at the property.
    assert_eq!(
        world
            .counts(
                "SELECT count(*) FROM review_windows JOIN bookings ON id = booking_id
                 WHERE closes_at = (upper(stay) + 14 + check_out_by) AT TIME ZONE time_zone"
            )
            .await,
        1
    );
}

#[tokio::test]
async fn who_learns_late_that_a_stay_is_over_has_three_days_to_review_it() {
    let world = World::start().await;
    let (_, _, booking) = a_stay(&world).await;
    world.pass(TimeDelta::days(40)).await;
    let mut tx = world.db().begin().await.unwrap();
    let now = tx.now();
    roost_shared::bookings::complete_ended(&mut tx, 10).await.unwrap();
    tx.commit().await.unwrap();
    let closes_at: DateTime<Utc> = sqlx::query_scalar("SELECT closes_at FROM review_windows WHERE booking_id = $1")
        .bind(booking)
        .fetch_one(world.pool())
        .await
        .unwrap();
    let left = closes_at - now;
    assert!((left - TimeDelta::days(3)).abs() < TimeDelta::minutes(10), "{left}");
}

#[tokio::test]
async fn a_refusal_is_told_once_however_often_it_is_asked_for() {
    let world = World::start().await;
    let (host, guest, booking) = a_stay(&world).await;
    let before = world.events(booking).await.len();
    for _ in 0..5 {
        for actor in [&host, &guest] {
            let check_in = world.post(&format!("/bookings/{booking}/check-in"), json!({}));
            check_in.by(actor).send().await.refused(409, "too_early");
            let approve = world.post(&format!("/bookings/{booking}/approve"), json!({}));
            let refused = approve.by(actor).send().await.status;
            assert!([403, 409].contains(&refused));
        }
    }
    assert_eq!(world.events(booking).await.len(), before + 4);
    // What is done in between makes it news.
    let amend = world.patch(&format!("/bookings/{booking}"), json!({"guests": 1}));
    amend.by(&guest).send().await.expect(200);
    let check_in = world.post(&format!("/bookings/{booking}/check-in"), json!({}));
    check_in.by(&host).send().await.refused(409, "too_early");
    assert_eq!(world.events(booking).await.len(), before + 6);

    // Of a very long story the end is shown.
    sqlx::query(
        "INSERT INTO booking_events (booking_id, at, event, actor, accepted, reason)
         SELECT $1, now(), 'amended', 'guest', true, n::text FROM generate_series(1, 300) n",
    )
    .bind(booking)
    .execute(world.pool())
    .await
    .unwrap();
    let seen = world.booking(&guest, booking).await;
    let timeline = seen["timeline"].as_array().unwrap();
    assert_eq!((timeline.len(), &timeline[199]["reason"]), (200, &json!("300")));
}

#[tokio::test]
async fn who_booked_a_property_still_sees_it_when_it_is_archived() {
    let world = World::start().await;
    let (host, guest, booking) = a_stay(&world).await;
    let stranger = world.guest().await;
    let cancel = world.post(&format!("/bookings/{booking}/cancel"), json!({}));
    cancel.by(&guest).send().await.expect(200);
    let flat = world.booking(&guest, booking).await["property_id"]
        .as_str()
        .unwrap()
        .to_owned();
    let path = format!("/properties/{flat}");
    world.delete(&path).by(&host).send().await.expect(204);
    for actor in [&host, &guest] {
        let reply = world.get(&path).by(actor).send().await;
        assert_eq!(reply.expect(200)["status"], "archived");
        assert_eq!(reply.header("cache-control"), "private, no-cache");
    }
    world.get(&path).by(&stranger).send().await.refused(404, "not_found");
    world.get(&path).send().await.refused(404, "not_found");
}
