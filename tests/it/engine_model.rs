//! Random interleavings of what enqueues, publishes, claims, renews, loses, reaps, settles and hands back jobs, on real
//! Postgres. After each step every row must be what the state machine says.
//!
//! A failure names its seed and its steps; the seeds are fixed, so it comes again.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, IteratorRandom};
use rand::{Rng, SeedableRng};
use roost_shared::jobs::actions::{self, ActionError, By};
use roost_shared::jobs::state::{Event, Lifecycle};
use roost_shared::jobs::{self, JobState, Lease, Outcome, Queue, Settlement, Suspicion, relay};
use roost_tests::world::World;
use serde_json::json;
use uuid::Uuid;

use crate::rehearsal::{Keyed, Rehearse, claimant, leases_end, world};

const SEEDS: std::ops::Range<u64> = 1..7;
const STEPS: usize = 150;
const OWNERS: [&str; 3] = ["first", "second", "third"];

#[derive(Clone, Debug)]
struct Modelled {
    life: Lifecycle,
    key: Option<String>,
    owner: &'static str,
}

struct Model {
    jobs: BTreeMap<Uuid, Modelled>,
    /// Every claim there ever was.
    leases: Vec<Lease>,
    rng: StdRng,
    steps: Vec<&'static str>,
}

impl Model {
    fn ids(&self, holds: impl Fn(&Modelled) -> bool) -> Vec<Uuid> {
        self.jobs
            .iter()
            .filter(|(_, job)| holds(job))
            .map(|(id, _)| *id)
            .collect()
    }

    /// Those to which it can happen.
    fn open_to(&self, event: Event) -> Vec<Uuid> {
        self.ids(|job| job.life.after(event).is_some())
    }

    /// It happens, if it can.
    fn happens(&mut self, id: Uuid, event: Event) {
        let job = self.jobs.get_mut(&id).unwrap();
        job.life = job.life.after(event).unwrap_or(job.life);
    }

    fn holds(&self, lease: &Lease) -> bool {
        self.jobs[&lease.job_id].life.is_held_by(lease.fence)
    }

    /// `fence`: which one Postgres gave out. None that there was before, where the machine counts on.
    fn claimed(&mut self, id: Uuid, fence: i64, owner: &'static str, how: Event) {
        self.happens(id, how);
        let job = self.jobs.get_mut(&id).unwrap();
        assert!(fence >= job.life.fence, "{fence} of {:?}", job.life);
        job.life.fence = fence;
        job.owner = owner;
        self.leases.push(Lease {
            job_id: id,
            fence: job.life.fence,
            attempt: job.life.attempt,
            max_attempts: job.life.max_attempts,
        });
    }

    async fn enqueue(&mut self, world: &World) {
        let key = self
            .rng
            .random_bool(0.5)
            .then(|| format!("k{}", self.rng.random_range(0..3)));
        let mut tx = world.state.db.begin().await.unwrap();
        match &key {
            Some(key) => tx.enqueue(&Keyed { key: key.clone() }),
            None => tx.enqueue(&Rehearse {
                what: "succeed".to_owned(),
                nonce: Uuid::new_v4(),
            }),
        }
        tx.commit().await.unwrap();
        let taken = self.ids(|job| key.is_some() && job.key == key && job.life.state.is_open());
        if let Some(id) = taken.first() {
            self.happens(*id, Event::Want);
            return;
        }
        let (id, max_attempts): (Uuid, i32) =
            sqlx::query_as("SELECT id, max_attempts FROM jobs ORDER BY created_at DESC LIMIT 1")
                .fetch_one(world.pool())
                .await
                .unwrap();
        let life = Lifecycle::new(max_attempts, true);
        let before = self.jobs.insert(id, Modelled { life, key, owner: "" });
        assert!(before.is_none(), "a job was expected to be new");
    }

    async fn publish(&mut self, world: &World) {
        let room = [(Queue::Maintenance, 1_000)];
        let taken = relay::take_unpublished(world.pool(), &room, &claimant("").kinds, &[])
            .await
            .unwrap();
        let mut taken: Vec<Uuid> = taken.into_iter().map(|job| job.id).collect();
        taken.sort();
        assert_eq!(taken, self.open_to(Event::Publish), "published");
        for id in taken {
            self.happens(id, Event::Publish);
        }
    }

    /// Redis forgets everything.
    async fn flush(&mut self, world: &World) {
        let lost = self.open_to(Event::Unpublish);
        relay::unpublish(world.pool(), &lost).await.unwrap();
        for id in lost {
            self.happens(id, Event::Unpublish);
        }
    }

