//! Acting on all jobs that match: after an outage, and when it has to be stopped half-way.

use roost_shared::jobs::catalogue::RunBulkAction;
use roost_shared::jobs::{self, Claimant, Job, Lease, bulk};
use roost_shared::operators::{Role, audit};
use roost_tests::ops::{Browser, Dashboard, PASSWORD, Page};
use roost_tests::world::World;
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use super::{a_warm_cache, put, state_of};
use crate::rehearsal::lease_of;

/// Jobs of the past that wait for their next hour, in this state.
async fn wait_for_an_hour(pool: &PgPool, state: &str, count: i32) {
    sqlx::query(
        "INSERT INTO jobs (id, kind, queue, priority, args, state, run_at, attempt, max_attempts, last_error)
         SELECT ('01900000' || substr(gen_random_uuid()::text, 9))::uuid, 'cache.warm', 'cache', 50,
             jsonb_build_object('property_id', gen_random_uuid()), $1, now() + interval '1 hour', 2, 3, 'the cache was away'
         FROM generate_series(1, $2)",
    )
    .bind(state)
    .bind(count)
    .execute(pool)
    .await
    .unwrap();
}

/// Previews `action` on what `filter` matches, of which there are so many, and does it.
async fn acts_on_all(operator: &Browser, action: &str, filter: &str, expected: i32) -> Page {
    let preview = operator
        .get(&format!("/ops/jobs/bulk?all=1&action={action}&{filter}"))
        .await
        .is(200);
    preview.says(&format!("name=\"expected\" value=\"{expected}\""));
    let form = [
        ("action", action),
        ("all", "1"),
        ("filter", filter),
        ("expected", &expected.to_string()),
        ("reason", "the cache is back"),
    ];
    operator.post("/ops/jobs/bulk", &form).await.is(303)
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_outage_all_that_wait_for_their_next_attempt_are_run_now_once_each() {
    let world = World::start().await;
    let pool = world.pool();
    wait_for_an_hour(pool, "retrying", 1_200).await;
    wait_for_an_hour(pool, "scheduled", 3).await;
    let ops = Dashboard::start(&world.state).await;
    let operator = ops.signed_in(Role::Operator).await;
    let list = operator.get("/ops/jobs?state=retrying").await.is(200);
    list.says("all=1&amp;action=run&amp;state=retrying");

    // What is scheduled has a time of its own, and is left alone until somebody asks for it.
    operator
        .get("/ops/jobs/bulk?all=1&action=run&q=cache+was+away")
        .await
        .is(200)
        .says("is left alone");
    let began = acts_on_all(&operator, "run", "q=cache+was+away", 1_200).await;
    world.run_jobs().await;
    let page = operator.get(&began.location).await.is(200);
    page.says("Done to <strong>1,200</strong>, 0 had moved on");
    assert_eq!(world.jobs("cache.warm").await, ["scheduled=3", "succeeded=1200"]);

    acts_on_all(&operator, "run", "state=scheduled&kind=cache.warm", 3).await;
    world.run_jobs().await;
    assert_eq!(world.jobs("cache.warm").await, ["succeeded=1203"]);
    for each_once in [
        "SELECT count(*) FROM job_attempts JOIN jobs ON jobs.id = job_id WHERE kind = 'cache.warm'",
        "SELECT count(DISTINCT job_id) FROM job_attempts JOIN jobs ON jobs.id = job_id WHERE kind = 'cache.warm'",
        "SELECT count(*) FROM operator_audit WHERE action = 'job.run' AND reason = 'the cache is back'",
        "SELECT count(DISTINCT job_id) FROM operator_audit WHERE action = 'job.run'",
    ] {
        assert_eq!(world.counts(each_once).await, 1_203, "{each_once}");
    }
    // Nothing is left to run now.
    operator
        .get("/ops/jobs/bulk?all=1&action=run&kind=cache.warm")
        .await
        .is(200)
        .says("Nothing to do");
}

/// Claims the job that works the newest action off.
async fn claimed(world: &World) -> (Uuid, Lease) {
    let (job, action): (Uuid, String) =
        sqlx::query_as("SELECT id, args ->> 'action_id' FROM jobs WHERE kind = $1 ORDER BY id DESC LIMIT 1")
            .bind(RunBulkAction::KIND)
            .fetch_one(world.pool())
            .await
            .unwrap();
    let worker = Claimant {
        owner: "a worker".to_owned(),
        kinds: vec![RunBulkAction::KIND.to_owned()],
    };
    let claimed = jobs::claim(world.pool(), &[job], &worker, &[]).await.unwrap();
    (action.parse().unwrap(), lease_of(&claimed[0]))
}

/// One batch of the action. False: there is none.
async fn a_batch(world: &World, action: Uuid, lease: &Lease) -> bool {
    let mut tx = world.state.db.begin().await.unwrap();
    let more = bulk::step(&mut tx, lease, action).await.unwrap();
    tx.commit().await.unwrap();
    more
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_whose_job_ends_half_way_is_told_as_stopped_and_goes_on_with_a_retry() {
    let mut world = World::without_worker().await;
    wait_for_an_hour(world.pool(), "retrying", 1_200).await;
    let ops = Dashboard::start(&world.state).await;
    let admin = ops.signed_in(Role::Admin).await;
    let page = acts_on_all(&admin, "run", "kind=cache.warm", 1_200).await.location;
    let (action, lease) = claimed(&world).await;
    assert!(a_batch(&world, action, &lease).await);

    // It can be found again, wherever one was meanwhile.
    let list = admin.get("/ops/jobs").await.is(200);
    list.says("1 action on all that matched is running");
    list.says(&format!("href=\"{page}\""));
    list.says("500 of 1,200");
    // The log tells what it did to each under its own entry.
    let audit = admin.get("/ops/audit").await.is(200);
    audit.says(&format!("<a href=\"{page}\"><code>{action}</code></a>"));
    audit.is_silent_about("job.run");
    let unfolds = format!("/ops/audit?bulk={action}");
    audit.says(&format!("href=\"{unfolds}\""));
    let each = admin.get(&unfolds).await.is(200);
    assert_eq!(each.html.matches("<th scope=\"row\">job.run</th>").count(), 50);
    each.says(&format!("<a href=\"{page}\">{{"));
    let older = each.html.split("rel=\"next\" href=\"").nth(1).unwrap();
    let older = older.split('"').next().unwrap().replace("&#38;", "&");
    assert!(older.starts_with(&unfolds), "{older}");
    admin.get(&older).await.is(200).says("job.run");

    for ends in ["dead", "cancelled"] {
        sqlx::query("UPDATE jobs SET state = $2, finished_at = now() WHERE id = $1")
            .bind(lease.job_id)
            .bind(ends)
            .execute(world.pool())
            .await
            .unwrap();
        let stopped = admin.get(&page).await.is(200);
        stopped.says("<span class=\"badge paused\">stopped</span>");
        stopped.says(&format!("job</a> is {ends}"));
        stopped.is_silent_about("every 1s");
        let list = admin.get("/ops/jobs").await.is(200);
        list.is_silent_about("is running");
    }
    let retry = format!("/ops/jobs/{}/retry", lease.job_id);
    admin.post(&retry, &[]).await.is(422);
    admin.post(&retry, &[("reason", "the outage is over")]).await.is(303);
    let again = admin.get(&page).await.is(200);
    again.says("<span class=\"badge running\">running</span>");
    world.start_worker();
    world.run_jobs().await;
    let finished = admin.get(&page).await.is(200);
    finished.says("Done to <strong>1,200</strong>, 0 had moved on");
    finished.says("<span class=\"badge succeeded\">finished</span>");
    let acted_on = "SELECT count(DISTINCT job_id) FROM operator_audit WHERE action = 'job.run'";
    assert_eq!(world.counts(acted_on).await, 1_200);
    let entries = "SELECT count(*) FROM operator_audit WHERE action = 'job.run'";
    assert_eq!(world.counts(entries).await, 1_200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_is_stopped_by_an_operator_and_nothing_more_is_acted_on() {
    let world = World::without_worker().await;
    wait_for_an_hour(world.pool(), "retrying", 700).await;
    let ops = Dashboard::start(&world.state).await;
    let (operator, viewer) = (ops.signed_in(Role::Operator).await, ops.signed_in(Role::Viewer).await);
    let page = acts_on_all(&operator, "cancel", "kind=cache.warm", 700).await.location;
    let (action, lease) = claimed(&world).await;
    assert!(a_batch(&world, action, &lease).await);

    let stop = format!("{page}/stop");
    let why = [("reason", "the wrong kind")];
    viewer.get(&page).await.is(200).is_silent_about("Stop it here");
    viewer.post(&stop, &why).await.is(403);
    operator.get(&page).await.is(200).says("Stop it here");
    operator.post(&stop, &[("reason", " ")]).await.is(422);
    operator.post_without_token(&stop, &why).await.is(403);
    operator
        .post(&format!("/ops/bulk/{}/stop", Uuid::now_v7()), &why)
        .await
        .is(404);
    operator.post(&stop, &why).await.is(303);
    operator.post(&stop, &why).await.is(409);

    assert!(!a_batch(&world, action, &lease).await);
    assert_eq!(world.jobs("cache.warm").await, ["cancelled=500", "retrying=200"]);
    let stopped = operator.get(&page).await.is(200);
    stopped.says("<span class=\"badge paused\">stopped</span>");
    stopped.is_silent_about("Stop it here");
    stopped.is_silent_about("Retry that job");
    let entries = audit::list(world.pool(), None, 1).await.unwrap();
    assert_eq!(
        (entries[0].action.as_str(), entries[0].reason.as_deref()),
        ("jobs.bulk.stop", Some("the wrong kind"))
    );
    assert_eq!(entries[0].before.as_ref().unwrap()["done"], 500);
    operator
        .get("/ops/audit")
        .await
        .is(200)
        .says(&format!("<a href=\"{page}\"><code>{action}</code></a>"));
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_run_list_and_stop_actions_on_all_that_match() {
    let world = World::without_worker().await;
    wait_for_an_hour(world.pool(), "retrying", 7).await;
    wait_for_an_hour(world.pool(), "scheduled", 2).await;
    let ops = Dashboard::start(&world.state).await;
    let email = ops.make(Role::Operator).await;
    let http = reqwest::Client::new();
    let url = |path: &str| format!("{}/ops/api{path}", ops.base);
    let send = async |token: &str, path: &str, body: Value| -> (u16, Value) {
        let sent = http
            .post(url(path))
            .bearer_auth(token)
            .json(&body)
            .send()
            .await
            .unwrap();
        (sent.status().as_u16(), sent.json().await.unwrap())
    };
    let (_, session) = send("", "/session", json!({"email": email, "password": PASSWORD})).await;
    let token = session["token"].as_str().unwrap();
    let get = async |path: &str| -> Value {
        let sent = http.get(url(path)).bearer_auth(token).send().await.unwrap();
        sent.json().await.unwrap()
    };

    // As the page previews it, and nothing is done.
    let preview = get("/bulk/preview?action=run&kind=cache.warm").await;
    assert_eq!(
        (
            &preview["expected"],
            &preview["leaves_scheduled"],
            &preview["sample"][6]["state"]
        ),
        (&json!(7), &json!(true), &json!("retrying")),
        "{preview}"
    );
    let preview = get("/bulk/preview?action=cancel&state=scheduled,running").await;
    assert_eq!(
        (&preview["expected"], &preview["leaves_scheduled"]),
        (&json!(2), &json!(false))
    );
    for (query, code) in [
        ("action=explode", "invalid_parameter"),
        ("action=run&state=gone", "validation_failed"),
        ("action=delete", "forbidden"),
        ("kind=cache.warm", "invalid_parameter"),
    ] {
        assert_eq!(get(&format!("/bulk/preview?{query}")).await["code"], code, "{query}");
    }

    let run = json!({"action": "run", "kind": "cache.warm", "reason": "the cache is back"});
    let (status, began) = send(token, "/bulk", run).await;
    assert_eq!(
        (status, &began["expected"], &began["state"], &began["job_state"]),
        (200, &json!(7), &json!("running"), &json!("queued")),
        "{began}"
    );
    let path = format!("/bulk/{}", began["id"].as_str().unwrap());
    let newest = get("/bulk").await;
    assert_eq!((newest.as_array().unwrap().len(), &newest[0]["id"]), (1, &began["id"]));
    assert_eq!(get("/bulk?limit=0").await["code"], "invalid_parameter");

    let stop = format!("{path}/stop");
    let (status, problem) = send(token, &stop, json!({"reason": ""})).await;
    assert_eq!((status, &problem["errors"][0]["field"]), (422, &json!("reason")));
    let (status, stopped) = send(token, &stop, json!({"reason": "not yet"})).await;
    assert_eq!((status, &stopped["state"]), (200, &json!("stopped")));
    let (status, problem) = send(token, &stop, json!({"reason": "not yet"})).await;
    assert_eq!((status, &problem["code"]), (409, &json!("wrong_state")));
    let (status, _) = send(token, &format!("/bulk/{}/stop", Uuid::now_v7()), json!({"reason": "x"})).await;
    assert_eq!(status, 404);
    assert_eq!(get(&path).await["can_go_on"], false);

    let signs_out = async || {
        let sent = http.delete(url("/session")).bearer_auth(token).send().await.unwrap();
        sent.status().as_u16()
    };
    assert_eq!((signs_out().await, signs_out().await), (204, 401));
    assert_eq!(get(&path).await["code"], "unauthorized");
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_are_named_one_by_one_are_previewed_and_acted_on_by_scripts_as_by_ticks() {
    let world = World::start().await;
    let pool = world.pool();
    let ops = Dashboard::start(&world.state).await;
    let operator = ops.signed_in(Role::Operator).await;
    let payment = json!({"payment_id": Uuid::now_v7()});
    let warm = put(pool, "cache.warm", "dead", a_warm_cache(), Some("no answer")).await;
    let warmed = put(pool, "cache.warm", "succeeded", a_warm_cache(), None).await;
    let capture = put(pool, "payment.capture", "quarantined", payment.clone(), None).await;
    let captured = put(pool, "payment.capture", "succeeded", payment, None).await;
    let booking = json!({"booking_id": Uuid::now_v7()});
    let hold = put(pool, "booking.expire_hold", "scheduled", booking, None).await;

    // All lines of each are told, and a reason is asked for because of what will be acted on only.
    let page = async |ids: &[Uuid]| {
        let ids: Vec<String> = ids.iter().map(|id| format!("&id={id}")).collect();
        let path = format!("/ops/jobs/bulk?action=retry{}", ids.concat());
        operator.get(&path).await.is(200)
    };
    let preview = page(&[warm, captured]).await;
    preview.says("<strong>1</strong> of 2 ticked can have this");
    preview.says("A run renders the page again.");
    preview.says("It is succeeded: nothing is done to it.");
    preview.is_silent_about("needed");
    let preview = page(&[warm, capture]).await;
    preview.says("Three workers died while they ran it.");
    preview.says("Its payment is gone");
    preview.says("needed");
    let (id, other) = (warm.to_string(), capture.to_string());
    let ticked = [("action", "retry"), ("id", &*id), ("id", &*other)];
    operator.post("/ops/jobs/bulk", &ticked).await.is(422);
    assert_eq!(
        state_of(pool, warm).await.as_deref(),
        Some("dead"),
        "none without the others"
    );
    let all = operator
        .get("/ops/jobs/bulk?all=1&action=retry&state=quarantined&state=dead")
        .await;
    let all = all.is(200);
    all.says("<strong>moves money</strong>");
    all.says("Three workers died while they ran it.");
    all.says("<strong>2</strong> jobs match");

    let http = reqwest::Client::new();
    let url = |path: &str| format!("{}/ops/api{path}", ops.base);
    let token = ops.token("operator@ops.example.com").await;
    let get = async |query: &str| -> Value {
        let sent = http.get(url(&format!("/bulk/preview?{query}"))).bearer_auth(&token);
        sent.send().await.unwrap().json().await.unwrap()
    };
    let begin = async |body: Value| -> (u16, Value) {
        let sent = http.post(url("/bulk")).bearer_auth(&token).json(&body);
        let sent = sent.send().await.unwrap();
        (sent.status().as_u16(), sent.json().await.unwrap())
    };
    let preview = get(&format!("action=retry&ids={warm},{warmed}")).await;
    assert_eq!(
        (&preview["expected"], &preview["needs_reason"], &preview["kinds"]),
        (
            &json!(1),
            &json!(false),
            &json!([{"kind": "cache.warm", "count": 1, "moves_money": false}])
        ),
        "{preview}"
    );
    assert_eq!(preview["sample"][0]["outlook"][0]["tone"], "safe", "{preview}");
    let preview = get(&format!("action=retry&ids={warm},{capture}")).await;
    assert_eq!(
        (&preview["expected"], &preview["needs_reason"]),
        (&json!(2), &json!(true))
    );
    let preview = get(&format!("action=run&ids={hold}")).await;
    assert_eq!(
        (&preview["expected"], &preview["leaves_scheduled"]),
        (&json!(1), &json!(false))
    );

    let many: Vec<Uuid> = (0..101).map(|_| Uuid::now_v7()).collect();
    for (body, field) in [
        (json!({"action": "retry", "ids": [warm, capture]}), "reason"),
        (json!({"action": "retry"}), "reason"),
        (json!({"action": "retry", "ids": many}), "ids"),
        (json!({"action": "retry", "ids": [], "reason": "none was found"}), "ids"),
        (
            json!({"action": "retry", "kind": "cache.warm", "states": ["gone"]}),
            "states",
        ),
    ] {
        let (status, told) = begin(body).await;
        assert_eq!((status, &told["errors"][0]["field"]), (422, &json!(field)), "{told}");
    }
    for ids in ["7", "", ","] {
        let told = get(&format!("action=retry&ids={ids}")).await;
        assert_eq!(told["errors"][0]["field"], "ids", "{ids:?}");
    }

    let (status, began) = begin(json!({"action": "retry", "ids": [warm, warmed]})).await;
    assert_eq!((status, &began["expected"]), (200, &json!(1)), "{began}");
    world.run_jobs().await;
    let state = async |id: Uuid| state_of(pool, id).await.unwrap();
    assert_eq!(
        (state(warm).await.as_str(), state(capture).await.as_str()),
        ("succeeded", "quarantined")
    );
    let acted_on = "SELECT count(*) FROM operator_audit WHERE action = 'job.retry' AND after ->> 'bulk' IS NOT NULL";
    assert_eq!(world.counts(acted_on).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_is_carried_on_by_admins_only_and_the_log_keeps_what_is_gone() {
    let mut world = World::without_worker().await;
    let ops = Dashboard::start(&world.state).await;
    let (admin, operator) = (ops.signed_in(Role::Admin).await, ops.signed_in(Role::Operator).await);
    let args = json!({"property_id": Uuid::now_v7(), "email": "ada@example.com"});
    let gone = put(
        world.pool(),
        "cache.warm",
        "dead",
        args.clone(),
        Some("the cache was away"),
    )
    .await;
    acts_on_all(&admin, "delete", "q=cache+was+away", 1).await;
    let job: Uuid =
        sqlx::query_scalar("UPDATE jobs SET state = 'dead', finished_at = now() WHERE kind = 'ops.bulk' RETURNING id")
            .fetch_one(world.pool())
            .await
            .unwrap();

    let (retry, because) = (format!("/ops/jobs/{job}/retry"), [("reason", "it has stopped")]);
    operator
        .post(&retry, &because)
        .await
        .is(403)
        .says("takes the role admin");
    let token = ops.token("operator@ops.example.com").await;
    let sent = reqwest::Client::new()
        .post(format!("{}/ops/api/jobs/{job}/retry", ops.base))
        .bearer_auth(token)
        .json(&json!({"reason": "it has stopped"}));
    let refused = sent.send().await.unwrap();
    assert_eq!(refused.status().as_u16(), 403);
    let ticked = [
        ("action", "retry"),
        ("id", &job.to_string()),
        ("reason", "it has stopped"),
    ];
    let back = operator.post("/ops/jobs/bulk", &ticked).await.is(303);
    assert!(back.location.contains("done+to+0"), "{}", back.location);
    let all = acts_on_all(&operator, "retry", "kind=ops.bulk&state=dead", 1).await;
    world.start_worker();
    world.run_jobs().await;
    operator
        .get(&all.location)
        .await
        .is(200)
        .says("Done to <strong>0</strong>");
    assert_eq!(state_of(world.pool(), job).await.as_deref(), Some("dead"));
    assert_eq!(state_of(world.pool(), gone).await.as_deref(), Some("dead"));

    admin.post(&retry, &because).await.is(303);
    world.run_jobs().await;
    assert_eq!(state_of(world.pool(), gone).await, None);
    let entries = audit::of_job(world.pool(), gone).await.unwrap();
    assert_eq!(
        (entries[0].action.as_str(), entries[0].before.as_ref()),
        (
            "job.delete",
            Some(
                &json!({"kind": "cache.warm", "state": "dead", "attempt": 3, "last_error": "the cache was away",
                "args": {"property_id": args["property_id"], "email": "•••"}})
            )
        )
    );
}
