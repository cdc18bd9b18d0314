//! Rules that a schema cannot express, all checked before any is reported.

use crate::error::{ApiError, ApiResult};
use crate::problem::FieldError;

/// Collects what is wrong with a request, so that one reply tells all of it.
///
/// ```
/// use roost_api::validate::Checks;
/// let (min_nights, max_nights) = (3, 2);
/// let refused = Checks::new()
///     .field("max_nights", max_nights >= min_nights, "must not be less than min_nights")
///     .finish();
/// assert_eq!(refused.unwrap_err().code(), "validation_failed");
/// ```
#[derive(Debug, Default)]
#[must_use = "nothing is refused until finish() is called"]
pub struct Checks(Vec<FieldError>);

impl Checks {
    /// Nothing is wrong yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Unless `holds`, `field` is refused. `message` completes a sentence that begins with the field.
    pub fn field(mut self, field: &str, holds: bool, message: &str) -> Self {
        if !holds {
            self.0.push(FieldError::new(field, message));
        }
        self
    }

    /// The same for a field that may be absent.
    pub fn optional<T>(self, field: &str, value: Option<&T>, holds: impl FnOnce(&T) -> bool, message: &str) -> Self {
        match value {
            Some(value) => {
                let holds = holds(value);
                self.field(field, holds, message)
            }
            None => self,
        }
    }

    /// A text for people: `least..=most` characters after trimming, and no control characters but line breaks.
    pub fn text(self, field: &str, value: &str, least: usize, most: usize) -> Self {
        let length = value.trim().chars().count();
        let plain = !value
            .chars()
            .any(|character| character.is_control() && !matches!(character, '\n' | '\r' | '\t'));
        self.field(
            field,
            (least..=most).contains(&length),
            &format!("must have {least} to {most} characters"),
        )
        .field(field, plain, "must not contain control characters")
    }

    /// Refuses with everything that was wrong.
    ///
    /// # Errors
    /// 422 `validation_failed` if anything was.
    pub fn finish(self) -> ApiResult<()> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(ApiError::invalid(self.0))
        }
    }
}
