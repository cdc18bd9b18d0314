//! How refusals of bookings read.

use roost_shared::bookings::BookingError;
use roost_shared::properties::quote::QuoteError;
use roost_shared::properties::stay::{Stay, StayRefusal};
use serde_json::json;

use crate::error::ApiError;
use crate::problem::FieldError;

const NO_PROPERTY: &str = "property";

impl From<BookingError> for ApiError {
    fn from(error: BookingError) -> Self {
        let detail = sentence(&error);
        match error {
            BookingError::NoSuchBooking => Self::not_found("booking"),
            BookingError::NoSuchProperty => Self::not_found(NO_PROPERTY),
            BookingError::AccountDeleted => Self::account_deleted(),
            BookingError::OwnProperty => Self::conflict("own_property", detail),
            BookingError::DatesTaken(conflict) => dates_taken(conflict),
            BookingError::StayRefused(refusals) => stay_refused(&refusals),
            BookingError::QuoteMismatch => {
                Self::unprocessable("quote_mismatch", detail).with_errors(vec![FieldError::new(
                    "quote_token",
                    "must be for this property, stay and number of guests",
                )])
            }
            BookingError::Price(error) => Self::invalid(vec![FieldError::new("check_out", error.to_string())]),
            BookingError::WrongState { state, .. } => {
                Self::conflict("wrong_state", detail).with_member("state", json!(state.name()))
            }
            BookingError::StayOver(_) => Self::conflict("stay_over", detail),
            BookingError::TooEarly(date) => Self::conflict("too_early", detail).with_member("from", json!(date)),
            BookingError::NotMissingYet(at) => Self::conflict("too_early", detail).with_member("from", json!(at)),
            BookingError::NotYours(_) => Self::forbidden(detail),
            BookingError::TooManyGuests(_) => Self::invalid(vec![FieldError::new("guests", error.to_string())]),
            BookingError::Database(error) => error.into(),
        }
    }
}

fn dates_taken(conflict: Option<Stay>) -> ApiError {
    match conflict {
        Some(stay) => ApiError::conflict(
            "dates_taken",
            format!("The property is taken from {} to {}.", stay.check_in, stay.check_out),
        )
        .with_member(
            "conflict",
            json!({"check_in": stay.check_in, "check_out": stay.check_out}),
        ),
        None => ApiError::conflict("dates_taken", "Some of these nights have just been taken."),
    }
}

/// What speaks against a stay, field by field.
pub(crate) fn stay_refused(refusals: &[StayRefusal]) -> ApiError {
    ApiError::invalid(
        refusals
            .iter()
            .map(|refusal| FieldError::new(refusal.field(), refusal.to_string()))
            .collect(),
    )
}

/// A token that buys nothing.
pub(super) fn quote_refused(error: QuoteError) -> ApiError {
    let code = match error {
        QuoteError::Invalid => "quote_invalid",
        QuoteError::Expired => "quote_expired",
    };
    ApiError::unprocessable(code, "").with_errors(vec![FieldError::new("quote_token", error.to_string())])
}

/// The error as a sentence of its own.
pub(crate) fn sentence(error: &impl std::fmt::Display) -> String {
    let text = error.to_string();
    let mut characters = text.chars();
    match characters.next() {
        Some(first) => format!("{}{}.", first.to_uppercase(), characters.as_str()),
        None => text,
    }
}
