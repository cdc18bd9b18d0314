//! What a stay costs and how it can be cancelled, and that both are so later.

use chrono::Duration;
use roost_tests::app::TestApp;
use roost_tests::world::{World, id_of};
use serde_json::{Value, json};
use uuid::Uuid;

fn stay(app: &TestApp, property: Uuid, from: i64, to: i64) -> Value {
    json!({"property_id": property, "check_in": app.day(from), "check_out": app.day(to), "guests": 2})
}

#[tokio::test]
async fn a_quote_says_what_the_stay_costs_line_by_line() {
    let app = TestApp::start().await;
    let host = app.host().await;
    let id = app.lists(&host, json!({})).await;
    // Nobody has to sign in for a price.
    let quote = app.post("/quotes", stay(&app, id, 10, 13)).send().await.expect(200);
    assert_eq!(
        quote["lines"],
        json!([
            {"kind": "nights", "label": "3 nights", "quantity": 3, "unit_minor": 10_000, "amount_minor": 30_000},
            {"kind": "cleaning_fee", "label": "Cleaning fee", "quantity": 1, "unit_minor": 2_000, "amount_minor": 2_000},
            {"kind": "guest_service_fee", "label": "Guest service fee", "quantity": 1, "unit_minor": 3_840, "amount_minor": 3_840},
        ])
    );
    assert_eq!(
        (&quote["total_minor"], &quote["currency"], &quote["nights"]),
        (&json!(35_840), &json!("EUR"), &json!(3))
    );
    assert_eq!(
        (&quote["available"], &quote["cancellation_policy"]),
        (&json!(true), &json!("flexible"))
    );
    let expires: chrono::DateTime<chrono::Utc> = quote["expires_at"].as_str().unwrap().parse().unwrap();
    let left = expires - app.clock.now();
    assert!(left > Duration::minutes(14) && left <= Duration::minutes(15), "{left}");
}

#[tokio::test]
async fn prices_are_whole_in_every_currency() {
    let app = TestApp::start().await;
    let host = app.host().await;
    for (currency, nightly, cleaning, total) in [
        ("JPY", 10_050, 3_000, 14_616),
        ("KWD", 25_125, 5_500, 34_310),
        ("EUR", 9_999, 51, 11_256),
    ] {
        let changes = json!({"currency": currency, "nightly_rate_minor": nightly, "cleaning_fee_minor": cleaning});
        let id = app.lists(&host, changes).await;
        let quote = app.post("/quotes", stay(&app, id, 10, 11)).send().await.expect(200);
        assert_eq!(
            (&quote["total_minor"], &quote["currency"]),
            (&json!(total), &json!(currency))
        );
    }
}

