//! What the dashboard's document offers beyond looking is refused to a viewer, whatever it is.

use roost_shared::operators::{Role, audit};
use roost_tests::app::TestApp;
use roost_tests::ops::Dashboard;
use serde_json::{Value, json};
use uuid::Uuid;

use super::Described;
use super::spoilt::fitting;
use crate::ops::put;

/// Everybody signs in and out and looks after their own account.
fn is_their_own(path: &str) -> bool {
    path.starts_with("/session") || path.starts_with("/account")
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_changes_anything_is_refused_to_a_viewer() {
    let app = TestApp::start().await;
    let pool = app.state.db.pool();
    let dashboard = Dashboard::start(&app.state).await;
    let job = put(pool, "cache.warm", "dead", json!({"property_id": Uuid::now_v7()}), None).await;
    sqlx::query(
        "INSERT INTO workers (name, host, version, queues, concurrency, started_at, seen_at)
         VALUES ('w-1', 'rack-7', '1.0', '{cache}', 8, now(), now())",
    )
    .execute(pool)
    .await
    .unwrap();
    let operator = dashboard.signed_in(Role::Operator).await;
    let all = [
        ("action", "retry"),
        ("all", "1"),
        ("filter", ""),
        ("expected", "1"),
        ("reason", "the cache is back"),
    ];
    let bulk = operator.post("/ops/jobs/bulk", &all).await.is(303).location;
    let bulk = bulk
        .trim_start_matches("/ops/bulk/")
        .split('?')
        .next()
        .unwrap()
        .to_owned();
    let entries = audit::list(pool, None, 100).await.unwrap().len();

    let mut viewer = Described::dashboard_of(&dashboard, Role::Viewer).await;
    viewer.known.extend([
        ("job_id", job.to_string()),
        ("action_id", bulk),
        ("name", "w-1".to_owned()),
        ("state", "succeeded".to_owned()),
    ]);
    let mut refused = Vec::new();
    let operations = viewer.operations();
    for operation in &operations {
        if operation.method == "GET" || is_their_own(operation.path) {
            continue;
        }
        let body = operation.body_schema().map(|schema| fitting(&viewer, schema));
        // What is chosen from a few words is asked for with each of them; a name is one of its collection.
        let chosen = operation.parameters("path").find_map(|parameter| {
            Some((
                parameter["name"].as_str()?,
                viewer.resolve(&parameter["schema"])["enum"].as_array()?,
            ))
        });
        let name = match operation.path {
            path if path.starts_with("/schedules/") => "outbox.prune",
            path if path.starts_with("/settings/kinds/") => "cache.warm",
            _ => "cache",
        };
        let replaced: Vec<(&str, &str)> = match chosen {
            Some((parameter, words)) => words.iter().map(|word| (parameter, word.as_str().unwrap())).collect(),
            None => vec![("name", name)],
        };
        for replaced in replaced {
            let mut call = operation.call(Some(replaced), "");
            if let Some(body) = &body {
                call = call.json(body);
            }
            let reply = call.send().await;
            assert_eq!(
                (reply.status, &reply.json()["code"]),
                (403, &json!("forbidden")),
                "{} {replaced:?}: {}",
                operation.id,
                reply.text()
            );
            refused.push((operation.id, replaced.1));
        }
    }
    let asked: Vec<&str> = refused.iter().map(|(id, _)| *id).collect();
    for known in [
        "ops_ask_stripe",
        "ops_edit_job",
        "ops_begin_bulk",
        "ops_stop_bulk",
        "ops_pause_queue",
        "ops_set_queue",
        "ops_limit_kind",
        "ops_set_retention",
        "ops_run_schedule",
        "ops_set_schedule",
    ] {
        assert!(asked.contains(&known), "{known} is not among {asked:?}");
    }
    for word in ["retry", "run", "cancel", "delete"] {
        assert!(refused.contains(&("ops_act_on_job", word)), "{word}: {refused:?}");
    }
    let since = audit::list(pool, None, 100).await.unwrap();
    let since: Vec<&str> = since[..since.len() - entries]
        .iter()
        .map(|one| one.action.as_str())
        .collect();
    // They were made and signed in.
    assert_eq!(since, ["operator.sign_in", "operator.create"]);
    let state: Value = sqlx::query_scalar("SELECT to_jsonb(state) FROM jobs WHERE id = $1")
        .bind(job)
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(state, "dead");
}
