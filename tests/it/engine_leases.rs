//! Who may write for a job, and who is to blame when a worker dies.

use roost_shared::jobs::{self, Lease, LeaseError, Outcome, Settlement, Suspicion, effects};
use uuid::Uuid;

use crate::rehearsal::{
    Keyed, Linger, claimant, enqueue, enqueue_one, fate, lease_of, leases_end, reaps, registry, runs, world,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_worker_changes_nothing() {
    let world = world().await;
    enqueue(&world, "succeed", 1).await;
    let pool = world.pool();
    let id: Uuid = sqlx::query_scalar("SELECT id FROM jobs WHERE kind = 'test.rehearse'")
        .fetch_one(pool)
        .await
        .unwrap();
    let first = jobs::claim(pool, &[id], &claimant("first"), &[])
        .await
        .unwrap()
        .remove(0);
    assert!(
        jobs::claim(pool, &[id], &claimant("second"), &[id])
            .await
            .unwrap()
            .is_empty(),
        "claimed twice"
    );
    leases_end(&world).await;
    assert_eq!(reaps(&world).await.requeued, 1);
    assert!(
        jobs::claim(pool, &[id], &claimant("second"), &[])
            .await
            .unwrap()
            .is_empty(),
        "a suspect is claimed alone"
    );
    let queues = ["maintenance".to_owned()];
    let second = jobs::claim_suspects(pool, &queues, &claimant("second"), Suspicion::Slight, 8)
        .await
        .unwrap()
        .remove(0);

    let lease = |fence| Lease {
        job_id: id,
        fence,
        attempt: 1,
        max_attempts: 3,
    };
    assert!(jobs::renew(pool, &[lease(first.fence)]).await.unwrap().is_empty());
    let mut connection = pool.acquire().await.unwrap();
    let stale = Settlement {
        lease: lease(first.fence),
        outcome: Outcome::Fail("late".to_owned()),
    };
    assert!(jobs::settle(&mut connection, &[stale]).await.unwrap().is_empty());
    let mut tx = world.state.db.begin().await.unwrap();
    assert!(lease(first.fence).complete(&mut tx).await.is_err());
    drop(tx);
    assert!(
        effects::begin(pool, &lease(first.fence), "test:effect", id, world.clock.now())
            .await
            .is_err()
    );
    let good = Settlement {
        lease: lease(second.fence),
        outcome: Outcome::Done(Vec::new()),
    };
    assert_eq!(jobs::settle(&mut connection, &[good]).await.unwrap(), [id]);
    assert_eq!(fate(&world).await.2, ["lost", "succeeded"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_takes_three_workers_down_is_quarantined() {
    let world = world().await;
    enqueue(&world, "succeed", 1).await;
    let pool = world.pool();
    let id: Uuid = sqlx::query_scalar("SELECT id FROM jobs WHERE kind = 'test.rehearse'")
        .fetch_one(pool)
        .await
        .unwrap();
    let queues = ["maintenance".to_owned()];
    for crash in 1..=3 {
        let doomed = claimant("doomed");
        let (fitting, other) = match crash {
            3 => (Suspicion::Grave, Suspicion::Slight),
            _ => (Suspicion::Slight, Suspicion::Grave),
        };
        let unfit = jobs::claim_suspects(pool, &queues, &doomed, other, 8).await.unwrap();
        assert!(unfit.is_empty(), "before crash {crash} it is no suspect of that kind");
        let claimed = if crash == 1 {
            jobs::claim(pool, &[id], &doomed, &[]).await.unwrap()
        } else {
            jobs::claim_suspects(pool, &queues, &doomed, fitting, 8).await.unwrap()
        };
        assert_eq!(claimed.iter().map(|job| job.id).collect::<Vec<_>>(), [id]);
        leases_end(&world).await;
        let reaped = reaps(&world).await;
        assert_eq!(
            (reaped.requeued, reaped.quarantined),
            if crash < 3 { (1, 0) } else { (0, 1) }
        );
    }
    assert_eq!(fate(&world).await.0, "quarantined");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_whose_answer_was_lost_is_adopted_by_its_owner_and_by_nobody_else() {
    let world = world().await;
    enqueue(&world, "succeed", 1).await;
    let pool = world.pool();
    let id: Uuid = sqlx::query_scalar("SELECT id FROM jobs").fetch_one(pool).await.unwrap();
    let first = jobs::claim(pool, &[id], &claimant("first"), &[])
        .await
        .unwrap()
        .remove(0);
    assert!(
        jobs::claim(pool, &[id], &claimant("other"), &[id])
            .await
            .unwrap()
            .is_empty()
    );
    assert!(
        jobs::claim(pool, &[id], &claimant("first"), &[])
            .await
            .unwrap()
            .is_empty()
    );
    let again = jobs::claim(pool, &[id], &claimant("first"), &[id])
        .await
        .unwrap()
        .remove(0);
    assert!(again.fence > first.fence, "{} after {}", again.fence, first.fence);
    assert_eq!(again.attempt, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_a_crash_of_postgres_forgot_has_a_fence_of_its_own() {
    let world = world().await;
    enqueue(&world, "succeed", 1).await;
    let pool = world.pool();
    let id: Uuid = sqlx::query_scalar("SELECT id FROM jobs").fetch_one(pool).await.unwrap();
    let claim = async |owner| {
        let claimed = jobs::claim(pool, &[id], &claimant(owner), &[]).await.unwrap();
        lease_of(&claimed[0])
    };
    let forgotten = claim("first").await;
    // As the row is again when what was written last never reached the disk.
    sqlx::query("UPDATE jobs SET state = 'queued', attempt = 0, fence = 0, lease_owner = NULL, lease_until = NULL, started_at = NULL")
        .execute(pool)
        .await
        .unwrap();
    let known = claim("second").await;
    assert_ne!(forgotten.fence, known.fence);
    let renewed = jobs::renew(pool, &[forgotten, known]).await.unwrap();
    assert_eq!(renewed.iter().map(|one| one.fence).collect::<Vec<_>>(), [known.fence]);
    let begun = effects::begin(pool, &forgotten, "test:effect", id, world.clock.now()).await;
    assert!(matches!(begun, Err(LeaseError::Lost)), "{begun:?}");
    let mut tx = world.state.db.begin().await.unwrap();
    assert!(matches!(forgotten.complete(&mut tx).await, Err(LeaseError::Lost)));
    known.complete(&mut tx).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_postgres_interrupts_over_and_over_comes_to_an_end() {
    let world = world().await;
    enqueue(&world, "succeed", 1).await;
    let pool = world.pool();
    let mut connection = pool.acquire().await.unwrap();
    let mut counted = Vec::new();
    while fate(&world).await.0 != "dead" {
        let id: Uuid = sqlx::query_scalar("UPDATE jobs SET state = 'queued', run_at = now() RETURNING id")
            .fetch_one(pool)
            .await
            .unwrap();
        let job = jobs::claim(pool, &[id], &claimant("one"), &[]).await.unwrap().remove(0);
        counted.push(job.attempt);
        let interrupted = Settlement {
            lease: lease_of(&job),
            outcome: Outcome::Interrupted("the connection broke".to_owned()),
        };
        assert_eq!(jobs::settle(&mut connection, &[interrupted]).await.unwrap(), [id]);
    }
    // Ten times each of its three attempts costs nothing.
    let expected: Vec<i32> = (1..=3).flat_map(|attempt| [attempt; 11]).collect();
    assert_eq!(counted, expected);
    let (_, attempt, outcomes) = fate(&world).await;
    assert_eq!(attempt, 3);
    for attempt in outcomes.chunks(11) {
        assert_eq!(attempt[10], "retry");
        assert!(
            attempt[..10].iter().all(|outcome| outcome == "interrupted"),
            "{attempt:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_neighbours_of_a_suspect_are_not_blamed() {
    let world = world().await;
    enqueue(&world, "succeed", 3).await;
    let pool = world.pool();
    let ids: Vec<Uuid> = sqlx::query_scalar("SELECT id FROM jobs ORDER BY id")
        .fetch_all(pool)
        .await
        .unwrap();
    // All three die together: each is suspected.
    assert_eq!(
        jobs::claim(pool, &ids, &claimant("doomed"), &[]).await.unwrap().len(),
        3
    );
    leases_end(&world).await;
    assert_eq!(reaps(&world).await.requeued, 3);
    // One of them. Beside it runs a job that nobody suspects.
    let queues = ["maintenance".to_owned()];
    let suspect = jobs::claim_suspects(pool, &queues, &claimant("second"), Suspicion::Slight, 1)
        .await
        .unwrap()
        .remove(0);
    enqueue(&world, "succeed", 1).await;
    let innocent: Uuid = sqlx::query_scalar("SELECT id FROM jobs WHERE crash_count = 0")
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(
        jobs::claim(pool, &[innocent], &claimant("second"), &[])
            .await
            .unwrap()
            .len(),
        1
    );
    leases_end(&world).await;
    // The last claim of a dead worker ends a little later than the others: they are judged together.
    sqlx::query("UPDATE jobs SET lease_until = now() + interval '1 second' WHERE id = $1")
        .bind(innocent)
        .execute(pool)
        .await
        .unwrap();
    assert_eq!(jobs::reap(pool).await.unwrap().requeued, 0);
    leases_end(&world).await;
    assert_eq!(reaps(&world).await.requeued, 2);
    let crashes: Vec<(Uuid, i32)> = sqlx::query_as("SELECT id, crash_count FROM jobs ORDER BY crash_count")
        .fetch_all(pool)
        .await
        .unwrap();
    assert_eq!(crashes.first(), Some(&(innocent, 0)));
    assert_eq!(crashes.last(), Some(&(suspect.id, 2)));
    // A worker clears all of them.
    let worker = world.another_worker(registry());
    world.run_jobs().await;
    assert_eq!(world.jobs("test.rehearse").await, ["succeeded=4"]);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_was_lost_and_taken_again_by_the_same_process_is_renewed_to_its_end() {
    let world = world().await;
    let worker = world.another_worker(registry());
    let nonce = Uuid::new_v4();
    let id = enqueue_one(&world, &Linger { nonce }).await;
    world.eventually("begun", async || runs(&world, nonce).await == 1).await;
    // Taken away while it runs, and claimed again by the same worker before it notices.
    sqlx::query("UPDATE jobs SET state = 'queued', published_at = NULL, lease_until = NULL WHERE id = $1")
        .bind(id)
        .execute(world.pool())
        .await
        .unwrap();
    // The second claim takes longer than a lease: if it were not renewed it would be reaped.
    world
        .eventually("the second ends", async || fate(&world).await.0 == "succeeded")
        .await;
    assert_eq!(
        fate(&world).await,
        ("succeeded".to_owned(), 2, vec!["succeeded".to_owned()])
    );
    assert_eq!(runs(&world, nonce).await, 2);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_that_comes_while_the_job_runs_makes_it_run_again() {
    let world = world().await;
    let pool = world.pool();
    let job = Keyed { key: "flat".to_owned() };
    let id = enqueue_one(&world, &job).await;
    assert_eq!(enqueue_one(&world, &job).await, id, "the same job while it waits");
    let first = jobs::claim(pool, &[id], &claimant("first"), &[])
        .await
        .unwrap()
        .remove(0);
    for _ in 0..2 {
        assert_eq!(enqueue_one(&world, &job).await, id, "and while it runs");
    }
    let mut connection = pool.acquire().await.unwrap();
    let mut ends = async |job: &jobs::ClaimedJob, outcome| {
        let lease = lease_of(job);
        assert_eq!(
            jobs::settle(&mut connection, &[Settlement { lease, outcome }])
                .await
                .unwrap(),
            [id]
        );
        fate(&world).await
    };
    let (state, attempt, outcomes) = ends(&first, Outcome::Done(Vec::new())).await;
    assert_eq!(
        (state.as_str(), attempt, outcomes),
        ("queued", 0, vec!["succeeded".to_owned()])
    );
    let second = jobs::claim(pool, &[id], &claimant("first"), &[])
        .await
        .unwrap()
        .remove(0);
    assert_eq!(ends(&second, Outcome::Done(Vec::new())).await.0, "succeeded");
    // What has ended makes room for a new one.
    assert_ne!(enqueue_one(&world, &job).await, id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_not_run_on_what_was_there_before_the_wish() {
    let world = world().await;
    let pool = world.pool();
    let job = Keyed { key: "flat".to_owned() };
    let id = enqueue_one(&world, &job).await;
    // Another transaction has written its change and its wish, and has not committed yet.
    let mut other = roost_shared::db::begin(pool).await.unwrap();
    sqlx::query("INSERT INTO jobs (id, kind, queue, priority, args, dedupe_key, max_attempts, state, run_at)
                 SELECT gen_random_uuid(), kind, queue, priority, args, dedupe_key, max_attempts, 'queued', now() FROM jobs WHERE id = $1
                 ON CONFLICT (dedupe_key) WHERE dedupe_key IS NOT NULL AND state IN ('scheduled', 'queued', 'running', 'retrying')
                 DO UPDATE SET rerun = true WHERE jobs.state = 'running'")
        .bind(id)
        .execute(&mut *other)
        .await
        .unwrap();
    assert!(
        jobs::claim(pool, &[id], &claimant("first"), &[])
            .await
            .unwrap()
            .is_empty()
    );
    let waiting = jobs::still_queued(pool, &[id], &claimant("first")).await.unwrap();
    assert_eq!(
        waiting.iter().map(|job| (job.id, job.known)).collect::<Vec<_>>(),
        [(id, true)]
    );
    other.commit().await.unwrap();
    assert_eq!(
        jobs::claim(pool, &[id], &claimant("first"), &[]).await.unwrap().len(),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_job_tells_its_progress_and_is_cancelled() {
    let world = world().await;
    let worker = world.another_worker(registry());
    let nonce = Uuid::new_v4();
    let id = enqueue_one(&world, &Linger { nonce }).await;
    world
        .eventually("progress", async || {
            sqlx::query_scalar::<_, Option<i16>>("SELECT progress FROM jobs WHERE id = $1")
                .bind(id)
                .fetch_one(world.pool())
                .await
                .unwrap()
                == Some(40)
        })
        .await;
    sqlx::query("UPDATE jobs SET cancel_requested = true WHERE id = $1")
        .bind(id)
        .execute(world.pool())
        .await
        .unwrap();
    world
        .eventually("cancelled", async || fate(&world).await.0 == "cancelled")
        .await;
    assert_eq!(fate(&world).await.2, ["cancelled"]);
    worker.stop().await;
}
