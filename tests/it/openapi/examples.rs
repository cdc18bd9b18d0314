//! The examples of the document: every body has one, and each is what its own schema allows.

use std::collections::BTreeSet;

use roost_tests::app::TestApp;
use roost_tests::ops::Dashboard;
use serde_json::{Map, Value, json};

use super::Described;

/// OpenAPI 3.0 as JSON Schema: `nullable` becomes an alternative, and exclusive bounds are numbers.
fn json_schema(node: &Value) -> Value {
    match node {
        Value::Array(items) => items.iter().map(json_schema).collect(),
        Value::Object(fields) => {
            let mut schema: Map<String, Value> = fields
                .iter()
                .filter(|(name, _)| !["nullable", "example"].contains(&name.as_str()))
                .map(|(name, field)| match (name.as_str(), field) {
                    // Names of properties are no keywords.
                    ("properties", Value::Object(named)) => {
                        let named = named.iter().map(|(name, field)| (name.clone(), json_schema(field)));
                        (name.clone(), Value::Object(named.collect()))
                    }
                    _ => (name.clone(), json_schema(field)),
                })
                .collect();
            for (exclusive, bound) in [("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")] {
                if schema.remove(exclusive) == Some(json!(true)) {
                    let bound = schema.remove(bound).unwrap();
                    schema.insert(exclusive.to_owned(), bound);
                }
            }
            if fields.get("nullable") == Some(&json!(true)) {
                json!({"anyOf": [schema, {"type": "null"}]})
            } else {
                Value::Object(schema)
            }
        }
        other => other.clone(),
    }
}

/// What is wrong with an example.
fn faults(schemas: &Value, schema: &Value, example: &Value) -> Vec<String> {
    let mut root = json_schema(schema);
    root["components"] = json!({"schemas": schemas});
    let validator = jsonschema::options()
        .should_validate_formats(true)
        .build(&root)
        .unwrap();
    let errors = validator.iter_errors(example);
    errors
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect()
}

/// The schemas of a body that have no example: those of an alternative stand for it.
fn without_example(api: &Described, schema: &Value, what: &str, found: &mut BTreeSet<String>) {
    let name = schema["$ref"]
        .as_str()
        .and_then(|reference| reference.rsplit('/').next());
    let schema = api.resolve(schema);
    if schema.get("example").is_some() {
        return;
    }
    match (schema["anyOf"].as_array(), schema.get("items")) {
        (Some(alternatives), _) => {
            for alternative in alternatives {
                without_example(api, alternative, what, found);
            }
        }
        (None, Some(items)) => without_example(api, items, what, found),
        (None, None) => {
            found.insert(name.map_or_else(|| what.to_owned(), str::to_owned));
        }
    }
}

/// Every schema with an example, wherever it stands, and where that is.
fn with_example<'a>(node: &'a Value, at: &str, found: &mut Vec<(String, &'a Value)>) {
    match node {
        Value::Object(fields) => {
            let is_schema = ["type", "$ref", "allOf", "anyOf"]
                .iter()
                .any(|name| fields.contains_key(*name));
            if is_schema && fields.contains_key("example") {
                found.push((at.to_owned(), node));
            }
            for (name, field) in fields.iter().filter(|(name, _)| *name != "example") {
                with_example(field, &format!("{at}/{name}"), found);
            }
        }
        Value::Array(items) => {
            for (number, item) in items.iter().enumerate() {
                with_example(item, &format!("{at}/{number}"), found);
            }
        }
        _ => {}
    }
}

#[tokio::test]
async fn every_body_has_an_example_and_every_example_is_valid() {
    let app = TestApp::start().await;
    let api = Described::api(&app, &app.guest().await).await;
    let found = checked(&api);
    assert!(found.len() > 50, "{}", found.len());

    // An event's data is JSON of its own.
    let schemas = json_schema(&api.document["components"]["schemas"]);
    let stream = found.iter().find(|(_, schema)| schema.get("x-data-schema").is_some());
    let (_, stream) = stream.unwrap();
    let data: Value = serde_json::from_str(stream["example"]["data"].as_str().unwrap()).unwrap();
    assert_eq!(faults(&schemas, &stream["x-data-schema"], &data), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn so_have_those_of_the_dashboards_api() {
    let app = TestApp::start().await;
    let api = Described::dashboard(&Dashboard::start(&app.state).await).await;
    let found = checked(&api);
    assert!(found.len() >= 25, "{}", found.len());
}

/// Every schema with an example and where it stands: each is what its own schema allows, and no body is without one.
fn checked(api: &Described) -> Vec<(String, &Value)> {
    let schemas = json_schema(&api.document["components"]["schemas"]);
    let (mut lacking, mut wrong) = (BTreeSet::new(), Vec::new());
    for operation in api.operations() {
        let request = operation.described.get("requestBody");
        let responses = operation.described["responses"].as_object().unwrap().values();
        for body in request.into_iter().chain(responses) {
            for (kind, media) in api.resolve(body)["content"].as_object().into_iter().flatten() {
                // Pages for people, and forms that are not read.
                if kind.contains("json") || kind == "text/event-stream" {
                    let what = format!("{kind} of {}", operation.id);
                    without_example(api, &media["schema"], &what, &mut lacking);
                }
            }
        }
        for parameter in operation.described["parameters"].as_array().into_iter().flatten() {
            if let Some(example) = parameter.get("example") {
                for fault in faults(&schemas, &parameter["schema"], example) {
                    wrong.push(format!("{} of {}: {fault}", parameter["name"], operation.id));
                }
            }
        }
    }
    let mut found = Vec::new();
    with_example(&api.document, "", &mut found);
    for (at, schema) in &found {
        for fault in faults(&schemas, schema, &schema["example"]) {
            wrong.push(format!("{at}: {fault}"));
        }
    }
    assert!(lacking.is_empty(), "without an example: {lacking:#?}");
    assert!(wrong.is_empty(), "not what the schema allows: {wrong:#?}");
    found
}

#[test]
fn the_check_finds_what_a_schema_does_not_allow() {
    let schemas = json_schema(&json!({
        "Day": {"type": "string", "format": "date"},
        "Stay": {
            "type": "object", "additionalProperties": false, "required": ["day"],
            "properties": {
                "day": {"$ref": "#/components/schemas/Day"},
                "nights": {"type": "integer", "minimum": 0, "exclusiveMinimum": true, "nullable": true},
            },
        },
    }));
    let stay = json!({"$ref": "#/components/schemas/Stay"});
    let finds = |example: Value| !faults(&schemas, &stay, &example).is_empty();
    assert!(!finds(json!({"day": "2030-06-01", "nights": 1})));
    assert!(!finds(json!({"day": "2030-06-01", "nights": null})));
    assert!(finds(json!({"day": "2030-06-31"})));
    assert!(finds(json!({"day": "2030-06-01", "nights": 0})));
    assert!(finds(json!({"day": "2030-06-01", "guests": 2})));
    assert!(finds(json!({"nights": 1})));
}
