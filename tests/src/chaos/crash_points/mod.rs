//! A worker dies at every boundary of an attempt, once for every kind of job and every call that it makes; the others
//! find what it left. The hook is [`roost_shared::jobs::crash_point`], which only a debug build has.
//!
//! All kinds run undisturbed first: which boundaries they have is seen then, and compared with what Postgres and the
//! sandbox know of calls. Jobs come about as they do in life, over HTTP ([`supply`]). What would come in days is brought
//! forward by hand, and so are the ends of dead workers' leases: how long those take is looked at elsewhere.

mod given_up;
mod plan;
mod supply;
mod table;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use anyhow::Result;
use roost_shared::jobs::crash_point::Boundary;
use serde_json::Value;
use uuid::Uuid;

use super::{
    Verdict, audit,
    audit::Fate,
    market::{Answer, Asked, Market},
    testbed::{Testbed, WorkerPlan},
};
use crate::services::Durability;
use plan::{Cell, Plan};
use supply::Shortage;
pub use table::Matrix;

const WORKERS: usize = 3;
/// More than bookings: all stays are in the same days, so that moving one to the past ends it.
const FLATS: usize = 120;
const LIMIT: Duration = Duration::from_secs(600);
const ROUND: Duration = Duration::from_millis(150);

/// A job meets its own death here and those of its neighbours, and the third would have it quarantined. What becomes of
/// such ones is for `poison`.
const NO_QUARANTINE: &str = "
    CREATE FUNCTION chaos_forget_crashes() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN NEW.crash_count := least(NEW.crash_count, 1); RETURN NEW; END $$;
    CREATE TRIGGER chaos_forget_crashes BEFORE UPDATE ON jobs FOR EACH ROW
        WHEN (NEW.crash_count > 1) EXECUTE FUNCTION chaos_forget_crashes();";

fn kinds() -> Vec<String> {
    roost_worker::jobs::registry().kinds()
}

/// Dies everywhere and looks what became of it.
pub async fn matrix() -> Result<Matrix> {
    let mut testbed = Testbed::start(Durability::Scratch).await?;
    let mut scene = Scene::set(&mut testbed).await?;
    let mut verdict = Verdict::new("crash-points", 0);
    let played = scene.play(&mut testbed, &mut verdict).await;
    let matrix = Matrix {
        ends: ends(&testbed, &scene.plan).await?,
        verdict: verdict.finished(None),
    };
    if played.is_err() || !matrix.verdict.is_clean() || !matrix.wrong().is_empty() {
        eprintln!("the logs are kept in {}", testbed.keep_logs("crash-points")?.display());
    }
    tokio::task::spawn_blocking(move || drop(testbed)).await?;
    played?;
    Ok(matrix)
}

/// How the jobs ended that died, by where that was; and where none did.
async fn ends(testbed: &Testbed, plan: &Plan) -> Result<BTreeMap<Cell, String>> {
    let left = plan
        .unseen()?
        .into_iter()
        .map(|cell| (cell, "never reached".to_owned()));
    let survived = plan
        .survived()?
        .into_iter()
        .map(|cell| (cell, "nobody died".to_owned()));
    let mut ends: BTreeMap<Cell, String> = left.chain(survived).collect();
    for (cell, job) in plan.died()? {
        let state: Option<String> = sqlx::query_scalar("SELECT state FROM jobs WHERE id = $1")
            .bind(job)
            .fetch_optional(&testbed.pool)
            .await?;
        ends.insert(cell, state.unwrap_or_else(|| "gone".to_owned()));
    }
    Ok(ends)
}

struct Scene {
    plan: Plan,
    worker: WorkerPlan,
    market: Market,
    asked: Vec<Asked>,
    /// What was done to a booking after it was made.
    fates: HashMap<Uuid, Fate>,
    /// Who asked for what is to be called off.
    to_call_off: Vec<(usize, Uuid)>,
    next: usize,
    short_of: Shortage,
}

