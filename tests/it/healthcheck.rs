//! What containers ask: whether the program beside them is alive.

use roost_tests::services::free_address;
use roost_tests::world::World;
use tokio::process::{Child, Command};

use crate::programs::{api, worker};

/// A program that listens where `variable` says, asked before, while and after it runs.
async fn tells_the_truth(world: &World, program: fn(&World) -> Command, variable: &str) {
    let address = free_address().unwrap().to_string();
    let everywhere = address.replace("127.0.0.1", "0.0.0.0");
    let healthy = async |listen: &str| {
        let mut asking = program(world);
        let asked = asking.env(variable, listen).arg("healthcheck").output().await;
        asked.unwrap().status.success()
    };
    assert!(!healthy(&address).await);
    let mut running: Child = program(world).env(variable, &address).spawn().unwrap();
    world.eventually("it is alive", async || healthy(&address).await).await;
    assert!(healthy(&everywhere).await);
    running.kill().await.unwrap();
    assert!(!healthy(&address).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_is_healthy_while_it_runs() {
    tells_the_truth(&World::start().await, api, "API_LISTEN").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_healthy_while_it_runs() {
    tells_the_truth(&World::start().await, worker, "METRICS_LISTEN").await;
}
