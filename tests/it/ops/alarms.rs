//! What the overview says is wrong while something that jobs need is away.

use roost_api::state::{AppConfig, AppState};
use roost_shared::config::Secret;
use roost_shared::db;
use roost_shared::jobs::failing::{self, FailingKind};
use roost_shared::operators::Role;
use roost_shared::redis::Redis;
use roost_tests::app::{JWT_SECRET, TestApp};
use roost_tests::mailbox::{Fault, Misbehaviour, Stage};
use roost_tests::ops::Dashboard;
use roost_tests::services::Services;
use roost_tests::services::process::Signal;
use roost_tests::stripe::{self, FaultKind};
use roost_tests::world::World;
use serde_json::{Value, json};

use super::{a_warm_cache, put};

/// The overview as JSON.
async fn overview(ops: &Dashboard, email: &str) -> Value {
    let http = reqwest::Client::new();
    let url = |path: &str| format!("{}/ops/api{path}", ops.base);
    let token = ops.token(email).await;
    let asked = http.get(url("/overview")).bearer_auth(token);
    let asked = asked.send().await.unwrap();
    assert_eq!(asked.status().as_u16(), 200);
    asked.json().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_server_that_is_away_is_an_alarm_before_any_mail_is_given_up() {
    let world = World::start().await;
    let ops = Dashboard::start(&world.state).await;
    let viewer = ops.signed_in(Role::Viewer).await;
    world.mailbox.inject(Fault {
        at: Stage::Connect,
        what: Misbehaviour::Reply(421),
        times: 1_000_000,
    });
    for _ in 0..3 {
        world.guest().await;
    }
    world
        .eventually("mails have failed three times", async || {
            failing::kinds(world.pool())
                .await
                .unwrap()
                .iter()
                .any(|kind| kind.kind == "mail.send")
        })
        .await;
    let page = viewer.get("/ops").await.is(200);
    page.says("mail.send fails: ");
    page.says("attempts within 10 minutes");
    page.says("421");
    page.is_silent_about("All is well");
    page.is_silent_about("died within a day");
    let link = "/ops/jobs?kind=mail.send&#38;state=retrying&#38;state=dead";
    page.says(link);
    world
        .eventually("a mail waits for its next attempt", async || {
            let list = viewer.get(&link.replace("&#38;", "&")).await.is(200);
            list.html.contains("data-href=") && list.html.contains("421")
        })
        .await;
    let told = overview(&ops, "viewer@ops.example.com").await;
    assert_eq!(
        (&told["failing"][0]["kind"], &told["failing"][0]["succeeded"]),
        (&json!("mail.send"), &json!(0)),
        "{told}"
    );
    assert_eq!(told["redis_answers"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stripe_that_takes_no_more_requests_is_an_alarm_while_one_payment_waits() {
    let world = World::start().await;
    let ops = Dashboard::start(&world.state).await;
    let viewer = ops.signed_in(Role::Viewer).await;
    let (host, guest) = (world.host().await, world.guest().await);
    let flat = world.lists(&host, json!({})).await;
    let busy = stripe::Fault::new(FaultKind::RateLimited).times(1_000_000);
    world.stripe.fault(busy);
    world
        .books(&guest, flat, world.day(60), world.day(63), "pm_card_visa")
        .await
        .expect(201);
    world
        .eventually("the alarm", async || {
            let page = viewer.get("/ops").await.is(200);
            page.html.contains("payment.authorize fails: ") && page.html.contains("rate_limit")
        })
        .await;
}

#[tokio::test]
async fn a_kind_that_fails_is_seen_behind_any_number_of_others() {
    let app = TestApp::start().await;
    let pool = app.state.db.pool();
    let run = async |kind: &str, jobs: i32, outcome: &str, attempt: i32, ago: &str| {
        sqlx::query(
            "WITH made AS (
                 INSERT INTO jobs (id, kind, queue, priority, args, state, run_at, attempt, max_attempts, finished_at)
                 SELECT gen_random_uuid(), $1, 'cache', 50, '{}', CASE WHEN $3 = 'succeeded' THEN 'succeeded' ELSE 'retrying' END, now(), $4, 9,
                        CASE WHEN $3 = 'succeeded' THEN now() - $5::interval END
                 FROM generate_series(1, $2) RETURNING id)
             INSERT INTO job_attempts (job_id, fence, attempt, worker, started_at, ended_at, outcome, error)
             SELECT id, 1, $4, 'w', now() - $5::interval, now() - $5::interval, $3, CASE WHEN $3 = 'retry' THEN $1 || ' has no answer' END FROM made",
        )
        .bind(kind)
        .bind(jobs)
        .bind(outcome)
        .bind(attempt)
        .bind(ago)
        .execute(pool)
        .await
        .unwrap();
    };
    // A few failures among many successes, a hiccup, and something that is over.
    run("cache.warm", 7_000, "succeeded", 1, "1 minute").await;
    run("cache.warm", 40, "retry", 1, "1 minute").await;
    run("payment.void", 1, "retry", 2, "2 minutes").await;
    run("payment.refund", 50, "retry", 5, "11 minutes").await;
    assert_eq!(failing::kinds(pool).await.unwrap(), []);
    // One job that has failed again and again, and a kind that mostly fails.
    run("payment.capture", 1, "retry", 9, "5 minutes").await;
    run("mail.send", 4, "succeeded", 1, "8 minutes").await;
    run("mail.send", 5, "retry", 1, "9 minutes").await;
    let kind = |kind: &str, failed, succeeded| FailingKind {
        kind: kind.to_owned(),
        failed,
        succeeded,
        newest_error: Some(format!("{kind} has no answer")),
    };
    assert_eq!(
        failing::kinds(pool).await.unwrap(),
        [kind("mail.send", 5, 4), kind("payment.capture", 1, 0)]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_the_overview_says_so_and_goes_on() {
    let world = World::without_worker().await;
    let mut services = tokio::task::spawn_blocking(Services::redis_alone)
        .await
        .unwrap()
        .unwrap();
    let state = AppState::new(AppConfig {
        pool: db::connect(world.database_url(), 4).unwrap(),
        redis: Redis::new(services.redis_url(), "test").unwrap(),
        clock: world.clock.clone(),
        jwt_secret: Secret::new(JWT_SECRET),
        jwt_secret_previous: None,
        settings: (*world.state.settings).clone(),
    })
    .unwrap();
    let ops = Dashboard::start(&state).await;
    let viewer = ops.signed_in(Role::Viewer).await;
    put(world.pool(), "cache.warm", "dead", a_warm_cache(), Some("no answer")).await;
    let is_down = async || viewer.get("/ops").await.is(200).html.contains("Redis is down");
    world.eventually("Redis answers", async || !is_down().await).await;

    // One that takes connections and never answers, and one that is gone.
    services.redis_mut().unwrap().process_mut().signal(Signal::Stop);
    let page = viewer.get("/ops").await.is(200);
    page.says("Redis is down");
    page.says("1 job died within a day");
    page.is_silent_about("All is well");
    services.redis_mut().unwrap().process_mut().signal(Signal::Cont);
    world.eventually("Redis answers again", async || !is_down().await).await;
    services.redis_mut().unwrap().kill().unwrap();
    let page = viewer.get("/ops").await.is(200);
    page.says("Redis is down");
    page.says("1 job died within a day");
    viewer.get("/ops/jobs?state=dead").await.is(200).says("no answer");
    let told = overview(&ops, "viewer@ops.example.com").await;
    assert_eq!(
        (&told["redis_answers"], &told["died_today"]),
        (&json!(false), &json!(1)),
        "{told}"
    );
    // What the page shows as alarms, for scripts.
    let raised: Vec<&str> = told["alarms"]
        .as_array()
        .unwrap()
        .iter()
        .map(|alarm| alarm["code"].as_str().unwrap())
        .collect();
    assert_eq!(raised, ["redis_down", "no_worker", "jobs_died"], "{told}");
    assert_eq!(told["alarms"][2]["message"], "1 job died within a day");
    let operator = ops.signed_in(Role::Operator).await;
    operator.post("/ops/queues/cache/pause", &[]).await.is(303);
    let told = overview(&ops, "viewer@ops.example.com").await;
    let paused = &told["alarms"][2];
    assert_eq!(
        (&paused["code"], &paused["subject"]),
        (&json!("queue_paused"), &json!("cache")),
        "{told}"
    );
    for told in ["message", "advice", "href"] {
        assert!(paused[told].as_str().is_some_and(|text| !text.is_empty()), "{paused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_that_takes_nothing_new_is_an_alarm() {
    let app = TestApp::start().await;
    let pool = app.state.db.pool();
    let ops = Dashboard::start(&app.state).await;
    let viewer = ops.signed_in(Role::Viewer).await;
    // They are heard of for as long as this takes.
    sqlx::query(
        "INSERT INTO workers (name, host, version, queues, concurrency, started_at, seen_at, quiet, stop)
         VALUES ('w-1', 'rack-7', '1.0', '{cache}', 8, now(), now() + interval '1 hour', true, false),
                ('w-2', 'rack-8', '1.0', '{cache}', 8, now(), now() + interval '1 hour', false, true)",
    )
    .execute(pool)
    .await
    .unwrap();
    let codes = async || -> Vec<Value> {
        let told = overview(&ops, "viewer@ops.example.com").await;
        let alarms = told["alarms"].as_array().unwrap();
        alarms.iter().map(|alarm| alarm["code"].clone()).collect()
    };
    let page = viewer.get("/ops").await.is(200);
    page.says("Every worker is quiet or stopping");
    page.is_silent_about("All is well");
    let queues = viewer.get("/ops/queues").await.is(200);
    queues.is_silent_about("<dt>Workers</dt><dd>1<");
    queues.is_silent_about("<dt>Workers</dt><dd>2<");
    assert_eq!(codes().await, ["workers_quiet"]);
    sqlx::query(
        "INSERT INTO jobs (id, kind, queue, priority, args, state, run_at, max_attempts)
         VALUES (gen_random_uuid(), 'cache.warm', 'cache', 50, '{}', 'queued', now(), 3)",
    )
    .execute(pool)
    .await
    .unwrap();
    let raised = codes().await;
    assert_eq!(raised, ["workers_quiet", "queue_unserved"]);
    let document = reqwest::get(format!("{}/ops/api/openapi.json", ops.base))
        .await
        .unwrap();
    let document: Value = document.json().await.unwrap();
    let documented = document["components"]["schemas"]["AlarmCode"]["enum"]
        .as_array()
        .unwrap();
    assert!(raised.iter().all(|code| documented.contains(code)), "{documented:?}");

    sqlx::query("UPDATE workers SET quiet = false WHERE name = 'w-1'")
        .execute(pool)
        .await
        .unwrap();
    viewer.get("/ops").await.is(200).says("All is well");
    viewer.get("/ops/queues").await.is(200).says("<dt>Workers</dt><dd>1<");
}
