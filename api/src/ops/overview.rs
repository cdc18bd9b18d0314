//! The first page: what is wrong, in ten seconds.

use askama::Template;
use chrono::{DateTime, TimeDelta, Utc};
use poem::web::Data;
use poem::{Response, handler};
use roost_shared::jobs::JobState;
use roost_shared::jobs::history::{History, Slice};
use roost_shared::jobs::list::STATES;
use roost_shared::jobs::overview::{self, KindFigures, QueueState, WorkerState};
use sqlx::PgPool;
use tokio::sync::Mutex;

use super::access::Signed;
use super::fault::Fault;
use super::live::Live;
use super::shell::{Shell, html};
use super::view::{bounded, count, span, to_breach};
use crate::state::AppState;

/// A due job that waits longer than this is trouble, in seconds.
const WAITING_TOO_LONG: f64 = 60.0;

/// Something that needs a person.
pub struct Alarm {
    /// What is wrong.
    pub title: String,
    /// What to do about it.
    pub advice: String,
    /// Where to do it.
    pub href: String,
}

/// A state and how many jobs are in it.
pub struct StateCount {
    /// The state.
    pub state: &'static str,
    /// How many, as written.
    pub count: String,
    /// Whether there are any.
    pub any: bool,
}

/// A chart of attempts over time: bars in a box of 100 units' height.
pub struct Chart {
    /// What it shows.
    pub title: &'static str,
    /// Its bars, the oldest first.
    pub bars: Vec<Bar>,
    /// The width of the box.
    pub width: usize,
    /// In all.
    pub total: String,
    /// Of those, failed.
    pub failed: String,
    /// The highest bar.
    pub highest: String,
    /// Whether nothing happened.
    pub empty: bool,
}

/// A slice of time.
pub struct Bar {
    /// From the left.
    pub x: usize,
    /// From the top.
    pub ok_y: i64,
    /// Of what succeeded.
    pub ok_height: i64,
    /// From the top.
    pub bad_y: i64,
    /// Of what failed.
    pub bad_height: i64,
    /// When and how many, for a pointer that rests on it.
    pub label: String,
}

const BAR: usize = 10;

impl Chart {
    fn of(title: &'static str, slices: &[Slice]) -> Self {
        let highest = slices
            .iter()
            .map(|slice| slice.succeeded + slice.failed)
            .max()
            .unwrap_or(0);
        let scale = highest.max(1);
        let bars = slices
            .iter()
            .enumerate()
            .map(|(at, slice)| {
                // What there is can be seen, however little it is beside the highest.
                let height = |value: i64| {
                    if value == 0 { 0 } else { (value * 100 / scale).max(2) }
                };
                let (ok, bad) = (height(slice.succeeded), height(slice.failed));
                let ok = ok.min(100 - bad);
                Bar {
                    x: at * BAR,
                    ok_y: 100 - bad - ok,
                    ok_height: ok,
                    bad_y: 100 - bad,
                    bad_height: bad,
                    label: format!(
                        "{} UTC: {} succeeded, {} failed",
                        slice.at.format("%H:%M"),
                        slice.succeeded,
                        slice.failed
                    ),
                }
            })
            .collect();
        let failed: i64 = slices.iter().map(|slice| slice.failed).sum();
        let total = failed + slices.iter().map(|slice| slice.succeeded).sum::<i64>();
        Self {
            title,
            bars,
            width: slices.len() * BAR,
            total: count(total),
            failed: count(failed),
            highest: count(highest),
            empty: total == 0,
        }
    }
}

/// All that the page shows and the live stream renews.
#[derive(Template)]
#[template(path = "ops/board.html")]
pub struct Board {
    alarms: Vec<Alarm>,
    states: Vec<StateCount>,
    charts: Vec<Chart>,
    queues: Vec<QueueState>,
    kinds: Vec<KindFigures>,
    alive: usize,
    running: i64,
    at: DateTime<Utc>,
}

