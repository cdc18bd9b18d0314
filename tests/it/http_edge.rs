//! What every endpoint has in common: problems, ids, bounds, pages that may read replies, health, metrics.

use std::time::{Duration, Instant};

use base64::Engine;

use roost_api::server;
use roost_api::state::{AppConfig, AppState};
use roost_shared::config::Secret;
use roost_shared::{db, redis::Redis};
use roost_tests::app::{JWT_SECRET, PASSWORD, TestApp};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A gzip stream of 2^20 blanks.
const BOMB: &str = concat!(
    "H4sIAAAAAAACA+3BMQEAAADCoCrrn9IQvkABAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAHwGpwID8QAA",
    "EAA=",
);

#[tokio::test]
async fn every_reply_has_an_id_and_safe_headers() {
    let app = TestApp::start().await;
    for path in ["/healthz", "/nowhere", "/users/me", "/openapi.json", "/docs"] {
        let reply = app.get(path).send().await;
        assert_eq!(reply.header("x-request-id").len(), 36, "{path}");
        assert_eq!(reply.header("x-content-type-options"), "nosniff", "{path}");
        assert!(
            reply
                .header("content-security-policy")
                .contains("frame-ancestors 'none'"),
            "{path}"
        );
    }
    let given = app.get("/nowhere").header("x-request-id", "mine-1").send().await;
    assert_eq!(given.refused(404, "not_found")["request_id"], "mine-1");
    for bad in ["", "a b", "x\"y", &"x".repeat(65)] {
        let reply = app.get("/healthz").header("x-request-id", bad).send().await;
        assert_eq!(reply.header("x-request-id").len(), 36, "{bad}");
    }
}

#[tokio::test]
async fn a_problem_refers_to_a_page_that_explains_it() {
    let app = TestApp::start().await;
    let problem = app.get("/nowhere").send().await.refused(404, "not_found");
    let page = app.get(problem["type"].as_str().unwrap()).send().await.expect(200);
    assert_eq!(page["code"], "not_found");
    assert!(page["meaning"].as_str().unwrap().contains("no such thing"));
    app.get("/problems/made_up").send().await.refused(404, "not_found");
    let document = app.get("/openapi.json").send().await.text();
    assert!(document.contains("| `dates_taken` |"));
}

#[tokio::test]
async fn paths_work_with_and_without_a_slash_and_know_their_methods() {
    let app = TestApp::start().await;
    let ada = app.guest().await;
    for path in ["/users/me", "/users/me/"] {
        app.get(path).by(&ada).send().await.expect(200);
    }
    app.get("/").send().await.refused(404, "not_found");
    let reply = app.delete("/users/").send().await;
    reply.refused(405, "method_not_allowed");
    assert_eq!(reply.header("allow"), "POST");
    let reply = app.post("/users/me", json!({})).by(&ada).send().await;
    reply.refused(405, "method_not_allowed");
    for method in ["GET", "HEAD", "PATCH", "DELETE"] {
        assert!(reply.header("allow").contains(method), "{}", reply.header("allow"));
    }
    let made_up = app.request("BREW".parse().unwrap(), "/users").send().await;
    made_up.refused(405, "method_not_allowed");
}

#[tokio::test]
async fn every_path_of_the_document_is_there_with_and_without_a_slash() {
    let app = TestApp::start().await;
    let document = app.get("/openapi.json").send().await.expect(200);
    let mut asked = 0;
    for (path, operations) in document["paths"].as_object().unwrap() {
        let parts = path
            .trim_end_matches('/')
            .split('/')
            .map(|part| match part.starts_with('{') {
                true => uuid::Uuid::nil().to_string(),
                false => part.to_owned(),
            });
        let bare = parts.collect::<Vec<_>>().join("/");
        let methods = operations.as_object().unwrap().keys();
        for method in methods.filter_map(|method| method.to_uppercase().parse::<reqwest::Method>().ok()) {
            let without = app.request(method.clone(), &bare).send().await;
            let with = app.request(method.clone(), &format!("{bare}/")).send().await;
            assert_eq!(without.status, with.status, "{method} {bare}");
            // Some answer with a page, and what is not there for want of its id says so.
            let detail =
                |body: &[u8]| serde_json::from_slice(body).map_or(Value::Null, |body: Value| body["detail"].clone());
            assert!(without.status != 404 || path.contains('{'), "{method} {bare}");
            assert_eq!(detail(&without.body), detail(&with.body), "{method} {bare}");
            asked += 1;
        }
    }
    assert!(asked > 40, "{asked}");
}

