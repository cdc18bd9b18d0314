//! What is set at the dashboard, over JSON and on a terminal: by whom, within which bounds, written down each time.

use roost_shared::jobs::batches;
use roost_shared::jobs::catalogue::{CompleteStays, WarmCache};
use roost_shared::operators::Role;
use roost_shared::operators::audit::{self, Verdict};
use roost_tests::ops::{Dashboard, PASSWORD};
use roost_tests::world::World;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::programs::on_a_terminal;

const CACHE: [(&str, &str); 5] = [
    ("concurrency", "3"),
    ("rate_limit", "20"),
    ("rate_seconds", "10"),
    ("target_seconds", "120"),
    ("weight", "4"),
];

type Set = (Option<i32>, Option<i32>, i32, i32, i32);

async fn queue(world: &World, name: &str) -> Set {
    sqlx::query_as("SELECT concurrency, rate_limit, rate_seconds, target_seconds, weight FROM queues WHERE name = $1")
        .bind(name)
        .fetch_one(world.pool())
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_sees_what_is_set_and_sets_nothing() {
    let world = World::start().await;
    let ops = Dashboard::start(&world.state).await;
    let worker = world.only_worker().await;
    let viewer = ops.signed_in(Role::Viewer).await;
    let page = viewer.get("/ops/queues").await.is(200);
    for fact in [
        "To breach",
        "Weight",
        "Limits of kinds",
        "How long jobs are kept",
        "7 d",
        "180 d",
    ] {
        page.says(fact);
    }
    for button in ["Limits and target…", "Limit…", "Change…", "<form class=\"stack\""] {
        page.is_silent_about(button);
    }
    let page = viewer.get("/ops/workers").await.is(200);
    page.says(&worker);
    page.is_silent_about("Quiet");
    page.is_silent_about("Stop…");
    for (path, form) in [
        ("/ops/queues/cache/settings", &CACHE[..]),
        ("/ops/kinds/cache.warm/limits", &CACHE[..3]),
        ("/ops/retention/succeeded", &[("days", "3")]),
        (&format!("/ops/workers/{worker}/quiet"), &[]),
        (&format!("/ops/workers/{worker}/stop"), &[]),
    ] {
        viewer.post(path, form).await.is(403);
    }
    let operator = ops.signed_in(Role::Operator).await;
    operator.get("/ops/queues").await.is(200).is_silent_about("Change…");
    operator
        .post("/ops/retention/succeeded", &[("days", "3")])
        .await
        .is(403);
    operator
        .post_without_token("/ops/queues/cache/settings", &CACHE)
        .await
        .is(403);
    assert_eq!(queue(&world, "cache").await, (None, None, 1, 300, 1));
    assert_eq!(
        audit::list(world.pool(), None, 10)
            .await
            .unwrap()
            .iter()
            .filter(|entry| entry.action.contains(".set"))
            .count(),
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_and_keeping_are_set_within_bounds_and_written_down() {
    let world = World::without_worker().await;
    let ops = Dashboard::start(&world.state).await;
    let admin = ops.signed_in(Role::Admin).await;
    admin.post("/ops/queues/cache/settings", &CACHE).await.is(303);
    assert_eq!(queue(&world, "cache").await, (Some(3), Some(20), 10, 120, 4));
    let page = admin.get("/ops/queues").await.is(200);
    page.says("20 in 10 s");
    page.says("The charts of the overview count attempts that are there");
    for (field, value) in [
        ("concurrency", "0"),
        ("concurrency", "many"),
        ("rate_limit", "-1"),
        ("rate_seconds", "86401"),
        ("target_seconds", ""),
        ("weight", "101"),
    ] {
        let form: Vec<(&str, &str)> = CACHE
            .iter()
            .map(|one| if one.0 == field { (field, value) } else { *one })
            .collect();
        admin
            .post("/ops/queues/cache/settings", &form)
            .await
            .is(422)
            .says(field);
    }
    admin.post("/ops/queues/none/settings", &CACHE).await.is(404);
    // Payments are slowed down for a reason only; a kind that moves money as well.
    admin.post("/ops/queues/payments/settings", &CACHE).await.is(422);
    let reason = [("reason", &*"x".repeat(501))];
    let refused = admin.post("/ops/queues/cache/pause", &reason).await.is(422);
    refused.says("500 characters at most");
    refused.is_silent_about("money");
    let with_reason: Vec<(&str, &str)> = CACHE.iter().copied().chain([("reason", "Stripe is slow")]).collect();
    admin.post("/ops/queues/payments/settings", &with_reason).await.is(303);
    // So they are when the limit is loosened or lifted.
    for (field, value) in [("concurrency", "30"), ("concurrency", ""), ("rate_limit", "")] {
        let form: Vec<(&str, &str)> = CACHE
            .iter()
            .map(|one| if one.0 == field { (field, value) } else { *one })
            .collect();
        let refused = admin.post("/ops/queues/payments/settings", &form).await.is(422);
        refused.says("say why");
    }
    admin
        .post("/ops/kinds/payment.refund/limits", &CACHE[..3])
        .await
        .is(422);
    admin.post("/ops/kinds/mail.send/limits", &CACHE[..3]).await.is(303);
    admin.get("/ops/queues").await.is(200).says("Limit mail.send");
    admin.post("/ops/kinds/none/limits", &CACHE[..3]).await.is(404);
    // Empty fields lift the limits.
    admin
        .post("/ops/kinds/mail.send/limits", &[("rate_seconds", "1")])
        .await
        .is(303);
    let kinds: i64 = sqlx::query_scalar("SELECT count(*) FROM kinds")
        .fetch_one(world.pool())
        .await
        .unwrap();
    assert_eq!(kinds, 0);
    admin.post("/ops/retention/dead", &[("days", "30")]).await.is(303);
    for days in ["0", "4000", "99999999"] {
        let refused = admin.post("/ops/retention/dead", &[("days", days)]).await.is(422);
        refused.says("days is from 1 to 3650");
    }
    admin.post("/ops/retention/running", &[("days", "3")]).await.is(404);
    let entries = audit::list(world.pool(), None, 5).await.unwrap();
    let written: Vec<(&str, &str)> = entries
        .iter()
        .map(|entry| (entry.action.as_str(), entry.target.as_str()))
        .collect();
    assert_eq!(
        written,
        [
            ("retention.set", "dead"),
            ("kind.set", "mail.send"),
            ("kind.set", "mail.send"),
            ("queue.set", "payments"),
            ("queue.set", "cache")
        ]
    );
    assert_eq!(entries[3].reason.as_deref(), Some("Stripe is slow"));
    assert_eq!(entries[4].before.as_ref().unwrap()["concurrency"], Value::Null);
    assert_eq!(entries[4].after.as_ref().unwrap()["rate_seconds"], 10);
    assert!(matches!(
        audit::verify(world.pool(), None).await.unwrap(),
        Verdict::Whole { .. }
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_told_to_be_quiet_and_to_stop() {
    let mut world = World::start().await;
    let ops = Dashboard::start(&world.state).await;
    let operator = ops.signed_in(Role::Operator).await;
    let worker = world.only_worker().await;
    let reason = [("reason", "a new disk")];
    let tell = async |wish: &str| operator.post(&format!("/ops/workers/{worker}/{wish}"), &reason).await;
    // It serves payments: nobody keeps it from them without a word, but anybody has it go on.
    for wish in ["quiet", "stop"] {
        let told = operator.post(&format!("/ops/workers/{worker}/{wish}"), &[]).await;
        told.is(422).says("say why");
    }
    tell("quiet").await.is(303);
    operator.get("/ops/workers").await.is(200).says(">quiet<");
    tell("explode").await.is(404);
    operator
        .post(&format!("/ops/workers/{worker}/resume"), &[])
        .await
        .is(303);
    operator.get("/ops/workers").await.is(200).is_silent_about(">quiet<");
    tell("stop").await.is(303);
    operator.get("/ops/workers").await.is(200).says(">stopping<");
    world.stop_worker().await;
    tell("quiet").await.is(404);
    operator.post("/ops/workers/nobody/stop", &[]).await.is(404);
    let entries = audit::list(world.pool(), None, 3).await.unwrap();
    let written: Vec<(&str, Option<&str>)> = entries
        .iter()
        .map(|entry| (entry.action.as_str(), entry.reason.as_deref()))
        .collect();
    let because = Some("a new disk");
    assert_eq!(
        written,
        [
            ("worker.stop", because),
            ("worker.resume", None),
            ("worker.quiet", because)
        ]
    );
    // One that serves no queue of money is told without a word.
    sqlx::query(
        "INSERT INTO workers (name, host, version, queues, concurrency, started_at, seen_at)
         VALUES ('warmer', 'rack-7', '1.0', '{cache,notifications}', 8, now(), now())",
    )
    .execute(world.pool())
    .await
    .unwrap();
    operator.post("/ops/workers/warmer/quiet", &[]).await.is(303);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_page_shows_parent_children_and_batch() {
    let world = World::without_worker().await;
    let ops = Dashboard::start(&world.state).await;
    let mut tx = world.state.db.begin().await.unwrap();
    let batch = batches::begin(&mut tx, &CompleteStays {}).await.unwrap();
    for _ in 0..2 {
        let property_id = Uuid::now_v7();
        tx.enqueue_in(batch, &WarmCache { property_id });
    }
    tx.commit().await.unwrap();
    let ids: Vec<Uuid> = sqlx::query_scalar("SELECT id FROM jobs ORDER BY id")
        .fetch_all(world.pool())
        .await
        .unwrap();
    sqlx::query("UPDATE jobs SET parent_id = $1, state = 'dead' WHERE id = $2")
        .bind(ids[0])
        .bind(ids[1])
        .execute(world.pool())
        .await
        .unwrap();
    let viewer = ops.signed_in(Role::Viewer).await;
    let page = viewer.get(&format!("/ops/jobs/{}", ids[0])).await.is(200);
    page.says("one of a batch of 2: 0 done, 1 failed");
    page.says("After the last comes stays.complete");
    page.says(&format!("/ops/jobs/{}", ids[1]));
    let child = viewer.get(&format!("/ops/jobs/{}", ids[1])).await.is(200);
    child.says("Enqueued by");
    child.says(&format!("/ops/jobs/{}", ids[0]));
    // The last one ends, and what comes after it is there.
    sqlx::query("UPDATE jobs SET state = 'succeeded', finished_at = now() WHERE id = $1")
        .bind(ids[0])
        .execute(world.pool())
        .await
        .unwrap();
    let mut connection = world.pool().acquire().await.unwrap();
    assert_eq!(batches::finish(&mut connection).await.unwrap(), 1);
    let after = batches::find(world.pool(), batch).await.unwrap().unwrap().after_id;
    let page = viewer.get(&format!("/ops/jobs/{after}")).await.is(200);
    page.says("after a batch of 2: 1 done, 1 failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_set_the_same_over_json() {
    let world = World::start().await;
    let ops = Dashboard::start(&world.state).await;
    let worker = world.only_worker().await;
    let http = reqwest::Client::new();
    let url = |path: &str| format!("{}/ops/api{path}", ops.base);
    let mut tokens = Vec::new();
    for role in [Role::Viewer, Role::Operator, Role::Admin] {
        let email = ops.make(role).await;
        let body = json!({"email": email, "password": PASSWORD});
        let session: Value = http
            .post(url("/session"))
            .json(&body)
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        tokens.push(session["token"].as_str().unwrap().to_owned());
    }
    let [viewer, operator, admin] = &tokens[..] else {
        panic!("three")
    };
    let send = async |method: &str, path: &str, token: &str, body: Value| -> (u16, Value) {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let request = http.request(method, url(path)).bearer_auth(token).json(&body);
        let reply = request.send().await.unwrap();
        (reply.status().as_u16(), reply.json().await.unwrap())
    };
    let wanted = json!({"concurrency": 2, "rate_limit": null, "target_seconds": 30, "weight": 2});
    let path = "/settings/queues/cache";
    assert_eq!(send("PUT", path, viewer, wanted.clone()).await.0, 403);
    let (status, set) = send("PUT", path, operator, wanted).await;
    assert_eq!(
        (status, &set[0]["concurrency"], &set[0]["rate_seconds"]),
        (200, &json!(2), &json!(1)),
        "{set}"
    );
    let (status, problem) = send("PUT", path, operator, json!({"target_seconds": 30, "weight": 0})).await;
    assert_eq!(
        (status, &problem["errors"][0]["field"]),
        (422, &json!("weight")),
        "{problem}"
    );
    let (status, problem) = send(
        "PUT",
        "/settings/kinds/payment.refund",
        operator,
        json!({"concurrency": 1}),
    )
    .await;
    assert_eq!(
        (status, &problem["errors"][0]["field"]),
        (422, &json!("reason")),
        "{problem}"
    );
    let (status, kinds) = send(
        "PUT",
        "/settings/kinds/mail.send",
        operator,
        json!({"rate_limit": 5, "rate_seconds": 60}),
    )
    .await;
    assert_eq!(
        (status, &kinds[0]["name"], &kinds[0]["rate_seconds"]),
        (200, &json!("mail.send"), &json!(60))
    );
    let kept = json!({"keep_seconds": 3600});
    assert_eq!(
        send("PUT", "/settings/retention/succeeded", operator, kept.clone())
            .await
            .0,
        403
    );
    let (_, problem) = send(
        "PUT",
        "/settings/retention/succeeded",
        admin,
        json!({"keep_seconds": 7}),
    )
    .await;
    assert_eq!(problem["errors"][0]["field"], "keep_seconds", "{problem}");
    let (status, kept) = send("PUT", "/settings/retention/succeeded", admin, kept).await;
    assert_eq!((status, kept.as_array().unwrap().len()), (200, 4));
    let quiet = format!("/workers/{worker}/quiet");
    assert_eq!(send("POST", &quiet, viewer, json!({})).await.0, 403);
    let (status, problem) = send("POST", &quiet, operator, json!({})).await;
    assert_eq!((status, &problem["errors"][0]["field"]), (422, &json!("reason")));
    let reason = json!({"reason": "x".repeat(501)});
    let (status, problem) = send("POST", &quiet, operator, reason).await;
    assert_eq!((status, &problem["errors"][0]["field"]), (422, &json!("reason")));
    assert!(!problem["detail"].as_str().unwrap().contains("money"), "{problem}");
    assert_eq!(
        send("POST", &quiet, operator, json!({"reason": "a new disk"})).await,
        (200, json!({"name": worker, "quiet": true, "stop": false}))
    );
    let (_, queues) = send("GET", "/queues", viewer, Value::Null).await;
    let queue = &queues[0];
    assert_eq!(
        (&queue["unpublished"], &queue["workers"]),
        (&json!(0), &json!([])),
        "{queue}"
    );
    let (_, workers) = send("GET", "/workers", viewer, Value::Null).await;
    assert_eq!(workers[0]["quiet"], true);
    assert_eq!(
        send("GET", &format!("/batches/{}", Uuid::now_v7()), viewer, Value::Null)
            .await
            .0,
        404
    );
    world
        .eventually("the cron table is filled", async || {
            world.counts("SELECT count(*) FROM cron_schedules").await == 4
        })
        .await;
    let (path, wanted) = (
        "/schedules/stays.complete",
        json!({"paused": true, "expression": "0 5 * * *"}),
    );
    assert_eq!(send("PUT", path, viewer, wanted.clone()).await.0, 403);
    let (status, schedules) = send("PUT", path, operator, wanted).await;
    let set = schedules.as_array().unwrap().iter().find(|one| one["paused"] == true);
    let set = set.unwrap_or_else(|| panic!("{status} {schedules}"));
    assert_eq!(
        (
            &set["name"],
            &set["expression"],
            &set["default_expression"],
            &set["next_tick"]
        ),
        (
            &json!("stays.complete"),
            &json!("0 5 * * *"),
            &json!("41 * * * *"),
            &Value::Null
        )
    );
    let (status, problem) = send("PUT", path, operator, json!({"paused": false, "expression": "often"})).await;
    assert_eq!(
        (status, &problem["errors"][0]["field"]),
        (422, &json!("expression")),
        "{problem}"
    );
    assert_eq!(
        send("PUT", "/schedules/none", operator, json!({"paused": true}))
            .await
            .0,
        404
    );
    let (_, document) = send("GET", "/openapi.json", viewer, Value::Null).await;
    assert!(document["paths"]["/settings/queues/{name}"]["put"].is_object());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_sets_the_same() {
    let world = World::start().await;
    let worker = world.only_worker().await;
    let says = async |arguments: &[&str], what: &str| {
        let (done, text) = on_a_terminal(&world, arguments).await;
        assert!(done && text.contains(what), "{arguments:?}: {text}");
    };
    let refuses = async |arguments: &[&str], what: &str| {
        let (done, text) = on_a_terminal(&world, arguments).await;
        assert!(!done && text.contains(what), "{arguments:?}: {text}");
    };
    says(
        &["limit", "cache", "--concurrency", "3", "--rate", "100/60"],
        "3 at once, 100 in 60 s",
    )
    .await;
    says(&["limit", "cache", "--weight", "7"], "3 at once, 100 in 60 s").await;
    says(&["limit", "mail.send", "--rate", "5"], "5 in 1 s").await;
    says(&["queues"], "weight 7  3 at once, 100 in 60 s").await;
    says(&["queues"], "mail.send").await;
    says(
        &["limit", "cache", "--concurrency", "none", "--rate", "none"],
        "no limit",
    )
    .await;
    refuses(&["limit", "payments", "--concurrency", "1"], "say why").await;
    refuses(&["limit", "mail.send", "--weight", "7"], "its queue has").await;
    refuses(&["limit", "nothing", "--concurrency", "1"], "no such kind").await;
    refuses(&["worker", "quiet", &worker], "say why").await;
    says(&["worker", "quiet", &worker, "--reason", "a new disk"], "quiet").await;
    says(&["workers"], "quiet").await;
    says(&["worker", "resume", &worker], "resume").await;
    says(&["keep", "dead", "30"], "dead         30.0 days").await;
    refuses(&["keep", "dead", "0"], "days is from 1 to 3650").await;
    says(&["keep"], "succeeded    7.0 days").await;
    refuses(&["batch", &Uuid::now_v7().to_string()], "no such batch").await;
    let entries = audit::list(world.pool(), None, 20).await.unwrap();
    assert_eq!(entries.len(), 7);
    assert!(entries.iter().all(|entry| entry.actor == "cli:ada"));
}
