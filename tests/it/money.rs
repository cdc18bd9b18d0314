//! Money where two things happen at once, come late, or come back: a booking is never confirmed without it, and it is
//! never kept without a booking.

mod currencies;
mod mails;
mod recovery;
mod refunds;
mod transitions;

use std::time::Duration;

use chrono::TimeDelta;
use roost_shared::jobs::Job;
use roost_tests::stripe::{Fault, FaultKind};
use roost_tests::world::World;
use serde_json::json;
use uuid::Uuid;

use super::jobs::{Scene, TOTAL, scene};

async fn enqueue(world: &World, job: &impl Job) {
    let db = world.db();
    let mut tx = db.begin().await.unwrap();
    tx.enqueue(job);
    tx.commit().await.unwrap();
}

async fn is_in(scene: &Scene, booking: Uuid, state: &str) {
    scene
        .world
        .eventually(state, async || scene.state(booking).await == state)
        .await;
    scene.world.run_jobs().await;
}

async fn payment_state(world: &World, booking: Uuid) -> String {
    sqlx::query_scalar("SELECT state FROM payments WHERE booking_id = $1 ORDER BY number DESC LIMIT 1")
        .bind(booking)
        .fetch_one(world.pool())
        .await
        .unwrap()
}

async fn refunds(world: &World) -> Vec<(String, i64)> {
    sqlx::query_as("SELECT state, amount_minor FROM refunds ORDER BY id")
        .fetch_all(world.pool())
        .await
        .unwrap()
}

fn hears_of(scene: &Scene, what: &str) -> bool {
    scene
        .world
        .mails_to(&scene.guest)
        .iter()
        .any(|subject| subject.contains(what))
}

