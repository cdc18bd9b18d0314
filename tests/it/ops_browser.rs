//! The job dashboard in a real browser: each page in both colour schemes and on a telephone, keys, and buttons that
//! act on jobs that really failed.

mod account;
mod acting;
mod away;
mod charts;
mod fleet;
mod fresh;
mod keys;
mod many;
mod strange_text;

use roost_shared::jobs::actions::{self, By, JobAction};
use roost_shared::jobs::bulk;
use roost_shared::jobs::list::JobFilter;
use roost_shared::operators::Role;
use roost_tests::browser::Browser;
use roost_tests::mailbox::{Fault, Misbehaviour, Stage};
use roost_tests::ops::{Dashboard, PASSWORD};
use roost_tests::world::{World, id_of};
use serde_json::json;
use uuid::Uuid;

use crate::ops::asking::a_capture_in_doubt;

const AXE: &str = include_str!("../axe/axe.min.js");
const ENTER: &str = "\u{e007}";
/// A name, the preferred scheme of colours, and a width.
const LOOKS: [(&str, &str, u32); 3] = [
    ("light", "light", 1280),
    ("dark", "dark", 1280),
    ("phone", "light", 380),
];

/// Bookings that went well, cards that were refused, and mails that no server took.
async fn a_bad_night(world: &World) -> Uuid {
    let (host, guest) = (world.host().await, world.guest().await);
    let flat = world.lists(&host, json!({})).await;
    world.run_jobs().await;
    let reply = world
        .books(&guest, flat, world.day(60), world.day(63), "pm_card_visa")
        .await;
    let booking = id_of(&reply.expect(201));
    let declined = "pm_card_chargeDeclinedInsufficientFunds";
    world
        .books(&guest, flat, world.day(70), world.day(72), declined)
        .await
        .expect(201);
    world.run_jobs().await;
    for _ in 0..3 {
        world.mailbox.inject(Fault {
            at: Stage::Rcpt,
            what: Misbehaviour::Reply(550),
            times: 1,
        });
        world.guest().await;
        world.run_jobs().await;
    }
    booking
}

/// A day before it, for the charts: more by day than by night, and a few that failed.
async fn an_ordinary_day(world: &World) {
    sqlx::query(
        "INSERT INTO job_attempts (job_id, fence, attempt, worker, started_at, ended_at, outcome)
         SELECT gen_random_uuid(), 1, 1, 'w', at, at, CASE WHEN n % 31 = 0 THEN 'retry' ELSE 'succeeded' END
         FROM (SELECT n, now() - interval '1 minute' * (n / 12.0 + 90 * sin(n / 1800.0)) AS at FROM generate_series(30, 18000) AS n) AS placed
         WHERE at <= now()",
    )
    .execute(world.pool())
    .await
    .unwrap();
}

