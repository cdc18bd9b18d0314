//! Work that died or was forgotten is found, and money and nights are let go.

use chrono::TimeDelta;
use roost_shared::jobs::catalogue::SweepOverdue;
use roost_tests::stripe::{Fault, FaultKind};
use roost_tests::world::World;
use serde_json::json;

use super::{enqueue, is_in, payment_state};
use crate::jobs::{TOTAL, scene};

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_authorisation_does_not_hold_the_nights_for_ever() {
    let mut scene = scene(World::without_worker().await, json!({})).await;
    let booking = scene.books("pm_card_visa").await;
    sqlx::query("UPDATE jobs SET state = 'quarantined', finished_at = now() WHERE kind = 'payment.authorize'")
        .execute(scene.world.pool())
        .await
        .unwrap();
    scene.world.start_worker();
    scene.world.pass(TimeDelta::minutes(16)).await;
    is_in(&scene, booking, "expired").await;
    assert_eq!(payment_state(&scene.world, booking).await, "voided");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authorisation_that_died_after_the_card_was_asked_is_settled_at_stripe() {
    let mut scene = scene(World::without_worker().await, json!({})).await;
    let booking = scene.books("pm_card_visa").await;
    scene
        .world
        .stripe
        .fault(Fault::new(FaultKind::ResetAfterCommit).on_operation("/confirm"));
    scene.world.start_worker();
    scene
        .world
        .eventually("the reply is lost", async || {
            let states: Vec<String> = sqlx::query_scalar("SELECT state FROM effects WHERE key LIKE 'authorize:%'")
                .fetch_all(scene.world.pool())
                .await
                .unwrap();
            states == ["unknown"]
        })
        .await;
    scene.world.stop_worker().await;
    sqlx::query("UPDATE jobs SET state = 'dead', finished_at = now() WHERE kind = 'payment.authorize'")
        .execute(scene.world.pool())
        .await
        .unwrap();
    // Nor does an event tell.
    sqlx::query("UPDATE jobs SET state = 'dead', finished_at = now() WHERE kind = 'stripe.event.handle' AND state <> 'succeeded'")
        .execute(scene.world.pool())
        .await
        .unwrap();
    scene.world.pass(TimeDelta::minutes(16)).await;
    scene.world.start_worker();
    is_in(&scene, booking, "confirmed").await;
    assert_eq!(scene.world.at_stripe(booking).await.captured, TOTAL);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_overdue_and_has_no_job_is_put_back_to_work() {
    let mut scene = scene(World::start().await, json!({})).await;
    let unpaid = scene.books("pm_card_authenticationRequired").await;
    scene.world.run_jobs().await;
    scene.world.stop_worker().await;
    sqlx::query("DELETE FROM jobs WHERE kind = 'booking.expire_hold'")
        .execute(scene.world.pool())
        .await
        .unwrap();
    sqlx::query(
        "INSERT INTO stripe_events (id, type, object_id, created_at, received_at) VALUES ('evt_lost', 'charge.refunded', 'ch_1', now(), now())",
    )
    .execute(scene.world.pool())
    .await
    .unwrap();
    scene.world.pass(TimeDelta::minutes(40)).await;
    enqueue(&scene.world, &SweepOverdue {}).await;
    scene.world.start_worker();
    is_in(&scene, unpaid, "expired").await;
    scene
        .world
        .eventually("handled", async || {
            sqlx::query_scalar::<_, bool>("SELECT handled_at IS NOT NULL FROM stripe_events WHERE id = 'evt_lost'")
                .fetch_one(scene.world.pool())
                .await
                .unwrap()
        })
        .await;
}
