//! Acting on all jobs that match: after an outage, and when it has to be stopped half-way.

use roost_shared::operators::Role;
use roost_tests::ops::{Browser, Dashboard, Page};
use roost_tests::world::World;
use sqlx::PgPool;

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
    page.says("Done to <strong>1200</strong>, 0 had moved on");
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
