//! One job, on its page and as a script sees it.

use reqwest::Client;
use roost_shared::operators::Role;
use roost_tests::app::TestApp;
use roost_tests::ops::Dashboard;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{a_warm_cache, put};

#[tokio::test(flavor = "multi_thread")]
async fn an_error_is_shown_as_it_was_written() {
    let app = TestApp::start().await;
    let pool = app.state.db.pool();
    let error = "could not send: the server said: 421 see https://mail.example/busy: come back\n  at 12:30: or later";
    let id = put(pool, "mail.send", "dead", json!({}), Some(error)).await;
    sqlx::query(
        "INSERT INTO job_attempts (job_id, job_kind, fence, attempt, worker, started_at, ended_at, outcome, error)
         VALUES ($1, 'mail.send', 1, 1, 'w', now(), now(), 'failed', $2)",
    )
    .bind(id)
    .bind(error)
    .execute(pool)
    .await
    .unwrap();
    let ops = Dashboard::start(&app.state).await;
    let viewer = ops.signed_in(Role::Viewer).await;
    let page = viewer.get(&format!("/ops/jobs/{id}")).await.is(200);
    page.says(&format!("<p class=\"wrong whole\">{error}</p>"));
    page.says(&format!("<span class=\"whole\">{error}</span>"));
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_get_the_arguments_that_they_may_replace_and_the_parent() {
    let app = TestApp::start().await;
    let pool = app.state.db.pool();
    let ops = Dashboard::start(&app.state).await;
    let args = json!({"payment_id": Uuid::now_v7(), "email": "ada@example.com"});
    let of = async |kind: &str, state: &str| put(pool, kind, state, args.clone(), None).await;
    let dead = of("payment.capture", "dead").await;
    let done = of("payment.capture", "succeeded").await;
    let running = of("payment.capture", "running").await;
    let strange = of("of.another.build", "dead").await;
    let parent = put(pool, "booking.confirm", "succeeded", a_warm_cache(), None).await;
    sqlx::query("UPDATE jobs SET parent_id = CASE id WHEN $1 THEN $3 ELSE gen_random_uuid() END WHERE id IN ($1, $2)")
        .bind(dead)
        .bind(done)
        .bind(parent)
        .execute(pool)
        .await
        .unwrap();
    for role in [Role::Viewer, Role::Operator, Role::Admin] {
        let browser = ops.signed_in(role).await;
        let token = ops.token(&format!("{}@ops.example.com", role.name())).await;
        for id in [dead, done, running, strange] {
            let sent = Client::new()
                .get(format!("{}/ops/api/jobs/{id}", ops.base))
                .bearer_auth(&token);
            let job: Value = sent.send().await.unwrap().json().await.unwrap();
            assert_eq!(job["args"]["email"], "•••", "{job}");
            let page = browser.get(&format!("/ops/jobs/{id}")).await.is(200);
            if role == Role::Admin && id == dead {
                assert_eq!(job["editable_args"], args, "{job}");
                page.says("ada@example.com");
            } else {
                assert_eq!(job["editable_args"], Value::Null, "{job}");
                page.is_silent_about("ada@example.com");
            }
            let expected = if id == dead {
                json!({"id": parent, "kind": "booking.confirm", "state": "succeeded"})
            } else {
                Value::Null
            };
            assert_eq!(job["parent"], expected, "{job}");
            // The id stays when the job itself is gone.
            assert_eq!(job["parent_id"].is_string(), id == dead || id == done, "{job}");
        }
    }
}
