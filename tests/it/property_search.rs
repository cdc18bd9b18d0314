//! Guests look for a place; hosts look at their own.

use roost_tests::app::TestApp;
use serde_json::{Value, json};

fn titles(page: &Value) -> Vec<&str> {
    let items = page["items"].as_array().unwrap();
    items.iter().map(|item| item["title"].as_str().unwrap()).collect()
}

/// The titles that a query finds, in order of the alphabet.
async fn found(app: &TestApp, query: &str) -> Vec<String> {
    let page = app.get(&format!("/properties/?{query}")).send().await.expect(200);
    let mut titles: Vec<_> = titles(&page).into_iter().map(str::to_owned).collect();
    titles.sort();
    titles
}

#[tokio::test]
async fn every_filter_narrows_the_list() {
    let app = TestApp::start().await;
    let (host, other) = (app.host().await, app.host().await);
    app.lists(&host, json!({"title": "Alpha"})).await;
    let tokyo = json!({
        "title": "Bravo", "city": "Tōkyō", "country": "JP", "currency": "JPY", "time_zone": "Asia/Tokyo", "nightly_rate_minor": 9_800,
        "max_guests": 2, "bedrooms": 0, "amenities": ["wifi", "hot_tub"], "instant_book": false,
    });
    app.lists(&other, tokyo).await;
    app.lists(
        &host,
        json!({"title": "Charlie", "nightly_rate_minor": 25_000, "max_guests": 8, "bedrooms": 3, "min_nights": 5}),
    )
    .await;
    app.lists(&host, json!({"title": "Delta", "status": "draft"})).await;

    for (query, titles) in [
        ("", vec!["Alpha", "Bravo", "Charlie"]),
        ("city=bErLiN", vec!["Alpha", "Charlie"]),
        ("city=T%C5%8DKY%C5%8D", vec!["Bravo"]),
        ("city=Berl", vec![]),
        ("country=JP", vec!["Bravo"]),
        ("currency=EUR", vec!["Alpha", "Charlie"]),
        ("guests=3", vec!["Alpha", "Charlie"]),
        ("guests=8", vec!["Charlie"]),
        ("min_price=9801", vec!["Alpha", "Charlie"]),
        ("max_price=10000", vec!["Alpha", "Bravo"]),
        ("min_price=10000&max_price=10000", vec!["Alpha"]),
        ("bedrooms=1", vec!["Alpha", "Charlie"]),
        ("amenities=wifi", vec!["Alpha", "Bravo", "Charlie"]),
        ("amenities=wifi,hot_tub", vec!["Bravo"]),
        ("amenities=wifi&amenities=kitchen", vec!["Alpha", "Charlie"]),
        ("instant_book=false", vec!["Bravo"]),
        (&format!("host_id={}", other.id), vec!["Bravo"]),
        (
            &format!("check_in={}&check_out={}", app.day(10), app.day(13)),
            vec!["Alpha", "Bravo"],
        ),
        (
            &format!("check_in={}&check_out={}", app.day(10), app.day(15)),
            vec!["Alpha", "Bravo", "Charlie"],
        ),
    ] {
        assert_eq!(found(&app, query).await, titles, "{query}");
    }
    let own = app.get("/properties/?mine=true").by(&host).send().await.expect(200);
    let mut own = titles(&own);
    own.sort_unstable();
    assert_eq!(own, ["Alpha", "Charlie", "Delta"]);
    app.get("/properties/?mine=true")
        .send()
        .await
        .refused(401, "unauthorized");
}

#[tokio::test]
async fn nights_that_somebody_holds_are_not_offered() {
    let app = TestApp::start().await;
    let (host, guest) = (app.host().await, app.guest().await);
    let id = app.lists(&host, json!({"title": "Alpha"})).await;
    let body = json!({
        "property_id": id, "check_in": app.day(10), "check_out": app.day(13), "guests": 2, "payment_method": "pm_card_visa",
    });
    let booking = app.post("/bookings/", body).by(&guest).send().await.expect(201);
    let free = async |from, to| {
        let query = format!("check_in={}&check_out={}", app.day(from), app.day(to));
        !found(&app, &query).await.is_empty()
    };
    for (from, to, is_free) in [
        (8, 10, true),
        (8, 11, false),
        (10, 13, false),
        (11, 12, false),
        (12, 15, false),
        (13, 15, true),
    ] {
        assert_eq!(free(from, to).await, is_free, "{from}..{to}");
    }
    let cancel = format!("/bookings/{}/cancel", booking["id"].as_str().unwrap());
    app.post(&cancel, json!({})).by(&guest).send().await.expect(200);
    assert!(free(10, 13).await);
}

