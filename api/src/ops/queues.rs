//! The queues and the cron table.

use askama::Template;
use poem::web::Data;
use poem::{Response, handler};
use roost_shared::jobs::kinds::{self, KINDS};
use roost_shared::jobs::overview::{self, LimitedKind, QueueState};
use roost_shared::jobs::retention;
use roost_shared::jobs::schedules;
use roost_shared::jobs::settings::queue_moves_money;

use super::access::Signed;
use super::fault::Fault;
use super::params::Params;
use super::shell::{Shell, html};
use super::view::{bounded, span, to_breach, when};
use crate::state::AppState;

struct Row {
    state: QueueState,
    kinds: String,
    workers: usize,
    moves_money: bool,
    to_breach: String,
    target: String,
    concurrency: String,
    rate_limit: String,
    rate: Option<String>,
}

/// A kind and its limits; empty: none.
struct KindRow {
    name: &'static str,
    queue: &'static str,
    moves_money: bool,
    concurrency: String,
    rate_limit: String,
    rate_seconds: i32,
    rate: Option<String>,
}

struct KeptRow {
    state: String,
    text: String,
    days: i32,
}

#[derive(Template)]
#[template(path = "ops/queues.html")]
struct Page {
    shell: Shell,
    queues: Vec<Row>,
    kinds: Vec<KindRow>,
    kept: Vec<KeptRow>,
}

/// A limit in a field of a form.
fn field(limit: Option<i32>) -> String {
    limit.map_or_else(String::new, |limit| limit.to_string())
}

/// `20 in 1.0 s`
fn rate(limit: Option<i32>, seconds: i32) -> Option<String> {
    limit.map(|limit| format!("{limit} in {}", span(f64::from(seconds))))
}

fn kind_rows(limited: &[LimitedKind]) -> Vec<KindRow> {
    KINDS
        .iter()
        .map(|kind| {
            let limits = limited.iter().find(|limited| limited.name == kind.name);
            let rate_limit = limits.and_then(|limits| limits.rate_limit);
            let rate_seconds = limits.map_or(1, |limits| limits.rate_seconds);
            KindRow {
                name: kind.name,
                queue: kind.queue.name(),
                moves_money: kind.moves_money,
                concurrency: field(limits.and_then(|limits| limits.concurrency)),
                rate_limit: field(rate_limit),
                rate: rate(rate_limit, rate_seconds),
                rate_seconds,
            }
        })
        .collect()
}

#[handler]
pub async fn page(state: Data<&AppState>, signed: Signed, params: Params) -> Result<Response, Fault> {
    let workers = overview::workers(state.db.pool()).await?;
    let queues = overview::queues(state.db.pool()).await?;
    let queues = queues
        .into_iter()
        .map(|queue| {
            let kinds: Vec<&str> = KINDS
                .iter()
                .filter(|kind| kind.queue.name() == queue.name)
                .map(|kind| kind.name)
                .collect();
            Row {
                kinds: kinds.join(", "),
                workers: workers
                    .iter()
                    .filter(|worker| worker.takes_jobs() && worker.queues.contains(&queue.name))
                    .count(),
                moves_money: queue_moves_money(&queue.name),
                to_breach: to_breach(&queue),
                target: span(f64::from(queue.target_seconds)),
                concurrency: field(queue.concurrency),
                rate_limit: field(queue.rate_limit),
                rate: rate(queue.rate_limit, queue.rate_seconds),
                state: queue,
            }
        })
        .collect();
    let kept = retention::kept(state.db.pool()).await?;
    html(&Page {
        shell: Shell::new(&signed, "queues", "Queues").with_notice(params.get("notice")),
        queues,
        kinds: kind_rows(&overview::limited_kinds(state.db.pool()).await?),
        kept: kept
            .into_iter()
            .map(|kept| KeptRow {
                text: span(f64::from(kept.seconds)),
                days: (kept.seconds / 86_400).max(1),
                state: kept.state,
            })
            .collect(),
    })
}

struct Line {
    name: String,
    expression: String,
    /// What an operator wrote in its place.
    changed_to: Option<String>,
    moves_money: bool,
    paused: bool,
    next: Option<String>,
    last: Option<String>,
}

#[derive(Template)]
#[template(path = "ops/schedules.html")]
struct SchedulesPage {
    shell: Shell,
    schedules: Vec<Line>,
}

#[handler]
pub async fn schedules_page(state: Data<&AppState>, signed: Signed, params: Params) -> Result<Response, Fault> {
    let now = state.clock.now();
    let schedules = schedules::all(state.db.pool()).await?;
    html(&SchedulesPage {
        shell: Shell::new(&signed, "schedules", "Schedules").with_notice(params.get("notice")),
        schedules: schedules
            .into_iter()
            .map(|line| Line {
                next: line.next_tick.map(|at| when(at, now).to_string()),
                last: line.last_tick.map(|at| when(at, now).to_string()),
                paused: line.paused,
                moves_money: kinds::moves_money(&line.name),
                name: line.name,
                changed_to: (line.expression != line.default_expression).then_some(line.expression),
                expression: line.default_expression,
            })
            .collect(),
    })
}
