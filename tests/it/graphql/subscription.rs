//! Following a booking over a WebSocket.

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use roost_api::server::Bounds;
use roost_tests::app::{Actor, TestApp};
use roost_tests::world::{World, id_of};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use uuid::Uuid;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);
const FOLLOW: &str = "subscription($id: UUID!) { followBooking(id: $id) { id state paymentState version } }";

struct Client(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Client {
    async fn open(app: &TestApp, protocol: &str) -> Result<Self, Error> {
        let url = app.url().replace("http://", "ws://") + "/graphql";
        let mut request = url.into_client_request()?;
        let protocol = protocol.parse().expect("a header value");
        request.headers_mut().insert("sec-websocket-protocol", protocol);
        // A browser says so; the handshake must not be compressed.
        request
            .headers_mut()
            .insert("accept-encoding", "gzip, br".parse().expect("a header value"));
        let (stream, response) = connect_async(request).await?;
        assert_eq!(
            response.headers().get("sec-websocket-protocol").unwrap(),
            "graphql-transport-ws"
        );
        Ok(Self(stream))
    }

    /// Connected as this user.
    async fn of(app: &TestApp, actor: &Actor) -> Self {
        let mut client = Self::open(app, "graphql-transport-ws").await.unwrap();
        let payload = json!({"authorization": format!("Bearer {}", actor.access_token)});
        client
            .send(&json!({"type": "connection_init", "payload": payload}))
            .await;
        assert_eq!(client.message().await["type"], "connection_ack");
        client
    }

    async fn send(&mut self, message: &Value) {
        self.0.send(Message::text(message.to_string())).await.unwrap();
    }

    async fn subscribe(&mut self, id: &str, query: &str, variables: &Value) {
        let payload = json!({"query": query, "variables": variables});
        self.send(&json!({"type": "subscribe", "id": id, "payload": payload}))
            .await;
    }

    async fn next(&mut self) -> Message {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.0.next()).await.expect("in time");
            match next.expect("a message").unwrap() {
                Message::Ping(_) | Message::Pong(_) => {}
                message => return message,
            }
        }
    }

    async fn message(&mut self) -> Value {
        serde_json::from_str(self.next().await.to_text().unwrap()).unwrap()
    }

    /// The next event of a subscription, which must be no error.
    async fn event(&mut self, id: &str) -> Value {
        let message = self.message().await;
        assert_eq!(
            (&message["type"], &message["id"]),
            (&json!("next"), &json!(id)),
            "{message}"
        );
        assert!(message["payload"]["errors"].is_null(), "{message}");
        message["payload"]["data"]["followBooking"].clone()
    }

    /// The code that the server closes with.
    async fn closed(&mut self) -> u16 {
        match self.next().await {
            Message::Close(Some(frame)) => frame.code.into(),
            other => panic!("{other:?}"),
        }
    }
}

async fn with_booking(world: &World) -> (Actor, Actor, Uuid) {
    let (host, guest) = (world.host().await, world.guest().await);
    let flat = world.lists(&host, json!({})).await;
    let reply = world
        .books(&guest, flat, world.day(30), world.day(33), "pm_card_visa")
        .await;
    (host, guest, id_of(&reply.expect(201)))
}

#[tokio::test]
async fn a_booking_is_followed_to_its_end_by_both_sides() {
    let mut world = World::without_worker().await;
    let (host, guest, booking) = with_booking(&world).await;
    let (mut by_guest, mut by_host) = (Client::of(&world, &guest).await, Client::of(&world, &host).await);
    let id = json!({"id": booking});
    for client in [&mut by_guest, &mut by_host] {
        client.subscribe("one", FOLLOW, &id).await;
        let first = client.event("one").await;
        assert_eq!(
            first,
            json!({"id": booking, "state": "HELD", "paymentState": "PENDING", "version": 1})
        );
    }
    world.start_worker();
    for client in [&mut by_guest, &mut by_host] {
        let mut last = json!(null);
        while last["paymentState"] != "CAPTURED" {
            last = client.event("one").await;
        }
        assert_eq!(last["state"], "CONFIRMED");
    }
    world
        .post(&format!("/bookings/{booking}/cancel"), json!({}))
        .by(&host)
        .send()
        .await
        .expect(200);
    for client in [&mut by_guest, &mut by_host] {
        assert_eq!(client.event("one").await["state"], "CANCELLED_BY_HOST");
        assert_eq!(client.message().await, json!({"type": "complete", "id": "one"}));
    }
    assert_eq!(world.state.announcements.waiting_for(booking), 0);
}

