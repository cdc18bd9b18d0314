//! The list of jobs and the overview: every page by an index, and nothing read twice.

use std::time::{Duration, Instant};

use chrono::TimeDelta;
use roost_shared::jobs::history::{History, Slice};
use roost_shared::jobs::list::{self, JobFilter};
use roost_shared::jobs::overview::{self, KindsLately};
use roost_shared::operators::Role;
use roost_tests::app::TestApp;
use roost_tests::ops::Dashboard;
use serde_json::json;
use uuid::Uuid;

use super::put;

fn unknown() -> Option<String> {
    Some("unknown".to_owned())
}

/// The rows that scans of a plan gave and those that they threw away.
fn rows_read(plan: &str) -> f64 {
    let number = |text: &str, name: &str| -> Option<f64> {
        let rest = text.split(name).nth(1)?;
        rest.split(|one: char| !one.is_ascii_digit() && one != '.')
            .next()?
            .parse()
            .ok()
    };
    let (mut read, mut loops) = (0.0, 1.0);
    for line in plan.lines() {
        if let Some(often) = number(line, "loops=") {
            loops = often;
            if line.contains(" Scan ") {
                read += number(line, "rows=").unwrap_or(0.0) * loops;
            }
        }
        read += number(line, "Rows Removed by Filter: ").unwrap_or(0.0) * loops;
    }
    read
}

