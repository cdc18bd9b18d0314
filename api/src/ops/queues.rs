//! The queues and the cron table.

use askama::Template;
use poem::web::Data;
use poem::{Response, handler};
use roost_shared::jobs::kinds::KINDS;
use roost_shared::jobs::overview::{self, QueueState};

use super::access::Signed;
use super::fault::Fault;
use super::params::Params;
use super::shell::{Shell, html};
use super::view::{bounded, span, when};
use crate::state::AppState;

struct Row {
    state: QueueState,
    kinds: String,
    workers: usize,
    moves_money: bool,
}

#[derive(Template)]
#[template(path = "ops/queues.html")]
struct Page {
    shell: Shell,
    queues: Vec<Row>,
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
                    .filter(|worker| worker.is_alive() && worker.queues.contains(&queue.name))
                    .count(),
                moves_money: matches!(queue.name.as_str(), "payments" | "confirmation"),
                state: queue,
            }
        })
        .collect();
    html(&Page {
        shell: Shell::new(&signed, "queues", "Queues").with_notice(params.get("notice")),
        queues,
    })
}

struct Line {
    name: String,
    expression: String,
    next: String,
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
    let schedules = overview::schedules(state.db.pool()).await?;
    html(&SchedulesPage {
        shell: Shell::new(&signed, "schedules", "Schedules").with_notice(params.get("notice")),
        schedules: schedules
            .into_iter()
            .map(|line| Line {
                next: when(line.next_tick, now).to_string(),
                last: line.last_tick.map(|at| when(at, now).to_string()),
                name: line.name,
                expression: line.expression,
            })
            .collect(),
    })
}
