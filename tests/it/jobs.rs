//! Each kind of job as a story: what a booking, its money and its mail come to, seen from outside.

use chrono::TimeDelta;
use roost_shared::properties::cache::{self, Cached};
use roost_tests::app::{Actor, PASSWORD};
use roost_tests::stripe::{Fault, FaultKind};
use roost_tests::world::{World, id_of};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::stripe_sandbox::contract;

/// 3 nights of 100.00, cleaning 20.00, 12 % guest fee of 320.00.
pub(super) const TOTAL: i64 = 35_840;

pub(super) struct Scene {
    pub world: World,
    pub host: Actor,
    pub guest: Actor,
    pub flat: Uuid,
}

pub(super) async fn scene(world: World, changes: Value) -> Scene {
    let (host, guest) = (world.host().await, world.guest().await);
    let flat = world.lists(&host, changes).await;
    Scene {
        world,
        host,
        guest,
        flat,
    }
}

impl Scene {
    pub async fn books(&self, card: &str) -> Uuid {
        let (from, to) = (self.world.day(60), self.world.day(63));
        id_of(
            &self
                .world
                .books(&self.guest, self.flat, from, to, card)
                .await
                .expect(201),
        )
    }

    /// From the database, because the clock of some of these stories outruns every access token.
    pub async fn state(&self, booking: Uuid) -> String {
        sqlx::query_scalar("SELECT state FROM bookings WHERE id = $1")
            .bind(booking)
            .fetch_one(self.world.pool())
            .await
            .unwrap()
    }

