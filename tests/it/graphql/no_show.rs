//! A guest does not come, told over GraphQL.

use chrono::{DateTime, TimeDelta};
use roost_tests::app::PASSWORD;
use roost_tests::world::{World, id_of};
use serde_json::json;

use super::{ask, data, refused, refused_field};

const REPORT: &str = "mutation($id: UUID!, $reason: String) {
    reportNoShow(id: $id, reason: $reason) { state payment { refundedMinor } timeline { event reason } }
}";

#[tokio::test]
async fn the_host_reports_it_and_nobody_else() {
    let world = World::start().await;
    let (host, guest) = (world.host().await, world.guest().await);
    let flat = world.lists(&host, json!({})).await;
    let reply = world.books(&guest, flat, world.day(2), world.day(4), "pm_card_visa");
    let booking = id_of(&reply.await.expect(201));
    world.run_jobs().await;
    let id = json!({"id": booking});
    let early = refused(&ask(&world, REPORT, &id).by(&host).send().await, 200, "too_early");
    let from = early["errors"][0]["extensions"]["from"].as_str().unwrap().to_owned();
    let from = DateTime::parse_from_rfc3339(&from).unwrap().to_utc();
    world.pass(from + TimeDelta::minutes(1) - world.clock.now()).await;
    let host = world.login(&host.email, PASSWORD).await;
    let guest = world.login(&guest.email, PASSWORD).await;
    refused(&ask(&world, REPORT, &id).by(&guest).send().await, 200, "forbidden");
    let long = json!({"id": booking, "reason": "x".repeat(501)});
    refused_field(
        &ask(&world, REPORT, &long).by(&host).send().await,
        200,
        "invalid_body",
        "reason",
    );
    for _ in 0..2 {
        let reason = json!({"id": booking, "reason": "I waited until midnight."});
        let reported = data(&ask(&world, REPORT, &reason).by(&host).send().await)["reportNoShow"].clone();
        assert_eq!(reported["state"], "NO_SHOW");
        assert_eq!(reported["payment"]["refundedMinor"], 0);
        let last = reported["timeline"].as_array().unwrap().last().unwrap().clone();
        assert_eq!(last, json!({"event": "no_show", "reason": "I waited until midnight."}));
    }
}
