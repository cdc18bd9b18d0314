//! What people do, from registering to cancelling, and what they may not see of each other.

use roost_tests::app::{PASSWORD, TestApp};
use roost_tests::world::{World, id_of};
use serde_json::{Value, json};

use super::{a_flat, ask, data, refused};

const REGISTER: &str = "mutation($input: Registration!) { registerUser(input: $input) { id email role } }";
const LOGIN: &str = "mutation($input: Credentials!) { login(input: $input) { accessToken tokenType expiresIn } }";
const LIST: &str =
    "mutation($input: NewProperty!) { createProperty(input: $input) { id status version host { firstName } } }";
const QUOTE: &str = "mutation($input: QuoteRequest!) { createQuote(input: $input) { token totalMinor cancellationPolicy lines { kind amountMinor } } }";
const BOOK: &str = "mutation($input: NewBooking!, $key: String, $wait: Int) {
    createBooking(input: $input, idempotencyKey: $key, wait: $wait) {
        id state totalMinor cancellationPolicy paymentState propertyTitle property { title } guest { firstName } payment { id state authorizedMinor }
        timeline { event actor accepted } cancellationQuote { refundMinor rule }
    }
}";

async fn signs_up(app: &TestApp, role: &str) -> (Value, String) {
    let email = format!("{}@example.com", role.to_lowercase());
    let registration = json!({"email": email, "password": PASSWORD, "fullName": "Ada Lovelace", "role": role});
    let user = ask(app, REGISTER, &json!({"input": registration})).send().await;
    let user = data(&user)["registerUser"].clone();
    let login = json!({"input": {"email": email, "password": PASSWORD}});
    let tokens = data(&ask(app, LOGIN, &login).send().await)["login"].clone();
    assert_eq!(tokens["tokenType"], "Bearer");
    let token = format!("Bearer {}", tokens["accessToken"].as_str().unwrap());
    (user, token)
}

