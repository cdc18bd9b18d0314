//! The buttons: each takes a form, has the rule in `roost_shared` decide, and goes back with what it came to.

use poem::http::{StatusCode, header};
use poem::web::{Data, Path};
use poem::{Response, handler};
use roost_shared::db::Tx;
use roost_shared::jobs::actions::{self, JobAction};
use roost_shared::jobs::{bulk, inspect, inspections};
use roost_shared::operators::Role;
use uuid::Uuid;

use super::access::Submission;
use super::fault::Fault;
use crate::state::AppState;

/// The least role for seeing the arguments of a job as they are, and replacing them.
pub(super) const EDITOR: Role = Role::Admin;

/// The least role for an action on a job.
#[must_use]
pub fn role_for(action: JobAction) -> Role {
    match action {
        JobAction::Retry | JobAction::RunNow | JobAction::Cancel => Role::Operator,
        JobAction::Delete => Role::Admin,
    }
}

/// The same for an action on one job. What carries on an action on many takes the role of that action.
///
/// # Errors
/// Postgres could not be reached.
pub async fn role_for_job(tx: &mut Tx, action: JobAction, id: Uuid) -> Result<Role, sqlx::Error> {
    let carries_on = match action {
        JobAction::Retry | JobAction::RunNow => bulk::carried_on_by(tx, id).await?,
        JobAction::Cancel | JobAction::Delete => None,
    };
    // One of a later build may be anything.
    let carried = carries_on.map(|name| JobAction::by_name(&name).map_or(Role::Admin, role_for));
    Ok(role_for(action).max(carried.unwrap_or(Role::Viewer)))
}

/// Goes to a page with a word about what was done.
pub(super) fn back(path: &str, notice: &str) -> Response {
    let notice: String = form_urlencoded::byte_serialize(notice.as_bytes()).collect();
    Response::builder()
        .status(StatusCode::SEE_OTHER)
        .header(header::LOCATION, format!("{path}?notice={notice}"))
        .finish()
}

fn job_id(text: &str) -> Result<Uuid, Fault> {
    text.parse().map_err(|_| Fault::NotFound("job"))
}

/// What is said after an action.
fn told(action: JobAction, state: &str) -> &'static str {
    match (action, state) {
        (JobAction::Retry | JobAction::RunNow, _) => "Queued: it runs as soon as a worker takes it.",
        (JobAction::Cancel, "running") => "Asked the worker to stop it, which takes a few seconds.",
        (JobAction::Cancel, _) => "Cancelled.",
        (JobAction::Delete, _) => "Deleted. Its effects and the audit log stay.",
    }
}

#[handler]
pub async fn act(
    state: Data<&AppState>,
    Path((id, action)): Path<(String, String)>,
    submission: Submission,
) -> Result<Response, Fault> {
    let action = JobAction::by_name(&action).ok_or(Fault::NotFound("action"))?;
    submission.signed.require(role_for(action))?;
    let id = job_id(&id)?;
    let mut tx = state.db.begin().await?;
    submission.signed.require(role_for_job(&mut tx, action, id).await?)?;
    let now = actions::act(&mut tx, id, action, submission.by()).await?;
    tx.commit().await?;
    let path = if action == JobAction::Delete {
        "/ops/jobs".to_owned()
    } else {
        format!("/ops/jobs/{id}")
    };
    Ok(back(&path, told(action, &now)))
}

#[handler]
pub async fn ask(state: Data<&AppState>, Path(id): Path<String>, submission: Submission) -> Result<Response, Fault> {
    submission.signed.require(Role::Operator)?;
    let id = job_id(&id)?;
    let detail = inspect::inspect(state.db.pool(), id)
        .await?
        .ok_or(Fault::NotFound("job"))?;
    let mut tx = state.db.begin().await?;
    inspections::ask(&mut tx, &detail, submission.by()).await?;
    tx.commit().await?;
    Ok(back(
        &format!("/ops/jobs/{id}"),
        "Asked: the answer comes as soon as a worker has looked.",
    ))
}

#[handler]
pub async fn edit(state: Data<&AppState>, Path(id): Path<String>, submission: Submission) -> Result<Response, Fault> {
    submission.signed.require(EDITOR)?;
    let id = job_id(&id)?;
    let text = submission.form.get("args").unwrap_or_default();
    let args = serde_json::from_str(text).map_err(|error| Fault::Bad(format!("The arguments are no JSON: {error}")))?;
    let mut tx = state.db.begin().await?;
    actions::edit_args(&mut tx, id, &args, submission.by()).await?;
    tx.commit().await?;
    Ok(back(
        &format!("/ops/jobs/{id}"),
        "Arguments replaced; the audit log keeps the old ones.",
    ))
}

#[handler]
pub async fn queue(
    state: Data<&AppState>,
    Path((name, action)): Path<(String, String)>,
    submission: Submission,
) -> Result<Response, Fault> {
    submission.signed.require(Role::Operator)?;
    let paused = match action.as_str() {
        "pause" => true,
        "resume" => false,
        _ => return Err(Fault::NotFound("action")),
    };
    let mut tx = state.db.begin().await?;
    actions::set_paused(&mut tx, &name, paused, submission.by()).await?;
    tx.commit().await?;
    let word = if paused {
        "Paused: workers stop taking its jobs within two seconds."
    } else {
        "Resumed: workers take its jobs again within two seconds."
    };
    Ok(back("/ops/queues", word))
}

#[handler]
pub async fn schedule(
    state: Data<&AppState>,
    Path(name): Path<String>,
    submission: Submission,
) -> Result<Response, Fault> {
    submission.signed.require(Role::Operator)?;
    let mut tx = state.db.begin().await?;
    actions::run_schedule(&mut tx, &name, submission.by()).await?;
    tx.commit().await?;
    Ok(back("/ops/schedules", "It fires within five seconds, once."))
}
