//! Input objects under the rules of the REST body that they stand for: the same schema, the same refusals.

use std::borrow::Cow;

use async_graphql::registry::Registry;
use async_graphql::{InputType, InputValueError, InputValueResult, Value};
use poem_openapi::types::{ParseFromJSON, ToJSON};
use serde_json::{Map, json};

use super::errors::{camel_case, field_errors};
use crate::body::JsonBody;
use crate::error::ApiError;
use crate::schema::violations;

/// An input object that is a `T`.
pub struct Input<T> {
    body: JsonBody<T>,
    given: T,
}

impl<T> Input<T> {
    /// The body that says the same.
    pub fn into_body(self) -> JsonBody<T> {
        self.body
    }
}

impl<T> InputType for Input<T>
where
    T: InputType + ParseFromJSON + ToJSON + 'static,
{
    type RawValueType = <T as InputType>::RawValueType;

    fn type_name() -> Cow<'static, str> {
        T::type_name()
    }

    fn create_type_info(registry: &mut Registry) -> String {
        T::create_type_info(registry)
    }

    fn parse(value: Option<Value>) -> InputValueResult<Self> {
        let given = value.clone();
        match T::parse(value) {
            Ok(given) => match JsonBody::of(&given) {
                Ok(body) => Ok(Self { body, given }),
                Err(error) => Err(refusal(&error)),
            },
            // A scalar that cannot be read does not say where it stands; the body's schema does.
            Err(unreadable) => {
                let found = violations::<T>(&body_of(given.unwrap_or_default()));
                if found.is_empty() {
                    return Err(unreadable.propagate());
                }
                Err(refusal(&ApiError::bad_request("invalid_body", "").with_errors(found)))
            }
        }
    }

    fn to_value(&self) -> Value {
        self.given.to_value()
    }

    fn as_raw_value(&self) -> Option<&Self::RawValueType> {
        InputType::as_raw_value(&self.given)
    }
}

fn refusal<T: InputType>(error: &ApiError) -> InputValueError<T> {
    let members = error.problem();
    let errors = field_errors(members.get("errors").unwrap_or(&json!([])));
    let sentence = members
        .get("detail")
        .and_then(|detail| detail.as_str())
        .unwrap_or_default();
    InputValueError::custom(camel_case(sentence))
        .with_extension("code", error.code())
        .with_extension("errors", Value::from_json(errors).unwrap_or_default())
}

/// The value as it would be written in a body: names in snake case, enums in lower case.
fn body_of(value: Value) -> serde_json::Value {
    match value {
        Value::Object(members) => {
            let members = members
                .into_iter()
                .map(|(name, value)| (snake_case(&name), body_of(value)));
            serde_json::Value::Object(members.collect::<Map<_, _>>())
        }
        Value::List(items) => items.into_iter().map(body_of).collect(),
        Value::Enum(name) => json!(name.to_lowercase()),
        other => other.into_json().unwrap_or_default(),
    }
}

fn snake_case(name: &str) -> String {
    let mut written = String::with_capacity(name.len() + 4);
    for character in name.chars() {
        if character.is_ascii_uppercase() {
            written.push('_');
        }
        written.push(character.to_ascii_lowercase());
    }
    written
}
