//! The job dashboard over HTTP: who gets in, what is found, and what each button does to jobs that really failed.

mod access;
mod accounts;
mod alarms;
pub(crate) mod asking;
mod auditing;
mod behind;
mod bulk;
mod details;
mod finding;
mod job_page;
mod landing;
mod lists;
mod own_account;
mod reasons;
mod recorder;
mod scripts;
mod searches;
mod unwritten;
mod viewers;

use roost_shared::jobs::catalogue::WarmCache;
use roost_shared::jobs::kinds::KINDS;
use roost_shared::operators::Role;
use roost_shared::operators::audit::{self, Verdict};
use roost_tests::app::TestApp;
use roost_tests::mailbox::{Fault, Misbehaviour, Stage};
use roost_tests::ops::Dashboard;
use roost_tests::world::{World, id_of};
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

/// A job of any kind in any state, as an engine that met it would have left it.
pub(crate) async fn put(pool: &PgPool, kind: &str, state: &str, args: Value, error: Option<&str>) -> Uuid {
    let id = Uuid::now_v7();
    sqlx::query(
        "INSERT INTO jobs (id, kind, queue, priority, args, state, run_at, attempt, max_attempts, last_error, finished_at)
         VALUES ($1, $2, 'cache', 50, $3, $4, now() + interval '1 hour', 3, 3, $5, now())",
    )
    .bind(id)
    .bind(kind)
    .bind(args)
    .bind(state)
    .bind(error)
    .execute(pool)
    .await
    .unwrap();
    id
}

async fn state_of(pool: &PgPool, id: Uuid) -> Option<String> {
    sqlx::query_scalar("SELECT state FROM jobs WHERE id = $1")
        .bind(id)
        .fetch_optional(pool)
        .await
        .unwrap()
}

/// All that operators can change, and how long their log is.
async fn all_there_is(pool: &PgPool) -> Value {
    sqlx::query_scalar(
        "SELECT jsonb_build_object(
             'jobs', (SELECT jsonb_object_agg(id, to_jsonb(jobs)) FROM jobs),
             'attempts', (SELECT count(*) FROM job_attempts),
             'queues', (SELECT jsonb_object_agg(name, to_jsonb(queues)) FROM queues),
             'kinds', (SELECT jsonb_object_agg(name, to_jsonb(kinds)) FROM kinds),
             'workers', (SELECT jsonb_object_agg(name, to_jsonb(workers)) FROM workers),
             'schedules', (SELECT jsonb_object_agg(name, to_jsonb(cron_schedules)) FROM cron_schedules),
             'retention', (SELECT jsonb_object_agg(state, to_jsonb(job_retention)) FROM job_retention),
             'bulk', (SELECT jsonb_object_agg(id, to_jsonb(bulk_actions)) FROM bulk_actions),
             'asked', (SELECT count(*) FROM effect_inspections),
             'audit', (SELECT count(*) FROM operator_audit))",
    )
    .fetch_one(pool)
    .await
    .unwrap()
}

/// A worker that shows itself once more in an hour, and is taken to be alive until then.
async fn shows_itself(pool: &PgPool, name: &str, queues: &[&str]) {
    sqlx::query(
        "INSERT INTO workers (name, host, version, queues, concurrency, started_at, seen_at)
         VALUES ($1, 'rack-7', '9.8.7', $2, 8, now(), now() + interval '1 hour')",
    )
    .bind(name)
    .bind(queues)
    .execute(pool)
    .await
    .unwrap();
}

/// A line of the cron table that fires in an hour.
async fn fires_in_an_hour(pool: &PgPool, name: &str) {
    sqlx::query(
        "INSERT INTO cron_schedules (name, expression, next_tick) VALUES ($1, '17 * * * *', now() + interval '1 hour')",
    )
    .bind(name)
    .execute(pool)
    .await
    .unwrap();
}

/// A call to Stripe by this job of which nobody knows what became.
async fn is_in_doubt_about(pool: &PgPool, job: Uuid) {
    sqlx::query(
        "INSERT INTO effects (key, job_id, fence, state, first_sent_at, updated_at) VALUES ('capture:' || $1::uuid::text, $1::uuid, 1, 'unknown', now(), now())",
    )
    .bind(job)
    .execute(pool)
    .await
    .unwrap();
}

fn a_warm_cache() -> Value {
    json!({"property_id": Uuid::now_v7()})
}

