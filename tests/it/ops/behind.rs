//! What waits for too long, what nobody serves and what lost its worker: as figures and as alarms, on pages, for scripts
//! and on a terminal. And the counts of it all.

use std::time::Instant;

use roost_shared::operators::Role;
use roost_tests::app::TestApp;
use roost_tests::ops::{Browser, Dashboard, Script};
use roost_tests::world::World;
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use super::{a_warm_cache, put, shows_itself};
use crate::programs::on_a_terminal;

/// A job that has been due for 100 seconds.
async fn waits(pool: &PgPool, kind: &str, queue: &str, published: bool) -> Uuid {
    let id = Uuid::now_v7();
    sqlx::query(
        "INSERT INTO jobs (id, kind, queue, priority, args, state, run_at, max_attempts, published_at)
         VALUES ($1, $2, $3, 50, '{}', 'queued', now() - interval '100 seconds', 3, CASE WHEN $4 THEN now() END)",
    )
    .bind(id)
    .bind(kind)
    .bind(queue)
    .bind(published)
    .execute(pool)
    .await
    .unwrap();
    id
}

fn of<'a>(list: &'a Value, name: &str) -> &'a Value {
    let all = list.as_array().unwrap();
    all.iter()
        .find(|one| one["name"] == name || one["code"] == name)
        .unwrap_or_else(|| panic!("no {name} in {list}"))
}

/// `57 s`, as the pages write it.
fn seconds(text: &str) -> f64 {
    let number = text
        .strip_suffix(" s")
        .unwrap_or_else(|| panic!("{text} is no seconds"));
    number.parse().unwrap()
}

