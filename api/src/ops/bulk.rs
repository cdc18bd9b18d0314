//! Acting on many jobs: the ticked ones at once, or all that match a filter by a job in the background. Both show what
//! they would do first.

use askama::Template;
use chrono::{DateTime, Utc};
use poem::http::{StatusCode, header};
use poem::web::{Data, Path};
use poem::{Response, handler};
use roost_shared::jobs::Outlook;
use roost_shared::jobs::actions::{self, ActionError, JobAction};
use roost_shared::jobs::bulk::{self, BulkAction};
use roost_shared::jobs::kinds;
use roost_shared::jobs::list::{self, JobFilter, JobRow, KindCount};
use roost_shared::jobs::preview::{self, Previewed};
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

/// Jobs of the preview that are told one by one, where not all are.
pub(super) const SHOWN: i64 = 10;

/// A job and what would become of it.
struct Told {
    row: Row,
    lines: Vec<Outlook>,
    fits: bool,
}

impl Told {
    fn of(previewed: Previewed, now: DateTime<Utc>) -> Self {
        Self {
            row: Row::of(&previewed.job, now),
            lines: previewed.lines,
            fits: previewed.fits,
        }
    }
}

/// How many of a kind.
struct KindLine {
    kind: String,
    count: String,
    moves_money: bool,
}

impl From<KindCount> for KindLine {
    fn from(kind: KindCount) -> Self {
        Self {
            moves_money: kinds::moves_money(&kind.kind),
            count: count(kind.count),
            kind: kind.kind,
        }
    }
}

#[derive(Template)]
#[template(path = "ops/preview.html")]
struct Page {
    shell: Shell,
    action: &'static str,
    /// The ticked ones, or the first of those that match.
    jobs: Vec<Told>,
    /// How many there are, and of which kinds; of ticked ones no kinds, each is told.
    expected: i64,
    expected_text: String,
    kinds: Vec<KindLine>,
    /// Whether jobs that are scheduled are not among them, because nobody asked for them.
    leaves_scheduled: bool,
    /// What is said if more belongs to the id that was searched for than is acted on.
    cut: Option<&'static str>,
    by_filter: bool,
    filter: String,
    needs_reason: bool,
}

fn action_of(params: &Params) -> Result<JobAction, Fault> {
    let name = params.get("action").unwrap_or_default();
    JobAction::by_name(name).ok_or_else(|| Fault::Bad(format!("action: {name:?} is none")))
}

/// The ticked jobs as a filter.
fn ticked(params: &Params) -> Result<JobFilter, Fault> {
    let ids = params.all("id");
    let filter = JobFilter {
        ids: ids
            .map(|id| id.parse().map_err(|_| Fault::Bad(format!("id: {id:?} is no job's id"))))
            .collect::<Result<_, _>>()?,
        ..JobFilter::default()
    };
    if filter.ids.is_empty() {
        return Err(Fault::Bad("Tick some jobs first.".to_owned()));
    }
    filter.check()?;
    Ok(filter)
}

#[handler]
pub async fn preview_page(state: Data<&AppState>, signed: Signed, params: Params) -> Result<Response, Fault> {
    let action = action_of(&params)?;
    signed.require(role_for(action))?;
    let (pool, now) = (state.db.pool(), state.clock.now());
    let shell = Shell::new(&signed, "jobs", format!("{} many", action.name()));
    if params.get("all").is_some() {
        // A span of time becomes an instant here: what is shown is what is acted on.
        let filter = filter::read(&params, now)?;
        let preview = preview::preview(pool, &filter, action, SHOWN).await?;
        return html(&Page {
            shell,
            action: action.name(),
            jobs: preview.sample.into_iter().map(|job| Told::of(job, now)).collect(),
            expected: preview.expected,
            expected_text: count(preview.expected),
            kinds: preview.kinds.into_iter().map(KindLine::from).collect(),
            leaves_scheduled: preview.leaves_scheduled,
            cut: preview.cut.then_some(list::CUT),
            by_filter: true,
            filter: filter::write(&filter, None),
            needs_reason: preview.needs_reason,
        });
    }
    let jobs = preview::selected(pool, &ticked(&params)?, action).await?;
    let fitting = jobs.iter().filter(|job| job.fits);
    let expected = fitting.clone().count();
    html(&Page {
        shell,
        action: action.name(),
        expected: i64::try_from(expected).unwrap_or(i64::MAX),
        expected_text: expected.to_string(),
        needs_reason: fitting.clone().any(|job| kinds::moves_money(&job.job.kind)),
        jobs: jobs.into_iter().map(|job| Told::of(job, now)).collect(),
        kinds: Vec::new(),
        leaves_scheduled: false,
        cut: None,
        by_filter: false,
        filter: String::new(),
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
    let ticked = ticked(form)?;
    // Before the first is acted on: a refusal leaves none of them changed.
    let most = i64::try_from(ticked.ids.len()).unwrap_or(i64::MAX);
    let jobs = list::list(state.db.pool(), &ticked, None, most).await?;
    let fitting = |job: &&JobRow| action.fits(&job.state);
    let moves_money = jobs.iter().filter(fitting).any(|job| kinds::moves_money(&job.kind));
    submission.by().answerable(moves_money)?;
    let (mut done, mut refused) = (0, 0);
    for id in ticked.ids {
        let mut tx = state.db.begin().await?;
        // Actions on many jobs are carried on one by one.
        if matches!(action, JobAction::Retry | JobAction::RunNow) && bulk::carried_on_by(&mut tx, id).await?.is_some() {
            refused += 1;
            continue;
        }
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
struct ProgressPage {
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
    html(&ProgressPage {
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