#[tokio::test]
async fn no_list_reads_the_whole_table() {
    let app = TestApp::start().await;
    let pool = app.state.db.pool();
    sqlx::query(
        "INSERT INTO jobs (id, kind, queue, priority, args, state, run_at, attempt, max_attempts, last_error, finished_at, created_at, lease_owner)
         SELECT ('01900000-' || lpad(to_hex(n / 65536), 4, '0') || '-7' || substr(md5(n::text), 1, 3) || '-8' || substr(md5(n::text), 4, 3) || '-' || lpad(to_hex(n), 12, '0'))::uuid,
                (ARRAY['mail.send', 'cache.warm', 'payment.capture', 'booking.confirm'])[1 + n % 4],
                (ARRAY['notifications', 'cache', 'payments', 'confirmation'])[1 + n % 4], 50,
                jsonb_build_object('payment_id', gen_random_uuid()),
                CASE WHEN n % 1000 = 0 THEN 'dead' WHEN n % 4000 = 1 THEN 'running' ELSE 'succeeded' END, now(), CASE WHEN n % 50 = 0 THEN 4 ELSE 1 END, 15,
                CASE WHEN n % 1000 = 0 THEN 'Stripe said no to ' || n END, now(), now(), CASE WHEN n % 2 = 0 THEN 'w-2' ELSE 'w-1' END
         FROM generate_series(1, 40000) AS n",
    )
    .execute(pool)
    .await
    .unwrap();
    sqlx::query(
        "INSERT INTO effects (key, job_id, fence, state, first_sent_at, updated_at)
         SELECT 'capture:' || id, id, 1, CASE WHEN row_number() OVER (ORDER BY id) % 1000 = 0 THEN 'unknown' ELSE 'done' END, now(), now()
         FROM jobs WHERE kind = 'payment.capture'",
    )
    .execute(pool)
    .await
    .unwrap();
    sqlx::query("ANALYZE jobs, effects").execute(pool).await.unwrap();
    let some = |change: fn(&mut JobFilter)| {
        let mut filter = JobFilter::default();
        change(&mut filter);
        filter
    };
    let shapes = [
        some(|_| ()),
        some(|filter| filter.worker = Some("w-1".to_owned())),
        some(|filter| {
            filter.worker = Some("w-1".to_owned());
            filter.kind = Some("cache.warm".to_owned());
            filter.q = Some("Stripe".to_owned());
        }),
        some(|filter| filter.effect = unknown()),
        some(|filter| {
            filter.effect = unknown();
            filter.states = vec!["succeeded".to_owned()];
            filter.from = Some("2024-06-10T00:00:00Z".parse().unwrap());
        }),
        some(|filter| {
            filter.effect = unknown();
            filter.q = Some("Stripe".to_owned());
        }),
        some(|filter| {
            filter.effect = unknown();
            filter.q = Some("01a2037c-a236-775c-8d03-3d14bc67841b".to_owned());
        }),
        some(|filter| filter.states = vec!["dead".to_owned()]),
        some(|filter| filter.states = vec!["dead".to_owned(), "running".to_owned()]),
        some(|filter| filter.kind = Some("mail.send".to_owned())),
        some(|filter| filter.queue = Some("payments".to_owned())),
        some(|filter| filter.queue = Some("maintenance".to_owned())),
        some(|filter| filter.attempts = Some(3)),
        some(|filter| {
            filter.attempts = Some(3);
            filter.queue = Some("payments".to_owned());
        }),
        some(|filter| {
            filter.attempts = Some(3);
            filter.kind = Some("mail.send".to_owned());
            filter.states = vec!["succeeded".to_owned()];
        }),
        some(|filter| filter.from = Some("2024-06-10T00:00:00Z".parse().unwrap())),
        some(|filter| filter.q = Some("no to 7000".to_owned())),
        some(|filter| filter.q = Some("01a2037c-a236-775c-8d03-3d14bc67841b".to_owned())),
        some(|filter| filter.q = Some(r#"{"payment_id": "01a2037c-a236-775c-8d03-3d14bc67841b"}"#.to_owned())),
        some(|filter| {
            filter.kind = Some("payment.capture".to_owned());
            filter.states = vec!["dead".to_owned()];
            filter.q = Some("Stripe".to_owned());
        }),
    ];
    for filter in shapes {
        let plan = list::plan(pool, &filter, 51).await.unwrap().join("\n");
        assert!(plan.contains("Index"), "{filter:?}\n{plan}");
        assert!(!plan.contains("Seq Scan on jobs"), "{filter:?}\n{plan}");
        assert!(rows_read(&plan) <= 1_500.0, "{filter:?}\n{plan}");
        let by_id = filter.q.as_deref().is_some_and(|q| q.starts_with("01a2"));
        assert!(
            filter.effect.is_none() || by_id || plan.contains("effects_unknown"),
            "{filter:?}\n{plan}"
        );
        assert!(!plan.contains("Seq Scan on effects"), "{filter:?}\n{plan}");
        // Both hold running jobs only; which is the smaller one depends on how many there are.
        let of_worker = ["jobs_by_owner", "jobs_leased"]
            .iter()
            .any(|index| plan.contains(index));
        assert!(filter.worker.is_none() || of_worker, "{filter:?}\n{plan}");
        let tried_again = filter.attempts.is_some();
        assert!(!tried_again || plan.contains("jobs_retried"), "{filter:?}\n{plan}");
        let walks = filter.effect.is_none()
            && !tried_again
            && filter.worker.is_none()
            && filter.q.is_none()
            && (filter.kind.is_some() || filter.queue.is_some() || !filter.states.is_empty());
        assert!(!walks || plan.contains("jobs_at_rest"), "{filter:?}\n{plan}");
    }
    // A kind that this build does not know may be in any queue.
    let strange = put(pool, "newer.kind", "dead", json!({}), None).await;
    let of_cache = some(|filter| {
        filter.queue = Some("cache".to_owned());
        filter.states = vec!["dead".to_owned()];
    });
    let found = list::list(pool, &of_cache, None, 51).await.unwrap();
    assert!(found.iter().any(|job| job.id == strange));
    sqlx::query("DELETE FROM jobs WHERE id = $1")
        .bind(strange)
        .execute(pool)
        .await
        .unwrap();
    // Pages hold every match once.
    let filter = some(|filter| filter.states = vec!["dead".to_owned()]);
    let (mut seen, mut before) = (Vec::new(), None);
    loop {
        let page = list::list(pool, &filter, before, 7).await.unwrap();
        before = page.last().map(|job| job.id);
        seen.extend(page.iter().map(|job| job.id));
        if page.len() < 7 {
            break;
        }
    }
    assert_eq!(seen.len(), 40);
    for (worker, runs) in [("w-1", 10), ("w-2", 0)] {
        let filter = JobFilter {
            worker: Some(worker.to_owned()),
            ..JobFilter::default()
        };
        assert_eq!(list::count(pool, &filter).await.unwrap(), runs, "{worker}");
        let page = list::list(pool, &filter, None, 50).await.unwrap();
        assert_eq!(page.len() as i64, runs, "{worker}");
        assert!(page.is_sorted_by(|left, right| left.id > right.id));
    }
    // So do those of jobs in doubt, with any other condition.
    let mut doubtful = some(|filter| filter.effect = unknown());
    let first = list::list(pool, &doubtful, None, 6).await.unwrap();
    let rest = list::list(pool, &doubtful, Some(first[5].id), 6).await.unwrap();
    let ids: Vec<Uuid> = first.iter().chain(&rest).map(|job| job.id).collect();
    assert_eq!(ids.len(), 10);
    assert!(ids.is_sorted_by(|left, right| left > right));
    assert_eq!(list::count(pool, &doubtful).await.unwrap(), 10);
    doubtful.kind = Some("mail.send".to_owned());
    assert_eq!(list::count(pool, &doubtful).await.unwrap(), 0);
    for (q, found) in [(ids[3].to_string(), 1), (seen[0].to_string(), 0)] {
        doubtful = some(|filter| filter.effect = unknown());
        doubtful.q = Some(q);
        assert_eq!(list::count(pool, &doubtful).await.unwrap(), found, "{doubtful:?}");
    }
    assert!(seen.is_sorted_by(|left, right| left > right));
    assert_eq!(list::count(pool, &filter).await.unwrap(), 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_overview_counts_the_day_once_and_then_what_is_new() {
    let app = TestApp::start().await;
    let pool = app.state.db.pool();
    let attempts = async |from: i32, to: i32, ago: &'static str| {
        sqlx::query(
            "INSERT INTO job_attempts (job_id, fence, attempt, worker, started_at, ended_at, outcome)
             SELECT ('01900000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 1, 1, 'w', now() - $3::interval, now() - $3::interval,
                    CASE WHEN n % 10 = 0 THEN 'failed' ELSE 'succeeded' END
             FROM generate_series($1, $2) AS n",
        )
        .bind(from)
        .bind(to)
        .bind(ago)
        .execute(pool)
        .await
        .unwrap();
    };
    attempts(1, 2_000, "20 hours").await;
    attempts(2_001, 3_000, "30 minutes").await;
    let mut history = History::default();
    let totals = |history: &History| {
        [(60, 1), (96, 15)].map(|(slices, minutes)| {
            let slices = history.slices(slices, TimeDelta::minutes(minutes));
            let sum = |of: fn(&Slice) -> i64| slices.iter().map(of).sum::<i64>();
            (sum(|slice| slice.succeeded), sum(|slice| slice.failed))
        })
    };
    history.renew(pool).await.unwrap();
    assert_eq!(totals(&history), [(900, 100), (2_700, 300)]);
    // What was counted stands, and is not read again; what ended since is added.
    sqlx::query("DELETE FROM job_attempts").execute(pool).await.unwrap();
    attempts(3_001, 3_100, "0 seconds").await;
    history.renew(pool).await.unwrap();
    assert_eq!(totals(&history), [(990, 110), (2_790, 310)]);

    let ops = Dashboard::start(&app.state).await;
    let viewer = ops.signed_in(Role::Viewer).await;
    viewer.get("/ops").await.is(200).says("Last hour, by the minute");
}

#[tokio::test]
async fn the_durations_of_kinds_are_read_again_after_ten_seconds() {
    let app = TestApp::start().await;
    let pool = app.state.db.pool();
    let ran = async || {
        sqlx::query(
            "WITH made AS (
                 INSERT INTO jobs (id, kind, queue, priority, args, state, run_at, attempt, max_attempts, finished_at)
                 VALUES (gen_random_uuid(), 'cache.warm', 'cache', 50, '{}', 'succeeded', now(), 1, 3, now()) RETURNING id)
             INSERT INTO job_attempts (job_id, job_kind, fence, attempt, worker, started_at, ended_at, outcome)
             SELECT id, 'cache.warm', 1, 1, 'w', now(), now(), 'succeeded' FROM made",
        )
        .execute(pool)
        .await
        .unwrap();
    };
    let mut lately = KindsLately::default();
    let opened = Instant::now();
    ran().await;
    for (seconds, attempts) in [(0, 1), (9, 1), (10, 2), (19, 2), (20, 3)] {
        let figures = lately
            .renewed(pool, opened + Duration::from_secs(seconds))
            .await
            .unwrap();
        let known: Vec<_> = figures.iter().map(|kind| (kind.kind.as_str(), kind.attempts)).collect();
        assert_eq!(known, [("cache.warm", attempts)], "after {seconds} s");
        if seconds % 10 == 0 {
            ran().await;
        }
    }
}

#[tokio::test]
async fn a_busy_kind_hides_no_other_from_the_durations() {
    let app = TestApp::start().await;
    let pool = app.state.db.pool();
    let ran = async |kind: &str, attempts: i32, outcome: &str, seconds: f64, ago: &str| {
        sqlx::query(
            "WITH made AS (
                 INSERT INTO jobs (id, kind, queue, priority, args, state, run_at, attempt, max_attempts, finished_at)
                 SELECT gen_random_uuid(), $1, 'cache', 50, '{}', 'succeeded', now(), 1, 3, now() - $5::interval
                 FROM generate_series(1, $2) RETURNING id)
             INSERT INTO job_attempts (job_id, job_kind, fence, attempt, worker, started_at, ended_at, outcome)
             SELECT id, $1, 1, 1, 'w', now() - $5::interval - make_interval(secs => $4), now() - $5::interval, $3 FROM made",
        )
        .bind(kind)
        .bind(attempts)
        .bind(outcome)
        .bind(seconds)
        .bind(ago)
        .execute(pool)
        .await
        .unwrap();
    };
    ran("payment.void", 3, "succeeded", 2.0, "50 minutes").await;
    ran("payment.void", 1, "retry", 8.0, "40 minutes").await;
    ran("payment.refund", 5, "succeeded", 1.0, "61 minutes").await;
    ran("cache.warm", 500, "succeeded", 9.0, "30 minutes").await;
    ran("cache.warm", 20_000, "succeeded", 0.5, "1 minute").await;
    sqlx::query("ANALYZE job_attempts").execute(pool).await.unwrap();
    let mut conn = pool.acquire().await.unwrap();
    let figures = overview::kinds(&mut conn).await.unwrap();
    let figures: Vec<_> = figures
        .iter()
        .map(|kind| {
            (
                kind.kind.as_str(),
                kind.attempts,
                kind.success,
                [kind.p50, kind.p95, kind.p99],
            )
        })
        .collect();
    // The newest thousand of the busy one, all of the one that runs seldom, and none of an hour ago.
    assert_eq!(figures.len(), 2, "{figures:?}");
    assert_eq!(figures[0], ("cache.warm", overview::SAMPLED, 1.0, [0.5; 3]));
    let (kind, attempts, success, durations) = figures[1];
    assert_eq!((kind, attempts, success), ("payment.void", 4, 0.75));
    // Of 2, 2, 2 and 8 seconds.
    for (told, wanted) in durations.into_iter().zip([2.0, 7.1, 7.82]) {
        assert!((told - wanted).abs() < 1e-6, "{durations:?}");
    }

    let kinds = ["cache.warm", "payment.refund", "payment.void"].map(str::to_owned);
    let plan = overview::plan_of_kinds(&mut conn, &kinds).await.unwrap().join("\n");
    assert!(plan.contains("job_attempts_by_kind"), "{plan}");
    assert!(
        !plan.contains("Seq Scan") && !plan.contains("job_attempts_by_end"),
        "{plan}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_is_counted_to_the_bound_whichever_side_of_redis_it_is_on() {
    let app = TestApp::start().await;
    let pool = app.state.db.pool();
    let ops = Dashboard::start(&app.state).await;
    let viewer = ops.signed_in(Role::Viewer).await;
    let waits = async |queue: &str, jobs: i32, published: bool| {
        sqlx::query(
            "INSERT INTO jobs (id, kind, queue, priority, args, state, run_at, max_attempts, published_at)
             SELECT gen_random_uuid(), 'cache.warm', $1, 50, '{}', 'queued', now(), 3, CASE WHEN $3 THEN now() END
             FROM generate_series(1, $2)",
        )
        .bind(queue)
        .bind(jobs)
        .bind(published)
        .execute(pool)
        .await
        .unwrap();
    };
    let depth = async |name: &str| {
        let queues = overview::queues(pool).await.unwrap();
        let queue = queues.into_iter().find(|queue| queue.name == name).unwrap();
        (queue.due, queue.unpublished)
    };
    waits("cache", 6_001, false).await;
    assert_eq!(depth("cache").await, (6_001, 6_001));
    let page = viewer.get("/ops").await.is(200);
    page.says("6,001");
    page.is_silent_about("10,000+");
    waits("notifications", 7_002, true).await;
    assert_eq!(depth("notifications").await, (7_002, 0));
    viewer.get("/ops").await.is(200).says("7,002");

    // On both sides together, and then on one of them alone, it is more than is counted: the page says so.
    waits("cache", 6_000, true).await;
    assert_eq!(depth("cache").await, (overview::COUNTED, 6_001));
    waits("cache", 4_500, false).await;
    assert_eq!(depth("cache").await, (overview::COUNTED, overview::COUNTED));
    waits("notifications", 5_000, true).await;
    assert_eq!(depth("notifications").await, (overview::COUNTED, 0));
    for path in ["/ops", "/ops/queues"] {
        viewer.get(path).await.is(200).says("10,000+");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_past_its_time_is_due_although_no_worker_has_looked() {
    let app = TestApp::start().await;
    let pool = app.state.db.pool();
    let ops = Dashboard::start(&app.state).await;
    let viewer = ops.signed_in(Role::Viewer).await;
    let put = async |queue: &str, state: &str, jobs: i32, ago: &str| {
        sqlx::query(
            "INSERT INTO jobs (id, kind, queue, priority, args, state, run_at, max_attempts, finished_at)
             SELECT gen_random_uuid(), 'cache.warm', $1, 50, '{}', $2, now() - $4::interval, 3, CASE WHEN $2 = 'succeeded' THEN now() END
             FROM generate_series(1, $3)",
        )
        .bind(queue)
        .bind(state)
        .bind(jobs)
        .bind(ago)
        .execute(pool)
        .await
        .unwrap();
    };
    // Beside much that has ended, and much whose time is to come.
    put("cache", "succeeded", 20_000, "1 day").await;
    put("cache", "scheduled", 20_000, "-1 day").await;
    put("payments", "retrying", 30, "2 minutes").await;
    put("payments", "scheduled", 12, "10 minutes").await;
    put("payments", "queued", 1, "1 minute").await;
    sqlx::query("ANALYZE jobs").execute(pool).await.unwrap();

    let mut tx = roost_shared::db::begin(pool).await.unwrap();
    let queues = overview::queues(&mut *tx).await.unwrap();
    let (scans, rows): (i64, i64) = sqlx::query_as(
        "SELECT seq_scan, coalesce(idx_tup_fetch, 0) FROM pg_stat_xact_user_tables WHERE relname = 'jobs'",
    )
    .fetch_one(&mut *tx)
    .await
    .unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(scans, 0, "the whole table was read");
    assert!((43..=200).contains(&rows), "{rows} rows were read for 43 jobs");
    let of = |name: &str| queues.iter().find(|queue| queue.name == name).unwrap();
    assert_eq!((of("payments").due, of("payments").unpublished), (43, 43));
    let waited = of("payments").oldest_due_seconds;
    assert!((600.0..700.0).contains(&waited), "{waited}");
    assert!(of("payments").seconds_to_breach() < 0.0);
    assert_eq!(of("cache").due, 0, "what is to come is not due");

    let page = viewer.get("/ops").await.is(200);
    page.says("data-label=\"Due\">43<");
    page.says("Nobody works on payments");
    // A storm in one queue hides no other, and is counted to the bound.
    put("notifications", "retrying", 10_500, "1 hour").await;
    let queues = overview::queues(pool).await.unwrap();
    let of = |name: &str| queues.iter().find(|queue| queue.name == name).unwrap();
    let storm = (of("notifications").due, of("notifications").unpublished);
    assert_eq!(storm, (overview::COUNTED, overview::COUNTED));
    assert_eq!(of("payments").due, 43);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_form_says_all_that_the_list_is_filtered_by() {
    let app = TestApp::start().await;
    let pool = app.state.db.pool();
    let job = put(pool, "of.another.build", "dead", json!({}), Some("no answer")).await;
    put(pool, "cache.warm", "dead", json!({}), Some("no answer")).await;
    let ops = Dashboard::start(&app.state).await;
    let viewer = ops.signed_in(Role::Viewer).await;
    let span = "from=2024-06-10T00:00:00Z&to=2124-06-10T00:00:00Z";
    let page = viewer
        .get(&format!("/ops/jobs?kind=of.another.build&attempts=3&{span}"))
        .await;
    let page = page.is(200);
    for field in [
        "<option value=\"of.another.build\" selected>",
        "<option value=\"3\" selected>",
        "name=\"from\" value=\"2024-06-10T00:00:00\" data-instant=\"2024-06-10T00:00:00Z\"",
        "name=\"to\" value=\"2124-06-10T00:00:00\" data-instant=\"2124-06-10T00:00:00Z\"",
    ] {
        page.says(field);
    }
    page.says(&format!("data-href=\"/ops/jobs/{job}\""));
    assert_eq!(page.html.matches("data-href=").count(), 1);
    // A span takes the place of the instant that it begins at, and what makes no sense stays to be mended.
    let page = viewer.get(&format!("/ops/jobs?since=1h&{span}")).await.is(200);
    page.says("name=\"from\" value=\"\"");
    page.says("<option value=\"1h\" selected>");
    let page = viewer.get("/ops/jobs?from=yesterday").await.is(200);
    page.says("cannot be read");
    page.says("name=\"from\" value=\"yesterday\"");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_workers_page_leads_to_what_a_worker_runs() {
    let app = TestApp::start().await;
    let pool = app.state.db.pool();
    let ops = Dashboard::start(&app.state).await;
    let viewer = ops.signed_in(Role::Viewer).await;
    sqlx::query(
        "INSERT INTO workers (name, host, version, queues, concurrency, started_at, seen_at)
         VALUES ('w 1', 'rack-7', '1.0', '{cache}', 8, now(), now()), ('w 2', 'rack-8', '1.0', '{cache}', 8, now(), now())",
    )
    .execute(pool)
    .await
    .unwrap();
    let job = put(pool, "cache.warm", "running", json!({}), None).await;
    put(pool, "cache.warm", "running", json!({}), None).await;
    sqlx::query("UPDATE jobs SET lease_owner = CASE WHEN id = $1 THEN 'w 1' ELSE 'w 3' END")
        .bind(job)
        .execute(pool)
        .await
        .unwrap();
    let workers = viewer.get("/ops/workers").await.is(200);
    workers.says("rack-7");
    workers.says("href=\"/ops/jobs?worker=w%201\"");
    workers.is_silent_about("worker=w%202");
    let list = viewer.get("/ops/jobs?worker=w%201").await.is(200);
    list.says(&format!("data-href=\"/ops/jobs/{job}\""));
    list.says("name=\"worker\" value=\"w 1\"");
    assert_eq!(list.html.matches("data-href=").count(), 1);
}
