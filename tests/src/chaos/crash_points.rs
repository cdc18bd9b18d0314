//! A worker dies at every boundary of an attempt, once for every kind of job; the others find what it left. The hook is
//! [`roost_shared::jobs::crash_point`], which only a debug build has.
//!
//! Jobs come about as they do in life, over HTTP. What would come in days is brought forward by hand, and so are the ends
//! of dead workers' leases: how long those take is looked at elsewhere.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use chrono::TimeDelta;
use roost_shared::jobs::{
    Job,
    actions::{By, JobAction},
    bulk,
    catalogue::{CompleteStays, PruneOutbox, SweepOverdue},
    crash_point::Boundary,
    inspect, inspections,
    list::JobFilter,
};
use uuid::Uuid;

use super::{
    Verdict, audit,
    audit::Fate,
    jobs::Mark,
    market::{Answer, Asked, Market},
    testbed::{Testbed, WorkerPlan},
};
use crate::services::Durability;

const WORKERS: usize = 3;
/// More than bookings: all stays are in the same days, so that moving one to the past ends it.
const FLATS: usize = 120;
const LIMIT: Duration = Duration::from_secs(600);
const ROUND: Duration = Duration::from_millis(150);

/// A job meets up to five deaths here, with those of its neighbours more, and the third would have it quarantined. What
/// becomes of such ones is for `poison`.
const NO_QUARANTINE: &str = "
    CREATE FUNCTION chaos_forget_crashes() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN NEW.crash_count := least(NEW.crash_count, 1); RETURN NEW; END $$;
    CREATE TRIGGER chaos_forget_crashes BEFORE UPDATE ON jobs FOR EACH ROW
        WHEN (NEW.crash_count > 1) EXECUTE FUNCTION chaos_forget_crashes();";

/// Kinds that call somebody outside, and so have every boundary. The others have no intent and no call.
const CALLING: [&str; 6] = [
    "booking.expire_hold",
    "mail.send",
    "payment.authorize",
    "payment.capture",
    "payment.refund",
    "payment.void",
];
/// Kinds that every booking brings about.
const OF_A_BOOKING: [&str; 6] = [
    "booking.confirm",
    "cache.warm",
    "mail.send",
    "payment.authorize",
    "payment.capture",
    "stripe.event.handle",
];

/// How the job ended that took its worker down, by kind and boundary.
pub struct Matrix {
    cells: BTreeMap<(String, &'static str), String>,
    pub verdict: Verdict,
}

impl Matrix {
    /// The cells that are not as they should be.
    pub fn wrong(&self) -> Vec<String> {
        let wrong = self.cells.iter().filter(|(_, end)| *end != "succeeded");
        wrong
            .map(|((kind, boundary), end)| format!("{kind} {boundary}: {end}"))
            .collect()
    }

