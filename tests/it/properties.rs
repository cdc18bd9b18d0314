//! Hosts list, change and archive; everybody finds and looks.

use roost_tests::app::{Actor, TestApp};
use roost_tests::world::a_flat;
use serde_json::{Value, json};
use uuid::Uuid;

/// A flat with some fields changed.
fn flat(changes: &Value) -> Value {
    let mut flat = a_flat();
    for (name, value) in changes.as_object().unwrap() {
        flat[name] = value.clone();
    }
    flat
}

async fn books(app: &TestApp, guest: &Actor, property: Uuid, from: i64, to: i64) -> Value {
    let body = json!({
        "property_id": property, "check_in": app.day(from), "check_out": app.day(to), "guests": 1,
        "payment_method": "pm_card_visa",
    });
    app.post("/bookings/", body).by(guest).send().await.expect(201)
}

#[tokio::test]
async fn a_host_lists_a_flat_and_everybody_sees_it() {
    let app = TestApp::start().await;
    let host = app.host().await;
    let created = app.post("/properties/", a_flat()).by(&host).send().await;
    let property = created.expect(201);
    let path = format!("/properties/{}", property["id"].as_str().unwrap());
    assert_eq!(created.header("location"), path);
    assert_eq!(created.header("etag"), "\"1\"");
    for (name, value) in a_flat().as_object().unwrap() {
        assert_eq!(property[name], *value, "{name}");
    }
    assert_eq!(property["host_id"], host.id);
    assert_eq!(
        (&property["rating"], &property["review_count"]),
        (&Value::Null, &json!(0))
    );

    for path in [path.clone(), format!("{path}/")] {
        let seen = app.get(&path).send().await;
        assert_eq!(seen.expect(200), property);
        assert_eq!(seen.header("etag"), "\"1\"");
        assert_eq!(seen.header("content-type"), "application/json");
    }
    let again = app.get(&path).header("if-none-match", "\"1\"").send().await;
    assert_eq!(
        (again.status, again.body.len(), again.header("etag")),
        (304, 0, "\"1\"")
    );
    app.get(&path).header("if-none-match", "\"2\"").send().await.expect(200);
}

#[tokio::test]
async fn only_hosts_list() {
    let app = TestApp::start().await;
    let guest = app.guest().await;
    app.post("/properties/", a_flat())
        .send()
        .await
        .refused(401, "unauthorized");
    app.post("/properties/", a_flat())
        .by(&guest)
        .send()
        .await
        .refused(403, "forbidden");
    let mut forged = guest.clone();
    forged.access_token.push('x');
    app.post("/properties/", a_flat())
        .by(&forged)
        .send()
        .await
        .refused(401, "invalid_token");
}

#[tokio::test]
async fn a_draft_is_for_its_host_only_until_it_is_listed() {
    let app = TestApp::start().await;
    let (host, other) = (app.host().await, app.host().await);
    let id = app.lists(&host, json!({"status": "draft"})).await;
    let path = format!("/properties/{id}");
    app.get(&path).send().await.refused(404, "not_found");
    app.get(&path).by(&other).send().await.refused(404, "not_found");
    app.patch(&path, json!({"beds": 3}))
        .by(&other)
        .send()
        .await
        .refused(404, "not_found");
    app.delete(&path).by(&other).send().await.refused(404, "not_found");
    let own = app.get(&path).by(&host).send().await;
    assert_eq!(own.expect(200)["status"], "draft");
    assert!(own.header("cache-control").contains("private"));

    app.patch(&path, json!({"status": "listed"}))
        .by(&host)
        .send()
        .await
        .expect(200);
    assert_eq!(app.get(&path).send().await.expect(200)["version"], 2);
    app.patch(&path, json!({"status": "draft"}))
        .by(&host)
        .send()
        .await
        .expect(200);
    app.get(&path).send().await.refused(404, "not_found");
}

