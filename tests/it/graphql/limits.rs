//! What one request may ask, what a caller may ask in a minute, and what the deployment does not tell.

use roost_tests::app::TestApp;
use serde_json::json;

use super::{ask, data, refused};

const DEEP: &str = "{ bookings { nodes { payment { booking { payment { booking { payment { booking { payment { booking { id } } } } } } } } } } }";
/// Some six thousand points.
const WIDE: &str = "{ bookings(first: 100) { nodes { payment { booking { timeline { event actor at reason } } } timeline { event at } } } }";

fn aliases() -> String {
    let aliases: String = (0..16).map(|number| format!("a{number}: __typename ")).collect();
    format!("{{ {aliases} }}")
}

#[tokio::test]
async fn a_request_that_asks_for_too_much_is_refused_before_it_runs() {
    let app = TestApp::start().await;
    let guest = app.guest().await;
    refused(
        &ask(&app, DEEP, &json!({})).by(&guest).send().await,
        400,
        "query_too_deep",
    );
    let reply = ask(&app, &aliases(), &json!({})).by(&guest).send().await;
    refused(&reply, 400, "too_many_aliases");
    let body = refused(
        &ask(&app, WIDE, &json!({})).by(&guest).send().await,
        400,
        "query_too_complex",
    );
    assert!(body["data"].is_null(), "{body}");
    let fields = "__typename ".repeat(501);
    let reply = ask(&app, &format!("{{ {fields} }}"), &json!({}))
        .by(&guest)
        .send()
        .await;
    refused(&reply, 400, "query_too_complex");
    let directives =
        "{ __typename @skip(if: false) @include(if: true) @skip(if: false) @include(if: true) @skip(if: false) }";
    refused(
        &ask(&app, directives, &json!({})).by(&guest).send().await,
        400,
        "invalid_query",
    );
}

#[tokio::test]
async fn points_come_out_of_the_callers_own_budget() {
    let app = TestApp::start_with(|settings| settings.graphql_points_per_minute = 100).await;
    let (guest, other) = (app.guest().await, app.guest().await);
    let me = || ask(&app, "{ me { id } }", &json!({})).by(&guest).send();
    data(&me().await);
    // Twenty-five bookings with three fields each, and the page itself.
    let dear = "{ bookings(first: 25) { nodes { id state } } }";
    data(&ask(&app, dear, &json!({})).by(&guest).send().await);
    let spent = ask(&app, dear, &json!({})).by(&guest).send().await;
    refused(&spent, 429, "rate_limited");
    let seconds: u64 = spent.header("retry-after").parse().unwrap();
    assert!((1..=60).contains(&seconds), "{seconds}");
    refused(&me().await, 429, "rate_limited");
    // Somebody else, and somebody who is not signed in, have their own.
    data(&ask(&app, "{ me { id } }", &json!({})).by(&other).send().await);
    data(&ask(&app, "{ __typename }", &json!({})).send().await);
}

#[tokio::test]
async fn what_is_refused_costs_as_well() {
    let app = TestApp::start_with(|settings| settings.graphql_points_per_minute = 10).await;
    let batch = json!([{"query": "{ __typename }"}, {"query": "{ __typename }"}, {"query": "{ __typename }"}]);
    for _ in 0..3 {
        refused(
            &app.post("/graphql", batch.clone()).send().await,
            400,
            "batching_refused",
        );
    }
    refused(&app.post("/graphql", batch).send().await, 429, "rate_limited");
    let guest = app.guest().await;
    let nonsense = || ask(&app, "{ nothing", &json!({})).by(&guest).send();
    for _ in 0..10 {
        refused(&nonsense().await, 400, "invalid_query");
    }
    refused(&nonsense().await, 429, "rate_limited");
}