impl Board {
    /// Reads it all.
    ///
    /// # Errors
    /// Postgres could not be reached.
    pub async fn read(pool: &PgPool, history: &Mutex<History>) -> Result<Self, sqlx::Error> {
        let counts = overview::counts(&mut *pool.acquire().await?, JobState::ALL).await?;
        let queues = overview::queues(pool).await?;
        let workers = overview::workers(pool).await?;
        let trouble = overview::trouble(pool).await?;
        let (hour, day) = {
            let mut history = history.lock().await;
            history.renew(pool).await?;
            (
                history.slices(60, TimeDelta::minutes(1)),
                history.slices(96, TimeDelta::minutes(15)),
            )
        };
        let kinds = overview::kinds(pool).await?;
        let at = sqlx::query_scalar!(r#"SELECT now() AS "now!""#).fetch_one(pool).await?;
        let states = STATES
            .into_iter()
            .map(|state| {
                let of_state = counts.iter().filter(|one| one.state == state);
                let total: i64 = of_state.map(|one| one.count).sum();
                StateCount {
                    state,
                    count: bounded(total),
                    any: total > 0,
                }
            })
            .collect();
        Ok(Self {
            alarms: alarms(&queues, &workers, trouble),
            states,
            charts: vec![
                Chart::of("Last hour, by the minute", &hour),
                Chart::of("Last day, by the quarter of an hour", &day),
            ],
            running: queues.iter().map(|queue| queue.running).sum(),
            queues,
            kinds,
            alive: workers.iter().filter(|worker| worker.is_alive()).count(),
            at,
        })
    }
}

fn alarms(queues: &[QueueState], workers: &[WorkerState], trouble: overview::Trouble) -> Vec<Alarm> {
    let mut alarms = Vec::new();
    let mut alarm = |title: String, advice: &str, href: String| {
        alarms.push(Alarm {
            title,
            advice: advice.to_owned(),
            href,
        });
    };
    if !workers.iter().any(WorkerState::is_alive) {
        alarm(
            "No worker is alive".to_owned(),
            "Nothing runs until one starts; jobs wait safely meanwhile.",
            "/ops/workers".to_owned(),
        );
    }
    for queue in queues {
        let served = workers
            .iter()
            .any(|worker| worker.is_alive() && worker.queues.contains(&queue.name));
        if queue.paused {
            alarm(
                format!("{} is paused", queue.name),
                "Jobs wait until somebody resumes it.",
                "/ops/queues".to_owned(),
            );
        } else if queue.due > 0 && !served {
            alarm(
                format!("Nobody works on {}", queue.name),
                "No living worker takes this queue: start one with it among its --queues.",
                "/ops/workers".to_owned(),
            );
        } else if queue.due > 0 && queue.seconds_to_breach() < 0.0 {
            alarm(
                format!("{} is behind: {} waiting", queue.name, span(queue.oldest_due_seconds)),
                if queue.limited {
                    "It, or one of its kinds, is limited: see its limits on the queues page."
                } else if queue.publish_lag_seconds > WAITING_TOO_LONG {
                    "Jobs do not reach Redis: is it up? Workers publish them as soon as it is."
                } else {
                    "More workers, or something that each of its jobs waits for."
                },
                format!("/ops/jobs?queue={}&state=queued", queue.name),
            );
        }
    }
    if trouble.unknown_effects > 0 {
        alarm(
            several(
                trouble.unknown_effects,
                "call with an unknown outcome",
                "calls with an unknown outcome",
            ),
            "Their jobs try again under the same key. If they stay, ask Stripe on the job's page.",
            "/ops/jobs?state=retrying&state=dead&state=cancelled".to_owned(),
        );
    }
    if trouble.died_today > 0 {
        alarm(
            several(trouble.died_today, "job died within a day", "jobs died within a day"),
            "Look at their errors; retry them when the cause is gone.",
            "/ops/jobs?state=dead&state=quarantined".to_owned(),
        );
    }
    if trouble.overdue_leases > 0 {
        alarm(
            several(
                trouble.overdue_leases,
                "running job has lost its worker",
                "running jobs have lost their worker",
            ),
            "They are taken back within seconds if any worker is alive.",
            "/ops/jobs?state=running".to_owned(),
        );
    }
    alarms
}

fn several(number: i64, one: &str, many: &str) -> String {
    format!("{} {}", bounded(number), if number == 1 { one } else { many })
}

#[derive(Template)]
#[template(path = "ops/overview.html")]
struct Page {
    shell: Shell,
    board: String,
}

#[handler]
pub async fn page(state: Data<&AppState>, live: Data<&Live>, signed: Signed) -> Result<Response, Fault> {
    let board = Board::read(state.db.pool(), live.history()).await?;
    html(&Page {
        shell: Shell::new(&signed, "overview", "Overview"),
        board: board.render()?,
    })
}
