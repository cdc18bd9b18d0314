//! The small print of a job, of the cron table and of the workers, which somebody on call goes by.

use chrono::{DateTime, SecondsFormat, Utc};
use roost_shared::operators::Role;
use roost_tests::app::TestApp;
use roost_tests::ops::Dashboard;
use serde_json::{Value, json};

use super::{a_warm_cache, fires_in_an_hour, put, shows_itself};

/// As pages name an instant exactly.
fn exactly(at: DateTime<Utc>) -> String {
    format!("<time datetime=\"{}\"", at.to_rfc3339_opts(SecondsFormat::Millis, true))
}

fn instant(told: &Value) -> DateTime<Utc> {
    told.as_str()
        .unwrap_or_else(|| panic!("{told} is no instant"))
        .parse()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_schedules_and_workers_are_told_in_detail() {
    let app = TestApp::start().await;
    let pool = app.state.db.pool();
    let ops = Dashboard::start(&app.state).await;
    let viewer = ops.signed_in(Role::Viewer).await;
    let script = ops.script("viewer@ops.example.com").await;

    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let job = put(pool, "cache.warm", "dead", a_warm_cache(), Some("no answer")).await;
    sqlx::query("UPDATE jobs SET trace_context = '00-' || $2 || '-00f067aa0ba902b7-01' WHERE id = $1")
        .bind(job)
        .bind(trace)
        .execute(pool)
        .await
        .unwrap();
    for (attempt, worker, seconds) in [(1, "roost-7-4711", 12.4), (2, "roost-8-815", 0.25)] {
        sqlx::query(
            "INSERT INTO job_attempts (job_id, job_kind, fence, attempt, worker, started_at, ended_at, outcome, error)
             VALUES ($1, 'cache.warm', $2, $2, $3, '2030-06-01T12:00:00Z', '2030-06-01T12:00:00Z'::timestamptz + make_interval(secs => $4), 'retry', 'no answer')",
        )
        .bind(job)
        .bind(attempt)
        .bind(worker)
        .bind(seconds)
        .execute(pool)
        .await
        .unwrap();
    }
    let page = viewer.get(&format!("/ops/jobs/{job}")).await.is(200);
    page.says(&format!("<dt>Trace</dt><dd>{trace}</dd>"));
    // The newest first, each with what is its own.
    let attempts: Vec<&str> = page.html.split("<strong>Attempt ").skip(1).collect();
    for (shown, number, took, worker) in [
        (
            attempts[0],
            "2<",
            "took 250 ms, began <time datetime=\"2030-06-01T12:00:00.000Z\"",
            "on roost-8-815<",
        ),
        (
            attempts[1],
            "1<",
            "took 12 s, began <time datetime=\"2030-06-01T12:00:00.000Z\"",
            "on roost-7-4711<",
        ),
    ] {
        assert!(
            shown.starts_with(number) && shown.contains(took) && shown.contains(worker),
            "{number} {took} {worker} is not in {shown}"
        );
    }
    let told = script.get(&format!("/jobs/{job}")).await;
    assert_eq!(told["trace_id"], trace);
    let attempts: Vec<(&Value, &Value, i64)> = told["attempts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            (
                &one["attempt"],
                &one["worker"],
                (instant(&one["ended_at"]) - instant(&one["started_at"])).num_milliseconds(),
            )
        })
        .collect();
    assert_eq!(
        attempts,
        [
            (&json!(2), &json!("roost-8-815"), 250),
            (&json!(1), &json!("roost-7-4711"), 12_400)
        ]
    );

    for name in ["outbox.prune", "stays.complete"] {
        fires_in_an_hour(pool, name).await;
    }
    let (next, last) = ("2031-06-01T12:17:00Z", "2030-06-01T11:17:00Z");
    sqlx::query("UPDATE cron_schedules SET next_tick = $1::timestamptz, last_tick = $2::timestamptz WHERE name = 'outbox.prune'")
        .bind(next)
        .bind(last)
        .execute(pool)
        .await
        .unwrap();
    let page = viewer.get("/ops/schedules").await.is(200);
    let cell = |name: &str, heading: &str| page.cell(&format!("<a href=\"/ops/jobs?kind={name}\">"), heading);
    for (heading, at) in [("Next", next), ("Last", last)] {
        let shown = cell("outbox.prune", heading);
        assert!(shown.contains(&exactly(at.parse().unwrap())), "{heading}: {shown}");
    }
    assert!(cell("stays.complete", "Next").contains("in 60 min"));
    assert_eq!(cell("stays.complete", "Last"), "never");
    let told = script.get("/schedules").await;
    let prune = told
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["name"] == "outbox.prune")
        .unwrap();
    assert_eq!(
        (instant(&prune["next_tick"]), instant(&prune["last_tick"])),
        (next.parse().unwrap(), last.parse().unwrap())
    );
    let other = told
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["name"] == "stays.complete")
        .unwrap();
    assert!(
        other["next_tick"].is_string() && other["last_tick"].is_null(),
        "{other}"
    );

    shows_itself(pool, "w-1", &["cache", "payments"]).await;
    shows_itself(pool, "w-2", &["maintenance"]).await;
    let seen: DateTime<Utc> = sqlx::query_scalar(
        "UPDATE workers SET seen_at = date_trunc('second', now()) - interval '3 minutes' WHERE name = 'w-1' RETURNING seen_at",
    )
    .fetch_one(pool)
    .await
    .unwrap();
    let page = viewer.get("/ops/workers").await.is(200);
    let cell = |heading: &str| page.cell("<th scope=\"row\">w-1</th>", heading);
    assert_eq!(
        ["Host", "Version", "Queues", "Concurrency"].map(cell),
        ["rack-7", "9.8.7", "cache, payments", "8"]
    );
    assert!(
        cell("Last heard of").contains(&exactly(seen)),
        "{}",
        cell("Last heard of")
    );
    page.says("<span class=\"badge worker-silent\">silent</span></td><th scope=\"row\">w-1<");
    let told = script.get("/workers").await;
    let worker = told
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["name"] == "w-1")
        .unwrap();
    assert_eq!(
        (&worker["version"], &worker["queues"], &worker["host"], &worker["alive"]),
        (
            &json!("9.8.7"),
            &json!(["cache", "payments"]),
            &json!("rack-7"),
            &json!(false)
        )
    );
    assert_eq!(instant(&worker["seen_at"]), seen);
}
