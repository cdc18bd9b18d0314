//! The statements that move jobs against the state machine: each state with each event, on real Postgres. Every row must
//! become what the machine says, and stay as it was where the machine refuses.

use std::collections::BTreeMap;
use std::time::Duration;

use roost_shared::jobs::actions::{self, ActionError, By, JobAction};
use roost_shared::jobs::bulk;
use roost_shared::jobs::catalogue::RunBulkAction;
use roost_shared::jobs::list::JobFilter;
use roost_shared::jobs::state::{Ending, Event, Lifecycle};
use roost_shared::jobs::{
    self, Claimant, Job, JobState, Lease, LeaseError, Outcome, Queue, Settlement, Suspicion, limits, relay,
};
use roost_tests::world::World;
use serde_json::json;
use sqlx::Row;
use uuid::Uuid;

use crate::rehearsal::{Keyed, claimant, lease_of, world};

const OWNER: &str = "owner";
const FENCE: i64 = 5;
const MAX_ATTEMPTS: i32 = 3;
const BY: By<'static> = By {
    actor: "test",
    reason: Some("to see what comes of it"),
};

/// Every state with everything that a transition can depend on.
fn all() -> Vec<Lifecycle> {
    let mut all = Vec::new();
    for state in JobState::ALL {
        for bits in 0..16_u8 {
            for crash_count in 0..3 {
                all.push(Lifecycle {
                    state,
                    attempt: if bits & 1 == 0 { 1 } else { MAX_ATTEMPTS },
                    max_attempts: MAX_ATTEMPTS,
                    crash_count,
                    fence: FENCE,
                    rerun: bits & 2 != 0,
                    cancel_requested: bits & 4 != 0,
                    published: bits & 8 != 0,
                });
            }
        }
    }
    all
}

/// Jobs of which one is in each of [`all`].
struct Table {
    jobs: BTreeMap<Uuid, Lifecycle>,
}

