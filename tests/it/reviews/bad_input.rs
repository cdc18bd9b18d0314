//! What a review may not be.

use serde_json::{Value, json};
use uuid::Uuid;

use super::{Scene, WORDS};

#[tokio::test(flavor = "multi_thread")]
async fn every_field_is_checked() {
    let scene = Scene::set().await;
    let world = &scene.world;
    let booking = scene.ended_stay(&scene.guest).await;
    let good = json!({"booking_id": booking, "rating": 5, "categories": {"value": 5}, "text": WORDS});
    let long = "x".repeat(2_001);
    for (field, value) in [
        ("booking_id", json!("x")),
        ("booking_id", Value::Null),
        ("rating", json!(0)),
        ("rating", json!(6)),
        ("rating", json!(4.5)),
        ("rating", json!("5")),
        ("text", json!("too short")),
        ("text", json!(long)),
        ("text", json!(5)),
        ("categories", json!([])),
        ("categories", json!(5)),
        ("published_at", json!("2030-01-01T00:00:00Z")),
        ("author_id", json!(scene.host.id)),
    ] {
        let mut body = good.clone();
        body[field] = value;
        world
            .post("/reviews/", body)
            .by(&scene.guest)
            .send()
            .await
            .refused_field(400, "invalid_body", field);
    }
    for (category, value) in [("value", json!(6)), ("value", json!("5")), ("noise", json!(5))] {
        let mut body = good.clone();
        body["categories"] = json!({});
        body["categories"][category] = value;
        let field = format!("categories.{category}");
        world
            .post("/reviews/", body)
            .by(&scene.guest)
            .send()
            .await
            .refused_field(400, "invalid_body", &field);
    }
    for text in ["    too short    ", "bell \u{7} and whistle"] {
        let mut body = good.clone();
        body["text"] = json!(text);
        world
            .post("/reviews/", body)
            .by(&scene.guest)
            .send()
            .await
            .refused_field(422, "validation_failed", "text");
    }
    for field in ["booking_id", "rating", "text"] {
        let mut body = good.clone();
        body.as_object_mut().unwrap().remove(field);
        world
            .post("/reviews/", body)
            .by(&scene.guest)
            .send()
            .await
            .refused_field(400, "invalid_body", field);
    }
    let [review, _] = scene.both_write(&scene.guest, booking, [5, 5]).await;
    let path = format!("/reviews/{review}");
    for (action, field, status, code, body) in [
        ("answer", "text", 400, "invalid_body", json!({"text": ""})),
        ("answer", "text", 422, "validation_failed", json!({"text": "  "})),
        ("answer", "text", 400, "invalid_body", json!({"text": long})),
        ("answer", "text", 400, "invalid_body", json!({})),
        ("report", "reason", 400, "invalid_body", json!({"reason": "boring"})),
        ("report", "reason", 400, "invalid_body", json!({})),
        (
            "report",
            "details",
            422,
            "validation_failed",
            json!({"reason": "other"}),
        ),
        (
            "report",
            "details",
            400,
            "invalid_body",
            json!({"reason": "spam", "details": long}),
        ),
        ("hide", "reason", 400, "invalid_body", json!({"reason": ""})),
        ("hide", "reason", 422, "validation_failed", json!({"reason": " \n "})),
        ("hide", "reason", 400, "invalid_body", json!({"reason": 5})),
    ] {
        world
            .post(&format!("{path}/{action}"), body)
            .by(&scene.host)
            .send()
            .await
            .refused_field(status, code, field);
    }
    for query in [
        "rating=0",
        "rating=6",
        "rating=x",
        "side=both",
        "sort=oldest",
        "author_id=me",
        "property_id=1",
        "subject_id=",
        "limit=0",
    ] {
        let field = query.split('=').next().unwrap();
        world
            .get(&format!("/reviews/?{query}"))
            .send()
            .await
            .refused_field(400, "invalid_parameter", field);
    }
    world
        .get("/reviews/?sort=lowest")
        .send()
        .await
        .refused_field(422, "validation_failed", "sort");
    world
        .get("/reviews/?cursor=x")
        .send()
        .await
        .refused(400, "invalid_cursor");
    for query in [String::new(), format!("property_id={review}&host_id={review}")] {
        world
            .get(&format!("/reviews/summary?{query}"))
            .send()
            .await
            .refused_field(422, "validation_failed", "property_id");
    }
    world
        .get(&format!("/reviews/summary?guest_id={}", scene.guest.id))
        .send()
        .await
        .refused(401, "unauthorized");
    // What is not there has no stars, and says so; who has none is another matter.
    let (nobody, draft) = (
        Uuid::now_v7(),
        world.lists(&scene.host, json!({"status": "draft"})).await,
    );
    for (query, status) in [
        (format!("property_id={nobody}"), 404),
        (format!("host_id={nobody}"), 404),
        (format!("guest_id={nobody}"), 404),
        (format!("property_id={}", scene.guest.id), 404),
        (format!("host_id={}", scene.guest.id), 404),
        (format!("property_id={draft}"), 404),
        (format!("property_id={}", scene.flat), 200),
        (format!("host_id={}", scene.host.id), 200),
        (format!("guest_id={}", scene.guest.id), 200),
    ] {
        let asked = world.get(&format!("/reviews/summary?{query}")).by(&scene.guest);
        let reply = asked.send().await;
        if status == 404 {
            reply.refused(404, "not_found");
        } else {
            assert_eq!(reply.expect(200)["histogram"]["one"], 0, "{query}");
        }
    }
    let own = world.get(&format!("/reviews/summary?property_id={draft}"));
    assert_eq!(own.by(&scene.host).send().await.expect(200)["review_count"], 0);
    world
        .get("/reviews/nothing")
        .send()
        .await
        .refused_field(400, "invalid_parameter", "review_id");
    world
        .get(&format!("/reviews/{}", Uuid::nil()))
        .send()
        .await
        .refused(404, "not_found");
}