impl Scene {
    async fn set(testbed: &mut Testbed) -> Result<Self> {
        let plan = Plan::make(&testbed.services.instance().dir().join("crash-plan"))?;
        let worker = WorkerPlan {
            concurrency: Some(1),
            crash_plan: Some(plan.folder().to_owned()),
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
            to_call_off: Vec::new(),
            next: 0,
            short_of: Shortage::default(),
        })
    }

    async fn play(&mut self, testbed: &mut Testbed, verdict: &mut Verdict) -> Result<()> {
        self.until_none_is_left(testbed, verdict, Plan::unseen, "no job came to")
            .await?;
        audit::drain(testbed, Duration::from_secs(60), verdict).await?;
        let died = verdict.faults;
        verdict.require(died == 0, || format!("{died} workers died before they were to"));
        self.no_call_is_missing(testbed, verdict).await?;

        self.plan.arm()?;
        self.until_none_is_left(testbed, verdict, Plan::survived, "no worker died at")
            .await?;
        self.drain(testbed, verdict).await?;
        for (number, id) in self
            .take(testbed, "pending_approval", "authorized", usize::MAX, Fate::Released)
            .await?
        {
            self.market.cancel(number, id).await?;
        }
        self.drain(testbed, verdict).await?;
        let (planned, died) = (self.plan.died()?.len() as u64, verdict.faults);
        verdict.require(planned == died, || {
            format!("{died} workers died, at {planned} boundaries")
        });
        verdict.figure("bookings", self.asked.len() as f64);
        self.look(testbed, verdict).await
    }

    /// Brings about jobs of the kinds that something is left of, until nothing is.
    async fn until_none_is_left(
        &mut self,
        testbed: &mut Testbed,
        verdict: &mut Verdict,
        left: impl Fn(&Plan) -> Result<BTreeSet<Cell>>,
        complaint: &str,
    ) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            verdict.faults += self.replace_the_dead(testbed).await?;
            let cells = left(&self.plan)?;
            if cells.is_empty() || Instant::now() > deadline {
                let names: Vec<String> = cells.iter().map(Cell::to_string).collect();
                verdict.require(names.is_empty(), || format!("{complaint} {}", names.join(", ")));
                return Ok(());
            }
            let mut by_kind: BTreeMap<String, Vec<Cell>> = BTreeMap::new();
            for cell in cells {
                by_kind.entry(cell.kind.clone()).or_default().push(cell);
            }
            for (kind, cells) in by_kind {
                let open: bool = sqlx::query_scalar(
                    "SELECT EXISTS (SELECT FROM jobs WHERE kind = $1 AND (state IN ('queued', 'running') OR state = 'retrying' AND run_at < now() + interval '1 minute'))",
                )
                .bind(&kind)
                .fetch_one(&testbed.pool)
                .await?;
                if !open {
                    self.supply(testbed, &kind, &cells).await?;
                }
            }
            self.restock(testbed).await?;
            self.call_off(testbed).await?;
            tokio::time::sleep(ROUND).await;
        }
    }

    /// What others know of calls that were made in the undisturbed run: each has its boundaries, or the hook is missing
    /// somewhere and nobody would have died there.
    async fn no_call_is_missing(&self, testbed: &Testbed, verdict: &mut Verdict) -> Result<()> {
        let reached = self.plan.reached()?;
        let calls = |boundary: Boundary| -> BTreeSet<(&str, &str)> {
            let cells = reached.iter().filter(|cell| cell.is(boundary));
            cells
                .filter_map(|cell| Some((cell.kind.as_str(), cell.call.as_deref()?)))
                .collect()
        };
        let (intended, made) = (calls(Boundary::AfterIntent("")), calls(Boundary::AfterCall("")));
        verdict.require(intended == made, || {
            format!("calls that were intended, {intended:?}, are not those that were made, {made:?}")
        });
        let with_effects: Vec<String> =
            sqlx::query_scalar("SELECT DISTINCT kind FROM effects JOIN jobs ON jobs.id = effects.job_id")
                .fetch_all(&testbed.pool)
                .await?;
        for kind in with_effects {
            verdict.require(intended.iter().any(|(of, _)| *of == kind), || {
                format!("{kind} has effects and came to no after-intent")
            });
        }
        let exchanges = testbed.sandbox("/_control/exchanges").await?;
        let asked: BTreeSet<&str> = exchanges.as_array().into_iter().flatten().filter_map(call_of).collect();
        verdict.require(!asked.is_empty(), || "nothing was asked of Stripe".to_owned());
        for call in asked {
            verdict.require(made.iter().any(|(_, name)| *name == call), || {
                format!("Stripe was asked for {call} and no job came to after-call:{call}")
            });
        }
        Ok(())
    }

    /// Whether everything is as it should be.
    async fn look(&self, testbed: &Testbed, verdict: &mut Verdict) -> Result<()> {
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
        audit::stars(testbed, verdict).await
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
}

/// What a request to Stripe asks for, as the worker names it; none for one that only looks.
fn call_of(exchange: &Value) -> Option<&str> {
    if exchange["method"] != "POST" {
        return None;
    }
    Some(match exchange["path"].as_str()?.rsplit('/').next()? {
        "payment_intents" => "create",
        "cancel" => "void",
        "refunds" => "refund",
        other => other,
    })
}