#[tokio::test]
async fn a_subscription_ends_with_its_session() {
    let world = World::without_worker().await;
    // Sessions are looked up in Redis, and a Redis that does not answer in half a second keeps nobody out.
    for _ in 0..5 {
        let (mut client, booking, message) = told_after_logout(&world).await;
        if message["type"] == "next" {
            continue;
        }
        assert_eq!(message, json!({"type": "complete", "id": "one"}));
        refuses_more(&mut client, booking).await;
        return;
    }
    panic!("what happens after the session is told all the same");
}

/// What somebody who follows a booking is told of what happens to it after they have signed out.
async fn told_after_logout(world: &World) -> (Client, Uuid, Value) {
    let (host, guest, booking) = with_booking(world).await;
    let mut client = Client::of(world, &guest).await;
    client.subscribe("one", FOLLOW, &json!({"id": booking})).await;
    client.event("one").await;
    world
        .post("/auth/logout", json!({}))
        .by(&guest)
        .send()
        .await
        .expect(204);
    world
        .post(&format!("/bookings/{booking}/cancel"), json!({}))
        .by(&host)
        .send()
        .await
        .expect(200);
    let message = client.message().await;
    (client, booking, message)
}

/// The connection of an ended session opens nothing new.
async fn refuses_more(client: &mut Client, booking: Uuid) {
    client.subscribe("two", FOLLOW, &json!({"id": booking})).await;
    let message = client.message().await;
    assert_eq!(
        message["payload"]["errors"][0]["extensions"]["code"], "invalid_token",
        "{message}"
    );
}

#[tokio::test]
async fn who_does_not_say_who_it_is_is_not_served() {
    let app = TestApp::start().await;
    let guest = app.guest().await;
    for payload in [
        json!(null),
        json!({}),
        json!({"authorization": "Bearer nonsense"}),
        json!({"authorization": guest.access_token}),
    ] {
        let mut client = Client::open(&app, "graphql-transport-ws").await.unwrap();
        client
            .send(&json!({"type": "connection_init", "payload": payload}))
            .await;
        assert_eq!(client.closed().await, 4403, "{payload}");
    }
    let mut client = Client::open(&app, "graphql-transport-ws").await.unwrap();
    client.subscribe("one", "{ __typename }", &json!({})).await;
    assert_eq!(client.closed().await, 4401);
    let mut client = Client::of(&app, &guest).await;
    client.0.send(Message::text("nonsense")).await.unwrap();
    assert_eq!(client.closed().await, 4400);
    let mut client = Client::of(&app, &guest).await;
    client.send(&json!({"type": "connection_init"})).await;
    assert_eq!(client.closed().await, 4429);
    // Another subprotocol, or none that is known, is refused before the connection is taken over.
    for protocol in ["graphql-ws", "chat"] {
        match Client::open(&app, protocol).await {
            Err(Error::Http(response)) => assert_eq!(response.status(), 400),
            other => panic!("{protocol}: {:?}", other.map(|_| ())),
        }
    }
    // A message larger than a request may be ends the connection.
    let mut client = Client::of(&app, &guest).await;
    client.0.send(Message::text(" ".repeat(100_000))).await.unwrap();
    let end = tokio::time::timeout(PATIENCE, client.0.next()).await.expect("in time");
    assert!(matches!(end, None | Some(Err(_) | Ok(Message::Close(_)))), "{end:?}");
}

#[tokio::test]
async fn a_booking_of_others_is_not_followed() {
    let world = World::without_worker().await;
    let (_, _, booking) = with_booking(&world).await;
    let stranger = world.guest().await;
    let mut client = Client::of(&world, &stranger).await;
    client.subscribe("one", FOLLOW, &json!({"id": booking})).await;
    let message = client.message().await;
    assert_eq!(
        message["payload"]["errors"][0]["extensions"]["code"], "not_found",
        "{message}"
    );
    assert_eq!(client.message().await["type"], "complete");
    // Queries and the limits are the same as over HTTP.
    client.subscribe("two", "{ me { id } }", &json!({})).await;
    assert_eq!(
        client.message().await["payload"]["data"]["me"]["id"],
        json!(stranger.id)
    );
    assert_eq!(client.message().await["type"], "complete");
    let search = "query($city: String) { properties(city: $city) { nodes { id } } }";
    client.subscribe("nul", search, &json!({"city": "a\0b"})).await;
    let message = client.message().await;
    let refusal = &message["payload"]["errors"][0]["extensions"];
    assert_eq!(
        (&refusal["code"], &refusal["errors"][0]["field"]),
        (&json!("invalid_query"), &json!("city"))
    );
    assert_eq!(client.message().await["type"], "complete");
    let aliases: String = (0..16).map(|number| format!("a{number}: __typename ")).collect();
    client.subscribe("three", &format!("{{ {aliases} }}"), &json!({})).await;
    let message = client.message().await;
    assert_eq!(
        message["payload"]["errors"][0]["extensions"]["code"], "too_many_aliases",
        "{message}"
    );
}

