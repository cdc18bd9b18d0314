//! What can go wrong on the way to a page, and the page that says so and what to do.

use askama::Template;
use poem::http::{HeaderValue, StatusCode, header};
use poem::web::Html;
use poem::{IntoResponse, Response};
use roost_shared::db;
use roost_shared::jobs::actions::ActionError;
use roost_shared::jobs::bulk::BulkError;
use roost_shared::jobs::list::{FilterError, ListError};
use roost_shared::operators::OperatorError;
use roost_shared::users::PasswordError;

use crate::request;

/// A refusal or failure.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Fault {
    /// Nobody is signed in.
    #[error("sign in first")]
    SignIn,
    /// The role does not allow it.
    #[error("{0}")]
    Forbidden(String),
    /// There is no such thing.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// The request makes no sense.
    #[error("{0}")]
    Bad(String),
    /// Things are not as the request takes them to be.
    #[error("{0}")]
    Conflict(String),
    /// Too often.
    #[error("too many attempts, try again in {0} s")]
    TooMany(u64),
    /// Postgres does not answer.
    #[error("Postgres does not answer")]
    Unavailable,
    /// A mistake of ours.
    #[error("something went wrong on our side")]
    Internal,
}

impl Fault {
    /// Logs a failure that is ours, once.
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        tracing::error!(%cause, "dashboard failed");
        Self::Internal
    }

    /// What somebody who reads it can do.
    pub(super) fn what_to_do(&self) -> &'static str {
        match self {
            Self::SignIn => "Sign in and try again.",
            Self::Forbidden(_) => "Ask an admin for the role, or have somebody with it do this.",
            Self::NotFound(_) => {
                "It may have been pruned: the queues page says how long jobs are kept. The audit log keeps what operators did."
            }
            Self::Bad(_) => "Go back, change it, and try again.",
            Self::Conflict(_) => "Nothing was changed. Go back and reload to see how things stand now.",
            Self::TooMany(_) => "Wait a little.",
            Self::Unavailable => {
                "Nothing was changed. Check Postgres and its connections: this works again as soon as it answers."
            }
            Self::Internal => "Nothing was changed. The log knows more under the request id.",
        }
    }
}

#[derive(Template)]
#[template(path = "ops/fault.html")]
struct Page<'a> {
    status: u16,
    message: String,
    what_to_do: &'a str,
    request_id: String,
    assets: &'a str,
}

impl Fault {
    /// The status of its page.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::SignIn => StatusCode::SEE_OTHER,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::Bad(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn as_response(&self) -> Response {
        if matches!(self, Self::SignIn) {
            return Response::builder()
                .status(StatusCode::SEE_OTHER)
                .header(header::LOCATION, super::landing::SIGN_IN)
                .finish();
        }
        let page = Page {
            status: self.status().as_u16(),
            message: self.to_string(),
            what_to_do: self.what_to_do(),
            request_id: request::current_id(),
            assets: super::assets::BASE,
        };
        let html = page.render().unwrap_or_else(|_| self.to_string());
        let mut response = Html(html).with_status(self.status()).into_response();
        if let Self::TooMany(seconds) = self
            && let Ok(value) = HeaderValue::try_from(seconds.to_string())
        {
            response.headers_mut().insert(header::RETRY_AFTER, value);
        }
        response
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        self.as_response()
    }
}

impl From<Fault> for poem::Error {
    fn from(fault: Fault) -> Self {
        Self::from_response(fault.as_response())
    }
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        if db::is_away(&error) {
            tracing::warn!(%error, "the dashboard cannot reach postgres");
            Self::Unavailable
        } else {
            Self::internal(error)
        }
    }
}

impl From<FilterError> for Fault {
    fn from(error: FilterError) -> Self {
        Self::Bad(error.to_string())
    }
}

impl From<ListError> for Fault {
    fn from(error: ListError) -> Self {
        match error {
            ListError::Filter(error) => error.into(),
            ListError::TooSlow => Self::Bad(error.to_string()),
            ListError::Database(error) => error.into(),
        }
    }
}

impl From<ActionError> for Fault {
    fn from(error: ActionError) -> Self {
        match error {
            ActionError::NotFound(what) => Self::NotFound(what),
            ActionError::WrongState { .. } | ActionError::NothingToAsk | ActionError::Duplicate => {
                Self::Conflict(error.to_string())
            }
            ActionError::ReasonNeeded
            | ActionError::InvalidReason
            | ActionError::UnknownKind(_)
            | ActionError::InvalidArgs { .. }
            | ActionError::InvalidSetting { .. } => Self::Bad(error.to_string()),
            ActionError::Database(error) => error.into(),
        }
    }
}

impl From<BulkError> for Fault {
    fn from(error: BulkError) -> Self {
        match error {
            BulkError::List(error) => error.into(),
            BulkError::Action(error) => error.into(),
            BulkError::Ended(_) => Self::Conflict(error.to_string()),
            BulkError::Database(error) => error.into(),
            BulkError::UnknownAction(_) | BulkError::LeaseLost => Self::internal(error),
        }
    }
}

impl From<OperatorError> for Fault {
    fn from(error: OperatorError) -> Self {
        match error {
            OperatorError::Password(PasswordError::Overloaded) => Self::TooMany(2),
            OperatorError::Database(error) => error.into(),
            OperatorError::Password(error) => Self::internal(error),
            OperatorError::Totp(error) => Self::internal(error),
            OperatorError::NoSuchSession => Self::NotFound("session"),
            OperatorError::NothingToConfirm | OperatorError::NoAuthenticator => Self::Conflict(error.to_string()),
            other => Self::Bad(other.to_string()),
        }
    }
}

impl From<askama::Error> for Fault {
    fn from(error: askama::Error) -> Self {
        Self::internal(error)
    }
}
