//! An action and its entry in the audit log are one: where the entry cannot be written, nothing is done, and that is said.

use reqwest::Method;
use roost_shared::operators::Role;
use roost_tests::app::TestApp;
use roost_tests::ops::Dashboard;
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use super::{a_warm_cache, all_there_is, fires_in_an_hour, is_in_doubt_about, put, shows_itself};

/// An action by its form, and by a script.
struct Action {
    page: String,
    form: Vec<(&'static str, String)>,
    method: Method,
    path: String,
    body: Value,
}

fn action(page: String, form: &[(&'static str, &str)], (method, path): (Method, String), body: Value) -> Action {
    Action {
        page,
        form: form.iter().map(|(name, value)| (*name, (*value).to_owned())).collect(),
        method,
        path,
        body,
    }
}

/// The path of one that pages and scripts know by the same.
fn alike(path: String, form: &[(&'static str, &str)], body: Value) -> Action {
    action(format!("/ops{path}"), form, (Method::POST, path), body)
}

/// Everything that an admin may do, each to a thing of its own.
async fn actions(pool: &PgPool) -> Vec<Action> {
    shows_itself(pool, "w-1", &["cache"]).await;
    fires_in_an_hour(pool, "outbox.prune").await;
    fires_in_an_hour(pool, "stays.complete").await;
    let mut actions = Vec::new();
    let why = [("reason", "the cache moves")];
    for (verb, state) in [
        ("retry", "dead"),
        ("run", "scheduled"),
        ("cancel", "scheduled"),
        ("cancel", "running"),
        ("delete", "dead"),
    ] {
        let job = put(pool, "cache.warm", state, a_warm_cache(), Some("no answer")).await;
        let path = format!("/jobs/{job}/{verb}");
        actions.push(alike(path, &why, json!({"reason": "the cache moves"})));
    }
    let job = put(pool, "cache.warm", "dead", a_warm_cache(), None).await;
    let args = a_warm_cache();
    actions.push(action(
        format!("/ops/jobs/{job}/edit"),
        &[("args", &args.to_string())],
        (Method::PUT, format!("/jobs/{job}/args")),
        json!({ "args": args }),
    ));
    for verb in ["pause", "resume"] {
        actions.push(alike(format!("/queues/cache/{verb}"), &[], json!({})));
    }
    actions.push(action(
        "/ops/queues/cache/settings".to_owned(),
        &[("concurrency", "3"), ("target_seconds", "120"), ("weight", "4")],
        (Method::PUT, "/settings/queues/cache".to_owned()),
        json!({"concurrency": 3, "target_seconds": 120, "weight": 4}),
    ));
    actions.push(action(
        "/ops/kinds/mail.send/limits".to_owned(),
        &[("rate_limit", "5"), ("rate_seconds", "60")],
        (Method::PUT, "/settings/kinds/mail.send".to_owned()),
        json!({"rate_limit": 5, "rate_seconds": 60}),
    ));
    actions.push(action(
        "/ops/retention/dead".to_owned(),
        &[("days", "30")],
        (Method::PUT, "/settings/retention/dead".to_owned()),
        json!({"keep_seconds": 2_592_000}),
    ));
    for wish in ["quiet", "resume", "stop"] {
        actions.push(alike(format!("/workers/w-1/{wish}"), &[], json!({})));
    }
    actions.push(alike("/schedules/outbox.prune/run".to_owned(), &[], json!({})));
    actions.push(action(
        "/ops/schedules/stays.complete/settings".to_owned(),
        &[("paused", "on")],
        (Method::PUT, "/schedules/stays.complete".to_owned()),
        json!({"paused": true}),
    ));
    let ticked = put(pool, "cache.warm", "dead", a_warm_cache(), None).await;
    actions.push(action(
        "/ops/jobs/bulk".to_owned(),
        &[("action", "retry"), ("id", &ticked.to_string())],
        (Method::POST, "/bulk".to_owned()),
        json!({"action": "retry", "ids": [ticked], "reason": "the cache is back"}),
    ));
    // The last, because they make jobs.
    let payment = json!({"payment_id": Uuid::now_v7()});
    let capture = put(pool, "payment.capture", "dead", payment, None).await;
    is_in_doubt_about(pool, capture).await;
    actions.push(alike(format!("/jobs/{capture}/ask"), &[], json!({})));
    actions.push(action(
        "/ops/jobs/bulk".to_owned(),
        &[
            ("action", "cancel"),
            ("all", "1"),
            ("filter", "kind=cache.warm"),
            ("expected", "3"),
            ("reason", "the cache is gone"),
        ],
        (Method::POST, "/bulk".to_owned()),
        json!({"action": "cancel", "kind": "cache.warm", "reason": "the cache is gone"}),
    ));
    actions
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_written_down_is_not_done() {
    let app = TestApp::start().await;
    let pool = app.state.db.pool();
    let ops = Dashboard::start(&app.state).await;
    let admin = ops.signed_in(Role::Admin).await;
    let script = ops.script("admin@ops.example.com").await;
    let actions = actions(pool).await;
    for sql in [
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'the disk is full'; END $$",
        "CREATE TRIGGER refuse BEFORE INSERT ON operator_audit FOR EACH ROW EXECUTE FUNCTION refuse()",
    ] {
        sqlx::query(sql).execute(pool).await.unwrap();
    }
    let before = all_there_is(pool).await;
    for action in &actions {
        let form: Vec<(&str, &str)> = action
            .form
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let page = admin.post(&action.page, &form).await.is(500);
        page.says("Nothing was changed.");
        let (status, problem) = script.send(action.method.clone(), &action.path, &action.body).await;
        assert_eq!((status, &problem["code"]), (500, &json!("internal")), "{}", action.path);
        assert_eq!(all_there_is(pool).await, before, "{}", action.path);
    }

    // And each of them is one that would have changed something.
    sqlx::query("DROP TRIGGER refuse ON operator_audit")
        .execute(pool)
        .await
        .unwrap();
    let mut before = before;
    for action in &actions {
        let form: Vec<(&str, &str)> = action
            .form
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        admin.post(&action.page, &form).await.is(303);
        let after = all_there_is(pool).await;
        assert_eq!(
            after["audit"].as_i64(),
            before["audit"].as_i64().map(|entries| entries + 1),
            "{}",
            action.page
        );
        let mut same = after.clone();
        same["audit"] = before["audit"].clone();
        assert_ne!(same, before, "{}", action.page);
        before = after;
    }
}
