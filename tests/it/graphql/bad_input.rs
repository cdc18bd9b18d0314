//! Requests that are wrong in themselves: each is refused with a code, and the field if it is one.

use roost_tests::app::TestApp;
use serde_json::{Value, json};

use super::{a_flat, ask, data, refused, refused_field};

#[tokio::test]
async fn bodies_that_are_no_request() {
    let app = TestApp::start().await;
    for (body, status, code) in [
        ("", 400, "invalid_json"),
        ("{", 400, "invalid_json"),
        ("{\"query\": \"{ me { id } }\", \"query\": \"\"}", 400, "invalid_json"),
        ("{\"query\": \"a\\u0000b\"}", 400, "invalid_json"),
        ("7", 400, "invalid_body"),
        ("{}", 400, "invalid_body"),
        ("{\"query\": 7}", 400, "invalid_body"),
        (
            "{\"query\": \"{ __typename }\", \"variables\": []}",
            400,
            "invalid_body",
        ),
        (
            "{\"query\": \"{ __typename }\", \"operationName\": {}}",
            400,
            "invalid_body",
        ),
        ("{\"query\": \"\"}", 400, "invalid_query"),
        ("{\"query\": \"{ me { id\"}", 400, "invalid_query"),
        ("{\"query\": \"{ nothing }\"}", 400, "invalid_query"),
        ("{\"query\": \"{ me }\"}", 400, "invalid_query"),
        (
            "{\"query\": \"{ __typename }\", \"operationName\": \"Other\"}",
            400,
            "invalid_query",
        ),
        (
            "{\"query\": \"subscription { followBooking(id: \\\"x\\\") { id } }\"}",
            400,
            "invalid_query",
        ),
        (
            "[{\"query\": \"{ __typename }\"}, {\"query\": \"{ __typename }\"}]",
            400,
            "batching_refused",
        ),
        ("[]", 400, "batching_refused"),
    ] {
        let reply = app.post("/graphql", Value::Null).bytes(body).send().await;
        let body = refused(&reply, status, code);
        assert!(body["data"].is_null(), "{body}");
    }
    let form = app.request(reqwest::Method::POST, "/graphql").body("text/plain", "{}");
    refused(&form.send().await, 415, "unsupported_media_type");
    let huge = format!("{{\"query\": \"{}\"}}", " ".repeat(70_000));
    app.post("/graphql", Value::Null)
        .bytes(huge)
        .send()
        .await
        .refused(413, "body_too_large");
    app.delete("/graphql").send().await.refused(405, "method_not_allowed");
    assert_eq!(app.delete("/graphql").send().await.header("allow"), "GET, HEAD, POST");
    app.get("/graphql").send().await.refused(400, "bad_request");
}

#[tokio::test]
async fn deep_nesting_is_refused_and_not_followed() {
    let app = TestApp::start().await;
    for query in [
        "{ a ".repeat(5_000),
        format!("{}{}", "{ a ".repeat(5_000), "}".repeat(5_000)),
        format!("{{ a(b: {}{}) }}", "[".repeat(10_000), "]".repeat(10_000)),
        format!("{{ a(b: {}{}) }}", "{c: ".repeat(8_000), "}".repeat(8_000)),
        format!("query($a: {}Int{}) {{ a }}", "[".repeat(10_000), "]".repeat(10_000)),
    ] {
        let reply = ask(&app, &query, &json!({})).send().await;
        let body = reply.expect(400);
        let code = body["errors"][0]["extensions"]["code"].as_str().unwrap().to_owned();
        assert!(["invalid_query", "query_too_deep"].contains(&code.as_str()), "{code}");
    }
    let chain: String = (0..1_200)
        .map(|number| format!("fragment F{number} on Query {{ ...F{} }} ", number + 1))
        .collect();
    let query = format!("{{ ...F0 }} {chain} fragment F1200 on Query {{ __typename }}");
    refused(&ask(&app, &query[..], &json!({})).send().await, 400, "query_too_deep");
}

