//! Markup in text of others, met by a real browser: it is shown as it was written, and nothing of it becomes a part of the
//! page or runs.

use roost_shared::operators::Role;
use roost_tests::browser::Browser;
use roost_tests::ops::Dashboard;
use roost_tests::world::{World, id_of};
use serde_json::json;
use uuid::Uuid;

use super::acting::Desk;
use crate::ops::put;

const MARKUP: &str = "<script>window.ran = 1</script><img src=x onerror=\"window.ran = 2\">";

fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// The page says it, and has neither an element of it nor what its scripts would have left.
async fn is_text(browser: &Browser) {
    let made = "return [window.ran ?? null, document.querySelectorAll('img, script:not([src]), [onerror]').length]";
    assert_eq!(browser.script(made).await, json!([null, 0]), "{}", browser.url().await);
}

/// A job, its attempt, its effect and a worker that say nothing else.
async fn is_full_of_markup(world: &World) -> Uuid {
    let args = json!({"property_id": Uuid::now_v7()});
    let job = put(world.pool(), "cache.warm", "dead", args, Some(MARKUP)).await;
    for sql in [
        "UPDATE jobs SET dedupe_key = $2, lease_owner = $2, actor = $2, trace_context = '00-' || $2 WHERE id = $1",
        "INSERT INTO job_attempts (job_id, job_kind, fence, attempt, worker, started_at, ended_at, outcome, error)
         VALUES ($1, 'cache.warm', 1, 1, $2, now(), now(), 'failed', $2)",
        "INSERT INTO effects (key, job_id, fence, state, external_id, error, first_sent_at, updated_at)
         VALUES ($2, $1, 1, 'failed', $2, $2, now(), now())",
        "INSERT INTO workers (name, host, version, queues, concurrency, started_at, seen_at)
         SELECT $2, $2, $2, ARRAY[$2], 8, now(), now() WHERE $1::uuid IS NOT NULL",
    ] {
        sqlx::query(sql)
            .bind(job)
            .bind(MARKUP)
            .execute(world.pool())
            .await
            .unwrap();
    }
    job
}

#[tokio::test(flavor = "multi_thread")]
async fn markup_in_the_text_of_others_stays_text() {
    let Some(browser) = Browser::open().await else { return };
    let world = World::start().await;
    let ops = Dashboard::start(&world.state).await;

    // What somebody who is not signed in typed comes back in the form.
    browser.goto(&format!("{}/ops/login", ops.base)).await;
    browser.script("document.forms[0].noValidate = true").await;
    browser.fill("input[name=email]", MARKUP).await;
    browser.fill("input[name=password]", MARKUP).await;
    browser.click("button.main").await;
    browser.sees("is not right").await;
    let typed = "return document.querySelector('input[name=email]').value";
    assert_eq!(browser.script(typed).await, json!(MARKUP));
    is_text(&browser).await;

    let (host, guest) = (world.host().await, world.guest().await);
    let flat = world.lists(&host, json!({})).await;
    let reply = world
        .books(&guest, flat, world.day(60), world.day(62), "pm_card_visa")
        .await;
    let booking = id_of(&reply.expect(201));
    world.run_jobs().await;
    let cancel = format!("/bookings/{booking}/cancel");
    world
        .post(&cancel, json!({"reason": MARKUP}))
        .by(&guest)
        .send()
        .await
        .expect(200);
    world.run_jobs().await;

    let desk = Desk::of(&browser, &ops, &world, Role::Operator).await;
    let text = encoded(MARKUP);
    for path in [
        format!("/ops/bookings/{booking}"),
        format!("/ops/jobs?notice={text}"),
        format!("/ops/queues?notice={text}"),
        format!("/ops/workers?notice={text}"),
        format!("/ops/schedules?notice={text}"),
        format!("/ops/jobs?from={text}"),
        format!("/ops/jobs/bulk?action={text}"),
    ] {
        desk.opens(&path).await;
        // A refusal shows what it could not read in Rust's quotes.
        browser.sees("<script>window.ran = 1</script><img src=x onerror=").await;
        is_text(&browser).await;
    }
    desk.opens(&format!("/ops/jobs?q={text}")).await;
    browser.sees("No job matches").await;
    is_text(&browser).await;

    // An action on all whose error says so, asked for with such a reason.
    sqlx::query("UPDATE jobs SET state = 'dead', last_error = $1, finished_at = now() WHERE kind = 'mail.send'")
        .bind(MARKUP)
        .execute(world.pool())
        .await
        .unwrap();
    desk.opens(&format!("/ops/jobs/bulk?all=1&action=cancel&q={text}"))
        .await;
    browser.sees("jobs match").await;
    is_text(&browser).await;
    desk.opens(&format!("/ops/jobs/bulk?all=1&action=retry&q={text}")).await;
    browser.sees(MARKUP).await;
    is_text(&browser).await;
    desk.submits("/ops/jobs/bulk", &[("reason", MARKUP)], "in bulk").await;
    browser.sees("finished").await;
    browser.sees(MARKUP).await;
    // The filter is written as JSON, with its quotes escaped.
    browser
        .sees("<script>window.ran = 1</script><img src=x onerror=\\\"")
        .await;
    is_text(&browser).await;
    for path in ["/ops/jobs", "/ops/audit"] {
        desk.opens(path).await;
        browser.sees(MARKUP).await;
        is_text(&browser).await;
    }
    let job = is_full_of_markup(&world).await;
    desk.opens(&format!("/ops/jobs/{job}")).await;
    for fact in ["Worker", "Dedupe key", "Asked by user"] {
        let told = format!(
            "return [...document.querySelectorAll('dl.facts div')].find((one) => one.children[0].textContent === '{fact}').children[1].textContent"
        );
        assert_eq!(browser.script(&told).await, json!(MARKUP), "{fact}");
    }
    let trace = "return [...document.querySelectorAll('dl.facts div')].find((one) => one.children[0].textContent === 'Trace').children[1].textContent";
    assert_eq!(browser.script(trace).await, json!(&MARKUP[..32]));
    for (place, told) in [
        ("ol.attempts small", format!("on {MARKUP}")),
        ("ol.attempts p.wrong", MARKUP.to_owned()),
        ("p.notice.bad .whole", MARKUP.to_owned()),
        ("[aria-label=Effects] th code", MARKUP.to_owned()),
        ("[aria-label=Effects] td[data-label=There] code", MARKUP.to_owned()),
        ("[aria-label=Effects] td.error", MARKUP.to_owned()),
    ] {
        let text = format!("return document.querySelector('{place}').textContent");
        assert_eq!(browser.script(&text).await, json!(told), "{place}");
    }
    is_text(&browser).await;
    desk.opens("/ops/workers").await;
    let row = "const row = [...document.querySelectorAll('tr')].find((one) => one.textContent.includes('window.ran'));
        return ['th', '[data-label=Host]', '[data-label=Version]', '[data-label=Queues]'].map((one) => row.querySelector(one).textContent)";
    assert_eq!(browser.script(row).await, json!([MARKUP, MARKUP, MARKUP, MARKUP]));
    is_text(&browser).await;
    browser.close().await;
}
