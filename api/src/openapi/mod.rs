//! The OpenAPI document: what poem-openapi derives from the handlers, made exact.
//!
//! It leaves out refusals that an operation cannot answer, says that unknown fields are refused and that optional
//! ones may be null, and documents the headers that the layers around the handlers read and write.

mod routes;
mod schemas;

use serde_json::{Map, Value, json};

use crate::idempotency::{KEY_HEADER, REPLAYED_HEADER};

pub use routes::{Operation, Routes};
use schemas::{refine_schemas, visit_schemas};

const REQUEST_ID: &str = "X-Request-Id";

/// The methods of a path item.
const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// Makes poem-openapi's document exact.
///
/// # Errors
/// `derived` is not JSON.
pub fn refine(derived: &str) -> Result<Value, serde_json::Error> {
    let mut document: Value = serde_json::from_str(derived)?;
    // A member of OpenAPI 3.1, in a document of 3.0.
    if let Some(info) = document.get_mut("info").and_then(Value::as_object_mut) {
        info.remove("summary");
    }
    let mut refusals = Map::new();
    let schemas = document.pointer("/components/schemas").cloned().unwrap_or_default();
    for (method, operation) in operations(&mut document) {
        operation.entry("security").or_insert_with(|| json!([]));
        describe_request_headers(operation);
        keep_possible_refusals(method, operation);
        describe_responses(operation, &schemas);
        share_refusals(operation, &mut refusals);
    }
    visit_schemas(&mut document);
    if let Some(components) = document.get_mut("components").and_then(Value::as_object_mut) {
        components.insert("responses".to_owned(), Value::Object(refusals));
        components.insert(
            "headers".to_owned(),
            json!({(REQUEST_ID): {"description": "The id of the request, for logs and support", "schema": {"type": "string"}}}),
        );
        if let Some(schemas) = components.get_mut("schemas").and_then(Value::as_object_mut) {
            refine_schemas(schemas);
        }
    }
    Ok(document)
}

fn operations(document: &mut Value) -> impl Iterator<Item = (&str, &mut Map<String, Value>)> {
    document
        .get_mut("paths")
        .and_then(Value::as_object_mut)
        .into_iter()
        .flat_map(|paths| paths.values_mut())
        .filter_map(Value::as_object_mut)
        .flat_map(|item| item.iter_mut())
        .filter(|(method, _)| METHODS.contains(&method.as_str()))
        .filter_map(|(method, operation)| Some((method.as_str(), operation.as_object_mut()?)))
}

fn has_parameter(operation: &Map<String, Value>, location: &str, name: Option<&str>) -> bool {
    operation
        .get("parameters")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .any(|parameter| {
            parameter.get("in").and_then(Value::as_str) == Some(location)
                && name.is_none_or(|name| {
                    parameter
                        .get("name")
                        .and_then(Value::as_str)
                        .is_some_and(|given| given.eq_ignore_ascii_case(name))
                })
        })
}

/// An operation whose reply can be replayed takes a key.
fn describe_request_headers(operation: &mut Map<String, Value>) {
    let replays = operation
        .get("responses")
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(Map::values)
        .filter_map(|response| response.get("headers").and_then(Value::as_object))
        .flat_map(Map::keys)
        .any(|name| name.eq_ignore_ascii_case(REPLAYED_HEADER));
    if !replays || has_parameter(operation, "header", Some(KEY_HEADER)) {
        return;
    }
    let parameter = json!({
        "name": KEY_HEADER,
        "in": "header",
        "description": "A name of your choice for this request, for 24 hours: sent again with the same body it gets the same reply, byte for byte, and nothing is done twice. With another body it is refused (422 `idempotency_key_reused`).",
        "required": false,
        "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
        "example": "3f0d1b9e-booking-1",
    });
    match operation.entry("parameters").or_insert_with(|| json!([])) {
        Value::Array(parameters) => parameters.push(parameter),
        other => *other = json!([parameter]),
    }
}