#[tokio::test]
async fn every_field_of_an_input_is_looked_at() {
    let app = TestApp::start().await;
    let (host, guest) = (app.host().await, app.guest().await);
    let flat = app.lists(&host, json!({})).await;
    let book = "mutation($input: NewBooking!) { createBooking(input: $input) { id } }";
    let good = json!({
        "propertyId": flat, "checkIn": app.day(10), "checkOut": app.day(12), "guests": 2, "paymentMethod": "pm_card_visa",
    });
    // What the schema refuses by itself is refused before anything runs, the rest by the rules of the REST body.
    for (field, wrong, status, code) in [
        ("propertyId", json!("flat"), 200, "invalid_body"),
        ("propertyId", json!(7), 200, "invalid_body"),
        ("checkIn", json!("tomorrow"), 200, "invalid_body"),
        ("checkIn", json!("2027-02-29"), 200, "invalid_body"),
        ("checkOut", json!(null), 400, "invalid_query"),
        ("guests", json!("two"), 400, "invalid_query"),
        ("guests", json!(1.5), 400, "invalid_query"),
        ("guests", json!(0), 200, "invalid_body"),
        ("guests", json!(-1), 200, "invalid_body"),
        ("guests", json!(5), 200, "validation_failed"),
        ("checkOut", json!(app.day(10)), 200, "validation_failed"),
        ("checkIn", json!(app.day(-3)), 200, "validation_failed"),
        ("paymentMethod", json!("card"), 200, "invalid_body"),
        (
            "paymentMethod",
            json!(format!("pm_{}", "x".repeat(300))),
            200,
            "invalid_body",
        ),
        ("quoteToken", json!(""), 200, "invalid_body"),
        ("quoteToken", json!("nonsense"), 200, "quote_invalid"),
    ] {
        let mut input = good.clone();
        input[field] = wrong;
        let reply = ask(&app, book, &json!({"input": input})).by(&guest).send().await;
        refused_field(&reply, status, code, field);
    }
    let mut input = good.clone();
    input["totalMinor"] = json!(1);
    let reply = ask(&app, book, &json!({"input": input})).by(&guest).send().await;
    refused_field(&reply, 400, "invalid_query", "totalMinor");
    for field in ["propertyId", "checkIn", "checkOut", "guests", "paymentMethod"] {
        let mut input = good.clone();
        input.as_object_mut().unwrap().remove(field);
        let reply = ask(&app, book, &json!({"input": input})).by(&guest).send().await;
        refused_field(&reply, 400, "invalid_query", field);
    }
    let mut taken = good.clone();
    data(&ask(&app, book, &json!({"input": taken})).by(&guest).send().await);
    taken["checkOut"] = json!(app.day(11));
    let body = refused(
        &ask(&app, book, &json!({"input": taken})).by(&guest).send().await,
        200,
        "dates_taken",
    );
    assert_eq!(
        body["errors"][0]["extensions"]["conflict"],
        json!({"check_in": app.day(10), "check_out": app.day(12)})
    );
}

#[tokio::test]
async fn all_that_is_wrong_with_a_property_is_told_at_once() {
    let app = TestApp::start().await;
    let (host, guest) = (app.host().await, app.guest().await);
    let create = "mutation($input: NewProperty!) { createProperty(input: $input) { id } }";
    let mut flat = a_flat();
    for (field, wrong) in [
        ("title", json!("x")),
        ("country", json!("de")),
        ("latitude", json!(91)),
        ("nightlyRateMinor", json!(0)),
        ("checkInFrom", json!("3 pm")),
        ("amenities", json!(["wifi", "helipad"])),
    ] {
        flat[field] = wrong;
    }
    let reply = ask(&app, create, &json!({"input": flat})).by(&host).send().await;
    for field in ["title", "country", "latitude", "nightlyRateMinor", "checkInFrom"] {
        refused_field(&reply, 200, "validation_failed", field);
    }
    let mut flat = a_flat();
    flat["status"] = json!("SOLD");
    let reply = ask(&app, create, &json!({"input": flat})).by(&host).send().await;
    refused_field(&reply, 400, "invalid_query", "status");
    refused(
        &ask(&app, create, &json!({"input": a_flat()})).by(&guest).send().await,
        200,
        "forbidden",
    );
    let register = "mutation($input: Registration!) { registerUser(input: $input) { id } }";
    let person = json!({"email": "nobody", "password": "correct horse battery", "fullName": "\u{7}", "role": "GUEST"});
    let reply = ask(&app, register, &json!({"input": person})).send().await;
    refused_field(&reply, 200, "validation_failed", "email");
    refused_field(&reply, 200, "validation_failed", "fullName");
    let person = json!({"email": host.email, "password": "correct horse battery", "fullName": "Ada", "role": "GUEST"});
    refused(
        &ask(&app, register, &json!({"input": person})).send().await,
        200,
        "email_taken",
    );
    let login =
        "mutation { login(input: {email: \"a@example.com\", password: \"wrong wrong wrong\"}) { accessToken } }";
    refused(&ask(&app, login, &json!({})).send().await, 200, "invalid_credentials");
}