    async fn promote(&mut self, world: &World) {
        sqlx::query("UPDATE jobs SET run_at = now() WHERE state IN ('scheduled', 'retrying')")
            .execute(world.pool())
            .await
            .unwrap();
        relay::promote_due(world.pool(), 1_000).await.unwrap();
        for id in self.open_to(Event::Promote) {
            self.happens(id, Event::Promote);
        }
    }

    async fn claim(&mut self, world: &World) {
        let owner = OWNERS.choose(&mut self.rng).copied().unwrap();
        let wanted = self.jobs.keys().copied().choose_multiple(&mut self.rng, 4);
        // An answer that was lost: the owner tries again, and may adopt what it has already.
        let adoptable = if self.rng.random_bool(0.2) {
            wanted.clone()
        } else {
            Vec::new()
        };
        let claimed = jobs::claim(world.pool(), &wanted, &claimant(owner), &adoptable)
            .await
            .unwrap();
        let fences: BTreeMap<Uuid, i64> = claimed.into_iter().map(|job| (job.id, job.fence)).collect();
        let claimed: Vec<Uuid> = fences.keys().copied().collect();
        let how = |job: &Modelled| {
            let adopted = job.owner == owner && !adoptable.is_empty() && job.life.after(Event::Adopt).is_some();
            if adopted { Event::Adopt } else { Event::Claim }
        };
        let mut expected = self.ids(|job| job.life.after(how(job)).is_some());
        expected.retain(|id| wanted.contains(id));
        assert_eq!(claimed, expected, "claimed");
        for id in claimed {
            let how = how(&self.jobs[&id]);
            self.claimed(id, fences[&id], owner, how);
        }
    }

    async fn claim_suspect(&mut self, world: &World) {
        let owner = OWNERS.choose(&mut self.rng).copied().unwrap();
        let suspicion = *[Suspicion::Slight, Suspicion::Grave].choose(&mut self.rng).unwrap();
        let mut suspects = self.open_to(Event::ClaimSuspect);
        suspects.retain(|id| (self.jobs[id].life.crash_count > 1) == (suspicion == Suspicion::Grave));
        let queues = ["maintenance".to_owned()];
        let most = self.rng.random_range(1..4);
        let claimed = jobs::claim_suspects(world.pool(), &queues, &claimant(owner), suspicion, most)
            .await
            .unwrap();
        assert_eq!(claimed.len(), most.min(suspects.len()), "of {suspects:?}");
        for job in claimed {
            assert!(suspects.contains(&job.id), "{} is no suspect", job.id);
            self.claimed(job.id, job.fence, owner, Event::ClaimSuspect);
        }
    }

    async fn renew(&mut self, world: &World) {
        let leases: Vec<Lease> = self.leases.choose_multiple(&mut self.rng, 6).copied().collect();
        let renewed = jobs::renew(world.pool(), &leases).await.unwrap();
        let mut renewed: Vec<(Uuid, i64)> = renewed.into_iter().map(|one| (one.id, one.fence)).collect();
        renewed.sort();
        let mut expected: Vec<(Uuid, i64)> = leases
            .iter()
            .filter(|lease| self.holds(lease))
            .map(|lease| (lease.job_id, lease.fence))
            .collect();
        expected.sort();
        assert_eq!(renewed, expected, "renewed");
    }

    /// All workers die at once.
    async fn crash(&mut self, world: &World) {
        leases_end(world).await;
        let reaped = jobs::reap(world.pool()).await.unwrap();
        let running = self.ids(|job| job.life.state == JobState::Running);
        assert_eq!(
            reaped.requeued + reaped.quarantined,
            i64::try_from(running.len()).unwrap(),
            "reaped"
        );
        let suspects = |job: &&Modelled| job.life.crash_count > 0;
        let suspected: Vec<&str> = running
            .iter()
            .map(|id| &self.jobs[id])
            .filter(suspects)
            .map(|job| job.owner)
            .collect();
        for id in running {
            let beside_a_suspect = suspected.contains(&self.jobs[&id].owner);
            self.happens(id, Event::Lose { beside_a_suspect });
        }
    }

    async fn settle(&mut self, world: &World) {
        let Some(lease) = self.leases.choose(&mut self.rng).copied() else {
            return;
        };
        let outcome = match self.rng.random_range(0..6) {
            0 => Outcome::Done(Vec::new()),
            1 => Outcome::Retry("again".to_owned()),
            4 => Outcome::Interrupted("the connection broke".to_owned()),
            2 => Outcome::Snooze(Duration::from_secs(60)),
            3 => Outcome::Fail("never".to_owned()),
            _ => Outcome::Cancelled,
        };
        let ending = outcome.ending();
        let mut connection = world.pool().acquire().await.unwrap();
        let settled = jobs::settle(&mut connection, &[Settlement { lease, outcome }])
            .await
            .unwrap();
        assert_eq!(!settled.is_empty(), self.holds(&lease), "settled");
        self.happens(lease.job_id, Event::Settle(lease.fence, ending));
    }

