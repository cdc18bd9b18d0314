//! Who may pay for a booking, and with what.

use roost_tests::app::Actor;
use roost_tests::world::{World, id_of};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{ask, data, refused, refused_field};

const PAY: &str = "mutation($input: NewPayment!, $key: String) {
    createPayment(input: $input, idempotencyKey: $key) { id number state }
}";

#[tokio::test]
async fn only_the_guest_pays_and_only_with_a_card() {
    let world = World::without_worker().await;
    let (host, guest, stranger) = (world.host().await, world.guest().await, world.guest().await);
    let flat = world.lists(&host, json!({})).await;
    let reply = world
        .books(&guest, flat, world.day(30), world.day(32), "pm_card_visa")
        .await;
    let booking = id_of(&reply.expect(201));
    let pay = async |actor: &Actor, input: Value| {
        let variables = json!({"input": input, "key": "second"});
        ask(&world, PAY, &variables).by(actor).send().await
    };
    let good = json!({"bookingId": booking, "paymentMethod": "pm_card_visa"});
    let body = refused(&pay(&guest, good.clone()).await, 200, "already_paying");
    assert_eq!(body["errors"][0]["extensions"]["payment_state"], "pending");
    for somebody in [&host, &stranger] {
        refused(&pay(somebody, good.clone()).await, 200, "not_found");
    }
    let nowhere = json!({"bookingId": Uuid::nil(), "paymentMethod": "pm_card_visa"});
    refused(&pay(&guest, nowhere).await, 200, "not_found");
    refused(
        &ask(&world, PAY, &json!({"input": good.clone()})).send().await,
        200,
        "unauthorized",
    );
    for (field, wrong, status, code) in [
        ("bookingId", json!("x"), 200, "invalid_body"),
        ("bookingId", json!(null), 400, "invalid_query"),
        ("paymentMethod", json!("card"), 200, "invalid_body"),
        ("paymentMethod", json!(4_242), 400, "invalid_query"),
    ] {
        let mut input = good.clone();
        input[field] = wrong;
        refused_field(&pay(&guest, input).await, status, code, field);
    }
    let mut input = good.clone();
    input["amountMinor"] = json!(1);
    refused_field(&pay(&guest, input).await, 400, "invalid_query", "amountMinor");

    sqlx::query("UPDATE payments SET state = 'failed'")
        .execute(world.pool())
        .await
        .unwrap();
    let (first, again) = (pay(&guest, good.clone()).await, pay(&guest, good.clone()).await);
    assert_eq!(data(&first)["createPayment"]["number"], 2);
    assert_eq!(data(&first), data(&again));
    assert_eq!(again.header("idempotent-replayed"), "true");

    let list = "query($booking: UUID, $state: [PaymentState!], $first: Int! = 20) {
        payments(bookingId: $booking, state: $state, first: $first) { nodes { number } }
    }";
    let numbers = async |actor: &Actor, variables: Value| {
        let reply = ask(&world, list, &variables).by(actor).send().await;
        let nodes = data(&reply)["payments"]["nodes"].as_array().unwrap().clone();
        nodes
            .iter()
            .map(|node| node["number"].as_i64().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(numbers(&guest, json!({"booking": booking})).await, [2, 1]);
    assert_eq!(numbers(&guest, json!({"state": ["FAILED"]})).await, [1]);
    assert_eq!(numbers(&stranger, json!({"booking": booking})).await, [0; 0]);
    for (field, variables, status, code) in [
        ("first", json!({"first": 0}), 200, "invalid_parameter"),
        ("bookingId", json!({"booking": "x"}), 200, "invalid_query"),
        ("state[0]", json!({"state": ["SOLD"]}), 400, "invalid_query"),
    ] {
        let reply = ask(&world, list, &variables).by(&guest).send().await;
        refused_field(&reply, status, code, field);
    }
}
