//! Whatever is wrong with a request about bookings, payments or their events: a refusal that says what, never a
//! failure, and nothing is changed.

use chrono::TimeDelta;
use reqwest::Method;
use roost_tests::app::Actor;
use roost_tests::world::{World, id_of};
use serde_json::{Map, Value, json};
use uuid::Uuid;

const VISA: &str = "pm_card_visa";

struct Scene {
    world: World,
    guest: Actor,
    flat: Uuid,
    booking: Uuid,
}

async fn scene() -> Scene {
    let world = World::without_worker().await;
    let (host, guest) = (world.host().await, world.guest().await);
    let flat = world.lists(&host, json!({"min_nights": 2, "max_nights": 20})).await;
    let booking = id_of(
        &world
            .books(&guest, flat, world.day(100), world.day(103), VISA)
            .await
            .expect(201),
    );
    Scene {
        world,
        guest,
        flat,
        booking,
    }
}

impl Scene {
    fn booking_request(&self) -> Value {
        json!({
            "property_id": self.flat, "check_in": self.world.day(30), "check_out": self.world.day(33), "guests": 2,
            "payment_method": VISA,
        })
    }

    /// Sends `good` with each of `changes`, which must all be refused; null removes a field.
    async fn refuses(&self, method: Method, path: &str, good: &Value, changes: &[(&str, Value, u16, &str)]) {
        for (field, value, status, code) in changes {
            let mut body: Map<String, Value> = good.as_object().unwrap().clone();
            match value {
                Value::Null => body.remove(*field),
                value => body.insert((*field).to_owned(), value.clone()),
            };
            let call = self.world.request(method.clone(), path).json(&Value::Object(body));
            call.by(&self.guest).send().await.refused_field(*status, code, field);
        }
    }

    async fn rows(&self) -> (i64, i64, i64) {
        sqlx::query_as("SELECT (SELECT count(*) FROM bookings), (SELECT count(*) FROM payments), (SELECT count(*) FROM jobs WHERE kind <> 'mail.send')")
            .fetch_one(self.world.pool())
            .await
            .unwrap()
    }
}

#[tokio::test]
async fn every_field_of_a_booking_request() {
    let scene = scene().await;
    let before = scene.rows().await;
    let day = |days: i64| json!(scene.world.day(days));
    let (wrong, refused) = ("invalid_body", "validation_failed");
    let cases = [
        ("property_id", Value::Null, 400, wrong),
        ("property_id", json!(7), 400, wrong),
        ("property_id", json!("no-uuid"), 400, wrong),
        ("property_id", json!(""), 400, wrong),
        ("check_in", Value::Null, 400, wrong),
        ("check_in", json!(20_300_601), 400, wrong),
        ("check_in", json!("2030-02-30"), 400, wrong),
        ("check_in", json!("tomorrow"), 400, wrong),
        ("check_in", json!("2030-06-01T00:00:00Z"), 400, wrong),
        ("check_in", json!([]), 400, wrong),
        ("check_in", day(-2), 422, refused),
        ("check_in", json!("1999-12-31"), 422, refused),
        ("check_in", json!("-2000-01-01"), 400, wrong),
        ("check_out", Value::Null, 400, wrong),
        ("check_out", json!(false), 400, wrong),
        ("check_out", json!("2030-13-01"), 400, wrong),
        ("check_out", day(30), 422, refused),
        ("check_out", day(29), 422, refused),
        ("check_out", day(31), 422, refused), // fewer nights than the least
        ("check_out", day(51), 422, refused), // more than the most
        ("check_out", json!("9999-12-31"), 422, refused),
        ("check_out", json!("+200000-01-01"), 400, wrong),
        ("guests", Value::Null, 400, wrong),
        ("guests", json!("2"), 400, wrong),
        ("guests", json!(1.5), 400, wrong),
        ("guests", json!(0), 400, wrong),
        ("guests", json!(-1), 400, wrong),
        ("guests", json!(3_000_000_000_u64), 400, wrong),
        ("guests", json!(5), 422, refused),
        ("guests", json!(i32::MAX), 422, refused),
        ("payment_method", Value::Null, 400, wrong),
        ("payment_method", json!(1), 400, wrong),
        ("payment_method", json!(""), 400, wrong),
        ("payment_method", json!("pm_"), 400, wrong),
        ("payment_method", json!("tok_visa"), 400, wrong),
        ("payment_method", json!("pm_../../customers"), 400, wrong),
        ("payment_method", json!("pm_visa "), 400, wrong),
        ("payment_method", json!("pm_visa\n"), 400, wrong),
        ("payment_method", json!("pm_vïsa"), 400, wrong),
        ("payment_method", json!(format!("pm_{}", "x".repeat(253))), 400, wrong),
        ("quote_token", json!(1), 400, wrong),
        ("quote_token", json!(""), 400, wrong),
        ("quote_token", json!("x".repeat(5_000)), 400, wrong),
        ("quote_token", json!("v1.x.x"), 422, "quote_invalid"),
        ("price", json!(1), 400, wrong),
        ("state", json!("confirmed"), 400, wrong),
        ("guest_id", json!(scene.guest.id), 400, wrong),
    ];
    scene
        .refuses(Method::POST, "/bookings", &scene.booking_request(), &cases)
        .await;
    let far = json!({"check_in": scene.world.day(499), "check_out": scene.world.day(502)});
    scene
        .refuses(
            Method::POST,
            "/bookings",
            &scene.booking_request(),
            &[("check_out", far["check_out"].clone(), 422, refused)],
        )
        .await;
    assert_eq!(scene.rows().await, before);
}