#[tokio::test]
async fn a_booking_with_the_token_costs_what_was_quoted() {
    let app = TestApp::start().await;
    let (host, guest) = (app.host().await, app.guest().await);
    let id = app.lists(&host, json!({})).await;
    let quote = app.post("/quotes", stay(&app, id, 10, 12)).send().await.expect(200);
    let path = format!("/properties/{id}");
    app.patch(&path, json!({"nightly_rate_minor": 99_000}))
        .by(&host)
        .send()
        .await
        .expect(200);

    let book = |from, to, token: &Value| {
        let mut body = stay(&app, id, from, to);
        body["payment_method"] = json!("pm_card_visa");
        body["quote_token"] = token.clone();
        app.post("/bookings/", body).by(&guest).send()
    };
    let mut forged = quote["token"].as_str().unwrap().to_owned();
    forged.replace_range(20..21, "_");
    book(10, 12, &json!(forged)).await.refused(422, "quote_invalid");
    book(10, 13, &quote["token"]).await.refused(422, "quote_mismatch");
    let booking = book(10, 12, &quote["token"]).await.expect(201);
    assert_eq!(booking["total_minor"], quote["total_minor"]);

    let taken = app.post("/quotes", stay(&app, id, 11, 13)).send().await.expect(200);
    assert_eq!(taken["available"], false);
    let late = app.post("/quotes", stay(&app, id, 20, 22)).send().await.expect(200);
    app.clock.advance(Duration::minutes(15));
    // The access token has run out as well.
    let guest = app.login(&guest.email, roost_tests::app::PASSWORD).await;
    let mut body = stay(&app, id, 20, 22);
    body["payment_method"] = json!("pm_card_visa");
    body["quote_token"] = late["token"].clone();
    app.post("/bookings/", body)
        .by(&guest)
        .send()
        .await
        .refused(422, "quote_expired");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_booking_with_the_token_is_cancelled_by_the_policy_that_was_quoted() {
    let world = World::start().await;
    let (host, guest) = (world.host().await, world.guest().await);
    let flats = [world.lists(&host, json!({})).await, world.lists(&host, json!({})).await];
    // So near that the day to think it over is not given.
    let quote = world
        .post("/quotes", stay(&world, flats[0], 5, 7))
        .send()
        .await
        .expect(200);
    assert_eq!(quote["cancellation_policy"], "flexible");
    for flat in flats {
        world
            .patch(&format!("/properties/{flat}"), json!({"cancellation_policy": "firm"}))
            .by(&host)
            .send()
            .await
            .expect(200);
    }
    let total = &quote["total_minor"];
    for (flat, token, policy, comes_back) in [
        (flats[0], &quote["token"], "flexible", total),
        (flats[1], &Value::Null, "firm", &json!(0)),
    ] {
        let mut body = stay(&world, flat, 5, 7);
        body["payment_method"] = json!("pm_card_visa");
        body["quote_token"] = token.clone();
        let booking = world.post("/bookings/", body).by(&guest).send().await.expect(201);
        assert_eq!(booking["cancellation_policy"], policy);
        world.run_jobs().await;
        let id = id_of(&booking);
        let read = world.booking(&guest, id).await;
        assert_eq!(
            (&read["state"], &read["cancellation_policy"]),
            (&json!("confirmed"), &json!(policy))
        );
        let path = format!("/bookings/{id}/cancellation-quote");
        let cancelling = world.get(&path).by(&guest).send().await.expect(200);
        assert_eq!(&cancelling["refund_minor"], comes_back, "{cancelling}");
    }
}

#[tokio::test]
async fn today_is_the_propertys_own() {
    let app = TestApp::start().await;
    let host = app.host().await;
    let east = app.lists(&host, json!({"time_zone": "Pacific/Kiritimati"})).await;
    let west = app.lists(&host, json!({"time_zone": "Pacific/Pago_Pago"})).await;
    // The two are 25 hours apart: today in the west has always been in the east.
    let today = (app.clock.now() - Duration::hours(11)).date_naive();
    let ask = |id: Uuid| {
        let body = json!({"property_id": id, "check_in": today, "check_out": today + Duration::days(2), "guests": 1});
        app.post("/quotes", body).send()
    };
    ask(west).await.expect(200);
    ask(east).await.refused_field(422, "validation_failed", "check_in");
}

#[tokio::test]
async fn a_stay_that_the_property_does_not_take_has_no_price() {
    let app = TestApp::start().await;
    let host = app.host().await;
    let id = app
        .lists(&host, json!({"min_nights": 2, "max_nights": 20, "max_guests": 3}))
        .await;
    for (from, to, guests, field) in [
        (10, 10, 2, "check_out"),
        (10, 9, 2, "check_out"),
        (10, 11, 2, "check_out"),
        (10, 31, 2, "check_out"),
        (-3, 1, 2, "check_in"),
        (499, 503, 2, "check_out"),
        (10, 12, 4, "guests"),
    ] {
        let mut body = stay(&app, id, from, to);
        body["guests"] = json!(guests);
        app.post("/quotes", body)
            .send()
            .await
            .refused_field(422, "validation_failed", field);
    }
    let dear = app.lists(&host, json!({"nightly_rate_minor": 50_000_000})).await;
    let reply = app.post("/quotes", stay(&app, dear, 10, 12)).send().await;
    reply.refused_field(422, "validation_failed", "check_out");

    let draft = app.lists(&host, json!({"status": "draft"})).await;
    for nowhere in [draft, Uuid::nil()] {
        app.post("/quotes", stay(&app, nowhere, 10, 12))
            .send()
            .await
            .refused(404, "not_found");
    }
}

#[tokio::test]
async fn every_field_is_looked_at() {
    let app = TestApp::start().await;
    let host = app.host().await;
    let id = app.lists(&host, json!({})).await;
    let good = stay(&app, id, 10, 12);
    for (field, wrong) in [
        ("property_id", json!("flat")),
        ("property_id", json!(7)),
        ("check_in", json!("tomorrow")),
        ("check_in", json!("2027-02-29")),
        ("check_in", json!(20_270_101)),
        ("check_out", json!(null)),
        ("guests", json!("two")),
        ("guests", json!(1.5)),
        ("guests", json!(0)),
        ("guests", json!(-1)),
        ("guests", json!(3_000_000_000_u32)),
        ("total_minor", json!(1)),
    ] {
        let mut body = good.clone();
        body[field] = wrong;
        app.post("/quotes", body)
            .send()
            .await
            .refused_field(400, "invalid_body", field);
    }
    for field in ["property_id", "check_in", "check_out", "guests"] {
        let mut body = good.clone();
        body.as_object_mut().unwrap().remove(field);
        app.post("/quotes", body)
            .send()
            .await
            .refused_field(400, "invalid_body", field);
    }
    for day in ["+262142-12-31", "-9999-01-01"] {
        let mut body = good.clone();
        (body["check_in"], body["check_out"]) = (json!(day), json!(day));
        let reply = app.post("/quotes", body).send().await;
        assert!((400..500).contains(&reply.status), "{}", reply.text());
    }
    let ask = |body: &Value| {
        app.post("/quotes", body.clone())
            .header("idempotency-key", "one")
            .send()
    };
    // A quote creates nothing, so a key is taken and nothing is kept for strangers.
    ask(&good).await.expect(200);
    ask(&stay(&app, id, 10, 14)).await.expect(200);
    let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM idempotency_keys")
        .fetch_one(app.state.db.pool())
        .await
        .unwrap();
    assert_eq!(kept, 0);
}