/// What is told of an alarm on the page and to scripts, and where it leads.
async fn is_raised(code: &str, subject: Option<&str>, browser: &Browser, script: &Script) -> String {
    let overview = script.get("/overview").await;
    let alarm = of(&overview["alarms"], code);
    assert_eq!(alarm["subject"], json!(subject), "{alarm}");
    let [message, advice, href] = ["message", "advice", "href"].map(|field| alarm[field].as_str().unwrap());
    assert!(!advice.is_empty(), "{alarm}");
    let page = browser.get("/ops").await.is(200);
    let shown = page.html.split("<ul class=\"alarms\">").nth(1).unwrap();
    let shown = shown.split("</ul>").next().unwrap().replace("&#38;", "&");
    // How long it has been waiting has changed since.
    let message = message.split(':').next().unwrap();
    assert!(
        shown.contains(&format!("<a href=\"{href}\"><strong>{message}")),
        "{alarm} is not in {shown}"
    );
    href.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_too_long_is_a_figure_and_an_alarm_wherever_one_looks() {
    let world = World::without_worker().await;
    let pool = world.pool();
    let ops = Dashboard::start(&world.state).await;
    let viewer = ops.signed_in(Role::Viewer).await;
    let script = ops.script("viewer@ops.example.com").await;
    sqlx::query("UPDATE queues SET target_seconds = CASE name WHEN 'notifications' THEN 40 ELSE 160 END")
        .execute(pool)
        .await
        .unwrap();
    let began = Instant::now();
    // One that Redis has not, in a queue that nobody serves and that has some time left; one that is late although it is
    // in Redis and a worker is there; and one whose worker is gone.
    waits(pool, "cache.warm", "cache", false).await;
    let late = waits(pool, "mail.send", "notifications", true).await;
    shows_itself(pool, "w-1", &["notifications"]).await;
    let lost = put(pool, "outbox.prune", "running", json!({}), None).await;
    put(pool, "outbox.prune", "running", json!({}), None).await;
    sqlx::query(
        "UPDATE jobs SET lease_owner = 'w-0', lease_until = now() + CASE WHEN id = $1 THEN interval '-1 second' ELSE interval '1 hour' END
         WHERE state = 'running'",
    )
    .bind(lost)
    .execute(pool)
    .await
    .unwrap();
    // A hundred seconds, and as long as this test has taken since.
    let is_near = |told: f64, wanted: f64| {
        let since = began.elapsed().as_secs_f64() + 1.0;
        assert!(
            (told - wanted).abs() <= since,
            "{told} is not {wanted} within {since} s"
        );
    };

    let overview = script.get("/overview").await;
    let (cache, mails) = (
        of(&overview["queues"], "cache"),
        of(&overview["queues"], "notifications"),
    );
    for queue in [cache, mails] {
        is_near(queue["oldest_due_seconds"].as_f64().unwrap(), 100.0);
    }
    is_near(cache["publish_lag_seconds"].as_f64().unwrap(), 100.0);
    assert_eq!(
        (
            &cache["unpublished"],
            &mails["unpublished"],
            &mails["publish_lag_seconds"]
        ),
        (&json!(1), &json!(0), &json!(0.0))
    );
    assert_eq!(overview["overdue_leases"], 1);
    let settings = script.get("/settings/queues").await;
    for (queue, left) in [("cache", 60.0), ("notifications", -60.0)] {
        is_near(of(&settings, queue)["seconds_to_breach"].as_f64().unwrap(), left);
    }

    let page = viewer.get("/ops").await.is(200);
    let cell = |queue: &str, heading: &str| {
        page.cell(&format!("<a href=\"/ops/jobs?queue={queue}\">"), heading)
            .to_owned()
    };
    is_near(seconds(&cell("cache", "Oldest due")), 100.0);
    is_near(seconds(&cell("notifications", "Oldest due")), 100.0);
    is_near(seconds(&cell("cache", "To breach")), 60.0);
    let missed = cell("notifications", "To breach");
    is_near(seconds(missed.strip_prefix("missed by ").expect(&missed)), 60.0);
    is_near(seconds(&cell("cache", "Publish lag")), 100.0);
    assert_eq!(cell("notifications", "Publish lag"), "–");
    assert_eq!(
        ["cache", "notifications"].map(|queue| cell(queue, "Not in Redis")),
        ["1", "0"]
    );
    for heading in ["Oldest due", "To breach", "Publish lag"] {
        assert_eq!(cell("payments", heading), "–", "{heading}");
    }

    let (done, text) = on_a_terminal(&world, &["queues"]).await;
    assert!(done, "{text}");
    for (queue, left) in [("cache", 60.0), ("notifications", -60.0)] {
        let line = text.lines().find(|line| line.starts_with(queue)).unwrap();
        let told = line
            .split("to breach")
            .nth(1)
            .unwrap()
            .trim()
            .split(' ')
            .next()
            .unwrap();
        is_near(told.parse().unwrap(), left);
        assert!(line.contains("due     1"), "{line}");
        let lag = line.split("publish lag ").nth(1).unwrap().split(' ').next().unwrap();
        is_near(lag.parse().unwrap(), if queue == "cache" { 100.0 } else { 0.0 });
    }

    is_raised("queue_unserved", Some("cache"), &viewer, &script).await;
    for (code, subject, job) in [
        ("queue_behind", Some("notifications"), late),
        ("leases_overdue", None, lost),
    ] {
        let leads_to = is_raised(code, subject, &viewer, &script).await;
        let list = viewer.get(&leads_to).await.is(200);
        list.says(&format!("data-href=\"/ops/jobs/{job}\""));
    }
    let alarms = script.get("/overview").await["alarms"].clone();
    let of_queues = alarms.as_array().unwrap().iter();
    let of_queues: Vec<&Value> = of_queues
        .map(|alarm| &alarm["subject"])
        .filter(|subject| subject.is_string())
        .collect();
    assert_eq!(of_queues, ["cache", "notifications"], "{alarms}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_overview_counts_what_there_is_and_how_long_it_takes() {
    let app = TestApp::start().await;
    let pool = app.state.db.pool();
    let states = [
        "scheduled",
        "queued",
        "running",
        "retrying",
        "succeeded",
        "dead",
        "cancelled",
    ];
    // One of the first state, two of the second, and so on, in turn of two kinds. None is quarantined.
    for (number, state) in states.into_iter().enumerate() {
        for one in 0..=number {
            let kind = ["cache.warm", "outbox.prune"][one % 2];
            put(pool, kind, state, a_warm_cache(), None).await;
        }
    }
    // Attempts of 1 to 101 seconds; one neither failed nor succeeded.
    sqlx::query(
        "INSERT INTO job_attempts (job_id, job_kind, fence, attempt, worker, started_at, ended_at, outcome)
         SELECT id, kind, n, n, 'w', now() - make_interval(secs => n), now(), CASE WHEN n <= 25 THEN 'failed' WHEN n <= 100 THEN 'succeeded' ELSE 'snoozed' END
         FROM (SELECT id, kind FROM jobs WHERE kind = 'cache.warm' LIMIT 1) AS job, generate_series(1, 101) AS n",
    )
    .execute(pool)
    .await
    .unwrap();
    let ops = Dashboard::start(&app.state).await;
    let viewer = ops.signed_in(Role::Viewer).await;
    let page = viewer.get("/ops").await.is(200);
    for (number, state) in states.into_iter().enumerate() {
        let tile = format!(
            "<a href=\"/ops/jobs?state={state}\" class=\"tile {state}\"><b>{}</b>",
            number + 1
        );
        page.says(&tile);
    }
    page.says("<a href=\"/ops/jobs?state=quarantined\" class=\"tile quarantined none\"><b>0</b>");

    let script = ops.script("viewer@ops.example.com").await;
    let told = script.get("/overview").await;
    let rows: Vec<(String, String, i64)> =
        sqlx::query_as("SELECT kind, state, count(*) FROM jobs GROUP BY kind, state ORDER BY kind, state")
            .fetch_all(pool)
            .await
            .unwrap();
    assert_eq!(rows.len(), 13);
    let rows: Vec<Value> = rows
        .into_iter()
        .map(|(kind, state, count)| json!({"kind": kind, "state": state, "count": count}))
        .collect();
    assert_eq!(told["counts"], json!(rows));
    assert_eq!(told["died_today"], 6);

    let figures =
        json!({"kind": "cache.warm", "attempts": 101, "success": 0.75, "p50": 51.0, "p95": 96.0, "p99": 100.0});
    assert_eq!(told["kinds"], json!([figures]));
    let cell = |heading: &str| page.cell("<a href=\"/ops/jobs?kind=cache.warm\">", heading);
    assert_eq!(
        ["Attempts", "p50", "p95", "p99"].map(cell),
        ["101", "51 s", "96 s", "100 s"]
    );
    page.says("data-label=\"Success\">75.0 %<");
}
