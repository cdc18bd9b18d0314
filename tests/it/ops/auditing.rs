//! The audit log is searched by who, what, to which thing and when, each by an index.

use chrono::{DateTime, TimeDelta, Utc};
use roost_shared::operators::Role;
use roost_shared::operators::audit::{self, AuditFilter};
use roost_tests::app::TestApp;
use roost_tests::ops::Dashboard;
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
