//! Currencies: ours are ISO 4217's minor units, Stripe has its own.

use chrono::TimeDelta;
use roost_tests::app::PASSWORD;
use roost_tests::world::{World, id_of};
use serde_json::json;

use super::is_in;
use crate::jobs::scene;

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
