//! The real worker process, killed with SIGKILL in the middle of bookings.

use std::time::Duration;

use roost_tests::stripe::{Fault, FaultKind};
use roost_tests::world::{World, id_of};
use serde_json::json;

use crate::programs::start_worker;

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_in_the_middle_of_a_booking_still_ends_captured_once() {
    let world = World::without_worker().await;
    let (host, guest) = (world.host().await, world.guest().await);
    let flat = world.lists(&host, json!({})).await;
    // Stripe does what it is asked and answers late: the worker dies knowing nothing of it.
    for operation in ["/confirm", "/capture"] {
        let fault = Fault::new(FaultKind::DelayAfterCommit)
            .times(1)
            .delay(Duration::from_secs(2));
        world.stripe.fault(fault.on_operation(operation));
    }
    let booking = id_of(
        &world
            .books(&guest, flat, world.day(60), world.day(63), "pm_card_visa")
            .await
            .expect(201),
    );

    let mut first = start_worker(&world, &[]);
    world
        .eventually("authorised at Stripe", async || {
            world.stripe.record().iter().any(|payment| payment.authorised > 0)
        })
        .await;
    first.kill().await.unwrap();
    let mut second = start_worker(&world, &[]);
    world
        .eventually("captured at Stripe", async || {
            world.stripe.record().iter().any(|payment| payment.captured > 0)
        })
        .await;
    second.kill().await.unwrap();
    let third = start_worker(&world, &[]);
    world
        .eventually("recorded", async || {
            world.payment(&guest, booking).await["state"] == "captured"
        })
        .await;
    world.run_jobs().await;

    let records = world.stripe.record();
    assert_eq!(records.len(), 1, "{records:?}");
    assert_eq!((records[0].captured, records[0].captures), (35_840, 1), "{records:?}");
    assert_eq!(world.booking(&guest, booking).await["state"], "confirmed");
    let lost: i64 = sqlx::query_scalar("SELECT count(*) FROM job_attempts WHERE outcome = 'lost'")
        .fetch_one(world.pool())
        .await
        .unwrap();
    assert!(lost >= 2, "both kills hit a running job: {lost}");
    assert_eq!(
        world
            .ledger()
            .await
            .iter()
            .find(|(account, _)| account == "stripe_balance")
            .unwrap()
            .1,
        35_840
    );
    drop(third);
}