#[tokio::test]
async fn arguments_are_looked_at_as_well() {
    let app = TestApp::start().await;
    let guest = app.guest().await;
    for (query, status, code, field) in [
        ("{ booking(id: \"flat\") { id } }", 200, "invalid_query", "id"),
        ("{ booking { id } }", 400, "invalid_query", "id"),
        ("{ bookings(last: 3) { nodes { id } } }", 400, "invalid_query", "last"),
        (
            "{ bookings(first: 0) { nodes { id } } }",
            200,
            "invalid_parameter",
            "first",
        ),
        (
            "{ bookings(first: 101) { nodes { id } } }",
            200,
            "invalid_parameter",
            "first",
        ),
        (
            "{ bookings(after: \"x\") { nodes { id } } }",
            200,
            "invalid_cursor",
            "after",
        ),
        (
            "{ bookings(state: [SOLD]) { nodes { id } } }",
            400,
            "invalid_query",
            "state[0]",
        ),
        (
            "{ bookings(from: \"soon\") { nodes { id } } }",
            200,
            "invalid_query",
            "from",
        ),
        (
            "{ bookings(from: \"+262142-12-31\") { nodes { id } } }",
            200,
            "validation_failed",
            "from",
        ),
        (
            "{ properties(guests: 0) { nodes { id } } }",
            200,
            "validation_failed",
            "guests",
        ),
        (
            "{ properties(checkIn: \"2030-01-01\") { nodes { id } } }",
            200,
            "validation_failed",
            "checkOut",
        ),
        (
            "{ properties(amenities: [\"helipad\"]) { nodes { id } } }",
            200,
            "validation_failed",
            "amenities",
        ),
        (
            "{ properties(minPrice: 5, maxPrice: 4) { nodes { id } } }",
            200,
            "validation_failed",
            "maxPrice",
        ),
    ] {
        let reply = ask(&app, query, &json!({})).by(&guest).send().await;
        refused_field(&reply, status, code, field);
    }
    // A variable of the same kind is as wrong as a literal.
    let query = "query($id: UUID!) { booking(id: $id) { id } }";
    let reply = ask(&app, query, &json!({"id": "flat"})).by(&guest).send().await;
    refused_field(&reply, 200, "invalid_query", "id");
    let query = "mutation($reason: String) { cancelBooking(id: \"019ab6c8-6f5e-7c3a-9d0e-2f4f1f6f0000\", reason: $reason) { id } }";
    let reply = ask(&app, query, &json!({"reason": "x".repeat(501)}))
        .by(&guest)
        .send()
        .await;
    refused_field(&reply, 200, "invalid_body", "reason");
    // A text that Postgres cannot hold comes past the JSON parser in a literal.
    for (query, field) in [
        (
            "mutation { updateOwnUser(input: {fullName: \"a\\u0000b\"}) { id } }",
            "fullName",
        ),
        (
            "mutation { login(input: {email: \"a\\u0000b@example.com\", password: \"x\"}) { tokenType } }",
            "email",
        ),
        ("{ properties(city: \"a\\u0000b\") { nodes { id } } }", "city"),
        (
            "{ properties(amenities: [\"wifi\", \"\\u0000\"]) { nodes { id } } }",
            "amenities[1]",
        ),
    ] {
        let reply = ask(&app, query, &json!({})).by(&guest).send().await;
        refused_field(&reply, 400, "invalid_query", field);
    }
}