    pub async fn act(&self, actor: &Actor, booking: Uuid, action: &str) -> Value {
        self.world
            .post(&format!("/bookings/{booking}/{action}"), json!({}))
            .by(actor)
            .send()
            .await
            .expect(200)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_booking_is_authorized_confirmed_captured_and_told_to_both_sides() {
    let scene = scene(World::start().await, json!({})).await;
    let world = &scene.world;
    let booking = scene.books("pm_card_visa").await;
    world.run_jobs().await;

    assert_eq!(scene.state(booking).await, "confirmed");
    let payment = world.payment(&scene.guest, booking).await;
    assert_eq!(payment["state"], "captured");
    assert_eq!(payment["captured_minor"], TOTAL);
    let record = world.at_stripe(booking).await;
    assert_eq!((record.captured, record.captures), (TOTAL, 1));
    // The host's 320.00 less 3 %, and 38.40 + 9.60 of fees.
    assert_eq!(
        world.ledger().await,
        [
            ("host_payable".to_owned(), -31_040),
            ("platform_revenue".to_owned(), -4_800),
            ("stripe_balance".to_owned(), TOTAL)
        ]
    );
    assert_eq!(
        world.events(booking).await,
        ["requested", "payment_authorized", "confirmed", "payment_captured"]
    );
    assert_eq!(
        world.mails_to(&scene.guest).len(),
        2,
        "verify and confirmed: {:?}",
        world.mails_to(&scene.guest)
    );
    assert_eq!(
        world.mails_to(&scene.host).len(),
        2,
        "verify and confirmed: {:?}",
        world.mails_to(&scene.host)
    );
    assert_eq!(world.jobs("cache.warm").await, ["succeeded=1"]);
    let Cached::Rendered(warm) = cache::fetch(&world.redis(), scene.flat).await.unwrap() else {
        panic!("the job has warmed nothing");
    };
    let served = world.get(&format!("/properties/{}", scene.flat)).send().await;
    assert_eq!(warm.json, served.body);
    contract::check(&world.stripe);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_card_is_told_and_another_one_saves_the_booking() {
    let scene = scene(World::start().await, json!({})).await;
    let world = &scene.world;
    let booking = scene.books("pm_card_chargeDeclinedInsufficientFunds").await;
    world.run_jobs().await;

    assert_eq!(scene.state(booking).await, "held");
    let payment = world.payment(&scene.guest, booking).await;
    assert_eq!(
        (payment["state"].as_str(), payment["decline_code"].as_str()),
        (Some("failed"), Some("insufficient_funds"))
    );
    assert!(
        world
            .mails_to(&scene.guest)
            .iter()
            .any(|subject| subject.contains("did not go through")),
        "{:?}",
        world.mails_to(&scene.guest)
    );

    let second = json!({"booking_id": booking, "payment_method": "pm_card_visa"});
    world
        .post("/payments/", second.clone())
        .by(&scene.guest)
        .send()
        .await
        .expect(201);
    world.run_jobs().await;
    assert_eq!(scene.state(booking).await, "confirmed");
    assert_eq!(world.payment(&scene.guest, booking).await["number"], 2);
    world
        .post("/payments/", second)
        .by(&scene.guest)
        .send()
        .await
        .refused(409, "not_payable");
    assert_eq!(world.at_stripe(booking).await.captured, TOTAL);
}

#[tokio::test(flavor = "multi_thread")]
async fn three_d_secure_ends_by_webhook() {
    let scene = scene(World::start().await, json!({})).await;
    let world = &scene.world;
    let booking = scene.books("pm_card_authenticationRequired").await;
    world.run_jobs().await;
    let payment = world.payment(&scene.guest, booking).await;
    assert_eq!(payment["state"], "requires_action");
    assert!(
        payment["client_secret"].as_str().unwrap().contains("_secret_"),
        "{payment}"
    );

    world
        .stripe
        .complete_3ds(payment["stripe_payment_intent_id"].as_str().unwrap())
        .unwrap();
    world
        .eventually("confirmed", async || scene.state(booking).await == "confirmed")
        .await;
    world.run_jobs().await;
    let payment = world.payment(&scene.guest, booking).await;
    assert_eq!(payment["state"], "captured");
    assert!(payment["client_secret"].is_null(), "{payment}");
    contract::check(&world.stripe);
}

#[tokio::test(flavor = "multi_thread")]
async fn three_d_secure_that_fails_leaves_the_hold_to_another_card() {
    let scene = scene(World::start().await, json!({})).await;
    let world = &scene.world;
    let booking = scene.books("pm_card_authenticationRequired").await;
    world.run_jobs().await;
    let intent = world.at_stripe(booking).await.id;
    world.stripe.fail_3ds(&intent).unwrap();
    world
        .eventually("failed", async || {
            world.payment(&scene.guest, booking).await["state"] == "failed"
        })
        .await;
    assert_eq!(scene.state(booking).await, "held");
    // Whoever still holds its client secret can do nothing with it any more.
    world
        .eventually("released", async || {
            world
                .stripe
                .payment(&intent)
                .is_some_and(|payment| payment.status == "canceled")
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_was_lost_a_day_ago_is_looked_up_before_anything_is_sent_again() {
    let mut scene = scene(World::without_worker().await, json!({})).await;
    let fault = Fault::new(FaultKind::ResetAfterCommit).on_operation("/confirm");
    scene.world.stripe.fault(fault);
    let booking = scene.books("pm_card_visa").await;
    scene.world.start_worker();
    let unknown = async || {
        let states: Vec<String> = sqlx::query_scalar("SELECT state FROM effects WHERE key LIKE 'authorize:%'")
            .fetch_all(scene.world.pool())
            .await
            .unwrap();
        states == ["unknown"]
    };
    scene.world.eventually("the reply is lost", unknown).await;
    scene.world.stop_worker().await;
    // Stripe has forgotten the idempotency key by now.
    scene.world.pass(TimeDelta::hours(25)).await;
    scene.world.start_worker();
    scene
        .world
        .eventually("captured", async || {
            scene.world.stripe.record().iter().any(|payment| payment.captured > 0)
        })
        .await;
    scene.world.run_jobs().await;
    let records = scene.world.stripe.record();
    assert_eq!(records.len(), 1, "{records:?}");
    assert_eq!(scene.state(booking).await, "confirmed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_without_payment_ends_and_frees_the_nights() {
    let mut scene = scene(World::start().await, json!({})).await;
    let booking = scene.books("pm_card_authenticationRequired").await;
    scene.world.run_jobs().await;
    scene.world.pass(TimeDelta::minutes(16)).await;
    scene
        .world
        .eventually("expired", async || scene.state(booking).await == "expired")
        .await;
    scene.world.run_jobs().await;
    scene.guest = scene.world.login(&scene.guest.email, PASSWORD).await;
    assert_eq!(scene.world.at_stripe(booking).await.status, "canceled");
    assert_eq!(scene.world.payment(&scene.guest, booking).await["state"], "voided");
    let again = scene.books("pm_card_visa").await;
    scene.world.run_jobs().await;
    assert_eq!(scene.state(again).await, "confirmed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_whose_card_was_refused_ends_as_payment_failed() {
    let scene = scene(World::start().await, json!({})).await;
    let booking = scene.books("pm_card_chargeDeclined").await;
    scene.world.run_jobs().await;
    scene.world.pass(TimeDelta::minutes(16)).await;
    scene
        .world
        .eventually("ended", async || scene.state(booking).await == "payment_failed")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_waits_for_the_host_who_approves() {
    let scene = scene(World::start().await, json!({"instant_book": false})).await;
    let world = &scene.world;
    let booking = scene.books("pm_card_visa").await;
    world.run_jobs().await;
    assert_eq!(scene.state(booking).await, "pending_approval");
    assert_eq!(world.at_stripe(booking).await.captured, 0);
    world
        .post(&format!("/bookings/{booking}/approve"), json!({}))
        .by(&scene.guest)
        .send()
        .await
        .refused(403, "forbidden");

    assert_eq!(scene.act(&scene.host, booking, "approve").await["state"], "confirmed");
    world.run_jobs().await;
    assert_eq!(world.at_stripe(booking).await.captured, TOTAL);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declined_request_releases_the_card() {
    let scene = scene(World::start().await, json!({"instant_book": false})).await;
    let world = &scene.world;
    let booking = scene.books("pm_card_visa").await;
    world.run_jobs().await;
    assert_eq!(scene.act(&scene.host, booking, "decline").await["state"], "declined");
    world.run_jobs().await;
    assert_eq!(world.at_stripe(booking).await.status, "canceled");
    assert_eq!(world.ledger().await, []);
    contract::check(&world.stripe);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_nobody_answers_ends_after_a_day() {
    let scene = scene(World::start().await, json!({"instant_book": false})).await;
    let world = &scene.world;
    let booking = scene.books("pm_card_visa").await;
    world.run_jobs().await;
    world.pass(TimeDelta::hours(23)).await;
    world.run_jobs().await;
    assert_eq!(scene.state(booking).await, "pending_approval");
    world.pass(TimeDelta::hours(2)).await;
    world
        .eventually("expired", async || scene.state(booking).await == "expired")
        .await;
    world.run_jobs().await;
    assert_eq!(world.at_stripe(booking).await.status, "canceled");
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_pays_back_what_the_policy_says() {
    let scene = scene(World::start().await, json!({"cancellation_policy": "limited"})).await;
    let world = &scene.world;
    // Confirmed ten days ahead and more than a day ago: half.
    let (from, to) = (world.day(10), world.day(13));
    let booking = id_of(
        &world
            .books(&scene.guest, scene.flat, from, to, "pm_card_visa")
            .await
            .expect(201),
    );
    world.run_jobs().await;
    world.pass(TimeDelta::hours(25)).await;
    // The access token is older than a quarter of an hour by now.
    let guest = world.login(&scene.guest.email, PASSWORD).await;
    let quote = world
        .get(&format!("/bookings/{booking}/cancellation-quote"))
        .by(&guest)
        .send()
        .await
        .expect(200);
    assert_eq!(quote["refund_minor"], TOTAL / 2, "{quote}");
    let cancelled = world
        .post(&format!("/bookings/{booking}/cancel"), json!({"reason": "ill"}))
        .by(&guest)
        .send()
        .await
        .expect(200);
    assert_eq!(cancelled["state"], "cancelled_by_guest");
    world.run_jobs().await;

    let record = world.at_stripe(booking).await;
    assert_eq!((record.captured, record.refunded), (TOTAL, TOTAL / 2));
    assert_eq!(world.payment(&guest, booking).await["refunded_minor"], TOTAL / 2);
    let balance: i64 = world
        .ledger()
        .await
        .iter()
        .filter(|(account, _)| account == "stripe_balance")
        .map(|(_, amount)| *amount)
        .sum();
    assert_eq!(balance, TOTAL / 2);
    assert!(
        world
            .mails_to(&guest)
            .iter()
            .any(|subject| subject.to_lowercase().contains("cancel"))
    );
    contract::check(&world.stripe);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_who_cancels_pays_everything_back_and_the_nights_stay_blocked() {
    let scene = scene(World::start().await, json!({"cancellation_policy": "firm"})).await;
    let world = &scene.world;
    let booking = scene.books("pm_card_visa").await;
    world.run_jobs().await;
    assert_eq!(
        scene.act(&scene.host, booking, "cancel").await["state"],
        "cancelled_by_host"
    );
    world.run_jobs().await;
    assert_eq!(world.at_stripe(booking).await.refunded, TOTAL);
    assert_eq!(world.ledger().await, []);
    let (from, to) = (world.day(60), world.day(63));
    world
        .books(&scene.guest, scene.flat, from, to, "pm_card_visa")
        .await
        .refused(409, "dates_taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_is_cancelled_while_stripe_is_slow_takes_no_money() {
    let scene = scene(World::start().await, json!({})).await;
    let world = &scene.world;
    // Only the reply tells: whatever event comes, late ones too, has the payment read at Stripe.
    for event in [
        "payment_intent.created",
        "payment_intent.amount_capturable_updated",
        "charge.succeeded",
    ] {
        world.stripe.fault(Fault::new(FaultKind::WebhookDrop).on_event(event));
    }
    world.stripe.fault(
        Fault::new(FaultKind::DelayAfterCommit)
            .on_operation("/confirm")
            // Long enough for the guest to cancel meanwhile.
            .delay(std::time::Duration::from_secs(10)),
    );
    let booking = scene.books("pm_card_visa").await;
    world
        .eventually("authorised at Stripe, the reply still to come", async || {
            world.stripe.record().iter().any(|payment| payment.authorised > 0)
        })
        .await;
    assert_eq!(
        scene.act(&scene.guest, booking, "cancel").await["state"],
        "cancelled_by_guest"
    );
    world
        .eventually("released", async || {
            world.payment(&scene.guest, booking).await["state"] == "voided"
        })
        .await;
    world.run_jobs().await;
    assert_eq!(world.at_stripe(booking).await.status, "canceled");
    assert_eq!(world.ledger().await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stripe_that_fails_in_every_way_is_asked_again_and_charges_once() {
    for kind in [
        FaultKind::RateLimited,
        FaultKind::ServerError,
        FaultKind::ServerErrorAfterCommit,
        FaultKind::BadGateway,
        FaultKind::BadGatewayAfterCommit,
        FaultKind::ResetBefore,
        FaultKind::ResetAfterCommit,
        FaultKind::Truncated,
        FaultKind::TruncatedJson,
        FaultKind::Empty,
    ] {
        let scene = scene(World::start().await, json!({})).await;
        let world = &scene.world;
        for operation in ["/payment_intents", "/confirm", "/capture"] {
            world.stripe.fault(Fault::new(kind).on_operation(operation));
        }
        let booking = scene.books("pm_card_visa").await;
        world
            .eventually("captured", async || {
                world.payment(&scene.guest, booking).await["state"] == "captured"
            })
            .await;
        let records = world.stripe.record();
        let captured: Vec<i64> = records
            .iter()
            .map(|record| record.captured)
            .filter(|amount| *amount > 0)
            .collect();
        assert_eq!(captured, [TOTAL], "{kind:?}: {records:?}");
        // Whatever else was created holds no money of the guest.
        assert!(
            records
                .iter()
                .all(|record| record.captured > 0 || record.status != "requires_capture"),
            "{kind:?}: {records:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_server_that_is_away_for_a_moment_loses_no_mail() {
    use roost_tests::mailbox::{Fault, Misbehaviour, Stage};
    let scene = scene(World::without_worker().await, json!({})).await;
    let mut scene = scene;
    scene.world.mailbox.inject(Fault {
        at: Stage::Rcpt,
        what: Misbehaviour::Reply(451),
        times: 1,
    });
    scene.world.start_worker();
    scene.world.run_jobs().await;
    assert_eq!(scene.world.mails_to(&scene.guest).len(), 1);
    assert_eq!(scene.world.mails_to(&scene.host).len(), 1);
    assert_eq!(scene.world.jobs("mail.send").await, ["succeeded=2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn pruning_deletes_what_is_old_and_keeps_the_rest() {
    let scene = scene(World::start().await, json!({})).await;
    let world = &scene.world;
    scene.books("pm_card_visa").await;
    world.run_jobs().await;
    sqlx::query("UPDATE jobs SET finished_at = now() - interval '8 days' WHERE kind = 'mail.send'")
        .execute(world.pool())
        .await
        .unwrap();
    sqlx::query(
        "INSERT INTO stripe_events (id, type, object_id, created_at, received_at) SELECT 'evt_old_' || days, 'charge.refunded', 'ch_1',
             now() - make_interval(days => days), now() - make_interval(days => days) FROM (VALUES (170), (181)) AS old (days)",
    )
    .execute(world.pool())
    .await
    .unwrap();
    let db = world.db();
    let tx_enqueues = async {
        let mut tx = db.begin().await.unwrap();
        tx.enqueue(&roost_shared::jobs::catalogue::PruneOutbox {});
        tx.commit().await.unwrap();
    };
    tx_enqueues.await;
    world
        .eventually("pruned", async || world.jobs("outbox.prune").await == ["succeeded=1"])
        .await;
    assert_eq!(world.jobs("mail.send").await, Vec::<String>::new());
    assert_eq!(world.jobs("payment.capture").await, ["succeeded=1"]);
    let old: i64 = sqlx::query_scalar("SELECT count(*) FROM stripe_events WHERE id LIKE 'evt_old%'")
        .fetch_one(world.pool())
        .await
        .unwrap();
    assert_eq!(old, 1, "an event that was never handled is kept for half a year");
}
