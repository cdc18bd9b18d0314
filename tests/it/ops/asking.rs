//! Asking Stripe what became of a call whose reply was lost, and a retry that does what the page said it would.

use roost_shared::jobs::actions::{ActionError, By};
use roost_shared::jobs::{inspect, inspections};
use roost_shared::operators::Role;
use roost_shared::stripe::IntentStatus;
use roost_tests::app::Actor;
use roost_tests::ops::Dashboard;
use roost_tests::stripe::{Fault, FaultKind};
use roost_tests::world::{World, id_of};
use serde_json::{Value, json};
use uuid::Uuid;

use super::state_of;
use crate::programs::on_a_terminal;

/// From now on Stripe does what is asked of it by `operation` once without saying so, cannot be read at `read`, and tells
/// nothing by webhook either.
fn falls_silent(world: &World, operation: &str, read: &str) {
    for fault in [
        Fault::new(FaultKind::WebhookDrop).times(1_000),
        Fault::new(FaultKind::ResetAfterCommit).on_operation(operation),
        Fault::new(FaultKind::BadGateway)
            .on_operation(operation)
            .times(1_000_000),
        Fault::new(FaultKind::BadGateway).on("GET", read).times(1_000_000),
    ] {
        world.stripe.fault(fault);
    }
}

async fn a_booking(world: &World) -> (Uuid, Actor) {
    let (host, guest) = (world.host().await, world.guest().await);
    let flat = world.lists(&host, json!({})).await;
    let booked = world
        .books(&guest, flat, world.day(60), world.day(63), "pm_card_visa")
        .await;
    (id_of(&booked.expect(201)), guest)
}

/// Waits until nobody knows what became of the one job of this kind; then somebody on call cancels it, so that it does
/// not ask again by itself.
async fn is_in_doubt(world: &World, ops: &Dashboard, kind: &str) -> Uuid {
    let job = async || -> Option<Uuid> {
        sqlx::query_scalar(
            "SELECT jobs.id FROM jobs JOIN effects ON job_id = jobs.id WHERE kind = $1 AND effects.state = 'unknown'",
        )
        .bind(kind)
        .fetch_optional(world.pool())
        .await
        .unwrap()
    };
    world
        .eventually("the reply is lost", async || job().await.is_some())
        .await;
    let job = job().await.unwrap();
    let admin = ops.signed_in(Role::Admin).await;
    let reason = [("reason", "until somebody has looked")];
    admin.post(&format!("/ops/jobs/{job}/cancel"), &reason).await.is(303);
    world
        .eventually("it is cancelled", async || {
            state_of(world.pool(), job).await.as_deref() == Some("cancelled")
        })
        .await;
    job
}

/// A booking whose capture was done by a Stripe that went away before it said so, and the capture's job.
pub(crate) async fn a_capture_in_doubt(world: &World, ops: &Dashboard) -> (Uuid, Uuid) {
    falls_silent(world, "/capture", "/v1/payment_intents/");
    let (booking, _) = a_booking(world).await;
    (booking, is_in_doubt(world, ops, "payment.capture").await)
}

