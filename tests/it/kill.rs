//! The real worker process, killed with SIGKILL in the middle of bookings.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use roost_tests::stripe::{Fault, FaultKind};
use roost_tests::world::{World, id_of};
use serde_json::json;
use tokio::process::{Child, Command};

fn worker_binary() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let binary = test.parent().unwrap().parent().unwrap().join("roost-worker");
    assert!(
        binary.exists(),
        "{} is missing: cargo build --workspace builds it",
        binary.display()
    );
    binary
}

fn start_worker(world: &World) -> Child {
    Command::new(worker_binary())
        .env_clear()
        .env("DATABASE_URL", world.database_url())
        .env("REDIS_URL", world.redis_url())
        .env("REDIS_PREFIX", "test")
        .env("STRIPE_SECRET_KEY", "sk_test_roost")
        .env("STRIPE_API_BASE", world.stripe.base_url())
        .env("SMTP_URL", world.mailbox.smtp_url())
        .env("METRICS_LISTEN", "127.0.0.1:0")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
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

    let mut first = start_worker(&world);
    world
        .eventually("authorised at Stripe", async || {
            world.stripe.record().iter().any(|payment| payment.authorised > 0)
        })
        .await;
    first.kill().await.unwrap();
    let mut second = start_worker(&world);
    world
        .eventually("captured at Stripe", async || {
            world.stripe.record().iter().any(|payment| payment.captured > 0)
        })
        .await;
    second.kill().await.unwrap();
    let third = start_worker(&world);
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