#[tokio::test]
async fn what_is_too_complex_costs_as_much_as_the_dearest_that_is_not() {
    // A point for being read, and the five thousand that an operation may cost.
    let app = TestApp::start_with(|settings| settings.graphql_points_per_minute = 5_001).await;
    let guest = app.guest().await;
    let asks = |query: &'static str| ask(&app, query, &json!({})).by(&guest).send();
    refused(&asks(WIDE).await, 400, "query_too_complex");
    refused(&asks("{ __typename }").await, 429, "rate_limited");

    // Who has not so many left is not told to wait: that makes it no less complex.
    let app = TestApp::start_with(|settings| settings.graphql_points_per_minute = 5_000).await;
    let guest = app.guest().await;
    let asks = |query: &'static str| ask(&app, query, &json!({})).by(&guest).send();
    data(&asks("{ __typename }").await);
    refused(&asks(WIDE).await, 400, "query_too_complex");
    refused(&asks(WIDE).await, 429, "rate_limited");
}

#[tokio::test]
async fn a_shape_that_is_out_of_bounds_costs_a_point() {
    let app = TestApp::start_with(|settings| settings.graphql_points_per_minute = 2).await;
    for (query, code) in [
        (DEEP.to_owned(), "query_too_deep"),
        (aliases(), "too_many_aliases"),
        (format!("{{ {} }}", "__typename ".repeat(501)), "query_too_complex"),
    ] {
        let guest = app.guest().await;
        let asks = || ask(&app, &query, &json!({})).by(&guest).send();
        refused(&asks().await, 400, code);
        refused(&asks().await, 400, code);
        refused(&asks().await, 429, "rate_limited");
    }
}

#[tokio::test]
async fn the_schema_and_the_page_are_shown_only_where_they_are_switched_on() {
    let app = TestApp::start().await;
    for query in [
        "{ __schema { types { name } } }",
        "{ __type(name: \"Booking\") { name } }",
        "{ bookins { nodes { id } } }",
    ] {
        let text = ask(&app, query, &json!({})).send().await;
        let body = refused(&text, 400, "invalid_query");
        assert!(!body.to_string().contains("Did you mean"), "{body}");
    }
    assert_eq!(
        data(&ask(&app, "{ __typename }", &json!({})).send().await)["__typename"],
        "Query"
    );
    app.get("/graphql").send().await.refused(400, "bad_request");

    let open = TestApp::start_with(|settings| {
        settings.graphql_introspection = true;
        settings.graphiql = true;
    })
    .await;
    let reply = ask(&open, include_str!("introspection.graphql"), &json!({}))
        .send()
        .await;
    assert_eq!(data(&reply)["__schema"]["queryType"]["name"], "Query");
    let page = open.get("/graphql").send().await;
    assert_eq!(page.status, 200);
    assert!(page.header("content-type").starts_with("text/html"));
    let policy = page.header("content-security-policy");
    assert!(
        policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"),
        "{policy}"
    );
    assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
    // All that it is made of is ours to give, by the policy and in fact.
    assert!(!policy.contains("//") && !page.text().contains("//"), "{policy}");
    for name in page.text().split("/graphql/assets/").skip(1) {
        let path = format!("/graphql/assets/{}", name.split('"').next().unwrap());
        assert_eq!(open.get(&path).send().await.status, 200, "{path}");
        app.get(&path).send().await.refused(404, "not_found");
    }
    open.get("/graphql/assets/none.js")
        .send()
        .await
        .refused(404, "not_found");
}

#[tokio::test]
async fn replies_are_of_the_type_that_was_asked_for() {
    let app = TestApp::start().await;
    let reply = ask(&app, "{ __typename }", &json!({})).send().await;
    assert_eq!(reply.header("content-type"), "application/json");
    assert_eq!(reply.header("cache-control"), "no-store");
    let reply = ask(&app, "{ __typename }", &json!({}))
        .header("accept", "application/graphql-response+json, application/json;q=0.9")
        .send()
        .await;
    assert_eq!(reply.header("content-type"), "application/graphql-response+json");
}
