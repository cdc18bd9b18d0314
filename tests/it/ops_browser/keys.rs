//! The keys of the list: where they lead.

use roost_shared::operators::Role;
use roost_tests::browser::Browser;
use roost_tests::ops::Dashboard;
use roost_tests::world::World;
use serde_json::json;
use uuid::Uuid;

use super::ENTER;
use super::acting::{Desk, state};
use crate::ops::put;

const AT: &str = "return [...document.querySelectorAll('[data-row].at')].map((row) => row.dataset.href)";
const TICKED: &str = "return [...document.querySelectorAll('input[name=id]:checked')].map((one) => one.value)";

#[tokio::test(flavor = "multi_thread")]
async fn keys_go_up_and_down_the_list_and_open_tick_and_retry_the_row_that_they_are_at() {
    let Some(browser) = Browser::open().await else { return };
    let world = World::without_worker().await;
    let ops = Dashboard::start(&world.state).await;
    let mut jobs = Vec::new();
    for _ in 0..4 {
        let args = json!({"property_id": Uuid::now_v7()});
        jobs.insert(
            0,
            put(world.pool(), "cache.warm", "dead", args, Some("no answer")).await,
        );
    }
    let desk = Desk::of(&browser, &ops, &world, Role::Operator).await;
    let page = |at: usize| format!("/ops/jobs/{}", jobs[at]);
    desk.opens("/ops/jobs?state=dead").await;
    assert_eq!(browser.script(AT).await, json!([]));
    // Down, up, and not beyond either end.
    for (keys, at) in [("j", 0), ("j", 1), ("k", 0), ("k", 0), ("jjj", 3), ("j", 3), ("kk", 1)] {
        browser.press(keys).await;
        assert_eq!(browser.script(AT).await, json!([page(at)]), "{keys}");
        let focus = browser
            .script("return document.activeElement.getAttribute('href')")
            .await;
        assert_eq!(focus, json!(page(at)), "{keys}");
    }
    browser.press("x").await;
    browser.press("jx").await;
    assert_eq!(browser.script(TICKED).await, json!([jobs[1], jobs[2]]));
    browser.press("x").await;
    assert_eq!(browser.script(TICKED).await, json!([jobs[1]]));

    for (keys, at) in [("jjk", 0), ("jjjk", 1)] {
        desk.opens("/ops/jobs?state=dead").await;
        browser.press(keys).await;
        browser.press(ENTER).await;
        browser.sees("What a retry would do").await;
        assert_eq!(browser.url().await, format!("{}{}", ops.base, page(at)));
    }

    // A retry of the row is one key, its reason and Enter.
    desk.opens("/ops/jobs?state=dead").await;
    browser.press("jj").await;
    browser.press("r").await;
    browser.sees("What a retry would do").await;
    assert_eq!(browser.url().await, format!("{}{}#retry", ops.base, page(1)));
    browser
        .until("return document.activeElement.matches('details[open] form[action$=\"/retry\"] input[name=reason]')")
        .await;
    browser.press("the cache is back").await;
    browser.press(ENTER).await;
    browser.sees("Queued: it runs as soon as a worker takes it.").await;
    desk.is_written("job.retry", &jobs[1].to_string(), Some("the cache is back"))
        .await;
    for (at, wanted) in ["dead", "queued", "dead", "dead"].into_iter().enumerate() {
        assert_eq!(state(&world, jobs[at]).await.as_deref(), Some(wanted), "{at}");
    }
    // Without a row that it is at, the key does nothing.
    desk.opens("/ops/jobs?state=dead").await;
    browser.press("r").await;
    assert_eq!(browser.url().await, format!("{}/ops/jobs?state=dead", ops.base));
    browser.press("g").await;
    browser.sees("Overview").await;
    browser.until("return location.pathname === '/ops'").await;
    browser.close().await;
}
