//! Values that a schema does not allow, each made from one that it does by a single change.

use serde_json::{Map, Value, json};

use super::Described;

/// A value with one thing wrong.
pub(super) struct Spoilt {
    /// The field that is at fault: `categories.value`, `states[0]`, `body`.
    pub(super) field: String,
    pub(super) value: Value,
    pub(super) how: String,
}

/// A schema with the parts that it takes over from others.
fn whole(api: &Described, schema: &Value) -> Map<String, Value> {
    let mut merged = Map::new();
    for part in schema["allOf"].as_array().into_iter().flatten() {
        merged.extend(whole(api, api.resolve(part)));
    }
    merged.extend(api.resolve(schema).as_object().unwrap().clone());
    merged
}

fn size(schema: &Map<String, Value>, name: &str) -> Option<usize> {
    usize::try_from(schema.get(name)?.as_u64()?).ok()
}

/// A value that the schema allows: its example, or as little as there can be.
pub(super) fn fitting(api: &Described, schema: &Value) -> Value {
    let schema = whole(api, schema);
    if let Some(example) = schema.get("example") {
        return example.clone();
    }
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        return values[0].clone();
    }
    match (
        schema.get("type").and_then(Value::as_str).unwrap_or_default(),
        schema.get("format").and_then(Value::as_str),
    ) {
        ("string", Some("uuid")) => json!(uuid::Uuid::now_v7()),
        ("string", Some("date")) => json!("2030-06-01"),
        ("string", Some("date-time")) => json!("2030-06-01T12:00:00Z"),
        ("string", _) => json!("x".repeat(size(&schema, "minLength").unwrap_or(1))),
        ("integer" | "number", _) => schema.get("minimum").cloned().unwrap_or(json!(1)),
        ("boolean", _) => json!(true),
        ("array", _) => json!([]),
        _ => {
            let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
            let names = required.map(|name| name.as_str().unwrap());
            names
                .map(|name| (name.to_owned(), fitting(api, &schema["properties"][name])))
                .collect::<Map<_, _>>()
                .into()
        }
    }
}