    /// A table in Markdown.
    pub fn table(&self) -> String {
        let names = Boundary::ALL.map(Boundary::name);
        let mut text = String::from(
            "# Crash points\n\nThe worker was killed once in each cell; it says how the job ended that it was running. \
             A dash: the kind has no such boundary.\n\n",
        );
        let _ = writeln!(
            text,
            "| Kind | {} |\n| --- |{}",
            names.join(" | "),
            " --- |".repeat(names.len())
        );
        for kind in kinds() {
            let ends = names.map(|name| {
                let end = self.cells.get(&(kind.clone(), name));
                end.map_or("–", String::as_str).to_owned()
            });
            let _ = writeln!(text, "| `{kind}` | {} |", ends.join(" | "));
        }
        let broken = &self.verdict.violations;
        let _ = writeln!(
            text,
            "\n{} crashes, {} jobs, {} lost, {} doubled. Violations: {}.",
            self.verdict.faults,
            self.verdict.jobs,
            self.verdict.lost,
            self.verdict.duplicated,
            if broken.is_empty() {
                "none".to_owned()
            } else {
                broken.join("; ")
            }
        );
        text
    }
}

fn kinds() -> Vec<String> {
    roost_worker::jobs::registry().kinds()
}

fn boundaries(kind: &str) -> impl Iterator<Item = Boundary> {
    let calls = CALLING.contains(&kind);
    let all = Boundary::ALL.into_iter();
    all.filter(move |boundary| calls || !matches!(boundary, Boundary::AfterIntent | Boundary::AfterCall))
}

/// Dies everywhere and looks what became of it.
pub async fn matrix() -> Result<Matrix> {
    let mut testbed = Testbed::start(Durability::Scratch).await?;
    let mut scene = Scene::set(&mut testbed).await?;
    let mut verdict = Verdict::new("crash-points", 0);
    let played = scene.play(&mut testbed, &mut verdict).await;
    let mut cells = BTreeMap::new();
    for kind in kinds() {
        for boundary in boundaries(&kind) {
            cells.insert((kind.clone(), boundary.name()), "never reached".to_owned());
        }
    }
    for (job, cell) in scene.plan.met()? {
        let state: Option<String> = sqlx::query_scalar("SELECT state FROM jobs WHERE id = $1")
            .bind(job)
            .fetch_optional(&testbed.pool)
            .await?;
        let (kind, boundary) = cell.split_once('@').unwrap_or_default();
        for ((of, at), end) in &mut cells {
            if of == kind && *at == boundary {
                *end = state.clone().unwrap_or_else(|| "gone".to_owned());
            }
        }
    }
    let matrix = Matrix {
        cells,
        verdict: verdict.finished(None),
    };
    if played.is_err() || !matrix.verdict.is_clean() || !matrix.wrong().is_empty() {
        eprintln!("the logs are kept in {}", testbed.keep_logs("crash-points")?.display());
    }
    tokio::task::spawn_blocking(move || drop(testbed)).await?;
    played?;
    Ok(matrix)
}

/// The folder that says where workers die; see [`roost_shared::jobs::crash_point`].
struct Plan(PathBuf);

impl Plan {
    fn make(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        for kind in kinds() {
            for boundary in boundaries(&kind) {
                fs::write(folder.join(format!("{kind}@{}", boundary.name())), "")?;
            }
        }
        Ok(Self(folder.to_owned()))
    }

    /// How many deaths each kind has before it.
    fn left(&self) -> Result<BTreeMap<String, usize>> {
        let mut left = BTreeMap::new();
        for entry in fs::read_dir(&self.0)? {
            if let Some((kind, _)) = entry?.file_name().to_string_lossy().split_once('@') {
                *left.entry(kind.to_owned()).or_default() += 1;
            }
        }
        Ok(left)
    }

    /// Which job died where.
    fn met(&self) -> Result<Vec<(Uuid, String)>> {
        let mut met = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let entry = entry?;
            if let Ok(job) = entry.file_name().to_string_lossy().parse() {
                met.push((job, fs::read_to_string(entry.path())?));
            }
        }
        Ok(met)
    }
}

struct Scene {
    plan: Plan,
    worker: WorkerPlan,
    market: Market,
    asked: Vec<Asked>,
    /// What was done to a booking after it was made.
    fates: HashMap<Uuid, Fate>,
    next: usize,
}

impl Scene {
    async fn set(testbed: &mut Testbed) -> Result<Self> {
        let plan = Plan::make(&testbed.services.instance().dir().join("crash-plan"))?;
        let worker = WorkerPlan {
            concurrency: Some(1),
            crash_plan: Some(plan.0.clone()),
            ..WorkerPlan::default()
        };
        testbed.start_api().await?;
        sqlx::raw_sql(NO_QUARANTINE).execute(&testbed.pool).await?;
        for _ in 0..WORKERS {
            testbed.start_worker(&worker)?;
        }
        Ok(Self {
            market: Market::open(testbed, FLATS, 2).await?,
            plan,
            worker,
            asked: Vec::new(),
            fates: HashMap::new(),
            next: 0,
        })
    }

