//! The OpenAPI document: what poem-openapi derives from the handlers, made exact.
//!
//! It leaves out refusals that an operation cannot answer, says that unknown fields are refused and that optional
//! ones may be null, and documents the headers that the layers around the handlers read and write.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use crate::idempotency::{KEY_HEADER, REPLAYED_HEADER};
use crate::schema;

/// The methods of a path item.
const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// Makes poem-openapi's document exact.
///
/// # Errors
/// `derived` is not JSON.
pub fn refine(derived: &str) -> Result<Value, serde_json::Error> {
    let mut document: Value = serde_json::from_str(derived)?;
    for operation in operations(&mut document) {
        // Public on purpose, not by omission.
        operation.entry("security").or_insert_with(|| json!([]));
        describe_request_headers(operation);
        keep_possible_refusals(operation);
        describe_response_headers(operation);
    }
    visit_schemas(&mut document);
    let types = schema_types(&document);
    if let Some(schemas) = document
        .pointer_mut("/components/schemas")
        .and_then(Value::as_object_mut)
    {
        for schema in schemas.values_mut() {
            refine_schema(schema, &types);
        }
    }
    Ok(document)
}

/// The type of each named schema, by the reference to it.
fn schema_types(document: &Value) -> HashMap<String, Value> {
    let schemas = document.pointer("/components/schemas").and_then(Value::as_object);
    let named = schemas.into_iter().flatten();
    named
        .filter_map(|(name, schema)| Some((format!("#/components/schemas/{name}"), schema.get("type")?.clone())))
        .collect()
}

fn operations(document: &mut Value) -> impl Iterator<Item = &mut Map<String, Value>> {
    document
        .get_mut("paths")
        .and_then(Value::as_object_mut)
        .into_iter()
        .flat_map(|paths| paths.values_mut())
        .filter_map(Value::as_object_mut)
        .flat_map(|item| item.iter_mut())
        .filter(|(method, _)| METHODS.contains(&method.as_str()))
        .filter_map(|(_, operation)| operation.as_object_mut())
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

fn keep_possible_refusals(operation: &mut Map<String, Value>) {
    let secured = operation
        .get("security")
        .and_then(Value::as_array)
        .is_some_and(|list| !list.is_empty());
    let has_body = operation.contains_key("requestBody");
    let has_path = has_parameter(operation, "path", None);
    let has_query = has_parameter(operation, "query", None);
    let has_header = has_parameter(operation, "header", None);
    let conditional = has_parameter(operation, "header", Some("If-Match"));
    let health = operation
        .get("operationId")
        .and_then(Value::as_str)
        .is_some_and(|id| id.starts_with("get_health") || id == "get_readiness");
    let Some(responses) = operation.get_mut("responses").and_then(Value::as_object_mut) else {
        return;
    };
    responses.retain(|status, _| match status.as_str() {
        "400" => has_body || has_path || has_query || has_header,
        "401" => secured || has_body,
        "404" => has_path || has_body,
        "409" | "410" | "429" => has_body || has_path,
        "403" => secured && (has_body || has_path),
        "412" | "428" => conditional,
        "413" | "415" => has_body,
        "422" => has_body || has_path || has_query,
        "500" => !health,
        _ => true,
    });
}

fn describe_response_headers(operation: &mut Map<String, Value>) {
    let Some(responses) = operation.get_mut("responses").and_then(Value::as_object_mut) else {
        return;
    };
    for response in responses.values_mut().filter_map(Value::as_object_mut) {
        let described = response
            .get("description")
            .and_then(Value::as_str)
            .is_some_and(|text| !text.is_empty());
        if !described {
            response.insert("description".to_owned(), json!("OK"));
        }
        if let Some(headers) = response.entry("headers").or_insert_with(|| json!({})).as_object_mut() {
            headers.insert(
                "X-REQUEST-ID".to_owned(),
                json!({"description": "The id of the request, for logs and support", "schema": {"type": "string"}}),
            );
        }
    }
}

fn refine_schema(schema: &mut Value, types: &HashMap<String, Value>) {
    let Some(object) = schema.as_object_mut() else { return };
    let required: Vec<String> = object
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let Some(properties) = object.get_mut("properties").and_then(Value::as_object_mut) else {
        return;
    };
    for (name, property) in properties.iter_mut() {
        if !required.contains(name) {
            make_nullable(property, types);
        }
    }
    object.entry("additionalProperties").or_insert(Value::Bool(false));
    // RFC 9457 problems may have further members.
    if object.get("title").and_then(Value::as_str) == Some("Problem") {
        object.insert("additionalProperties".to_owned(), Value::Bool(true));
    }
}

/// Formats that other tools know, and the bounds that a format of ours implies.
fn visit_schemas(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(visit_schemas),
        Value::Object(object) => {
            let format = object
                .get("type")
                .and_then(Value::as_str)
                .and_then(|_| object.get("format"))
                .and_then(Value::as_str)
                .map(str::to_owned);
            match format.as_deref() {
                Some("naive-date") => {
                    object.insert("format".to_owned(), json!("date"));
                }
                Some("naive-time") => {
                    object.remove("format");
                    object.insert(
                        "pattern".to_owned(),
                        json!("^([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9])?$"),
                    );
                }
                Some(format) => {
                    if let Some((low, high)) = schema::integer_range(format) {
                        object.entry("minimum").or_insert(json!(low));
                        object.entry("maximum").or_insert(json!(high));
                    }
                    // The formats that OpenAPI knows.
                    if format.starts_with("uint") || matches!(format, "int8" | "int16") {
                        object.entry("minimum").or_insert(json!(0));
                        object.insert(
                            "format".to_owned(),
                            json!(if format == "uint64" { "int64" } else { "int32" }),
                        );
                    }
                }
                None => {}
            }
            object.values_mut().for_each(visit_schemas);
        }
        _ => {}
    }
}

