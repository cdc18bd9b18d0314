//! How refusals of reviews read.

use poem::http::StatusCode;
use roost_shared::reviews::ReviewError;
use serde_json::json;

use crate::error::ApiError;
use crate::problem::FieldError;
use crate::rest::bookings::refusals::sentence;

impl From<ReviewError> for ApiError {
    fn from(error: ReviewError) -> Self {
        let detail = sentence(&error);
        match error {
            ReviewError::NoSuchReview => Self::not_found("review"),
            ReviewError::NoSuchBooking => Self::not_found("booking"),
            ReviewError::NotCheckedOut(state) => {
                Self::conflict("wrong_state", detail).with_member("state", json!(state.name()))
            }
            ReviewError::WindowClosed(at) => {
                Self::conflict("review_window_closed", detail).with_member("closed_at", json!(at))
            }
            ReviewError::AlreadyReviewed { review_id } => {
                Self::conflict("already_reviewed", detail).with_member("review_id", json!(review_id))
            }
            ReviewError::Published => Self::conflict("review_published", detail),
            ReviewError::MisplacedCategories(names) => Self::invalid(
                names
                    .into_iter()
                    .map(|name| FieldError::new(format!("categories.{name}"), "is not rated of a guest"))
                    .collect(),
            ),
            ReviewError::NotYours | ReviewError::NotModerator => Self::forbidden(detail),
            ReviewError::OwnCase => Self::new(StatusCode::FORBIDDEN, "own_case", detail),
            ReviewError::AlreadyAnswered => Self::conflict("already_answered", detail),
            ReviewError::OwnReview => Self::conflict("own_review", detail),
            ReviewError::AlreadyReported => Self::conflict("already_reported", detail),
            ReviewError::Database(error) => error.into(),
        }
    }
}
