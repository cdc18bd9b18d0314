//! Connections that are opened and not used: they end in time, and nobody else waits for them.

use std::time::{Duration, Instant};

use roost_api::server::Bounds;
use roost_tests::app::TestApp;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const HEAD: Duration = Duration::from_millis(400);
const IDLE: Duration = Duration::from_millis(1_200);
/// What a loaded machine may add.
const SLACK: Duration = Duration::from_secs(5);

async fn start(open: usize) -> TestApp {
    TestApp::start_with(|settings| {
        settings.connections = Bounds {
            head: HEAD,
            idle: IDLE,
            open,
        };
    })
    .await
}

async fn connect(app: &TestApp) -> TcpStream {
    TcpStream::connect(app.url().trim_start_matches("http://"))
        .await
        .unwrap()
}

/// Reads until the other side closes, orderly or not.
async fn until_closed(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut piece = [0; 1_024];
    while let Ok(read @ 1..) = stream.read(&mut piece).await {
        bytes.extend_from_slice(&piece[..read]);
    }
    bytes
}

/// One reply with a body of an announced length.
async fn reply(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    loop {
        bytes.push(stream.read_u8().await.unwrap());
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .unwrap();
            if body.len() == length.parse::<usize>().unwrap() {
                return text.into_owned();
            }
        }
    }
}

#[tokio::test]
async fn a_head_that_comes_byte_by_byte_is_given_up_and_others_are_served_meanwhile() {
    let app = start(100).await;
    for first in ["", "GET /healthz HTTP/1.1\r\nhost: x\r\n"] {
        let began = Instant::now();
        let (mut reading, mut writing) = connect(&app).await.into_split();
        let trickle = tokio::spawn(async move {
            if writing.write_all(first.as_bytes()).await.is_err() {
                return;
            }
            loop {
                tokio::time::sleep(HEAD / 10).await;
                if !first.is_empty() && writing.write_all(b"x").await.is_err() {
                    return;
                }
            }
        });
        app.get("/healthz").send().await.expect(200);
        // Nothing is answered, and it ends as soon as the bound says.
        let mut bytes = Vec::new();
        let _ = reading.read_to_end(&mut bytes).await;
        let took = began.elapsed();
        assert_eq!(bytes, b"");
        assert!(took >= HEAD && took < HEAD + SLACK, "{took:?}");
        trickle.abort();
    }
}

#[tokio::test]
async fn what_a_request_takes_is_not_counted_and_what_follows_it_is() {
    let app = start(100).await;
    let mut stream = connect(&app).await;
    let body = json!({"email": "ada@example.com", "password": "wrong"}).to_string();
    let head = format!(
        "POST /auth/login HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // Longer than a head may take and than a connection may be idle.
    tokio::time::sleep(IDLE + HEAD).await;
    stream.write_all(body.as_bytes()).await.unwrap();
    assert!(reply(&mut stream).await.starts_with("HTTP/1.1 401"));

    // Between requests it may wait longer than for a head.
    tokio::time::sleep(HEAD * 2).await;
    let get = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
    stream.write_all(get).await.unwrap();
    assert!(reply(&mut stream).await.starts_with("HTTP/1.1 200"));

    let began = Instant::now();
    assert_eq!(until_closed(&mut stream).await, b"");
    let took = began.elapsed();
    // The reply was read a moment after it was sent.
    assert!(took > IDLE / 2 && took < IDLE + SLACK, "{took:?}");
}

#[tokio::test]
async fn silent_connections_keep_nobody_out() {
    let app = TestApp::start_with(|settings| settings.connections.open = 8).await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(connect(&app).await);
        if silent.len() % 10 == 0 {
            app.get("/healthz").send().await.expect(200);
        }
    }
    app.get("/healthz").send().await.expect(200);
    // Those that waited longest gave way, long before any bound on time.
    let began = Instant::now();
    for stream in &mut silent[..40] {
        assert_eq!(until_closed(stream).await, b"");
    }
    assert!(began.elapsed() < Bounds::default().head, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_request_that_is_answered_keeps_its_place() {
    let app = TestApp::start_with(|settings| settings.connections.open = 2).await;
    let mut busy = connect(&app).await;
    let body = json!({"email": "ada@example.com", "password": "wrong"}).to_string();
    let head = format!(
        "POST /auth/login HTTP/1.1\r\nhost: x\r\nconnection: close\r\nexpect: 100-continue\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    busy.write_all(head.as_bytes()).await.unwrap();
    // The interim reply says that the request has begun.
    let mut interim = [0; 25];
    busy.read_exact(&mut interim).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    let mut silent = Vec::new();
    for _ in 0..10 {
        silent.push(connect(&app).await);
    }
    app.get("/healthz").send().await.expect(200);
    busy.write_all(body.as_bytes()).await.unwrap();
    let answered = until_closed(&mut busy).await;
    assert!(answered.starts_with(b"HTTP/1.1 401"));
}
