//! Acting on many jobs: the ticked ones at once, or all that match a filter by a job in the background. Both show what
//! they would do first.

use askama::Template;
use chrono::{DateTime, Utc};
use poem::http::{StatusCode, header};
use poem::web::{Data, Path};
use poem::{Response, handler};
use roost_shared::jobs::actions::{self, ActionError, JobAction};
use roost_shared::jobs::bulk::{self, BulkAction};
use roost_shared::jobs::inspect;
use roost_shared::jobs::kinds;
use roost_shared::jobs::list;
use roost_shared::operators::Role;
use uuid::Uuid;

use super::access::{Signed, Submission};
use super::acting::role_for;
use super::fault::Fault;
use super::filter;
use super::jobs::Row;
use super::params::Params;
use super::shell::{Shell, html};
use super::view::{count, when};
use crate::state::AppState;

/// More are not ticked one by one.
const MOST_TICKED: usize = 100;
/// Rows of the preview.
pub(super) const SHOWN: i64 = 10;

/// A ticked job and what would become of it.
struct Ticked {
    id: String,
    kind: String,
    state: String,
    outlook: String,
    fits: bool,
}

#[derive(Template)]
#[template(path = "ops/preview.html")]
struct Preview {
    shell: Shell,
    action: &'static str,
    /// By tick.
    ticked: Vec<Ticked>,
    /// By filter: the first of them, and how many there are.
    rows: Vec<Row>,
    expected: i64,
    expected_text: String,
    /// Whether jobs that are scheduled are not among them, because nobody asked for them.
    leaves_scheduled: bool,
    by_filter: bool,
    filter: String,
    needs_reason: bool,
}

fn action_of(params: &Params) -> Result<JobAction, Fault> {
    let name = params.get("action").unwrap_or_default();
    JobAction::by_name(name).ok_or_else(|| Fault::Bad(format!("action: {name:?} is none")))
}

fn ticked_ids(params: &Params) -> Result<Vec<Uuid>, Fault> {
    let ids: Vec<Uuid> = params
        .all("id")
        .map(|id| id.parse().map_err(|_| Fault::Bad(format!("id: {id:?} is no job's id"))))
        .collect::<Result<_, _>>()?;
    if ids.len() > MOST_TICKED {
        return Err(Fault::Bad(format!("At most {MOST_TICKED} jobs can be ticked.")));
    }
    Ok(ids)
}

#[handler]
pub async fn preview(state: Data<&AppState>, signed: Signed, params: Params) -> Result<Response, Fault> {
    let action = action_of(&params)?;
    signed.require(role_for(action))?;
    let pool = state.db.pool();
    let now = state.clock.now();
    let title = format!("{} many", action.name());
    let shell = Shell::new(&signed, "jobs", title);
    if params.get("all").is_some() {
        // A span of time becomes an instant here: what is shown is what is acted on.
        let filter = filter::read(&params, now)?;
        let narrowed = bulk::narrowed(&filter, action);
        let expected = list::count(pool, &narrowed).await?;
        let rows = list::list(pool, &narrowed, None, SHOWN).await?;
        return html(&Preview {
            shell,
            action: action.name(),
            ticked: Vec::new(),
            rows: rows.iter().map(|job| Row::of(job, now)).collect(),
            leaves_scheduled: action == JobAction::RunNow && filter.states.is_empty(),
            expected,
            expected_text: count(expected),
            by_filter: true,
            filter: filter::write(&filter, None),
            needs_reason: true,
        });
    }
    let mut ticked = Vec::new();
    let mut needs_reason = false;
    for id in ticked_ids(&params)? {
        if let Some(detail) = inspect::inspect(pool, id).await? {
            needs_reason |= kinds::moves_money(&detail.job.kind);
            let fits = action.fits(&detail.job.state);
            let outlook = match (action, detail.outlook.first()) {
                _ if !fits => format!("It is {}: nothing is done to it.", detail.job.state),
                (JobAction::Retry | JobAction::RunNow, Some(line)) => line.text.clone(),
                (JobAction::Cancel, _) => "It will not run; what it has done stays done.".to_owned(),
                (JobAction::Delete, _) => "It and its attempts are removed; its effects stay.".to_owned(),
                (_, None) => String::new(),
            };
            ticked.push(Ticked {
                id: id.to_string(),
                kind: detail.job.kind,
                state: detail.job.state,
                outlook,
                fits,
            });
        }
    }
    if ticked.is_empty() {
        return Err(Fault::Bad("Tick some jobs first.".to_owned()));
    }
    let expected = ticked.iter().filter(|job| job.fits).count();
    html(&Preview {
        shell,
        action: action.name(),
        rows: Vec::new(),
        expected: i64::try_from(expected).unwrap_or(i64::MAX),
        expected_text: expected.to_string(),
        ticked,
        leaves_scheduled: false,
        by_filter: false,
        filter: String::new(),
        needs_reason,
    })
}

