//! What guest and host do with a booking, as far as its state allows it.

use chrono::{DateTime, TimeDelta};
use roost_tests::app::{Actor, PASSWORD};
use roost_tests::world::{World, id_of};
use serde_json::{Value, json};

use super::{VISA, does};

#[tokio::test]
async fn the_guest_changes_what_costs_nothing() {
    let world = World::without_worker().await;
    let (host, guest, stranger) = (world.host().await, world.guest().await, world.guest().await);
    let flat = world.lists(&host, json!({})).await;
    let booking = world
        .books(&guest, flat, world.day(30), world.day(33), VISA)
        .await
        .expect(201);
    let path = format!("/bookings/{}", id_of(&booking));
    let patch = async |actor: &Actor, body: Value| world.patch(&path, body).by(actor).send().await;

    let change = json!({"guests": 4, "arrival_time": "18:05", "message": "We come by train.\nLate, perhaps."});
    let changed = patch(&guest, change).await.expect(200);
    assert_eq!(
        (&changed["guests"], &changed["arrival_time"], &changed["message"]),
        (&json!(4), &json!("18:05"), &json!("We come by train.\nLate, perhaps."))
    );
    assert_eq!(
        (&changed["version"], &changed["total_minor"]),
        (&json!(2), &booking["total_minor"])
    );
    // What is not named stays; an empty message takes it back.
    let changed = patch(&guest, json!({"message": "", "guests": null})).await.expect(200);
    assert_eq!((&changed["guests"], &changed["message"]), (&json!(4), &Value::Null));

    assert_eq!(
        patch(&guest, json!({})).await.expect(200)["version"],
        3,
        "nothing was asked"
    );

    patch(&guest, json!({"guests": 5}))
        .await
        .refused_field(422, "validation_failed", "guests");
    patch(&host, json!({"guests": 1})).await.refused(403, "forbidden");
    patch(&stranger, json!({"guests": 1})).await.refused(404, "not_found");
    does(&world, &guest, id_of(&booking), "cancel").await.expect(200);
    let problem = patch(&guest, json!({"guests": 1})).await.refused(409, "wrong_state");
    assert_eq!(problem["state"], "cancelled_by_guest");
}

#[tokio::test]
async fn a_held_booking_is_cancelled_and_the_nights_are_free() {
    let world = World::without_worker().await;
    let (host, guest, stranger) = (world.host().await, world.guest().await, world.guest().await);
    let flat = world.lists(&host, json!({})).await;
    let booking = id_of(
        &world
            .books(&guest, flat, world.day(30), world.day(33), VISA)
            .await
            .expect(201),
    );
    does(&world, &stranger, booking, "cancel")
        .await
        .refused(404, "not_found");
    let quote_path = format!("/bookings/{booking}/cancellation-quote");
    let quote = world.get(&quote_path).by(&guest).send().await.expect(200);
    assert_eq!(
        (&quote["rule"], &quote["refund_minor"]),
        (&json!("not_confirmed"), &json!(35_840))
    );

    let body = json!({"reason": " The train was cancelled. "});
    let call = world.post(&format!("/bookings/{booking}/cancel/"), body).by(&guest);
    let cancelled = call.send().await.expect(200);
    assert_eq!(cancelled["state"], "cancelled_by_guest");
    assert!(cancelled["cancelled_at"].is_string());
    let last = cancelled["timeline"].as_array().unwrap().last().unwrap();
    assert_eq!(last["reason"], "The train was cancelled.");
    assert_eq!(world.jobs("payment.void").await, ["queued=1"]);
    world
        .books(&stranger, flat, world.day(30), world.day(33), VISA)
        .await
        .expect(201);

    // Without a body, and too late: the refusal stays on the timeline.
    let call = world.request(reqwest::Method::POST, &format!("/bookings/{booking}/cancel"));
    let problem = call.by(&guest).send().await.refused(409, "wrong_state");
    assert_eq!(problem["state"], "cancelled_by_guest");
    let seen = world.booking(&guest, booking).await;
    let refusal = seen["timeline"].as_array().unwrap().last().unwrap();
    assert_eq!(
        (
            &refusal["event"],
            &refusal["accepted"],
            &refusal["actor"],
            &refusal["to_state"]
        ),
        (
            &json!("cancelled"),
            &json!(false),
            &json!("guest"),
            &json!("cancelled_by_guest")
        )
    );
    assert!(refusal["reason"].as_str().unwrap().contains("cannot be cancelled"));
    world
        .get(&quote_path)
        .by(&guest)
        .send()
        .await
        .refused(409, "wrong_state");
}

