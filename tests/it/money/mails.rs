//! What a guest is told of money and nights is true when it is sent.

use chrono::TimeDelta;
use roost_shared::jobs::catalogue::{AuthorizePayment, CapturePayment, ConfirmBooking, MailKind, SendMail};
use roost_tests::app::PASSWORD;
use roost_tests::mailbox::{Fault, Misbehaviour, Stage};
use roost_tests::world::World;
use roost_worker::Registry;
use serde_json::json;

use super::{enqueue, hears_of, is_in, payment_state};
use crate::jobs::scene;

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_that_is_no_longer_true_is_not_sent() {
    let mut scene = scene(World::without_worker().await, json!({})).await;
    let booking = scene.books("pm_card_visa").await;
    let without_mail = Registry::default()
        .with::<AuthorizePayment>()
        .with::<ConfirmBooking>()
        .with::<CapturePayment>();
    let worker = scene.world.another_worker(without_mail);
    scene
        .world
        .eventually("captured", async || {
            payment_state(&scene.world, booking).await == "captured"
        })
        .await;
    worker.stop().await;
    scene.act(&scene.guest, booking, "cancel").await;
    scene.world.start_worker();
    scene.world.run_jobs().await;
    assert!(
        hears_of(&scene, "Cancelled") && !hears_of(&scene, "Booked"),
        "{:?}",
        scene.world.mails_to(&scene.guest)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_ends_a_second_time_is_told_a_second_time() {
    let mut scene = scene(World::start().await, json!({"instant_book": false})).await;
    let booking = scene.books("pm_card_authenticationRequired").await;
    scene.world.run_jobs().await;
    let intent = scene.world.at_stripe(booking).await.id;
    // The first end, and the card that proves itself after it.
    sqlx::query("UPDATE bookings SET state = 'expired'")
        .execute(scene.world.pool())
        .await
        .unwrap();
    let mail = SendMail {
        mail: MailKind::BookingExpired,
        subject_id: booking,
    };
    enqueue(&scene.world, &mail).await;
    scene.world.run_jobs().await;
    scene.world.stripe.complete_3ds(&intent).unwrap();
    is_in(&scene, booking, "pending_approval").await;
    scene.world.pass(TimeDelta::hours(25)).await;
    is_in(&scene, booking, "expired").await;
    scene.guest = scene.world.login(&scene.guest.email, PASSWORD).await;
    let mails = scene.world.mails_to(&scene.guest);
    assert_eq!(
        mails.iter().filter(|subject| subject.contains("Expired")).count(),
        2,
        "{mails:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_attempt_at_a_verification_mail_carries_the_same_token() {
    let mut world = World::without_worker().await;
    world.mailbox.inject(Fault {
        at: Stage::Rcpt,
        what: Misbehaviour::Reply(451),
        times: 2,
    });
    world.guest().await;
    assert_eq!(world.jobs("mail.send").await, ["queued=1"]);
    world.start_worker();
    world.run_jobs().await;
    let (tokens, kept): (i64, i64) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM email_verifications), (SELECT count(*) FROM effects WHERE response IS NOT NULL)",
    )
    .fetch_one(world.pool())
    .await
    .unwrap();
    assert_eq!((tokens, kept), (1, 0));
}
