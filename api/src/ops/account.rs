//! The account of whoever is signed in: their password, their authenticator and their sessions. What opens the account is
//! asked for again before any of it changes, and counts as a try to sign in.

use askama::Template;
use poem::web::{Data, Path};
use poem::{Response, handler};
use roost_shared::operators::authenticators::{self, Enrolment};
use roost_shared::operators::own::{self, Proven};
use roost_shared::operators::{NewPassword, OperatorError, sessions};
use uuid::Uuid;

use super::access::{Signed, Submission, limit};
use super::acting::back;
use super::fault::Fault;
use super::params::Params;
use super::qr::Picture;
use super::shell::{Shell, html};
use super::view::{When, when};
use crate::client::Client;
use crate::state::AppState;

const PAGE: &str = "/ops/account";

struct SessionRow {
    id: Uuid,
    began: When,
    seen: When,
    ip: String,
    user_agent: String,
    /// The one that asks.
    is_this: bool,
}

#[derive(Template)]
#[template(path = "ops/account.html")]
struct Page {
    shell: Shell,
    enrolment: Option<(Enrolment, Picture)>,
    sessions: Vec<SessionRow>,
}

#[handler]
pub async fn page(state: Data<&AppState>, signed: Signed, params: Params) -> Result<Response, Fault> {
    let now = state.clock.now();
    let pool = state.db.pool();
    let waiting = authenticators::waiting(pool, &state.sealing, signed.session(), now).await?;
    let enrolment = waiting
        .map(|enrolment| Picture::of(&enrolment.url).map(|picture| (enrolment, picture)))
        .transpose()?;
    let listed = sessions::list(pool, signed.operator(), now).await?;
    let this = signed.session().id;
    html(&Page {
        shell: Shell::new(&signed, "account", "Your account").with_notice(params.get("notice")),
        enrolment,
        sessions: listed
            .into_iter()
            .map(|session| SessionRow {
                id: session.id,
                began: when(session.created_at, now),
                seen: when(session.last_seen_at, now),
                ip: session.ip.unwrap_or_default(),
                user_agent: session.user_agent.unwrap_or_default(),
                is_this: session.id == this,
            })
            .collect(),
    })
}

/// Another password instead of the present one.
pub(super) async fn change_password(
    state: &AppState,
    signed: &Signed,
    current: String,
    new: String,
) -> Result<(), OperatorError> {
    let proven = Proven::by_password(state.db.pool(), &state.passwords, signed.operator(), current).await?;
    let new = NewPassword::new(&state.passwords, new).await?;
    let mut tx = state.db.begin().await?;
    own::change_password(&mut tx, signed.session(), proven, new).await?;
    tx.commit().await?;
    Ok(())
}

async fn prove(state: &AppState, signed: &Signed, proof: String) -> Result<Proven, OperatorError> {
    Proven::by_password_or_code(
        state.db.pool(),
        &state.passwords,
        &state.sealing,
        signed.operator(),
        proof,
        state.clock.now(),
    )
    .await
}

/// Begins to set up an authenticator, or another one.
pub(super) async fn begin_authenticator(
    state: &AppState,
    signed: &Signed,
    proof: String,
) -> Result<Enrolment, OperatorError> {
    let proven = prove(state, signed, proof).await?;
    let mut tx = state.db.begin().await?;
    let enrolment = authenticators::begin(&mut tx, &state.sealing, signed.session(), proven).await?;
    tx.commit().await?;
    Ok(enrolment)
}

/// Sets up the one that was begun.
pub(super) async fn confirm_authenticator(state: &AppState, signed: &Signed, code: &str) -> Result<(), OperatorError> {
    let mut tx = state.db.begin().await?;
    authenticators::confirm(&mut tx, &state.sealing, signed.session(), code).await?;
    tx.commit().await?;
    Ok(())
}

/// Removes the one that is set up.
pub(super) async fn remove_authenticator(
    state: &AppState,
    signed: &Signed,
    proof: String,
) -> Result<(), OperatorError> {
    let proven = prove(state, signed, proof).await?;
    let mut tx = state.db.begin().await?;
    authenticators::remove(&mut tx, signed.session(), proven).await?;
    tx.commit().await?;
    Ok(())
}

/// Ends a session of theirs.
pub(super) async fn end_session(state: &AppState, signed: &Signed, id: Uuid) -> Result<(), OperatorError> {
    let mut tx = state.db.begin().await?;
    sessions::end_own(&mut tx, signed.operator(), id).await?;
    tx.commit().await?;
    Ok(())
}

/// A field as it was typed: spaces at its ends belong to a password.
fn typed(submission: &Submission, field: &str) -> String {
    submission.form.all(field).next().unwrap_or_default().to_owned()
}

/// The tries of whoever sent it, counted with those to sign in.
async fn counted(state: &AppState, client: &Client, submission: &Submission) -> Result<(), Fault> {
    limit(state, client, &submission.signed.operator().email).await
}

#[handler]
pub async fn password(state: Data<&AppState>, client: Client, submission: Submission) -> Result<Response, Fault> {
    counted(&state, &client, &submission).await?;
    let [current, new] = ["current_password", "new_password"].map(|field| typed(&submission, field));
    change_password(&state, &submission.signed, current, new).await?;
    Ok(back(PAGE, "Password changed. Your other sessions have ended."))
}

#[handler]
pub async fn begin(state: Data<&AppState>, client: Client, submission: Submission) -> Result<Response, Fault> {
    counted(&state, &client, &submission).await?;
    begin_authenticator(&state, &submission.signed, typed(&submission, "proof")).await?;
    Ok(back(
        PAGE,
        "Read the code below; nothing changes until it is confirmed.",
    ))
}

#[handler]
pub async fn confirm(state: Data<&AppState>, client: Client, submission: Submission) -> Result<Response, Fault> {
    counted(&state, &client, &submission).await?;
    let code = submission.form.get("code").unwrap_or_default();
    confirm_authenticator(&state, &submission.signed, code).await?;
    Ok(back(
        PAGE,
        "Set up: from now on signing in takes a code of it. Your other sessions have ended.",
    ))
}

#[handler]
pub async fn remove(state: Data<&AppState>, client: Client, submission: Submission) -> Result<Response, Fault> {
    counted(&state, &client, &submission).await?;
    remove_authenticator(&state, &submission.signed, typed(&submission, "proof")).await?;
    Ok(back(
        PAGE,
        "Removed: signing in takes the password alone. Your other sessions have ended.",
    ))
}

#[handler]
pub async fn end(state: Data<&AppState>, Path(id): Path<String>, submission: Submission) -> Result<Response, Fault> {
    let id = id.parse().map_err(|_| Fault::NotFound("session"))?;
    end_session(&state, &submission.signed, id).await?;
    Ok(back(PAGE, "Ended: whoever used it has to sign in again."))
}
