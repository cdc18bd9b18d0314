//! The flight recorder of a booking, and the search by its ids: nothing that happened to it is left out.

use chrono::TimeDelta;
use roost_shared::messages;
use roost_shared::operators::Role;
use roost_tests::ops::Dashboard;
use roost_tests::world::{World, id_of};
use serde_json::json;
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