#[tokio::test]
async fn bodies_that_are_no_booking_request() {
    let scene = scene().await;
    let before = scene.rows().await;
    let good = scene.booking_request().to_string();
    let twice = good.replacen('{', r#"{"guests": 1, "#, 1);
    let cut = &good[..good.len() - 1];
    for path in ["/bookings", "/payments", &format!("/bookings/{}/cancel", scene.booking)] {
        let post = |body: &str| {
            scene
                .world
                .request(Method::POST, path)
                .bytes(body.to_owned())
                .by(&scene.guest)
        };
        for body in [cut, "{", "nul", "{\"a\": 1} x", &twice, "{\"message\": \"\\u0000\"}"] {
            post(body).send().await.refused(400, "invalid_json");
        }
        for body in ["[]", "1", "\"text\"", "{\"unknown\": 1}"] {
            post(body).send().await.refused(400, "invalid_body");
        }
        post(&" ".repeat(65 * 1024)).send().await.refused(413, "body_too_large");
        let text = scene
            .world
            .request(Method::POST, path)
            .body("text/plain", good.clone())
            .by(&scene.guest);
        text.send().await.refused(415, "unsupported_media_type");
    }
    for key in ["", &"k".repeat(256)] {
        let call = scene
            .world
            .request(Method::POST, "/bookings")
            .bytes(good.clone())
            .by(&scene.guest);
        let call = call.header("Idempotency-Key", key);
        call.send()
            .await
            .refused_field(400, "invalid_parameter", "Idempotency-Key");
    }
    assert_eq!(scene.rows().await, before);
}

#[tokio::test]
async fn every_field_of_a_change_of_a_booking_and_of_a_reason() {
    let scene = scene().await;
    let path = format!("/bookings/{}", scene.booking);
    let (wrong, refused) = ("invalid_body", "validation_failed");
    let cases = [
        ("guests", json!("2"), 400, wrong),
        ("guests", json!(0), 400, wrong),
        ("guests", json!(-4), 400, wrong),
        ("guests", json!(1e10), 400, wrong),
        ("guests", json!(5), 422, refused),
        ("arrival_time", json!(18), 400, wrong),
        ("arrival_time", json!(""), 400, wrong),
        ("arrival_time", json!("24:00"), 400, wrong),
        ("arrival_time", json!("9:00"), 400, wrong),
        ("arrival_time", json!("18:60"), 400, wrong),
        ("arrival_time", json!("18:00:00"), 400, wrong),
        ("message", json!(["hello"]), 400, wrong),
        ("message", json!("x".repeat(2_001)), 400, wrong),
        ("message", json!("bell \u{7}"), 422, refused),
        ("total_minor", json!(1), 400, wrong),
        ("state", json!("confirmed"), 400, wrong),
        ("check_in", json!("2030-01-01"), 400, wrong),
    ];
    scene.refuses(Method::PATCH, &path, &json!({"guests": 1}), &cases).await;
    let reasons = [
        ("reason", json!(1), 400, wrong),
        ("reason", json!("x".repeat(501)), 400, wrong),
        ("reason", json!("bell \u{7}"), 422, refused),
        ("refund_minor", json!(1), 400, wrong),
    ];
    for what in ["cancel", "decline"] {
        scene
            .refuses(Method::POST, &format!("{path}/{what}"), &json!({}), &reasons)
            .await;
    }
    let booking = scene.world.booking(&scene.guest, scene.booking).await;
    assert_eq!((&booking["state"], &booking["version"]), (&json!("held"), &json!(1)));
    assert_eq!(scene.world.events(scene.booking).await, ["requested"]);
}

#[tokio::test]
async fn every_field_of_another_card() {
    let scene = scene().await;
    let before = scene.rows().await;
    let cases = [
        ("booking_id", Value::Null, 400, "invalid_body"),
        ("booking_id", json!(1), 400, "invalid_body"),
        ("booking_id", json!("x"), 400, "invalid_body"),
        ("payment_method", Value::Null, 400, "invalid_body"),
        ("payment_method", json!({}), 400, "invalid_body"),
        ("payment_method", json!("4242424242424242"), 400, "invalid_body"),
        ("amount_minor", json!(1), 400, "invalid_body"),
    ];
    let good = json!({"booking_id": scene.booking, "payment_method": VISA});
    scene.refuses(Method::POST, "/payments", &good, &cases).await;
    assert_eq!(scene.rows().await, before);
}

#[tokio::test]
async fn every_parameter_of_the_lists() {
    let scene = scene().await;
    let refused = async |path: String, status: u16, code: &str, field: &str| {
        scene
            .world
            .get(&path)
            .by(&scene.guest)
            .send()
            .await
            .refused_field(status, code, field);
    };
    for list in ["/bookings", "/payments"] {
        for (query, field) in [
            ("role=admin", "role"),
            ("role=", "role"),
            ("state=unheard-of", "state"),
            ("state=held,unheard-of", "state"),
            ("limit=0", "limit"),
            ("limit=101", "limit"),
            ("limit=-1", "limit"),
            ("limit=many", "limit"),
        ] {
            // A state of one list is none of the other's; `held` is no payment's.
            refused(format!("{list}?{query}"), 400, "invalid_parameter", field).await;
        }
        for cursor in ["x", "bnVsbA", "IngiCg", "e30"] {
            refused(format!("{list}?cursor={cursor}"), 400, "invalid_cursor", "cursor").await;
        }
        let nul = scene.world.get(&format!("{list}?state=%00")).by(&scene.guest);
        nul.send().await.refused(400, "invalid_text");
    }
    for (query, field) in [
        ("from=yesterday", "from"),
        ("to=2030-02-30", "to"),
        ("property_id=1", "property_id"),
    ] {
        refused(format!("/bookings?{query}"), 400, "invalid_parameter", field).await;
    }
    for (query, field) in [
        ("from=-4800-01-01", "from"),
        ("to=%2B99999-01-01", "to"),
        ("from=2030-01-02&to=2030-01-01", "to"),
    ] {
        refused(format!("/bookings?{query}"), 422, "validation_failed", field).await;
    }
    refused(
        "/payments?booking_id=1".to_owned(),
        400,
        "invalid_parameter",
        "booking_id",
    )
    .await;
}

/// Every operation on one booking or payment, with a good body.
fn operations(id: &str) -> Vec<(Method, String, Value)> {
    let mut operations = vec![
        (Method::GET, format!("/bookings/{id}"), Value::Null),
        (Method::GET, format!("/bookings/{id}/events"), Value::Null),
        (Method::GET, format!("/bookings/{id}/cancellation-quote"), Value::Null),
        (Method::GET, format!("/payments/{id}"), Value::Null),
        (Method::PATCH, format!("/bookings/{id}"), json!({"guests": 1})),
    ];
    for what in ["cancel", "check-in", "check-out", "approve", "decline"] {
        operations.push((Method::POST, format!("/bookings/{id}/{what}"), json!({})));
    }
    operations
}

#[tokio::test]
async fn ids_that_are_none_nobodys_or_somebody_elses() {
    let scene = scene().await;
    let stranger = scene.world.guest().await;
    let call = |actor: &Actor, (method, path, body): (Method, String, Value)| {
        let call = scene.world.request(method, &path).by(actor);
        if body.is_null() { call } else { call.json(&body) }
    };
    for operation in operations(&scene.booking.to_string())
        .into_iter()
        .chain(operations(&Uuid::nil().to_string()))
    {
        call(&stranger, operation).send().await.refused(404, "not_found");
    }
    for id in ["1", "%F0%9F%8F%A0", "null"] {
        for operation in operations(id) {
            let field = if operation.1.starts_with("/payments") {
                "payment_id"
            } else {
                "booking_id"
            };
            call(&scene.guest, operation)
                .send()
                .await
                .refused_field(400, "invalid_parameter", field);
        }
    }
    assert_eq!(scene.world.events(scene.booking).await, ["requested"]);
}

#[tokio::test]
async fn tokens_that_are_missing_forged_or_expired() {
    let scene = scene().await;
    let mut all = operations(&scene.booking.to_string());
    all.push((Method::POST, "/bookings".to_owned(), scene.booking_request()));
    all.push((
        Method::POST,
        "/payments".to_owned(),
        json!({"booking_id": scene.booking, "payment_method": VISA}),
    ));
    all.push((Method::GET, "/bookings".to_owned(), Value::Null));
    all.push((Method::GET, "/payments".to_owned(), Value::Null));
    let mut forged = scene.guest.clone();
    forged.access_token = format!("{}x", &scene.guest.access_token[..scene.guest.access_token.len() - 1]);
    scene.world.clock.advance(TimeDelta::minutes(16));
    for (method, path, body) in all {
        let call = || {
            let call = scene.world.request(method.clone(), &path);
            if body.is_null() { call } else { call.json(&body) }
        };
        call().send().await.refused(401, "unauthorized");
        call()
            .header("Authorization", "Basic Og==")
            .send()
            .await
            .refused(401, "unauthorized");
        call().by(&forged).send().await.refused(401, "invalid_token");
        call().by(&scene.guest).send().await.refused(401, "token_expired");
    }
    assert_eq!(scene.world.events(scene.booking).await, ["requested"]);
}