    async fn hand_back(&mut self, world: &World) {
        let Some(lease) = self.leases.choose(&mut self.rng).copied() else {
            return;
        };
        let handed = jobs::hand_back(world.pool(), &[lease]).await.unwrap();
        assert_eq!(handed.len() == 1, self.holds(&lease), "handed back");
        self.happens(lease.job_id, Event::HandBack(lease.fence));
    }

    /// An operator changes the arguments of one after the other. This build cannot check those of a test's kinds, and says so of none that it would
    /// not have changed anyway.
    async fn edit(&mut self, world: &World) {
        let Some(turn) = self.steps.len().checked_rem(self.jobs.len()) else {
            return;
        };
        let id = self.jobs.keys().copied().nth(turn).unwrap();
        let mut tx = world.state.db.begin().await.unwrap();
        let by = By {
            actor: "test",
            reason: Some("the wrong key"),
        };
        let refusal = actions::edit_args(&mut tx, id, &json!({}), by).await.unwrap_err();
        // Nothing was written; the row is free again before the next step, whose claims pass locked rows over.
        tx.commit().await.unwrap();
        match self.jobs[&id].life.after(Event::Edit) {
            Some(_) => assert!(matches!(refusal, ActionError::UnknownKind(_)), "{refusal}"),
            None => assert!(matches!(refusal, ActionError::WrongState { .. }), "{refusal}"),
        }
        self.happens(id, Event::Edit);
    }

    async fn step(&mut self, world: &World) {
        let steps = [
            "enqueue",
            "publish",
            "flush",
            "promote",
            "claim",
            "suspect",
            "renew",
            "crash",
            "settle",
            "hand back",
        ];
        // What fills and empties the table comes more often than what breaks it.
        let often = [4, 2, 1, 1, 4, 3, 1, 1, 4, 1];
        let step = steps
            .into_iter()
            .zip(often)
            .flat_map(|(step, often)| std::iter::repeat_n(step, often))
            .choose(&mut self.rng)
            .unwrap();
        self.steps.push(step);
        match step {
            "enqueue" => self.enqueue(world).await,
            "publish" => self.publish(world).await,
            "flush" => self.flush(world).await,
            "promote" => self.promote(world).await,
            "claim" => self.claim(world).await,
            "suspect" => self.claim_suspect(world).await,
            "renew" => self.renew(world).await,
            "crash" => self.crash(world).await,
            "settle" => {
                for _ in 0..4 {
                    self.settle(world).await;
                }
            }
            _ => self.hand_back(world).await,
        }
    }

    async fn compare(&self, world: &World, seed: u64) {
        let rows: Vec<(Uuid, String, i32, i64, i32, bool, bool)> = sqlx::query_as(
            "SELECT id, state, attempt, fence, crash_count, rerun, published_at IS NOT NULL FROM jobs WHERE kind LIKE 'test.%'",
        )
        .fetch_all(world.pool())
        .await
        .unwrap();
        assert_eq!(rows.len(), self.jobs.len(), "seed {seed}: {:?}", self.steps);
        for (id, state, attempt, fence, crashes, rerun, published) in rows {
            let life = self.jobs[&id].life;
            let known = (
                life.state.name(),
                life.attempt,
                life.fence,
                life.crash_count,
                life.rerun,
            );
            let found = (state.as_str(), attempt, fence, crashes, rerun);
            assert_eq!(found, known, "seed {seed}: {:?}", self.steps);
            // Of what runs or has ended nobody asks whether it is in Redis.
            if life.state == JobState::Queued {
                assert_eq!(published, life.published, "seed {seed}: {:?}", self.steps);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_move_as_the_machine_says_whatever_the_order() {
    let world = world().await;
    // Right after its start Postgres judges nobody.
    world
        .eventually("Postgres is up for a while", async || {
            sqlx::query_scalar::<_, bool>("SELECT pg_postmaster_start_time() < now() - interval '7 seconds'")
                .fetch_one(world.pool())
                .await
                .unwrap()
        })
        .await;
    for seed in SEEDS {
        sqlx::query("TRUNCATE jobs, job_attempts")
            .execute(world.pool())
            .await
            .unwrap();
        let mut model = Model {
            jobs: BTreeMap::new(),
            leases: Vec::new(),
            rng: StdRng::seed_from_u64(seed),
            steps: Vec::new(),
        };
        for _ in 0..STEPS {
            model.step(&world).await;
            model.edit(&world).await;
            model.compare(&world, seed).await;
        }
        assert!(
            model.leases.len() > 20,
            "seed {seed}: hardly anything was claimed: {:?}",
            model.steps
        );
    }
}
