//! Money where two things happen at once, come late, or come back: a booking is never confirmed without it, and it is
//! never kept without a booking.

use std::time::Duration;

use chrono::TimeDelta;
use roost_shared::jobs::Job;
use roost_shared::jobs::catalogue::{
    AuthorizePayment, CapturePayment, ConfirmBooking, MailKind, SendMail, SweepOverdue, VoidPayment,
};
use roost_shared::payments;
use roost_tests::app::PASSWORD;
use roost_tests::mailbox::{Fault as MailFault, Misbehaviour, Stage};
use roost_tests::stripe::{Fault, FaultKind};
use roost_tests::world::{World, id_of};
use roost_worker::Registry;
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
            .delay(Duration::from_secs(2)),
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
async fn a_refund_that_is_pending_is_booked_when_it_is_settled() {
    for succeeds in [true, false] {
        let scene = scene(World::start().await, json!({})).await;
        let world = &scene.world;
        let booking = scene.books("pm_card_pendingRefund").await;
        is_in(&scene, booking, "confirmed").await;
        let paid = world.ledger().await;
        scene.act(&scene.guest, booking, "cancel").await;
        let id = async || -> Option<String> {
            sqlx::query_scalar("SELECT stripe_refund_id FROM refunds")
                .fetch_one(world.pool())
                .await
                .unwrap()
        };
        world.eventually("accepted", async || id().await.is_some()).await;
        assert_eq!(refunds(world).await, [("pending".to_owned(), TOTAL)]);
        assert_eq!(world.ledger().await, paid);
        world.stripe.settle_refund(&id().await.unwrap(), succeeds).unwrap();
        let end = if succeeds { "succeeded" } else { "failed" };
        world
            .eventually(end, async || refunds(world).await == [(end.to_owned(), TOTAL)])
            .await;
        world.run_jobs().await;
        assert_eq!(world.ledger().await, if succeeds { Vec::new() } else { paid });
        assert_eq!(hears_of(&scene, "Your refund did not arrive"), !succeeds);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_that_comes_back_is_taken_out_of_the_books_and_told() {
    let scene = scene(World::start().await, json!({})).await;
    let world = &scene.world;
    let booking = scene.books("pm_card_pendingRefund").await;
    is_in(&scene, booking, "confirmed").await;
    let paid = world.ledger().await;
    scene.act(&scene.guest, booking, "cancel").await;
    let id = async || -> Option<String> {
        sqlx::query_scalar("SELECT stripe_refund_id FROM refunds")
            .fetch_one(world.pool())
            .await
            .unwrap()
    };
    world.eventually("accepted", async || id().await.is_some()).await;
    let id = id().await.unwrap();
    world.stripe.settle_refund(&id, true).unwrap();
    world
        .eventually("booked", async || world.ledger().await.is_empty())
        .await;
    world.stripe.settle_refund(&id, false).unwrap();
    world
        .eventually("failed", async || refunds(world).await[0].0 == "failed")
        .await;
    world.run_jobs().await;
    assert_eq!(world.ledger().await, paid);
    assert_eq!(world.payment(&scene.guest, booking).await["refunded_minor"], 0);
    assert!(hears_of(&scene, "Your refund did not arrive"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_that_fails_right_after_its_success_ends_as_failed() {
    let scene = scene(World::start().await, json!({})).await;
    let world = &scene.world;
    let booking = scene.books("pm_card_refundFail").await;
    is_in(&scene, booking, "confirmed").await;
    let paid = world.ledger().await;
    scene.act(&scene.guest, booking, "cancel").await;
    world
        .eventually("failed", async || {
            refunds(world).await.first().is_some_and(|(state, _)| state == "failed")
        })
        .await;
    world.run_jobs().await;
    assert_eq!((world.ledger().await, refunds(world).await.len()), (paid, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_whose_answer_was_lost_is_found_by_its_own_id() {
    for kind in [
        FaultKind::ServerError,
        FaultKind::ServerErrorAfterCommit,
        FaultKind::BadGatewayAfterCommit,
        FaultKind::ResetAfterCommit,
        FaultKind::TruncatedJson,
        FaultKind::Empty,
    ] {
        let scene = scene(World::start().await, json!({})).await;
        let world = &scene.world;
        let booking = scene.books("pm_card_visa").await;
        is_in(&scene, booking, "confirmed").await;
        world.stripe.fault(Fault::new(kind).on_operation("/refunds"));
        scene.act(&scene.guest, booking, "cancel").await;
        world
            .eventually("refunded", async || {
                refunds(world).await == [("succeeded".to_owned(), TOTAL)]
            })
            .await;
        assert_eq!(world.at_stripe(booking).await.refunded, TOTAL, "{kind:?}");
        assert_eq!(world.ledger().await, [], "{kind:?}");
    }
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
async fn the_fees_of_several_refunds_add_up() {
    let scene = scene(World::start().await, json!({})).await;
    let world = &scene.world;
    let booking = scene.books("pm_card_visa").await;
    is_in(&scene, booking, "confirmed").await;
    for part in [4, 4, TOTAL - 8] {
        let db = world.db();
        let mut tx = db.begin().await.unwrap();
        payments::pay_back(&mut tx, booking, part, "in parts").await.unwrap();
        tx.commit().await.unwrap();
        world.run_jobs().await;
    }
    assert_eq!(world.at_stripe(booking).await.refunded, TOTAL);
    assert_eq!(world.ledger().await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_promised_back_already_is_not_promised_again() {
    let mut scene = scene(World::start().await, json!({})).await;
    let booking = scene.books("pm_card_visa").await;
    is_in(&scene, booking, "confirmed").await;
    scene.world.stop_worker().await;
    scene.act(&scene.guest, booking, "cancel").await;
    let payment_id = id_of(&scene.world.payment(&scene.guest, booking).await);
    enqueue(&scene.world, &VoidPayment { payment_id }).await;
    sqlx::query("UPDATE jobs SET priority = 99 WHERE kind = 'payment.refund'")
        .execute(scene.world.pool())
        .await
        .unwrap();
    scene.world.start_worker();
    scene.world.run_jobs().await;
    assert_eq!(refunds(&scene.world).await, [("succeeded".to_owned(), TOTAL)]);
}

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
    world.mailbox.inject(MailFault {
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

#[tokio::test(flavor = "multi_thread")]
async fn every_currency_is_charged_and_paid_back_in_stripes_own_units() {
    // Stripe's units of one of ours; nights, cleaning and fee; what is left when the first of three nights is kept.
    for (currency, nightly, cleaning, total, kept, at_stripe) in [
        ("ISK", 15_000, 3_000, 53_760, 17_920, (100, 1)),
        ("KWD", 25_130, 5_500, 90_600, 30_200, (1, 1)),
        ("MGA", 10_000_000, 2_000_000, 35_840_000, 11_946_700, (1, 100)),
    ] {
        let property = json!({"currency": currency, "nightly_rate_minor": nightly, "cleaning_fee_minor": cleaning});
        let scene = scene(World::start().await, property).await;
        let world = &scene.world;
        let said = |minor: i64| minor * at_stripe.0 / at_stripe.1;
        let (from, to) = (world.day(2), world.day(5));
        let booked = world.books(&scene.guest, scene.flat, from, to, "pm_card_visa").await;
        let booking = id_of(&booked.expect(201));
        is_in(&scene, booking, "confirmed").await;
        let payment = world.payment(&scene.guest, booking).await;
        assert_eq!(
            (&payment["state"], &payment["captured_minor"]),
            (&json!("captured"), &json!(total)),
            "{currency}"
        );
        assert_eq!(world.at_stripe(booking).await.captured, said(total), "{currency}");

        world.pass(TimeDelta::hours(39)).await;
        let guest = world.login(&scene.guest.email, PASSWORD).await;
        let cancel = world.post(&format!("/bookings/{booking}/cancel"), json!({}));
        cancel.by(&guest).send().await.expect(200);
        world.run_jobs().await;
        let payment = world.payment(&guest, booking).await;
        assert_eq!(payment["refunded_minor"], json!(total - kept), "{currency}");
        assert_eq!(
            world.at_stripe(booking).await.refunded,
            said(total - kept),
            "{currency}"
        );
    }
}

#[tokio::test]
async fn a_property_that_no_card_could_pay_is_refused() {
    let world = World::without_worker().await;
    let host = world.host().await;
    for (changes, field) in [
        (json!({"currency": "IRR"}), "currency"),
        (
            json!({"nightly_rate_minor": 30, "cleaning_fee_minor": 0}),
            "nightly_rate_minor",
        ),
        (
            json!({"currency": "ISK", "nightly_rate_minor": 1_000_000}),
            "nightly_rate_minor",
        ),
    ] {
        let mut flat = roost_tests::world::a_flat();
        for (name, value) in changes.as_object().unwrap() {
            flat[name] = value.clone();
        }
        let reply = world.post("/properties/", flat).by(&host).send().await;
        reply.refused_field(422, "validation_failed", field);
    }
}
