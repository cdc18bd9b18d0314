//! The flight recorder of a booking, and the search by its ids: nothing that happened to it is left out.

use chrono::TimeDelta;
use roost_shared::messages;
use roost_shared::operators::Role;
use roost_tests::ops::Dashboard;
use roost_tests::world::{World, id_of};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::jobs::{Scene, scene};

/// A booking that was paid with this card, and a dashboard.
async fn paid(card: &str) -> (Scene, Dashboard, Uuid) {
    let scene = scene(World::start().await, json!({})).await;
    let booking = scene.books(card).await;
    scene
        .world
        .eventually("confirmed", async || scene.state(booking).await == "confirmed")
        .await;
    scene.world.run_jobs().await;
    let ops = Dashboard::start(&scene.world.state).await;
    (scene, ops, booking)
}

/// The one refund: its state, and its id at Stripe once that has accepted it.
async fn refund(world: &World) -> (String, Option<String>) {
    sqlx::query_as("SELECT state, stripe_refund_id FROM refunds")
        .fetch_one(world.pool())
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_that_fails_later_is_in_the_recorder_and_its_events_know_their_booking() {
    let (scene, ops, booking) = paid("pm_card_pendingRefund").await;
    let world = &scene.world;
    scene.act(&scene.guest, booking, "cancel").await;
    world
        .eventually("accepted", async || refund(world).await.1.is_some())
        .await;
    let id = refund(world).await.1.unwrap();
    for (succeeds, end) in [(true, "succeeded"), (false, "failed")] {
        world.stripe.settle_refund(&id, succeeds).unwrap();
        world.eventually(end, async || refund(world).await.0 == end).await;
    }
    world.run_jobs().await;

    let operator = ops.signed_in(Role::Operator).await;
    let flight = operator.get(&format!("/ops/bookings/{booking}")).await.is(200);
    for moment in ["refund.failed", id.as_str(), "payment_intent."] {
        flight.says(moment);
    }
    let events: Vec<Uuid> = sqlx::query_scalar(
        "SELECT jobs.id FROM stripe_events JOIN jobs ON args ->> 'event_id' = stripe_events.id WHERE object_id = $1",
    )
    .bind(&id)
    .fetch_all(world.pool())
    .await
    .unwrap();
    assert!(!events.is_empty());
    for job in events {
        let page = operator.get(&format!("/ops/jobs/{job}")).await.is(200);
        page.says("Flight recorder");
        page.says(&booking.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_about_events_and_messages_are_found_by_booking_payment_and_user() {
    let (scene, ops, booking) = paid("pm_card_visa").await;
    let world = &scene.world;
    let path = format!("/bookings/{booking}/messages");
    let message = world.post(&path, json!({"text": "Is there a pump?"})).by(&scene.guest);
    let message = id_of(&message.send().await.expect(201));
    world.pass(messages::PATIENCE + TimeDelta::minutes(1)).await;
    world.run_jobs().await;
    assert_eq!(world.jobs("message.notify").await, ["succeeded=1"]);

    let operator = ops.signed_in(Role::Operator).await;
    let payment = id_of(&world.payment(&scene.guest, booking).await);
    let (guest, host) = (scene.guest.id.clone(), scene.host.id.clone());
    for id in [booking.to_string(), payment.to_string(), guest, host] {
        for kind in ["stripe.event.handle", "message.notify"] {
            let found = operator.get(&format!("/ops/jobs?q={id}&kind={kind}")).await.is(200);
            found.says("data-href=\"/ops/jobs/");
        }
        let mails = format!("/ops/jobs?q={id}&kind=mail.send");
        operator.get(&mails).await.is(200).says("unread-messages");
    }
    let flight = operator.get(&format!("/ops/bookings/{booking}")).await.is(200);
    for moment in [
        "stripe.event.handle succeeded",
        "message.notify succeeded",
        &format!("mail:unread-messages:{message}"),
    ] {
        flight.says(moment);
    }
    let jobs: Vec<Uuid> = sqlx::query_scalar(
        "SELECT id FROM jobs WHERE args ->> 'message_id' = $1 OR (args ->> 'mail' = 'unread-messages' AND args ->> 'subject_id' = $1)",
    )
    .bind(message.to_string())
    .fetch_all(world.pool())
    .await
    .unwrap();
    assert_eq!(jobs.len(), 2);
    for job in jobs {
        let page = operator.get(&format!("/ops/jobs/{job}")).await.is(200);
        page.says(&booking.to_string());
    }
    // A booking of somebody else's has none of them.
    let (from, to) = (world.day(90), world.day(92));
    let reply = world.books(&scene.guest, scene.flat, from, to, "pm_card_visa").await;
    let other = id_of(&reply.expect(201));
    operator
        .get(&format!("/ops/jobs?q={other}&kind=message.notify"))
        .await
        .is(200)
        .says("No job matches");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mail_about_a_hidden_review_is_found_by_its_booking() {
    let scene = crate::reviews::Scene::set().await;
    let world = &scene.world;
    let booking = scene.ended_stay(&scene.guest).await;
    let [review, _] = scene.both_write(&scene.guest, booking, [1, 5]).await;
    let moderator = scene.moderator().await;
    let hide = world.post(&format!("/reviews/{review}/hide"), json!({"reason": "Untrue."}));
    hide.by(&moderator).send().await.expect(200);
    world.run_jobs().await;
    let (job, decision): (Uuid, String) =
        sqlx::query_as("SELECT id, args ->> 'subject_id' FROM jobs WHERE args ->> 'mail' = 'review-hidden'")
            .fetch_one(world.pool())
            .await
            .unwrap();
    let ops = Dashboard::start(&world.state).await;
    let operator = ops.signed_in(Role::Operator).await;
    for id in [&booking.to_string(), &scene.guest.id] {
        let mails = operator.get(&format!("/ops/jobs?q={id}&kind=mail.send")).await.is(200);
        mails.says("review-hidden");
    }
    let flight = operator.get(&format!("/ops/bookings/{booking}")).await.is(200);
    flight.says(&format!("mail:review-hidden:{decision}"));
    let page = operator.get(&format!("/ops/jobs/{job}")).await.is(200);
    page.says(&booking.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transition_that_was_refused_is_on_the_page_of_each_of_its_jobs() {
    let (scene, ops, booking) = paid("pm_card_visa").await;
    let world = &scene.world;
    scene.act(&scene.guest, booking, "cancel").await;
    world.run_jobs().await;
    let operator = ops.signed_in(Role::Operator).await;
    let job: Uuid = sqlx::query_scalar("SELECT id FROM jobs WHERE kind = 'payment.capture'")
        .fetch_one(world.pool())
        .await
        .unwrap();
    let page = format!("/ops/jobs/{job}");
    operator.get(&page).await.is(200).is_silent_about("cancelled refused");
    let again = world.post(&format!("/bookings/{booking}/cancel"), json!({}));
    again.by(&scene.host).send().await.refused(409, "wrong_state");
    let reason: String = sqlx::query_scalar("SELECT reason FROM booking_events WHERE booking_id = $1 AND NOT accepted")
        .bind(booking)
        .fetch_one(world.pool())
        .await
        .unwrap();
    let title = "cancelled refused";
    for page in [page, format!("/ops/bookings/{booking}")] {
        let page = operator.get(&page).await.is(200);
        let line = page.html.split(&format!("<span class=\"what\">{title} <small>")).nth(1);
        let detail = line.expect(title).split("</small>").next().unwrap();
        assert!(detail.starts_with("by host") && detail.contains(&reason), "{detail}");
        page.says("<li class=\"booking bad\"><span class=\"source\">booking</span>");
    }
    let flight = read(&ops, &format!("/bookings/{booking}/flight")).await;
    let refused = flight["moments"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|moment| moment["title"] == title);
    assert_eq!(
        refused.map(|moment| &moment["bad"]).collect::<Vec<_>>(),
        [true],
        "{flight}"
    );
}

/// What a script gets from `path`.
async fn read(ops: &Dashboard, path: &str) -> Value {
    let http = reqwest::Client::new();
    let url = |path: &str| format!("{}/ops/api{path}", ops.base);
    let token = ops.token("operator@ops.example.com").await;
    let asked = http.get(url(path)).bearer_auth(token).send().await.unwrap();
    asked.json().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_before_and_what_operators_did_stay_on_the_line_and_the_newest_is_never_cut() {
    let (scene, ops, booking) = paid("pm_card_visa").await;
    let world = &scene.world;
    let operator = ops.signed_in(Role::Operator).await;
    let capture: Uuid = sqlx::query_scalar("SELECT id FROM jobs WHERE kind = 'payment.capture'")
        .fetch_one(world.pool())
        .await
        .unwrap();
    // As if it had failed sixty times before, enqueued fifty-five jobs, and died.
    for story in [
        "INSERT INTO job_attempts (job_id, job_kind, fence, attempt, worker, started_at, ended_at, outcome, error)
         SELECT $1, 'payment.capture', 1000 + n, n, 'w-1', now() - interval '2 hours', now() - interval '2 hours' + n * interval '1 second',
                CASE WHEN n = 7 THEN 'lost' ELSE 'retry' END, 'no answer to try ' || n
         FROM generate_series(1, 60) AS n",
        "INSERT INTO jobs (id, kind, queue, priority, args, state, run_at, attempt, max_attempts, finished_at, parent_id)
         SELECT gen_random_uuid(), 'cache.warm', 'cache', 50, '{}', 'succeeded', now(), 1, 3, now(), $1 FROM generate_series(1, 55)",
        "UPDATE jobs SET state = 'dead' WHERE id = $1",
    ] {
        sqlx::query(story).bind(capture).execute(world.pool()).await.unwrap();
    }
    let retry = format!("/ops/jobs/{capture}/retry");
    operator.post(&retry, &[("reason", "Stripe is back")]).await.is(303);
    world.run_jobs().await;

    let flight = operator.get(&format!("/ops/bookings/{booking}")).await.is(200);
    for moment in [
        "payment.capture attempt 1 failed, to be tried again",
        "payment.capture attempt 7 was lost with its worker",
        "no answer to try 60 · on w-1",
        "payment.capture succeeded",
        "job.retry",
        "by operator@ops.example.com · because “Stripe is back”",
    ] {
        flight.says(moment);
    }
    flight.is_silent_about("are not shown");
    let page = operator.get(&format!("/ops/jobs/{capture}")).await.is(200);
    let job = read(&ops, &format!("/jobs/{capture}")).await;
    let shown = ["attempts", "children"].map(|of| job[of].as_array().unwrap().len());
    assert_eq!(shown, [50, 50]);
    for of in ["attempts_total", "children_total"] {
        assert!(job[of].as_i64().unwrap() >= 55, "{of}: {job}");
        page.says(&format!("the newest 50 of {}", job[of]));
    }
    assert_eq!(
        (&job["audit"][0]["action"], &job["audit"][0]["reason"]),
        (&json!("job.retry"), &json!("Stripe is back"))
    );
    assert!(job["priority"].is_i64(), "{job}");

    // More than two hundred of one kind: the newest are there, and a line says that they are not all.
    sqlx::query(
        "INSERT INTO booking_events (booking_id, at, event, actor, accepted, reason)
         SELECT $1, now() + n * interval '1 second', 'knock', 'guest', false, 'knock ' || n FROM generate_series(1, 230) AS n",
    )
    .bind(booking)
    .execute(world.pool())
    .await
    .unwrap();
    let flight = read(&ops, &format!("/bookings/{booking}/flight")).await;
    let moments = flight["moments"].as_array().unwrap().iter();
    let knocks: Vec<&str> = moments
        .filter(|moment| moment["source"] == "booking")
        .map(|moment| moment["title"].as_str().unwrap())
        .collect();
    assert_eq!(knocks.len(), 201);
    assert_eq!(
        (knocks[0], knocks[200]),
        ("older transitions are not shown", "knock refused")
    );
    let page = operator.get(&format!("/ops/bookings/{booking}")).await.is(200);
    page.says("knock 230");
    page.says("these are the newest 200");
    page.is_silent_about("knock 30<");
}
