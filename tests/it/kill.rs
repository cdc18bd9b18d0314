//! The real worker process, killed with SIGKILL in the middle of bookings.

use std::time::Duration;

use roost_shared::jobs::actions::By;
use roost_shared::jobs::settings::{self, Limits, NO_LIMITS};
use roost_tests::stripe::{Fault, FaultKind};
use roost_tests::world::{World, id_of};
use serde_json::json;

use crate::programs::start_worker;

async fn limit_payments(world: &World, limits: Limits) {
    let by = By {
        actor: "test",
        reason: Some("one at a time"),
    };
    let mut tx = world.state.db.begin().await.unwrap();
    let now = settings::queue(&mut tx, "payments").await.unwrap();
    let wanted = settings::QueueSettings { limits, ..now };
    settings::set_queue(&mut tx, "payments", wanted, by).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_places_of_a_killed_worker_come_back_and_the_limit_holds_meanwhile() {
    let world = World::without_worker().await;
    let (host, guest) = (world.host().await, world.guest().await);
    let limits = Limits {
        concurrency: Some(2),
        rate_limit: Some(4),
        ..NO_LIMITS
    };
    limit_payments(&world, limits).await;
    // Both places are taken when the worker dies.
    let slow = Fault::new(FaultKind::Delay).times(2).delay(Duration::from_secs(20));
    world.stripe.fault(slow.on_operation("/confirm"));
    let mut bookings = Vec::new();
    for day in [60, 70, 80, 90, 100] {
        let flat = world.lists(&host, json!({})).await;
        let reply = world.books(&guest, flat, world.day(day), world.day(day + 3), "pm_card_visa");
        bookings.push(id_of(&reply.await.expect(201)));
    }
    let mut first = start_worker(&world, &[]);
    world
        .eventually("both places are taken, by calls that hang", async || {
            world.stripe.faults().is_empty()
        })
        .await;
    first.kill().await.unwrap();
    let running = "SELECT count(*) FROM jobs WHERE state = 'running' AND queue = 'payments'";
    assert_eq!(world.counts(running).await, 2, "the dead worker still has its places");
    let second = start_worker(&world, &[]);
    for booking in bookings {
        world
            .eventually("captured", async || {
                assert!(world.counts(running).await <= 2, "more than the limit run");
                world.payment(&guest, booking).await["state"] == "captured"
            })
            .await;
    }
    world.run_jobs().await;
    // What a claim takes between counting and writing is left out of the second. An attempt that was lost held its place until it was reaped.
    let most_at_once = "SELECT max((SELECT count(*) FROM payments_attempts AS other
        WHERE other.started_at <= one.started_at AND other.ended_at > one.started_at)) FROM payments_attempts AS one";
    let most_in_a_second = "SELECT max((SELECT count(*) FROM payments_attempts AS other
        WHERE other.started_at >= one.started_at AND other.started_at < one.started_at + interval '990 milliseconds')) FROM payments_attempts AS one";
    sqlx::query(
        "CREATE VIEW payments_attempts AS SELECT job_attempts.* FROM job_attempts JOIN jobs ON jobs.id = job_id AND queue = 'payments'",
    )
    .execute(world.pool())
    .await
    .unwrap();
    assert_eq!(world.counts(most_at_once).await, 2);
    assert!(world.counts(most_in_a_second).await <= 4);
    let lost = "SELECT count(*) FROM payments_attempts WHERE outcome = 'lost'";
    assert_eq!(world.counts(lost).await, 2);
    drop(second);
}

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
