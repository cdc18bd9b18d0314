//! The workers.

use askama::Template;
use poem::web::Data;
use poem::{Response, handler};
use roost_shared::jobs::overview;

use super::access::Signed;
use super::fault::Fault;
use super::params::Params;
use super::shell::{Shell, html};
use super::view::when;
use crate::state::AppState;

struct Row {
    name: String,
    host: String,
    version: String,
    queues: String,
    concurrency: i32,
    started: String,
    seen: String,
    running: i64,
    state: &'static str,
    quiet: bool,
    stop: bool,
}

#[derive(Template)]
#[template(path = "ops/workers.html")]
struct Page {
    shell: Shell,
    workers: Vec<Row>,
}

#[handler]
pub async fn page(state: Data<&AppState>, signed: Signed, params: Params) -> Result<Response, Fault> {
    // Postgres' clock wrote the instants; that of this process may be a little off.
    let now = state.clock.now();
    let workers = overview::workers(state.db.pool()).await?;
    html(&Page {
        shell: Shell::new(&signed, "workers", "Workers").with_notice(params.get("notice")),
        workers: workers
            .into_iter()
            .map(|worker| Row {
                state: match (worker.is_silent(), worker.stopped_at) {
                    (true, _) => "silent",
                    (false, Some(_)) => "stopped",
                    (false, None) => "alive",
                },
                queues: worker.queues.join(", "),
                concurrency: worker.concurrency,
                started: when(worker.started_at, now).to_string(),
                seen: when(worker.seen_at, now).to_string(),
                running: worker.running,
                quiet: worker.quiet,
                stop: worker.stop,
                version: worker.version,
                host: worker.host,
                name: worker.name,
            })
            .collect(),
    })
}