/// The same, as it stands in a URL.
pub(super) fn fitting_text(api: &Described, schema: &Value) -> String {
    match fitting(api, schema) {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

/// What the schema does not allow in the place of any value of it.
fn wrong(api: &Described, schema: &Map<String, Value>, good: &Value) -> Vec<Value> {
    let mut wrong = Vec::new();
    let least = size(schema, "minLength").filter(|least| *least > 0);
    match schema.get("type").and_then(Value::as_str) {
        Some("string") => {
            wrong.extend([json!(7), json!(true), json!([]), json!({})]);
            wrong.extend(size(schema, "maxLength").map(|most| json!("x".repeat(most + 1))));
            wrong.extend(least.map(|least| json!("x".repeat(least - 1))));
            let named = ["uuid", "date", "date-time"].map(Value::from);
            if schema.contains_key("enum") || schema.get("format").is_some_and(|format| named.contains(format)) {
                wrong.push(json!("nonsense"));
            }
        }
        Some(kind @ ("integer" | "number")) => {
            wrong.extend([json!("7"), json!(true), json!([]), json!({})]);
            if kind == "integer" {
                wrong.extend([json!(1.5), json!(1e30)]);
            }
            let exclusive = schema.contains_key("exclusiveMinimum");
            let off = |bound: &str, by: f64| schema.get(bound).and_then(Value::as_f64).map(|bound| bound + by);
            let below = off("minimum", if exclusive { 0.0 } else { -1.0 });
            for beyond in [below, off("maximum", 1.0)].into_iter().flatten() {
                #[allow(clippy::cast_possible_truncation, reason = "bounds of whole numbers are whole")]
                wrong.push(if kind == "integer" {
                    json!(beyond as i64)
                } else {
                    json!(beyond)
                });
            }
        }
        Some("boolean") => wrong.extend([json!("true"), json!(1), json!([]), json!({})]),
        Some("array") => {
            wrong.extend([json!("x"), json!(7), json!({})]);
            let item = good.get(0).cloned().unwrap_or_else(|| fitting(api, &schema["items"]));
            wrong.extend(size(schema, "maxItems").map(|most| json!(vec![item; most + 1])));
        }
        Some("object") => wrong.extend([json!("x"), json!(7), json!([])]),
        // Anything goes.
        _ => {}
    }
    wrong
}

/// Everything that can be wrong with `good`.
pub(super) fn spoilt(api: &Described, schema: &Value, good: &Value, field: &str) -> Vec<Spoilt> {
    let schema = whole(api, schema);
    let mut found: Vec<Spoilt> = wrong(api, &schema, good)
        .into_iter()
        .map(|value| Spoilt {
            field: if field.is_empty() { "body" } else { field }.to_owned(),
            how: shortened(&value),
            value,
        })
        .collect();
    let inside = |name: &str| {
        if field.is_empty() {
            name.to_owned()
        } else {
            format!("{field}.{name}")
        }
    };
    if let Some(items) = schema.get("items") {
        let item = good.get(0).cloned().unwrap_or_else(|| fitting(api, items));
        found.extend(
            spoilt(api, items, &item, &format!("{field}[0]"))
                .into_iter()
                .map(|spoilt| Spoilt {
                    value: json!([spoilt.value]),
                    ..spoilt
                }),
        );
    }
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
        return found;
    };
    let good = good.as_object().cloned().unwrap_or_default();
    let with = |name: &str, value: Option<Value>| {
        let mut object = good.clone();
        match value {
            Some(value) => object.insert(name.to_owned(), value),
            None => object.remove(name),
        };
        Value::Object(object)
    };
    for (name, property) in properties {
        let present = good.get(name).filter(|value| !value.is_null()).cloned();
        let present = present.unwrap_or_else(|| fitting(api, property));
        found.extend(
            spoilt(api, property, &present, &inside(name))
                .into_iter()
                .map(|spoilt| Spoilt {
                    value: with(name, Some(spoilt.value)),
                    ..spoilt
                }),
        );
        let required = schema.get("required").and_then(Value::as_array);
        if required.is_some_and(|required| required.contains(&json!(name))) {
            found.push(Spoilt {
                field: inside(name),
                value: with(name, None),
                how: "left out".to_owned(),
            });
            if whole(api, property).contains_key("type") {
                found.push(Spoilt {
                    field: inside(name),
                    value: with(name, Some(Value::Null)),
                    how: "null".to_owned(),
                });
            }
        }
    }
    found.push(Spoilt {
        field: inside("surprise"),
        value: with("surprise", Some(json!(1))),
        how: "unknown".to_owned(),
    });
    found
}

/// What a parameter with this schema may not be, and what it should be told as.
pub(super) fn spoilt_texts(api: &Described, schema: &Value) -> Vec<String> {
    let schema = whole(api, schema);
    let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    if let Some(items) = schema.get("items") {
        return spoilt_texts(api, items);
    }
    match schema.get("type").and_then(Value::as_str) {
        Some("integer") => {
            let mut found = texts(&["nonsense", "1.5", "", "99999999999999999999", "%F0%9F%A6%86"]);
            for (bound, by) in [("minimum", -1), ("maximum", 1)] {
                #[allow(clippy::cast_possible_truncation, reason = "bounds of whole numbers are whole")]
                let bound = schema.get(bound).and_then(Value::as_f64).map(|bound| bound as i64 + by);
                found.extend(bound.map(|beyond| beyond.to_string()));
            }
            found
        }
        Some("boolean") => texts(&["nonsense", "2", ""]),
        Some("string") => {
            let named = ["uuid", "date", "date-time"].map(Value::from);
            let mut found = texts(&["%00"]);
            if schema.contains_key("enum") || schema.get("format").is_some_and(|format| named.contains(format)) {
                found.extend(texts(&["nonsense", "2030-13-01", "%F0%9F%A6%86"]));
            }
            found.extend(size(&schema, "maxLength").map(|most| "x".repeat(most + 1)));
            let least = size(&schema, "minLength").filter(|least| *least > 0);
            found.extend(least.map(|least| "x".repeat(least - 1)));
            found
        }
        other => panic!("a parameter of the type {other:?}"),
    }
}

fn shortened(value: &Value) -> String {
    value.to_string().chars().take(40).collect()
}