#[tokio::test]
async fn a_stay_from_registering_to_cancelling() {
    let world = World::start().await;
    let (host, host_token) = signs_up(&world, "HOST").await;
    let (guest, guest_token) = signs_up(&world, "GUEST").await;
    assert_eq!((&host["role"], &guest["role"]), (&json!("HOST"), &json!("GUEST")));

    let call = ask(&world, LIST, &json!({"input": a_flat()})).header("authorization", &host_token);
    let flat = data(&call.send().await)["createProperty"].clone();
    assert_eq!(
        (&flat["status"], &flat["host"]["firstName"]),
        (&json!("LISTED"), &json!("Ada"))
    );

    let stay = json!({"propertyId": flat["id"], "checkIn": world.day(30), "checkOut": world.day(33), "guests": 2});
    let quote = data(&ask(&world, QUOTE, &json!({"input": stay})).send().await)["createQuote"].clone();
    assert_eq!(quote["lines"][0], json!({"kind": "NIGHTS", "amountMinor": 30_000}));

    // What the host changes now is not for those who were quoted.
    let change =
        "mutation($id: UUID!) { updateProperty(id: $id, input: {cancellationPolicy: FIRM}) { cancellationPolicy } }";
    let call = ask(&world, change, &json!({"id": flat["id"]})).header("authorization", &host_token);
    assert_eq!(data(&call.send().await)["updateProperty"]["cancellationPolicy"], "FIRM");

    let mut request = stay.clone();
    request["paymentMethod"] = json!("pm_card_visa");
    request["quoteToken"] = quote["token"].clone();
    let book = |wait: Value| {
        let variables = json!({"input": request, "key": "one", "wait": wait});
        ask(&world, BOOK, &variables)
            .header("authorization", &guest_token)
            .send()
    };
    let first = book(json!(20)).await;
    let booking = data(&first)["createBooking"].clone();
    assert_eq!(
        (&booking["state"], &booking["totalMinor"], &booking["propertyTitle"]),
        (
            &json!("CONFIRMED"),
            &quote["totalMinor"],
            &json!("Bright flat by the canal")
        )
    );
    assert_eq!(
        (&quote["cancellationPolicy"], &booking["cancellationPolicy"]),
        (&json!("FLEXIBLE"), &json!("FLEXIBLE"))
    );
    assert_eq!(booking["property"]["title"], booking["propertyTitle"]);
    assert_eq!(booking["payment"]["authorizedMinor"], quote["totalMinor"]);
    assert_eq!(booking["timeline"][0]["event"], "requested");
    assert_eq!(booking["cancellationQuote"]["refundMinor"], quote["totalMinor"]);

    // Sent again it is answered, and nothing is booked twice.
    let again = book(Value::Null).await;
    assert_eq!(data(&again)["createBooking"]["id"], booking["id"]);
    assert_eq!(
        (first.header("idempotent-replayed"), again.header("idempotent-replayed")),
        ("", "true")
    );
    let booked: i64 = sqlx::query_scalar("SELECT count(*) FROM bookings")
        .fetch_one(world.pool())
        .await
        .unwrap();
    assert_eq!(booked, 1);

    world.run_jobs().await;
    let cancel = "mutation($id: UUID!) { cancelBooking(id: $id, reason: \"The train was cancelled.\") {
        state payment { state capturedMinor refunds { amountMinor reason } booking { state } }
        timeline { event actor accepted reason }
    } }";
    let call = ask(&world, cancel, &json!({"id": booking["id"]})).header("authorization", &guest_token);
    let cancelled = data(&call.send().await)["cancelBooking"].clone();
    assert_eq!(cancelled["state"], "CANCELLED_BY_GUEST");
    assert_eq!(cancelled["payment"]["capturedMinor"], quote["totalMinor"]);
    assert_eq!(cancelled["payment"]["refunds"][0]["amountMinor"], quote["totalMinor"]);
    assert_eq!(cancelled["payment"]["booking"]["state"], "CANCELLED_BY_GUEST");
    let told = cancelled["timeline"].as_array().unwrap();
    assert!(
        told.iter()
            .any(|entry| entry["event"] == "cancelled" && entry["actor"] == "GUEST"),
        "{told:?}"
    );

    // What cannot be done twice is refused with REST's code, and what of a booking cannot be said is null.
    let call = ask(&world, cancel, &json!({"id": booking["id"]})).header("authorization", &guest_token);
    let body = refused(&call.send().await, 200, "wrong_state");
    assert_eq!(body["errors"][0]["extensions"]["state"], "cancelled_by_guest");
    let quote = "query($id: UUID!) { booking(id: $id) { state cancellationQuote { rule } } }";
    let call = ask(&world, quote, &json!({"id": booking["id"]})).header("authorization", &guest_token);
    let body = refused(&call.send().await, 200, "wrong_state");
    assert_eq!(
        body["data"]["booking"],
        json!({"state": "CANCELLED_BY_GUEST", "cancellationQuote": null})
    );
}

