//! The audit log is searched by who, what, to which thing and when, each by an index; and is checked by a job.

use chrono::{DateTime, TimeDelta, Utc};
use roost_shared::jobs::catalogue::VerifyAudit;
use roost_shared::operators::Role;
use roost_shared::operators::audit::checks::{self, Standing};
use roost_shared::operators::audit::{self, AuditFilter, Verdict};
use roost_tests::app::TestApp;
use roost_tests::ops::Dashboard;
use roost_tests::world::World;
use serde_json::Value;
use sqlx::PgPool;
use uuid::Uuid;

use super::{a_warm_cache, put};

const BULK: Uuid = Uuid::from_u128(7);
/// The job of the entry 10,000.
const JOB: Uuid = Uuid::from_u128(10_000);

fn began() -> DateTime<Utc> {
    "2030-06-01T00:00:00Z".parse().unwrap()
}

/// 12,000 entries, one a second, of which the last 8,000 belong to an action on many jobs.
async fn a_long_log(pool: &PgPool) {
    sqlx::query(
        "INSERT INTO operator_audit (at, actor, action, target, job_id, after)
         SELECT $1 + n * interval '1 second', 'ops-' || n % 200 || '@ops.example.com',
                CASE WHEN n > 4000 THEN 'job.retry' WHEN n = 4000 THEN 'jobs.bulk' WHEN n % 400 = 0 THEN 'queue.pause' ELSE 'operator.sign_in' END,
                CASE WHEN n > 4000 THEN lpad(to_hex(n), 32, '0')::uuid::text WHEN n = 4000 THEN $2::text WHEN n % 400 = 0 THEN 'queue ' || n / 400
                     ELSE 'ops-' || n % 200 || '@ops.example.com' END,
                CASE WHEN n > 4000 THEN lpad(to_hex(n), 32, '0')::uuid END,
                CASE WHEN n > 4000 THEN jsonb_build_object('bulk', $2) ELSE '{}' END
         FROM generate_series(1, 12000) AS n ORDER BY n",
    )
    .bind(began())
    .bind(BULK)
    .execute(pool)
    .await
    .unwrap();
    sqlx::query("ANALYZE operator_audit").execute(pool).await.unwrap();
}