async fn captures_asked_for(world: &World) -> usize {
    let exchanges = world.stripe.exchanges();
    exchanges.iter().filter(|one| one.path.ends_with("/capture")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_in_doubt_is_looked_up_and_a_retry_marks_it_done() {
    let world = World::start().await;
    let ops = Dashboard::start(&world.state).await;
    let (booking, job) = a_capture_in_doubt(&world, &ops).await;
    let (page, ask) = (format!("/ops/jobs/{job}"), format!("/ops/jobs/{job}/ask"));

    // Who may only look cannot ask, and no other site can have it asked.
    let viewer = ops.signed_in(Role::Viewer).await;
    viewer.get(&page).await.is(200).is_silent_about("Ask Stripe");
    viewer.post(&ask, &[]).await.is(403);
    let operator = ops.signed_in(Role::Operator).await;
    operator.post_without_token(&ask, &[]).await.is(403);
    operator
        .post(&format!("/ops/jobs/{}/ask", Uuid::now_v7()), &[])
        .await
        .is(404);
    assert_eq!(world.jobs("effect.inspect").await, Vec::<String>::new());
    // The alarm leads to this job alone.
    let overview = operator.get("/ops").await.is(200);
    overview.says("1 call with an unknown outcome");
    overview.says("href=\"/ops/jobs?effect=unknown\"");
    let list = operator.get("/ops/jobs?effect=unknown").await.is(200);
    list.says(&format!("data-href=\"{page}\""));
    assert_eq!(list.html.matches("data-href=").count(), 1);
    operator
        .get("/ops/jobs?effect=done")
        .await
        .is(200)
        .says("cannot be looked for");
    let before = operator.get(&page).await.is(200);
    before.says("nobody knows the outcome");
    before.says("Ask Stripe");

    // A Stripe that cannot be read is told as such.
    operator.post(&ask, &[]).await.is(303);
    world.run_jobs().await;
    let away = operator.get(&page).await.is(200);
    away.says("Stripe could not be asked");
    away.says("nobody knows the outcome");

    world.stripe.clear_faults();
    operator
        .post(&ask, &[("reason", "the guest rang <script>alert(1)</script>")])
        .await
        .is(303);
    world.run_jobs().await;
    let answered = operator.get(&page).await.is(200);
    answered.says("Stripe already captured €358.40: a retry marks it done.");
    answered.says("<strong>Stripe captured €358.40 (pi_");
    answered.says("job.ask");
    answered.is_silent_about("<script>alert");
    let flight = operator.get(&format!("/ops/bookings/{booking}")).await.is(200);
    flight.says("Stripe was asked");
    flight.says("it captured €358.40 (pi_");
    assert_eq!(world.jobs("effect.inspect").await, ["succeeded=2"]);
    // Looking has changed nothing.
    assert_eq!(state_of(world.pool(), job).await.as_deref(), Some("cancelled"));
    let authorized = "SELECT count(*) FROM payments WHERE state = 'authorized'";
    assert_eq!(world.counts(authorized).await, 1);

    let reason = [("reason", "Stripe has it")];
    operator.post(&format!("{page}/retry"), &reason).await.is(303);
    world.run_jobs().await;
    assert_eq!(state_of(world.pool(), job).await.as_deref(), Some("succeeded"));
    let record = world.at_stripe(booking).await;
    assert_eq!((record.captured, record.captures), (35_840, 1));
    assert_eq!(captures_asked_for(&world).await, 1);
    let captured = "SELECT count(*) FROM payments WHERE state = 'captured' AND captured_minor = 35840";
    assert_eq!(world.counts(captured).await, 1);
    // What was said before is not taken for an answer about how things stand now.
    operator.get(&page).await.is(200).says("an attempt has run since");

    // There is nothing to ask about a mail.
    let mail: Uuid = sqlx::query_scalar("SELECT id FROM jobs WHERE kind = 'mail.send' LIMIT 1")
        .fetch_one(world.pool())
        .await
        .unwrap();
    let page = format!("/ops/jobs/{mail}");
    operator.get(&page).await.is(200).is_silent_about("Ask Stripe");
    operator.post(&format!("{page}/ask"), &[]).await.is(409);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_effect_that_names_no_payment_is_answered_as_such() {
    let world = World::start().await;
    let ops = Dashboard::start(&world.state).await;
    a_booking(&world).await;
    world.run_jobs().await;
    let job: Uuid = sqlx::query_scalar("SELECT job_id FROM effects WHERE key LIKE 'capture:%'")
        .fetch_one(world.pool())
        .await
        .unwrap();
    let operator = ops.signed_in(Role::Operator).await;
    let page = format!("/ops/jobs/{job}");
    for (asked, (payment, answer)) in [
        (None, "the effect belongs to no payment"),
        (Some(Uuid::now_v7()), "the effect&#39;s payment is missing"),
    ]
    .into_iter()
    .enumerate()
    {
        sqlx::query("UPDATE effects SET entity_id = $2 WHERE job_id = $1")
            .bind(job)
            .bind(payment)
            .execute(world.pool())
            .await
            .unwrap();
        operator.post(&format!("{page}/ask"), &[]).await.is(303);
        world.run_jobs().await;
        operator.get(&page).await.is(200).says(answer);
        let looked = format!("succeeded={}", asked + 1);
        assert_eq!(world.jobs("effect.inspect").await, [looked]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_effect_that_is_pruned_before_it_is_asked_about_is_not_found() {
    let world = World::start().await;
    a_booking(&world).await;
    world.run_jobs().await;
    let job: Uuid = sqlx::query_scalar("SELECT job_id FROM effects WHERE key LIKE 'capture:%'")
        .fetch_one(world.pool())
        .await
        .unwrap();
    let detail = inspect::inspect(world.pool(), job).await.unwrap().unwrap();
    sqlx::query("DELETE FROM effects WHERE job_id = $1")
        .bind(job)
        .execute(world.pool())
        .await
        .unwrap();
    let by = By {
        actor: "test",
        reason: None,
    };
    let mut tx = world.state.db.begin().await.unwrap();
    let asked = inspections::ask(&mut tx, &detail, by).await;
    assert!(matches!(asked, Err(ActionError::NotFound("effect"))), "{asked:?}");
}

/// Asks about a job in doubt, expects `promise` on its page, and retries it.
async fn asks_and_retries(world: &World, ops: &Dashboard, job: Uuid, promise: &str) {
    world.stripe.clear_faults();
    let operator = ops.signed_in(Role::Operator).await;
    let page = format!("/ops/jobs/{job}");
    operator.post(&format!("{page}/ask"), &[]).await.is(303);
    world.run_jobs().await;
    operator.get(&page).await.is(200).says(promise);
    let reason = [("reason", "Stripe has it")];
    operator.post(&format!("{page}/retry"), &reason).await.is(303);
    world.run_jobs().await;
    assert_eq!(state_of(world.pool(), job).await.as_deref(), Some("succeeded"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_in_doubt_is_looked_up_and_a_retry_confirms_the_booking() {
    let world = World::start().await;
    let ops = Dashboard::start(&world.state).await;
    falls_silent(&world, "/confirm", "/v1/payment_intents/");
    let (booking, _) = a_booking(&world).await;
    let job = is_in_doubt(&world, &ops, "payment.authorize").await;
    let promise = "Stripe already reserved €358.40: a retry marks it done.";
    asks_and_retries(&world, &ops, job, promise).await;
    let record = world.at_stripe(booking).await;
    assert_eq!((record.captured, record.captures), (35_840, 1));
    assert_eq!(world.stripe.record().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_in_doubt_is_found_and_a_retry_pays_nothing_twice() {
    let world = World::start().await;
    let ops = Dashboard::start(&world.state).await;
    let (booking, guest) = a_booking(&world).await;
    world.run_jobs().await;
    falls_silent(&world, "/refunds", "/v1/refunds");
    let cancel = world.post(&format!("/bookings/{booking}/cancel"), json!({})).by(&guest);
    cancel.send().await.expect(200);
    let job = is_in_doubt(&world, &ops, "payment.refund").await;
    let promise = "Stripe already paid €358.40 back: a retry marks it done.";
    asks_and_retries(&world, &ops, job, promise).await;
    assert_eq!(world.at_stripe(booking).await.refunded, 35_840);
    let refunded = "SELECT count(*) FROM payments WHERE refunded_minor = 35840";
    assert_eq!(world.counts(refunded).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_in_doubt_is_told_by_the_hold_that_it_ends() {
    let world = World::start().await;
    let ops = Dashboard::start(&world.state).await;
    let (host, guest) = (world.host().await, world.guest().await);
    let flat = world.lists(&host, json!({})).await;
    let card = "pm_card_authenticationRequired";
    let booked = world.books(&guest, flat, world.day(60), world.day(63), card).await;
    let booking = id_of(&booked.expect(201));
    world.run_jobs().await;
    falls_silent(&world, "/cancel", "/v1/payment_intents/");
    // The hold ends now, with the release decided on.
    for sql in [
        "UPDATE payments SET release_started_at = now()",
        "UPDATE bookings SET hold_expires_at = now() - interval '1 second'",
        "UPDATE jobs SET run_at = now() WHERE kind = 'booking.expire_hold'",
    ] {
        sqlx::query(sql).execute(world.pool()).await.unwrap();
    }
    let job = is_in_doubt(&world, &ops, "booking.expire_hold").await;
    let viewer = ops.signed_in(Role::Viewer).await;
    let page = viewer.get(&format!("/ops/jobs/{job}")).await.is(200);
    page.says("nobody knows the outcome");
    page.says("A run releases the nights only if");
    let promise = "Stripe already released the reservation: a retry marks it done.";
    asks_and_retries(&world, &ops, job, promise).await;
    assert_eq!(world.booking(&guest, booking).await["state"], "expired");
    assert_eq!(world.at_stripe(booking).await.status, "canceled");
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_and_terminals_ask_as_well() {
    let world = World::start().await;
    let ops = Dashboard::start(&world.state).await;
    let (_, job) = a_capture_in_doubt(&world, &ops).await;
    world.stripe.clear_faults();
    let email = ops.make(Role::Operator).await;
    let http = reqwest::Client::new();
    let url = |path: &str| format!("{}/ops/api{path}", ops.base);
    let token = ops.token(&email).await;
    let asked = http
        .post(url(&format!("/jobs/{job}/ask")))
        .bearer_auth(&token)
        .json(&json!({}))
        .send();
    let asked: Value = asked.await.unwrap().json().await.unwrap();
    assert_eq!(asked["effects"][0]["inspection"]["asked_by"], email, "{asked}");
    world.run_jobs().await;
    let found = http.get(url(&format!("/jobs/{job}"))).bearer_auth(&token).send();
    let found: Value = found.await.unwrap().json().await.unwrap();
    let inspection = &found["effects"][0]["inspection"];
    assert_eq!(
        (
            &inspection["holds"],
            &inspection["facts"]["status"],
            &inspection["facts"]["captured_minor"],
            &found["outlook"][0]["tone"]
        ),
        (
            &json!(true),
            &json!(IntentStatus::Succeeded),
            &json!(35_840),
            &json!("safe")
        ),
        "{found}"
    );

    let in_doubt = http.get(url("/jobs?effect=unknown")).bearer_auth(&token).send();
    let in_doubt: Value = in_doubt.await.unwrap().json().await.unwrap();
    assert_eq!(in_doubt["items"].as_array().map(Vec::len), Some(1), "{in_doubt}");
    assert_eq!(in_doubt["items"][0]["id"], job.to_string());
    let refused = http.get(url("/jobs?effect=done")).bearer_auth(&token).send();
    let refused: Value = refused.await.unwrap().json().await.unwrap();
    assert_eq!(refused["errors"][0]["field"], "effect", "{refused}");
    let (done, listed) = on_a_terminal(&world, &["list", "--effect", "unknown"]).await;
    assert!(
        done && listed.contains(&job.to_string()) && !listed.contains("mail.send"),
        "{listed}"
    );
    let (done, refusal) = on_a_terminal(&world, &["list", "--effect", "done"]).await;
    assert!(!done && refusal.contains("effect"), "{refusal}");
    let (done, told) = on_a_terminal(&world, &["ask", &job.to_string()]).await;
    assert!(done && told.contains("asked about capture:"), "{told}");
    world.run_jobs().await;
    let (done, shown) = on_a_terminal(&world, &["show", &job.to_string()]).await;
    assert!(done && shown.contains("Stripe captured €358.40"), "{shown}");
}
