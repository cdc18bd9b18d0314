//! Signing in, staying signed in, and signing out.

use std::time::{Duration, Instant};

use chrono::Duration as Span;
use roost_shared::config::Secret;
use roost_shared::tokens::Tokens;
use roost_shared::users::Role;
use roost_tests::app::{Actor, JWT_SECRET, PASSWORD, TestApp};
use serde_json::{Value, json};
use uuid::Uuid;

async fn refresh(app: &TestApp, token: &str) -> roost_tests::app::Reply {
    app.post("/auth/refresh", json!({"refresh_token": token})).send().await
}

fn refreshed(actor: &Actor, tokens: &Value) -> Actor {
    let text = |name: &str| tokens[name].as_str().unwrap().to_owned();
    Actor {
        access_token: text("access_token"),
        refresh_token: text("refresh_token"),
        ..actor.clone()
    }
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_address_look_the_same() {
    let app = TestApp::start().await;
    let ada = app.guest().await;
    let attempt = |email: &str| app.post("/auth/login", json!({"email": email, "password": "not the password"}));
    let mut wrong = attempt(&ada.email).send().await.refused(401, "invalid_credentials");
    let mut unknown = attempt("nobody@example.com")
        .send()
        .await
        .refused(401, "invalid_credentials");
    wrong["request_id"] = Value::Null;
    unknown["request_id"] = Value::Null;
    assert_eq!(wrong, unknown);

    // And take the same time: what dominates it, one argon2, is done in both. They take turns, and the shortest of each
    // counts, which a busy machine disturbs least.
    let (mut wrong, mut unknown) = (Duration::MAX, Duration::MAX);
    for _ in 0..9 {
        for (email, shortest) in [(ada.email.as_str(), &mut wrong), ("nobody@example.com", &mut unknown)] {
            let began = Instant::now();
            attempt(email).send().await;
            *shortest = began.elapsed().min(*shortest);
        }
    }
    let (longer, shorter) = (wrong.max(unknown), wrong.min(unknown));
    assert!(
        shorter > Duration::from_millis(5),
        "no password was hashed: {shorter:?}"
    );
    assert!(longer < shorter * 3, "known {wrong:?}, unknown {unknown:?}");
}

#[tokio::test]
async fn a_session_is_refreshed_again_and_again() {
    let app = TestApp::start().await;
    let mut ada = app.guest().await;
    for _ in 0..3 {
        app.clock.advance(Span::minutes(16));
        app.get("/users/me").by(&ada).send().await.refused(401, "token_expired");
        let tokens = refresh(&app, &ada.refresh_token).await.expect(200);
        assert_eq!(tokens["token_type"], "Bearer");
        assert_eq!(tokens["expires_in"], 900);
        assert_eq!(tokens["session_id"], ada.session_id.as_str());
        let next = refreshed(&ada, &tokens);
        assert_ne!(next.refresh_token, ada.refresh_token);
        ada = next;
        app.get("/users/me").by(&ada).send().await.expect(200);
    }
}

#[tokio::test]
async fn a_spent_refresh_token_ends_its_session_and_no_other() {
    let app = TestApp::start().await;
    let phone = app.guest().await;
    let laptop = app.login(&phone.email, PASSWORD).await;
    let next = refreshed(&phone, &refresh(&app, &phone.refresh_token).await.expect(200));
    refresh(&app, &phone.refresh_token)
        .await
        .refused(401, "refresh_token_reused");
    refresh(&app, &next.refresh_token)
        .await
        .refused(401, "invalid_refresh_token");
    app.get("/users/me")
        .by(&next)
        .send()
        .await
        .refused(401, "invalid_token");
    app.get("/users/me").by(&laptop).send().await.expect(200);
    refresh(&app, &laptop.refresh_token).await.expect(200);
}

#[tokio::test]
async fn of_two_who_refresh_with_one_token_at_most_one_gets_the_next() {
    let app = TestApp::start().await;
    let ada = app.guest().await;
    let replies = futures::future::join_all((0..8).map(|_| refresh(&app, &ada.refresh_token))).await;
    let good = replies.iter().filter(|reply| reply.status == 200).count();
    assert_eq!(good, 1);
    app.get("/users/me").by(&ada).send().await.refused(401, "invalid_token");
}

#[tokio::test]
async fn forged_refresh_tokens_end_nothing() {
    let app = TestApp::start().await;
    let ada = app.guest().await;
    // Same session id, other secrets: what somebody could make who saw the session's id.
    let mut forged = ada.refresh_token.clone();
    forged.replace_range(30..60, "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
    for token in [
        forged.as_str(),
        "rt_",
        "rt_AAAA",
        "ev_AAAA",
        "nonsense",
        &"x".repeat(200),
    ] {
        refresh(&app, token).await.refused(401, "invalid_refresh_token");
    }
    for body in [
        json!({}),
        json!({"refresh_token": 1}),
        json!({"refresh_token": ""}),
        json!({"refresh_token": "x".repeat(201)}),
    ] {
        app.post("/auth/refresh", body)
            .send()
            .await
            .refused_field(400, "invalid_body", "refresh_token");
    }
    refresh(&app, &ada.refresh_token).await.expect(200);
}

#[tokio::test]
async fn sessions_are_listed_and_ended() {
    let app = TestApp::start().await;
    let phone = app.guest().await;
    app.clock.advance(Span::seconds(60));
    let eve = app.guest().await;
    let laptop = app
        .post("/auth/login", json!({"email": phone.email, "password": PASSWORD}))
        .header("user-agent", "Laptop/1.0")
        .send()
        .await
        .expect(200);
    let laptop = refreshed(&phone, &laptop);
    let list = app.get("/auth/sessions").by(&laptop).send().await.expect(200);
    let items = list["items"].as_array().unwrap();
    assert_eq!(items.len(), 2);
    assert_eq!(items[0]["current"], true);
    assert_eq!(items[0]["user_agent"], "Laptop/1.0");
    assert_eq!(items[0]["ip"], "127.0.0.1");
    assert_eq!(items[1]["id"], phone.session_id.as_str());
    assert_eq!(items[1]["current"], false);
    assert!(items[1]["created_at"].as_str() < items[0]["created_at"].as_str());

    let path = format!("/auth/sessions/{}", phone.session_id);
    app.delete(&path).by(&eve).send().await.refused(404, "not_found");
    app.delete(&path).by(&laptop).send().await.expect(204);
    app.delete(&path).by(&laptop).send().await.refused(404, "not_found");
    app.delete("/auth/sessions/nonsense")
        .by(&laptop)
        .send()
        .await
        .refused_field(400, "invalid_parameter", "session_id");
    app.get("/users/me")
        .by(&phone)
        .send()
        .await
        .refused(401, "invalid_token");
    refresh(&app, &phone.refresh_token)
        .await
        .refused(401, "invalid_refresh_token");

    app.post("/auth/logout", json!({})).by(&laptop).send().await.expect(204);
    app.get("/users/me")
        .by(&laptop)
        .send()
        .await
        .refused(401, "invalid_token");
    app.get("/auth/sessions")
        .by(&laptop)
        .send()
        .await
        .refused(401, "invalid_token");
}

#[tokio::test]
async fn who_does_not_come_back_within_a_month_signs_in_again() {
    let app = TestApp::start().await;
    let ada = app.guest().await;
    // Redis keeps its own time, so its clock is asked rather than moved.
    let mut redis = app.state.redis.connection();
    let key = app.state.redis.key(&format!("session:{}", ada.session_id));
    let seconds: i64 = redis::cmd("TTL").arg(&key).query_async(&mut redis).await.unwrap();
    assert!((30 * 86_400 - 60..=30 * 86_400).contains(&seconds), "{seconds}");
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut redis).await.unwrap();
    assert!(
        keys.iter()
            .all(|key| key.starts_with("test:") || key.starts_with("roost-tests:")),
        "{keys:?}"
    );
    // What Redis holds cannot be used to refresh.
    let fields: Vec<String> = redis::cmd("HVALS").arg(&key).query_async(&mut redis).await.unwrap();
    assert!(
        fields
            .iter()
            .all(|value| value.is_empty() || !ada.refresh_token.contains(value.as_str()))
    );
}

#[tokio::test]
async fn forged_access_tokens_are_refused() {
    let app = TestApp::start().await;
    let ada = app.guest().await;
    let now = app.clock.now();
    let (user, session) = (
        Uuid::parse_str(&ada.id).unwrap(),
        Uuid::parse_str(&ada.session_id).unwrap(),
    );
    let ours = Tokens::new(&Secret::new(JWT_SECRET), None).unwrap();
    let theirs = Tokens::new(&Secret::new("somebody else's secret of 32 bytes"), None).unwrap();
    let with = |token: &str| app.get("/users/me").header("authorization", &format!("Bearer {token}"));

    with(&ours.issue(user, session, Role::Guest, now).unwrap())
        .send()
        .await
        .expect(200);
    let expired = ours.issue(user, session, Role::Guest, now - Span::minutes(15)).unwrap();
    let reply = with(&expired).send().await;
    reply.refused(401, "token_expired");
    assert!(reply.header("www-authenticate").contains("invalid_token"));

    let (header, rest) = ada.access_token.split_once('.').unwrap();
    let (claims, signature) = rest.split_once('.').unwrap();
    let forgeries = [
        theirs.issue(user, session, Role::Host, now).unwrap(),
        ours.issue(user, Uuid::from_u128(9), Role::Guest, now).unwrap(),
        format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{claims}."),
        format!("{header}.{claims}."),
        format!("{header}.{}.{signature}", claims.chars().rev().collect::<String>()),
        ada.refresh_token.clone(),
        "x".to_owned(),
    ];
    for forgery in forgeries {
        with(&forgery).send().await.refused(401, "invalid_token");
    }
    for header in ["Basic YTpi", "Bearer", "nonsense", ""] {
        let reply = app.get("/users/me").header("authorization", header).send().await;
        reply.refused(401, "unauthorized");
        assert_eq!(reply.header("www-authenticate"), "Bearer realm=\"roost\"");
    }
}

#[tokio::test]
async fn guessing_is_slowed_down_per_account_and_address() {
    let app = TestApp::start_with(|settings| settings.logins_per_minute = 3).await;
    let (ada, eve) = (app.guest().await, app.guest().await);
    let attempt = |email: &str, password: &str| {
        app.post("/auth/login", json!({"email": email, "password": password}))
            .send()
    };
    // Registering signed her in once already.
    attempt(&ada.email, "wrong").await.refused(401, "invalid_credentials");
    attempt(&ada.email.to_uppercase(), "wrong")
        .await
        .refused(401, "invalid_credentials");
    let reply = attempt(&ada.email, PASSWORD).await;
    reply.refused(429, "rate_limited");
    let seconds: u64 = reply.header("retry-after").parse().unwrap();
    assert!((1..=60).contains(&seconds));
    attempt(&eve.email, PASSWORD).await.expect(200);
}

#[tokio::test]
async fn a_stranger_does_not_keep_somebody_out_of_where_they_sign_in() {
    let app = TestApp::start_with(|settings| {
        settings.logins_per_minute = 2;
        settings.client_ip_header = Some("x-forwarded-for".parse().unwrap());
    })
    .await;
    let body = json!({"email": "ada@example.com", "password": PASSWORD, "full_name": "Ada", "role": "guest"});
    app.post("/users", body).send().await.expect(201);
    let attempt = |ip: String, password: &str| {
        app.post("/auth/login", json!({"email": "ada@example.com", "password": password}))
            .header("x-forwarded-for", &ip)
            .send()
    };
    attempt("203.0.113.1".to_owned(), PASSWORD).await.expect(200);
    // Twenty a minute for the account from anywhere: from then on nobody is let try from a new place.
    for number in 0..19 {
        attempt(format!("198.51.100.{number}"), "wrong")
            .await
            .refused(401, "invalid_credentials");
    }
    attempt("192.0.2.1".to_owned(), PASSWORD)
        .await
        .refused(429, "rate_limited");
    attempt("203.0.113.1".to_owned(), PASSWORD).await.expect(200);
    // What one address may try stays bounded, even a known one.
    attempt("203.0.113.1".to_owned(), PASSWORD)
        .await
        .refused(429, "rate_limited");
}

#[tokio::test]
async fn the_addresses_of_one_network_count_as_one() {
    let app = TestApp::start_with(|settings| {
        settings.registrations_per_hour = 2;
        settings.client_ip_header = Some("x-forwarded-for".parse().unwrap());
    })
    .await;
    let register = |number: u32, ip: &str| {
        let body =
            json!({"email": format!("{number}@example.com"), "password": PASSWORD, "full_name": "N", "role": "guest"});
        app.post("/users", body).header("x-forwarded-for", ip).send()
    };
    register(1, "2001:db8:1:2::1").await.expect(201);
    register(2, "2001:db8:1:2:ffff::2").await.expect(201);
    register(3, "2001:db8:1:2::3").await.refused(429, "rate_limited");
    register(4, "2001:db8:1:3::1").await.expect(201);
    register(5, "::ffff:203.0.113.9").await.expect(201);
    register(6, "203.0.113.9").await.expect(201);
    register(7, "::ffff:203.0.113.9").await.refused(429, "rate_limited");
}

#[tokio::test]
async fn registrations_are_bounded_per_address() {
    let app = TestApp::start_with(|settings| {
        settings.registrations_per_hour = 2;
        settings.client_ip_header = Some("x-forwarded-for".parse().unwrap());
    })
    .await;
    let register = |number: u32, ip: &str| {
        let body =
            json!({"email": format!("{number}@example.com"), "password": PASSWORD, "full_name": "N", "role": "guest"});
        app.post("/users", body).header("x-forwarded-for", ip).send()
    };
    register(1, "203.0.113.7").await.expect(201);
    register(2, "10.0.0.1, 203.0.113.7").await.expect(201);
    register(3, "203.0.113.7").await.refused(429, "rate_limited");
    register(4, "203.0.113.8").await.expect(201);
}

#[tokio::test]
async fn sign_in_is_checked_field_by_field() {
    let app = TestApp::start().await;
    for (field, body) in [
        ("email", json!({"password": "x"})),
        ("password", json!({"email": "a@b.c"})),
        ("email", json!({"email": 1, "password": "x"})),
        ("password", json!({"email": "a@b.c", "password": false})),
        ("password", json!({"email": "a@b.c", "password": "x".repeat(129)})),
        ("otp", json!({"email": "a@b.c", "password": "x", "otp": "1"})),
    ] {
        app.post("/auth/login", body)
            .send()
            .await
            .refused_field(400, "invalid_body", field);
    }
}

/// Every operation that takes an access token, as its method and a path that fits.
async fn secured(app: &TestApp) -> Vec<(reqwest::Method, String)> {
    let document = app.get("/openapi.json").send().await.expect(200);
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let path: Vec<&str> = path
            .split('/')
            .map(|part| {
                if part.starts_with('{') {
                    "019ab6c8-6f5e-7c3a-9d0e-2f4f1f6f0a11"
                } else {
                    part
                }
            })
            .collect();
        for (method, operation) in item.as_object().unwrap() {
            if operation["security"]
                .as_array()
                .is_some_and(|schemes| !schemes.is_empty())
            {
                operations.push((method.to_uppercase().parse().unwrap(), path.join("/")));
            }
        }
    }
    operations
}