#[tokio::test(flavor = "multi_thread")]
async fn script_in_a_job_stays_text() {
    let app = TestApp::start().await;
    let ops = Dashboard::start(&app.state).await;
    let script = "<script>alert(1)</script>";
    let error = format!("{script}\"'><img src=x onerror=alert(2)>");
    let id = put(
        app.state.db.pool(),
        "stripe.event.handle",
        "dead",
        json!({"event_id": script}),
        Some(&error),
    )
    .await;
    let secret = put(
        app.state.db.pool(),
        script,
        "dead",
        json!({"email": "ada@example.com"}),
        None,
    )
    .await;
    let admin = ops.signed_in(Role::Admin).await;
    for path in [
        "/ops/jobs".to_owned(),
        format!("/ops/jobs/{id}"),
        format!("/ops/jobs/{secret}"),
        "/ops".to_owned(),
        format!("/ops/jobs?q={script}"),
    ] {
        let page = admin.get(&path).await.is(200);
        page.is_silent_about("<script>alert");
        page.is_silent_about("<img src=x");
        page.is_silent_about("ada@example.com");
    }
    admin
        .get(&format!("/ops/jobs/{id}"))
        .await
        .is(200)
        .says("&#60;script&#62;alert(1)");
    let reason = [("reason", script)];
    admin.post(&format!("/ops/jobs/{id}/retry"), &reason).await.is(303);
    admin.get("/ops/audit").await.is(200).is_silent_about("<script>alert");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_that_was_refused_is_retried_when_the_server_takes_mail_again() {
    let world = World::start().await;
    let ops = Dashboard::start(&world.state).await;
    world.mailbox.inject(Fault {
        at: Stage::Rcpt,
        what: Misbehaviour::Reply(550),
        times: 1,
    });
    let guest = world.guest().await;
    world.run_jobs().await;
    assert!(world.mails_to(&guest).is_empty());

    let operator = ops.signed_in(Role::Operator).await;
    operator.get("/ops").await.is(200).says("1 job died within a day");
    let list = operator
        .get(&format!("/ops/jobs?state=dead&q={}", guest.id))
        .await
        .is(200);
    let id = list.html.split("data-href=\"/ops/jobs/").nth(1).unwrap();
    let id = id.split('"').next().unwrap().to_owned();
    let page = operator.get(&format!("/ops/jobs/{id}")).await.is(200);
    page.says("mail.send");
    page.says("550");
    page.says("A retry offers it once more");
    operator.post(&format!("/ops/jobs/{id}/retry"), &[]).await.is(303);
    world.run_jobs().await;
    assert_eq!(world.mails_to(&guest).len(), 1);
    let page = operator.get(&format!("/ops/jobs/{id}")).await.is(200);
    page.says("a retry sends nothing");
    page.says("job.retry");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_booking_has_a_flight_recorder_and_its_money_says_what_a_retry_would_do() {
    let world = World::start().await;
    let (host, guest) = (world.host().await, world.guest().await);
    let flat = world.lists(&host, json!({})).await;
    let reply = world
        .books(&guest, flat, world.day(60), world.day(63), "pm_card_visa")
        .await;
    let booking = id_of(&reply.expect(201));
    world.run_jobs().await;
    let ops = Dashboard::start(&world.state).await;
    let operator = ops.signed_in(Role::Operator).await;

    let flight = operator.get(&format!("/ops/bookings/{booking}")).await.is(200);
    for moment in [
        "requested",
        "payment_authorized",
        "payment.capture succeeded",
        "payment_intent",
        "mail done",
        "host_payable",
        "ledger",
    ] {
        flight.says(moment);
    }
    let capture: Uuid = sqlx::query_scalar("SELECT id FROM jobs WHERE kind = 'payment.capture'")
        .fetch_one(world.pool())
        .await
        .unwrap();
    let page = operator.get(&format!("/ops/jobs/{capture}")).await.is(200);
    page.says("Stripe already captured €358.40: a retry marks it done.");
    page.says("Flight recorder");
    // As if the worker had died before it could tell.
    sqlx::query("UPDATE jobs SET state = 'dead' WHERE id = $1")
        .bind(capture)
        .execute(world.pool())
        .await
        .unwrap();
    let retry = format!("/ops/jobs/{capture}/retry");
    operator.post(&retry, &[("reason", " ")]).await.is(422);
    operator
        .post(&retry, &[("reason", "the worker had died")])
        .await
        .is(303);
    world.run_jobs().await;
    assert_eq!(state_of(world.pool(), capture).await.as_deref(), Some("succeeded"));
    assert_eq!(world.at_stripe(booking).await.captures, 1);
    operator
        .get(&format!("/ops/jobs/{capture}"))
        .await
        .is(200)
        .says("the worker had died");

    let found = operator.get(&format!("/ops/jobs?q={booking}")).await.is(200);
    for kind in [
        "payment.authorize",
        "booking.confirm",
        "payment.capture",
        "mail.send",
        "stripe.event.handle",
    ] {
        found.says(kind);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_action_is_done_once_and_written_down() {
    let app = TestApp::start().await;
    let pool = app.state.db.pool();
    let ops = Dashboard::start(&app.state).await;
    let admin = ops.signed_in(Role::Admin).await;
    let at = |id: Uuid, action: &str| format!("/ops/jobs/{id}/{action}");

    let scheduled = put(pool, "cache.warm", "scheduled", a_warm_cache(), None).await;
    admin.post(&at(scheduled, "run"), &[]).await.is(303);
    assert_eq!(state_of(pool, scheduled).await.as_deref(), Some("queued"));
    admin.post(&at(scheduled, "cancel"), &[]).await.is(303);
    assert_eq!(state_of(pool, scheduled).await.as_deref(), Some("cancelled"));
    admin.post(&at(scheduled, "delete"), &[]).await.is(303);
    assert_eq!(state_of(pool, scheduled).await, None);
    admin.get(&format!("/ops/jobs/{scheduled}")).await.is(404);

    let running = put(pool, "cache.warm", "running", a_warm_cache(), None).await;
    admin.post(&at(running, "delete"), &[]).await.is(409);
    admin.post(&at(running, "edit"), &[("args", "{}")]).await.is(409);
    admin.post(&at(running, "cancel"), &[]).await.is(303);
    admin
        .get(&format!("/ops/jobs/{running}"))
        .await
        .is(200)
        .says("stopping");

    let dead = put(pool, "cache.warm", "dead", a_warm_cache(), None).await;
    let other = Uuid::now_v7();
    admin
        .post(&at(dead, "edit"), &[("args", "{\"property_id\": 7}")])
        .await
        .is(422);
    admin.post(&at(dead, "edit"), &[("args", "{oops")]).await.is(422);
    let args = json!({"property_id": other}).to_string();
    admin.post(&at(dead, "edit"), &[("args", &args)]).await.is(303);
    let edited = audit::of_job(pool, dead).await.unwrap();
    assert_eq!(edited[0].after, Some(json!({"args": {"property_id": other}})));
    assert!(edited[0].before.is_some());
    admin.post(&at(dead, "explode"), &[]).await.is(404);
    admin.post(&at(Uuid::now_v7(), "retry"), &[]).await.is(404);

    // Two that are ticked, of which one has moved on.
    let done = put(pool, "cache.warm", "succeeded", a_warm_cache(), None).await;
    let preview = format!("/ops/jobs/bulk?action=retry&id={dead}&id={done}");
    admin.get(&preview).await.is(200).says("<strong>1</strong> of 2 ticked");
    let form = [
        ("action", "retry"),
        ("id", &dead.to_string()),
        ("id", &done.to_string()),
    ];
    let back = admin.post("/ops/jobs/bulk", &form).await.is(303);
    assert!(back.location.contains("done+to+1"), "{}", back.location);

    let whole = audit::verify(pool, None).await.unwrap();
    assert!(
        matches!(whole, Verdict::Whole { entries, .. } if entries >= 7),
        "{whole:?}"
    );
    admin.get("/ops/audit").await.is(200).says("as they were written");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_log_cannot_be_changed_unseen() {
    let app = TestApp::start().await;
    let pool = app.state.db.pool();
    let ops = Dashboard::start(&app.state).await;
    let admin = ops.signed_in(Role::Admin).await;
    for action in ["pause", "resume", "pause", "resume"] {
        admin.post(&format!("/ops/queues/cache/{action}"), &[]).await.is(303);
    }
    let refused = sqlx::query("UPDATE operator_audit SET actor = 'somebody else'")
        .execute(pool)
        .await;
    assert!(refused.unwrap_err().to_string().contains("append-only"));
    let refused = sqlx::query("DELETE FROM operator_audit").execute(pool).await;
    assert!(refused.unwrap_err().to_string().contains("append-only"));

    // Whoever owns the database can do it all the same, but not unseen.
    for (change, broken) in [
        ("UPDATE operator_audit SET reason = 'nicer' WHERE seq = 3", 3),
        ("DELETE FROM operator_audit WHERE seq = 4", 4),
        (
            "DELETE FROM operator_audit WHERE seq = (SELECT max(seq) FROM operator_audit)",
            6,
        ),
    ] {
        let mut tx = roost_shared::db::begin(pool).await.unwrap();
        sqlx::query("CREATE TABLE IF NOT EXISTS kept AS SELECT * FROM operator_audit")
            .execute(&mut *tx)
            .await
            .unwrap();
        sqlx::query("ALTER TABLE operator_audit DISABLE TRIGGER ALL")
            .execute(&mut *tx)
            .await
            .unwrap();
        sqlx::query(change).execute(&mut *tx).await.unwrap();
        sqlx::query("ALTER TABLE operator_audit ENABLE TRIGGER ALL")
            .execute(&mut *tx)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        assert_eq!(
            audit::verify(pool, None).await.unwrap(),
            Verdict::Broken { seq: broken },
            "{change}"
        );
        admin
            .get("/ops/audit")
            .await
            .is(200)
            .says(&format!("Entry {broken} is not as it was written"));

        let mut tx = roost_shared::db::begin(pool).await.unwrap();
        sqlx::query("ALTER TABLE operator_audit DISABLE TRIGGER ALL")
            .execute(&mut *tx)
            .await
            .unwrap();
        sqlx::query("DELETE FROM operator_audit")
            .execute(&mut *tx)
            .await
            .unwrap();
        sqlx::query("INSERT INTO operator_audit SELECT * FROM kept")
            .execute(&mut *tx)
            .await
            .unwrap();
        sqlx::query("ALTER TABLE operator_audit ENABLE TRIGGER ALL")
            .execute(&mut *tx)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        assert_eq!(
            audit::verify(pool, None).await.unwrap(),
            Verdict::Whole { entries: 6, since: 1 }
        );
    }
    // The newest alone are judged by the one before them.
    assert_eq!(
        audit::verify(pool, Some(2)).await.unwrap(),
        Verdict::Whole { entries: 6, since: 5 }
    );
    admin.get("/ops/audit").await.is(200).says("All 6 entries");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_match_are_retried_once_each_by_a_job() {
    let world = World::start().await;
    let pool = world.pool();
    sqlx::query(
        "INSERT INTO jobs (id, kind, queue, priority, args, state, run_at, attempt, max_attempts, last_error, finished_at)
         SELECT gen_random_uuid(), 'cache.warm', 'cache', 50, jsonb_build_object('property_id', gen_random_uuid()), 'dead', now(), 3, 3, 'the cache was away', now()
         FROM generate_series(1, 1200)",
    )
    .execute(pool)
    .await
    .unwrap();
    // Random ids may lie after the action's own; give them ones of the past.
    sqlx::query("UPDATE jobs SET id = ('01900000' || substr(id::text, 9))::uuid WHERE kind = 'cache.warm'")
        .execute(pool)
        .await
        .unwrap();
    let ops = Dashboard::start(&world.state).await;
    let operator = ops.signed_in(Role::Operator).await;
    let preview = operator
        .get("/ops/jobs/bulk?all=1&action=retry&q=cache+was+away")
        .await
        .is(200);
    preview.says("<strong>1,200</strong> jobs match");
    let form = [
        ("action", "retry"),
        ("all", "1"),
        ("filter", "q=cache+was+away"),
        ("expected", "1200"),
        ("reason", ""),
    ];
    operator.post("/ops/jobs/bulk", &form).await.is(422);
    let form = form.map(|(name, value)| {
        if name == "reason" {
            (name, "the cache is back")
        } else {
            (name, value)
        }
    });
    let began = operator.post("/ops/jobs/bulk", &form).await.is(303);
    world.run_jobs().await;
    operator
        .get(&began.location)
        .await
        .is(200)
        .says("Done to <strong>1,200</strong>, 0 had moved on");
    assert_eq!(world.jobs("cache.warm").await, ["succeeded=1200"]);
    let most: i64 = sqlx::query_scalar("SELECT max(times) FROM (SELECT count(*) AS times FROM job_attempts JOIN jobs ON jobs.id = job_id WHERE kind = 'cache.warm' GROUP BY job_id) AS each")
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(most, 1);
    let written: i64 =
        sqlx::query_scalar("SELECT count(DISTINCT job_id) FROM operator_audit WHERE action = 'job.retry'")
            .fetch_one(pool)
            .await
            .unwrap();
    assert_eq!(written, 1200);
    assert!(matches!(
        audit::verify(pool, None).await.unwrap(),
        Verdict::Whole { .. }
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_queue_waits_and_workers_and_schedules_are_shown() {
    let world = World::start().await;
    let ops = Dashboard::start(&world.state).await;
    let operator = ops.signed_in(Role::Operator).await;
    operator.post("/ops/queues/payments/pause", &[]).await.is(422);
    operator.post("/ops/queues/payments/resume", &[]).await.is(422);
    operator.post("/ops/queues/nowhere/pause", &[]).await.is(404);
    operator.post("/ops/queues/notifications/pause", &[]).await.is(303);
    operator.get("/ops").await.is(200).says("notifications is paused");
    world.workers_heed().await;
    let guest = world.guest().await;
    // Jobs of another queue are done one after the other, and the mail still waits.
    for done in 1..=5 {
        let mut tx = world.state.db.begin().await.unwrap();
        tx.enqueue(&WarmCache {
            property_id: Uuid::now_v7(),
        });
        tx.commit().await.unwrap();
        let all = [format!("succeeded={done}")];
        world
            .eventually("a job elsewhere is done", async || {
                world.jobs("cache.warm").await == all
            })
            .await;
    }
    assert!(world.mails_to(&guest).is_empty());
    assert_eq!(world.jobs("mail.send").await, ["queued=1"]);
    operator.post("/ops/queues/notifications/resume", &[]).await.is(303);
    world
        .eventually("the mail arrives", async || world.mails_to(&guest).len() == 1)
        .await;

    let workers = operator.get("/ops/workers").await.is(200);
    workers.says("worker-alive");
    world
        .eventually("the cron table is filled", async || {
            operator
                .get("/ops/schedules")
                .await
                .html
                .contains("Run overdue.sweep now")
        })
        .await;
    let before: i64 = world.jobs_of("outbox.prune").await;
    operator.post("/ops/schedules/outbox.prune/run", &[]).await.is(303);
    world
        .eventually("the schedule fires", async || {
            world.jobs_of("outbox.prune").await == before + 1
        })
        .await;
    operator.post("/ops/schedules/none/run", &[]).await.is(404);

    // Paused, it fires by hand only.
    let settings = "/ops/schedules/outbox.prune/settings";
    operator.post(settings, &[("paused", "on")]).await.is(303);
    let pages = operator.get("/ops/schedules").await.is(200);
    pages.says("<span class=\"badge paused\">paused</span>");
    let none_next = "SELECT count(*) FROM cron_schedules WHERE name = 'outbox.prune' AND next_tick IS NULL";
    assert_eq!(world.counts(none_next).await, 1);
    operator.post("/ops/schedules/outbox.prune/run", &[]).await.is(303);
    world
        .eventually("the schedule fires once more", async || {
            world.jobs_of("outbox.prune").await == before + 2
        })
        .await;
    world
        .eventually("and then not again", async || world.counts(none_next).await == 1)
        .await;

    // Another expression holds in place of the program's, which comes back when it is taken away.
    operator
        .post(settings, &[("expression", "61 * * * *")])
        .await
        .is(422)
        .says("must be minute, hour, day, month and weekday");
    operator.post(settings, &[("expression", "5 4 1 1 *")]).await.is(303);
    let in_january = "SELECT count(*) FROM cron_schedules WHERE name = 'outbox.prune' AND NOT paused
                      AND to_char(next_tick AT TIME ZONE 'UTC', 'MM-DD HH24:MI') = '01-01 04:05'";
    assert_eq!(world.counts(in_january).await, 1);
    operator
        .get("/ops/schedules")
        .await
        .says("<code>5 4 1 1 *</code> <small>in place of <code>17 * * * *</code></small>");
    operator.post(settings, &[]).await.is(303);
    let each_hour =
        "SELECT count(*) FROM cron_schedules WHERE name = 'outbox.prune' AND extract(minute FROM next_tick) = 17
                     AND changed_to IS NULL";
    assert_eq!(world.counts(each_hour).await, 1);
    operator.post("/ops/schedules/none/settings", &[]).await.is(404);
    let set = "SELECT count(*) FROM operator_audit WHERE action = 'schedule.set' AND target = 'outbox.prune'";
    assert_eq!(world.counts(set).await, 3);
    // It puts captures and refunds to work.
    operator.post("/ops/schedules/overdue.sweep/run", &[]).await.is(422);
    let reason = [("reason", "a host asks for the money")];
    operator.post("/ops/schedules/overdue.sweep/run", &reason).await.is(303);
}

#[test]
fn the_dashboard_knows_every_kind_that_a_worker_knows() {
    let mut known: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
    known.sort_unstable();
    assert_eq!(roost_worker::jobs::registry().kinds(), known);
}
