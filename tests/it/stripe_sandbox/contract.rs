//! Checks exchanges against Stripe's published OpenAPI document (`tests/stripe/openapi.json`).
//!
//! Replies must fit their schema and carry no field that Stripe does not know; parameters of
//! requests that were accepted must be ones that Stripe takes. Events and the objects in them are
//! checked as well.

use std::sync::LazyLock;

use roost_tests::stripe::{Exchange, StripeSandbox};
use serde_json::{Map, Value, json};

static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("../../stripe/openapi.json")).expect("the document is JSON"));

/// The document's schemas as JSON Schema, for references from anywhere.
static SCHEMAS: LazyLock<Value> = LazyLock::new(|| to_json_schema(&DOCUMENT["components"]["schemas"]));

/// Fails when anything the sandbox received or sent is not as published.
pub(crate) fn check(sandbox: &StripeSandbox) {
    let exchanges = sandbox.exchanges();
    assert!(!exchanges.is_empty(), "a test of the sandbox that asked nothing");
    for exchange in &exchanges {
        check_exchange(exchange);
    }
    for event in sandbox.events() {
        check_value(&reference("event"), &event, "an event");
        let object = &event["data"]["object"];
        let kind = object["object"].as_str().expect("an object tells its kind");
        check_value(&reference(kind), object, &format!("the object of {}", event["type"]));
    }
}

fn check_exchange(exchange: &Exchange) {
    let what = format!("{} {}", exchange.method, exchange.path);
    // Whoever is cut off or sees a proxy's page gets no reply of Stripe's.
    if exchange.status == 0 {
        return;
    }
    let error = reference("error");
    let Some(operation) = find_operation(&exchange.method, &exchange.path) else {
        assert_eq!(exchange.status, 404, "{what} is not in the document");
        return check_value(&error, &exchange.reply, &what);
    };
    if exchange.status < 300 {
        let schema = &operation["responses"]["200"]["content"]["application/json"]["schema"];
        check_value(&to_json_schema(schema), &exchange.reply, &what);
    } else {
        check_value(&error, &exchange.reply, &what);
    }
    if !matches!(exchange.status, 400 | 401 | 404) {
        check_params(operation, exchange, &what);
    }
}

fn check_params(operation: &Value, exchange: &Exchange, what: &str) {
    let schema = if exchange.method == "POST" {
        operation["requestBody"]["content"]["application/x-www-form-urlencoded"]["schema"].clone()
    } else {
        query_schema(operation)
    };
    let schema = to_json_schema(&schema);
    let params = typed(&Value::Object(exchange.params.clone()), &schema);
    check_value(&schema, &params, &format!("the parameters of {what}"));
}

fn query_schema(operation: &Value) -> Value {
    let parameters = operation["parameters"].as_array().into_iter().flatten();
    let query = parameters.filter(|parameter| parameter["in"] == "query");
    let properties: Map<String, Value> = query
        .map(|parameter| {
            let name = parameter["name"].as_str().expect("a parameter has a name");
            (name.to_owned(), parameter["schema"].clone())
        })
        .collect();
    json!({ "type": "object", "properties": properties, "additionalProperties": false })
}

/// The operation whose path template fits.
fn find_operation(method: &str, path: &str) -> Option<&'static Value> {
    let paths = DOCUMENT["paths"].as_object().expect("the document has paths");
    let fits = |template: &str| {
        let (wanted, given) = (template.split('/'), path.trim_end_matches('/').split('/'));
        wanted.clone().count() == given.clone().count()
            && wanted
                .zip(given)
                .all(|(wanted, given)| wanted.starts_with('{') || wanted == given)
    };
    let operations = paths
        .iter()
        .find(|(template, _)| fits(template))
        .map(|(_, operations)| operations)?;
    operations.get(method.to_ascii_lowercase())
}