#[tokio::test]
async fn what_is_changed_is_seen_at_once_and_a_stale_change_is_refused() {
    let app = TestApp::start().await;
    let (host, other) = (app.host().await, app.host().await);
    let path = format!("/properties/{}", app.lists(&host, json!({})).await);
    app.get(&path).send().await.expect(200);

    let changed = app
        .patch(&path, json!({"nightly_rate_minor": 11_000, "house_rules": null}))
        .header("if-match", "\"1\"")
        .by(&host)
        .send()
        .await;
    let property = changed.expect(200);
    assert_eq!((changed.header("etag"), &property["version"]), ("\"2\"", &json!(2)));
    assert_eq!(
        (&property["nightly_rate_minor"], &property["house_rules"]),
        (&json!(11_000), &json!(""))
    );
    assert_eq!(property["title"], a_flat()["title"]);
    assert_eq!(app.get(&path).send().await.expect(200), property);

    for stale in ["\"1\"", "\"3\"", "W/\"2\"", "2", "nonsense"] {
        let patch = app.patch(&path, json!({"beds": 9})).header("if-match", stale);
        patch.by(&host).send().await.refused(412, "version_mismatch");
        app.delete(&path)
            .header("if-match", stale)
            .by(&host)
            .send()
            .await
            .refused(412, "version_mismatch");
    }
    let patch = app.patch(&path, json!({"beds": 9})).header("if-match", "*");
    assert_eq!(patch.by(&host).send().await.expect(200)["version"], 3);
    // Nothing changes, so nothing is counted.
    let same = app.patch(&path, json!({"beds": 9})).by(&host).send().await;
    assert_eq!(same.expect(200)["version"], 3);
    app.patch(&path, json!({"beds": 1}))
        .by(&other)
        .send()
        .await
        .refused(403, "forbidden");
    app.patch(&path, json!({"beds": 1}))
        .send()
        .await
        .refused(401, "unauthorized");
}

#[tokio::test]
async fn of_changes_made_at_the_same_time_one_wins() {
    let app = TestApp::start().await;
    let host = app.host().await;
    let path = format!("/properties/{}", app.lists(&host, json!({})).await);
    let changes = (1..=8).map(|beds| {
        let call = app
            .patch(&path, json!({"beds": 10 + beds}))
            .header("if-match", "\"1\"")
            .by(&host);
        async move { call.send().await.status }
    });
    let mut statuses = futures::future::join_all(changes).await;
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 412, 412, 412, 412, 412, 412, 412]);
    assert_eq!(app.get(&path).send().await.expect(200)["version"], 2);
}

#[tokio::test]
async fn a_property_is_archived_once_nobody_is_to_come() {
    let app = TestApp::start().await;
    let (host, guest) = (app.host().await, app.guest().await);
    let id = app.lists(&host, json!({})).await;
    let path = format!("/properties/{id}");
    let later = books(&app, &guest, id, 40, 42).await;
    let sooner = books(&app, &guest, id, 30, 31).await;

    let refused = app.delete(&path).by(&host).send().await.refused(409, "future_bookings");
    assert_eq!(
        (&refused["count"], &refused["next_check_in"]),
        (&json!(2), &json!(app.day(30)))
    );
    for booking in [later, sooner] {
        let cancel = format!("/bookings/{}/cancel", booking["id"].as_str().unwrap());
        app.post(&cancel, json!({})).by(&guest).send().await.expect(200);
    }
    assert_eq!(app.delete(&path).by(&host).send().await.status, 204);
    app.get(&path).send().await.refused(404, "not_found");
    assert_eq!(app.get(&path).by(&host).send().await.expect(200)["status"], "archived");
    app.patch(&path, json!({"status": "listed"}))
        .by(&host)
        .send()
        .await
        .refused(409, "property_archived");
    assert_eq!(app.delete(&path).by(&host).send().await.status, 204);
    let listed = app.get("/properties/").send().await.expect(200);
    assert_eq!(listed["items"], json!([]));
    app.delete(&path).by(&guest).send().await.refused(404, "not_found");
}

#[tokio::test]
async fn a_host_who_leaves_takes_the_listings_along() {
    let app = TestApp::start().await;
    let (host, guest) = (app.host().await, app.guest().await);
    let id = app.lists(&host, json!({})).await;
    let booking = books(&app, &guest, id, 30, 31).await;
    app.delete("/users/me")
        .by(&host)
        .send()
        .await
        .refused(409, "open_bookings");
    app.get(&format!("/properties/{id}")).send().await.expect(200);
    let cancel = format!("/bookings/{}/cancel", booking["id"].as_str().unwrap());
    app.post(&cancel, json!({})).by(&guest).send().await.expect(200);
    app.delete("/users/me").by(&host).send().await.expect(204);
    assert_eq!(app.get("/properties/").send().await.expect(200)["items"], json!([]));
    let body = json!({"property_id": id, "check_in": app.day(40), "check_out": app.day(41), "guests": 1});
    app.post("/quotes", body).send().await.refused(404, "not_found");
    // Other processes learn of it from the job.
    assert_eq!(app.jobs_of("cache.warm").await, 1);
}