fn keep_possible_refusals(method: &str, operation: &mut Map<String, Value>) {
    let secured = operation
        .get("security")
        .and_then(Value::as_array)
        .is_some_and(|list| !list.is_empty());
    let body = operation.get("requestBody");
    let has_body = body.is_some_and(|body| body.pointer("/content/application~1json").is_some());
    // Where none is taken, one that says something is refused: see `Operation::refuses_body`.
    let body_is_read = has_body || method != "get";
    let has_path = has_parameter(operation, "path", None);
    let has_query = has_parameter(operation, "query", None);
    let has_header = has_parameter(operation, "header", None);
    let conditional = has_parameter(operation, "header", Some("If-Match"));
    let id = operation.get("operationId").and_then(Value::as_str).unwrap_or_default();
    let health = id.starts_with("get_health") || id == "get_readiness";
    // The one that is told neither in a body nor in its path what it cannot do twice.
    let resends = id == "resend_verification";
    // A list that is there for some people only, and the sums of what a parameter names.
    let hidden = matches!(id, "list_review_reports" | "get_rating_summary");
    let Some(responses) = operation.get_mut("responses").and_then(Value::as_object_mut) else {
        return;
    };
    responses.retain(|status, _| match status.as_str() {
        "400" => body_is_read || has_path || has_query || has_header,
        "401" => secured || has_body,
        "404" => has_path || has_body || hidden,
        "409" | "429" => has_body || has_path || resends,
        "403" => secured && (has_body || has_path),
        "412" => conditional,
        "413" | "415" => body_is_read,
        "422" => has_body || has_path || has_query,
        "500" => !health,
        _ => true,
    });
}

fn describe_responses(operation: &mut Map<String, Value>, schemas: &Value) {
    let responses = operation.get_mut("responses").and_then(Value::as_object_mut);
    for response in responses
        .into_iter()
        .flat_map(Map::values_mut)
        .filter_map(Value::as_object_mut)
    {
        let described = response
            .get("description")
            .and_then(Value::as_str)
            .is_some_and(|text| !text.is_empty());
        if !described {
            response.insert("description".to_owned(), json!("OK"));
        }
        if let Some(stream) = response
            .get_mut("content")
            .and_then(|content| content.get_mut("text/event-stream"))
        {
            describe_events(stream, schemas);
        }
        let mut headers: Map<String, Value> = match response.remove("headers") {
            Some(Value::Object(headers)) => headers
                .into_iter()
                .map(|(name, header)| (spelled(&name), header))
                .collect(),
            _ => Map::new(),
        };
        headers.insert(
            REQUEST_ID.to_owned(),
            json!({"$ref": format!("#/components/headers/{REQUEST_ID}")}),
        );
        response.insert("headers".to_owned(), Value::Object(headers));
    }
}

/// An event stream is no JSON array: its schema is that of one event, whose data is JSON in a string.
fn describe_events(stream: &mut Value, schemas: &Value) {
    let item = stream.pointer("/schema/items").cloned().unwrap_or(Value::Null);
    let name = item
        .get("$ref")
        .and_then(Value::as_str)
        .and_then(|reference| reference.rsplit('/').next());
    let example = name.and_then(|name| schemas.get(name)?.get("example"));
    stream["schema"] = json!({
        "type": "object",
        "description": "One event. Its data is the JSON of `x-data-schema`.",
        "properties": {"id": {"type": "string"}, "event": {"type": "string"}, "data": {"type": "string"}},
        "x-data-schema": item,
        "example": {"id": "2", "event": "booking", "data": example.map(Value::to_string)},
    });
}

/// poem-openapi shouts the names of headers; this writes them as RFCs do.
fn spelled(name: &str) -> String {
    match name.to_ascii_lowercase().as_str() {
        "etag" => "ETag".to_owned(),
        "www-authenticate" => "WWW-Authenticate".to_owned(),
        lower => lower
            .split('-')
            .map(|part| {
                part.split_at_checked(1)
                    .map_or_else(String::new, |(first, rest)| first.to_uppercase() + rest)
            })
            .collect::<Vec<_>>()
            .join("-"),
    }
}

/// Every operation refuses in the same words: they stand once, under components.
fn share_refusals(operation: &mut Map<String, Value>, refusals: &mut Map<String, Value>) {
    let responses = operation.get_mut("responses").and_then(Value::as_object_mut);
    for (status, response) in responses.into_iter().flatten() {
        let is_problem = response
            .pointer("/content/application~1problem+json/schema/$ref")
            .and_then(Value::as_str)
            == Some("#/components/schemas/Problem");
        if !is_problem {
            continue;
        }
        let name = format!("Refusal{status}");
        let shared = refusals.entry(name.clone()).or_insert_with(|| response.clone());
        if shared == response {
            *response = json!({"$ref": format!("#/components/responses/{name}")});
        }
    }
}
