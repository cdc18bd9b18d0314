//! Searches that Postgres gives up: told as what they are, with what to do about it.

use std::str::FromStr;

use roost_shared::db::Db;
use roost_shared::operators::Role;
use roost_tests::app::TestApp;
use roost_tests::ops::Dashboard;
use serde_json::{Value, json};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

const TOO_SLOW: &str = "This search takes too long: narrow it by kind, state or time.";

#[tokio::test(flavor = "multi_thread")]
async fn a_search_that_takes_too_long_says_so_wherever_it_is_asked_for() {
    let app = TestApp::start().await;
    // As a table too large to look through does, one that is locked keeps a search waiting for longer than it may.
    let impatient = PgConnectOptions::from_str(app.database_url())
        .unwrap()
        .options([("statement_timeout", "2s")]);
    let mut state = app.state.clone();
    state.db = Db::new(
        PgPoolOptions::new().connect_lazy_with(impatient),
        app.state.db.publisher().clone(),
        app.clock.clone(),
    );
    let ops = Dashboard::start(&state).await;
    let operator = ops.signed_in(Role::Operator).await;
    let http = reqwest::Client::new();
    let url = |path: &str| format!("{}/ops/api{path}", ops.base);
    let token = ops.token("operator@ops.example.com").await;

    let mut lock = app.state.db.pool().begin().await.unwrap();
    sqlx::query("LOCK TABLE effects IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *lock)
        .await
        .unwrap();
    operator.get("/ops/jobs?effect=unknown").await.is(200).says(TOO_SLOW);
    let preview = operator.get("/ops/jobs/bulk?all=1&action=retry&effect=unknown").await;
    preview.is(422).says(TOO_SLOW);
    let asked = [
        http.get(url("/jobs?effect=unknown")),
        http.get(url("/bulk/preview?action=retry&effect=unknown")),
        http.post(url("/bulk"))
            .json(&json!({"action": "retry", "effect": "unknown", "reason": "Stripe is back"})),
    ];
    for request in asked {
        let reply = request.bearer_auth(&token).send().await.unwrap();
        assert_eq!(reply.status().as_u16(), 422);
        let problem: Value = reply.json().await.unwrap();
        assert_eq!(
            (&problem["code"], &problem["errors"][0]["field"], &problem["detail"]),
            (&json!("search_too_slow"), &json!("q"), &json!(TOO_SLOW)),
            "{problem}"
        );
    }
    drop(lock);
    operator
        .get("/ops/jobs?effect=unknown")
        .await
        .is(200)
        .is_silent_about(TOO_SLOW);
}
