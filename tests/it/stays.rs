//! Stays come to an end, whether or not anybody says so.

use chrono::TimeDelta;
use roost_shared::jobs::catalogue::CompleteStays;
use roost_tests::app::{Actor, PASSWORD};
use roost_tests::world::{World, id_of};
use serde_json::{Value, json};
use uuid::Uuid;

/// A confirmed stay of three nights, ten days from now.
async fn a_stay(world: &World) -> (Actor, Actor, Uuid) {
    let (host, guest) = (world.host().await, world.guest().await);
    let flat = world.lists(&host, json!({})).await;
    let booked = world
        .books(&guest, flat, world.day(10), world.day(13), "pm_card_visa")
        .await;
    let booking = id_of(&booked.expect(201));
    world.run_jobs().await;
    (host, guest, booking)
}

/// Time passes; access tokens do not last that long.
async fn later(world: &World, days: i64, actors: [&Actor; 2]) -> (Actor, Actor) {
    world.pass(TimeDelta::days(days)).await;
    (
        world.login(&actors[0].email, PASSWORD).await,
        world.login(&actors[1].email, PASSWORD).await,
    )
}

#[tokio::test]
async fn what_is_over_is_neither_called_off_nor_changed_nor_begun() {
    let world = World::start().await;
    let (host, guest, booking) = a_stay(&world).await;
    let (host, guest) = later(&world, 14, [&host, &guest]).await;
    let path = |what: &str| format!("/bookings/{booking}{what}");
    for actor in [&host, &guest] {
        for what in ["/cancel", "/check-in"] {
            let call = world.post(&path(what), json!({})).by(actor);
            call.send().await.refused(409, "stay_over");
        }
        let call = world.get(&path("/cancellation-quote")).by(actor);
        call.send().await.refused(409, "stay_over");
    }
    let call = world.patch(&path(""), json!({"guests": 1})).by(&guest);
    call.send().await.refused(409, "stay_over");
    assert_eq!(world.booking(&guest, booking).await["state"], "confirmed");
    assert_eq!(world.payment(&guest, booking).await["refunded_minor"], 0);

    // Nothing is left to come, so both may leave, before anything has noted the end.
    for actor in [&guest, &host] {
        world.delete("/users/me").by(actor).send().await.expect(204);
    }
}

#[tokio::test]
async fn a_stay_is_completed_once_its_last_day_is_over_everywhere() {
    let world = World::start().await;
    let (host, guest, booking) = a_stay(&world).await;
    let complete = async || {
        let before = world.jobs("stays.complete").await;
        let db = world.db();
        let mut tx = db.begin().await.unwrap();
        tx.enqueue(&CompleteStays {});
        tx.commit().await.unwrap();
        world
            .eventually("completed", async || {
                let now = world.jobs("stays.complete").await;
                now != before && now.iter().all(|state| state.starts_with("succeeded"))
            })
            .await;
    };
    let (host, guest) = later(&world, 12, [&host, &guest]).await;
    complete().await;
    assert_eq!(
        world.booking(&guest, booking).await["state"],
        "confirmed",
        "a night is left"
    );
    let (_, guest) = later(&world, 3, [&host, &guest]).await;
    complete().await;
    let seen = world.booking(&guest, booking).await;
    assert_eq!(seen["state"], "completed");
    let last: &Value = seen["timeline"].as_array().unwrap().last().unwrap();
    assert_eq!(
        (&last["event"], &last["actor"]),
        (&json!("completed"), &json!("system"))
    );
    assert_eq!(world.payment(&guest, booking).await["captured_minor"], 35_840);
    assert_eq!(world.jobs_of("review.open").await, 1);
}