#[tokio::test]
async fn the_same_key_lists_once() {
    let app = TestApp::start().await;
    let host = app.host().await;
    let list = |body: Value| {
        app.post("/properties/", body)
            .header("idempotency-key", "flat-1")
            .by(&host)
            .send()
    };
    let (first, second) = (list(a_flat()).await, list(a_flat()).await);
    first.expect(201);
    assert_eq!((first.status, &first.body), (second.status, &second.body));
    assert_eq!(second.header("idempotent-replayed"), "true");
    assert_eq!((first.header("etag"), second.header("etag")), ("\"1\"", "\"1\""));
    let other = flat(&json!({"beds": 7}));
    list(other).await.refused(422, "idempotency_key_reused");
    let mine = app.get("/properties/?mine=true").by(&host).send().await.expect(200);
    assert_eq!(mine["items"].as_array().unwrap().len(), 1);
}

/// Values that a field cannot have although their type is right.
fn values_out_of_range() -> Vec<(&'static str, Value)> {
    let long = |characters| Value::String("x".repeat(characters));
    vec![
        ("title", json!("Flat")),
        ("title", long(121)),
        ("title", json!("Two\nlines of title")),
        ("description", long(5_001)),
        ("description", json!("bell \u{7}")),
        ("house_rules", long(5_001)),
        ("city", json!(" ")),
        ("city", long(201)),
        ("country", json!("de")),
        ("country", json!("XX")),
        ("latitude", json!(90.5)),
        ("longitude", json!(-181)),
        ("time_zone", json!("Berlin")),
        ("currency", json!("eur")),
        ("currency", json!("XAU")),
        ("nightly_rate_minor", json!(0)),
        ("nightly_rate_minor", json!(i64::MAX)),
        ("cleaning_fee_minor", json!(-1)),
        ("max_guests", json!(0)),
        ("max_guests", json!(51)),
        ("bedrooms", json!(-1)),
        ("beds", json!(0)),
        ("bathrooms", json!(51)),
        ("amenities", json!(["helipad"])),
        ("amenities", json!(["wifi", "wifi"])),
        ("amenities", Value::Array(vec![json!("wifi"); 51])),
        ("check_in_from", json!("25:00")),
        ("check_out_by", json!("11")),
        ("min_nights", json!(0)),
        ("max_nights", json!(366)),
    ]
}

