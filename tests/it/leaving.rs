//! Accounts that end, change their password or their role while something else is under way.

use base64::Engine;
use futures::future::{join, join_all};
use roost_api::server;
use roost_api::state::{AppConfig, AppState};
use roost_shared::config::Secret;
use roost_shared::{db, users};
use roost_tests::app::{Actor, Call, JWT_SECRET, PASSWORD, TestApp};
use roost_tests::world::{World, a_flat};
use serde_json::{Value, json};
use sha2::Digest;
use uuid::Uuid;

/// Sends a request that gets stuck on the row of an account that is being deleted, and lets the deletion finish.
async fn while_leaving(world: &World, actor: &Actor, call: Call) -> roost_tests::app::Reply {
    let mut tx = world.state.db.begin().await.unwrap();
    users::delete(&mut tx, Uuid::parse_str(&actor.id).unwrap())
        .await
        .unwrap();
    let waiting = tokio::spawn(call.send());
    world
        .eventually("the request waits for the account", async || {
            let waiting: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
            )
            .fetch_one(world.pool())
            .await
            .unwrap();
            waiting == 1
        })
        .await;
    tx.commit().await.unwrap();
    waiting.await.unwrap()
}

#[tokio::test]
async fn an_account_that_is_gone_books_nothing_and_lists_nothing() {
    let world = World::without_worker().await;
    let (host, guest, leaving) = (world.host().await, world.guest().await, world.host().await);
    let flat = world.lists(&host, json!({})).await;
    let body = json!({
        "property_id": flat, "check_in": world.day(30), "check_out": world.day(32), "guests": 2, "payment_method": "pm_card_visa",
    });
    let books = world.post("/bookings", body).by(&guest);
    while_leaving(&world, &guest, books).await.refused(401, "invalid_token");
    let lists = world.post("/properties", a_flat()).by(&leaving);
    while_leaving(&world, &leaving, lists)
        .await
        .refused(401, "invalid_token");
    let left: (i64, i64, i64) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM bookings), (SELECT count(*) FROM payments), (SELECT count(*) FROM properties)",
    )
    .fetch_one(world.pool())
    .await
    .unwrap();
    assert_eq!(left, (0, 0, 1));
}

#[tokio::test]
async fn a_guest_who_becomes_a_host_lists_at_once() {
    let app = TestApp::start().await;
    let ada = app.guest().await;
    let lists = || app.post("/properties", a_flat()).by(&ada).send();
    lists().await.refused(403, "forbidden");
    let change = app.patch("/users/me", json!({"role": "host"})).by(&ada);
    change.send().await.expect(200);
    lists().await.expect(201);
}

#[tokio::test]
async fn a_listing_goes_with_its_host_at_once() {
    let app = TestApp::start().await;
    let host = app.host().await;
    let flat = app.lists(&host, json!({})).await;
    let path = format!("/properties/{flat}");
    app.get(&path).send().await.expect(200);
    app.delete("/users/me").by(&host).send().await.expect(204);
    app.get(&path).send().await.refused(404, "not_found");
}

#[tokio::test]
async fn a_sign_in_with_the_old_password_does_not_outlive_it() {
    let app = TestApp::start().await;
    let ada = app.guest().await;
    let sign_in = || app.post("/auth/login", json!({"email": ada.email, "password": PASSWORD}));
    let change = json!({"current_password": PASSWORD, "new_password": "a new long password"});
    let change = app.post("/users/me/password", change).by(&ada);
    // All have read the old password before the change is through the queue of the argon2.
    let (replies, changed) = join(join_all((0..12).map(|_| sign_in().send())), change.send()).await;
    changed.expect(204);
    for reply in replies {
        assert!([200, 401].contains(&reply.status), "{}", reply.text());
    }
    let sessions = app.get("/auth/sessions").by(&ada).send().await.expect(200);
    let ids: Vec<&Value> = sessions["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["id"])
        .collect();
    assert_eq!(ids, [ada.session_id.as_str()]);
}

#[tokio::test]
async fn a_sign_in_does_not_outlive_the_account() {
    let app = TestApp::start().await;
    let ada = app.guest().await;
    let sign_in = || app.post("/auth/login", json!({"email": ada.email, "password": PASSWORD}));
    let (replies, left) = join(
        join_all((0..12).map(|_| sign_in().send())),
        app.delete("/users/me").by(&ada).send(),
    )
    .await;
    left.expect(204);
    assert!(replies.iter().any(|reply| reply.status == 401));
    let id = Uuid::parse_str(&ada.id).unwrap();
    assert_eq!(app.state.sessions.list(id).await.unwrap(), []);
}

#[tokio::test]
async fn a_refresh_that_fails_spends_no_token() {
    let app = TestApp::start().await;
    let ada = app.guest().await;
    let state = AppState::new(AppConfig {
        pool: db::connect("postgres://roost@127.0.0.1:1/roost", 2).unwrap(),
        redis: app.state.redis.clone(),
        clock: app.clock.clone(),
        jwt_secret: Secret::new(JWT_SECRET),
        jwt_secret_previous: None,
        settings: (*app.state.settings).clone(),
    })
    .unwrap();
    let without_postgres = server::start(state, "127.0.0.1:0").await.unwrap();
    let body = json!({"refresh_token": ada.refresh_token});
    let refused = reqwest::Client::new()
        .post(format!("http://{}/auth/refresh", without_postgres.address()))
        .json(&body)
        .send()
        .await
        .unwrap();
    assert_eq!(refused.status(), 503);
    app.post("/auth/refresh", body).send().await.expect(200);
    without_postgres.stop().await.unwrap();
}

#[tokio::test]
async fn the_link_of_a_mail_is_a_page_that_spends_nothing_by_itself() {
    let app = TestApp::start().await;
    let ada = app.guest().await;
    let mut tx = app.state.db.begin().await.unwrap();
    let token = users::create_verification(&mut tx, Uuid::parse_str(&ada.id).unwrap())
        .await
        .unwrap()
        .unwrap();
    tx.commit().await.unwrap();
    let link = format!("/auth/verify-email?token={token}");
    for _ in 0..2 {
        let page = app.get(&link).send().await;
        assert_eq!(page.status, 200, "{}", page.text());
        assert!(page.header("content-type").starts_with("text/html"));
        assert_eq!(page.header("cache-control"), "no-store");
        let text = page.text();
        assert!(
            !text.contains(&token),
            "nothing of the address is written into the page"
        );
        // What the page may run is what it holds, and nothing else.
        let policy = page.header("content-security-policy");
        for (tag, directive) in [("script", "script-src"), ("style", "style-src")] {
            let inline = text
                .split_once(&format!("<{tag}>"))
                .unwrap()
                .1
                .split_once(&format!("</{tag}>"))
                .unwrap()
                .0;
            let hash = base64::engine::general_purpose::STANDARD.encode(sha2::Sha256::digest(inline.as_bytes()));
            assert!(policy.contains(&format!("{directive} 'sha256-{hash}';")), "{policy}");
        }
    }
    assert_eq!(
        app.get("/users/me").by(&ada).send().await.expect(200)["email_verified"],
        false
    );
    let verified = app
        .post("/auth/verify-email", json!({"token": token}))
        .send()
        .await
        .expect(200);
    assert_eq!(verified["email_verified"], true);
}
