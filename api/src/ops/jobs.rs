//! The job list: any filter, in the URL, over all jobs there are.

use askama::Template;
use poem::web::Data;
use poem::{Response, handler};
use roost_shared::jobs::Queue;
use roost_shared::jobs::bulk::newest as newest_bulk;
use roost_shared::jobs::kinds::{self, KINDS};
use roost_shared::jobs::list::{self, JobRow, STATES};

use super::access::Signed;
use super::bulk;
use super::fault::Fault;
use super::filter::{self, Bound, SINCE};
use super::params::Params;
use super::shell::{Shell, html};
use super::view::{brief, cut, most_attempts, when};
use crate::state::AppState;

const PAGE: i64 = 50;
/// Actions on all that matched, below the jobs.
const BULK: i64 = 5;

/// A job as one line.
pub struct Row {
    pub id: String,
    pub kind: String,
    pub state: String,
    pub args: String,
    /// All of them, masked.
    pub full_args: String,
    pub attempts: String,
    pub when: String,
    pub verb: &'static str,
    pub error: String,
    pub full_error: String,
    pub stopping: bool,
}

impl Row {
    /// As seen at `now`.
    #[must_use]
    pub fn of(job: &JobRow, now: chrono::DateTime<chrono::Utc>) -> Self {
        let (verb, at) = match job.state.as_str() {
            "scheduled" | "retrying" => ("due", job.run_at),
            "queued" => ("due since", job.run_at),
            "running" => ("began", job.started_at.unwrap_or(job.created_at)),
            _ => ("ended", job.finished_at.unwrap_or(job.created_at)),
        };
        let error = job.last_error.clone().unwrap_or_default();
        let args = kinds::masked(&job.kind, &job.args);
        Self {
            id: job.id.to_string(),
            args: cut(&brief(&args), 80),
            full_args: args.to_string(),
            kind: job.kind.clone(),
            state: job.state.clone(),
            attempts: format!("{}/{}", job.attempt, most_attempts(job.max_attempts)),
            when: when(at, now).to_string(),
            verb,
            error: cut(&error, 120),
            full_error: error,
            stopping: job.cancel_requested && job.state == "running",
        }
    }
}

/// An option of a select.
struct Choice {
    value: String,
    label: String,
    on: bool,
}

fn choice(value: &str, label: &str, on: bool) -> Choice {
    Choice {
        value: value.to_owned(),
        label: label.to_owned(),
        on,
    }
}

/// With what the URL asks for as the last choice, if it is none of them: the form says all that the list is filtered by,
/// and its next change drops nothing.
fn with_asked(mut choices: Vec<Choice>, asked: Option<&str>) -> Vec<Choice> {
    if let Some(asked) = asked
        && !choices.iter().any(|choice| choice.on)
    {
        choices.push(choice(asked, asked, true));
    }
    choices
}

#[derive(Template)]
#[template(path = "ops/jobs.html")]
struct Page {
    shell: Shell,
    rows: Vec<Row>,
    states: Vec<Choice>,
    kinds: Vec<Choice>,
    queues: Vec<Choice>,
    spans: Vec<Choice>,
    tries: Vec<Choice>,
    effects: Vec<Choice>,
    worker: Option<String>,
    /// `since` stands for `from`.
    from: Bound,
    to: Bound,
    q: String,
    /// The filter as a query string, for links that keep it.
    kept: String,
    filtered: bool,
    older: Option<String>,
    paged: bool,
    refusal: Option<String>,
    /// What is said if more belongs to the id that was searched for than the list is of.
    cut: Option<&'static str>,
    /// The newest actions on all that matched, and how many of them go on.
    bulk: Vec<bulk::Line>,
    bulk_running: usize,
}

#[handler]
pub async fn page(state: Data<&AppState>, signed: Signed, params: Params) -> Result<Response, Fault> {
    let now = state.clock.now();
    let since = params.get("since");
    let before = params.parsed("before")?;
    // What a filter says that makes no sense is told above an empty list, with the filter as it was written.
    let (filter, mut refusal) = match filter::read(&params, now) {
        Ok(filter) => (filter, None),
        Err(Fault::Bad(message)) => (list::JobFilter::default(), Some(message)),
        Err(fault) => return Err(fault),
    };
    let page = if refusal.is_none() {
        list::page(state.db.pool(), &filter, before, PAGE).await
    } else {
        Ok(list::Page::default())
    };
    let list::Page { jobs: rows, cut } = match page {
        Ok(page) => page,
        Err(error @ list::ListError::TooSlow) => {
            refusal = Some(error.to_string());
            list::Page::default()
        }
        Err(error) => return Err(error.into()),
    };
    let full = i64::try_from(rows.len()).is_ok_and(|rows| rows == PAGE);
    let bulk = newest_bulk(state.db.pool(), BULK).await?;
    let kept = filter::write(&filter, since);
    let asked = |name: &str, value: &str| {
        params
            .all(name)
            .any(|given| given.split(',').any(|given| given == value))
    };
    html(&Page {
        shell: Shell::new(&signed, "jobs", "Jobs").with_notice(params.get("notice")),
        states: STATES
            .iter()
            .map(|name| choice(name, name, asked("state", name)))
            .collect(),
        kinds: with_asked(
            KINDS
                .iter()
                .map(|kind| choice(kind.name, kind.name, asked("kind", kind.name)))
                .collect(),
            params.get("kind"),
        ),
        queues: Queue::ALL
            .iter()
            .map(|queue| choice(queue.name(), queue.name(), asked("queue", queue.name())))
            .collect(),
        spans: SINCE
            .iter()
            .map(|(value, label)| choice(value, label, since == Some(*value)))
            .collect(),
        tries: with_asked(
            ["2", "5", "10", "50"]
                .iter()
                .map(|tries| {
                    choice(
                        tries,
                        &format!("{tries} or more"),
                        params.get("attempts") == Some(*tries),
                    )
                })
                .collect(),
            params.get("attempts"),
        ),
        effects: vec![choice("unknown", "outcome unknown", asked("effect", "unknown"))],
        worker: params.get("worker").map(str::to_owned),
        from: Bound::of(params.get("from").filter(|_| since.is_none())),
        to: Bound::of(params.get("to")),
        q: params.get("q").unwrap_or_default().to_owned(),
        older: rows
            .last()
            .filter(|_| full)
            .map(|last| joined(&kept, &format!("before={}", last.id))),
        rows: rows.iter().map(|job| Row::of(job, now)).collect(),
        filtered: !filter.is_empty() || refusal.is_some(),
        kept,
        paged: before.is_some(),
        refusal,
        cut: cut.then_some(list::CUT),
        bulk_running: bulk.iter().filter(|bulk| bulk.state == "running").count(),
        bulk: bulk.into_iter().map(|bulk| bulk::Line::of(bulk, now)).collect(),
    })
}

fn joined(kept: &str, more: &str) -> String {
    if kept.is_empty() {
        format!("/ops/jobs?{more}")
    } else {
        format!("/ops/jobs?{kept}&{more}")
    }
}
