//! A viewer's pages offer nothing to press that the server would refuse.

use roost_shared::operators::Role;
use roost_tests::app::TestApp;
use roost_tests::ops::Dashboard;
use serde_json::json;
use uuid::Uuid;

use super::{a_warm_cache, fires_in_an_hour, is_in_doubt_about, put, shows_itself};

/// Where everybody's forms go: the search of the list and of the log, and the way out.
const FOR_ALL: [&str; 3] = ["/ops/jobs", "/ops/audit", "/ops/logout"];

/// The value of an attribute in each of these tags, and what comes after it.
fn tags<'a>(html: &'a str, tag: &str, attribute: &str) -> Vec<(&'a str, &'a str)> {
    html.split(tag)
        .skip(1)
        .map(|rest| {
            let value = rest.split(&format!("{attribute}=\"")).nth(1).unwrap();
            (value.split('"').next().unwrap(), rest)
        })
        .collect()
}

/// Where buttons, and links that look like one, lead on a page beyond [`FOR_ALL`].
fn to_press(html: &str) -> Vec<&str> {
    let (mut found, mut buttons) = (Vec::new(), 0);
    for (action, form) in tags(html, "<form ", "action") {
        let form = form.split("</form>").next().unwrap();
        let inside = form.matches("<button").count();
        buttons += inside;
        if inside > 0 || form.contains("method=\"post\"") {
            found.push(action);
        }
    }
    assert_eq!(
        html.matches("<button").count(),
        buttons,
        "a button without a form:\n{html}"
    );
    let links = tags(html, "<a class=\"button\"", "href");
    found.extend(links.into_iter().map(|(href, _)| href));
    found.retain(|action| !FOR_ALL.contains(action));
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_finds_nothing_to_press_on_any_page() {
    let app = TestApp::start().await;
    let pool = app.state.db.pool();
    let ops = Dashboard::start(&app.state).await;
    let payment = json!({"payment_id": Uuid::now_v7()});
    let capture = put(pool, "payment.capture", "dead", payment, Some("no answer")).await;
    is_in_doubt_about(pool, capture).await;
    let mut pages = vec![format!("/ops/jobs/{capture}")];
    for state in ["scheduled", "queued", "running", "retrying"] {
        let job = put(pool, "cache.warm", state, a_warm_cache(), None).await;
        pages.push(format!("/ops/jobs/{job}"));
    }
    shows_itself(pool, "w-1", &["cache"]).await;
    shows_itself(pool, "w-2", &["payments"]).await;
    fires_in_an_hour(pool, "outbox.prune").await;
    fires_in_an_hour(pool, "overdue.sweep").await;
    sqlx::query("UPDATE queues SET paused = true WHERE name = 'payments'")
        .execute(pool)
        .await
        .unwrap();
    sqlx::query("UPDATE workers SET quiet = true WHERE name = 'w-2'")
        .execute(pool)
        .await
        .unwrap();
    let admin = ops.signed_in(Role::Admin).await;
    let all = [
        ("action", "run"),
        ("all", "1"),
        ("filter", "state=scheduled"),
        ("expected", "1"),
        ("reason", "the cache is back"),
    ];
    pages.push(admin.post("/ops/jobs/bulk", &all).await.is(303).location);
    for page in ["/ops/jobs", "/ops/queues", "/ops/workers", "/ops/schedules"] {
        pages.push(page.to_owned());
    }
    let viewer = ops.signed_in(Role::Viewer).await;
    for page in &pages {
        let seen = viewer.get(page).await.is(200);
        assert_eq!(to_press(&seen.html), Vec::<&str>::new(), "{page}");
        seen.is_silent_about("type=\"checkbox\" name=\"id\"");
        let seen = admin.get(page).await.is(200);
        assert!(!to_press(&seen.html).is_empty(), "{page}");
    }
    for page in ["/ops", "/ops/audit"] {
        let seen = viewer.get(page).await.is(200);
        assert_eq!(to_press(&seen.html), Vec::<&str>::new(), "{page}");
    }
}
