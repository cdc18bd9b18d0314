//! The limits of a property's fields in the OpenAPI document. They are checked by `roost_shared::properties::rules`,
//! all of them at once, so poem-openapi's validators, which stop at the first, do not state them.

use roost_shared::properties::rules::{
    AMENITIES, MAX_AMENITIES, MAX_AMOUNT_MINOR, MAX_BEDS, MAX_CITY_LENGTH, MAX_GUESTS, MAX_NIGHTS, MAX_ROOMS,
    MAX_TEXT_LENGTH, TITLE_LENGTH,
};
use serde_json::{Map, Value, json};

const SCHEMAS: [&str; 3] = ["NewProperty", "PropertyPatch", "Property"];

/// Adds the limits to the schemas of a document.
pub(crate) fn state_limits(document: &mut Value) {
    for name in SCHEMAS {
        let fields = document
            .pointer_mut(&format!("/components/schemas/{name}/properties"))
            .and_then(Value::as_object_mut);
        let Some(fields) = fields else { continue };
        for (field, limits) in limits() {
            if let (Some(Value::Object(schema)), Value::Object(limits)) = (fields.get_mut(field), limits) {
                schema.extend(limits);
            }
        }
        if let Some(items) = fields.get_mut("amenities").and_then(|schema| schema.get_mut("items")) {
            *items = json!({"type": "string", "enum": AMENITIES});
        }
    }
    for parameter in list_parameters(document) {
        let limits = match parameter.get("name").and_then(Value::as_str) {
            Some("guests") => between(1, MAX_GUESTS.into()),
            Some("bedrooms") => between(0, MAX_ROOMS.into()),
            Some("min_price" | "max_price") => json!({"minimum": 0}),
            Some("country") => pattern("^[A-Z]{2}$"),
            Some("currency") => pattern("^[A-Z]{3}$"),
            Some("city") => json!({"minLength": 1, "maxLength": MAX_CITY_LENGTH}),
            Some("amenities") => json!({"maxItems": MAX_AMENITIES, "items": {"type": "string", "enum": AMENITIES}}),
            _ => continue,
        };
        if let (Some(Value::Object(schema)), Value::Object(limits)) = (parameter.get_mut("schema"), limits) {
            schema.extend(limits);
        }
    }
}

fn list_parameters(document: &mut Value) -> impl Iterator<Item = &mut Map<String, Value>> {
    document
        .pointer_mut("/paths/~1properties/get/parameters")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
}

fn limits() -> [(&'static str, Value); 19] {
    let (shortest_title, longest_title) = TITLE_LENGTH;
    [
        (
            "title",
            json!({"minLength": shortest_title, "maxLength": longest_title}),
        ),
        ("description", json!({"maxLength": MAX_TEXT_LENGTH})),
        ("house_rules", json!({"maxLength": MAX_TEXT_LENGTH})),
        ("city", json!({"minLength": 1, "maxLength": MAX_CITY_LENGTH})),
        ("country", pattern("^[A-Z]{2}$")),
        ("currency", pattern("^[A-Z]{3}$")),
        ("latitude", between(-90, 90)),
        ("longitude", between(-180, 180)),
        ("nightly_rate_minor", between(1, MAX_AMOUNT_MINOR)),
        ("cleaning_fee_minor", between(0, MAX_AMOUNT_MINOR)),
        ("max_guests", between(1, MAX_GUESTS.into())),
        ("bedrooms", between(0, MAX_ROOMS.into())),
        ("beds", between(1, MAX_BEDS.into())),
        ("bathrooms", between(0, MAX_ROOMS.into())),
        ("min_nights", between(1, MAX_NIGHTS.into())),
        ("max_nights", between(1, MAX_NIGHTS.into())),
        ("amenities", json!({"maxItems": MAX_AMENITIES, "uniqueItems": true})),
        ("check_in_from", pattern(TIME)),
        ("check_out_by", pattern(TIME)),
    ]
}

const TIME: &str = "^([01][0-9]|2[0-3]):[0-5][0-9]$";

fn between(least: i64, most: i64) -> Value {
    json!({"minimum": least, "maximum": most})
}

fn pattern(pattern: &str) -> Value {
    json!({"pattern": pattern})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_stated_where_the_document_has_the_field() {
        let field = || json!({"type": "string"});
        let mut document = json!({
            "components": {"schemas": {
                "NewProperty": {"properties": {"title": field(), "amenities": {"type": "array", "items": field()}}},
                "PropertyPatch": {"properties": {"beds": {"type": "integer", "nullable": true}}},
            }},
            "paths": {"/properties": {"get": {"parameters": [{"name": "guests", "schema": {"type": "integer"}}]}}},
        });
        state_limits(&mut document);
        let at = |pointer: &str| document.pointer(pointer).cloned().unwrap_or_default();
        assert_eq!(at("/components/schemas/NewProperty/properties/title/maxLength"), 120);
        let amenities = at("/components/schemas/NewProperty/properties/amenities");
        assert_eq!(
            (&amenities["maxItems"], &amenities["items"]["enum"][0]),
            (&json!(50), &json!("air_conditioning"))
        );
        let beds = at("/components/schemas/PropertyPatch/properties/beds");
        assert_eq!(
            beds,
            json!({"type": "integer", "nullable": true, "minimum": 1, "maximum": 100})
        );
        assert_eq!(at("/paths/~1properties/get/parameters/0/schema/maximum"), 50);
    }
}
