//! The states of a job against a model: random interleavings of what enqueues, publishes, claims, renews, loses, reaps,
//! settles and hands back, on real Postgres. After each step every row must be what the model says.
//!
//! A failure names its seed and its steps; the seeds are fixed, so it comes again.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, IteratorRandom};
use rand::{Rng, SeedableRng};
use roost_shared::jobs::{self, Lease, Outcome, Queue, Settlement, relay};
use roost_tests::world::World;
use uuid::Uuid;

use crate::rehearsal::{Keyed, Rehearse, claimant, leases_end, world};

const SEEDS: std::ops::Range<u64> = 1..7;
const STEPS: usize = 150;
const OWNERS: [&str; 3] = ["first", "second", "third"];

/// What is known of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    state: &'static str,
    attempt: i32,
    fence: i64,
    crashes: i32,
    rerun: bool,
    published: bool,
}

#[derive(Clone, Debug)]
struct Modelled {
    known: Known,
    key: Option<String>,
    max_attempts: i32,
    owner: &'static str,
}

impl Modelled {
    fn is_open(&self) -> bool {
        ["scheduled", "queued", "running", "retrying"].contains(&self.known.state)
    }

    fn wait_again(&mut self, state: &'static str) {
        self.known.state = state;
        self.known.published = false;
    }
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

    fn job(&mut self, id: Uuid) -> &mut Modelled {
        self.jobs.get_mut(&id).unwrap()
    }

    fn holds(&self, lease: &Lease) -> bool {
        let known = &self.jobs[&lease.job_id].known;
        known.state == "running" && known.fence == lease.fence
    }

    fn claimed(&mut self, id: Uuid, owner: &'static str) {
        let job = self.job(id);
        job.known.state = "running";
        job.known.attempt += 1;
        job.known.fence += 1;
        job.known.rerun = false;
        job.owner = owner;
        let lease = Lease {
            job_id: id,
            fence: job.known.fence,
            attempt: job.known.attempt,
            max_attempts: job.max_attempts,
        };
        self.leases.push(lease);
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
        let taken = self
            .jobs
            .values_mut()
            .find(|job| key.is_some() && job.key == key && job.is_open());
        if let Some(job) = taken {
            job.known.rerun |= job.known.state == "running";
            return;
        }
        let (id, max_attempts): (Uuid, i32) =
            sqlx::query_as("SELECT id, max_attempts FROM jobs ORDER BY created_at DESC LIMIT 1")
                .fetch_one(world.pool())
                .await
                .unwrap();
        let known = Known {
            state: "queued",
            attempt: 0,
            fence: 0,
            crashes: 0,
            rerun: false,
            published: true,
        };
        let before = self.jobs.insert(
            id,
            Modelled {
                known,
                key,
                max_attempts,
                owner: "",
            },
        );
        assert!(before.is_none(), "a job was expected to be new");
    }

    async fn publish(&mut self, world: &World) {
        let room = [(Queue::Maintenance, 1_000)];
        let taken = relay::take_unpublished(world.pool(), &room, &claimant("").kinds)
            .await
            .unwrap();
        let mut taken: Vec<Uuid> = taken.into_iter().map(|job| job.id).collect();
        taken.sort();
        let expected = self.ids(|job| job.known.state == "queued" && !job.known.published && job.known.crashes == 0);
        assert_eq!(taken, expected, "published");
        for id in taken {
            self.job(id).known.published = true;
        }
    }

    /// Redis forgets everything.
    async fn flush(&mut self, world: &World) {
        let now = sqlx::query_scalar("SELECT now()")
            .fetch_one(world.pool())
            .await
            .unwrap();
        relay::unpublish_before(world.pool(), now).await.unwrap();
        for job in self.jobs.values_mut().filter(|job| job.known.state == "queued") {
            job.known.published = false;
        }
    }