#[tokio::test]
async fn what_the_state_does_not_allow_is_refused_and_noted() {
    let world = World::without_worker().await;
    let (host, guest) = (world.host().await, world.guest().await);
    let flat = world.lists(&host, json!({})).await;
    let booking = id_of(
        &world
            .books(&guest, flat, world.day(30), world.day(33), VISA)
            .await
            .expect(201),
    );
    for (actor, what, status, code) in [
        (&guest, "check-in", 409, "wrong_state"),
        (&host, "check-in", 409, "wrong_state"),
        (&guest, "check-out", 409, "wrong_state"),
        (&host, "approve", 409, "wrong_state"),
        (&host, "decline", 409, "wrong_state"),
        (&guest, "approve", 403, "forbidden"),
        (&guest, "decline", 403, "forbidden"),
    ] {
        does(&world, actor, booking, what).await.refused(status, code);
    }
    assert_eq!(
        world.events(booking).await,
        [
            "requested",
            "checked_in",
            "checked_in",
            "checked_out",
            "confirmed",
            "declined",
            "confirmed",
            "declined"
        ]
    );
    let seen = world.booking(&host, booking).await;
    let refused = seen["timeline"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["accepted"] == false);
    assert_eq!(refused.count(), 7);
    assert_eq!((&seen["state"], &seen["version"]), (&json!("held"), &json!(1)));
}

#[tokio::test]
async fn a_request_to_book_is_approved_or_declined_by_the_host() {
    let world = World::start().await;
    let (host, guest) = (world.host().await, world.guest().await);
    let flat = world.lists(&host, json!({"instant_book": false})).await;
    let mut requests = Vec::new();
    for day in [30, 40] {
        let reply = world
            .books(&guest, flat, world.day(day), world.day(day + 3), VISA)
            .await;
        requests.push(id_of(&reply.expect(201)));
    }
    world.run_jobs().await;
    let asked = world.booking(&guest, requests[0]).await;
    assert_eq!(
        (&asked["state"], &asked["payment_state"]),
        (&json!("pending_approval"), &json!("authorized"))
    );
    assert!(asked["approval_expires_at"].is_string());

    let approved = does(&world, &host, requests[0], "approve").await.expect(200);
    assert_eq!(approved["state"], "confirmed");
    let body = json!({"reason": "We paint the walls."});
    let call = world
        .post(&format!("/bookings/{}/decline", requests[1]), body)
        .by(&host);
    assert_eq!(call.send().await.expect(200)["state"], "declined");
    world.run_jobs().await;
    assert_eq!(world.payment(&guest, requests[0]).await["state"], "captured");
    assert_eq!(world.payment(&guest, requests[1]).await["state"], "voided");
}

#[tokio::test]
async fn a_stay_goes_from_arrival_to_departure() {
    let world = World::start().await;
    let (host, guest) = (world.host().await, world.guest().await);
    let flat = world.lists(&host, json!({})).await;
    let booking = id_of(
        &world
            .books(&guest, flat, world.day(30), world.day(33), VISA)
            .await
            .expect(201),
    );
    world.run_jobs().await;
    let problem = does(&world, &guest, booking, "check-in")
        .await
        .refused(409, "too_early");
    assert_eq!(problem["from"], json!(world.day(30)));
    world.pass(TimeDelta::days(31)).await;
    let (host, guest) = (
        world.login(&host.email, PASSWORD).await,
        world.login(&guest.email, PASSWORD).await,
    );
    assert_eq!(
        does(&world, &guest, booking, "check-in").await.expect(200)["state"],
        "checked_in"
    );
    does(&world, &guest, booking, "check-in")
        .await
        .refused(409, "wrong_state");
    assert_eq!(
        does(&world, &host, booking, "check-out").await.expect(200)["state"],
        "checked_out"
    );
    does(&world, &guest, booking, "cancel")
        .await
        .refused(409, "wrong_state");
}

#[tokio::test]
async fn cancelling_pays_back_what_the_quote_said() {
    let world = World::start().await;
    let (host, guest) = (world.host().await, world.guest().await);
    let flat = world.lists(&host, json!({"cancellation_policy": "limited"})).await;
    let booking = id_of(
        &world
            .books(&guest, flat, world.day(40), world.day(43), VISA)
            .await
            .expect(201),
    );
    world.run_jobs().await;
    // Between 14 and 7 days before check-in half comes back.
    world.pass(TimeDelta::days(30)).await;
    let (host, guest) = (
        world.login(&host.email, PASSWORD).await,
        world.login(&guest.email, PASSWORD).await,
    );
    let path = format!("/bookings/{booking}/cancellation-quote");
    let by_host = world.get(&path).by(&host).send().await.expect(200);
    assert_eq!(
        (&by_host["rule"], &by_host["refund_minor"]),
        (&json!("by_host"), &json!(35_840))
    );
    let quote = world.get(&path).by(&guest).send().await.expect(200);
    assert_eq!(
        (&quote["rule"], &quote["refund_minor"]),
        (&json!("limited_half"), &json!(17_920))
    );
    let lines: i64 = quote["lines"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line["refund_minor"].as_i64().unwrap())
        .sum();
    assert_eq!(lines, 17_920);
    let until = DateTime::parse_from_rfc3339(quote["holds_until"].as_str().unwrap()).unwrap();
    assert_eq!(until.format("%H:%M").to_string(), "15:00", "of the property's clock");
    assert_eq!(quote["time_zone"], "Europe/Berlin");

    does(&world, &guest, booking, "cancel").await.expect(200);
    world.run_jobs().await;
    let payment = world.payment(&guest, booking).await;
    assert_eq!(
        (&payment["captured_minor"], &payment["refunded_minor"]),
        (&json!(35_840), &json!(17_920))
    );
    assert_eq!(payment["refunds"][0]["reason"], "limited_half");
    assert_eq!(payment["refunds"][0]["state"], "succeeded");
}