#[tokio::test]
async fn bodies_that_are_not_usable_json_are_refused() {
    let app = TestApp::start().await;
    let deep = format!("{}1{}", "[".repeat(500), "]".repeat(500));
    let unusable: [&[u8]; 11] = [
        b"",
        b"{",
        b"nonsense",
        b"{\"email\": }",
        b"\xff\xfe",
        b"{\"email\": \"\xc3\x28\"}",
        b"{} {}",
        br#"{"email": "a@example.com", "email": "b@example.com", "password": "x"}"#,
        br#"{"email": "a\u0000@example.com", "password": "x"}"#,
        br#"{"email": "\ud800", "password": "x"}"#,
        deep.as_bytes(),
    ];
    for body in unusable {
        app.request(reqwest::Method::POST, "/auth/login")
            .bytes(body.to_vec())
            .send()
            .await
            .refused(400, "invalid_json");
    }
    for body in ["[]", "1", "null", "\"text\"", "true"] {
        app.request(reqwest::Method::POST, "/auth/login")
            .bytes(body)
            .send()
            .await
            .refused(400, "invalid_body");
    }
    let fine = br#"{"email": "a@example.com", "password": "x"}"#.to_vec();
    for kind in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "nonsense",
        "application/xml",
    ] {
        let reply = app
            .request(reqwest::Method::POST, "/auth/login")
            .body(kind, fine.clone())
            .send()
            .await;
        reply.refused(415, "unsupported_media_type");
    }
    for kind in ["application/json; charset=utf-8", "application/vnd.roost+json"] {
        let reply = app
            .request(reqwest::Method::POST, "/auth/login")
            .body(kind, fine.clone())
            .send()
            .await;
        reply.refused(401, "invalid_credentials");
    }
    app.request(reqwest::Method::POST, "/auth/login")
        .send()
        .await
        .refused(415, "unsupported_media_type");
    let ada = app.guest().await;
    app.get("/users/%00").by(&ada).send().await.refused(400, "invalid_text");
}

#[tokio::test]
async fn large_bodies_are_refused_whether_or_not_they_say_so() {
    let app = TestApp::start().await;
    // 1 MiB of blanks in 1 KiB: what counts is what it becomes.
    let bomb = app
        .request(reqwest::Method::POST, "/auth/login")
        .header("content-encoding", "gzip")
        .bytes(base64::engine::general_purpose::STANDARD.decode(BOMB).unwrap())
        .send()
        .await;
    bomb.refused(413, "body_too_large");
    let damaged = app
        .request(reqwest::Method::POST, "/auth/login")
        .header("content-encoding", "gzip")
        .bytes("not gzip")
        .send()
        .await;
    damaged.refused(400, "invalid_body");
    let large = vec![b' '; 64 * 1024 + 1];
    let login = || app.request(reqwest::Method::POST, "/auth/login");
    login().bytes(large.clone()).send().await.refused(413, "body_too_large");
    // The same in chunks, whose sum nobody announced.
    let mut stream = tokio::net::TcpStream::connect(app.url().trim_start_matches("http://"))
        .await
        .unwrap();
    let head = "POST /auth/login HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = format!("1000\r\n{}\r\n", " ".repeat(0x1000));
    for _ in 0..17 {
        stream.write_all(chunk.as_bytes()).await.unwrap();
    }
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    assert!(
        reply.starts_with("HTTP/1.1 413") && reply.contains("body_too_large"),
        "{reply}"
    );
    let mut fits = br#"{"email": "a@example.com", "password": "x"}"#.to_vec();
    fits.resize(64 * 1024, b' ');
    login().bytes(fits).send().await.refused(401, "invalid_credentials");
}