async fn sign_in(browser: &Browser, ops: &Dashboard, email: &str) {
    browser.goto(&format!("{}/ops/login", ops.base)).await;
    browser.fill("input[name=email]", email).await;
    browser.fill("input[name=password]", PASSWORD).await;
    browser.click("button.main").await;
    browser.sees("Overview").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_is_readable_in_light_and_dark_and_on_a_telephone() {
    let Some(browser) = Browser::open().await else { return };
    let world = World::start().await;
    an_ordinary_day(&world).await;
    let booking = a_bad_night(&world).await;
    let ops = Dashboard::start(&world.state).await;
    let email = ops.make(Role::Admin).await;
    let of = async |sql: &'static str| -> Uuid { sqlx::query_scalar(sql).fetch_one(world.pool()).await.unwrap() };
    let dead = of("SELECT id FROM jobs WHERE state = 'dead' ORDER BY id DESC LIMIT 1").await;
    let capture = of("SELECT id FROM jobs WHERE kind = 'payment.capture'").await;
    let mut tx = world.state.db.begin().await.unwrap();
    let by = By {
        actor: &email,
        reason: Some("the stays are paid another way"),
    };
    let holds = JobFilter {
        kind: Some("booking.expire_hold".to_owned()),
        ..JobFilter::default()
    };
    let bulk = bulk::begin(&mut tx, &holds, JobAction::Cancel, 2, by).await.unwrap();
    tx.commit().await.unwrap();
    world.run_jobs().await;
    let pages = [
        ("login", "/ops/login".to_owned()),
        ("overview", "/ops".to_owned()),
        ("jobs", "/ops/jobs".to_owned()),
        ("jobs-none", "/ops/jobs?q=nothing+like+this".to_owned()),
        ("job-dead", format!("/ops/jobs/{dead}")),
        ("job-captured", format!("/ops/jobs/{capture}")),
        ("booking", format!("/ops/bookings/{booking}")),
        ("preview", format!("/ops/jobs/bulk?action=retry&id={dead}&id={capture}")),
        ("preview-all", "/ops/jobs/bulk?all=1&action=retry&state=dead".to_owned()),
        ("bulk", format!("/ops/bulk/{bulk}")),
        ("queues", "/ops/queues".to_owned()),
        ("workers", "/ops/workers".to_owned()),
        ("schedules", "/ops/schedules".to_owned()),
        ("audit", "/ops/audit".to_owned()),
        ("audit-of-bulk", format!("/ops/audit?bulk={bulk}")),
        ("account", "/ops/account".to_owned()),
        ("not-found", "/ops/jobs/none".to_owned()),
    ];
    let mut faults = Vec::new();
    for (name, path) in &pages {
        for (look, scheme, width) in LOOKS {
            browser.prefer(scheme).await;
            browser.width(width).await;
            browser.goto(&format!("{}{path}", ops.base)).await;
            browser.picture(&format!("{name}-{look}")).await;
            let mut found = browser.faults(AXE).await;
            // And with every form unfolded.
            if browser.has("details").await {
                browser
                    .script("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
                    .await;
                browser.picture(&format!("{name}-unfolded-{look}")).await;
                found.extend(browser.faults(AXE).await);
            }
            faults.extend(found.into_iter().map(|fault| format!("{name}, {look}: {fault}")));
        }
        if *name == "login" {
            sign_in(&browser, &ops, &email).await;
        }
        if *name == "audit-of-bulk" {
            browser.sees("did to each").await;
            browser.sees("job.cancel").await;
        }
    }
    // The one that asks why, which comes for a button without a field for that.
    browser.goto(&format!("{}/ops/workers", ops.base)).await;
    browser.click("button[aria-label^='Quiet ']").await;
    browser.sees("say why").await;
    assert!(browser.has("form[action$='/quiet'] input[name=reason]:invalid").await);
    for (look, scheme, width) in LOOKS {
        browser.prefer(scheme).await;
        browser.width(width).await;
        browser.picture(&format!("why-{look}")).await;
        let found = browser.faults(AXE).await;
        faults.extend(found.into_iter().map(|fault| format!("why, {look}: {fault}")));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_on_call_finds_what_failed_and_retries_it_by_keyboard() {
    let Some(browser) = Browser::open().await else { return };
    let world = World::start().await;
    a_bad_night(&world).await;
    let ops = Dashboard::start(&world.state).await;
    let email = ops.make(Role::Operator).await;
    sign_in(&browser, &ops, &email).await;
    browser.sees("jobs died within a day").await;

    // From the alarm to the list, and into the newest.
    browser.click(".alarms a").await;
    browser.sees("550").await;
    let dead: i64 = world.counts("SELECT count(*) FROM jobs WHERE state = 'dead'").await;
    browser.press("j").await;
    assert!(browser.has("[data-row].at").await);
    let newest = "return document.querySelector('[data-row]').dataset.href";
    let newest = browser.script(newest).await.as_str().unwrap().to_owned();
    browser.press("jk").await;
    browser.press(ENTER).await;
    browser.sees("What a retry would do").await;
    assert_eq!(browser.url().await, format!("{}{newest}", ops.base));
    let job = browser.url().await;
    browser.press("r").await;
    browser
        .fill("details[open] input[name=reason]", "the mail server is back")
        .await;
    browser.click("details[open] button.main").await;
    browser.sees("Queued: it runs as soon as a worker takes it.").await;
    world.run_jobs().await;
    browser.goto(&job).await;
    browser.sees("the mail server is back").await;
    browser.sees("succeeded").await;
    let left = world.counts("SELECT count(*) FROM jobs WHERE state = 'dead'").await;
    assert_eq!(left, dead - 1);

    // The list follows the filter without a new page, and the URL holds it.
    browser.goto(&format!("{}/ops/jobs", ops.base)).await;
    browser.script("window.untouched = true").await;
    browser.press("/").await;
    browser.press("no error says this").await;
    browser.sees("No job matches").await;
    assert!(browser.url().await.contains("q=no%20error"), "{}", browser.url().await);
    assert_eq!(browser.script("return window.untouched").await, json!(true));

    // All the others at once: by tick.
    browser.goto(&format!("{}/ops/jobs?state=dead", ops.base)).await;
    browser.click("[data-tick-all]").await;
    browser.click("button[value=retry]").await;
    browser.sees("ticked can have this").await;
    browser.fill("input[name=reason]", "all of them").await;
    browser.click("form.stack button").await;
    browser.sees("retry: done to").await;
    world.run_jobs().await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_in_doubt_asks_stripe_and_a_retry_does_what_the_page_says() {
    let Some(browser) = Browser::open().await else { return };
    let world = World::start().await;
    let ops = Dashboard::start(&world.state).await;
    let (booking, job) = a_capture_in_doubt(&world, &ops).await;
    world.stripe.clear_faults();
    let email = ops.make(Role::Operator).await;
    sign_in(&browser, &ops, &email).await;
    let page = format!("{}/ops/jobs/{job}", ops.base);
    browser.goto(&page).await;
    browser.sees("nobody knows the outcome").await;
    browser.picture("job-in-doubt-light").await;
    browser.click("form[action$='/ask'] button").await;
    // The answer comes to the page by itself.
    browser
        .sees("Stripe already captured €358.40: a retry marks it done.")
        .await;
    browser.sees("Stripe captured €358.40 (pi_").await;
    let mut faults = Vec::new();
    for (look, scheme, width) in [
        ("phone", "light", 380),
        ("dark", "dark", 1280),
        ("light", "light", 1280),
    ] {
        browser.prefer(scheme).await;
        browser.width(width).await;
        browser.goto(&page).await;
        browser.picture(&format!("job-answered-{look}")).await;
        faults.extend(browser.faults(AXE).await);
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));

    browser.press("r").await;
    browser
        .fill("details[open] input[name=reason]", "Stripe has it already")
        .await;
    browser.click("details[open] button.main").await;
    browser.sees("Queued: it runs as soon as a worker takes it.").await;
    world.run_jobs().await;
    browser.goto(&page).await;
    browser.sees("succeeded").await;
    let record = world.at_stripe(booking).await;
    assert_eq!((record.captured, record.captures), (35_840, 1));
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_overview_keeps_itself_fresh() {
    let Some(browser) = Browser::open().await else { return };
    let world = World::start().await;
    let ops = Dashboard::start(&world.state).await;
    let email = ops.make(Role::Operator).await;
    sign_in(&browser, &ops, &email).await;
    browser.sees("live").await;
    browser.script("window.untouched = true").await;
    let mut tx = world.state.db.begin().await.unwrap();
    let by = By {
        actor: "test",
        reason: None,
    };
    actions::set_paused(&mut tx, "cache", true, by).await.unwrap();
    tx.commit().await.unwrap();
    browser.sees("cache is paused").await;
    assert_eq!(browser.script("return window.untouched").await, json!(true));

    // A pause and a resume by button.
    browser.goto(&format!("{}/ops/queues", ops.base)).await;
    browser.click("form[action='/ops/queues/cache/resume'] button").await;
    browser.sees("Resumed").await;
    browser.close().await;
}
