//! The body of every refusal: RFC 9457 problem details, with a stable code and the fields at fault.

use poem_openapi::Object;
use poem_openapi::types::Example;
use serde::Serialize;

/// The media type of [`Problem`].
pub const CONTENT_TYPE: &str = "application/problem+json";

/// What went wrong (RFC 9457). Programs look at `code`, people at `detail`.
#[derive(Clone, Debug, Object)]
#[oai(example)]
pub struct Problem {
    /// A relative reference that names the kind of problem: `/problems/{code}`
    pub r#type: String,
    /// The meaning of the status, for people
    pub title: String,
    /// The HTTP status
    #[oai(validator(minimum(value = "400"), maximum(value = "599")))]
    pub status: u16,
    /// This very problem, for people
    pub detail: String,
    /// The kind of problem, for programs: stable, in snake case
    pub code: String,
    /// Each field that was refused; empty if it was something else
    pub errors: Vec<FieldError>,
    /// The id of the request, the same as in the `X-Request-Id` header
    pub request_id: String,
}

impl Example for Problem {
    fn example() -> Self {
        Self {
            r#type: "/problems/validation_failed".to_owned(),
            title: "Unprocessable Entity".to_owned(),
            status: 422,
            detail: "check_out: must be after check_in".to_owned(),
            code: "validation_failed".to_owned(),
            errors: vec![FieldError::new("check_out", "must be after check_in")],
            request_id: "019ab6c8-6f5e-7c3a-9d0e-2f4f1f6f0a11".to_owned(),
        }
    }
}

/// A field of the request and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Object)]
pub struct FieldError {
    /// The field: `check_out`, `amenities[2]`, or the name of a parameter or header
    pub field: String,
    /// What it must be
    pub message: String,
}

impl FieldError {
    /// `message` completes a sentence that begins with the field: "must be after check_in".
    #[must_use]
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            message: message.into(),
        }
    }
}
