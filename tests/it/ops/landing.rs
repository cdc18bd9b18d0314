//! A link into the dashboard that was shared: it survives the sign-in and leads nowhere else. And a page that only keeps
//! itself fresh keeps nobody signed in.

use chrono::TimeDelta;
use roost_shared::operators::{self, Role};
use roost_tests::app::TestApp;
use roost_tests::ops::{Dashboard, PASSWORD};

use super::{a_warm_cache, put};

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_link_survives_the_sign_in_and_its_second_factor() {
    let app = TestApp::start().await;
    let ops = Dashboard::start(&app.state).await;
    let job = put(app.state.db.pool(), "cache.warm", "dead", a_warm_cache(), None).await;
    let viewer = ops.signed_in(Role::Viewer).await;
    let email = "viewer@ops.example.com";
    let secret = viewer.new_key(PASSWORD).await;
    let code = || operators::code_at(&secret, app.clock.now()).unwrap();
    viewer.confirms(&code()).await.is(303);
    app.clock.advance(TimeDelta::seconds(60));

    let shared = format!("/ops/jobs/{job}?notice=a%26b");
    let sent = ops.get(&shared).await.is(303).location;
    assert_eq!(
        sent,
        format!("/ops/login?next=%2Fops%2Fjobs%2F{job}%3Fnotice%3Da%2526b")
    );
    let field = format!("name=\"next\" value=\"{shared}\"");
    ops.get(&sent).await.is(200).says(&field);
    // A code that is missing costs another try, not the way back.
    ops.signs_in_for(email, PASSWORD, "", &shared)
        .await
        .is(401)
        .says(&field);
    let landed = ops.signs_in_for(email, PASSWORD, &code(), &shared).await.is(303);
    assert_eq!(landed.location, shared);
    let cookie = landed.headers["set-cookie"].to_str().unwrap();
    assert!(cookie.contains("SameSite=Lax"), "{cookie}");
    // Whoever is signed in already goes there at once.
    assert_eq!(viewer.get(&sent).await.is(303).location, shared);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_leads_to_no_other_site() {
    let app = TestApp::start().await;
    let ops = Dashboard::start(&app.state).await;
    let viewer = ops.signed_in(Role::Viewer).await;
    let email = "viewer@ops.example.com";
    for next in [
        "//evil.example",
        "https://evil.example/ops",
        "https:/ops",
        "/\\evil.example",
        "/ops\\..\\evil.example",
        "/ops/..//evil.example",
        "/ops/%2e%2e//evil.example",
        "/\t/evil.example",
        "/ops/jobs\r\nset-cookie: roost_ops=x",
        "javascript:alert(1)",
        "/ops/logout",
        "/ops/login",
        "/properties",
    ] {
        let encoded: String = form_urlencoded::byte_serialize(next.as_bytes()).collect();
        let page = format!("/ops/login?next={encoded}");
        ops.get(&page).await.is(200).is_silent_about("name=\"next\"");
        assert_eq!(viewer.get(&page).await.is(303).location, "/ops", "{next:?}");
        let landed = ops.signs_in_for(email, PASSWORD, "", next).await.is(303);
        assert_eq!(landed.location, "/ops", "{next:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_or_a_form_of_another_site_does_nothing() {
    let app = TestApp::start().await;
    let ops = Dashboard::start(&app.state).await;
    let job = put(app.state.db.pool(), "cache.warm", "dead", a_warm_cache(), None).await;
    let admin = ops.signed_in(Role::Admin).await;
    // The cookie comes along with a link; what changes anything takes a form, and one of ours.
    for path in [
        format!("/ops/jobs/{job}/retry"),
        format!("/ops/jobs/{job}/cancel"),
        format!("/ops/jobs/{job}/delete"),
        format!("/ops/jobs/{job}/edit"),
        format!("/ops/jobs/{job}/ask"),
        format!("/ops/bulk/{job}/stop"),
        "/ops/logout".to_owned(),
        "/ops/queues/cache/pause".to_owned(),
        "/ops/queues/cache/settings".to_owned(),
        "/ops/kinds/mail.send/limits".to_owned(),
        "/ops/retention/dead".to_owned(),
        "/ops/workers/w/stop".to_owned(),
        "/ops/schedules/outbox.prune/run".to_owned(),
        "/ops/schedules/outbox.prune/settings".to_owned(),
    ] {
        let status = admin.get(&path).await.status.as_u16();
        assert!(matches!(status, 404 | 405), "GET {path}: {status}");
        let form = [("reason", "because"), ("days", "1")];
        admin.post_without_token(&path, &form).await.is(403);
    }
    assert_eq!(super::state_of(app.state.db.pool(), job).await.as_deref(), Some("dead"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_keeps_itself_fresh_keeps_nobody_signed_in() {
    let app = TestApp::start().await;
    let ops = Dashboard::start(&app.state).await;
    let job = put(app.state.db.pool(), "cache.warm", "scheduled", a_warm_cache(), None).await;
    let viewer = ops.signed_in(Role::Viewer).await;
    let job = format!("/ops/jobs/{job}");
    for path in ["/ops/workers", "/ops/queues", &job] {
        // What asks again says so.
        let page = viewer.get(path).await.is(200);
        page.says(&format!("hx-get=\"{path}\" hx-trigger=\"every 2s\""));
        page.says("hx-headers='{\"x-roost-refresh\":\"1\"}'");
    }
    for _ in 0..3 {
        app.clock.advance(TimeDelta::minutes(9));
        viewer.refreshes(&job).await.is(200);
    }
    app.clock.advance(TimeDelta::minutes(4));
    assert_eq!(
        viewer.refreshes("/ops/workers").await.is(303).location,
        "/ops/login?next=%2Fops%2Fworkers"
    );
}