#[tokio::test]
async fn a_connection_has_its_own_bounds() {
    let world = World::without_worker().await;
    let (_, guest, booking) = with_booking(&world).await;
    let mut client = Client::of(&world, &guest).await;
    for number in 0..20 {
        client
            .subscribe(&number.to_string(), FOLLOW, &json!({"id": booking}))
            .await;
        client.event(&number.to_string()).await;
    }
    client.subscribe("one more", FOLLOW, &json!({"id": booking})).await;
    let message = client.message().await;
    assert_eq!(
        message["payload"]["errors"][0]["extensions"]["code"], "rate_limited",
        "{message}"
    );
    assert_eq!(client.message().await["type"], "complete");
    // One that is given up makes room.
    client.send(&json!({"type": "complete", "id": "0"})).await;
    client.message().await;
    client.subscribe("another", FOLLOW, &json!({"id": booking})).await;
    client.event("another").await;
    // The server says good-bye when it stops.
    world.state.stopping.cancel();
    loop {
        match client.next().await {
            Message::Close(frame) => {
                assert_eq!(u16::from(frame.unwrap().code), 1001);
                break;
            }
            Message::Text(text) => assert!(text.contains("complete"), "{text}"),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn idle_sockets_of_one_account_keep_nobody_out() {
    let app = TestApp::start_with(|settings| settings.connections.open = 8).await;
    let guest = app.guest().await;
    let mut open = Vec::new();
    let mut refused = 0;
    for _ in 0..8 {
        match Client::open(&app, "graphql-transport-ws").await {
            Ok(mut client) => {
                let payload = json!({"authorization": format!("Bearer {}", guest.access_token)});
                client
                    .send(&json!({"type": "connection_init", "payload": payload}))
                    .await;
                assert_eq!(client.message().await["type"], "connection_ack");
                open.push(client);
            }
            Err(Error::Http(response)) => {
                assert_eq!(response.status(), 503);
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!((open.len(), refused), (4, 4));
    tokio::time::timeout(PATIENCE, app.get("/healthz").send())
        .await
        .expect("an answer in time")
        .expect(200);
    // One that goes makes room for another.
    drop(open.pop());
    let mut tries = 0;
    while Client::open(&app, "graphql-transport-ws").await.is_err() {
        tries += 1;
        assert!(tries < 1_000, "the place does not come back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_user_has_so_many_sockets_and_no_more() {
    let app = TestApp::start().await;
    let (guest, other) = (app.guest().await, app.guest().await);
    let mut open = Vec::new();
    for _ in 0..20 {
        open.push(Client::of(&app, &guest).await);
    }
    let payload = json!({"authorization": format!("Bearer {}", guest.access_token)});
    let init = json!({"type": "connection_init", "payload": payload});
    let mut one_more = Client::open(&app, "graphql-transport-ws").await.unwrap();
    one_more.send(&init).await;
    assert_eq!(one_more.closed().await, 4429);
    Client::of(&app, &other).await;
}

#[tokio::test]
async fn a_socket_without_an_operation_ends_and_one_with_an_operation_stays() {
    let idle = Duration::from_secs(6);
    let mut world = World::without_worker_with(|settings| {
        settings.connections = Bounds {
            idle,
            ..Bounds::default()
        }
    })
    .await;
    let (host, guest, booking) = with_booking(&world).await;
    let mut follower = Client::of(&world, &guest).await;
    follower.subscribe("one", FOLLOW, &json!({"id": booking})).await;
    follower.event("one").await;
    let mut silent = Client::of(&world, &guest).await;
    assert_eq!(silent.closed().await, 1000);
    // It has been open for longer than the silent one was, and is told of what happens still.
    world.start_worker();
    while follower.event("one").await["paymentState"] != "CAPTURED" {}
    world
        .post(&format!("/bookings/{booking}/cancel"), json!({}))
        .by(&host)
        .send()
        .await
        .expect(200);
    assert_eq!(follower.event("one").await["state"], "CANCELLED_BY_HOST");
    assert_eq!(follower.message().await["type"], "complete");
    assert_eq!(follower.closed().await, 1000);
}

#[tokio::test]
async fn a_socket_ends_with_its_session() {
    // It is looked at five times in this.
    let idle = Duration::from_secs(25);
    let app = TestApp::start_with(|settings| {
        settings.connections = Bounds {
            idle,
            ..Bounds::default()
        }
    })
    .await;
    let guest = app.guest().await;
    let mut client = Client::of(&app, &guest).await;
    app.post("/auth/logout", json!({})).by(&guest).send().await.expect(204);
    assert_eq!(client.closed().await, 4403);
}