#[tokio::test]
async fn pages_of_allowed_origins_only_may_read_replies() {
    let app =
        TestApp::start_with(|settings| settings.cors_allowed_origins = vec!["https://app.example.com".to_owned()])
            .await;
    let from = |origin: &str| app.get("/healthz").header("origin", origin).send();
    let allowed = from("https://app.example.com").await;
    assert_eq!(allowed.header("access-control-allow-origin"), "https://app.example.com");
    assert!(allowed.header("vary").contains("Origin"));
    for origin in [
        "https://evil.example",
        "https://app.example.com.evil.example",
        "http://app.example.com",
        "null",
    ] {
        let reply = from(origin).await;
        reply.expect(200);
        assert_eq!(reply.header("access-control-allow-origin"), "", "{origin}");
    }
    let preflight = |origin: &str| {
        app.request(reqwest::Method::OPTIONS, "/users")
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header(
                "access-control-request-headers",
                "content-type, idempotency-key, last-event-id",
            )
            .send()
    };
    let reply = preflight("https://app.example.com").await;
    reply.expect(204);
    assert!(reply.header("access-control-allow-methods").contains("POST"));
    for header in ["idempotency-key", "last-event-id"] {
        assert!(
            reply.header("access-control-allow-headers").contains(header),
            "{header}"
        );
    }
    let reply = preflight("https://evil.example").await;
    assert_eq!(reply.header("access-control-allow-methods"), "");
}

#[tokio::test]
async fn replies_are_compressed_for_who_asks() {
    let app = TestApp::start().await;
    let plain = app.get("/openapi.json").send().await;
    assert_eq!(plain.header("content-encoding"), "");
    for coding in ["gzip", "br"] {
        let small = app.get("/openapi.json").header("accept-encoding", coding).send().await;
        assert_eq!(small.header("content-encoding"), coding);
        assert!(small.body.len() * 3 < plain.body.len());
    }
    for (wishes, coding) in [
        ("br;q=0, gzip;q=0", ""),
        ("*", "br"),
        ("*;q=0", ""),
        ("zstd", ""),
        ("br;q=0.1, gzip;q=0.2", "gzip"),
    ] {
        let reply = app.get("/openapi.json").header("accept-encoding", wishes).send().await;
        assert_eq!(reply.header("content-encoding"), coding, "{wishes}");
        let vary: Vec<_> = reply.headers.get_all("vary").iter().collect();
        assert!(vary.iter().any(|name| *name == "Accept-Encoding"), "{wishes}: {vary:?}");
    }
    // Nothing is nothing, in any coding.
    let host = app.host().await;
    let flat = app.lists(&host, json!({})).await;
    let same = app.get(&format!("/properties/{flat}")).header("if-none-match", "\"1\"");
    let same = same.header("accept-encoding", "gzip").send().await;
    let out = app.post("/auth/logout", json!({})).by(&host);
    let out = out.header("accept-encoding", "gzip").send().await;
    for (reply, status) in [(same, 304), (out, 204)] {
        assert_eq!((reply.status, reply.header("content-encoding")), (status, ""));
        assert_eq!(reply.body, b"");
    }
}

#[tokio::test]
async fn what_is_down_is_named_and_nothing_hangs() {
    let app = TestApp::start().await;
    let ready = app.get("/readyz").send().await.expect(200);
    assert_eq!((&ready["postgres"], &ready["redis"]), (&json!("up"), &json!("up")));

    // A port that nobody listens on, and one that accepts and never answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let silent_address = silent.local_addr().unwrap();
    for (postgres, redis, down) in [
        (
            app.database_url().to_owned(),
            format!("redis://{closed}"),
            json!(["redis"]),
        ),
        (
            app.database_url().to_owned(),
            format!("redis://{silent_address}"),
            json!(["redis"]),
        ),
        (
            format!("postgres://roost@{closed}/roost"),
            app.redis_url().to_owned(),
            json!(["postgres"]),
        ),
        (
            format!("postgres://roost@{silent_address}/roost"),
            format!("redis://{closed}"),
            json!(["postgres", "redis"]),
        ),
    ] {
        let state = AppState::new(AppConfig {
            pool: db::connect(&postgres, 2).unwrap(),
            redis: Redis::new(&redis, "test").unwrap(),
            clock: app.clock.clone(),
            jwt_secret: Secret::new(JWT_SECRET),
            jwt_secret_previous: None,
            settings: (*app.state.settings).clone(),
        })
        .unwrap();
        let server = server::start(state, "127.0.0.1:0").await.unwrap();
        let began = Instant::now();
        let reply = reqwest::get(format!("http://{}/readyz", server.address()))
            .await
            .unwrap();
        assert_eq!(reply.status(), 503);
        let body: Value = serde_json::from_slice(&reply.bytes().await.unwrap()).unwrap();
        assert_eq!(body["down"], down);
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        assert_eq!(
            reqwest::get(format!("http://{}/healthz", server.address()))
                .await
                .unwrap()
                .status(),
            200
        );
        server.stop().await.unwrap();
    }
}