    async fn play(&mut self, testbed: &mut Testbed, verdict: &mut Verdict) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            verdict.faults += self.replace_the_dead(testbed).await?;
            let left = self.plan.left()?;
            if left.is_empty() || Instant::now() > deadline {
                verdict.require(left.is_empty(), || format!("no worker died at {left:?}"));
                break;
            }
            for (kind, count) in left {
                let open: bool = sqlx::query_scalar(
                    "SELECT EXISTS (SELECT FROM jobs WHERE kind = $1 AND (state IN ('queued', 'running') OR state = 'retrying' AND run_at < now() + interval '1 minute'))",
                )
                .bind(&kind)
                .fetch_one(&testbed.pool)
                .await?;
                if !open {
                    self.supply(testbed, &kind, count).await?;
                }
            }
            tokio::time::sleep(ROUND).await;
        }
        self.drain(testbed, verdict).await?;
        for (number, id) in self
            .take(testbed, "pending_approval", "authorized", usize::MAX, Fate::Released)
            .await?
        {
            self.market.cancel(number, id).await?;
        }
        self.drain(testbed, verdict).await?;
        let cancelled: i64 = sqlx::query_scalar(
            "WITH gone AS (DELETE FROM jobs WHERE kind = 'chaos.mark' RETURNING state) SELECT count(*) FROM gone WHERE state <> 'cancelled'",
        )
        .fetch_one(&testbed.pool)
        .await?;
        verdict.lose(cancelled.unsigned_abs(), "jobs that an operator wanted cancelled");
        audit::jobs(testbed, verdict).await?;
        let fates = &self.fates;
        let fate = |one: &Asked| match one.answer {
            Answer::Booked(id) => fates.get(&id).copied().unwrap_or(Fate::Captured),
            Answer::Refused(..) => Fate::Captured,
        };
        audit::bookings(testbed, &self.asked, fate, verdict).await?;
        audit::told_once(testbed, verdict).await
    }

    /// The last crashes may be just before it.
    async fn drain(&self, testbed: &mut Testbed, verdict: &mut Verdict) -> Result<()> {
        let settled = Instant::now() + Duration::from_secs(2);
        while Instant::now() < settled {
            verdict.faults += self.replace_the_dead(testbed).await?;
            tokio::time::sleep(ROUND).await;
        }
        audit::drain(testbed, Duration::from_secs(60), verdict).await
    }

    /// As a supervisor does; and nobody waits for the dead. How many had died.
    async fn replace_the_dead(&self, testbed: &mut Testbed) -> Result<u64> {
        let mut replaced = 0;
        for place in 0..testbed.workers.len() {
            let Some(worker) = testbed.workers.get_mut(place) else {
                continue;
            };
            if worker.process.exited()?.is_none() {
                continue;
            }
            let pid = worker.pid();
            let next = testbed.new_worker(&self.worker)?;
            if let Some(worker) = testbed.workers.get_mut(place) {
                *worker = next;
            }
            replaced += 1;
            for statement in [
                "UPDATE jobs SET lease_until = now() - interval '1 second'
                 WHERE state = 'running' AND lease_owner LIKE '%-' || $1 || '-%'",
                "UPDATE workers SET stopped_at = now() WHERE name LIKE '%-' || $1 || '-%'",
                // What it had fetched and not claimed.
                "UPDATE jobs SET published_at = NULL WHERE state = 'queued' AND published_at IS NOT NULL AND $1 <> ''",
            ] {
                sqlx::query(statement)
                    .bind(pid.to_string())
                    .execute(&testbed.pool)
                    .await?;
            }
        }
        Ok(replaced)
    }

    /// Does what brings about jobs of this kind. Some need a booking first, and come about in a later round.
    async fn supply(&mut self, testbed: &Testbed, kind: &str, count: usize) -> Result<()> {
        let db = testbed.db()?;
        match kind {
            kind if OF_A_BOOKING.contains(&kind) => self.book(count).await?,
            "payment.refund" => {
                for (number, id) in self.paid(testbed, count, Fate::Refunded).await? {
                    self.market.cancel(number, id).await?;
                }
            }
            "payment.void" => {
                for (number, id) in self.waiting(testbed, count, Fate::Released).await? {
                    self.market.cancel(number, id).await?;
                }
            }
            "booking.expire_hold" => {
                for (_, id) in self.waiting(testbed, count, Fate::Expired).await? {
                    sqlx::query("UPDATE bookings SET approval_expires_at = now() - interval '1 second' WHERE id = $1")
                        .bind(id)
                        .execute(&testbed.pool)
                        .await?;
                }
                bring_forward(testbed, kind).await?;
            }
            "stays.complete" | "review.open" | "review.remind" | "review.publish" => {
                self.stay_and_review(testbed, kind, count).await?;
            }
            "message.notify" => {
                for (number, id) in self.paid(testbed, count, Fate::Captured).await? {
                    self.market.write(number, id).await?;
                }
                bring_forward(testbed, kind).await?;
            }
            "ops.bulk" => {
                for _ in 0..count {
                    cancel_in_bulk(testbed).await?;
                }
            }
            "effect.inspect" => {
                if ask_stripe(testbed, count).await? == 0 {
                    self.book(1).await?;
                }
            }
            "outbox.prune" => {
                let mut tx = db.begin().await?;
                tx.enqueue(&PruneOutbox {});
                tx.commit().await?;
            }
            "overdue.sweep" => {
                let mut tx = db.begin().await?;
                tx.enqueue(&SweepOverdue {});
                tx.commit().await?;
            }
            other => bail!("nobody knows how {other} comes about: say so here"),
        }
        Ok(())
    }

    async fn book(&mut self, count: usize) -> Result<()> {
        for _ in 0..count {
            let number = self.next;
            self.next += 1;
            self.asked
                .push(self.market.ask(number, self.market.wish(number)).await?);
        }
        Ok(())
    }

    /// Bookings in this state that nothing was done to, with who made them; from now on they are meant to end so.
    async fn take(
        &mut self,
        testbed: &Testbed,
        state: &str,
        payment: &str,
        count: usize,
        fate: Fate,
    ) -> Result<Vec<(usize, Uuid)>> {
        let ready: Vec<Uuid> = sqlx::query_scalar(
            "SELECT bookings.id FROM bookings JOIN payments ON payments.booking_id = bookings.id WHERE bookings.state = $1 AND payments.state = $2
             -- Its mails are out.
             AND NOT EXISTS (SELECT FROM jobs WHERE args->>'subject_id' = bookings.id::text AND state <> 'succeeded')",
        )
        .bind(state)
        .bind(payment)
        .fetch_all(&testbed.pool)
        .await?;
        let mut taken = Vec::new();
        for one in &self.asked {
            let Answer::Booked(id) = one.answer else { continue };
            if taken.len() < count && ready.contains(&id) && !self.fates.contains_key(&id) {
                self.fates.insert(id, fate);
                taken.push((one.number, id));
            }
        }
        Ok(taken)
    }

    async fn paid(&mut self, testbed: &Testbed, count: usize, fate: Fate) -> Result<Vec<(usize, Uuid)>> {
        let taken = self.take(testbed, "confirmed", "captured", count, fate).await?;
        if taken.is_empty() {
            self.book(1).await?;
        }
        Ok(taken)
    }

    async fn waiting(&mut self, testbed: &Testbed, count: usize, fate: Fate) -> Result<Vec<(usize, Uuid)>> {
        let taken = self
            .take(testbed, "pending_approval", "authorized", count, fate)
            .await?;
        if taken.is_empty() {
            self.asked.extend(self.market.ask_a_careful_host(count as u64).await?);
        }
        Ok(taken)
    }

    /// Stays that are over, and what both sides say about them.
    async fn stay_and_review(&mut self, testbed: &Testbed, kind: &str, count: usize) -> Result<()> {
        match kind {
            "review.remind" if bring_forward(testbed, kind).await? > 0 => return Ok(()),
            "review.publish" => {
                let over: Vec<Uuid> = sqlx::query_scalar(
                    "SELECT id FROM bookings WHERE state = 'completed' AND NOT EXISTS (SELECT FROM reviews WHERE booking_id = bookings.id)",
                )
                .fetch_all(&testbed.pool)
                .await?;
                let over = self.asked.iter().filter_map(|one| match one.answer {
                    Answer::Booked(id) if over.contains(&id) => Some((one.number, id)),
                    _ => None,
                });
                let over: Vec<_> = over.take(count).collect();
                for (number, id) in &over {
                    self.market.review(*number, *id).await?;
                }
                if !over.is_empty() {
                    return Ok(());
                }
            }
            _ => {}
        }
        for (_, id) in self.paid(testbed, count, Fate::Completed).await? {
            sqlx::query("UPDATE bookings SET stay = daterange(lower(stay) - 35, upper(stay) - 35) WHERE id = $1")
                .bind(id)
                .execute(&testbed.pool)
                .await?;
        }
        let mut tx = testbed.db()?.begin().await?;
        tx.enqueue(&CompleteStays {});
        tx.commit().await?;
        Ok(())
    }
}