#[tokio::test]
async fn no_operation_takes_an_expired_or_a_forged_token() {
    let app = TestApp::start().await;
    let ada = app.guest().await;
    let now = app.clock.now();
    let (user, session) = (
        Uuid::parse_str(&ada.id).unwrap(),
        Uuid::parse_str(&ada.session_id).unwrap(),
    );
    let ours = Tokens::new(&Secret::new(JWT_SECRET), None).unwrap();
    let theirs = Tokens::new(&Secret::new("somebody else's secret of 32 bytes"), None).unwrap();
    let expired = ours.issue(user, session, Role::Guest, now - Span::minutes(15)).unwrap();
    let forged = theirs.issue(user, session, Role::Host, now).unwrap();
    let operations = secured(&app).await;
    assert!(operations.len() > 25, "{operations:?}");
    for (method, path) in operations {
        for (token, code) in [(&expired, "token_expired"), (&forged, "invalid_token")] {
            let mut call = app.request(method.clone(), &path);
            if method != reqwest::Method::GET {
                call = call.json(&json!({}));
            }
            let reply = call.header("authorization", &format!("Bearer {token}")).send().await;
            assert_eq!(reply.status, 401, "{method} {path}: {}", reply.text());
            reply.refused(401, code);
        }
    }
}

#[tokio::test]
async fn what_an_account_asks_for_is_checked_field_by_field() {
    let app = TestApp::start().await;
    let ada = app.guest().await;
    let new = "a new long password";
    for (path, field, body) in [
        (
            "/auth/login",
            "email",
            json!({"email": "x".repeat(255), "password": "x"}),
        ),
        (
            "/auth/refresh",
            "scope",
            json!({"refresh_token": ada.refresh_token, "scope": "all"}),
        ),
        ("/auth/verify-email", "token", json!({})),
        ("/auth/verify-email", "token", json!({"token": 1})),
        ("/auth/verify-email", "token", json!({"token": null})),
        ("/auth/verify-email", "token", json!({"token": "x".repeat(201)})),
        (
            "/auth/verify-email",
            "email",
            json!({"token": "ev_x", "email": "a@example.com"}),
        ),
        ("/users/me/password", "current_password", json!({"new_password": new})),
        (
            "/users/me/password",
            "current_password",
            json!({"current_password": 1, "new_password": new}),
        ),
        (
            "/users/me/password",
            "new_password",
            json!({"current_password": PASSWORD, "new_password": ["x"]}),
        ),
        (
            "/users/me/password",
            "new_password",
            json!({"current_password": PASSWORD}),
        ),
        (
            "/users/me/password",
            "hint",
            json!({"current_password": PASSWORD, "new_password": new, "hint": "x"}),
        ),
    ] {
        let reply = app.post(path, body).by(&ada).send().await;
        reply.refused_field(400, "invalid_body", field);
    }
    for method in [reqwest::Method::GET, reqwest::Method::PATCH, reqwest::Method::DELETE] {
        let call = app.request(method.clone(), "/users/nobody").by(&ada);
        let call = if method == reqwest::Method::PATCH {
            call.json(&json!({}))
        } else {
            call
        };
        call.send().await.refused_field(400, "invalid_parameter", "user_id");
    }
    // Nothing of it was done.
    app.login(&ada.email, PASSWORD).await;
}

