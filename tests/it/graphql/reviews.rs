//! Both sides write about a stay, and read each other once both have.

use roost_tests::world::{World, id_of};
use serde_json::{Value, json};

use super::{ask, data, refused, refused_field};

const WRITE: &str = "mutation($input: NewReview!, $key: String) {
    createReview(input: $input, idempotencyKey: $key) { id state side rating categories { cleanliness } author { firstName } }
}";

#[tokio::test]
async fn reviews_are_read_once_both_have_written() {
    let world = World::start().await;
    let (host, guest, stranger) = (world.host().await, world.guest().await, world.guest().await);
    let flat = world.lists(&host, json!({})).await;
    let reply = world
        .books(&guest, flat, world.day(2), world.day(4), "pm_card_visa")
        .await;
    let booking = id_of(&reply.expect(201));
    world.run_jobs().await;
    let id = json!({"id": booking});
    let write = |actor, input: Value| {
        let mut review = json!({"bookingId": booking, "rating": 5, "text": "Quiet at night, strong coffee."});
        review
            .as_object_mut()
            .unwrap()
            .extend(input.as_object().unwrap().clone());
        ask(&world, WRITE, &json!({"input": review, "key": "one"}))
            .by(actor)
            .send()
    };
    refused(&write(&guest, json!({})).await, 200, "wrong_state");

    // Brought forward, so that the story can go on today.
    sqlx::query("UPDATE bookings SET stay = daterange(lower(stay) - 2, upper(stay) - 2) WHERE id = $1")
        .bind(booking)
        .execute(world.pool())
        .await
        .unwrap();
    for (change, actor) in [("checkInBooking", &guest), ("checkOutBooking", &host)] {
        let change = format!("mutation($id: UUID!) {{ {change}(id: $id) {{ state }} }}");
        data(&ask(&world, &change, &id).by(actor).send().await);
    }

    for (wrong, code, field) in [
        (json!({"rating": 6}), "invalid_body", "rating"),
        (
            json!({"categories": {"checkIn": 0}}),
            "invalid_body",
            "categories.checkIn",
        ),
        (json!({"text": "Too short"}), "invalid_body", "text"),
    ] {
        refused_field(&write(&guest, wrong).await, 200, code, field);
    }
    refused(&write(&stranger, json!({})).await, 200, "not_found");
    let written = data(&write(&guest, json!({"categories": {"cleanliness": 4}})).await)["createReview"].clone();
    assert_eq!(
        (
            &written["state"],
            &written["side"],
            &written["categories"]["cleanliness"]
        ),
        (&json!("UNPUBLISHED"), &json!("GUEST"), &json!(4))
    );
    let read = "query($id: UUID!) { booking(id: $id) { reviews { id side state } } }";
    let seen = async |actor| {
        let reply = ask(&world, read, &id).by(actor).send().await;
        data(&reply)["booking"]["reviews"].as_array().unwrap().len()
    };
    assert_eq!((seen(&guest).await, seen(&host).await), (1, 0));
    let one = "query($id: UUID!) { review(id: $id) { rating } }";
    let review = json!({"id": written["id"]});
    refused(&ask(&world, one, &review).by(&host).send().await, 200, "not_found");
    let edit = "mutation($id: UUID!, $rating: Int!) { updateReview(id: $id, input: {rating: $rating}) { rating } }";
    let edit_by = async |actor, rating: i64| {
        let variables = json!({"id": written["id"], "rating": rating});
        ask(&world, edit, &variables).by(actor).send().await
    };
    let take_back = "mutation($id: UUID!) { deleteReview(id: $id) }";
    for somebody in [&host, &stranger] {
        refused(&edit_by(somebody, 1).await, 200, "not_found");
        refused(
            &ask(&world, take_back, &review).by(somebody).send().await,
            200,
            "not_found",
        );
    }
    refused_field(&edit_by(&guest, 6).await, 200, "invalid_body", "rating");
    assert_eq!(data(&edit_by(&guest, 5).await)["updateReview"]["rating"], 5);
    // What is not named stays; null takes the stars of a category back.
    let rate = "mutation($id: UUID!, $input: ReviewPatch!) {
        updateReview(id: $id, input: $input) { rating categories { cleanliness value } }
    }";
    for (categories, left) in [
        (json!({"value": 2}), json!({"cleanliness": 4, "value": 2})),
        (json!({"cleanliness": null}), json!({"cleanliness": null, "value": 2})),
        (Value::Null, json!({"cleanliness": null, "value": 2})),
        (
            json!({"cleanliness": 4, "value": null}),
            json!({"cleanliness": 4, "value": null}),
        ),
    ] {
        let variables = json!({"id": written["id"], "input": {"categories": categories}});
        let rated = data(&ask(&world, rate, &variables).by(&guest).send().await)["updateReview"].clone();
        assert_eq!(rated, json!({"rating": 5, "categories": left}));
    }
    let wrong = json!({"id": written["id"], "input": {"categories": {"value": 6}}});
    let reply = ask(&world, rate, &wrong).by(&guest).send().await;
    refused_field(&reply, 200, "invalid_body", "categories.value");

    data(&write(&host, json!({"rating": 4})).await);
    world.run_jobs().await;
    assert_eq!((seen(&guest).await, seen(&host).await), (2, 2));
    let answer = "mutation($id: UUID!) { answerReview(id: $id, input: {text: \"Thank you!\"}) { answer { text } } }";
    refused(&ask(&world, answer, &review).by(&guest).send().await, 200, "forbidden");
    let answered = data(&ask(&world, answer, &review).by(&host).send().await);
    assert_eq!(answered["answerReview"]["answer"]["text"], "Thank you!");
    refused(
        &ask(&world, answer, &review).by(&host).send().await,
        200,
        "already_answered",
    );
    refused(&edit_by(&guest, 1).await, 200, "review_published");

    // Whoever is not signed in sees what is public, and sums.
    let public = "query($id: UUID!) {
        reviews(propertyId: $id, sort: HIGHEST) { nodes { rating side answer { text } } }
        ratingSummary(propertyId: $id) { reviewCount rating histogram { five } }
        property(id: $id) { rating reviewCount }
    }";
    let shown = data(&ask(&world, public, &json!({"id": flat})).send().await);
    assert_eq!(
        shown["reviews"]["nodes"],
        json!([{"rating": 5, "side": "GUEST", "answer": {"text": "Thank you!"}}])
    );
    assert_eq!(
        shown["ratingSummary"],
        json!({"reviewCount": 1, "rating": 5.0, "histogram": {"five": 1}})
    );
    assert_eq!(shown["property"], json!({"rating": 5.0, "reviewCount": 1}));
    for (query, code, field) in [
        ("{ reviews(rating: 9) { nodes { id } } }", "invalid_parameter", "rating"),
        (
            "{ reviews(sort: LOWEST) { nodes { id } } }",
            "validation_failed",
            "sort",
        ),
        ("{ ratingSummary { reviewCount } }", "validation_failed", "propertyId"),
    ] {
        refused_field(&ask(&world, query, &json!({})).send().await, 200, code, field);
    }

    let nothing = "query($id: UUID!) { ratingSummary(propertyId: $id) { reviewCount } }";
    let unknown = json!({"id": written["id"]});
    refused(&ask(&world, nothing, &unknown).send().await, 200, "not_found");

    // What breaks the rules is reported, and a moderator takes it away.
    let report = "mutation($id: UUID!, $input: NewReport!) { reportReview(id: $id, input: $input) }";
    let report_by = async |actor, input: Value| {
        let variables = json!({"id": written["id"], "input": input});
        ask(&world, report, &variables).by(actor).send().await
    };
    let reason = json!({"reason": "PERSONAL_INFORMATION", "details": "The code of the door."});
    refused(&report_by(&guest, reason.clone()).await, 200, "own_review");
    refused_field(
        &report_by(&host, json!({"reason": "BORING"})).await,
        400,
        "invalid_query",
        "reason",
    );
    assert_eq!(data(&report_by(&host, reason.clone()).await)["reportReview"], true);
    refused(&report_by(&host, reason).await, 200, "already_reported");
    let hide =
        "mutation($id: UUID!) { hideReview(id: $id, input: {reason: \"It tells the code of the door.\"}) { state } }";
    refused(&ask(&world, hide, &review).by(&host).send().await, 200, "forbidden");
    roost_shared::users::set_moderator(world.pool(), &stranger.email, true)
        .await
        .unwrap();
    let hidden = data(&ask(&world, hide, &review).by(&stranger).send().await);
    assert_eq!(hidden["hideReview"]["state"], "HIDDEN");
    refused(&ask(&world, one, &review).send().await, 200, "not_found");

    // What was decided by mistake is undone, and a report that has nothing in it is dismissed.
    let reports = "{ reviewReports { nodes { reporterId reason details review { id state } } } }";
    let open =
        async || data(&ask(&world, reports, &json!({})).by(&stranger).send().await)["reviewReports"]["nodes"].clone();
    assert_eq!(open().await, json!([]), "the decision settled it");
    let decide = |field: &str, shown: &str| {
        format!("mutation($id: UUID!, $reason: String!) {{ {field}(id: $id, input: {{reason: $reason}}) {shown} }}")
    };
    let unhide = decide("unhideReview", "{ id state hiddenReason }");
    let because = json!({"id": written["id"], "reason": "The code has been changed."});
    let shown = data(&ask(&world, &unhide, &because).by(&stranger).send().await);
    assert_eq!(
        shown["unhideReview"],
        json!({"id": written["id"], "state": "PUBLISHED", "hiddenReason": null})
    );
    let another = world.guest().await;
    assert_eq!(
        data(&report_by(&another, json!({"reason": "SPAM"})).await)["reportReview"],
        true
    );
    assert_eq!(
        open().await,
        json!([{"reporterId": another.id, "reason": "SPAM", "details": null,
            "review": {"id": written["id"], "state": "PUBLISHED"}}])
    );
    let dismiss = decide("dismissReviewReports", "");
    refused(
        &ask(&world, &dismiss, &because).by(&another).send().await,
        200,
        "forbidden",
    );
    let dismissed = data(&ask(&world, &dismiss, &because).by(&stranger).send().await);
    assert_eq!(dismissed["dismissReviewReports"], true);
    assert_eq!(open().await, json!([]));

    // Nobody judges their own case.
    for party in [&guest, &host] {
        roost_shared::users::set_moderator(world.pool(), &party.email, true)
            .await
            .unwrap();
        for decision in [
            &decide("hideReview", "{ id }"),
            &decide("unhideReview", "{ id }"),
            &dismiss,
        ] {
            let judged = ask(&world, decision, &because).by(party).send().await;
            refused(&judged, 200, "own_case");
        }
    }
}
