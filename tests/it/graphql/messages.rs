//! Guest and host write to each other, and nobody else does.

use roost_tests::app::Actor;
use roost_tests::world::{World, id_of};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{ask, data, refused, refused_field};

const WRITE: &str = "mutation($id: UUID!, $text: String!, $key: String) {
    createMessage(id: $id, input: {text: $text}, idempotencyKey: $key) { id own text readAt }
}";
const READ: &str = "query($id: UUID!, $after: String) {
    messages(id: $id, first: 1, after: $after) { nodes { id own text readAt } pageInfo { hasNextPage endCursor } }
}";
const MARK: &str = "mutation($id: UUID!, $message: UUID!) { markMessagesRead(id: $id, input: {upTo: $message}) }";

struct Scene {
    world: World,
    host: Actor,
    guest: Actor,
    flat: Uuid,
    booking: Uuid,
}

impl Scene {
    async fn set() -> Self {
        let world = World::without_worker().await;
        let (host, guest) = (world.host().await, world.guest().await);
        let flat = world.lists(&host, json!({})).await;
        let booking = booked(&world, &guest, flat, 30).await;
        Self {
            world,
            host,
            guest,
            flat,
            booking,
        }
    }

    async fn ask(&self, query: &str, variables: Value, actor: &Actor) -> roost_tests::app::Reply {
        ask(&self.world, query, &variables).by(actor).send().await
    }
}

async fn booked(world: &World, guest: &Actor, flat: Uuid, from: i64) -> Uuid {
    let reply = world
        .books(guest, flat, world.day(from), world.day(from + 2), "pm_card_visa")
        .await;
    id_of(&reply.expect(201))
}

#[tokio::test]
async fn guest_and_host_write_to_each_other() {
    let scene = Scene::set().await;
    let (guest, host, id) = (&scene.guest, &scene.host, scene.booking);
    let say = async |booking, text: &str, key: &str| {
        let variables = json!({"id": booking, "text": text, "key": key});
        scene.ask(WRITE, variables, guest).await
    };
    let first = say(id, "We come by train.", "one").await;
    let again = say(id, "We come by train.", "one").await;
    assert_eq!(data(&first)["createMessage"]["own"], true);
    assert_eq!(data(&first), data(&again));
    let other = booked(&scene.world, guest, scene.flat, 40).await;
    refused(
        &say(other, "We come by train.", "one").await,
        200,
        "idempotency_key_reused",
    );
    data(&say(id, "At half past six.", "two").await);

    let page = data(&scene.ask(READ, json!({"id": id}), host).await)["messages"].clone();
    assert_eq!(page["nodes"][0]["text"], "At half past six.");
    assert_eq!(page["nodes"][0]["own"], false);
    assert_eq!(page["pageInfo"]["hasNextPage"], true);
    let after = json!({"id": id, "after": page["pageInfo"]["endCursor"]});
    let last = data(&scene.ask(READ, after, host).await)["messages"].clone();
    assert_eq!(last["nodes"][0]["text"], "We come by train.");
    assert_eq!(last["pageInfo"]["hasNextPage"], false);

    // Read up to the first: the author sees that, and that the other one waits.
    let mark = json!({"id": id, "message": last["nodes"][0]["id"]});
    assert_eq!(data(&scene.ask(MARK, mark, host).await)["markMessagesRead"], true);
    let list = "query($id: UUID!) { messages(id: $id) { nodes { readAt } } }";
    let seen = data(&scene.ask(list, json!({"id": id}), guest).await)["messages"]["nodes"].clone();
    assert!(seen[0]["readAt"].is_null() && seen[1]["readAt"].is_string(), "{seen}");
}

#[tokio::test]
async fn strangers_and_bad_input_are_refused() {
    let scene = Scene::set().await;
    let (guest, host, id) = (&scene.guest, &scene.host, scene.booking);
    let stranger = scene.world.host().await;
    let written = scene.ask(WRITE, json!({"id": id, "text": "Hello!"}), guest).await;
    let message = data(&written)["createMessage"]["id"].clone();
    for (query, variables) in [
        (READ, json!({"id": id})),
        (WRITE, json!({"id": id, "text": "Hello!"})),
        (MARK, json!({"id": id, "message": message})),
    ] {
        let body = refused(&scene.ask(query, variables.clone(), &stranger).await, 200, "not_found");
        assert!(body["data"].is_null(), "{body}");
        refused(&ask(&scene.world, query, &variables).send().await, 200, "unauthorized");
    }
    let nowhere = json!({"id": id, "message": Uuid::nil()});
    refused(&scene.ask(MARK, nowhere, host).await, 200, "not_found");
    for (text, code) in [
        (json!(""), "invalid_body"),
        (json!("x".repeat(2_001)), "invalid_body"),
        (json!(" \n "), "validation_failed"),
        (json!("bell \u{7}"), "validation_failed"),
    ] {
        let reply = scene.ask(WRITE, json!({"id": id, "text": text}), guest).await;
        refused_field(&reply, 200, code, "text");
    }
    let reply = scene.ask(READ, json!({"id": id, "after": "x"}), guest).await;
    refused_field(&reply, 200, "invalid_cursor", "after");
    let reply = scene.ask(MARK, json!({"id": id, "message": "x"}), guest).await;
    refused_field(&reply, 200, "invalid_body", "upTo");
    let addressed =
        "mutation($id: UUID!) { createMessage(id: $id, input: {text: \"Hello!\", recipientId: $id}) { id } }";
    refused_field(
        &scene.ask(addressed, json!({"id": id}), guest).await,
        400,
        "invalid_query",
        "recipientId",
    );
}
