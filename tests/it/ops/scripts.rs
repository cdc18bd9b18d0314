//! The same actions over JSON and on a terminal.

use std::process::Stdio;

use roost_shared::jobs::kinds::KINDS;
use roost_shared::operators::Role;
use roost_shared::operators::audit;
use roost_tests::app::TestApp;
use roost_tests::ops::{Dashboard, PASSWORD};
use roost_tests::world::World;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{put, state_of};
use crate::jobs::{TOTAL, scene};
use crate::programs::{on_a_terminal, program};

#[tokio::test(flavor = "multi_thread")]
async fn scripts_do_the_same_over_json() {
    let app = TestApp::start().await;
    let pool = app.state.db.pool();
    let ops = Dashboard::start(&app.state).await;
    let email = ops.make(Role::Operator).await;
    let id = put(
        pool,
        "payment.capture",
        "dead",
        json!({"payment_id": Uuid::now_v7()}),
        Some("no answer"),
    )
    .await;
    let http = reqwest::Client::new();
    let url = |path: &str| format!("{}/ops/api{path}", ops.base);
    let refused = http.get(url("/jobs")).send().await.unwrap();
    assert_eq!(
        (
            refused.status().as_u16(),
            refused.headers()["content-type"].to_str().unwrap()
        ),
        (401, "application/problem+json")
    );
    let session: Value = http
        .post(url("/session"))
        .json(&json!({"email": email, "password": PASSWORD}))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let token = session["token"].as_str().unwrap();
    let get = async |path: &str| -> Value {
        http.get(url(path))
            .bearer_auth(token)
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap()
    };
    assert_eq!(
        get("/jobs?state=dead&kind=payment.capture").await["items"][0]["id"],
        id.to_string()
    );
    assert_eq!(get("/jobs?state=gone").await["errors"][0]["field"], "state");
    assert_eq!(get(&format!("/jobs/{id}")).await["outlook"][0]["tone"], "futile");
    assert_eq!(get("/audit/verify").await["whole"], true);
    assert!(get("/overview").await["queues"].as_array().unwrap().len() >= 5);
    let overview = get("/overview").await;
    assert_eq!(
        ["last_hour", "last_day"].map(|of| overview[of].as_array().unwrap().len()),
        [60, 96]
    );
    assert!(get("/openapi.json").await["paths"]["/jobs/{job_id}/{action}"].is_object());

    let retry = async |body: Value| {
        let sent = http
            .post(url(&format!("/jobs/{id}/retry")))
            .bearer_auth(token)
            .json(&body)
            .send()
            .await
            .unwrap();
        (sent.status().as_u16(), sent.json::<Value>().await.unwrap())
    };
    let (status, problem) = retry(json!({})).await;
    assert_eq!(
        (status, problem["errors"][0]["field"].as_str()),
        (422, Some("reason")),
        "{problem}"
    );
    assert_eq!(
        retry(json!({"reason": "Stripe is back"})).await,
        (200, json!({"state": "queued"}))
    );
    let (status, problem) = retry(json!({"reason": "once more"})).await;
    assert_eq!((status, problem["code"].as_str()), (409, Some("wrong_state")));
    // What is refused for another reason says so.
    let [warm, same] = ["dead", "scheduled"].map(|state| put(pool, "cache.warm", state, super::a_warm_cache(), None));
    let (warm, same) = (warm.await, same.await);
    sqlx::query("UPDATE jobs SET dedupe_key = 'cache.warm:this' WHERE id = ANY($1)")
        .bind([warm, same])
        .execute(pool)
        .await
        .unwrap();
    for (what, code) in [("retry", "duplicate_job"), ("ask", "nothing_to_ask")] {
        let sent = http.post(url(&format!("/jobs/{warm}/{what}"))).bearer_auth(token);
        let sent = sent.json(&json!({"reason": "once more"})).send().await.unwrap();
        assert_eq!(sent.status().as_u16(), 409, "{what}");
        assert_eq!(sent.json::<Value>().await.unwrap()["code"], code);
    }
    // The scheme of the header may be written in any case.
    let lower = http
        .get(url("/queues"))
        .header("authorization", format!("bearer {token}"));
    assert_eq!(lower.send().await.unwrap().status().as_u16(), 200);
    sqlx::query(
        "INSERT INTO cron_schedules (name, expression, next_tick) VALUES ('overdue.sweep', '*/5 * * * *', now())",
    )
    .execute(pool)
    .await
    .unwrap();
    let booking = json!({"booking_id": Uuid::now_v7()});
    let hold = put(pool, "booking.expire_hold", "scheduled", booking.clone(), None).await;
    let confirmation = put(pool, "booking.confirm", "dead", booking, None).await;
    for path in [
        format!("/jobs/{hold}/run"),
        format!("/jobs/{confirmation}/retry"),
        "/queues/payments/resume".to_owned(),
        "/schedules/overdue.sweep/run".to_owned(),
    ] {
        for (body, status) in [(json!({}), 422), (json!({"reason": "the guest rang"}), 200)] {
            let sent = http.post(url(&path)).bearer_auth(token).json(&body).send();
            let sent = sent.await.unwrap();
            assert_eq!(sent.status().as_u16(), status, "{path}");
            let told: Value = sent.json().await.unwrap();
            let field = told["errors"][0]["field"].as_str();
            assert_eq!(field, (status == 422).then_some("reason"), "{path}: {told}");
        }
    }
    let forbidden = http
        .post(url(&format!("/jobs/{id}/delete")))
        .bearer_auth(token)
        .json(&json!({"reason": "x"}))
        .send()
        .await
        .unwrap();
    assert_eq!(forbidden.status().as_u16(), 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_see_what_the_pages_show() {
    let scene = scene(World::start().await, json!({})).await;
    let world = &scene.world;
    let booking = scene.books("pm_card_visa").await;
    world.run_jobs().await;
    let ops = Dashboard::start(&world.state).await;
    let email = ops.make(Role::Viewer).await;
    let http = reqwest::Client::new();
    let url = |path: &str| format!("{}/ops/api{path}", ops.base);
    let login = json!({"email": email, "password": PASSWORD});
    let session = http.post(url("/session")).json(&login).send().await.unwrap();
    let session: Value = session.json().await.unwrap();
    let token = session["token"].as_str().unwrap();
    let get = async |path: &str| -> Value {
        let sent = http.get(url(path)).bearer_auth(token).send().await.unwrap();
        sent.json().await.unwrap()
    };

    let flight = get(&format!("/bookings/{booking}/flight")).await;
    assert_eq!(
        (&flight["state"], &flight["total_minor"], &flight["currency"]),
        (&json!("confirmed"), &json!(TOTAL), &json!("EUR"))
    );
    let moments = flight["moments"].as_array().unwrap();
    assert!(
        moments
            .iter()
            .any(|moment| moment["title"] == "payment.capture succeeded")
    );
    let overview = get("/overview").await;
    let kinds = overview["kinds"].as_array().unwrap();
    let capture = kinds.iter().find(|kind| kind["kind"] == "payment.capture").unwrap();
    assert_eq!((&capture["attempts"], &capture["success"]), (&json!(1), &json!(1.0)));
    assert!(capture["p99"].as_f64().unwrap() >= capture["p50"].as_f64().unwrap());
    let worker = &get("/workers").await[0];
    assert!(!worker["host"].as_str().unwrap().is_empty());
    assert_eq!(
        (&worker["alive"], &worker["silent"], &worker["stopped_at"]),
        (&json!(true), &json!(false), &Value::Null)
    );
    let mut served: Vec<&str> = worker["queues"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    served.sort_unstable();
    assert_eq!(
        served,
        ["cache", "confirmation", "maintenance", "notifications", "payments"]
    );
    assert_eq!(
        (&worker["version"], &worker["alive"]),
        (&json!(env!("CARGO_PKG_VERSION")), &json!(true))
    );
    world
        .eventually("it is heard of again", async || {
            let again = &get("/workers").await[0];
            again["seen_at"] != worker["seen_at"] && again["started_at"] == worker["started_at"]
        })
        .await;
    let found = get("/jobs?kind=payment.capture").await;
    let job = get(&format!("/jobs/{}", found["items"][0]["id"].as_str().unwrap())).await;
    assert_eq!(
        (&job["state"], &job["cancel_requested"], &job["crash_count"]),
        (&json!("succeeded"), &json!(false), &json!(0))
    );
    for moment in [
        "created_at",
        "run_at",
        "started_at",
        "finished_at",
        "worker",
        "dedupe_key",
    ] {
        assert!(job[moment].is_string(), "{moment}: {job}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_see_every_kind_and_which_workers_are_gone() {
    let app = TestApp::start().await;
    let pool = app.state.db.pool();
    let ops = Dashboard::start(&app.state).await;
    let email = ops.make(Role::Viewer).await;
    let token = ops.token(&email).await;
    let get = async |path: &str| -> Value {
        let sent = reqwest::Client::new()
            .get(format!("{}/ops/api{path}", ops.base))
            .bearer_auth(&token);
        sent.send().await.unwrap().json().await.unwrap()
    };
    sqlx::query("INSERT INTO kinds (name, queue, concurrency, rate_limit, rate_seconds) VALUES ('mail.send', 'notifications', NULL, 100, 60)")
        .execute(pool)
        .await
        .unwrap();
    let kinds = get("/kinds").await;
    let kinds = kinds.as_array().unwrap();
    assert_eq!(kinds.len(), KINDS.len());
    for kind in KINDS {
        let told = kinds.iter().find(|told| told["name"] == kind.name).unwrap();
        assert_eq!(
            (&told["queue"], &told["about"], &told["moves_money"]),
            (&json!(kind.queue.name()), &json!(kind.about), &json!(kind.moves_money)),
            "{told}"
        );
        let limits = (&told["concurrency"], &told["rate_limit"], &told["rate_seconds"]);
        let expected = if kind.name == "mail.send" {
            (&Value::Null, &json!(100), &json!(60))
        } else {
            (&Value::Null, &Value::Null, &json!(1))
        };
        assert_eq!(limits, expected, "{told}");
    }

    sqlx::query(
        "INSERT INTO workers (name, host, version, queues, concurrency, started_at, seen_at, stopped_at)
         VALUES ('lives', 'rack-7', '1.0', '{cache}', 8, now(), now() + interval '1 hour', NULL),
                ('silent', 'rack-7', '1.0', '{cache}', 8, now(), now() - interval '1 minute', NULL),
                ('stopped', 'rack-7', '1.0', '{cache}', 8, now(), now() - interval '2 minutes', now() - interval '2 minutes')",
    )
    .execute(pool)
    .await
    .unwrap();
    let workers = get("/workers").await;
    let told: Vec<_> = workers
        .as_array()
        .unwrap()
        .iter()
        .map(|worker| {
            let [alive, silent] = ["alive", "silent"].map(|field| worker[field].as_bool().unwrap());
            (
                worker["name"].as_str().unwrap(),
                alive,
                silent,
                worker["stopped_at"].is_string(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            ("lives", true, false, false),
            ("silent", false, true, false),
            ("stopped", false, false, true)
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_has_the_same_rules() {
    let world = World::without_worker().await;
    let args = json!({"payment_id": Uuid::now_v7()});
    let id = put(world.pool(), "payment.void", "dead", args, Some("no \u{1b}[31m answer")).await;
    let text = id.to_string();
    let (done, listed) = on_a_terminal(&world, &["list", "--state", "dead", "--kind", "payment.void", "answer"]).await;
    assert!(done && listed.contains(&text) && !listed.contains('\u{1b}'), "{listed}");
    let (done, shown) = on_a_terminal(&world, &["show", &text]).await;
    assert!(done && shown.contains("Its payment is gone"), "{shown}");
    // As `head` does, which has read enough.
    let mut unread = program(&world, "roost-worker");
    let mut unread = unread.args(["jobs", "list"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(unread.stdout.take());
    assert!(unread.wait().await.unwrap().success());
    let (done, refusal) = on_a_terminal(&world, &["retry", &text]).await;
    assert!(!done && refusal.contains("say why"), "{refusal}");
    let (done, _) = on_a_terminal(&world, &["retry", &text, "--reason", "Stripe is back"]).await;
    assert!(done);
    assert_eq!(state_of(world.pool(), id).await.as_deref(), Some("queued"));
    let (done, _) = on_a_terminal(&world, &["cancel", &text, "--reason", "no, wait"]).await;
    assert!(done);
    assert!(on_a_terminal(&world, &["pause", "cache"]).await.0);
    let (done, refusal) = on_a_terminal(&world, &["resume", "payments"]).await;
    assert!(!done && refusal.contains("say why"), "{refusal}");
    assert!(
        on_a_terminal(&world, &["resume", "payments", "--reason", "Stripe is back"])
            .await
            .0
    );
    let entries = audit::list(world.pool(), None, 10).await.unwrap();
    let actions: Vec<&str> = entries.iter().map(|entry| entry.action.as_str()).collect();
    assert_eq!(actions, ["queue.resume", "queue.pause", "job.cancel", "job.retry"]);
    assert!(entries.iter().all(|entry| entry.actor == "cli:ada"));
}

#[tokio::test(flavor = "multi_thread")]
async fn arguments_of_a_due_job_are_replaced_although_its_message_is_under_way() {
    let mut world = World::without_worker().await;
    let (ada, ben) = (world.guest().await, world.guest().await);
    let ops = Dashboard::start(&world.state).await;
    let admin = ops.signed_in(Role::Admin).await;
    let mail_to = async |user: &str| -> Uuid {
        sqlx::query_scalar("SELECT id FROM jobs WHERE kind = 'mail.send' AND args ->> 'subject_id' = $1")
            .bind(user)
            .fetch_one(world.pool())
            .await
            .unwrap()
    };
    let (wrong, own) = (mail_to(&ada.id).await, mail_to(&ben.id).await);
    let published =
        "SELECT count(*) FROM jobs WHERE kind = 'mail.send' AND state = 'queued' AND published_at IS NOT NULL";
    world
        .eventually("Redis has both", async || world.counts(published).await == 2)
        .await;
    let args = json!({"mail": "verify-email", "subject_id": ben.id}).to_string();
    let edit = format!("/ops/jobs/{wrong}/edit");
    admin.post(&format!("/ops/jobs/{own}/cancel"), &[]).await.is(303);
    let page = admin.get(&format!("/ops/jobs/{wrong}")).await.is(200);
    page.says("Edit arguments…");
    admin.post(&edit, &[("args", &args)]).await.is(303);
    assert_eq!(state_of(world.pool(), wrong).await.as_deref(), Some("queued"));

    world.start_worker();
    world.run_jobs().await;
    assert_eq!((world.mails_to(&ada).len(), world.mails_to(&ben).len()), (0, 1));
    assert_eq!(state_of(world.pool(), wrong).await.as_deref(), Some("succeeded"));
    // What is done is not edited any more.
    admin.post(&edit, &[("args", &args)]).await.is(409);
}
