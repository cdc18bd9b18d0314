//! Cards are refused, tried again, proved to be the guest's, and shown to each side as far as it concerns them.

use chrono::TimeDelta;
use roost_tests::app::{Actor, PASSWORD, Reply};
use roost_tests::world::{World, id_of};
use serde_json::{Value, json};
use uuid::Uuid;

async fn tries(world: &World, guest: &Actor, booking: Uuid, card: &str) -> Reply {
    let body = json!({"booking_id": booking, "payment_method": card});
    world.post("/payments/", body).by(guest).send().await
}

async fn booked(world: &World, guest: &Actor, flat: Uuid, card: &str) -> Uuid {
    id_of(
        &world
            .books(guest, flat, world.day(30), world.day(33), card)
            .await
            .expect(201),
    )
}

#[tokio::test]
async fn another_card_saves_the_booking() {
    let world = World::start().await;
    let (host, guest, stranger) = (world.host().await, world.guest().await, world.guest().await);
    let flat = world.lists(&host, json!({})).await;
    let booking = booked(&world, &guest, flat, "pm_card_chargeDeclinedInsufficientFunds").await;
    world.run_jobs().await;
    let seen = world.booking(&guest, booking).await;
    assert_eq!(
        (&seen["state"], &seen["payment_state"]),
        (&json!("held"), &json!("failed"))
    );
    assert_eq!(seen["payment"]["failure_code"], "card_declined");
    let refused = world.payment(&guest, booking).await;
    assert_eq!(refused["decline_code"], "insufficient_funds");
    assert_eq!(refused["payment_method"], "pm_card_chargeDeclinedInsufficientFunds");

    // The host knows that a card failed, and nothing of why.
    let seen = world.booking(&host, booking).await;
    assert_eq!(
        (&seen["payment"]["state"], &seen["payment"]["failure_code"]),
        (&json!("failed"), &Value::Null)
    );
    let failed = seen["timeline"]
        .as_array()
        .unwrap()
        .iter()
        .find(|entry| entry["event"] == "payment_failed");
    assert_eq!(failed.unwrap()["reason"], Value::Null);

    let reply = tries(&world, &guest, booking, "pm_card_visa").await;
    let payment = reply.expect(201);
    let id = id_of(&payment);
    assert_eq!(reply.header("location"), format!("/payments/{id}"));
    assert_eq!((&payment["number"], &payment["state"]), (&json!(2), &json!("pending")));
    assert_eq!((&payment["attempts"], &payment["refunds"]), (&json!([]), &json!([])));
    world.run_jobs().await;
    assert_eq!(world.booking(&guest, booking).await["state"], "confirmed");

    let path = format!("/payments/{id}");
    let seen = world.get(&path).by(&guest).send().await.expect(200);
    assert_eq!(
        (
            &seen["state"],
            &seen["authorized_minor"],
            &seen["captured_minor"],
            &seen["refunded_minor"]
        ),
        (&json!("captured"), &json!(35_840), &json!(35_840), &json!(0))
    );
    assert!(seen["stripe_payment_intent_id"].as_str().unwrap().starts_with("pi_"));
    let operations: Vec<&Value> = seen["attempts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|attempt| &attempt["operation"])
        .collect();
    assert_eq!(operations, ["authorize", "capture"]);
    assert_eq!(seen["attempts"][1]["key"], format!("capture:{id}"));
    assert!(
        seen["attempts"]
            .as_array()
            .unwrap()
            .iter()
            .all(|attempt| attempt["state"] == "done")
    );
    let seen = world.get(&path).by(&host).send().await.expect(200);
    assert_eq!(
        (&seen["captured_minor"], &seen["payment_method"]),
        (&json!(35_840), &Value::Null)
    );
    world.get(&path).by(&stranger).send().await.refused(404, "not_found");
    world.get(&path).send().await.refused(401, "unauthorized");

    let list = async |actor: &Actor, query: &str| {
        let page = world
            .get(&format!("/payments?{query}"))
            .by(actor)
            .send()
            .await
            .expect(200);
        let items = page["items"].as_array().unwrap();
        items
            .iter()
            .map(|item| item["number"].as_i64().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(list(&guest, "").await, [2, 1]);
    assert_eq!(list(&guest, "state=failed").await, [1]);
    assert_eq!(list(&guest, "state=failed,captured").await, [2, 1]);
    assert_eq!(list(&guest, &format!("booking_id={}", Uuid::nil())).await, [0_i64; 0]);
    assert_eq!(list(&guest, "limit=1").await, [2]);
    assert_eq!(list(&host, "role=host").await, [2, 1]);
    assert_eq!(list(&host, "").await, [0_i64; 0]);
    assert_eq!(list(&stranger, "").await, [0_i64; 0]);
}

#[tokio::test]
async fn a_second_card_waits_its_turn_and_a_late_one_is_refused() {
    let world = World::without_worker().await;
    let (host, guest, stranger) = (world.host().await, world.guest().await, world.guest().await);
    let flat = world.lists(&host, json!({})).await;
    let booking = booked(&world, &guest, flat, "pm_card_visa").await;
    let problem = tries(&world, &guest, booking, "pm_card_visa")
        .await
        .refused(409, "already_paying");
    assert_eq!(problem["payment_state"], "pending");
    tries(&world, &stranger, booking, "pm_card_visa")
        .await
        .refused(404, "not_found");
    tries(&world, &host, booking, "pm_card_visa")
        .await
        .refused(404, "not_found");
    tries(&world, &guest, Uuid::nil(), "pm_card_visa")
        .await
        .refused(404, "not_found");

    sqlx::query("UPDATE payments SET state = 'failed'")
        .execute(world.pool())
        .await
        .unwrap();
    let body = json!({"booking_id": booking, "payment_method": "pm_card_visa"});
    let try_once = || {
        world
            .post("/payments", body.clone())
            .by(&guest)
            .header("Idempotency-Key", "second")
            .send()
    };
    let first = try_once().await;
    first.expect(201);
    let again = try_once().await;
    assert_eq!((again.status, again.body), (201, first.body));
    assert_eq!(world.jobs("payment.authorize").await, ["queued=2"]);

    sqlx::query("UPDATE payments SET state = 'failed'")
        .execute(world.pool())
        .await
        .unwrap();
    world.clock.advance(TimeDelta::minutes(15));
    let guest = world.login(&guest.email, PASSWORD).await;
    tries(&world, &guest, booking, "pm_card_visa")
        .await
        .refused(409, "hold_ended");
    let cancel = world.post(&format!("/bookings/{booking}/cancel"), json!({})).by(&guest);
    cancel.send().await.expect(200);
    let problem = tries(&world, &guest, booking, "pm_card_visa")
        .await
        .refused(409, "not_payable");
    assert_eq!(problem["state"], "cancelled_by_guest");
}

#[tokio::test]
async fn the_guest_alone_gets_what_proves_the_card() {
    let world = World::start().await;
    let (host, guest) = (world.host().await, world.guest().await);
    let flat = world.lists(&host, json!({})).await;
    let booking = booked(&world, &guest, flat, "pm_card_threeDSecure2Required").await;
    world.run_jobs().await;
    let seen = world.booking(&guest, booking).await;
    assert_eq!(
        (&seen["state"], &seen["payment_state"]),
        (&json!("held"), &json!("requires_action"))
    );
    let secret = seen["payment"]["client_secret"].as_str().unwrap().to_owned();
    let payment = world.payment(&guest, booking).await;
    assert_eq!(payment["client_secret"], secret);
    let payment_path = format!("/payments/{}", id_of(&payment));
    for path in [
        format!("/bookings/{booking}"),
        payment_path,
        "/payments?role=host".to_owned(),
        "/bookings?role=host".to_owned(),
    ] {
        let reply = world.get(&path).by(&host).send().await;
        reply.expect(200);
        assert!(!reply.text().contains(&secret), "{path}");
    }

    world
        .stripe
        .complete_3ds(payment["stripe_payment_intent_id"].as_str().unwrap())
        .unwrap();
    world
        .eventually("the booking is confirmed", async || {
            world.booking(&guest, booking).await["state"] == "confirmed"
        })
        .await;
    world.run_jobs().await;
    let payment = world.payment(&guest, booking).await;
    assert_eq!(
        (&payment["state"], &payment["client_secret"]),
        (&json!("captured"), &Value::Null)
    );
}
