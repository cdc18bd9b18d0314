//! Whatever is done to a job that moves money has to say why.

use reqwest::Method;
use roost_shared::operators::Role;
use roost_tests::app::TestApp;
use roost_tests::ops::Dashboard;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{all_there_is, put};

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_done_to_a_job_of_money_without_a_word() {
    let app = TestApp::start().await;
    let pool = app.state.db.pool();
    let ops = Dashboard::start(&app.state).await;
    let admin = ops.signed_in(Role::Admin).await;
    let script = ops.script("admin@ops.example.com").await;
    let payment = || json!({"payment_id": Uuid::now_v7()});
    for (verb, state) in [
        ("retry", "dead"),
        ("retry", "quarantined"),
        ("retry", "cancelled"),
        ("run", "scheduled"),
        ("run", "retrying"),
        ("cancel", "queued"),
        ("cancel", "scheduled"),
        ("cancel", "running"),
        ("delete", "dead"),
        ("delete", "succeeded"),
        ("edit", "dead"),
        ("edit", "scheduled"),
    ] {
        let job = put(pool, "payment.capture", state, payment(), None).await;
        let args = payment();
        let text = args.to_string();
        let (method, path, mut body) = match verb {
            "edit" => (Method::PUT, format!("/jobs/{job}/args"), json!({ "args": args })),
            _ => (Method::POST, format!("/jobs/{job}/{verb}"), json!({})),
        };
        let page = format!("/ops/jobs/{job}/{verb}");
        let before = all_there_is(pool).await;
        for reason in [None, Some(""), Some("  \t ")] {
            let mut form = vec![("args", text.as_str())];
            form.extend(reason.map(|reason| ("reason", reason)));
            let refused = admin.post(&page, &form).await.is(422);
            refused.says("this touches money: say why");
            body["reason"] = json!(reason);
            let (status, problem) = script.send(method.clone(), &path, &body).await;
            let fields: Vec<&Value> = problem["errors"]
                .as_array()
                .unwrap()
                .iter()
                .map(|error| &error["field"])
                .collect();
            assert_eq!(
                (status, fields),
                (422, vec![&json!("reason")]),
                "{verb} {state}: {problem}"
            );
            assert_eq!(all_there_is(pool).await, before, "{verb} {state}");
        }
        // With one it is done, so it is the reason that was missing.
        body["reason"] = json!("the guest rang");
        let (status, told) = script.send(method, &path, &body).await;
        assert_eq!(status, 200, "{verb} {state}: {told}");
        assert_ne!(all_there_is(pool).await["jobs"], before["jobs"], "{verb} {state}");
        let written: (String, Option<String>) =
            sqlx::query_as("SELECT action, reason FROM operator_audit WHERE job_id = $1")
                .bind(job)
                .fetch_one(pool)
                .await
                .unwrap();
        assert_eq!(written, (format!("job.{verb}"), Some("the guest rang".to_owned())));
    }
}
