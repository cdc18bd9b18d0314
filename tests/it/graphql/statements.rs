//! How many statements a request runs: as many for fifty items as for one.

use std::sync::{Arc, LazyLock, Mutex};

use roost_tests::app::{Actor, TestApp};
use serde_json::{Value, json};
use sqlx::PgPool;
use tracing::field::{Field, Visit};
use tracing::{Dispatch, Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use super::{ask, data};

/// With one subscriber alone, what another thread reports first would be switched off for this one as well.
static ANOTHER: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(tracing_subscriber::registry()));

/// Collects the statements that sqlx reports on this thread: the test's runtime has no other.
#[derive(Clone, Default)]
struct Statements(Arc<Mutex<Vec<String>>>);

#[derive(Default)]
struct Summary(String);

impl Visit for Summary {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "summary" {
            self.0 = format!("{value:?}");
        }
    }
}

impl<S: Subscriber> Layer<S> for Statements {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() == "sqlx::query" {
            let mut summary = Summary::default();
            event.record(&mut summary);
            self.0.lock().unwrap().push(summary.0);
        }
    }
}

impl Statements {
    /// What `query` ran, and what it answered.
    async fn of(app: &TestApp, actor: &Actor, query: &str, variables: &Value) -> (Vec<String>, Value) {
        LazyLock::force(&ANOTHER);
        let statements = Self::default();
        let _seen = tracing::subscriber::set_default(tracing_subscriber::registry().with(statements.clone()));
        let reply = ask(app, query, variables).by(actor).send().await;
        let ran = statements.0.lock().unwrap().clone();
        (ran, data(&reply))
    }
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

#[tokio::test]
async fn fifty_bookings_with_all_that_belongs_to_them_take_six_statements_at_most() {
    let app = TestApp::start().await;
    let guest = app.guest().await;
    fifty_bookings(&app, &guest).await;
    let query = "query($first: Int!) { bookings(first: $first) { nodes {
        id state property { title host { firstName } } host { firstName } guest { firstName }
        payment { state amountMinor } paymentState propertyTitle reviews { rating text author { firstName } }
    } } }";
    let (ran, answered) = Statements::of(&app, &guest, query, &json!({"first": 50})).await;
    let nodes = answered["bookings"]["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 50);
    let mut hosts: Vec<&str> = nodes
        .iter()
        .map(|node| node["host"]["firstName"].as_str().unwrap())
        .collect();
    hosts.sort_unstable();
    hosts.dedup();
    assert!(hosts.len() > 40, "{hosts:?}");
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
    assert!(nodes.iter().all(|node| node["reviews"][0]["rating"] == 5), "{nodes:?}");
    // Bookings, properties, users, payments, reviews; a batch may be cut in two by a slow machine.
    assert!((5..=6).contains(&ran.len()), "{}: {ran:#?}", ran.len());
    let (one, _) = Statements::of(&app, &guest, query, &json!({"first": 1})).await;
    assert_eq!(one.len(), 5, "{one:#?}");
}

#[tokio::test]
async fn what_is_nested_is_gathered_too() {
    let app = TestApp::start().await;
    let guest = app.guest().await;
    fifty_bookings(&app, &guest).await;
    let query = "{ payments(first: 50) { nodes {
        refunds { amountMinor } attempts { key } booking { timeline { event } cancellationQuote { rule } }
    } } }";
    let (ran, answered) = Statements::of(&app, &guest, query, &json!({})).await;
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
    assert!((5..=7).contains(&ran.len()), "{}: {ran:#?}", ran.len());
    // As deep as a request may go: what was read once is not read again.
    let deepest = "{ payments(first: 50) { nodes { booking { payment { booking { payment { booking { payment { booking { id } } } } } } } } } }";
    let (ran, _) = Statements::of(&app, &guest, deepest, &json!({})).await;
    assert!((3..=5).contains(&ran.len()), "{}: {ran:#?}", ran.len());
}
