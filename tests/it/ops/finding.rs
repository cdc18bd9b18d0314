//! What a search finds: exactly the jobs that it asks for, the newest first, on the page as for scripts.

use chrono::{DateTime, TimeDelta, Utc};
use roost_shared::ids;
use roost_shared::jobs::kinds;
use roost_shared::operators::Role;
use roost_tests::app::TestApp;
use roost_tests::ops::Dashboard;
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

/// Noon of a day, and so many hours later.
fn hour(hours: i64) -> DateTime<Utc> {
    "2024-06-10T12:00:00Z".parse::<DateTime<Utc>>().unwrap() + TimeDelta::hours(hours)
}

/// A job that was enqueued then.
async fn enqueued(pool: &PgPool, at: DateTime<Utc>, kind: &str, state: &str, args: &Value) -> Uuid {
    let id = ids::new(at);
    let queue = kinds::kind(kind).map_or("payments", |kind| kind.queue.name());
    sqlx::query(
        "INSERT INTO jobs (id, kind, queue, priority, args, state, run_at, attempt, max_attempts, created_at, finished_at)
         VALUES ($1, $2, $3, 50, $4, $5, $6, 1, 3, $6, CASE WHEN $5 <> 'running' THEN $6 END)",
    )
    .bind(id)
    .bind(kind)
    .bind(queue)
    .bind(args)
    .bind(state)
    .bind(at)
    .execute(pool)
    .await
    .unwrap();
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_finds_what_it_asks_for_and_nothing_else() {
    let app = TestApp::start().await;
    let pool = app.state.db.pool();
    let ops = Dashboard::start(&app.state).await;
    let viewer = ops.signed_in(Role::Viewer).await;
    let script = ops.script("viewer@ops.example.com").await;
    let (ada, ben) = (Uuid::now_v7(), Uuid::now_v7());
    let mut jobs = Vec::new();
    for (kind, state, args) in [
        ("mail.send", "dead", json!({"mail": "verify-email", "subject_id": ada})),
        (
            "mail.send",
            "succeeded",
            json!({"mail": "reset-password", "subject_id": ada}),
        ),
        ("mail.send", "dead", json!({"mail": "verify-email", "subject_id": ben})),
        ("cache.warm", "dead", json!({"property_id": ada})),
        ("payment.capture", "dead", json!({"payment_id": ben})),
        ("payment.capture", "running", json!({"payment_id": Uuid::now_v7()})),
        ("of.another.build", "dead", json!({"number": 7, "mail": "verify-email"})),
        (
            "payment.capture",
            "succeeded",
            json!({"payment_id": Uuid::now_v7(), "number": 70}),
        ),
    ] {
        let at = hour(i64::try_from(jobs.len()).unwrap());
        jobs.push(enqueued(pool, at, kind, state, &args).await);
    }
    let in_args = |args: Value| {
        let args: String = form_urlencoded::byte_serialize(args.to_string().as_bytes()).collect();
        format!("q={args}")
    };
    let at = |hours: i64| hour(hours).format("%Y-%m-%dT%H:%M:%SZ");
    for (query, found) in [
        // Arguments.
        (in_args(json!({"mail": "verify-email"})), &[6, 2, 0][..]),
        (in_args(json!({"mail": "verify-email", "subject_id": ada})), &[0]),
        (in_args(json!({"subject_id": ada})), &[1, 0]),
        (in_args(json!({"property_id": ada})), &[3]),
        (in_args(json!({"number": 7})), &[6]),
        (in_args(json!({"mail": "verify"})), &[]),
        (
            format!(
                "{}&state=dead&queue=notifications",
                in_args(json!({"mail": "verify-email"}))
            ),
            &[2, 0],
        ),
        (format!("{}&kind=mail.send", in_args(json!({"number": 7}))), &[]),
        // Time: at or after, and before.
        (format!("from={}&to={}", at(2), at(5)), &[4, 3, 2]),
        (format!("from={}", at(5)), &[7, 6, 5]),
        (format!("to={}", at(1)), &[0]),
        (format!("from={}", at(8)), &[]),
        (format!("from={}&to={}&state=dead", at(1), at(6)), &[4, 3, 2]),
        (
            format!("from={}&to={}&state=dead,running&queue=payments", at(5), at(8)),
            &[6, 5],
        ),
        (format!("from={}&kind=payment.capture", at(5)), &[7, 5]),
        (
            format!("to={}&{}", at(2), in_args(json!({"mail": "verify-email"}))),
            &[0],
        ),
        // Queue and state.
        ("queue=payments&state=dead".to_owned(), &[6, 4]),
        ("queue=payments&state=dead,running".to_owned(), &[6, 5, 4]),
        ("queue=payments&state=running".to_owned(), &[5]),
        ("queue=notifications&state=dead".to_owned(), &[2, 0]),
        ("queue=notifications&state=succeeded".to_owned(), &[1]),
        ("queue=cache&state=dead".to_owned(), &[3]),
        ("queue=maintenance&state=dead".to_owned(), &[]),
        ("queue=payments".to_owned(), &[7, 6, 5, 4]),
        ("state=succeeded".to_owned(), &[7, 1]),
    ] {
        let found: Vec<String> = found.iter().map(|at: &usize| jobs[*at].to_string()).collect();
        let told = script.get(&format!("/jobs?{query}")).await;
        let told: Vec<&str> = told["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|job| job["id"].as_str().unwrap())
            .collect();
        assert_eq!(told, found, "{query}");
        let page = viewer.get(&format!("/ops/jobs?{query}")).await.is(200);
        let rows = page.html.split("data-href=\"/ops/jobs/").skip(1);
        let rows: Vec<&str> = rows.map(|row| row.split('"').next().unwrap()).collect();
        assert_eq!(rows, found, "{query}");
    }
}
