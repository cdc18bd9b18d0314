//! Pages that keep themselves fresh, and let go of nothing that somebody is at work on.

use roost_shared::operators::Role;
use roost_tests::browser::Browser;
use roost_tests::ops::Dashboard;
use roost_tests::world::World;
use serde_json::json;

use super::acting::Desk;
use crate::ops::put;

/// A worker that is heard of once.
async fn shows_itself(world: &World, name: &str, host: &str) {
    sqlx::query(
        "INSERT INTO workers (name, host, version, queues, concurrency, started_at, seen_at)
         VALUES ($1, $2, '1.0', '{cache}', 8, now(), now() + interval '1 hour')",
    )
    .bind(name)
    .bind(host)
    .execute(world.pool())
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_follow_what_happens_and_leave_alone_what_somebody_writes() {
    let Some(browser) = Browser::open().await else { return };
    let world = World::without_worker().await;
    let ops = Dashboard::start(&world.state).await;
    let desk = Desk::of(&browser, &ops, &world, Role::Operator).await;
    shows_itself(&world, "w1", "rack-1").await;
    desk.opens("/ops/workers").await;
    browser.sees("rack-1").await;
    browser.script("window.untouched = true; window.held = 0; document.addEventListener('htmx:beforeRequest', (event) => { if (event.defaultPrevented) window.held += 1; })").await;

    // The focus stays where it is, though what has it is another button.
    let quiet = "button[aria-label='Quiet w1']";
    browser
        .script(&format!(
            "const one = document.querySelector(\"{quiet}\"); one.focus(); one.dataset.old = 1"
        ))
        .await;
    shows_itself(&world, "w2", "rack-2").await;
    browser.sees("rack-2").await;
    browser
        .until("return document.activeElement.getAttribute('aria-label') === 'Quiet w1' && !document.activeElement.dataset.old")
        .await;

    // Whoever writes is not disturbed.
    let stop = "/ops/workers/w1/stop";
    desk.unfolds(stop).await;
    let reason = format!("form[action='{stop}'] input[name=reason]");
    browser.fill(&reason, "a new di").await;
    let held = browser.script("return window.held").await.as_i64().unwrap();
    shows_itself(&world, "w3", "rack-3").await;
    browser.until(&format!("return window.held >= {}", held + 2)).await;
    let typed =
        format!("const one = document.querySelector(\"{reason}\"); return [one.value, one === document.activeElement]");
    assert_eq!(browser.script(&typed).await, json!(["a new di", true]));
    assert!(!browser.text().await.contains("rack-3"));
    browser.fill(&reason, "sk").await;
    let value = format!("return document.querySelector(\"{reason}\").value");
    assert_eq!(browser.script(&value).await, json!("a new disk"));
    // And once they are done, it goes on.
    browser.replace(&reason, "").await;
    browser.click("details[open] > summary").await;
    browser.sees("rack-3").await;

    desk.opens("/ops/queues").await;
    browser.script("window.untouched = true").await;
    sqlx::query("UPDATE queues SET weight = 77 WHERE name = 'cache'")
        .execute(world.pool())
        .await
        .unwrap();
    browser.sees("77").await;
    assert_eq!(browser.script("return window.untouched").await, json!(true));
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_a_job_follows_it_to_its_end() {
    let Some(browser) = Browser::open().await else { return };
    let mut world = World::without_worker().await;
    let ops = Dashboard::start(&world.state).await;
    world.guest().await;
    let job: uuid::Uuid = sqlx::query_scalar("SELECT id FROM jobs WHERE kind = 'mail.send'")
        .fetch_one(world.pool())
        .await
        .unwrap();
    {
        let desk = Desk::of(&browser, &ops, &world, Role::Viewer).await;
        desk.opens(&format!("/ops/jobs/{job}")).await;
    }
    browser.sees("None has ended yet.").await;
    browser.script("window.untouched = true").await;
    world.start_worker();
    browser.sees("succeeded").await;
    browser.sees("Attempt 1").await;
    assert_eq!(browser.script("return window.untouched").await, json!(true));
    // What has ended does not change by itself, and is not asked for again.
    assert!(!browser.has("[hx-trigger^=every]").await);
    browser.close().await;
}

/// The exact time behind each of these instants, as it shows under a pointer.
async fn titles(browser: &Browser, instant: &str) -> Vec<String> {
    let titles =
        format!("return [...document.querySelectorAll('time[datetime=\"{instant}\"]')].map((one) => one.title)");
    serde_json::from_value(browser.script(&titles).await).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_span_of_time_is_chosen_and_instants_are_told_in_the_viewers_zone() {
    let Some(browser) = Browser::open().await else { return };
    let world = World::without_worker().await;
    let ops = Dashboard::start(&world.state).await;
    let args = json!({"property_id": uuid::Uuid::now_v7()});
    let job = put(world.pool(), "cache.warm", "dead", args, Some("no answer")).await;
    sqlx::query("UPDATE jobs SET finished_at = '2031-12-31T20:00:07Z'")
        .execute(world.pool())
        .await
        .unwrap();
    shows_itself(&world, "w1", "rack-1").await;
    sqlx::query("UPDATE workers SET started_at = '2031-12-31T20:00:07Z'")
        .execute(world.pool())
        .await
        .unwrap();
    // A quarter to two of the year after, in Kathmandu.
    browser.zone("Asia/Kathmandu").await;
    let desk = Desk::of(&browser, &ops, &world, Role::Viewer).await;
    // Some browsers spell it in another way.
    let zone = "return Intl.DateTimeFormat().resolvedOptions().timeZone";
    let zone = format!(" ({})", browser.script(zone).await.as_str().unwrap());
    assert!(zone.starts_with(" (Asia/Kat"), "{zone}");
    for path in ["/ops/jobs", &format!("/ops/jobs/{job}"), "/ops/workers"] {
        desk.opens(path).await;
        let told = titles(&browser, "2031-12-31T20:00:07.000Z").await;
        let exact = told.iter().all(|title| {
            title.contains("2032") && title.contains("1:45:07") && title.ends_with(&zone) && !title.contains("UTC")
        });
        assert!(exact && told.len() == 1, "{path}: {told:?}");
    }
    // Also in a part of the page that came later.
    browser
        .script("document.querySelector('#fresh time').dataset.old = 1")
        .await;
    browser
        .until(&format!(
            "const one = document.querySelector('#fresh time'); return !one.dataset.old && one.title.endsWith('{zone}')"
        ))
        .await;
    assert!(titles(&browser, "2031-12-31T20:00:07.000Z").await[0].contains("1:45:07"));
    desk.opens("/ops/jobs?from=2030-06-01T12:00:00Z").await;
    browser.sees("No job matches").await;
    let field = "const one = document.querySelector('input[data-instant], input[type=datetime-local]');";
    assert_eq!(
        browser.script(&format!("{field} return one.value")).await,
        json!("2030-06-01T17:45")
    );
    let chosen = "one.value = '2024-06-01T05:45'; one.dispatchEvent(new Event('input', {bubbles: true})); one.dispatchEvent(new Event('change', {bubbles: true}))";
    browser.script(&format!("{field} {chosen}")).await;
    browser
        .until("return location.search.includes('from=2024-06-01T00%3A00%3A00.000Z')")
        .await;
    browser.close().await;
}
