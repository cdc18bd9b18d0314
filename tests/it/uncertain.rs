//! When Postgres goes away in the middle, the API does not claim to know what it cannot know, and asking again is safe.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use roost_api::server;
use roost_api::state::{AppConfig, AppState};
use roost_shared::{config::Secret, db};
use roost_tests::app::{Actor, JWT_SECRET, TestApp};
use roost_tests::world::World;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use uuid::Uuid;

/// Stands between the API and Postgres. While `cutting`, it passes a commit on and hangs up before the answer.
async fn proxy(database_url: &str) -> (String, Arc<AtomicBool>) {
    let (before, rest) = database_url.rsplit_once('@').unwrap();
    let (address, database) = rest.split_once('/').unwrap();
    let upstream = address.to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("{before}@{}/{database}", listener.local_addr().unwrap());
    let cutting = Arc::new(AtomicBool::new(false));
    let cuts = Arc::clone(&cutting);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&upstream).await.unwrap();
            tokio::spawn(relay(client, server, Arc::clone(&cuts)));
        }
    });
    (url, cutting)
}

async fn relay(mut client: TcpStream, mut server: TcpStream, cutting: Arc<AtomicBool>) {
    let (mut asked, mut answered) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        tokio::select! {
            read = client.read(&mut asked) => {
                let Ok(length @ 1..) = read else { return };
                let bytes = &asked[..length];
                let cut = cutting.load(Ordering::SeqCst) && bytes.windows(6).any(|part| part == b"COMMIT");
                if server.write_all(bytes).await.is_err() { return }
                if cut {
                    // The answer has come, so the commit is done; nobody hears of it.
                    let _done = server.read(&mut answered).await;
                    return;
                }
            }
            read = server.read(&mut answered) => {
                let Ok(length @ 1..) = read else { return };
                if client.write_all(&answered[..length]).await.is_err() { return }
            }
        }
    }
}

async fn behind(app: &TestApp, database_url: &str) -> server::Running {
    let state = AppState::new(AppConfig {
        pool: db::connect(database_url, 4).unwrap(),
        redis: app.state.redis.clone(),
        clock: app.clock.clone(),
        jwt_secret: Secret::new(JWT_SECRET),
        jwt_secret_previous: None,
        settings: (*app.state.settings).clone(),
    })
    .unwrap();
    server::start(state, "127.0.0.1:0").await.unwrap()
}

async fn a_stay(world: &World) -> (Actor, Value) {
    let (host, guest) = (world.host().await, world.guest().await);
    let flat: Uuid = world.lists(&host, json!({})).await;
    let body = json!({
        "property_id": flat, "check_in": world.day(30), "check_out": world.day(33), "guests": 2, "payment_method": "pm_card_visa",
    });
    (guest, body)
}

#[tokio::test]
async fn a_commit_that_nobody_confirmed_is_uncertain_and_can_be_repeated() {
    let world = World::without_worker().await;
    let (guest, body) = a_stay(&world).await;
    let (database_url, cutting) = proxy(world.database_url()).await;
    let server = behind(&world, &database_url).await;
    let ask = || {
        reqwest::Client::new()
            .post(format!("http://{}/bookings", server.address()))
            .bearer_auth(&guest.access_token)
            .header("Idempotency-Key", "one")
            .json(&body)
            .send()
    };
    cutting.store(true, Ordering::SeqCst);
    let lost = ask().await.unwrap();
    assert_eq!(lost.status(), 503);
    let problem: Value = lost.json().await.unwrap();
    assert_eq!(problem["code"], "outcome_uncertain", "{problem}");
    cutting.store(false, Ordering::SeqCst);
    let again = ask().await.unwrap();
    assert_eq!(
        (again.status().as_u16(), &again.headers()["idempotent-replayed"]),
        (201, &"true".parse().unwrap())
    );
    let made: i64 = sqlx::query_scalar("SELECT count(*) FROM bookings")
        .fetch_one(world.pool())
        .await
        .unwrap();
    assert_eq!(made, 1);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_key_that_is_worked_on_for_too_long_is_in_use() {
    let world = World::without_worker().await;
    let (guest, body) = a_stay(&world).await;
    let ask = || {
        world
            .post("/bookings", body.clone())
            .by(&guest)
            .header("Idempotency-Key", "one")
    };
    // Somebody else has claimed the key and does not come to an end.
    let mut slow = world.state.db.begin().await.unwrap();
    sqlx::query("INSERT INTO idempotency_keys (scope, key, request_hash, created_at) VALUES ($1, 'one', '', now())")
        .bind(&guest.id)
        .execute(slow.conn())
        .await
        .unwrap();
    let waiting = tokio::spawn(ask().send());
    // What the time-out of a statement does, without waiting for it.
    world
        .eventually("the second one is given up", async || {
            let given_up: Option<bool> = sqlx::query_scalar(
                "SELECT pg_cancel_backend(pid) FROM pg_stat_activity
                 WHERE datname = current_database() AND wait_event_type = 'Lock' LIMIT 1",
            )
            .fetch_optional(world.pool())
            .await
            .unwrap();
            given_up == Some(true)
        })
        .await;
    waiting.await.unwrap().refused(409, "idempotency_key_in_use");
    drop(slow);
    ask().send().await.expect(201);
}

/// Looks so often whether it is done, then goes away, as a request does whose client has hung up.
async fn waits_only_so_long<T>(looks: usize, work: impl Future<Output = T>) {
    let mut work = std::pin::pin!(work);
    for _ in 0..looks {
        if futures::poll!(&mut work).is_ready() {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_whose_beginning_nobody_waits_for_is_not_left_open() {
    let app = TestApp::start().await;
    let one = db::connect(app.database_url(), 1).unwrap();
    let elsewhere = app.state.db.pool();
    sqlx::raw_sql("CREATE TABLE test_notes (note int NOT NULL)")
        .execute(elsewhere)
        .await
        .unwrap();
    for round in 0..64 {
        waits_only_so_long(round % 16, db::begin(&one)).await;
        // What one statement has written is there for all as soon as it is answered.
        sqlx::query("INSERT INTO test_notes VALUES ($1)")
            .bind(i32::try_from(round).unwrap())
            .execute(&one)
            .await
            .unwrap();
        let seen: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM test_notes WHERE note = $1)")
            .bind(i32::try_from(round).unwrap())
            .fetch_one(elsewhere)
            .await
            .unwrap();
        assert!(
            seen,
            "round {round}: written inside of a transaction that nobody knows of"
        );
    }
}
