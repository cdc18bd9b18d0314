//! The flight recorder of a booking, and the search by its ids: nothing that happened to it is left out.

use roost_shared::operators::Role;
use roost_tests::ops::Dashboard;
use roost_tests::world::World;
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
