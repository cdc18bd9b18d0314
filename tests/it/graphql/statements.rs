//! How many statements a request runs, as Postgres counts them: as many for fifty items as for one.

use roost_tests::app::{Actor, Call, TestApp};
use roost_tests::statements::Statements;
use serde_json::{Value, json};
use sqlx::PgPool;

use super::{ask, data};

/// What a query of this guest ran, and what it answered.
async fn run(statements: &Statements<'_>, call: Call) -> (Vec<String>, Value) {
    let (ran, reply) = statements.of(call).await;
    (ran, data(&reply))
}

/// Fifty bookings of fifty flats of different hosts, each with a payment, a refund and a timeline.
async fn fifty_bookings(app: &TestApp, guest: &Actor) {
    let pool: &PgPool = app.state.db.pool();
    let host = app.host().await;
    let flat = app.lists(&host, json!({})).await;
    let stay = json!({
        "property_id": flat, "check_in": app.day(30), "check_out": app.day(33), "guests": 2, "payment_method": "pm_card_visa",
    });
    app.post("/bookings", stay).by(guest).send().await.expect(201);
    sqlx::raw_sql(include_str!("fifty_bookings.sql"))
        .execute(pool)
        .await
        .unwrap();
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM bookings")
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(count, 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_bookings_with_all_that_belongs_to_them_take_six_statements_at_most() {
    let app = TestApp::start().await;
    let guest = app.guest().await;
    fifty_bookings(&app, &guest).await;
    let statements = Statements::counted(&app).await;
    let query = "query($first: Int!) { bookings(first: $first) { nodes {
        id state property { title } host { firstName } payment { state amountMinor }
        reviews { rating text author { firstName } }
    } } }";
    let (ran, answered) = run(&statements, ask(&app, query, &json!({"first": 50})).by(&guest)).await;
    let nodes = answered["bookings"]["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 50);
    let mut hosts: Vec<&str> = nodes
        .iter()
        .map(|node| node["host"]["firstName"].as_str().unwrap())
        .collect();
    hosts.sort_unstable();
    hosts.dedup();
    assert!(hosts.len() > 40, "{hosts:?}");
    assert!(nodes.iter().all(|node| node["reviews"][0]["rating"] == 5), "{nodes:?}");
    // Bookings, properties, users, payments, reviews.
    assert_eq!(ran.len(), 5, "{ran:#?}");
    let (one, _) = run(&statements, ask(&app, query, &json!({"first": 1})).by(&guest)).await;
    assert_eq!(one.len(), 5, "{one:#?}");

    let more = "{ bookings(first: 50) { nodes {
        id state property { title host { firstName } } host { firstName } guest { firstName }
        payment { state amountMinor } paymentState propertyTitle reviews { rating text author { firstName } }
    } } }";
    let (ran, answered) = run(&statements, ask(&app, more, &json!({})).by(&guest)).await;
    let nodes = answered["bookings"]["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 50);
    assert!(
        nodes
            .iter()
            .all(|node| node["payment"]["state"] == node["paymentState"])
    );
    assert!(
        nodes
            .iter()
            .all(|node| node["property"]["title"] == node["propertyTitle"])
    );
    // Hosts of properties that are read before the hosts of bookings are asked for once more, all together.
    assert!((5..=6).contains(&ran.len()), "{}: {ran:#?}", ran.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_nested_is_gathered_too() {
    let app = TestApp::start().await;
    let guest = app.guest().await;
    fifty_bookings(&app, &guest).await;
    let statements = Statements::counted(&app).await;
    let query = "{ payments(first: 50) { nodes {
        refunds { amountMinor } attempts { key } booking { timeline { event } cancellationQuote { rule } }
    } } }";
    let (ran, answered) = run(&statements, ask(&app, query, &json!({})).by(&guest)).await;
    let nodes = answered["payments"]["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 50);
    assert!(
        nodes
            .iter()
            .all(|node| node["booking"]["timeline"][0]["event"] == "requested"),
        "{nodes:?}"
    );
    assert!(
        nodes
            .iter()
            .all(|node| node["booking"]["cancellationQuote"]["rule"] == "not_confirmed")
    );
    // Payments, refunds, attempts, bookings, timelines.
    assert_eq!(ran.len(), 5, "{ran:#?}");
    // As deep as a request may go, payments, bookings and payments of bookings: what was read once is not read again.
    let deepest = "{ payments(first: 50) { nodes { booking { payment { booking { payment { booking { payment { booking { id } } } } } } } } } }";
    let (ran, _) = run(&statements, ask(&app, deepest, &json!({})).by(&guest)).await;
    assert_eq!(ran.len(), 3, "{ran:#?}");

    let told = "{ notifications(first: 50) { nodes { event booking { id state property { title } } } } }";
    let (ran, answered) = run(&statements, ask(&app, told, &json!({})).by(&guest)).await;
    let nodes = answered["notifications"]["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 50);
    assert!(
        nodes
            .iter()
            .all(|node| node["booking"]["property"]["title"].is_string())
    );
    // Notifications, bookings, properties.
    assert_eq!(ran.len(), 3, "{ran:#?}");
    let found = "{ properties(first: 50) { nodes { title host { firstName } } } }";
    let (ran, answered) = run(&statements, ask(&app, found, &json!({})).by(&guest)).await;
    assert_eq!(answered["properties"]["nodes"].as_array().unwrap().len(), 50);
    // Properties, users.
    assert_eq!(ran.len(), 2, "{ran:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn reviews_with_their_authors_and_reports_with_their_reviews_are_read_at_once() {
    let app = TestApp::start().await;
    let (guest, moderator) = (app.guest().await, app.guest().await);
    fifty_bookings(&app, &guest).await;
    let pool: &PgPool = app.state.db.pool();
    // Each by somebody else; all reported.
    sqlx::raw_sql(
        "UPDATE reviews SET author_id = subject_id, subject_id = author_id;
         INSERT INTO review_reports (review_id, reporter_id, reason, created_at)
             SELECT id, subject_id, 'spam', created_at FROM reviews",
    )
    .execute(pool)
    .await
    .unwrap();
    assert!(
        roost_shared::users::set_moderator(pool, &moderator.email, true)
            .await
            .unwrap()
    );
    let statements = Statements::counted(&app).await;
    let one_review = "id rating text side state author { id firstName } answer { text } categories { value }";
    let authors = |reviews: Vec<&Value>| {
        let ids = reviews.into_iter().map(|review| {
            assert!(review["author"]["firstName"].is_string(), "{review}");
            review["author"]["id"].as_str().unwrap().to_owned()
        });
        ids.collect::<std::collections::BTreeSet<_>>().len()
    };

    // One statement, for fifty as for one.
    let query = format!("query($first: Int!) {{ reviews(first: $first) {{ nodes {{ {one_review} }} }} }}");
    for (first, reader) in [(50, Some(&guest)), (1, Some(&guest)), (50, None)] {
        let asked = ask(&app, &query, &json!({"first": first}));
        let (ran, answered) = run(
            &statements,
            match reader {
                Some(reader) => asked.by(reader),
                None => asked,
            },
        )
        .await;
        let nodes = answered["reviews"]["nodes"].as_array().unwrap();
        assert_eq!(authors(nodes.iter().collect()), first, "{nodes:?}");
        assert_eq!(ran.len(), 1, "{ran:#?}");
    }

    // Whether somebody is a moderator, and the reports with reviews and authors.
    let query = format!(
        "query($first: Int!) {{ reviewReports(first: $first) {{ nodes {{ reason review {{ {one_review} }} }} }} }}"
    );
    for first in [50, 1] {
        let asked = ask(&app, &query, &json!({"first": first}));
        let (ran, answered) = run(&statements, asked.by(&moderator)).await;
        let nodes = answered["reviewReports"]["nodes"].as_array().unwrap();
        assert_eq!(
            authors(nodes.iter().map(|node| &node["review"]).collect()),
            first,
            "{nodes:?}"
        );
        assert_eq!(ran.len(), 2, "{ran:#?}");
    }
}
