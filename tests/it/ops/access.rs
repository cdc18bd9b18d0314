//! Who gets in, and what they may do.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::Method;
use roost_api::state::{AppConfig, AppState};
use roost_shared::config::Secret;
use roost_shared::db;
use roost_shared::operators::sign_ins::{self, Subject};
use roost_shared::operators::{self, Role, SealingKeys, audit};
use roost_shared::redis::Redis;
use roost_tests::app::{JWT_SECRET, TestApp};
use roost_tests::ops::{Dashboard, PASSWORD};
use roost_tests::services::free_address;
use roost_tests::world::World;
use serde_json::Value;

use super::{a_warm_cache, put, state_of};

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_in_without_the_right_password() {
    let app = TestApp::start().await;
    let ops = Dashboard::start(&app.state).await;
    for path in [
        "/ops",
        "/ops/jobs",
        "/ops/queues",
        "/ops/workers",
        "/ops/schedules",
        "/ops/audit",
        "/ops/live",
    ] {
        let location = ops.get(path).await.is(303).location;
        assert_eq!(location.split('?').next(), Some("/ops/login"), "{path}");
    }
    let login = ops.get("/ops/login").await.is(200);
    let policy = login.headers["content-security-policy"].to_str().unwrap();
    assert!(
        policy.contains("default-src 'none'") && !policy.contains("unsafe"),
        "{policy}"
    );
    assert_eq!(login.headers["x-frame-options"], "DENY");
    assert_eq!(login.headers["cache-control"], "no-store");

    let email = ops.make(Role::Viewer).await;
    ops.signs_in(&email, "not the password", "").await.is(401);
    ops.signs_in("nobody@ops.example.com", PASSWORD, "").await.is(401);
    let home = ops.signs_in(&email, PASSWORD, "").await.is(303);
    let cookie = home.headers["set-cookie"].to_str().unwrap();
    for part in ["HttpOnly", "SameSite=Lax", "Path=/ops"] {
        assert!(cookie.contains(part), "{cookie}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sign_ins_are_limited_and_sessions_end() {
    let app = TestApp::start_with(|settings| settings.logins_per_minute = 3).await;
    let ops = Dashboard::start(&app.state).await;
    let browser = ops.signed_in(Role::Operator).await;
    let email = "operator@ops.example.com";
    for _ in 0..2 {
        ops.signs_in(email, "wrong", "").await.is(401);
    }
    let refused = ops.signs_in(email, PASSWORD, "").await.is(429);
    assert!(refused.headers.contains_key("retry-after"));

    app.clock.advance(TimeDelta::minutes(29));
    browser.get("/ops").await.is(200);
    app.clock.advance(TimeDelta::minutes(29));
    browser.get("/ops").await.is(200);
    app.clock.advance(TimeDelta::minutes(31));
    assert_eq!(browser.get("/ops").await.is(303).location, "/ops/login");

    // Of a page and of a script, used all the time: after twelve hours it is over all the same.
    let browser = ops.opens(email, PASSWORD, "").await;
    let script = ops.script(email).await;
    let looks = async || script.send(Method::GET, "/queues", &Value::Null).await.0;
    for _ in 0..47 {
        app.clock.advance(TimeDelta::minutes(15));
        browser.get("/ops/queues").await.is(200);
        assert_eq!(looks().await, 200);
    }
    app.clock.advance(TimeDelta::minutes(14));
    browser.get("/ops/queues").await.is(200);
    assert_eq!(looks().await, 200);
    app.clock.advance(TimeDelta::minutes(1));
    assert_eq!(browser.get("/ops").await.is(303).location, "/ops/login");
    assert_eq!(looks().await, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_are_guessed_no_faster_while_redis_is_down() {
    let app = TestApp::start_with(|settings| settings.logins_per_minute = 3).await;
    // Two processes, and nothing listens where their Redis should be.
    let nowhere = format!("redis://{}", free_address().unwrap());
    let process = || {
        AppState::new(AppConfig {
            pool: db::connect(app.database_url(), 4).unwrap(),
            redis: Redis::new(&nowhere, "test").unwrap(),
            clock: app.clock.clone(),
            jwt_secret: Secret::new(JWT_SECRET),
            jwt_secret_previous: None,
            settings: (*app.state.settings).clone(),
        })
        .unwrap()
    };
    let (one, other) = (process(), process());
    let (one, other) = (Dashboard::start(&one).await, Dashboard::start(&other).await);
    let email = one.make(Role::Admin).await;
    for guess in [&one, &other, &one] {
        guess.signs_in(&email, "a guess", "").await.is(401);
    }
    for refused in [&one, &other] {
        let refused = refused.signs_in(&email, PASSWORD, "").await.is(429);
        assert_eq!(refused.headers["retry-after"], "60");
    }
    let credentials = serde_json::json!({"email": email, "password": PASSWORD});
    let session = format!("{}/ops/api/session", other.base);
    let asked = reqwest::Client::new().post(session).json(&credentials).send().await;
    assert_eq!(asked.unwrap().status().as_u16(), 429);
    // Somebody else's account is not held up by it.
    let bystander = one.make(Role::Viewer).await;
    one.signs_in(&bystander, PASSWORD, "").await.is(303);

    app.clock.advance(TimeDelta::seconds(61));
    other.signs_in(&email, PASSWORD, "").await.is(303);
    // What is over is forgotten: the account, the address and both together are left.
    let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM operator_sign_ins")
        .fetch_one(app.state.db.pool())
        .await
        .unwrap();
    assert_eq!(kept, 3);
}

#[tokio::test]
async fn tries_at_the_same_time_are_counted_one_by_one() {
    let app = TestApp::start().await;
    let (minute, now) = (Duration::from_secs(60), app.clock.now());
    let count = async |names: [&str; 2], now: DateTime<Utc>| {
        let subjects = names.map(|name| Subject::new(name, 5));
        sign_ins::count(app.state.db.pool(), &subjects, minute, now)
            .await
            .unwrap()
    };
    let tried = futures::future::join_all((0..24).map(|_| count(["a", "b"], now)));
    let went_on = tried.await.into_iter().filter(|goes_on| *goes_on).count();
    assert_eq!(went_on, 5);
    // One that has had its tries stops those after it, which are not counted, and nobody else.
    assert!(!count(["a", "c"], now).await);
    assert!(count(["c", "d"], now).await);
    assert!(count(["a", "b"], now + minute).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authenticator_is_set_up_and_its_code_is_good_once() {
    let app = TestApp::start().await;
    let ops = Dashboard::start(&app.state).await;
    let browser = ops.signed_in(Role::Admin).await;
    let email = "admin@ops.example.com";
    let secret = browser.new_key(PASSWORD).await;
    let code = |at: DateTime<Utc>| operators::code_at(&secret, at).unwrap();

    browser.confirms("000000").await.is(422);
    let now = app.clock.now();
    browser.confirms(&code(now)).await.is(303);
    ops.signs_in(email, PASSWORD, "").await.is(401);
    ops.signs_in(email, PASSWORD, &code(now)).await.is(401);
    let later = now + TimeDelta::seconds(60);
    app.clock.advance(TimeDelta::seconds(60));
    ops.signs_in(email, PASSWORD, &code(later)).await.is(303);
    ops.signs_in(email, PASSWORD, &code(later)).await.is(401);

    browser.post("/ops/logout", &[]).await.is(303);
    browser.get("/ops").await.is(303);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_sees_no_button_and_is_refused() {
    let app = TestApp::start().await;
    let ops = Dashboard::start(&app.state).await;
    let pool = app.state.db.pool();
    let id = put(pool, "cache.warm", "dead", a_warm_cache(), Some("no answer")).await;
    let viewer = ops.signed_in(Role::Viewer).await;
    let page = viewer.get(&format!("/ops/jobs/{id}")).await.is(200);
    page.says("What a retry would do");
    page.is_silent_about("Retry this job");
    viewer.get("/ops/jobs").await.is(200).is_silent_about("name=\"action\"");
    viewer.get("/ops/queues").await.is(200).is_silent_about("Pause…");
    for path in [
        format!("/ops/jobs/{id}/retry"),
        format!("/ops/jobs/{id}/delete"),
        format!("/ops/jobs/{id}/edit"),
        "/ops/queues/cache/pause".to_owned(),
        "/ops/schedules/outbox.prune/run".to_owned(),
        "/ops/schedules/outbox.prune/settings".to_owned(),
    ] {
        viewer
            .post(&path, &[("reason", "because"), ("args", "{}")])
            .await
            .is(403);
    }
    let bulk = [("action", "retry"), ("all", "1"), ("filter", ""), ("reason", "because")];
    viewer.post("/ops/jobs/bulk", &bulk).await.is(403);
    viewer.get("/ops/jobs/bulk?action=retry&all=1").await.is(403);
    assert_eq!(state_of(pool, id).await.as_deref(), Some("dead"));

    let operator = ops.signed_in(Role::Operator).await;
    operator
        .get(&format!("/ops/jobs/{id}"))
        .await
        .is(200)
        .is_silent_about("Delete this job");
    operator.post(&format!("/ops/jobs/{id}/delete"), &[]).await.is(403);
    let retry = format!("/ops/jobs/{id}/retry");
    operator.post_without_token(&retry, &[]).await.is(403);
    operator
        .post_without_token(&retry, &[("csrf", &viewer.csrf)])
        .await
        .is(403);
    assert_eq!(state_of(pool, id).await.as_deref(), Some("dead"));
    operator.post(&retry, &[]).await.is(303);
    assert_eq!(state_of(pool, id).await.as_deref(), Some("queued"));
    operator.post(&retry, &[]).await.is(409);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_admin_is_made_on_a_terminal() {
    let world = World::without_worker().await;
    let create = async |email: &str, password: &str| {
        let test = std::env::current_exe().unwrap();
        let mut child = tokio::process::Command::new(test.parent().unwrap().parent().unwrap().join("roost-api"))
            .env_clear()
            .env("DATABASE_URL", world.database_url())
            .env("REDIS_URL", world.redis_url())
            .args(["ops", "create-admin", "--email", email])
            .stdin(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut input, format!("{password}\n").as_bytes())
            .await
            .unwrap();
        drop(input);
        child.wait().await.unwrap().success()
    };
    assert!(!create("no address", PASSWORD).await);
    assert!(!create("first@ops.example.com", "too short").await);
    assert!(create("First@ops.example.com", PASSWORD).await);
    assert!(!create("first@ops.example.com", PASSWORD).await);
    let ops = Dashboard::start(&world.state).await;
    ops.signs_in("first@ops.example.com", PASSWORD, "").await.is(303);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_secret_of_an_authenticator_is_sealed_in_the_database() {
    let world = World::without_worker().await;
    let ops = Dashboard::start(&world.state).await;
    let browser = ops.signed_in(Role::Viewer).await;
    let email = "viewer@ops.example.com";
    let stored = async || -> Option<String> {
        sqlx::query_scalar("SELECT coalesce(totp_pending, totp_secret) FROM operators WHERE email = $1")
            .bind(email)
            .fetch_one(world.pool())
            .await
            .unwrap()
    };
    let secret = browser.new_key(PASSWORD).await;
    let again = browser.shown_key().await;
    assert_eq!(again.as_ref(), Some(&secret), "shown again until it is confirmed");
    let sealed = stored().await.unwrap();
    assert!(sealed.starts_with("v1.") && !sealed.contains(&secret), "{sealed}");
    let code = |at: DateTime<Utc>| operators::code_at(&secret, at).unwrap();
    let first = code(world.clock.now());
    browser.confirms(&first).await.is(303);

    // As a version before left it: it is sealed at the next start, once, and its codes are good before and after.
    sqlx::query("UPDATE operators SET totp_secret = $1")
        .bind(&secret)
        .execute(world.pool())
        .await
        .unwrap();
    let signs_in = async |status: u16| {
        world.clock.advance(TimeDelta::seconds(60));
        ops.signs_in(email, PASSWORD, &code(world.clock.now())).await.is(status);
    };
    signs_in(303).await;
    let seal = async || operators::seal_all(world.pool(), &world.state.sealing).await.unwrap();
    assert_eq!((seal().await, seal().await), (1, 0));
    assert!(stored().await.unwrap().starts_with("v1."));
    signs_in(303).await;

    // The API's secret is changed: the one before still opens it, and the start after that seals it anew.
    let [old, new] = [JWT_SECRET, "another secret for tests, of 32 bytes or more"].map(Secret::new);
    let changing = SealingKeys::derive(&new, Some(&old)).unwrap();
    assert_eq!(operators::seal_all(world.pool(), &changing).await.unwrap(), 1);
    let changed = SealingKeys::derive(&new, None).unwrap();
    assert_eq!(operators::seal_all(world.pool(), &changed).await.unwrap(), 0);
    // Here nobody knows the new one, so its codes are of no use, and nothing is let through or overwritten.
    assert_eq!(seal().await, 0);
    world.clock.advance(TimeDelta::seconds(60));
    // As for a wrong password: a reply of its own would tell that it is right.
    ops.signs_in(email, PASSWORD, &code(world.clock.now())).await.is(401);
    ops.signs_in(email, "not the password", &code(world.clock.now()))
        .await
        .is(401);
    assert_eq!(browser.get("/ops").await.status.as_u16(), 200);

    // Until somebody at a terminal forgets it.
    let test = std::env::current_exe().unwrap();
    let reset = tokio::process::Command::new(test.parent().unwrap().parent().unwrap().join("roost-api"))
        .env_clear()
        .env("DATABASE_URL", world.database_url())
        .env("REDIS_URL", world.redis_url())
        .env("USER", "ada")
        .args(["ops", "reset-totp", "--email", "Viewer@ops.example.com"])
        .output()
        .await
        .unwrap();
    assert!(reset.status.success(), "{reset:?}");
    assert_eq!(stored().await, None);
    assert_eq!(browser.get("/ops").await.location, "/ops/login", "sessions end");
    ops.signs_in(email, PASSWORD, "").await.is(303);
    let newest = &audit::list(world.pool(), None, 2).await.unwrap()[1];
    assert_eq!(
        (newest.action.as_str(), newest.actor.as_str()),
        ("operator.totp_off", "cli:ada")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authenticator_that_was_begun_under_another_secret_is_begun_anew() {
    let app = TestApp::start().await;
    let ops = Dashboard::start(&app.state).await;
    let browser = ops.signed_in(Role::Viewer).await;
    browser.new_key(PASSWORD).await;
    let state = AppState::new(AppConfig {
        pool: db::connect(app.database_url(), 4).unwrap(),
        redis: Redis::new(app.redis_url(), "test").unwrap(),
        clock: app.clock.clone(),
        jwt_secret: Secret::new("another secret for tests, of 32 bytes or more"),
        jwt_secret_previous: None,
        settings: (*app.state.settings).clone(),
    })
    .unwrap();
    let changed = Dashboard::start(&state).await;
    let http = reqwest::Client::new();
    let account = format!("{}/ops/account", changed.base);
    let asked = http.get(&account).header("cookie", &browser.cookie);
    let page = asked.send().await.unwrap();
    assert_eq!(page.status().as_u16(), 200);
    assert!(
        !page.text().await.unwrap().contains("class=\"key\">"),
        "it cannot be opened"
    );
    let asked = http
        .post(format!("{account}/authenticator"))
        .header("cookie", &browser.cookie)
        .header("origin", &changed.base)
        .form(&[("proof", PASSWORD), ("csrf", &browser.csrf)]);
    let page = asked.send().await.unwrap();
    assert_eq!(page.status().as_u16(), 200);
    assert!(page.text().await.unwrap().contains("class=\"key\">"));
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_keep_no_operator_out_of_where_they_usually_sign_in() {
    let app = TestApp::start_with(|settings| {
        settings.logins_per_minute = 1;
        settings.client_ip_header = Some("x-forwarded-for".parse().unwrap());
    })
    .await;
    let ops = Dashboard::start(&app.state).await;
    let email = ops.make(Role::Operator).await;
    let from = async |address: &str, password: &str| {
        let sent = reqwest::Client::new()
            .post(format!("{}/ops/api/session", ops.base))
            .header("x-forwarded-for", address)
            .json(&serde_json::json!({"email": email, "password": password}));
        sent.send().await.unwrap().status().as_u16()
    };
    assert_eq!(from("203.0.113.1", PASSWORD).await, 200);
    app.clock.advance(TimeDelta::seconds(61));
    for stranger in 1..=10 {
        assert_eq!(from(&format!("198.51.100.{stranger}"), "a guess").await, 401);
    }
    assert_eq!(from("198.51.100.11", "a guess").await, 429);
    assert_eq!(from("203.0.113.2", PASSWORD).await, 429, "it was never seen there");
    assert_eq!(from("203.0.113.1", PASSWORD).await, 200);
    // There, too, one guesses no faster, and after a month it is a place like any other.
    assert_eq!(from("203.0.113.1", "a guess").await, 429);
    app.clock.advance(TimeDelta::days(31));
    for stranger in 1..=10 {
        assert_eq!(from(&format!("198.51.100.{stranger}"), "a guess").await, 401);
    }
    assert_eq!(from("203.0.113.1", PASSWORD).await, 429);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_refused_and_who_left_is_in_the_log() {
    let world = World::without_worker().await;
    let ops = Dashboard::start(&world.state).await;
    let browser = ops.signed_in(Role::Viewer).await;
    let (email, token) = ("viewer@ops.example.com", ops.token("viewer@ops.example.com").await);
    ops.signs_in("nobody@ops.example.com", PASSWORD, "").await.is(401);
    ops.signs_in(email, "not the password", "").await.is(401);
    let of = async |action: &str| -> Vec<(String, String)> {
        sqlx::query_as("SELECT actor, target FROM operator_audit WHERE action = $1 ORDER BY seq")
            .bind(action)
            .fetch_all(world.pool())
            .await
            .unwrap()
    };
    let entry = |actor: &str| (actor.to_owned(), email.to_owned());
    world
        .eventually("the refusal is written", async || {
            !of("operator.sign_in_refused").await.is_empty()
        })
        .await;
    assert_eq!(of("operator.sign_in_refused").await, [entry("anonymous")]);

    browser.post("/ops/logout", &[]).await.is(303);
    let session = format!("{}/ops/api/session", ops.base);
    let left = reqwest::Client::new().delete(session).bearer_auth(token).send().await;
    assert_eq!(left.unwrap().status().as_u16(), 204);
    assert_eq!(of("operator.sign_out").await, [entry(email), entry(email)]);
}
