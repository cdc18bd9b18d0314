//! What somebody was told, and how they want to be told.

use roost_tests::app::{Actor, Reply};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{ask, data, refused, refused_field};
use crate::notifications::Scene;

const LIST: &str = "query($unread: Boolean!, $kind: NotificationKind, $first: Int! = 20, $after: String) {
    notifications(unread: $unread, kind: $kind, first: $first, after: $after) {
        nodes { id kind event bookingId count readAt booking { id state } }
        unreadCount
        pageInfo { hasNextPage endCursor }
    }
}";
const MARK: &str = "mutation($id: UUID!) { markNotificationsRead(input: {upTo: $id}) }";
const CHOICE: &str = "{ notificationPreferences { ...Choice } } ";
const CHOOSE: &str =
    "mutation($input: PreferencesPatch!) { updateNotificationPreferences(input: $input) { ...Choice } } ";
const FIELDS: &str = "fragment Choice on Preferences {
    booking { email inApp } message { email inApp } review { email inApp }
}";

/// The scene, after a message of the guest.
async fn scene() -> Scene {
    let scene = Scene::set().await;
    scene.writes(&scene.guest, "Hello!").await;
    scene
}

async fn asks(scene: &Scene, query: &str, variables: Value, actor: &Actor) -> Reply {
    ask(&scene.world, query, &variables).by(actor).send().await
}

async fn list_of(scene: &Scene, variables: Value, actor: &Actor) -> Value {
    data(&asks(scene, LIST, variables, actor).await)["notifications"].clone()
}

async fn chooses(scene: &Scene, input: Value, actor: &Actor) -> Reply {
    let query = format!("{CHOOSE}{FIELDS}");
    asks(scene, &query, json!({"input": input}), actor).await
}