#[tokio::test]
async fn a_host_decides_and_the_guest_tries_another_card() {
    let world = World::start().await;
    let (host, guest) = (world.host().await, world.guest().await);
    let flat = world.lists(&host, json!({"instant_book": false})).await;
    let reply = world
        .books(&guest, flat, world.day(30), world.day(32), "pm_card_chargeDeclined")
        .await;
    let booking = id_of(&reply.expect(201));
    world.run_jobs().await;
    let pay = "mutation($input: NewPayment!) { createPayment(input: $input) { number state booking { state payment { number } } } }";
    let input = json!({"input": {"bookingId": booking, "paymentMethod": "pm_card_visa"}});
    let payment = data(&ask(&world, pay, &input).by(&guest).send().await)["createPayment"].clone();
    assert_eq!(
        (&payment["number"], &payment["booking"]["payment"]["number"]),
        (&json!(2), &json!(2))
    );
    refused(&ask(&world, pay, &input).by(&guest).send().await, 200, "already_paying");
    world.run_jobs().await;

    let approve = "mutation($id: UUID!) { approveBooking(id: $id) { state } }";
    let id = json!({"id": booking});
    refused(&ask(&world, approve, &id).by(&guest).send().await, 200, "forbidden");
    let approved = data(&ask(&world, approve, &id).by(&host).send().await);
    assert_eq!(approved["approveBooking"]["state"], "CONFIRMED");
    let check_in = "mutation($id: UUID!) { checkInBooking(id: $id) { state } }";
    refused(&ask(&world, check_in, &id).by(&guest).send().await, 200, "too_early");

    // The host sees amounts and nothing of the card, the guest all of it; what a change left behind is not shown.
    let change = "mutation($id: UUID!) {
        one: updateBooking(id: $id, input: {guests: 1, arrivalTime: \"18:30\"}) { guests arrivalTime version }
        other: updateBooking(id: $id, input: {message: \"We come by train.\"}) { guests message version }
    }";
    let changed = data(&ask(&world, change, &id).by(&guest).send().await);
    assert_eq!(
        (&changed["one"]["guests"], &changed["other"]["guests"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(
        changed["other"]["version"].as_i64().unwrap(),
        changed["one"]["version"].as_i64().unwrap() + 1
    );
    let list = "query($role: Side!) { payments(role: $role, first: 1) {
        nodes { number paymentMethod failureCode attempts { operation state } }
        pageInfo { hasNextPage endCursor }
    } }";
    let seen = async |actor, role: &str| {
        data(&ask(&world, list, &json!({"role": role})).by(actor).send().await)["payments"].clone()
    };
    let (by_guest, by_host) = (seen(&guest, "GUEST").await, seen(&host, "HOST").await);
    assert_eq!(by_guest["nodes"][0]["paymentMethod"], "pm_card_visa");
    assert_eq!(by_host["nodes"][0]["paymentMethod"], Value::Null);
    assert_eq!(by_host["nodes"][0]["number"], 2);
    assert_eq!(by_guest["nodes"][0]["attempts"][0]["operation"], "AUTHORIZE");
    assert_eq!(by_guest["pageInfo"]["hasNextPage"], true);
}

#[tokio::test]
async fn lists_go_on_where_rest_would() {
    let app = TestApp::start().await;
    let host = app.host().await;
    for number in 0..5 {
        app.lists(&host, json!({"title": format!("Flat number {number}")}))
            .await;
    }
    let find = "query($first: Int!, $after: String) { properties(city: \"berlin\", first: $first, after: $after) {
        edges { cursor node { id } } pageInfo { hasNextPage hasPreviousPage endCursor }
    } }";
    let page = async |first: i64, after: &Value| {
        let reply = ask(&app, find, &json!({"first": first, "after": after})).send().await;
        data(&reply)["properties"].clone()
    };
    let all = page(100, &Value::Null).await;
    let first = page(2, &Value::Null).await;
    let second = page(2, &first["pageInfo"]["endCursor"]).await;
    let third = page(2, &second["pageInfo"]["endCursor"]).await;
    let mut joined = Vec::new();
    for page in [&first, &second, &third] {
        joined.extend(page["edges"].as_array().unwrap().clone());
    }
    assert_eq!(json!(joined), all["edges"]);
    assert_eq!(
        (
            &second["pageInfo"]["hasPreviousPage"],
            &second["pageInfo"]["hasNextPage"]
        ),
        (&json!(true), &json!(true))
    );
    assert_eq!(third["pageInfo"]["hasNextPage"], false);
    let rest = app.get("/properties?city=berlin&limit=2").send().await.expect(200);
    assert_eq!(rest["next_cursor"], first["pageInfo"]["endCursor"]);
}

#[tokio::test]
async fn a_property_is_changed_at_the_version_that_was_read() {
    let app = TestApp::start().await;
    let (host, other) = (app.host().await, app.host().await);
    let flat = app.lists(&host, json!({"house_rules": "No parties."})).await;
    let change = "mutation($id: UUID!, $version: Int, $input: PropertyPatch!) {
        updateProperty(id: $id, ifVersion: $version, input: $input) { title houseRules version cancellationPolicy }
    }";
    let ask = |actor, version: i64, input: Value| {
        let variables = json!({"id": flat, "version": version, "input": input});
        ask(&app, change, &variables).by(actor).send()
    };
    let input = json!({"title": "Another name", "houseRules": null, "cancellationPolicy": "FIRM"});
    let changed = data(&ask(&host, 1, input.clone()).await)["updateProperty"].clone();
    assert_eq!(
        changed,
        json!({"title": "Another name", "houseRules": "", "version": 2, "cancellationPolicy": "FIRM"})
    );
    refused(&ask(&host, 1, input.clone()).await, 200, "version_mismatch");
    refused(&ask(&other, 2, input).await, 200, "forbidden");
    let archive = "mutation($id: UUID!) { archiveProperty(id: $id) }";
    let reply = super::ask(&app, archive, &json!({"id": flat})).by(&host).send().await;
    assert_eq!(data(&reply)["archiveProperty"], true);
}

#[tokio::test]
async fn what_is_somebody_elses_is_not_there() {
    let world = World::without_worker().await;
    let (host, guest, stranger) = (world.host().await, world.guest().await, world.guest().await);
    let flat = world.lists(&host, json!({})).await;
    let draft = world.lists(&host, json!({"status": "draft"})).await;
    let reply = world
        .books(&guest, flat, world.day(30), world.day(32), "pm_card_visa")
        .await;
    let booking = id_of(&reply.expect(201));
    let payment: uuid::Uuid = sqlx::query_scalar("SELECT id FROM payments")
        .fetch_one(world.pool())
        .await
        .unwrap();
    for (field, id) in [("booking", booking), ("payment", payment), ("property", draft)] {
        let query = format!("query($id: UUID!) {{ {field}(id: $id) {{ id }} }}");
        let body = refused(
            &ask(&world, &query, &json!({"id": id})).by(&stranger).send().await,
            200,
            "not_found",
        );
        assert_eq!(body["data"], json!({field: null}));
        let owner = if field == "property" { &host } else { &guest };
        let seen = data(&ask(&world, &query, &json!({"id": id})).by(owner).send().await);
        assert_eq!(seen[field]["id"], json!(id));
    }
    for field in [
        "cancelBooking",
        "checkInBooking",
        "approveBooking",
        "declineBooking",
        "reportNoShow",
    ] {
        let change = format!("mutation($id: UUID!) {{ {field}(id: $id) {{ id }} }}");
        let reply = ask(&world, &change, &json!({"id": booking})).by(&stranger).send().await;
        refused(&reply, 200, "not_found");
    }
    let lists = "{ bookings { nodes { id } } payments { nodes { id } } }";
    let seen = data(&ask(&world, lists, &json!({})).by(&stranger).send().await);
    assert_eq!(seen, json!({"bookings": {"nodes": []}, "payments": {"nodes": []}}));

    // Of other people only what is public is shown.
    let user = "query($id: UUID!) { user(id: $id) { __typename ... on Profile { email } ... on PublicProfile { firstName joined } } }";
    let seen = data(&ask(&world, user, &json!({"id": host.id})).by(&guest).send().await);
    assert_eq!(
        (&seen["user"]["__typename"], &seen["user"]["firstName"]),
        (&json!("PublicProfile"), &json!("Heinz"))
    );
    assert!(seen["user"]["email"].is_null(), "{seen}");
    let own = data(&ask(&world, user, &json!({"id": guest.id})).by(&guest).send().await);
    assert_eq!(own["user"]["email"], json!(guest.email));
}

#[tokio::test]
async fn a_long_timeline_is_as_long_as_in_rest() {
    let world = World::without_worker().await;
    let (host, guest) = (world.host().await, world.guest().await);
    let flat = world.lists(&host, json!({})).await;
    let book = async |from| {
        let reply = world
            .books(&guest, flat, world.day(from), world.day(from + 2), "pm_card_visa")
            .await;
        id_of(&reply.expect(201))
    };
    let bookings = [book(30).await, book(40).await];
    sqlx::query(
        "INSERT INTO booking_events (booking_id, at, event, actor, actor_id, from_state, to_state, accepted, reason)
         SELECT booking_id, at + make_interval(secs => n), event, actor, actor_id, from_state, to_state, false, n::text
         FROM booking_events, generate_series(1, 250) AS n WHERE booking_id = $1",
    )
    .bind(bookings[0])
    .execute(world.pool())
    .await
    .unwrap();
    let query = "{ bookings { nodes { id timeline { reason } } } }";
    let seen = data(&ask(&world, query, &json!({})).by(&guest).send().await);
    for node in seen["bookings"]["nodes"].as_array().unwrap() {
        let path = format!("/bookings/{}/", node["id"].as_str().unwrap());
        let rest = world.get(&path).by(&guest).send().await.expect(200);
        let reasons = |timeline: &Value| -> Vec<Value> {
            let entries = timeline.as_array().unwrap().iter();
            entries.map(|entry| entry["reason"].clone()).collect()
        };
        assert_eq!(reasons(&node["timeline"]), reasons(&rest["timeline"]));
        let length = if node["id"] == json!(bookings[0]) { 200 } else { 1 };
        assert_eq!(reasons(&node["timeline"]).len(), length);
    }
}

#[tokio::test]
async fn who_asks_is_checked_as_for_rest() {
    let app = TestApp::start().await;
    let guest = app.guest().await;
    let me = "{ me { id email } }";
    let body = refused(&ask(&app, me, &json!({})).send().await, 200, "unauthorized");
    assert_eq!(body["data"], Value::Null);
    // A token that is not valid is refused where none is needed, too.
    for token in ["Bearer nonsense", "Basic YTpi", "Bearer"] {
        let reply = ask(&app, "{ __typename }", &json!({}))
            .header("authorization", token)
            .send()
            .await;
        let body = reply.expect(401);
        assert!(body["errors"][0]["extensions"]["code"].is_string(), "{body}");
        assert!(reply.header("www-authenticate").starts_with("Bearer"), "{token}");
    }
    assert_eq!(
        data(&ask(&app, me, &json!({})).by(&guest).send().await)["me"]["id"],
        json!(guest.id)
    );
    let logout = ask(&app, "mutation { logout }", &json!({})).by(&guest).send().await;
    assert_eq!(data(&logout)["logout"], true);
    refused(&ask(&app, me, &json!({})).by(&guest).send().await, 401, "invalid_token");
}

#[tokio::test]
async fn a_key_belongs_to_one_operation_and_one_input() {
    let app = TestApp::start().await;
    let host = app.host().await;
    let create = "mutation($input: NewProperty!, $key: String) { createProperty(input: $input, idempotencyKey: $key) { id title } }";
    let ask = |title: &str, key: &str| {
        let mut flat = a_flat();
        flat["title"] = json!(title);
        ask(&app, create, &json!({"input": flat, "key": key})).by(&host).send()
    };
    let (first, second) = (ask("A first flat", "one").await, ask("A first flat", "one").await);
    assert_eq!(data(&first), data(&second));
    refused(&ask("A second flat", "one").await, 200, "idempotency_key_reused");
    let other = data(&ask("A second flat", "two").await);
    assert_ne!(other["createProperty"]["id"], data(&first)["createProperty"]["id"]);
    super::refused_field(
        &ask("A third flat", "").await,
        200,
        "invalid_parameter",
        "idempotencyKey",
    );
}
