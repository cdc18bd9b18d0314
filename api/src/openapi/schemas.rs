//! Schemas, said as precisely as they are checked; and pages with the example of what they list.

use serde_json::{Map, Value, json};

use crate::schema;

/// Unknown members are refused, and optional ones may be null.
pub(super) fn refine_schemas(schemas: &mut Map<String, Value>) {
    let named = schemas.clone();
    for (name, schema) in schemas.iter_mut() {
        let Some(object) = schema.as_object_mut() else { continue };
        let required: Vec<String> = strings(object.get("required"));
        let Some(properties) = object.get_mut("properties").and_then(Value::as_object_mut) else {
            continue;
        };
        for (property_name, property) in properties.iter_mut() {
            drop_repeated_description(property);
            if !required.contains(property_name) {
                make_nullable(property, &named);
            }
        }
        // RFC 9457 problems may have further members.
        let open = name == "Problem";
        object.entry("additionalProperties").or_insert(Value::Bool(open));
        if let Some(item) = listed(object).and_then(|item| named.get(item)?.get("example")) {
            object.insert(
                "example".to_owned(),
                json!({"items": [item], "next": null, "next_cursor": null}),
            );
        }
    }
}

/// Of what a page is a list, if the schema is one of a page.
fn listed(schema: &Map<String, Value>) -> Option<&str> {
    let title = schema.get("title")?.as_str()?;
    let item = schema.get("properties")?.pointer("/items/items/$ref")?.as_str()?;
    title.starts_with("Page_").then(|| item.rsplit('/').next())?
}

fn strings(list: Option<&Value>) -> Vec<String> {
    list.and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

/// poem-openapi describes a reference twice: beside it and in a part of its own.
fn drop_repeated_description(property: &mut Value) {
    if let Some(parts) = property.get_mut("allOf").and_then(Value::as_array_mut) {
        parts.retain(|part| part.get("description").is_none() || part.as_object().is_some_and(|part| part.len() > 1));
    }
}

/// OpenAPI 3.0 wants a type beside `nullable`, also beside a reference. A reference to an enumeration is replaced by
/// its values and null, because null is none of them.
fn make_nullable(property: &mut Value, named: &Map<String, Value>) {
    if property.get("$ref").is_some() {
        *property = json!({"allOf": [property.take()]});
    }
    let Some(object) = property.as_object_mut() else { return };
    let referenced = object
        .get("allOf")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|part| part.get("$ref")?.as_str()?.rsplit('/').next())
        .find_map(|name| named.get(name));
    if let Some(referenced) = referenced {
        // A schema without any type takes null as it is.
        let Some(kind) = referenced.get("type") else { return };
        object.insert("type".to_owned(), kind.clone());
        if let Some(values) = referenced.get("enum") {
            object.insert("enum".to_owned(), values.clone());
            object.remove("allOf");
        }
    }
    if object.contains_key("type") {
        object.insert("nullable".to_owned(), Value::Bool(true));
    }
    if let Some(values) = object.get_mut("enum").and_then(Value::as_array_mut) {
        values.push(Value::Null);
    }
}

/// Formats that other tools know, and the bounds that a format of ours implies.
pub(super) fn visit_schemas(value: &mut Value) {
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
