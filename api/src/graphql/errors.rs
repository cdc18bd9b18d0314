//! Refusals in GraphQL's form: the members of the REST problem are the extensions, and fields are named as the
//! schema names them.

use async_graphql::parser::types::ExecutableDocument;
use async_graphql::{Error, ErrorExtensionValues, Pos, Response, ServerError, Value};
use poem::http::{HeaderMap, StatusCode};
use serde_json::{Map, json};
use std::sync::Arc;

use super::document::arguments;
use crate::error::ApiError;
use crate::problem::FieldError;
use crate::request;

/// The document is not GraphQL, or not of this schema.
const INVALID_QUERY: &str = "invalid_query";

impl From<ApiError> for Error {
    fn from(error: ApiError) -> Self {
        let refused = refused(error);
        Self {
            message: refused.message,
            source: refused.source,
            extensions: refused.extensions,
        }
    }
}

/// A refusal of the request as a whole.
pub fn refused(error: ApiError) -> ServerError {
    let mut members = error.problem();
    let detail = members.remove("detail").unwrap_or_default();
    members.retain(|name, _| !["type", "title"].contains(&name.as_str()));
    let mut refused = ServerError::new(camel_case(detail.as_str().unwrap_or_default()), None);
    refused.extensions = Some(extensions(members));
    refused.source = Some(Arc::new(error));
    refused
}

/// A document that cannot be executed. `path` leads to the argument at fault, if it is known.
pub fn invalid_query(message: &str, path: Option<&str>) -> ApiError {
    let error = ApiError::bad_request(INVALID_QUERY, message);
    match path {
        Some(path) => error.with_errors(vec![FieldError::new(field_of(path), message)]),
        None => error,
    }
}

/// Gives every error the extensions that ours have; the schema's own know only a message and a place.
pub fn complete(response: &mut Response, document: Option<&ExecutableDocument>) {
    for error in &mut response.errors {
        let code = error.extensions.as_ref().and_then(|extensions| extensions.get("code"));
        match code {
            Some(_) if error.source.is_some() => {}
            // An input object that broke the rules of its body.
            Some(_) => {
                if let Some(extensions) = &mut error.extensions {
                    extensions.set("status", StatusCode::BAD_REQUEST.as_u16());
                    extensions.set("request_id", request::current_id());
                }
            }
            None => {
                let named = argument_in(&error.message).or_else(|| argument_at(document?, *error.locations.first()?));
                let ours = refused(invalid_query(&error.message, named.as_deref()));
                error.extensions = ours.extensions;
                error.source = ours.source;
            }
        }
    }
}

/// The status and headers of a reply: those of a refusal if the request as a whole was refused.
pub fn status(response: &Response) -> (StatusCode, HeaderMap) {
    let whole = response.errors.iter().find(|error| error.path.is_empty());
    match whole.and_then(ServerError::source::<ApiError>) {
        Some(error) => (error.status(), error.headers().iter().cloned().collect()),
        None => (StatusCode::OK, HeaderMap::new()),
    }
}

fn extensions(members: Map<String, serde_json::Value>) -> ErrorExtensionValues {
    let mut extensions = ErrorExtensionValues::default();
    for (name, value) in members {
        let value = match name.as_str() {
            "errors" => field_errors(&value),
            _ => value,
        };
        extensions.set(name, Value::from_json(value).unwrap_or_default());
    }
    extensions
}

/// What is wrong with which field, in the schema's names.
pub fn field_errors(errors: &serde_json::Value) -> serde_json::Value {
    let renamed = errors.as_array().into_iter().flatten().map(|error| {
        let text = |name: &str| camel_case(error.get(name).and_then(|text| text.as_str()).unwrap_or_default());
        json!({"field": text("field"), "message": text("message")})
    });
    renamed.collect()
}

/// The text with `check_in` written as `checkIn`, as the schema has it.
pub fn camel_case(text: &str) -> String {
    let mut written = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let inside = written.ends_with(|before: char| before.is_ascii_lowercase() || before.is_ascii_digit());
        match characters.peek() {
            Some(after) if character == '_' && inside && after.is_ascii_lowercase() => {
                written.push(after.to_ascii_uppercase());
                characters.next();
            }
            _ => written.push(character),
        }
    }
    written
}

/// The field that a path leads to, as REST writes it: `amenities[2]` of `input.amenities.2`.
fn field_of(path: &str) -> String {
    let inner = path.strip_prefix("input.").unwrap_or(path);
    let mut steps = inner.split('.');
    let first = steps.next().unwrap_or_default().to_owned();
    steps.fold(first, |field, step| {
        if step.bytes().all(|byte| byte.is_ascii_digit()) {
            format!("{field}[{step}]")
        } else {
            format!("{field}.{step}")
        }
    })
}

/// The argument that validation names: `Invalid value for argument "input.guests", expected type "Int"`, or
/// `… argument "input", unknown field "total" of type "NewBooking"`.
fn argument_in(message: &str) -> Option<String> {
    let path = quoted(message, "argument ")?;
    let member = quoted(message, ", field ").or_else(|| quoted(message, ", unknown field "));
    Some(member.map_or_else(|| path.to_owned(), |member| format!("{path}.{member}")))
}

/// What stands in quotes after some words.
fn quoted<'a>(message: &'a str, words: &str) -> Option<&'a str> {
    let (_, rest) = message.split_once(words)?;
    rest.strip_prefix('"')?.split_once('"').map(|(name, _)| name)
}

/// The argument whose value stands here: a scalar that cannot be read says only where it is.
fn argument_at(document: &ExecutableDocument, place: Pos) -> Option<String> {
    let mut arguments = arguments(document).into_iter();
    let named = arguments.find(|argument| argument.place == place)?;
    Some(named.name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_named_as_the_schema_names_them() {
        for (problem, schema) in [
            ("check_in", "checkIn"),
            ("must be after check_in", "must be after checkIn"),
            (
                "nightly_rate_minor: must not be null",
                "nightlyRateMinor: must not be null",
            ),
            ("amenities[2]", "amenities[2]"),
            ("pm_…", "pm_…"),
            ("a _ b", "a _ b"),
            ("_typename", "_typename"),
        ] {
            assert_eq!(camel_case(problem), schema);
        }
    }

    #[test]
    fn the_argument_at_fault_is_found() {
        let message = "Invalid value for argument \"input.guests\", expected type \"Int\"";
        assert_eq!(argument_in(message).as_deref(), Some("input.guests"));
        let unknown = "Invalid value for argument \"input\", unknown field \"total\" of type \"NewBooking\"";
        assert_eq!(argument_in(unknown).as_deref(), Some("input.total"));
        let left_out =
            "Invalid value for argument \"input\", field \"guests\" of type \"Int!\" is required but not provided";
        assert_eq!(argument_in(left_out).as_deref(), Some("input.guests"));
        let argument = "Field \"booking\" argument \"id\" of type \"Query\" is required but not provided";
        assert_eq!(argument_in(argument).as_deref(), Some("id"));
        assert_eq!(argument_in("Unknown field \"bookins\" on type \"Query\"."), None);
        assert_eq!(field_of("input.guests"), "guests");
        assert_eq!(field_of("state.0"), "state[0]");
        let document = async_graphql::parser::parse_query("{ a { booking(id: \"x\") { id } } }").unwrap();
        let place = Pos { line: 1, column: 19 };
        assert_eq!(argument_at(&document, place).as_deref(), Some("id"));
        assert_eq!(argument_at(&document, Pos { line: 1, column: 3 }), None);
    }
}