impl Table {
    async fn fresh(world: &World) -> Self {
        sqlx::query("TRUNCATE jobs, job_attempts")
            .execute(world.pool())
            .await
            .unwrap();
        let jobs: BTreeMap<Uuid, Lifecycle> = all().into_iter().map(|job| (Uuid::now_v7(), job)).collect();
        for (id, job) in &jobs {
            sqlx::query(
                "INSERT INTO jobs (id, kind, queue, priority, args, dedupe_key, max_attempts, state, run_at, attempt, crash_count, fence,
                     rerun, cancel_requested, published_at, lease_owner, lease_until, started_at, finished_at)
                 VALUES ($1, 'test.keyed', 'maintenance', 50, jsonb_build_object('key', $1::text), 'test.keyed:' || $1::text, $2, $3,
                     now() - interval '1 hour', $4, $5, $6, $7, $8, CASE WHEN $9 THEN now() - interval '1 minute' END,
                     $10, CASE WHEN $3 = 'running' THEN now() + interval '1 hour' END, now(), CASE WHEN NOT $11 THEN now() END)",
            )
            .bind(id)
            .bind(job.max_attempts)
            .bind(job.state.name())
            .bind(job.attempt)
            .bind(job.crash_count)
            .bind(job.fence)
            .bind(job.rerun)
            .bind(job.cancel_requested)
            .bind(job.published)
            .bind(OWNER)
            .bind(job.state.is_open())
            .execute(world.pool())
            .await
            .unwrap();
        }
        Self { jobs }
    }

    fn ids(&self) -> Vec<Uuid> {
        self.jobs.keys().copied().collect()
    }

    fn leases(&self, fence: i64) -> Vec<Lease> {
        let lease = |(id, job): (&Uuid, &Lifecycle)| Lease {
            job_id: *id,
            fence,
            attempt: job.attempt,
            max_attempts: job.max_attempts,
        };
        self.jobs.iter().map(lease).collect()
    }

    /// Which of them an event happens to.
    fn moved_by(&self, event: Event) -> Vec<Uuid> {
        let moved = self.jobs.iter().filter(|(_, job)| job.after(event).is_some());
        moved.map(|(id, _)| *id).collect()
    }

    /// Compares each row with what `after` says of it, and the ends of attempts with how many ended.
    async fn has_become(
        &self,
        world: &World,
        what: &str,
        after: impl Fn(Lifecycle) -> Option<Lifecycle>,
        ended: usize,
    ) {
        let rows = sqlx::query(
            "SELECT id, state, attempt, max_attempts, crash_count, fence, rerun, cancel_requested, published_at IS NOT NULL AS published
             FROM jobs WHERE id = ANY($1)",
        )
        .bind(self.ids())
        .fetch_all(world.pool())
        .await
        .unwrap();
        assert_eq!(rows.len(), self.jobs.len(), "{what}");
        for row in rows {
            let before = self.jobs[&row.get("id")];
            let found = Lifecycle {
                state: JobState::by_name(row.get("state")).unwrap(),
                attempt: row.get("attempt"),
                max_attempts: row.get("max_attempts"),
                crash_count: row.get("crash_count"),
                fence: row.get("fence"),
                rerun: row.get("rerun"),
                cancel_requested: row.get("cancel_requested"),
                published: row.get("published"),
            };
            let mut expected = after(before).unwrap_or(before);
            // Where the machine counts on, Postgres gives out one that there never was.
            if expected.fence > before.fence && found.fence > before.fence {
                expected.fence = found.fence;
            }
            assert_eq!(telling(found), telling(expected), "{what} of {before:?}");
        }
        let attempts: i64 = sqlx::query_scalar("SELECT count(*) FROM job_attempts WHERE job_id = ANY($1)")
            .bind(self.ids())
            .fetch_one(world.pool())
            .await
            .unwrap();
        assert_eq!(attempts, i64::try_from(ended).unwrap(), "{what}: attempts that ended");
    }

    async fn follows(&self, world: &World, event: Event, moved: &[Uuid]) {
        let what = format!("{event:?}");
        let mut moved = moved.to_vec();
        moved.sort();
        assert_eq!(moved, self.moved_by(event), "{what}");
        let ends = matches!(event, Event::Settle(..) | Event::HandBack(_) | Event::Lose { .. });
        let ended = if ends { moved.len() } else { 0 };
        self.has_become(world, &what, |job| job.after(event), ended).await;
    }
}

/// What nobody asks of a job in its state is left out.
fn telling(job: Lifecycle) -> Lifecycle {
    Lifecycle {
        published: job.published && job.state == JobState::Queued,
        cancel_requested: job.cancel_requested && job.state.is_open(),
        ..job
    }
}

