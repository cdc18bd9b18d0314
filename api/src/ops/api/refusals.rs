//! The refusals of the dashboard and of the engine as problems.

use roost_shared::jobs::actions::ActionError;
use roost_shared::jobs::bulk::BulkError;
use roost_shared::jobs::list::ListError;
use roost_shared::operators::OperatorError;

use crate::error::ApiError;
use crate::ops::fault::Fault;
use crate::problem::FieldError;

/// What somebody can do about a search that Postgres gave up.
const TOO_SLOW: &str = "takes too long to look for: add a kind, a state or a time, or an id instead of text";

impl From<Fault> for ApiError {
    fn from(fault: Fault) -> Self {
        let detail = fault.to_string();
        match fault {
            Fault::SignIn => Self::unauthorized("unauthorized", "POST /ops/api/session gives a token.", None),
            Fault::Forbidden(_) => Self::forbidden(detail),
            Fault::NotFound(what) => Self::not_found(what),
            Fault::Bad(_) => Self::unprocessable("validation_failed", detail),
            Fault::Conflict(_) => Self::conflict("wrong_state", detail),
            Fault::TooMany(seconds) => Self::too_many_requests(detail, seconds),
            Fault::Unavailable => Self::unavailable("database_unavailable", detail, 5),
            Fault::Internal => Self::internal(detail),
        }
    }
}

impl From<ActionError> for ApiError {
    fn from(error: ActionError) -> Self {
        let field = match &error {
            ActionError::ReasonNeeded | ActionError::InvalidReason => "reason",
            ActionError::InvalidArgs { .. } | ActionError::UnknownKind(_) => "args",
            ActionError::InvalidSetting { field, .. } => field,
            ActionError::NothingToAsk => return Self::conflict("nothing_to_ask", error.to_string()),
            ActionError::Duplicate => return Self::conflict("duplicate_job", error.to_string()),
            ActionError::Database(_) | ActionError::NotFound(_) | ActionError::WrongState { .. } => {
                return Fault::from(error).into();
            }
        };
        Self::invalid(vec![FieldError::new(field, error.to_string())])
    }
}

impl From<ListError> for ApiError {
    fn from(error: ListError) -> Self {
        match error {
            ListError::Filter(error) => Self::invalid(vec![FieldError::new(error.field, error.message)]),
            ListError::TooSlow => Self::unprocessable("search_too_slow", error.to_string())
                .with_errors(vec![FieldError::new("q", TOO_SLOW)]),
            ListError::Database(error) => error.into(),
        }
    }
}

impl From<BulkError> for ApiError {
    fn from(error: BulkError) -> Self {
        match error {
            BulkError::List(error) => error.into(),
            BulkError::Action(error) => error.into(),
            BulkError::Ended(_) => Self::conflict("wrong_state", error.to_string()),
            BulkError::UnknownAction(_) | BulkError::LeaseLost => Self::internal(error),
            BulkError::Database(error) => error.into(),
        }
    }
}

impl From<OperatorError> for ApiError {
    fn from(error: OperatorError) -> Self {
        let (code, field) = match &error {
            OperatorError::WrongPassword => ("wrong_password", "current_password"),
            OperatorError::NotProven => ("not_proven", "proof"),
            OperatorError::WrongCode => ("wrong_code", "code"),
            OperatorError::InvalidPassword => ("validation_failed", "new_password"),
            _ => return Fault::from(error).into(),
        };
        let field = FieldError::new(field, error.to_string());
        Self::unprocessable(code, error.to_string()).with_errors(vec![field])
    }
}
