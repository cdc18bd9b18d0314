//! The cache shows what is there, never something older, and is not needed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use roost_api::cache::PropertyCache;
use roost_shared::properties::cache::{self, Cached, Rendered};
use roost_shared::redis::Redis;
use roost_tests::app::TestApp;
use roost_tests::world::{a_flat, id_of};
use serde_json::json;
use sqlx::PgPool;
use uuid::Uuid;

async fn a_listed_flat(app: &TestApp) -> (roost_tests::app::Actor, Uuid) {
    let host = app.host().await;
    let id = id_of(&app.post("/properties/", a_flat()).by(&host).send().await.expect(201));
    (host, id)
}

fn redis_of(app: &TestApp) -> Redis {
    Redis::new(app.redis_url(), "test").unwrap()
}

/// Changes a row behind the back of every cache.
async fn rename(pool: &PgPool, id: Uuid, version: i32) {
    sqlx::query("UPDATE properties SET title = 'Version ' || $2, version = $2 WHERE id = $1")
        .bind(id)
        .bind(version)
        .execute(pool)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_change_in_one_process_reaches_the_others() {
    let app = TestApp::start().await;
    let (host, id) = a_listed_flat(&app).await;
    let elsewhere = PropertyCache::spawn(app.state.db.pool().clone(), &redis_of(&app));
    assert_eq!(elsewhere.get(id).await.unwrap().unwrap().version, 1);
    let path = format!("/properties/{id}");
    app.patch(&path, json!({"beds": 9})).by(&host).send().await.expect(200);
    // By announcement within milliseconds; by the entry's age, should it be lost, within seconds.
    let told = tokio::time::timeout(Duration::from_secs(10), async {
        while elsewhere.get(id).await.unwrap().unwrap().version < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    told.await.expect("the other process learns of the change");
    app.delete(&path).by(&host).send().await;
    let gone = tokio::time::timeout(Duration::from_secs(10), async {
        while elsewhere.get(id).await.unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    gone.await.expect("the other process learns of the end");
}

#[tokio::test]
async fn what_was_read_before_a_change_does_not_come_back() {
    let app = TestApp::start().await;
    let (_, id) = a_listed_flat(&app).await;
    let redis = redis_of(&app);
    let rendered = |version: i32| Rendered {
        version,
        json: format!("{{\"version\":{version}}}").into(),
    };
    assert_eq!(cache::fetch(&redis, id).await.unwrap(), Cached::Unknown);
    cache::store(&redis, id, &rendered(1)).await.unwrap();
    assert_eq!(cache::fetch(&redis, id).await.unwrap(), Cached::Rendered(rendered(1)));
    cache::forget(&redis, id, 2).await.unwrap();
    assert_eq!(cache::fetch(&redis, id).await.unwrap(), Cached::Changed(2));
    // A slow reader and a late announcement of what is long known.
    cache::store(&redis, id, &rendered(1)).await.unwrap();
    assert_eq!(cache::fetch(&redis, id).await.unwrap(), Cached::Changed(2));
    cache::store(&redis, id, &rendered(2)).await.unwrap();
    cache::forget(&redis, id, 2).await.unwrap();
    cache::forget(&redis, id, 1).await.unwrap();
    assert_eq!(cache::fetch(&redis, id).await.unwrap(), Cached::Rendered(rendered(2)));
}

#[tokio::test]
async fn a_change_outlives_an_old_copy_in_redis() {
    let app = TestApp::start().await;
    let (_, id) = a_listed_flat(&app).await;
    let here = PropertyCache::spawn(app.state.db.pool().clone(), &redis_of(&app));
    assert_eq!(here.get(id).await.unwrap().unwrap().version, 1);
    rename(app.state.db.pool(), id, 2).await;
    here.changed(id, 2).await;
    // As if Redis had been away when it was told.
    let old = Rendered {
        version: 1,
        json: "{}".into(),
    };
    let _: () = redis::cmd("DEL")
        .arg(cache::key(&redis_of(&app), id))
        .query_async(&mut redis_of(&app).connection())
        .await
        .unwrap();
    cache::store(&redis_of(&app), id, &old).await.unwrap();
    assert_eq!(here.get(id).await.unwrap().unwrap().version, 2);
}

#[tokio::test]
async fn the_workers_rendering_is_what_the_api_serves() {
    let app = TestApp::start().await;
    let (_, id) = a_listed_flat(&app).await;
    let mut conn = app.state.db.pool().acquire().await.unwrap();
    cache::warm(app.state.db.pool(), &redis_of(&app), id).await.unwrap();
    let Cached::Rendered(warm) = cache::fetch(&redis_of(&app), id).await.unwrap() else {
        panic!("nothing was warmed");
    };
    // Only Redis can know this title.
    sqlx::query("UPDATE properties SET title = 'Changed behind the cache' WHERE id = $1")
        .bind(id)
        .execute(&mut *conn)
        .await
        .unwrap();
    let served = app.get(&format!("/properties/{id}")).send().await;
    assert_eq!(served.body, warm.json);
    sqlx::query("UPDATE properties SET status = 'archived', version = 2 WHERE id = $1")
        .bind(id)
        .execute(&mut *conn)
        .await
        .unwrap();
    cache::warm(app.state.db.pool(), &redis_of(&app), id).await.unwrap();
    assert_eq!(cache::fetch(&redis_of(&app), id).await.unwrap(), Cached::Changed(2));
}

#[tokio::test]
async fn without_redis_postgres_answers() {
    let app = TestApp::start().await;
    let (_, id) = a_listed_flat(&app).await;
    // Nothing listens there.
    let nowhere = Redis::new("redis://127.0.0.1:1", "test").unwrap();
    let here = PropertyCache::spawn(app.state.db.pool().clone(), &nowhere);
    assert_eq!(here.get(id).await.unwrap().unwrap().version, 1);
    rename(app.state.db.pool(), id, 2).await;
    here.changed(id, 2).await;
    let shown = here.get(id).await.unwrap().unwrap();
    assert_eq!(shown.version, 2);
    assert!(String::from_utf8_lossy(&shown.json).contains("Version 2"));
    assert!(here.get(Uuid::nil()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_crowd_asks_postgres_once() {
    let app = TestApp::start().await;
    let (_, id) = a_listed_flat(&app).await;
    let pool = app.state.db.pool();
    let mut blocker = roost_shared::db::begin(pool).await.unwrap();
    sqlx::query("LOCK TABLE properties IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *blocker)
        .await
        .unwrap();
    let here = PropertyCache::spawn(
        roost_shared::db::connect(app.database_url(), 20).unwrap(),
        &redis_of(&app),
    );
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    let crowd: Vec<_> = (0..100)
        .map(|_| {
            let here = here.clone();
            tokio::spawn(async move {
                ASKED.fetch_add(1, Ordering::SeqCst);
                here.get(id).await.unwrap().unwrap().version
            })
        })
        .collect();
    let waiting = async || {
        let waiting: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
        )
        .fetch_one(pool)
        .await
        .unwrap();
        waiting
    };
    while ASKED.load(Ordering::SeqCst) < 100 || waiting().await == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(waiting().await, 1);
    blocker.rollback().await.unwrap();
    for one in crowd {
        assert_eq!(one.await.unwrap(), 1);
    }
}

#[tokio::test]
async fn that_there_is_nothing_is_remembered_for_a_moment() {
    let app = TestApp::start().await;
    let host = app.host().await;
    let draft = app.lists(&host, json!({"status": "draft"})).await;
    let cache = &app.state.properties;
    assert!(cache.get(draft).await.unwrap().is_none());
    // Behind the back of the cache.
    sqlx::query("UPDATE properties SET status = 'listed', version = 2 WHERE id = $1")
        .bind(draft)
        .execute(app.state.db.pool())
        .await
        .unwrap();
    assert!(cache.get(draft).await.unwrap().is_none());
    let found = tokio::time::timeout(Duration::from_secs(10), async {
        while cache.get(draft).await.unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    found.await.expect("not for ever");
    // A change that the cache is told of counts at once.
    let draft = app.lists(&host, json!({"status": "draft"})).await;
    assert!(cache.get(draft).await.unwrap().is_none());
    let path = format!("/properties/{draft}");
    app.patch(&path, json!({"status": "listed"}))
        .by(&host)
        .send()
        .await
        .expect(200);
    app.get(&path).send().await.expect(200);
}

#[tokio::test]
async fn a_crowd_without_postgres_is_told_at_once() {
    let app = TestApp::start().await;
    let closed = roost_shared::db::connect("postgres://roost@127.0.0.1:1/roost", 2).unwrap();
    let cache = PropertyCache::spawn(closed, &redis_of(&app));
    let unknown = Uuid::from_u128(5);
    let began = std::time::Instant::now();
    let crowd = futures::future::join_all((0..50).map(|_| cache.get(unknown))).await;
    assert!(crowd.iter().all(Result::is_err));
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
}