#[tokio::test]
async fn without_redis_the_signed_in_go_on_and_without_postgres_all_wait() {
    let app = TestApp::start().await;
    let ada = app.guest().await;
    let closed = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let start = |postgres: String, redis: String| {
        let state = AppState::new(AppConfig {
            pool: db::connect(&postgres, 2).unwrap(),
            redis: Redis::new(&redis, "test").unwrap(),
            clock: app.clock.clone(),
            jwt_secret: Secret::new(JWT_SECRET),
            jwt_secret_previous: None,
            settings: (*app.state.settings).clone(),
        })
        .unwrap();
        server::start(state, "127.0.0.1:0")
    };
    let http = reqwest::Client::new();
    let without_redis = start(app.database_url().to_owned(), format!("redis://{closed}"))
        .await
        .unwrap();
    let base = format!("http://{}", without_redis.address());
    let own = http
        .get(format!("{base}/users/me"))
        .bearer_auth(&ada.access_token)
        .send()
        .await
        .unwrap();
    assert_eq!(own.status(), 200);
    let login = http
        .post(format!("{base}/auth/login"))
        .json(&json!({"email": ada.email, "password": PASSWORD}))
        .send()
        .await
        .unwrap();
    assert_eq!(login.status(), 503);
    assert_eq!(login.headers()["retry-after"], "2");
    assert_eq!(login.json::<Value>().await.unwrap()["code"], "redis_unavailable");

    let without_postgres = start(format!("postgres://roost@{closed}/roost"), app.redis_url().to_owned())
        .await
        .unwrap();
    let base = format!("http://{}", without_postgres.address());
    let own = http
        .get(format!("{base}/users/me"))
        .bearer_auth(&ada.access_token)
        .send()
        .await
        .unwrap();
    assert_eq!(own.status(), 503);
    assert_eq!(own.json::<Value>().await.unwrap()["code"], "database_unavailable");
}

#[tokio::test]
async fn a_running_request_is_finished_before_the_server_stops() {
    let app = TestApp::start().await;
    let server = server::start(app.state.clone(), "127.0.0.1:0").await.unwrap();
    let mut stream = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    let body =
        json!({"email": "late@example.com", "password": PASSWORD, "full_name": "Late", "role": "guest"}).to_string();
    let head = format!(
        "POST /users HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let (first, rest) = body.split_at(10);
    stream.write_all(format!("{head}{first}").as_bytes()).await.unwrap();
    // The server has the head once it answers somebody who came later.
    reqwest::get(format!("http://{}/healthz", server.address()))
        .await
        .unwrap();
    let address = server.address();
    let stopping = tokio::spawn(server.stop());
    while tokio::net::TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    stream.write_all(rest.as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    assert!(reply.starts_with("HTTP/1.1 201"), "{reply}");
    stopping.await.unwrap().unwrap();
}

#[tokio::test]
async fn requests_are_counted_by_operation() {
    let metrics = server::start_metrics(
        db::connect("postgres://nobody@127.0.0.1:1/none", 1).unwrap(),
        "127.0.0.1:0",
    )
    .await
    .unwrap();
    let app = TestApp::start().await;
    let ada = app.guest().await;
    app.get(&format!("/users/{}", ada.id)).by(&ada).send().await.expect(200);
    app.get("/made/up/path").send().await.refused(404, "not_found");
    let text = reqwest::get(format!("http://{}/metrics", metrics.address()))
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    for line in [
        "roost_http_requests_total{method=\"GET\",operation=\"get_user\",status=\"200\"}",
        "roost_http_requests_total{method=\"GET\",operation=\"unmatched\",status=\"404\"}",
        "roost_http_request_seconds_bucket{method=\"POST\",operation=\"login\",le=\"30\"}",
        "roost_database_connections_in_use",
        "roost_build_info{version=",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    assert!(!text.contains(&ada.id) && !text.contains("made"));
}

#[tokio::test]
async fn jobs_know_the_request_they_come_from() {
    let app = TestApp::start().await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let ada = app.guest().await;
    app.post("/auth/verify-email/resend", json!({}))
        .by(&ada)
        .header("traceparent", trace)
        .send()
        .await
        .expect(204);
    let (context, actor): (Option<String>, Option<String>) =
        sqlx::query_as("SELECT trace_context, actor FROM jobs ORDER BY created_at DESC LIMIT 1")
            .fetch_one(app.state.db.pool())
            .await
            .unwrap();
    assert_eq!(context.as_deref(), Some(trace));
    assert_eq!(actor, Some(ada.id));
}