fn events(page: &Value) -> Vec<&str> {
    let nodes = page["nodes"].as_array().unwrap().iter();
    nodes.map(|node| node["event"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn what_concerns_somebody_is_listed_until_it_is_read() {
    let scene = scene().await;
    let (guest, host) = (&scene.guest, &scene.host);
    let told = list_of(&scene, json!({"unread": false}), host).await;
    assert_eq!(events(&told), ["MESSAGE_RECEIVED", "BOOKING_CONFIRMED"]);
    assert_eq!(told["nodes"][0]["kind"], "MESSAGE");
    assert_eq!(told["nodes"][0]["readAt"], Value::Null);
    for node in told["nodes"].as_array().unwrap() {
        assert_eq!(node["booking"], json!({"id": scene.booking, "state": "CONFIRMED"}));
        assert_eq!(node["bookingId"], node["booking"]["id"]);
    }
    assert_eq!(
        events(&list_of(&scene, json!({"unread": true}), guest).await),
        ["BOOKING_CONFIRMED"]
    );

    scene.writes(guest, "Are you there?").await;
    let messages = list_of(&scene, json!({"unread": true, "kind": "MESSAGE"}), host).await;
    assert_eq!(
        (&messages["unreadCount"], &messages["nodes"][0]["count"]),
        (&json!(2), &json!(2))
    );
    assert_eq!(events(&messages), ["MESSAGE_RECEIVED"]);

    let first = list_of(&scene, json!({"unread": false, "first": 1}), host).await;
    assert_eq!(first["pageInfo"]["hasNextPage"], true);
    let after = json!({"unread": false, "first": 1, "after": first["pageInfo"]["endCursor"]});
    let last = list_of(&scene, after, host).await;
    assert_eq!(
        (events(&last), &last["pageInfo"]["hasNextPage"]),
        (vec!["BOOKING_CONFIRMED"], &json!(false))
    );

    let oldest = json!({"id": last["nodes"][0]["id"]});
    assert_eq!(
        data(&asks(&scene, MARK, oldest, host).await)["markNotificationsRead"],
        true
    );
    assert_eq!(
        events(&list_of(&scene, json!({"unread": true}), host).await),
        ["MESSAGE_RECEIVED"]
    );
    let told = list_of(&scene, json!({"unread": false}), host).await;
    assert!(told["nodes"][1]["readAt"].is_string(), "{told}");
    // Who looks at the conversation knows of it.
    let look = "query($id: UUID!) { messages(id: $id) { nodes { readAt } } }";
    let seen = data(&asks(&scene, look, json!({"id": scene.booking}), host).await);
    assert_eq!(seen["messages"]["nodes"][0]["readAt"], Value::Null);
    assert_eq!(list_of(&scene, json!({"unread": true}), host).await["unreadCount"], 0);
}

#[tokio::test]
async fn a_choice_is_that_of_rest() {
    let scene = scene().await;
    let (world, host) = (&scene.world, &scene.host);
    let all = json!({"email": true, "inApp": true});
    let query = format!("{CHOICE}{FIELDS}");
    let before = data(&asks(&scene, &query, json!({}), host).await);
    assert_eq!(
        before["notificationPreferences"],
        json!({"booking": all, "message": all, "review": all})
    );
    let input = json!({"message": {"inApp": false}, "review": {"email": false, "inApp": null}});
    let after = data(&chooses(&scene, input, host).await);
    assert_eq!(
        after["updateNotificationPreferences"],
        json!({"booking": all, "message": {"email": true, "inApp": false}, "review": {"email": false, "inApp": true}})
    );
    let rest = world
        .get("/notifications/preferences")
        .by(host)
        .send()
        .await
        .expect(200);
    assert_eq!(rest["message"], json!({"email": true, "in_app": false}));
    // Somebody else has chosen nothing.
    let others = data(&asks(&scene, &query, json!({}), &scene.guest).await);
    assert_eq!(others["notificationPreferences"]["message"], all);

    // Mail about money and nights is not a matter of taste, and a change is done whole or not at all.
    let input = json!({"review": {"email": true}, "booking": {"email": false}});
    refused_field(
        &chooses(&scene, input, host).await,
        200,
        "validation_failed",
        "booking.email",
    );
    let kept = data(&asks(&scene, &query, json!({}), host).await);
    assert_eq!(kept["notificationPreferences"]["review"]["email"], false);
}

#[tokio::test]
async fn strangers_and_bad_input_are_refused() {
    let scene = scene().await;
    let (guest, host) = (&scene.guest, &scene.host);
    let stranger = scene.world.guest().await;
    let told = list_of(&scene, json!({"unread": false}), host).await;
    let id = json!({"id": told["nodes"][0]["id"]});
    for somebody in [guest, &stranger] {
        let body = refused(&asks(&scene, MARK, id.clone(), somebody).await, 200, "not_found");
        assert!(body["data"].is_null(), "{body}");
    }
    refused(
        &asks(&scene, MARK, json!({"id": Uuid::nil()}), host).await,
        200,
        "not_found",
    );
    assert_eq!(
        events(&list_of(&scene, json!({"unread": false}), &stranger).await),
        [""; 0]
    );
    let choice = format!("{CHOICE}{FIELDS}");
    let choose = format!("{CHOOSE}{FIELDS}");
    for (query, variables) in [
        (LIST, json!({"unread": true})),
        (MARK, id),
        (choice.as_str(), json!({})),
        (choose.as_str(), json!({"input": {}})),
    ] {
        refused(&ask(&scene.world, query, &variables).send().await, 200, "unauthorized");
    }
    for (field, code, variables) in [
        ("first", "invalid_parameter", json!({"unread": true, "first": 0})),
        ("first", "invalid_parameter", json!({"unread": true, "first": 101})),
        ("after", "invalid_cursor", json!({"unread": true, "after": "x"})),
    ] {
        refused_field(&asks(&scene, LIST, variables, host).await, 200, code, field);
    }
    refused_field(
        &asks(&scene, MARK, json!({"id": "x"}), host).await,
        200,
        "invalid_body",
        "upTo",
    );
    let reply = chooses(&scene, json!({"booking": true}), host).await;
    refused_field(&reply, 200, "invalid_body", "booking");
    for (field, input) in [
        ("message.email", json!({"message": {"email": "no"}})),
        ("message.sms", json!({"message": {"sms": true}})),
        ("weather", json!({"weather": {"email": true}})),
    ] {
        refused_field(&chooses(&scene, input, host).await, 400, "invalid_query", field);
    }
}
