//! The job engine and Redis: one that forgets, refuses, restarts, or holds what nobody can read.

use std::time::Duration;

use roost_shared::jobs::relay::{self, Head};
use roost_shared::jobs::{MAX_DEPTH, Queue, Transport};
use roost_shared::redis::Redis;
use roost_tests::world::World;
use roost_worker::Worker;
use uuid::Uuid;

use crate::rehearsal::{Unheard, enqueue, enqueue_one, registry, runs, world};

const QUEUE: &str = "test:maintenance";

async fn ids(world: &World) -> Vec<Uuid> {
    sqlx::query_scalar("SELECT id FROM jobs WHERE kind = 'test.rehearse' ORDER BY id")
        .fetch_all(world.pool())
        .await
        .unwrap()
}

async fn unpublished(world: &World) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM jobs WHERE state = 'queued' AND published_at IS NULL")
        .fetch_one(world.pool())
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flushed_redis_loses_no_job() {
    let world = world().await;
    enqueue(&world, "succeed", 500).await;
    let mut connection = world.redis().connection();
    redis::cmd("FLUSHDB").query_async::<()>(&mut connection).await.unwrap();
    let worker = world.another_worker(registry());
    enqueue(&world, "wait", 20).await;
    redis::cmd("FLUSHDB").query_async::<()>(&mut connection).await.unwrap();
    world.run_jobs().await;
    assert_eq!(world.jobs("test.rehearse").await, ["succeeded=520"]);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_depth_of_a_queue_is_bounded_however_many_push_at_once() {
    let world = world().await;
    let ids: Vec<Uuid> = (0..6_000).map(|_| Uuid::new_v4()).collect();
    let pushers = (0..8).map(|_| {
        let (redis, ids) = (world.redis(), ids.clone());
        tokio::spawn(async move {
            let mut transport = Transport::new(&redis).unwrap();
            let mut arrived = 0;
            for chunk in ids.chunks(500) {
                arrived += transport.push(Queue::Maintenance, chunk).await.unwrap();
            }
            arrived
        })
    });
    let arrived: usize = futures::future::join_all(pushers)
        .await
        .into_iter()
        .map(Result::unwrap)
        .sum();
    let mut transport = Transport::new(&world.redis()).unwrap();
    let depth = transport.waiting(Queue::Maintenance).await.unwrap().depth;
    assert_eq!(depth, MAX_DEPTH);
    // The last message of a batch holds fewer ids than the others.
    assert!(arrived <= MAX_DEPTH * 8 && arrived > MAX_DEPTH * 7, "{arrived}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_full_queue_has_no_room_for_is_written_once() {
    let world = world().await;
    let others: Vec<Uuid> = (0..MAX_DEPTH * 8).map(|_| Uuid::new_v4()).collect();
    let mut transport = Transport::new(&world.redis()).unwrap();
    transport.push(Queue::Maintenance, &others).await.unwrap();
    sqlx::raw_sql(
        "CREATE TABLE rewritten (id uuid);
         CREATE FUNCTION rewrite() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO rewritten VALUES (NEW.id); RETURN NULL; END $$;
         CREATE TRIGGER rewritten AFTER UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION rewrite()",
    )
    .execute(world.pool())
    .await
    .unwrap();
    let waiting = "SELECT count(*) FROM jobs WHERE published_at IS NULL AND (id IN (SELECT id FROM rewritten)) = $1";
    // The first one shows that there is no room; those of the next moment are not even offered.
    for rewritten in [true, false] {
        world
            .eventually("it waits in Postgres", async || {
                enqueue(&world, "succeed", 1).await;
                let count: i64 = sqlx::query_scalar(waiting)
                    .bind(rewritten)
                    .fetch_one(world.pool())
                    .await
                    .unwrap();
                count > 0
            })
            .await;
    }
    let worker = world.another_worker(registry());
    world.run_jobs().await;
    assert_eq!(unpublished(&world).await, 0);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_clock_decides_when_a_message_is_fetched() {
    let world = world().await;
    let mut transport = Transport::new(&world.redis()).unwrap();
    assert_eq!(transport.push(Queue::Maintenance, &[Uuid::new_v4()]).await.unwrap(), 1);
    let (scheduled, active): (usize, usize) = redis::pipe()
        .zcard(format!("{QUEUE}:scheduled"))
        .llen(format!("{QUEUE}:active"))
        .query_async(&mut world.redis().connection())
        .await
        .unwrap();
    assert_eq!((scheduled, active), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_and_broken_messages_are_dropped_and_the_others_run() {
    let world = world().await;
    let mut connection = world.redis().connection();
    let active = format!("{QUEUE}:active");
    let meta = ["attempts", "0", "max_attempts", "1", "status", "Pending"];
    for (id, message, with_meta) in [
        ("01", Some("\"no id\""), true),
        ("02", Some("{not json"), true),
        ("03", None, true),
        ("04", Some("\"half\""), false),
        ("05", None, false),
    ] {
        if let Some(message) = message {
            redis::cmd("HSET")
                .arg(format!("{QUEUE}:data"))
                .arg(id)
                .arg(message)
                .query_async::<()>(&mut connection)
                .await
                .unwrap();
        }
        if with_meta {
            redis::cmd("HSET")
                .arg(format!("{QUEUE}:meta:{id}"))
                .arg(&meta)
                .query_async::<()>(&mut connection)
                .await
                .unwrap();
        }
        redis::cmd("RPUSH")
            .arg(&active)
            .arg(id)
            .query_async::<()>(&mut connection)
            .await
            .unwrap();
    }
    let nonces = enqueue(&world, "succeed", 20).await;
    let worker = world.another_worker(registry());
    world.run_jobs().await;
    for nonce in nonces {
        assert_eq!(runs(&world, nonce).await, 1);
    }
    let left: usize = redis::cmd("LLEN")
        .arg(&active)
        .query_async(&mut connection)
        .await
        .unwrap();
    assert_eq!(left, 0);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_consumer_had_fetched_is_published_again() {
    let world = world().await;
    let nonces = enqueue(&world, "succeed", 5).await;
    let mut connection = world.redis().connection();
    let active = format!("{QUEUE}:active");
    world
        .eventually("published", async || {
            let depth: usize = redis::cmd("LLEN")
                .arg(&active)
                .query_async(&mut world.redis().connection())
                .await
                .unwrap();
            depth == 5
        })
        .await;
    // A process that is no more has fetched them, five minutes in the future by its own clock.
    let fetched: Vec<String> = redis::cmd("LPOP")
        .arg(&active)
        .arg(5)
        .query_async(&mut connection)
        .await
        .unwrap();
    redis::pipe()
        .sadd(format!("{QUEUE}:inflight:ghost-maintenance-0"), &fetched)
        .zadd(format!("{QUEUE}:workers"), "ghost-maintenance-0", 4_000_000_000_u64)
        .query_async::<()>(&mut connection)
        .await
        .unwrap();
    let worker = world.another_worker(registry());
    world.run_jobs().await;
    for nonce in nonces {
        assert_eq!(runs(&world, nonce).await, 1);
    }
    world
        .eventually("forgotten", async || {
            let consumers = Transport::new(&world.redis())
                .unwrap()
                .consumers(Queue::Maintenance)
                .await
                .unwrap();
            !consumers.iter().any(|name| name.starts_with("ghost"))
        })
        .await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_message_is_noticed_behind_a_backlog() {
    let world = world().await;
    enqueue(&world, "succeed", 300).await;
    let ids = ids(&world).await;
    let next = ids[100..110].to_vec();
    sqlx::query("UPDATE jobs SET published_at = now() - CASE WHEN id = $1 THEN interval '20 seconds' ELSE interval '10 seconds' END")
        .bind(ids[0])
        .execute(world.pool())
        .await
        .unwrap();
    let head = |next| {
        [Head {
            queue: Queue::Maintenance,
            next,
        }]
    };
    assert_eq!(relay::unpublish_stale(world.pool(), &head(next)).await.unwrap(), 1);
    // Nobody knows how far the queue is: only what is very old is lost.
    assert_eq!(
        relay::unpublish_stale(world.pool(), &head(vec![Uuid::new_v4()]))
            .await
            .unwrap(),
        0
    );
    // Nothing waits in Redis, so all of them are lost.
    assert_eq!(
        relay::unpublish_stale(world.pool(), &head(Vec::new())).await.unwrap(),
        299
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_redis_than_before_gets_everything_again() {
    let world = world().await;
    let worker = world.another_worker(registry());
    let mut connection = world.redis().connection();
    world
        .eventually("marked", async || {
            let mark: Option<String> = redis::cmd("GET")
                .arg("test:epoch")
                .query_async(&mut world.redis().connection())
                .await
                .unwrap();
            mark.is_some()
        })
        .await;
    worker.stop().await;
    let nonces = enqueue(&world, "succeed", 50).await;
    // As after a restart from an older file: the mark is there, of another server, and the messages are not.
    redis::pipe()
        .set("test:epoch", "0".repeat(40))
        .del(format!("{QUEUE}:active"))
        .query_async::<()>(&mut connection)
        .await
        .unwrap();
    let worker = world.another_worker(registry());
    world.run_jobs().await;
    for nonce in nonces {
        assert_eq!(runs(&world, nonce).await, 1);
    }
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flushed_redis_gets_again_what_it_had_in_its_order_and_not_what_is_paused() {
    let world = world().await;
    enqueue(&world, "succeed", 200).await;
    let published = async |queue| {
        let now = sqlx::query_scalar("SELECT now()")
            .fetch_one(world.pool())
            .await
            .unwrap();
        let page = relay::published(world.pool(), queue, now, None, 1_000).await.unwrap();
        page.into_iter()
            .map(|job| (job.published_at, job.id))
            .collect::<Vec<_>>()
    };
    let all = published(Queue::Maintenance).await;
    assert_eq!(all.len(), 200);
    assert!(all.is_sorted());
    let now = sqlx::query_scalar("SELECT now()")
        .fetch_one(world.pool())
        .await
        .unwrap();
    let rest = relay::published(world.pool(), Queue::Maintenance, now, Some(all[149]), 30)
        .await
        .unwrap();
    let rest: Vec<Uuid> = rest.into_iter().map(|job| job.id).collect();
    let expected: Vec<Uuid> = all[150..180].iter().map(|(_, id)| *id).collect();
    assert_eq!(rest, expected);

    let mut connection = world.redis().connection();
    redis::cmd("FLUSHDB").query_async::<()>(&mut connection).await.unwrap();
    sqlx::query("UPDATE queues SET paused = true WHERE name = 'maintenance'")
        .execute(world.pool())
        .await
        .unwrap();
    let worker = world.another_worker(registry());
    world
        .eventually("nothing counts as published", async || unpublished(&world).await == 200)
        .await;
    sqlx::query("UPDATE queues SET paused = false WHERE name = 'maintenance'")
        .execute(world.pool())
        .await
        .unwrap();
    world.run_jobs().await;
    assert_eq!(world.jobs("test.rehearse").await, ["succeeded=200"]);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_jobs_go_on_from_postgres() {
    let world = world().await;
    let nonces = enqueue(&world, "succeed", 200).await;
    // The Redis that has them is not the one that the worker tries in vain to reach.
    world
        .eventually("published", async || {
            let mut transport = Transport::new(&world.redis()).unwrap();
            transport.waiting(Queue::Maintenance).await.unwrap().depth > 0
        })
        .await;
    let mut ctx = world.context();
    ctx.redis = Redis::new("redis://127.0.0.1:1/", "test").unwrap();
    let worker = Worker::run(ctx, registry(), &Queue::ALL, 16, Duration::from_secs(5));
    world.run_jobs().await;
    for nonce in nonces {
        assert_eq!(runs(&world, nonce).await, 1);
    }
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_kind_waits_in_postgres_for_a_worker_that_knows_it() {
    let world = world().await;
    let worker = world.another_worker(registry());
    enqueue_one(&world, &Unheard {}).await;
    // Its message is dropped; nobody publishes it again and again.
    world
        .eventually("unpublished", async || unpublished(&world).await == 1)
        .await;
    let nonce = enqueue(&world, "succeed", 1).await[0];
    world
        .eventually("the known one ran", async || runs(&world, nonce).await == 1)
        .await;
    assert_eq!(unpublished(&world).await, 1);
    assert_eq!(world.jobs("test.unheard").await, ["queued=1"]);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_a_new_kind_come_soon_to_the_one_worker_of_five_that_knows_it() {
    let world = world().await;
    let mut workers: Vec<Worker> = (0..4).map(|_| world.another_worker(registry())).collect();
    workers.push(world.another_worker(registry().with::<Unheard>()));
    let know_each_other =
        "SELECT count(*) FROM workers WHERE seen_at > (SELECT max(started_at) + interval '1 second' FROM workers)";
    world
        .eventually("all know of each other", async || {
            world.counts(know_each_other).await == 5
        })
        .await;
    sqlx::raw_sql(
        "CREATE TABLE published (id uuid);
         CREATE FUNCTION publish() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO published VALUES (NEW.id); RETURN NULL; END $$;
         CREATE TRIGGER published AFTER UPDATE ON jobs FOR EACH ROW
             WHEN (OLD.published_at IS NULL AND NEW.published_at IS NOT NULL) EXECUTE FUNCTION publish()",
    )
    .execute(world.pool())
    .await
    .unwrap();
    for _ in 0..20 {
        enqueue_one(&world, &Unheard {}).await;
    }
    world.run_jobs().await;
    assert_eq!(world.jobs("test.unheard").await, ["succeeded=20"]);
    // Whoever enqueued them gave them to Redis; who got them there and does not know them gives them back, once.
    let published = world.counts("SELECT count(*) FROM published").await;
    assert!(published <= 40, "20 jobs were handed out {published} times more");
    for worker in workers {
        worker.stop().await;
    }
}
