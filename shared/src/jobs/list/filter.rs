//! Which jobs somebody asks for, and whether that makes sense.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::STATES;
use crate::jobs::Queue;

/// Shorter texts are in too many errors, and no index finds them.
const SHORTEST_TEXT: usize = 3;
/// Characters of an argument that `job_terms` keeps.
pub(super) const LONGEST_TERM: u8 = 100;

/// Jobs that can be named one by one.
pub const MOST_IDS: usize = 100;

/// The state of an effect that has an index.
const UNKNOWN: &str = "unknown";

/// Which jobs. Everything that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JobFilter {
    /// One of these jobs, at most [`MOST_IDS`]; any if there is none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<Uuid>,
    /// In one of these states; all if there is none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<String>,
    /// Of this kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// In this queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// Enqueued at or after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<DateTime<Utc>>,
    /// Enqueued before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<DateTime<Utc>>,
    /// With so many attempts at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<i32>,
    /// With an effect in this state. Only `unknown` can be looked for: nobody knows what became of a call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effect: Option<String>,
    /// Running, and on this worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// An id of a job, booking, payment, user or event; or `{"…": …}` that the arguments contain; or text of an error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub q: Option<String>,
}

/// A filter that makes no sense: which field, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct FilterError {
    /// The field.
    pub field: &'static str,
    /// What is wrong with it.
    pub message: String,
}

/// What the search box is taken for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Search {
    Anything,
    Id(String),
    /// What the arguments contain, and the longest value in it: the rarest, as far as one can tell.
    Args(Value, String),
    Text(String),
}

impl JobFilter {
    /// Whether it matches every job.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Checks what a person wrote.
    ///
    /// # Errors
    /// A state, queue or number that cannot be, or a text that is too short to look for.
    pub fn check(&self) -> Result<(), FilterError> {
        let wrong = |field, message: String| Err(FilterError { field, message });
        if self.ids.len() > MOST_IDS {
            return wrong("ids", format!("at most {MOST_IDS} jobs"));
        }
        if let Some(state) = self.states.iter().find(|state| !STATES.contains(&state.as_str())) {
            return wrong("state", format!("{state:?} is none of {}", STATES.join(", ")));
        }
        if let Some(queue) = self.queue.as_deref().filter(|queue| Queue::by_name(queue).is_none()) {
            return wrong("queue", format!("there is no queue {queue:?}"));
        }
        if self.attempts.is_some_and(|attempts| attempts < 1) {
            return wrong("attempts", "at least 1".to_owned());
        }
        if self.from.zip(self.to).is_some_and(|(from, to)| from >= to) {
            return wrong("to", "must be after from".to_owned());
        }
        if let Some(effect) = self.effect.as_deref().filter(|effect| *effect != UNKNOWN) {
            return wrong("effect", format!("{effect:?} cannot be looked for, only {UNKNOWN:?}"));
        }
        for (field, text) in [("kind", &self.kind), ("worker", &self.worker), ("q", &self.q)] {
            if text.as_deref().is_some_and(|text| text.contains('\0')) {
                return wrong(field, "contains U+0000".to_owned());
            }
        }
        self.search().map(|_| ())
    }

    pub(super) fn search(&self) -> Result<Search, FilterError> {
        let wrong = |message: String| FilterError { field: "q", message };
        let Some(q) = self.q.as_deref().map(str::trim).filter(|q| !q.is_empty()) else {
            return Ok(Search::Anything);
        };
        if q.starts_with('{') {
            let args: Value = serde_json::from_str(q).map_err(|error| wrong(format!("not a JSON object: {error}")))?;
            let term = longest_term(&args)
                .ok_or_else(|| wrong(r#"name a text or a number, as in {"payment_id": "…"}"#.to_owned()))?;
            return Ok(Search::Args(args, term));
        }
        if Uuid::parse_str(q).is_ok() || q.starts_with("evt_") {
            return Ok(Search::Id(q.to_owned()));
        }
        if q.chars().count() < SHORTEST_TEXT {
            return Err(wrong(format!("at least {SHORTEST_TEXT} characters")));
        }
        Ok(Search::Text(q.to_owned()))
    }
}

fn longest_term(args: &Value) -> Option<String> {
    args.as_object()?
        .values()
        .filter_map(|value| match value {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        })
        .max_by_key(String::len)
        .map(|term| term.chars().take(usize::from(LONGEST_TERM)).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_unknown_effects_can_be_looked_for() {
        let of = |effect: &str| JobFilter {
            effect: Some(effect.to_owned()),
            ..JobFilter::default()
        };
        assert_eq!(of("unknown").check(), Ok(()));
        for other in ["done", "", "Unknown"] {
            assert_eq!(of(other).check().unwrap_err().field, "effect");
        }
    }

    #[test]
    fn the_search_box_tells_ids_arguments_and_text_apart() {
        let search = |q: &str| {
            JobFilter {
                q: Some(q.to_owned()),
                ..JobFilter::default()
            }
            .search()
        };
        assert_eq!(search("  ").unwrap(), Search::Anything);
        assert!(matches!(
            search("01A2037C-a236-775c-8d03-3d14bc67841b").unwrap(),
            Search::Id(_)
        ));
        assert_eq!(
            search(r#"{"mail": "verify-email", "n": 7}"#).unwrap(),
            Search::Args(json!({"mail": "verify-email", "n": 7}), "verify-email".to_owned())
        );
        assert_eq!(
            search("card declined").unwrap(),
            Search::Text("card declined".to_owned())
        );
        assert_eq!(search("{oops").unwrap_err().field, "q");
        assert_eq!(search(r#"{"deep": {"n": 7}}"#).unwrap_err().field, "q");
        assert_eq!(search("ab").unwrap_err().field, "q");
    }
}