#[tokio::test]
async fn every_field_is_looked_at() {
    let app = TestApp::start().await;
    let host = app.host().await;
    let path = format!("/properties/{}", app.lists(&host, json!({})).await);
    let create = |body: Value| app.post("/properties/", body).by(&host).send();
    let change = |body: Value| app.patch(&path, body).by(&host).send();

    for (field, value) in values_out_of_range() {
        create(flat(&json!({field: value})))
            .await
            .refused_field(422, "validation_failed", field);
        change(json!({field: value}))
            .await
            .refused_field(422, "validation_failed", field);
    }
    for (field, good) in a_flat().as_object().unwrap() {
        let wrong = if good.is_string() { json!(7) } else { json!("seven") };
        create(flat(&json!({field: wrong})))
            .await
            .refused_field(400, "invalid_body", field);
        change(json!({field: wrong}))
            .await
            .refused_field(400, "invalid_body", field);
    }
    for field in [
        "title",
        "city",
        "country",
        "latitude",
        "longitude",
        "time_zone",
        "currency",
        "nightly_rate_minor",
        "max_guests",
    ] {
        let mut without = a_flat();
        without.as_object_mut().unwrap().remove(field);
        create(without).await.refused_field(400, "invalid_body", field);
        change(json!({field: null}))
            .await
            .refused_field(422, "validation_failed", field);
    }
    for (field, values) in [
        ("cancellation_policy", ["strict", "Flexible", ""]),
        ("status", ["sold", "Listed", ""]),
    ] {
        for value in values {
            create(flat(&json!({field: value})))
                .await
                .refused_field(400, "invalid_body", field);
            change(json!({field: value}))
                .await
                .refused_field(400, "invalid_body", field);
        }
    }
    create(flat(&json!({"colour": "red"})))
        .await
        .refused_field(400, "invalid_body", "colour");
    create(flat(&json!({"title": "a\u{0}bcdef"})))
        .await
        .refused(400, "invalid_json");
    // What the API itself keeps is nobody's to change.
    for field in [
        "colour",
        "id",
        "host_id",
        "version",
        "rating",
        "review_count",
        "created_at",
        "updated_at",
    ] {
        change(json!({field: 7}))
            .await
            .refused_field(400, "invalid_body", field);
    }
    change(json!({"status": "archived"}))
        .await
        .refused_field(422, "validation_failed", "status");
    change(json!({"min_nights": 20, "max_nights": 10}))
        .await
        .refused_field(422, "validation_failed", "max_nights");
    create(flat(&json!({"nightly_rate_minor": 50_000_000, "min_nights": 2})))
        .await
        .refused_field(422, "validation_failed", "nightly_rate_minor");
    let several = create(flat(&json!({"title": "x", "currency": "x", "beds": 0}))).await;
    for field in ["title", "currency", "beds"] {
        several.refused_field(422, "validation_failed", field);
    }
    let several = change(json!({"title": "x", "currency": "x", "beds": 0, "city": null})).await;
    for field in ["title", "currency", "beds", "city"] {
        several.refused_field(422, "validation_failed", field);
    }
    for (method, at) in [("POST", "/properties/"), ("PATCH", path.as_str())] {
        let send = || app.request(method.parse().unwrap(), at).by(&host);
        let list = send().bytes("[]").send().await;
        list.refused_field(400, "invalid_body", "body");
        send().bytes("{").send().await.refused(400, "invalid_json");
        let twice = send().bytes(r#"{"beds": 1, "beds": 2}"#).send().await;
        twice.refused(400, "invalid_json");
        let plain = send().body("text/plain", "flat").send().await;
        plain.refused(415, "unsupported_media_type");
    }
    assert_eq!(app.get(&path).send().await.expect(200)["version"], 1);
}

/// What a change may say of each field: so that a field that is added is not forgotten above.
#[tokio::test]
async fn the_flat_of_the_tests_has_every_field_that_can_be_changed() {
    let app = TestApp::start().await;
    let document = app.get("/openapi.json").send().await.expect(200);
    let schema = &document["components"]["schemas"]["PropertyPatch"]["properties"];
    let fields: Vec<&String> = schema.as_object().unwrap().keys().collect();
    let mut known: Vec<String> = a_flat().as_object().unwrap().keys().cloned().collect();
    known.sort_unstable();
    assert_eq!(fields, known.iter().collect::<Vec<_>>());
}

#[tokio::test]
async fn an_enum_takes_each_of_its_values_and_null_brings_the_default_back() {
    let app = TestApp::start().await;
    let host = app.host().await;
    let path = format!("/properties/{}", app.lists(&host, json!({})).await);
    let change = |body: Value| app.patch(&path, body).by(&host).send();
    for policy in ["moderate", "limited", "firm", "flexible"] {
        let changed = change(json!({"cancellation_policy": policy})).await.expect(200);
        assert_eq!(changed["cancellation_policy"], policy);
    }
    change(json!({"cancellation_policy": "firm"})).await.expect(200);
    let both = change(json!({"cancellation_policy": null, "status": null}))
        .await
        .expect(200);
    assert_eq!(
        (&both["cancellation_policy"], &both["status"]),
        (&json!("flexible"), &json!("draft"))
    );
}

#[tokio::test]
async fn ids_that_name_no_property_find_none() {
    let app = TestApp::start().await;
    let host = app.host().await;
    let nowhere = "/properties/00000000-0000-7000-8000-000000000000";
    app.get(nowhere).send().await.refused(404, "not_found");
    app.get(nowhere).by(&host).send().await.refused(404, "not_found");
    app.patch(nowhere, json!({}))
        .by(&host)
        .send()
        .await
        .refused(404, "not_found");
    app.delete(nowhere).by(&host).send().await.refused(404, "not_found");
    app.get("/properties/not-an-id")
        .send()
        .await
        .refused(400, "invalid_parameter");
    let mut forged = host;
    forged.access_token = "forged".to_owned();
    app.get(nowhere).by(&forged).send().await.refused(401, "invalid_token");
}

#[tokio::test]
async fn what_cannot_be_read_is_not_taken_for_nothing() {
    let app = TestApp::start().await;
    let host = app.host().await;
    let path = format!("/properties/{}", app.lists(&host, json!({})).await);
    for condition in ["\"\u{e9}\"", "\"9\""] {
        let change = app
            .patch(&path, json!({"beds": 3}))
            .by(&host)
            .header("if-match", condition);
        change.send().await.refused(412, "version_mismatch");
        let archive = app.delete(&path).by(&host).header("if-match", condition);
        archive.send().await.refused(412, "version_mismatch");
    }
    // One more than fits 64 bits.
    let body = format!("{{\"nightly_rate_minor\": {}}}", i128::from(i64::MAX) + 1);
    let change = app.request(reqwest::Method::PATCH, &path).by(&host).bytes(body);
    change
        .send()
        .await
        .refused_field(400, "invalid_body", "nightly_rate_minor");
}