fn queues() -> [(Queue, usize); 1] {
    [(Queue::Maintenance, 10_000)]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_relay_does_what_the_machine_says() {
    let world = world().await;
    let kinds = claimant(OWNER).kinds;

    let table = Table::fresh(&world).await;
    relay::promote_due(world.pool(), 10_000).await.unwrap();
    let moved = table.moved_by(Event::Promote);
    table.follows(&world, Event::Promote, &moved).await;

    let table = Table::fresh(&world).await;
    let taken = relay::take_unpublished(world.pool(), &queues(), &kinds, &[])
        .await
        .unwrap();
    let taken: Vec<Uuid> = taken.into_iter().map(|job| job.id).collect();
    table.follows(&world, Event::Publish, &taken).await;

    let moved = |table: &Table| table.moved_by(Event::Unpublish);
    let table = Table::fresh(&world).await;
    relay::unpublish(world.pool(), &table.ids()).await.unwrap();
    table.follows(&world, Event::Unpublish, &moved(&table)).await;

    let table = Table::fresh(&world).await;
    let empty = Queue::ALL.map(|queue| relay::Head {
        queue,
        next: Vec::new(),
    });
    relay::unpublish_stale(world.pool(), &empty).await.unwrap();
    table.follows(&world, Event::Unpublish, &moved(&table)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_do_what_the_machine_says() {
    let world = world().await;
    let other = claimant("other");
    let ids = |claimed: Vec<jobs::ClaimedJob>| claimed.into_iter().map(|job| job.id).collect::<Vec<Uuid>>();

    let table = Table::fresh(&world).await;
    let claimed = jobs::claim(world.pool(), &table.ids(), &other, &table.ids())
        .await
        .unwrap();
    table.follows(&world, Event::Claim, &ids(claimed)).await;

    let table = Table::fresh(&world).await;
    let mut tx = roost_shared::db::begin(world.pool()).await.unwrap();
    let claimed = limits::claim_within(&mut tx, Queue::Maintenance, &other, 10_000)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    table.follows(&world, Event::Claim, &ids(claimed.jobs)).await;

    // Its owner claims what is free as well.
    let table = Table::fresh(&world).await;
    jobs::claim(world.pool(), &table.ids(), &claimant(OWNER), &table.ids())
        .await
        .unwrap();
    let after = |job: Lifecycle| job.after(Event::Adopt).or_else(|| job.after(Event::Claim));
    table.has_become(&world, "adopted", after, 0).await;

    let table = Table::fresh(&world).await;
    let mut claimed = Vec::new();
    for suspicion in [Suspicion::Slight, Suspicion::Grave] {
        let queues = ["maintenance".to_owned()];
        claimed.extend(
            jobs::claim_suspects(world.pool(), &queues, &other, suspicion, 1_000)
                .await
                .unwrap(),
        );
    }
    table.follows(&world, Event::ClaimSuspect, &ids(claimed)).await;

    let table = Table::fresh(&world).await;
    let mut claimed = Vec::new();
    let mut connection = world.pool().acquire().await.unwrap();
    for suspicion in [Suspicion::Slight, Suspicion::Grave] {
        while let Some(job) = limits::claim_suspect_within(&mut connection, Queue::Maintenance, &other, suspicion)
            .await
            .unwrap()
        {
            claimed.push(job);
        }
    }
    table.follows(&world, Event::ClaimSuspect, &ids(claimed)).await;
}

fn outcome_of(ending: Ending) -> Outcome {
    match ending {
        Ending::Succeeded => Outcome::Done(Vec::new()),
        Ending::Retry => Outcome::Retry("again".to_owned()),
        Ending::Interrupted => Outcome::Interrupted("the connection broke".to_owned()),
        Ending::Snoozed => Outcome::Snooze(Duration::from_secs(60)),
        Ending::Failed => Outcome::Fail("never".to_owned()),
        Ending::Cancelled => Outcome::Cancelled,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_worker_writes_does_what_the_machine_says() {
    let world = world().await;
    for fence in [FENCE - 1, FENCE, FENCE + 1] {
        let table = Table::fresh(&world).await;
        let renewed = jobs::renew(world.pool(), &table.leases(fence)).await.unwrap();
        let renewed: Vec<Uuid> = renewed.into_iter().map(|one| one.id).collect();
        table.follows(&world, Event::Renew(fence), &renewed).await;

        let mut told = Vec::new();
        for lease in table.leases(fence) {
            let mut tx = world.state.db.begin().await.unwrap();
            match lease.guard(&mut tx).await {
                Ok(()) => told.push(lease.job_id),
                Err(error) => assert!(matches!(error, LeaseError::Lost), "{error}"),
            }
            let progress = jobs::report_progress(world.pool(), &lease, 40);
            drop(tx);
            assert_eq!(progress.await.is_ok(), told.last() == Some(&lease.job_id));
        }
        table.follows(&world, Event::Renew(fence), &told).await;

        for ending in Ending::ALL {
            let table = Table::fresh(&world).await;
            let settlement = |lease| Settlement {
                lease,
                outcome: outcome_of(ending),
            };
            let settlements: Vec<Settlement> = table.leases(fence).into_iter().map(settlement).collect();
            let mut connection = world.pool().acquire().await.unwrap();
            let settled = jobs::settle(&mut connection, &settlements).await.unwrap();
            table.follows(&world, Event::Settle(fence, ending), &settled).await;
        }

        let table = Table::fresh(&world).await;
        jobs::hand_back(world.pool(), &table.leases(fence)).await.unwrap();
        let moved = table.moved_by(Event::HandBack(fence));
        table.follows(&world, Event::HandBack(fence), &moved).await;
    }
}

/// Right after its start Postgres judges nobody.
async fn postgres_is_up_for_a_while(world: &World) {
    world
        .eventually("Postgres is up for a while", async || {
            sqlx::query_scalar::<_, bool>("SELECT pg_postmaster_start_time() < now() - interval '7 seconds'")
                .fetch_one(world.pool())
                .await
                .unwrap()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_from_the_dead_becomes_what_the_machine_says() {
    let world = world().await;
    postgres_is_up_for_a_while(&world).await;
    for beside_a_suspect in [false, true] {
        let table = Table::fresh(&world).await;
        // Each has a worker of its own, which may have run a suspect beside it.
        sqlx::query(
            "UPDATE jobs SET lease_owner = id::text, lease_until = now() - interval '1 second' WHERE state = 'running'",
        )
        .execute(world.pool())
        .await
        .unwrap();
        if beside_a_suspect {
            sqlx::query(
                "INSERT INTO jobs (id, kind, queue, priority, args, max_attempts, state, run_at, attempt, crash_count, lease_owner, lease_until)
                 SELECT gen_random_uuid(), 'test.rehearse', queue, priority, '{}', 3, state, run_at, 1, 1, lease_owner, lease_until
                 FROM jobs WHERE state = 'running'",
            )
            .execute(world.pool())
            .await
            .unwrap();
        }
        jobs::reap(world.pool()).await.unwrap();
        let event = Event::Lose { beside_a_suspect };
        let moved = table.moved_by(event);
        table.follows(&world, event, &moved).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_wanted_again_becomes_what_the_machine_says() {
    let world = world().await;
    let table = Table::fresh(&world).await;
    let mut tx = world.state.db.begin().await.unwrap();
    for id in table.ids() {
        tx.enqueue(&Keyed { key: id.to_string() });
    }
    tx.commit().await.unwrap();
    let moved = table.moved_by(Event::Want);
    table.follows(&world, Event::Want, &moved).await;
    // Where one had come to its end there is another one now.
    let ended = table.jobs.values().filter(|job| !job.state.is_open()).count();
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM jobs")
        .fetch_one(world.pool())
        .await
        .unwrap();
    assert_eq!(rows, i64::try_from(table.jobs.len() + ended).unwrap());
}

const fn event_of(action: JobAction) -> Option<Event> {
    match action {
        JobAction::Retry => Some(Event::Retry),
        JobAction::RunNow => Some(Event::RunNow),
        JobAction::Cancel => Some(Event::Cancel),
        JobAction::Delete => None,
    }
}

async fn are_left(world: &World, table: &Table) -> Vec<Uuid> {
    sqlx::query_scalar("SELECT id FROM jobs WHERE id = ANY($1) ORDER BY id")
        .bind(table.ids())
        .fetch_all(world.pool())
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_do_what_the_machine_says() {
    let world = world().await;
    for action in JobAction::ALL {
        let table = Table::fresh(&world).await;
        let mut moved = Vec::new();
        for id in table.ids() {
            let mut tx = world.state.db.begin().await.unwrap();
            match actions::act(&mut tx, id, action, BY).await {
                Ok(_) => {
                    tx.commit().await.unwrap();
                    moved.push(id);
                }
                Err(error) => assert!(matches!(error, ActionError::WrongState { .. }), "{error}"),
            }
        }
        match event_of(action) {
            Some(event) => table.follows(&world, event, &moved).await,
            None => is_deleted(&world, &table, &moved).await,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_edit_what_the_machine_says() {
    let world = world().await;
    let table = Table::fresh(&world).await;
    // Of a kind whose arguments this build can check.
    sqlx::query("UPDATE jobs SET kind = 'cache.warm', args = '{}', dedupe_key = NULL")
        .execute(world.pool())
        .await
        .unwrap();
    let args = json!({"property_id": Uuid::now_v7()});
    let mut moved = Vec::new();
    for id in table.ids() {
        let mut tx = world.state.db.begin().await.unwrap();
        match actions::edit_args(&mut tx, id, &args, BY).await {
            Ok(()) => {
                tx.commit().await.unwrap();
                moved.push(id);
            }
            Err(error) => assert!(matches!(error, ActionError::WrongState { .. }), "{error}"),
        }
    }
    table.follows(&world, Event::Edit, &moved).await;
    let edited: Vec<Uuid> = sqlx::query_scalar("SELECT id FROM jobs WHERE args = $1 ORDER BY id")
        .bind(&args)
        .fetch_all(world.pool())
        .await
        .unwrap();
    assert_eq!(edited, moved);
}

async fn is_deleted(world: &World, table: &Table, moved: &[Uuid]) {
    let ended = table
        .jobs
        .iter()
        .filter(|(_, job)| job.state.permits(JobAction::Delete));
    assert_eq!(moved, ended.map(|(id, _)| *id).collect::<Vec<_>>());
    assert_eq!(are_left(world, table).await.len(), table.jobs.len() - moved.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_to_many_jobs_does_what_the_machine_says() {
    let world = world().await;
    for action in JobAction::ALL {
        let table = Table::fresh(&world).await;
        let filter = JobFilter {
            // What is scheduled is run now only when it is asked for.
            states: action.from_states().map(|state| state.name().to_owned()).collect(),
            kind: Some("test.keyed".to_owned()),
            ..JobFilter::default()
        };
        let mut tx = world.state.db.begin().await.unwrap();
        let id = bulk::begin(&mut tx, &filter, action, 1, BY).await.unwrap();
        tx.commit().await.unwrap();
        let job: Uuid = sqlx::query_scalar("SELECT id FROM jobs WHERE kind = $1")
            .bind(RunBulkAction::KIND)
            .fetch_one(world.pool())
            .await
            .unwrap();
        let worker = Claimant {
            owner: "another".to_owned(),
            kinds: vec![RunBulkAction::KIND.to_owned()],
        };
        let claimed = jobs::claim(world.pool(), &[job], &worker, &[]).await.unwrap();
        let lease = lease_of(&claimed[0]);
        loop {
            let mut tx = world.state.db.begin().await.unwrap();
            let more = bulk::step(&mut tx, &lease, id).await.unwrap();
            tx.commit().await.unwrap();
            if !more {
                break;
            }
        }
        match event_of(action) {
            Some(event) => table.follows(&world, event, &table.moved_by(event)).await,
            None => {
                let left = are_left(&world, &table).await;
                let deleted: Vec<Uuid> = table.ids().into_iter().filter(|id| !left.contains(id)).collect();
                is_deleted(&world, &table, &deleted).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_to_an_end_by_itself_is_what_the_index_says() {
    let world = world().await;
    let predicate: String = sqlx::query_scalar(
        "SELECT pg_get_expr(indpred, indrelid) FROM pg_index WHERE indexrelid = 'jobs_dedupe'::regclass",
    )
    .fetch_one(world.pool())
    .await
    .unwrap();
    for state in JobState::ALL {
        let listed = predicate.contains(&format!("'{}'", state.name()));
        assert_eq!(listed, state.is_open(), "{state:?} in {predicate}");
    }
}
