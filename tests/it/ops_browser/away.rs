//! What pages say while Postgres, the dashboard or the session behind them is gone, and that they go on afterwards.

use std::time::{Duration, Instant};

use roost_api::state::{AppConfig, AppState};
use roost_shared::config::Secret;
use roost_shared::db;
use roost_shared::operators::Role;
use roost_tests::app::JWT_SECRET;
use roost_tests::browser::Browser;
use roost_tests::chaos::proxy::{Mode, Proxy};
use roost_tests::ops::{Dashboard, PASSWORD};
use roost_tests::world::World;
use serde_json::json;

use super::sign_in;

/// A dashboard, the way from it to Postgres, and the way to it from a browser.
async fn with_ways(world: &World) -> (Dashboard, Proxy, Proxy) {
    let (postgres, url) = Proxy::before(world.database_url()).await.unwrap();
    let state = AppState::new(AppConfig {
        pool: db::connect(&url, 8).unwrap(),
        redis: world.redis(),
        clock: world.clock.clone(),
        jwt_secret: Secret::new(JWT_SECRET),
        jwt_secret_previous: None,
        settings: (*world.state.settings).clone(),
    })
    .unwrap();
    let mut ops = Dashboard::start(&state).await;
    let (front, base) = Proxy::before(&ops.base).await.unwrap();
    base.trim_end_matches('/').clone_into(&mut ops.base);
    (ops, postgres, front)
}

/// The session of everybody ends.
async fn signs_all_out(world: &World) {
    sqlx::query("DELETE FROM operator_sessions")
        .execute(world.pool())
        .await
        .unwrap();
}

async fn signs_in_here(browser: &Browser, email: &str) {
    browser.sees("E-mail address").await;
    browser.fill("input[name=email]", email).await;
    browser.fill("input[name=password]", PASSWORD).await;
    browser.click("button.main").await;
}

/// Presses Show until the list is that of the filter and no fault is told: a try right after an outage may meet its end.
async fn shows_none(browser: &Browser) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        browser.click(".filter button").await;
        let answered = Instant::now() + Duration::from_secs(4);
        while Instant::now() < answered {
            let page = browser.text().await;
            if page.contains("No job matches") && !page.contains("does not answer") {
                return;
            }
            assert!(Instant::now() < deadline, "no list comes up in:\n{page}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

const PATIENCE: Duration = Duration::from_secs(30);
const OLD: &str = "return document.querySelector('#board.stale') !== null";
const FRESH: &str = "return document.querySelector('#board.stale') === null && document.querySelector('[data-live-state]')?.textContent === 'live'";

#[tokio::test(flavor = "multi_thread")]
async fn the_overview_says_that_postgres_is_away_and_goes_on_when_it_is_back() {
    let Some(browser) = Browser::open().await else { return };
    let world = World::start().await;
    let (ops, postgres, front) = with_ways(&world).await;
    let email = ops.make(Role::Viewer).await;
    sign_in(&browser, &ops, &email).await;
    browser.until(FRESH).await;
    browser.script("window.untouched = true").await;

    // On a connection that stays.
    postgres.set(Mode::Refuse);
    browser.sees("Postgres does not answer.").await;
    browser.sees("not fresh since").await;
    browser.until(OLD).await;
    browser.prefer("light").await;
    browser.picture("overview-without-postgres-light").await;
    let faults = browser.faults(super::AXE).await;
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    postgres.set(Mode::Pass);
    browser.until(FRESH).await;
    browser.sees_no_more("Postgres does not answer").await;

    // On one that swallows what is sent, so that nothing comes at all.
    postgres.set(Mode::Hang);
    browser.until(OLD).await;
    browser.sees("not fresh since").await;
    postgres.set(Mode::Refuse);
    // And on one that breaks: the next is refused, which ends an EventSource for good.
    front.cut();
    browser.sees("Postgres does not answer.").await;
    postgres.set(Mode::Pass);
    browser.until(FRESH).await;

    // The dashboard itself is away.
    front.set(Mode::Refuse);
    browser.until(OLD).await;
    front.set(Mode::Pass);
    browser.until(FRESH).await;
    assert_eq!(browser.script("return window.untouched").await, json!(true));

    // The session ends: there is nothing to look at any more.
    signs_all_out(&world).await;
    signs_in_here(&browser, &email).await;
    browser.until(FRESH).await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_came_to_nothing_says_so_and_one_of_an_ended_session_survives_the_sign_in() {
    let Some(browser) = Browser::open().await else { return };
    let world = World::start().await;
    let (ops, postgres, front) = with_ways(&world).await;
    let email = ops.make(Role::Viewer).await;
    world.guest().await;
    world.run_jobs().await;
    sign_in(&browser, &ops, &email).await;
    browser.goto(&format!("{}/ops/jobs", ops.base)).await;
    browser.sees("mail.send").await;

    postgres.set(Mode::Refuse);
    browser.fill("#q", "no error says this").await;
    browser.sees("Postgres does not answer. Nothing was changed.").await;
    browser.sees("What is below is as it was at").await;
    browser.sees("press Show to ask again").await;
    browser.sees("mail.send").await;
    browser.picture("jobs-without-postgres-light").await;
    let faults = browser.faults(super::AXE).await;
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    postgres.set(Mode::Pass);
    shows_none(&browser).await;

    front.set(Mode::Refuse);
    browser.click(".filter button").await;
    browser.sees("The dashboard does not answer").await;
    front.set(Mode::Pass);
    shows_none(&browser).await;

    signs_all_out(&world).await;
    browser.fill("#q", " nor this").await;
    signs_in_here(&browser, &email).await;
    browser.sees("No job matches").await;
    let asked = browser.script("return document.getElementById('q').value").await;
    assert_eq!(asked, json!("no error says this nor this"));
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_in_a_chat_opens_for_whoever_is_signed_in() {
    let Some(browser) = Browser::open().await else { return };
    let world = World::start().await;
    let ops = Dashboard::start(&world.state).await;
    let email = ops.make(Role::Viewer).await;
    let link = format!("{}/ops/queues", ops.base);
    browser.goto(&link).await;
    signs_in_here(&browser, &email).await;
    browser.sees("Limits of kinds").await;
    assert_eq!(browser.url().await, link);
    // From a page of another site.
    browser
        .goto(&format!("data:text/html,<a href=\"{link}\">the queues</a>"))
        .await;
    browser.click("a").await;
    browser.sees("Limits of kinds").await;
    browser.close().await;
}
