//! The dashboard as JSON under `/ops/api`, for scripts: the same data, roles, rules and audit log as the pages.
//!
//! Start reading at [`resources`]: every subject in one list. [`OpsAuth`] says who asks.

mod account;
mod audit;
mod bulk;
mod effects;
mod jobs;
mod overview;
mod queues;
mod refusals;
mod session;
mod settings;

use poem::Request;
use poem_openapi::auth::Bearer;
use poem_openapi::types::Example;
use poem_openapi::{Object, SecurityScheme};
use roost_shared::jobs::actions::By;
use roost_shared::operators::Role;

use super::access::Signed;
use crate::error::{ApiError, ApiResult};
use crate::state::AppState;

/// The beginning of the document.
pub const DESCRIPTION: &str = "Jobs, queues, workers and the audit log, for operators. `POST /session` gives a token; send it as \
`Authorization: Bearer …`. It ends with `DELETE /session`, after 30 minutes without a request and after 12 hours in any case. Viewers read; operators \
ask Stripe, retry, run, cancel, pause, resume, limit, and quiet or stop workers; admins also delete, edit, and set how long jobs are kept; everybody looks after their own account. What touches money needs a reason. Refusals are problems \
(RFC 9457) with a stable `code`.";

/// How many a list shows when the client does not say.
const DEFAULT_LIMIT: i64 = 50;

/// Every subject.
type Resources = (
    session::SessionApi,
    account::AccountApi,
    overview::OverviewApi,
    jobs::JobsApi,
    bulk::BulkApi,
    queues::QueuesApi,
    audit::AuditApi,
    settings::SettingsApi,
);

pub(super) fn resources(state: &AppState) -> Resources {
    (
        session::SessionApi(state.clone()),
        account::AccountApi(state.clone()),
        overview::OverviewApi(state.clone()),
        jobs::JobsApi(state.clone()),
        bulk::BulkApi(state.clone()),
        queues::QueuesApi(state.clone()),
        audit::AuditApi(state.clone()),
        settings::SettingsApi(state.clone()),
    )
}

/// The token of `POST /session`.
#[derive(SecurityScheme)]
#[oai(ty = "bearer", rename = "OperatorToken", checker = "check")]
pub struct OpsAuth(Signed);

async fn check(request: &Request, bearer: Bearer) -> poem::Result<Signed> {
    let state = request
        .data::<AppState>()
        .ok_or_else(|| ApiError::internal("the dashboard has no state"))?;
    Ok(Signed::of(state, &bearer.token, true).await.map_err(ApiError::from)?)
}

impl OpsAuth {
    fn by<'a>(&'a self, reason: Option<&'a str>) -> By<'a> {
        By {
            actor: &self.0.operator().email,
            reason,
        }
    }

    fn require(&self, role: Role) -> ApiResult<()> {
        Ok(self.0.require(role)?)
    }
}

/// Why
#[derive(Object)]
#[oai(deny_unknown_fields, example)]
struct Reason {
    /// Needed where money is touched; 500 characters at most
    reason: Option<String>,
}

impl Example for Reason {
    fn example() -> Self {
        Self {
            reason: Some("Stripe is back".to_owned()),
        }
    }
}