    async fn promote(&mut self, world: &World) {
        sqlx::query("UPDATE jobs SET run_at = now() WHERE state IN ('scheduled', 'retrying')")
            .execute(world.pool())
            .await
            .unwrap();
        relay::promote_due(world.pool(), 1_000).await.unwrap();
        for job in self.jobs.values_mut() {
            if ["scheduled", "retrying"].contains(&job.known.state) {
                job.wait_again("queued");
            }
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
        let mut claimed: Vec<Uuid> = claimed.into_iter().map(|job| job.id).collect();
        claimed.sort();
        let mut expected = self.ids(|job| {
            job.known.state == "queued" && job.known.crashes == 0
                || job.known.state == "running" && job.owner == owner && !adoptable.is_empty()
        });
        expected.retain(|id| wanted.contains(id));
        assert_eq!(claimed, expected, "claimed");
        for id in claimed {
            let job = self.job(id);
            if job.known.state == "running" {
                job.known.attempt -= 1;
            }
            self.claimed(id, owner);
        }
    }

    async fn claim_suspect(&mut self, world: &World) {
        let owner = OWNERS.choose(&mut self.rng).copied().unwrap();
        let suspects = self.ids(|job| job.known.state == "queued" && job.known.crashes > 0);
        let queues = ["maintenance".to_owned()];
        let claimed = jobs::claim_suspect(world.pool(), &queues, &claimant(owner))
            .await
            .unwrap();
        match claimed {
            Some(job) => {
                assert!(suspects.contains(&job.id), "{} is no suspect", job.id);
                self.claimed(job.id, owner);
            }
            None => assert!(suspects.is_empty(), "{suspects:?} were left"),
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
        let running = self.ids(|job| job.known.state == "running");
        assert_eq!(
            reaped.requeued + reaped.quarantined,
            i64::try_from(running.len()).unwrap(),
            "reaped"
        );
        let suspected: Vec<&str> = running
            .iter()
            .map(|id| &self.jobs[id])
            .filter(|job| job.known.crashes > 0)
            .map(|job| job.owner)
            .collect();
        for id in running {
            let job = self.job(id);
            if job.known.crashes > 0 || !suspected.contains(&job.owner) {
                job.known.crashes += 1;
            }
            job.wait_again(if job.known.crashes >= 3 {
                "quarantined"
            } else {
                "queued"
            });
        }
    }

    async fn settle(&mut self, world: &World) {
        let Some(lease) = self.leases.choose(&mut self.rng).copied() else {
            return;
        };
        let (outcome, state) = match self.rng.random_range(0..5) {
            0 => (Outcome::Done(Vec::new()), "succeeded"),
            1 => (Outcome::Retry("again".to_owned()), "retrying"),
            2 => (Outcome::Snooze(Duration::from_secs(60)), "scheduled"),
            3 => (Outcome::Fail("never".to_owned()), "dead"),
            _ => (Outcome::Cancelled, "cancelled"),
        };
        let mut connection = world.pool().acquire().await.unwrap();
        let settled = jobs::settle(&mut connection, &[Settlement { lease, outcome }])
            .await
            .unwrap();
        assert_eq!(!settled.is_empty(), self.holds(&lease), "settled");
        if settled.is_empty() {
            return;
        }
        let job = self.job(lease.job_id);
        let last = job.known.attempt >= job.max_attempts;
        let state = if state == "retrying" && last { "dead" } else { state };
        if state == "scheduled" {
            job.known.attempt -= 1;
        }
        if job.known.rerun && !["retrying", "scheduled"].contains(&state) {
            job.known.attempt = 0;
            job.wait_again("queued");
        } else {
            job.wait_again(state);
        }
        job.known.crashes = 0;
        job.known.rerun = false;
    }

    async fn hand_back(&mut self, world: &World) {
        let Some(lease) = self.leases.choose(&mut self.rng).copied() else {
            return;
        };
        let handed = jobs::hand_back(world.pool(), &[lease]).await.unwrap();
        assert_eq!(handed == 1, self.holds(&lease), "handed back");
        if handed == 1 {
            let job = self.job(lease.job_id);
            job.known.attempt -= 1;
            job.wait_again("queued");
        }
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
            let known = &self.jobs[&id].known;
            assert_eq!(
                (state.as_str(), attempt, fence, crashes, rerun),
                (known.state, known.attempt, known.fence, known.crashes, known.rerun),
                "seed {seed}: {:?}",
                self.steps
            );
            // Of what runs or has ended nobody asks whether it is in Redis.
            if state == "queued" {
                assert_eq!(published, known.published, "seed {seed}: {:?}", self.steps);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_move_as_the_model_says_whatever_the_order() {
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
            model.compare(&world, seed).await;
        }
        assert!(
            model.leases.len() > 20,
            "seed {seed}: hardly anything was claimed: {:?}",
            model.steps
        );
    }
}