#[tokio::test]
async fn no_search_reads_the_whole_log() {
    let app = TestApp::start().await;
    let pool = app.state.db.pool();
    a_long_log(pool).await;
    let at = |second: i64| Some(began() + TimeDelta::seconds(second));
    let some = |change: &dyn Fn(&mut AuditFilter)| {
        let mut filter = AuditFilter::default();
        change(&mut filter);
        filter
    };
    let named = |text: &str| Some(text.to_owned());
    for (filter, index, found) in [
        (some(&|_| ()), "operator_audit_alone", 4_000),
        (
            some(&|one| one.actor = named("ops-7@ops.example.com")),
            "operator_audit_by_actor",
            20,
        ),
        (
            some(&|one| one.action = named("queue.pause")),
            "operator_audit_by_action",
            9,
        ),
        (
            some(&|one| one.action = named("jobs.bulk")),
            "operator_audit_by_action",
            1,
        ),
        (
            some(&|one| one.target = named("queue 3")),
            "operator_audit_by_target",
            1,
        ),
        (
            some(&|one| one.target = named(&BULK.to_string())),
            "operator_audit_by_target",
            1,
        ),
        (
            some(&|one| one.target = named(&JOB.to_string())),
            "operator_audit_by_job",
            1,
        ),
        (
            some(&|one| (one.from, one.to) = (at(100), at(160))),
            "operator_audit_by_time",
            60,
        ),
        (some(&|one| one.bulk = Some(BULK)), "operator_audit_by_bulk", 8_000),
        (
            some(&|one| {
                one.actor = named("ops-7@ops.example.com");
                one.from = at(2_000);
            }),
            "operator_audit_by_actor",
            10,
        ),
    ] {
        let plan = audit::plan(pool, &filter, 51).await.unwrap().join("\n");
        assert!(plan.contains(index), "{filter:?}\n{plan}");
        assert!(!plan.contains("Seq Scan"), "{filter:?}\n{plan}");
        // Pages hold every match once.
        let (mut seen, mut before) = (Vec::new(), None);
        loop {
            let page = audit::find(pool, &filter, before, 900).await.unwrap();
            before = page.last().map(|entry| entry.seq);
            seen.extend(page.iter().map(|entry| entry.seq));
            if page.len() < 900 {
                break;
            }
        }
        assert_eq!(seen.len(), found, "{filter:?}");
        assert!(seen.is_sorted_by(|left, right| left > right), "{filter:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_and_scripts_search_the_log_alike() {
    let app = TestApp::start().await;
    let pool = app.state.db.pool();
    let ops = Dashboard::start(&app.state).await;
    let operator = ops.signed_in(Role::Operator).await;
    let admin = ops.signed_in(Role::Admin).await;
    let job = put(pool, "cache.warm", "dead", a_warm_cache(), None).await;
    operator.post(&format!("/ops/jobs/{job}/retry"), &[]).await.is(303);
    admin.post("/ops/queues/cache/pause", &[]).await.is(303);
    admin.post("/ops/queues/cache/resume", &[]).await.is(303);

    let http = reqwest::Client::new();
    let url = |path: &str| format!("{}/ops/api{path}", ops.base);
    let token = ops.token("operator@ops.example.com").await;
    let get = async |query: &str| -> Value {
        let sent = http.get(url(&format!("/audit?{query}"))).bearer_auth(&token);
        sent.send().await.unwrap().json().await.unwrap()
    };
    let ended = (app.clock.now() - TimeDelta::hours(1)).format("%Y-%m-%dT%H:%M:%SZ");
    for (query, actions) in [
        (format!("target={job}"), &["job.retry"][..]),
        ("target=cache".to_owned(), &["queue.resume", "queue.pause"]),
        (
            "actor=admin@ops.example.com&action=queue.pause".to_owned(),
            &["queue.pause"],
        ),
        (format!("to={ended}"), &[]),
        (format!("target=cache&from={ended}&limit=1"), &["queue.resume"]),
        ("actor=nobody".to_owned(), &[]),
        (format!("bulk={}", Uuid::now_v7()), &[]),
    ] {
        let told = get(&query).await;
        let told: Vec<&str> = told
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["action"].as_str().unwrap())
            .collect();
        assert_eq!(told, actions, "{query}");
        let page = operator.get(&format!("/ops/audit?{query}")).await.is(200);
        for action in actions {
            page.says(&format!("<th scope=\"row\">{action}</th>"));
        }
        if actions.is_empty() {
            page.says("No entry matches");
        }
    }
    // What makes no sense is told, with the search as it was written; the chain is looked at all the same.
    let backwards = "from=2030-06-02T00:00:00Z&to=2030-06-01T00:00:00Z";
    assert_eq!(get(backwards).await["errors"][0]["field"], "to");
    let page = operator.get(&format!("/ops/audit?{backwards}")).await.is(200);
    page.says("role=\"alert\">to: must be after from");
    page.says("as they were written");
    assert_eq!(get("actor=%00").await["errors"][0]["field"], "actor");
    assert_eq!(get("from=today").await["code"], "invalid_parameter");
    let page = operator.get("/ops/audit?from=today&actor=ada").await.is(200);
    page.says("name=\"from\" value=\"today\"");
    page.says("name=\"actor\" value=\"ada\"");
}

/// What somebody who owns the database can do: without the triggers, and with every hash computed again.
async fn rewrite(pool: &PgPool, change: &str, compute_again: bool) {
    let hashes = "DO $$ DECLARE entry operator_audit; last bytea := '\\x00'; BEGIN
        FOR entry IN SELECT * FROM operator_audit ORDER BY seq LOOP
            entry.prev_hash := last;
            last := operator_audit_hash(entry);
            UPDATE operator_audit SET prev_hash = entry.prev_hash, hash = last WHERE seq = entry.seq;
        END LOOP;
        UPDATE operator_audit_head SET hash = last;
    END $$;";
    let script = format!(
        "BEGIN; ALTER TABLE operator_audit DISABLE TRIGGER ALL; ALTER TABLE operator_audit_head DISABLE TRIGGER ALL; {change}; {}
         ALTER TABLE operator_audit ENABLE TRIGGER ALL; ALTER TABLE operator_audit_head ENABLE TRIGGER ALL; COMMIT",
        if compute_again { hashes } else { "" }
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(script)).execute(pool).await.unwrap();
}

async fn check(world: &World) -> Standing {
    let mut tx = world.db().begin().await.unwrap();
    tx.enqueue(&VerifyAudit {});
    tx.commit().await.unwrap();
    world.run_jobs().await;
    checks::standing(world.pool()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_whose_hashes_were_all_computed_again_is_found_out() {
    let mut world = World::without_worker().await;
    let ops = Dashboard::start(&world.state).await;
    let admin = ops.signed_in(Role::Admin).await;
    admin
        .get("/ops/audit")
        .await
        .says("No worker has checked all of it yet");
    world.start_worker();
    let pool = world.pool();
    for action in ["pause", "resume", "pause", "resume"] {
        admin.post(&format!("/ops/queues/cache/{action}"), &[]).await.is(303);
    }
    let refused = sqlx::query("UPDATE operator_audit_head SET seq = 1")
        .execute(pool)
        .await;
    assert!(refused.unwrap_err().to_string().contains("by its entries only"));
    let refused = sqlx::query("DELETE FROM operator_audit_head").execute(pool).await;
    assert!(refused.unwrap_err().to_string().contains("by its entries only"));

    let standing = check(&world).await;
    assert_eq!(
        (standing.broken_seq, standing.checked_seq, standing.sealed),
        (None, 6, true)
    );
    assert!(standing.whole_at.is_some());
    admin.get("/ops/audit").await.says("whole up to entry 6 and sealed");
    // It goes on from there.
    admin.post("/ops/queues/cache/pause", &[]).await.is(303);
    let standing = check(&world).await;
    assert_eq!((standing.broken_seq, standing.checked_seq), (None, 7));

    let reasons: Vec<(i64, Option<String>)> = sqlx::query_as("SELECT seq, reason FROM operator_audit ORDER BY seq")
        .fetch_all(pool)
        .await
        .unwrap();
    assert_eq!(reasons[2], (3, None));
    // The hashes alone say that all is well.
    rewrite(pool, "UPDATE operator_audit SET reason = 'nicer' WHERE seq = 3", true).await;
    assert_eq!(
        audit::verify(pool, None).await.unwrap(),
        Verdict::Whole { entries: 7, since: 1 }
    );
    let standing = check(&world).await;
    assert_eq!((standing.broken_seq, standing.checked_seq), (Some(7), 7));
    let page = admin.get("/ops/audit").await.is(200);
    page.says("entry 7 is not as it was written, or one before it");
    admin
        .get("/ops")
        .await
        .says("Entry 7 of the audit log is not as it was written");
    // Who makes a seal of their own has no key for it.
    sqlx::query(
        "UPDATE operator_audit_checks SET (sealed_seq, sealed_hash) = (SELECT seq, hash FROM operator_audit_head), seal = sha256('a guess')",
    )
    .execute(pool)
    .await
    .unwrap();
    assert_eq!(check(&world).await.broken_seq, Some(7));
}

/// `roost-api ops unseal-audit`: whether it was done, and what it said.
async fn unseal(world: &World) -> (bool, String) {
    let test = std::env::current_exe().unwrap();
    let ran = tokio::process::Command::new(test.parent().unwrap().parent().unwrap().join("roost-api"))
        .env_clear()
        .env("DATABASE_URL", world.database_url())
        .env("REDIS_URL", world.redis_url())
        .env("USER", "ada")
        .args(["ops", "unseal-audit", "--reason", "the secret was lost"])
        .output()
        .await
        .unwrap();
    let said = [ran.stdout, ran.stderr].concat();
    (ran.status.success(), String::from_utf8(said).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_whose_secret_is_gone_is_sealed_anew_if_it_is_whole() {
    let world = World::start().await;
    let ops = Dashboard::start(&world.state).await;
    let admin = ops.signed_in(Role::Admin).await;
    let pool = world.pool();
    for action in ["pause", "resume"] {
        admin.post(&format!("/ops/queues/cache/{action}"), &[]).await.is(303);
    }
    let sealed = check(&world).await.checked_seq;
    // As by the secret before, of which nothing is known any more.
    sqlx::query("UPDATE operator_audit_checks SET seal = sha256('another secret')")
        .execute(pool)
        .await
        .unwrap();
    assert_eq!(check(&world).await.broken_seq, Some(sealed));
    admin.get("/ops").await.says("roost-api ops unseal-audit");

    let change = "UPDATE operator_audit SET target = 'mails' WHERE seq = 2";
    let target: String = sqlx::query_scalar("SELECT target FROM operator_audit WHERE seq = 2")
        .fetch_one(pool)
        .await
        .unwrap();
    rewrite(pool, change, false).await;
    let (done, said) = unseal(&world).await;
    assert!(!done && said.contains("entry 2 is not as it was written"), "{said}");
    assert_eq!(check(&world).await.broken_seq, Some(sealed));
    let back = format!("UPDATE operator_audit SET target = '{target}' WHERE seq = 2");
    rewrite(pool, &back, false).await;

    let (done, said) = unseal(&world).await;
    assert!(
        done && said.contains(&format!("all {sealed} entries are as they were written")),
        "{said}"
    );
    let newest = &audit::list(pool, None, 1).await.unwrap()[0];
    assert_eq!(
        (newest.action.as_str(), newest.actor.as_str(), newest.reason.as_deref()),
        ("audit.unseal", "cli:ada", Some("the secret was lost"))
    );
    let standing = check(&world).await;
    assert_eq!(
        (standing.broken_seq, standing.checked_seq, standing.sealed),
        (None, sealed + 1, true)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_checks_is_an_alarm() {
    let world = World::without_worker().await;
    let ops = Dashboard::start(&world.state).await;
    let admin = ops.signed_in(Role::Admin).await;
    admin.post("/ops/queues/cache/pause", &[]).await.is(303);
    let overview = admin.get("/ops").await.is(200);
    overview.is_silent_about("Nobody has checked the audit log");
    sqlx::query("UPDATE operator_audit_checks SET checked_at = now() - interval '2 hours'")
        .execute(world.pool())
        .await
        .unwrap();
    world
        .eventually("the alarm", async || {
            let page = admin.get("/ops").await.is(200);
            page.html.contains("Nobody has checked the audit log for 2 h")
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_entry_that_was_changed_is_found_by_the_next_round() {
    let world = World::start().await;
    let pool = world.pool();
    a_long_log(pool).await;
    assert_eq!(check(&world).await.checked_seq, 12_000);
    rewrite(pool, "UPDATE operator_audit SET actor = 'nobody' WHERE seq = 17", false).await;
    assert_eq!(check(&world).await.broken_seq, Some(17));
    rewrite(
        pool,
        "UPDATE operator_audit SET actor = 'ops-17@ops.example.com' WHERE seq = 17",
        false,
    )
    .await;
    let standing = check(&world).await;
    assert_eq!(
        (standing.broken_seq, standing.checked_seq, standing.sealed),
        (None, 12_000, true)
    );
    rewrite(pool, "DELETE FROM operator_audit WHERE seq > 11990", true).await;
    assert_eq!(check(&world).await.broken_seq, Some(12_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_edit_replaced_is_masked_where_it_is_shown() {
    let app = TestApp::start().await;
    let pool = app.state.db.pool();
    let ops = Dashboard::start(&app.state).await;
    let (admin, viewer) = (ops.signed_in(Role::Admin).await, ops.signed_in(Role::Viewer).await);
    let old = serde_json::json!({"property_id": BULK, "email": "ada@example.com"});
    let job = put(pool, "cache.warm", "dead", old, None).await;
    let args = serde_json::json!({ "property_id": JOB }).to_string();
    admin
        .post(&format!("/ops/jobs/{job}/edit"), &[("args", &args)])
        .await
        .is(303);
    for page in ["/ops/audit".to_owned(), format!("/ops/jobs/{job}")] {
        let page = viewer.get(&page).await.is(200);
        page.says("job.edit");
        page.is_silent_about("ada@example.com");
    }
    let shown = audit::of_job(pool, job).await.unwrap().remove(0);
    assert_eq!(shown.before.unwrap()["args"]["email"], "•••");
    assert_eq!(shown.after.unwrap()["args"]["property_id"], JOB.to_string());
}