/// The events that tell of an authorisation never arrive.
fn keeps_authorisations_to_itself(world: &World) {
    for event in ["payment_intent.amount_capturable_updated", "charge.succeeded"] {
        world.stripe.fault(Fault::new(FaultKind::WebhookDrop).on_event(event));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_who_proved_the_card_in_time_is_confirmed_although_no_event_told() {
    let scene = scene(World::start().await, json!({})).await;
    let world = &scene.world;
    let booking = scene.books("pm_card_authenticationRequired").await;
    world.run_jobs().await;
    keeps_authorisations_to_itself(world);
    world.stripe.complete_3ds(&world.at_stripe(booking).await.id).unwrap();
    world.pass(TimeDelta::minutes(16)).await;
    is_in(&scene, booking, "confirmed").await;
    assert_eq!(world.at_stripe(booking).await.captured, TOTAL);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_that_is_proved_while_it_is_released_confirms_nothing() {
    let scene = scene(World::start().await, json!({})).await;
    let world = &scene.world;
    let booking = scene.books("pm_card_authenticationRequired").await;
    world.run_jobs().await;
    let intent = world.at_stripe(booking).await.id;
    world.stripe.fault(
        Fault::new(FaultKind::Delay)
            .on_operation("/cancel")
            // Long enough for the event to be handled meanwhile.
            .delay(Duration::from_secs(10)),
    );
    // The hold ends now; the clock stays, so that events are not stale.
    sqlx::query("UPDATE bookings SET hold_expires_at = now() - interval '1 second'")
        .execute(world.pool())
        .await
        .unwrap();
    sqlx::query("UPDATE jobs SET run_at = now() WHERE kind = 'booking.expire_hold'")
        .execute(world.pool())
        .await
        .unwrap();
    world
        .eventually("the cancellation is on its way", async || {
            world.stripe.faults().is_empty()
        })
        .await;
    world.stripe.complete_3ds(&intent).unwrap();
    world
        .eventually("the event is handled", async || {
            world.events(booking).await.contains(&"payment_authorized".to_owned())
        })
        .await;
    is_in(&scene, booking, "expired").await;
    let record = world.at_stripe(booking).await;
    assert_eq!((record.status, record.captured), ("canceled", 0));
    assert_eq!(payment_state(world, booking).await, "voided");
    assert!(hears_of(&scene, "Expired") && !hears_of(&scene, "Booked"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_cannot_approve_on_a_card_that_is_being_released() {
    let scene = scene(World::start().await, json!({"instant_book": false})).await;
    let world = &scene.world;
    let booking = scene.books("pm_card_visa").await;
    is_in(&scene, booking, "pending_approval").await;
    sqlx::query("UPDATE payments SET release_started_at = now()")
        .execute(world.pool())
        .await
        .unwrap();
    let approval = world.post(&format!("/bookings/{booking}/approve"), json!({}));
    assert_eq!(approval.by(&scene.host).send().await.status, 409);
    assert_eq!(scene.state(booking).await, "pending_approval");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_that_is_gone_at_capture_ends_the_booking_and_both_are_told() {
    let scene = scene(World::start().await, json!({"instant_book": false})).await;
    let world = &scene.world;
    let booking = scene.books("pm_card_visa").await;
    is_in(&scene, booking, "pending_approval").await;
    for event in ["payment_intent.canceled", "charge.expired"] {
        world.stripe.fault(Fault::new(FaultKind::WebhookDrop).on_event(event));
    }
    world.stripe.lapse(&world.at_stripe(booking).await.id).unwrap();
    scene.act(&scene.host, booking, "approve").await;
    is_in(&scene, booking, "payment_failed").await;
    assert_eq!(payment_state(world, booking).await, "voided");
    assert!(hears_of(&scene, "Not paid"));
    assert!(
        world
            .mails_to(&scene.host)
            .iter()
            .any(|subject| subject.contains("Not paid"))
    );
    // The nights are free again.
    let again = scene.books("pm_card_visa").await;
    is_in(&scene, again, "pending_approval").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bank_that_refuses_the_capture_ends_the_booking() {
    let scene = scene(World::start().await, json!({})).await;
    let world = &scene.world;
    world
        .stripe
        .fault(Fault::new(FaultKind::Declined).on_operation("/capture"));
    let booking = scene.books("pm_card_visa").await;
    is_in(&scene, booking, "payment_failed").await;
    let record = world.at_stripe(booking).await;
    assert_eq!((record.status, record.captured), ("canceled", 0));
    assert_eq!(world.jobs("payment.capture").await, ["succeeded=1"]);
    assert_eq!(world.ledger().await, []);
    assert!(hears_of(&scene, "Not paid"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_that_lapses_before_the_capture_ends_the_booking_by_its_event() {
    let scene = scene(World::start().await, json!({})).await;
    let world = &scene.world;
    world
        .stripe
        .fault(Fault::new(FaultKind::RateLimited).on_operation("/capture").times(1_000));
    let booking = scene.books("pm_card_visa").await;
    world
        .eventually("confirmed", async || scene.state(booking).await == "confirmed")
        .await;
    world.stripe.lapse(&world.at_stripe(booking).await.id).unwrap();
    world.stripe.clear_faults();
    is_in(&scene, booking, "payment_failed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intent_whose_creation_was_answered_with_nothing_holds_no_money_and_is_cancelled() {
    let scene = scene(World::start().await, json!({})).await;
    let world = &scene.world;
    world
        .stripe
        .fault(Fault::new(FaultKind::ServerErrorAfterCommit).on_operation("/payment_intents"));
    world.stripe.fault(
        Fault::new(FaultKind::WebhookDelay)
            .on_event("payment_intent.created")
            .delay(Duration::from_secs(6)),
    );
    let booking = scene.books("pm_card_visa").await;
    is_in(&scene, booking, "confirmed").await;
    world
        .eventually("the stray one is cancelled", async || {
            let mut seen: Vec<_> = world
                .stripe
                .record()
                .iter()
                .map(|payment| (payment.status, payment.authorised))
                .collect();
            seen.sort_unstable();
            seen == [("canceled", 0), ("succeeded", TOTAL)]
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_whose_answer_was_lost_releases_once() {
    for kind in [
        FaultKind::RateLimited,
        FaultKind::ServerErrorAfterCommit,
        FaultKind::ResetAfterCommit,
        FaultKind::TruncatedJson,
        FaultKind::Empty,
    ] {
        let scene = scene(World::start().await, json!({"instant_book": false})).await;
        let world = &scene.world;
        let booking = scene.books("pm_card_visa").await;
        is_in(&scene, booking, "pending_approval").await;
        world.stripe.fault(Fault::new(kind).on_operation("/cancel"));
        scene.act(&scene.host, booking, "decline").await;
        world
            .eventually("released", async || payment_state(world, booking).await == "voided")
            .await;
        assert_eq!(world.at_stripe(booking).await.status, "canceled", "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_card_takes_the_place_of_one_that_waits_for_its_owner() {
    let scene = scene(World::start().await, json!({})).await;
    let world = &scene.world;
    let booking = scene.books("pm_card_authenticationRequired").await;
    world.run_jobs().await;
    let first = world.at_stripe(booking).await.id;
    let card = json!({"booking_id": booking, "payment_method": "pm_card_visa"});
    world.post("/payments/", card).by(&scene.guest).send().await.expect(201);
    is_in(&scene, booking, "confirmed").await;
    assert_eq!(world.stripe.payment(&first).unwrap().status, "canceled");
    let payment = world.payment(&scene.guest, booking).await;
    assert_eq!((&payment["number"], &payment["state"]), (&json!(2), &json!("captured")));
    let superseded: String = sqlx::query_scalar("SELECT failure_code FROM payments WHERE number = 1")
        .fetch_one(world.pool())
        .await
        .unwrap();
    assert_eq!(superseded, "superseded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_whose_nights_are_gone_is_released_and_the_guest_is_told() {
    let mut scene = scene(World::start().await, json!({})).await;
    let late = scene.books("pm_card_authenticationRequired").await;
    scene.world.run_jobs().await;
    let intent = scene.world.at_stripe(late).await.id;
    // As when the release of the hold did not reach Stripe.
    sqlx::query("UPDATE bookings SET state = 'expired'")
        .execute(scene.world.pool())
        .await
        .unwrap();
    let first = std::mem::replace(&mut scene.guest, scene.world.guest().await);
    let booking = scene.books("pm_card_visa").await;
    is_in(&scene, booking, "confirmed").await;
    scene.world.stripe.complete_3ds(&intent).unwrap();
    scene
        .world
        .eventually("released", async || payment_state(&scene.world, late).await == "voided")
        .await;
    scene.world.run_jobs().await;
    assert_eq!(scene.world.stripe.payment(&intent).unwrap().status, "canceled");
    let mails = scene.world.mails_to(&first);
    assert!(mails.iter().any(|subject| subject.contains("Expired")), "{mails:?}");
}
