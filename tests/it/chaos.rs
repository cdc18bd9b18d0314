//! The short form of every scenario of `make chaos`, each with a fixed seed, on servers of its own.

use roost_tests::chaos::{Scenario, Size, run};

async fn holds(scenario: Scenario) {
    let verdict = run(scenario, 1, Size::Short).await;
    println!("{}\n{}", serde_json::to_string(&verdict).unwrap(), verdict.figures());
    assert!(verdict.is_clean(), "{:#?}", verdict.violations);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_workers_lose_and_double_nothing() {
    holds(Scenario::Kill9).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flushed_redis_loses_and_doubles_nothing() {
    holds(Scenario::RedisFlush).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_crashes_again_and_again_costs_time_only() {
    holds(Scenario::RedisRestart).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_the_api_goes_on_and_the_workers_survive() {
    holds(Scenario::RedisDown).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_redis_is_told_and_costs_time_only() {
    holds(Scenario::RedisMaxmemory).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_night_is_booked_once_however_many_want_it() {
    holds(Scenario::DoubleBooking).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_crashes_and_cuts_loses_and_doubles_nothing() {
    holds(Scenario::PostgresRestart).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_postgres_requests_are_refused_soon_and_nobody_dies() {
    holds(Scenario::PostgresDown).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stood_still_changes_nothing_when_it_wakes() {
    holds(Scenario::Sigstop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_kills_its_workers_is_put_aside_at_the_third() {
    holds(Scenario::Poison).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_are_replaced_without_a_gap_and_without_a_burned_attempt() {
    holds(Scenario::Rolling).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_stripe_answers_both_records_agree_in_the_end() {
    holds(Scenario::StripeFaults).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_arrive_again_and_again_change_nothing() {
    holds(Scenario::Webhooks).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_dies_leaves_no_half_a_booking() {
    holds(Scenario::ApiCrash).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_jobs_for_the_same_second_all_run() {
    holds(Scenario::Burst).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_with_wrong_clocks_do_nothing_early() {
    holds(Scenario::Clock).await;
}
