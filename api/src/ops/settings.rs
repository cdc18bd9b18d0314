//! The forms that change how queues, kinds and workers behave and how long jobs are kept.

use askama::Template;
use poem::http::StatusCode;
use poem::web::{Data, Path};
use poem::{Response, handler};
use roost_shared::jobs::actions::ActionError;
use roost_shared::jobs::schedules::{self, ScheduleSettings};
use roost_shared::jobs::settings::{self, Keep, Limits, QueueSettings, WorkerWish};
use roost_shared::operators::Role;

use super::access::Submission;
use super::acting::back;
use super::fault::Fault;
use super::params::Params;
use super::shell::{Shell, html};
use crate::state::AppState;

/// The least role for changing how long jobs are kept: what is pruned is gone.
pub(super) const KEEPER: Role = Role::Admin;
/// The least role for the rest.
pub(super) const SETTER: Role = Role::Operator;

fn number(form: &Params, name: &'static str) -> Result<i32, Fault> {
    form.parsed(name)?
        .ok_or_else(|| Fault::Bad(format!("{name} is missing")))
}

/// An empty field is no limit.
fn limits(form: &Params) -> Result<Limits, Fault> {
    Ok(Limits {
        concurrency: form.parsed("concurrency")?,
        rate_limit: form.parsed("rate_limit")?,
        rate_seconds: form.parsed("rate_seconds")?.unwrap_or(1),
    })
}

#[handler]
pub async fn queue(
    state: Data<&AppState>,
    Path(name): Path<String>,
    submission: Submission,
) -> Result<Response, Fault> {
    submission.signed.require(SETTER)?;
    let wanted = QueueSettings {
        limits: limits(&submission.form)?,
        target_seconds: number(&submission.form, "target_seconds")?,
        weight: number(&submission.form, "weight")?,
    };
    let mut tx = state.db.begin().await?;
    settings::set_queue(&mut tx, &name, wanted, submission.by()).await?;
    tx.commit().await?;
    Ok(back("/ops/queues", "Set: workers heed it within two seconds."))
}

#[handler]
pub async fn schedule(
    state: Data<&AppState>,
    Path(name): Path<String>,
    submission: Submission,
) -> Result<Response, Fault> {
    submission.signed.require(SETTER)?;
    let form = &submission.form;
    let wanted = ScheduleSettings {
        paused: form.get("paused").is_some(),
        expression: form
            .get("expression")
            .map(str::trim)
            .filter(|expression| !expression.is_empty())
            .map(str::to_owned),
    };
    let mut tx = state.db.begin().await?;
    schedules::set(&mut tx, &name, &wanted, submission.by()).await?;
    tx.commit().await?;
    Ok(back("/ops/schedules", "Set: it goes by this from now on."))
}

#[handler]
pub async fn kind(state: Data<&AppState>, Path(name): Path<String>, submission: Submission) -> Result<Response, Fault> {
    submission.signed.require(SETTER)?;
    let wanted = limits(&submission.form)?;
    let mut tx = state.db.begin().await?;
    settings::set_kind(&mut tx, &name, wanted, submission.by()).await?;
    tx.commit().await?;
    Ok(back("/ops/queues", "Set: workers heed it within two seconds."))
}

#[handler]
pub async fn retention(
    state: Data<&AppState>,
    Path(name): Path<String>,
    submission: Submission,
) -> Result<Response, Fault> {
    submission.signed.require(KEEPER)?;
    let days = number(&submission.form, "days")?;
    let mut tx = state.db.begin().await?;
    settings::set_retention(&mut tx, &name, Keep::Days(days), submission.by()).await?;
    tx.commit().await?;
    Ok(back("/ops/queues", "Set: the next hourly pruning goes by it."))
}

/// Asks for the reason that was not given: the button that quiets a worker has no field for it.
#[derive(Template)]
#[template(path = "ops/why.html")]
struct WhyPage<'a> {
    shell: Shell,
    refusal: String,
    worker: &'a str,
    wish: &'static str,
}

#[handler]
pub async fn worker(
    state: Data<&AppState>,
    Path((name, wish)): Path<(String, String)>,
    submission: Submission,
) -> Result<Response, Fault> {
    submission.signed.require(SETTER)?;
    let wish = WorkerWish::by_name(&wish).ok_or(Fault::NotFound("action"))?;
    let mut tx = state.db.begin().await?;
    match settings::tell_worker(&mut tx, &name, wish, submission.by()).await {
        Ok(_) => tx.commit().await?,
        Err(needed @ ActionError::ReasonNeeded) => {
            let mut page = html(&WhyPage {
                shell: Shell::new(&submission.signed, "workers", "Why?"),
                refusal: needed.to_string(),
                worker: &name,
                wish: wish.name(),
            })?;
            page.set_status(StatusCode::UNPROCESSABLE_ENTITY);
            return Ok(page);
        }
        Err(error) => return Err(error.into()),
    }
    let word = match wish {
        WorkerWish::Quiet => "It takes nothing new within two seconds; what runs goes on.",
        WorkerWish::Resume => "It takes jobs again within two seconds.",
        WorkerWish::Stop => "It begins to stop within two seconds and hands back what does not end in its grace.",
    };
    Ok(back("/ops/workers", word))
}