#[handler]
pub async fn begin(state: Data<&AppState>, submission: Submission) -> Result<Response, Fault> {
    let form = &submission.form;
    let action = action_of(form)?;
    submission.signed.require(role_for(action))?;
    if let Some(query) = form.all("filter").next().filter(|_| form.get("all").is_some()) {
        let filter = filter::read(&Params::parse(query.as_bytes()), state.clock.now())?;
        let expected = form.parsed("expected")?.unwrap_or(0);
        let mut tx = state.db.begin().await?;
        let id = bulk::begin(&mut tx, &filter, action, expected, submission.by()).await?;
        tx.commit().await?;
        return Ok(Response::builder()
            .status(StatusCode::SEE_OTHER)
            .header(header::LOCATION, format!("/ops/bulk/{id}"))
            .finish());
    }
    let (mut done, mut refused) = (0, 0);
    for id in ticked_ids(form)? {
        let mut tx = state.db.begin().await?;
        match actions::act(&mut tx, id, action, submission.by()).await {
            Ok(_) => {
                tx.commit().await?;
                done += 1;
            }
            // Somebody was faster, or another job does its work: the others are acted on all the same.
            Err(ActionError::WrongState { .. } | ActionError::Duplicate | ActionError::NotFound(_)) => refused += 1,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(super::acting::back(
        "/ops/jobs",
        &format!("{}: done to {done}, {refused} had moved on.", action.name()),
    ))
}

#[derive(Template)]
#[template(path = "ops/bulk.html")]
struct Page {
    shell: Shell,
    bulk: BulkAction,
    badge: &'static str,
    filter: String,
    created: String,
    finished: Option<String>,
    left: String,
}

fn bulk_id(text: &str) -> Result<Uuid, Fault> {
    text.parse().map_err(|_| Fault::NotFound("bulk action"))
}

/// The look of an action's state.
fn badge(bulk: &BulkAction) -> &'static str {
    match bulk.state.as_str() {
        "finished" => "succeeded",
        "stopped" => "paused",
        _ => "running",
    }
}

#[handler]
pub async fn page(
    state: Data<&AppState>,
    signed: Signed,
    Path(id): Path<String>,
    params: Params,
) -> Result<Response, Fault> {
    let bulk = bulk::find(state.db.pool(), bulk_id(&id)?)
        .await?
        .ok_or(Fault::NotFound("bulk action"))?;
    let now = state.clock.now();
    let worked = bulk.done + bulk.refused;
    html(&Page {
        shell: Shell::new(&signed, "jobs", format!("{} in bulk", bulk.action)).with_notice(params.get("notice")),
        badge: badge(&bulk),
        filter: bulk.filter.to_string(),
        created: when(bulk.created_at, now).to_string(),
        finished: bulk.finished_at.map(|at| when(at, now).to_string()),
        left: count((bulk.expected - worked).max(0)),
        bulk,
    })
}

#[handler]
pub async fn stop(state: Data<&AppState>, Path(id): Path<String>, submission: Submission) -> Result<Response, Fault> {
    submission.signed.require(Role::Operator)?;
    let id = bulk_id(&id)?;
    let mut tx = state.db.begin().await?;
    bulk::stop(&mut tx, id, submission.by()).await?;
    tx.commit().await?;
    Ok(super::acting::back(
        &format!("/ops/bulk/{id}"),
        "Stopped: no job more is acted on. What was done stays done.",
    ))
}

/// A bulk action as one line of the job list's page.
pub(super) struct Line {
    pub id: String,
    pub action: String,
    pub state: String,
    pub badge: &'static str,
    pub percent: i64,
    pub done: String,
    pub expected: String,
    pub actor: String,
    pub reason: String,
    pub created: String,
}

impl Line {
    pub fn of(bulk: BulkAction, now: DateTime<Utc>) -> Self {
        Self {
            id: bulk.id.to_string(),
            badge: badge(&bulk),
            percent: bulk.percent(),
            done: count(bulk.done),
            expected: count(bulk.expected),
            created: when(bulk.created_at, now).to_string(),
            reason: bulk.reason.unwrap_or_default(),
            action: bulk.action,
            state: bulk.state,
            actor: bulk.actor,
        }
    }
}