fn reference(schema: &str) -> Value {
    assert!(SCHEMAS.get(schema).is_some(), "the document has no schema {schema}");
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

fn check_value(schema: &Value, value: &Value, what: &str) {
    let mut root = schema.clone();
    root["components"] = json!({ "schemas": *SCHEMAS });
    let validator = jsonschema::validator_for(&root).expect("the schema is valid");
    let errors: Vec<String> = validator
        .iter_errors(value)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(
        errors.is_empty(),
        "{what} is not what Stripe describes:\n{}\nin {value:#}",
        errors.join("\n")
    );
}

/// OpenAPI 3.0 as JSON Schema: `nullable` becomes an alternative, and an object with named
/// properties takes no others.
fn to_json_schema(node: &Value) -> Value {
    match node {
        Value::Array(items) => items.iter().map(to_json_schema).collect(),
        Value::Object(fields) => {
            let mut schema = Map::new();
            for (name, field) in fields.iter().filter(|(name, _)| *name != "nullable") {
                let field = if name == "properties" {
                    let fields = field.as_object().expect("properties are an object").iter();
                    fields
                        .map(|(name, field)| (name.clone(), to_json_schema(field)))
                        .collect()
                } else {
                    to_json_schema(field)
                };
                schema.insert(name.clone(), field);
            }
            let named = schema
                .get("properties")
                .and_then(Value::as_object)
                .is_some_and(|named| !named.is_empty());
            if named && !schema.contains_key("additionalProperties") {
                schema.insert("additionalProperties".to_owned(), json!(false));
            }
            if fields.get("nullable") == Some(&json!(true)) {
                json!({ "anyOf": [schema, { "type": "null" }] })
            } else {
                Value::Object(schema)
            }
        }
        other => other.clone(),
    }
}

/// Form values, which are all strings, as the types that the schema asks for.
fn typed(value: &Value, schema: &Value) -> Value {
    if let Some(options) = schema["anyOf"].as_array() {
        let fitting = options.iter().map(|option| (option, typed(value, option)));
        let found = fitting
            .into_iter()
            .find(|(option, value)| jsonschema::is_valid(option, value));
        return found.map_or_else(|| value.clone(), |(_, value)| value);
    }
    match (value, schema["type"].as_str()) {
        (Value::String(text), Some("integer")) => text.parse::<i64>().map_or_else(|_| value.clone(), Value::from),
        (Value::String(text), Some("boolean")) => text.parse::<bool>().map_or_else(|_| value.clone(), Value::from),
        (Value::Object(items), Some("array")) => {
            let mut items: Vec<(usize, Value)> = items
                .iter()
                .map(|(index, item)| (index.parse().unwrap_or(usize::MAX), typed(item, &schema["items"])))
                .collect();
            items.sort_by_key(|(index, _)| *index);
            items.into_iter().map(|(_, item)| item).collect()
        }
        (Value::Object(fields), Some("object")) => fields
            .iter()
            .map(|(name, field)| (name.clone(), typed(field, &schema["properties"][name])))
            .collect::<Map<_, _>>()
            .into(),
        _ => value.clone(),
    }
}

#[test]
fn the_check_finds_wrong_types_unknown_fields_and_unknown_parameters() {
    let intent = json!({"id": "pi_1", "object": "payment_intent", "created": 1, "livemode": false,
                        "status": "succeeded"});
    let fails =
        |value: Value| std::panic::catch_unwind(|| check_value(&reference("payment_intent"), &value, "it")).is_err();
    assert!(!fails(intent.clone()));
    let changed = |field: &str, value: Value| {
        let mut changed = intent.clone();
        changed[field] = value;
        changed
    };
    assert!(fails(changed("status", json!("paid"))));
    assert!(fails(changed("amount", json!("100"))));
    assert!(fails(changed("colour", json!("red"))));
    assert!(fails(changed("created", Value::Null)));
    assert!(!fails(changed("canceled_at", Value::Null)));

    let operation = find_operation("POST", "/v1/payment_intents/pi_1/capture").expect("capture");
    let exchange = |params: Value| Exchange {
        at_millis: 0,
        request_id: String::new(),
        method: "POST".to_owned(),
        path: String::new(),
        params: params.as_object().cloned().unwrap_or_default(),
        idempotency_key: None,
        status: 200,
        reply: Value::Null,
        replayed: false,
        fault: None,
    };
    let refuses = |params: Value| {
        let exchange = exchange(params);
        std::panic::catch_unwind(|| check_params(operation, &exchange, "it")).is_err()
    };
    assert!(!refuses(json!({"amount_to_capture": "100", "metadata": {"a": "b"}})));
    assert!(refuses(json!({"amount_to_capture": "many"})));
    assert!(refuses(json!({"colour": "red"})));
}