/// Has the jobs of a kind that wait for later run now. How many there were.
async fn bring_forward(testbed: &Testbed, kind: &str) -> Result<u64> {
    let done = sqlx::query(
        "UPDATE jobs SET run_at = now() WHERE kind = $1 AND state = 'scheduled'
         -- A request to book is given up only when its host had the time to answer.
         AND (kind <> 'booking.expire_hold'
              OR args->>'booking_id' IN (SELECT id::text FROM bookings WHERE approval_expires_at < now()))",
    )
    .bind(kind)
    .execute(&testbed.pool)
    .await?;
    Ok(done.rows_affected())
}

/// Has an operator ask Stripe about captures that nobody has asked about. How many there were.
async fn ask_stripe(testbed: &Testbed, count: usize) -> Result<usize> {
    let jobs: Vec<Uuid> = sqlx::query_scalar(
        "SELECT DISTINCT job_id FROM effects JOIN jobs ON jobs.id = job_id
         WHERE key LIKE 'capture:%' AND NOT EXISTS (SELECT FROM effect_inspections WHERE effect_key = key) LIMIT $1",
    )
    .bind(i64::try_from(count)?)
    .fetch_all(&testbed.pool)
    .await?;
    for id in &jobs {
        let detail = inspect::inspect(&testbed.pool, *id).await?.context("the job is gone")?;
        let by = By {
            actor: "chaos@example.com",
            reason: None,
        };
        let mut tx = testbed.db()?.begin().await?;
        inspections::ask(&mut tx, &detail, by).await?;
        tx.commit().await?;
    }
    Ok(jobs.len())
}

/// Schedules a job for later and has an operator cancel all of its kind.
async fn cancel_in_bulk(testbed: &Testbed) -> Result<()> {
    let mut tx = testbed.db()?.begin().await?;
    let later = tx.now() + TimeDelta::days(1);
    let nonce = Uuid::new_v4();
    tx.enqueue_at(&Mark { nonce, hold_ms: 0 }, later);
    tx.commit().await?;
    let mut tx = testbed.db()?.begin().await?;
    let filter = JobFilter {
        kind: Some(Mark::KIND.to_owned()),
        ..JobFilter::default()
    };
    let by = By {
        actor: "chaos@example.com",
        reason: Some("not wanted any more"),
    };
    bulk::begin(&mut tx, &filter, JobAction::Cancel, 1, by).await?;
    tx.commit().await?;
    Ok(())
}