#[tokio::test]
async fn pages_follow_the_rating_and_repeat_nothing() {
    let app = TestApp::start().await;
    let host = app.host().await;
    for (title, rating) in [
        ("Alpha", 450),
        ("Bravo", 0),
        ("Charlie", 500),
        ("Delta", 450),
        ("Echoes", 450),
    ] {
        let id = app.lists(&host, json!({"title": title})).await;
        sqlx::query("UPDATE properties SET rating_hundredths = $2 WHERE id = $1")
            .bind(id)
            .bind(rating)
            .execute(app.state.db.pool())
            .await
            .unwrap();
    }
    let mut seen = Vec::new();
    let mut next = Some("/properties/?limit=2&city=berlin".to_owned());
    while let Some(path) = next {
        let reply = app.get(&path).send().await;
        let page = reply.expect(200);
        seen.extend(titles(&page).into_iter().map(str::to_owned));
        next = page["next"].as_str().map(str::to_owned);
        match &next {
            Some(next) => assert_eq!(reply.header("link"), format!("<{next}>; rel=\"next\"")),
            None => assert_eq!(reply.header("link"), ""),
        }
    }
    // Those of the same rating by id, which is the order in which they were made.
    assert_eq!(seen, ["Charlie", "Alpha", "Delta", "Echoes", "Bravo"]);
}

#[tokio::test]
async fn parameters_that_make_no_sense_are_refused() {
    let app = TestApp::start().await;
    let (today, tomorrow, yesterday) = (app.day(0), app.day(1), app.day(-2));
    for (query, status, code, field) in [
        ("city=", 422, "validation_failed", "city"),
        ("city=a%07b", 422, "validation_failed", "city"),
        ("country=Germany", 422, "validation_failed", "country"),
        ("currency=euro", 422, "validation_failed", "currency"),
        ("guests=0", 422, "validation_failed", "guests"),
        ("guests=-3", 422, "validation_failed", "guests"),
        ("guests=two", 400, "invalid_parameter", "guests"),
        ("min_price=-1", 422, "validation_failed", "min_price"),
        ("max_price=-1", 422, "validation_failed", "max_price"),
        ("min_price=5&max_price=4", 422, "validation_failed", "max_price"),
        ("max_price=9999999999999999999", 400, "invalid_parameter", "max_price"),
        ("bedrooms=-1", 422, "validation_failed", "bedrooms"),
        ("amenities=helipad", 422, "validation_failed", "amenities"),
        ("instant_book=maybe", 400, "invalid_parameter", "instant_book"),
        ("host_id=me", 400, "invalid_parameter", "host_id"),
        ("mine=yes", 400, "invalid_parameter", "mine"),
        ("limit=0", 400, "invalid_parameter", "limit"),
        ("limit=101", 400, "invalid_parameter", "limit"),
        ("cursor=nonsense", 400, "invalid_cursor", "cursor"),
        ("check_in=tomorrow", 400, "invalid_parameter", "check_in"),
        (
            "check_in=2027-02-30&check_out=2027-03-01",
            400,
            "invalid_parameter",
            "check_in",
        ),
        (&format!("check_in={today}"), 422, "validation_failed", "check_out"),
        (&format!("check_out={today}"), 422, "validation_failed", "check_in"),
        (
            &format!("check_in={tomorrow}&check_out={tomorrow}"),
            422,
            "validation_failed",
            "check_out",
        ),
        (
            &format!("check_in={tomorrow}&check_out={today}"),
            422,
            "validation_failed",
            "check_out",
        ),
        (
            &format!("check_in={yesterday}&check_out={tomorrow}"),
            422,
            "validation_failed",
            "check_in",
        ),
        (
            &format!("check_in={}&check_out={}", app.day(500), app.day(503)),
            422,
            "validation_failed",
            "check_out",
        ),
        (
            &format!("check_in={today}&check_out={}", app.day(366)),
            422,
            "validation_failed",
            "check_out",
        ),
        (
            "check_in=%2B262142-12-31&check_out=%2B262142-12-31",
            422,
            "validation_failed",
            "check_out",
        ),
    ] {
        let reply = app.get(&format!("/properties/?{query}")).send().await;
        assert_eq!(reply.status, status, "{query}: {}", reply.text());
        reply.refused_field(status, code, field);
    }
    app.get("/properties/?city=%00")
        .send()
        .await
        .refused(400, "invalid_text");
}