fn make_nullable(property: &mut Value, types: &HashMap<String, Value>) {
    if property.get("$ref").is_some() {
        *property = json!({"allOf": [property.take()]});
    }
    let Some(object) = property.as_object_mut() else { return };
    object.insert("nullable".to_owned(), Value::Bool(true));
    if let Some(values) = object.get_mut("enum").and_then(Value::as_array_mut) {
        values.push(Value::Null);
    }
    // OpenAPI 3.0 knows `nullable` only beside a type, which a reference does not give.
    let referred = object
        .get("allOf")
        .and_then(|parts| parts.pointer("/0/$ref"))
        .and_then(Value::as_str)
        .and_then(|reference| types.get(reference))
        .cloned();
    if let Some(referred) = referred {
        object.entry("type").or_insert(referred);
    }
}

/// Which operations there are, for the Allow header and for logs.
#[derive(Debug, Default)]
pub struct Routes {
    paths: Vec<(Vec<String>, Vec<String>)>,
    patterns: HashMap<String, String>,
}

impl Routes {
    /// The routes of a document.
    #[must_use]
    pub fn of(document: &Value) -> Self {
        let mut routes = Self::default();
        let paths = document.get("paths").and_then(Value::as_object);
        for (path, item) in paths.into_iter().flatten() {
            let mut methods = Vec::new();
            for (method, operation) in item.as_object().into_iter().flatten() {
                if !METHODS.contains(&method.as_str()) {
                    continue;
                }
                methods.push(method.to_uppercase());
                if method == "get" {
                    methods.push("HEAD".to_owned());
                }
                if let Some(id) = operation.get("operationId").and_then(Value::as_str) {
                    routes.patterns.insert(id.to_owned(), path.clone());
                }
            }
            routes
                .paths
                .push((path.split('/').map(str::to_owned).collect(), methods));
        }
        routes
    }

    /// The pattern of an operation's path.
    #[must_use]
    pub fn pattern(&self, operation: &str) -> Option<&str> {
        self.patterns.get(operation).map(String::as_str)
    }

    /// The names of the parameters in an operation's path, in order.
    #[must_use]
    pub fn path_parameters(&self, operation: &str) -> Vec<&str> {
        let pattern = self.pattern(operation).unwrap_or_default();
        pattern
            .split('/')
            .filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
            .collect()
    }

    /// The methods that a path knows, for the Allow header.
    #[must_use]
    pub fn allowed(&self, path: &str) -> String {
        let path = path.trim_end_matches('/');
        let given: Vec<&str> = path.split('/').collect();
        let exact = |segments: &[String]| segments.iter().zip(&given).filter(|(own, given)| own == *given).count();
        self.paths
            .iter()
            .filter(|(segments, _)| {
                segments.len() == given.len()
                    && segments
                        .iter()
                        .zip(&given)
                        .all(|(own, given)| own == given || own.starts_with('{'))
            })
            .max_by_key(|(segments, _)| exact(segments))
            .map(|(_, methods)| methods.join(", "))
            .unwrap_or_else(|| "GET, HEAD".to_owned())
    }
}