#[tokio::test]
async fn sessions_come_in_pages() {
    let app = TestApp::start().await;
    let mut ada = app.guest().await;
    let mut opened = vec![ada.session_id.clone()];
    for _ in 0..4 {
        app.clock.advance(Span::seconds(1));
        ada = app.login(&ada.email, PASSWORD).await;
        opened.insert(0, ada.session_id.clone());
    }
    let ids = |page: &Value| -> Vec<String> {
        let items = page["items"].as_array().unwrap().iter();
        items.map(|item| item["id"].as_str().unwrap().to_owned()).collect()
    };
    let first = app.get("/auth/sessions?limit=2").by(&ada).send().await;
    let page = first.expect(200);
    assert_eq!(ids(&page), opened[..2]);
    let next = page["next"].as_str().unwrap();
    assert_eq!(first.header("link"), format!("<{next}>; rel=\"next\""));
    // Ended in between: nothing is skipped or told twice.
    let ended = app.delete(&format!("/auth/sessions/{}", opened[1])).by(&ada);
    ended.send().await.expect(204);
    let page = app.get(next).by(&ada).send().await.expect(200);
    assert_eq!(ids(&page), opened[2..4]);
    let cursor = page["next_cursor"].as_str().unwrap();
    let last = app
        .get(&format!("/auth/sessions?limit=2&cursor={cursor}"))
        .by(&ada)
        .send()
        .await;
    let page = last.expect(200);
    assert_eq!(ids(&page), opened[4..]);
    assert!(page["next"].is_null() && page["next_cursor"].is_null() && last.header("link").is_empty());
    for (query, code, field) in [
        ("limit=0", "invalid_parameter", "limit"),
        ("limit=101", "invalid_parameter", "limit"),
        ("cursor=nonsense", "invalid_cursor", "cursor"),
    ] {
        let refused = app.get(&format!("/auth/sessions?{query}")).by(&ada).send().await;
        refused.refused_field(400, code, field);
    }
    // Somebody else's cursor shows nobody else's sessions.
    let eve = app.guest().await;
    let page = app.get(next).by(&eve).send().await.expect(200);
    assert_eq!(ids(&page), Vec::<String>::new());
}
