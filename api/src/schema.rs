//! Checks a JSON body against the schema that the OpenAPI document shows, and reports everything that is wrong.
//!
//! poem-openapi stops at the first error and names no field for a wrong type; the document and the check here come
//! from the same schema, so what the document promises is what is refused.

use std::any::TypeId;
use std::collections::{BTreeMap, HashMap};
use std::sync::{LazyLock, PoisonError, RwLock};

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use poem_openapi::registry::{MetaSchema, MetaSchemaRef, Registry};
use poem_openapi::types::Type;
use serde_json::{Number, Value};
use uuid::Uuid;

use crate::problem::FieldError;

/// Further violations are not looked for: who sends that many does not read them all.
const MOST: usize = 50;
/// Field names come from the client; a longer one is cut in the reply.
const LONGEST_NAME: usize = 100;

struct Schemas {
    root: MetaSchemaRef,
    named: BTreeMap<String, MetaSchema>,
}

/// What in `value` violates the schema of `T`.
pub fn violations<T: Type + 'static>(value: &Value) -> Vec<FieldError> {
    let schemas = schemas::<T>();
    let mut walk = Walk {
        schemas,
        found: Vec::new(),
    };
    walk.check(value, &schemas.root, "");
    walk.found
}

/// What in `value` is more than an object that says nothing.
pub fn violations_of_nothing(value: &Value) -> Vec<FieldError> {
    static NOTHING: LazyLock<Schemas> = LazyLock::new(|| Schemas {
        root: MetaSchemaRef::Inline(Box::new(MetaSchema::new("object"))),
        named: BTreeMap::new(),
    });
    let mut walk = Walk {
        schemas: &NOTHING,
        found: Vec::new(),
    };
    walk.check(value, &NOTHING.root, "");
    walk.found
}

/// Made once for a type, then kept: there are as many as there are request bodies in this crate.
fn schemas<T: Type + 'static>() -> &'static Schemas {
    static CACHE: LazyLock<RwLock<HashMap<TypeId, &'static Schemas>>> = LazyLock::new(RwLock::default);
    let id = TypeId::of::<T>();
    if let Some(known) = CACHE.read().unwrap_or_else(PoisonError::into_inner).get(&id) {
        return known;
    }
    let mut registry = Registry::new();
    T::register(&mut registry);
    let made: &'static Schemas = Box::leak(Box::new(Schemas {
        root: T::schema_ref(),
        named: registry.schemas,
    }));
    CACHE
        .write()
        .unwrap_or_else(PoisonError::into_inner)
        .entry(id)
        .or_insert(made)
}

struct Walk {
    schemas: &'static Schemas,
    found: Vec<FieldError>,
}

impl Walk {
    fn refuse(&mut self, path: &str, message: impl Into<String>) {
        if self.found.len() < MOST {
            let field = if path.is_empty() { "body" } else { path };
            self.found.push(FieldError::new(field, message));
        }
    }

    fn check(&mut self, value: &Value, schema: &MetaSchemaRef, path: &str) {
        match schema {
            MetaSchemaRef::Inline(schema) => self.check_inline(value, schema, path),
            MetaSchemaRef::Reference(name) => {
                if let Some(schema) = self.schemas.named.get(name) {
                    self.check_inline(value, schema, path);
                }
            }
        }
    }

    fn check_inline(&mut self, value: &Value, schema: &MetaSchema, path: &str) {
        for part in &schema.all_of {
            self.check(value, part, path);
        }
        if !schema.enum_items.is_empty() && !schema.enum_items.contains(value) {
            let items: Vec<String> = schema.enum_items.iter().map(plain).collect();
            self.refuse(path, format!("must be one of {}", items.join(", ")));
            return;
        }
        match (schema.ty, value) {
            ("string", Value::String(text)) => self.check_text(text, schema, path),
            ("integer", Value::Number(number)) if !number.is_f64() => self.check_integer(number, schema, path),
            ("number", Value::Number(number)) => self.check_number(number, schema, path),
            ("array", Value::Array(items)) => self.check_array(items, schema, path),
            ("object", Value::Object(members)) => self.check_object(members, schema, path),
            ("boolean", Value::Bool(_)) | ("", _) => {}
            ("string", _) => self.refuse(path, "must be a string"),
            ("integer", _) => self.refuse(path, "must be a whole number"),
            ("number", _) => self.refuse(path, "must be a number"),
            ("boolean", _) => self.refuse(path, "must be true or false"),
            ("array", _) => self.refuse(path, "must be an array"),
            ("object", _) => self.refuse(path, "must be an object"),
            // A kind of schema that this check does not know; the parser behind it does.
            _ => {}
        }
    }

    fn check_text(&mut self, text: &str, schema: &MetaSchema, path: &str) {
        let length = text.chars().count();
        let fits = schema.min_length.is_none_or(|least| length >= least)
            && schema.max_length.is_none_or(|most| length <= most);
        if !fits {
            self.refuse(path, bounds(schema.min_length, schema.max_length, "characters"));
        }
        let (well_formed, expected) = match schema.format {
            Some("uuid") => (Uuid::parse_str(text).is_ok(), "must be a UUID"),
            Some("date" | "naive-date") => (is_date(text), "must be a date: YYYY-MM-DD"),
            Some("time" | "naive-time") => (is_time(text), "must be a time of day: HH:MM or HH:MM:SS"),
            Some("date-time") => (text.parse::<DateTime<Utc>>().is_ok(), "must be an RFC 3339 instant"),
            _ => (true, ""),
        };
        if !well_formed {
            self.refuse(path, expected);
        }
    }

    fn check_integer(&mut self, number: &Number, schema: &MetaSchema, path: &str) {
        // f64 cannot express the ends of these two.
        let (fits, range) = match schema.format {
            Some("int64") => (number.is_i64(), format!("{} to {}", i64::MIN, i64::MAX)),
            Some("uint64") => (number.is_u64(), format!("0 to {}", u64::MAX)),
            _ => (true, String::new()),
        };
        if fits {
            self.check_number(number, schema, path);
        } else {
            self.refuse(path, format!("must be {range}"));
        }
    }

    fn check_number(&mut self, number: &Number, schema: &MetaSchema, path: &str) {
        let value = number.as_f64().unwrap_or(f64::NAN);
        let (low, high) = range(schema);
        let exclusive_low = schema.exclusive_minimum == Some(true);
        let exclusive_high = schema.exclusive_maximum == Some(true);
        let above = low.is_none_or(|low| if exclusive_low { value > low } else { value >= low });
        let below = high.is_none_or(|high| if exclusive_high { value < high } else { value <= high });
        if !(above && below) {
            let message = match (low, high) {
                (Some(low), Some(high)) => format!("must be {low} to {high}"),
                (Some(low), None) if exclusive_low => format!("must be more than {low}"),
                (Some(low), None) => format!("must be at least {low}"),
                (None, Some(high)) if exclusive_high => format!("must be less than {high}"),
                (None, Some(high)) => format!("must be at most {high}"),
                (None, None) => "must be a number".to_owned(),
            };
            self.refuse(path, message);
        } else if schema.multiple_of.is_some_and(|step| value % step != 0.0) {
            self.refuse(
                path,
                format!("must be a multiple of {}", schema.multiple_of.unwrap_or(1.0)),
            );
        }
    }

    fn check_array(&mut self, items: &[Value], schema: &MetaSchema, path: &str) {
        let length = items.len();
        let fits =
            schema.min_items.is_none_or(|least| length >= least) && schema.max_items.is_none_or(|most| length <= most);
        if !fits {
            self.refuse(path, bounds(schema.min_items, schema.max_items, "items"));
            return;
        }
        if schema.unique_items == Some(true)
            && items
                .iter()
                .enumerate()
                .any(|(at, item)| items.iter().take(at).any(|other| other == item))
        {
            self.refuse(path, "must not contain an item twice");
        }
        if let Some(schema) = &schema.items {
            for (at, item) in items.iter().enumerate() {
                self.check(item, schema, &format!("{path}[{at}]"));
            }
        }
    }

    fn check_object(&mut self, members: &serde_json::Map<String, Value>, schema: &MetaSchema, path: &str) {
        let inside = |name: &str| {
            let name: String = name.chars().take(LONGEST_NAME).collect();
            if path.is_empty() {
                name
            } else {
                format!("{path}.{name}")
            }
        };
        for (name, property) in &schema.properties {
            let required = schema.required.contains(name);
            match members.get(*name) {
                None if required => self.refuse(&inside(name), "is required"),
                // Optional fields may be null, as the document says.
                None => {}
                Some(Value::Null) if !required => {}
                Some(value) => self.check(value, property, &inside(name)),
            }
        }
        for (name, value) in members {
            if schema.properties.iter().any(|(known, _)| known == name) {
                continue;
            }
            match &schema.additional_properties {
                Some(schema) => self.check(value, schema, &inside(name)),
                None if schema.properties.is_empty() && !schema.all_of.is_empty() => {}
                None => self.refuse(&inside(name), "is not known"),
            }
        }
    }
}

/// The bounds of a number: those of the schema, or else those of its integer format.
pub fn range(schema: &MetaSchema) -> (Option<f64>, Option<f64>) {
    let (low, high) = schema.format.and_then(integer_range).unzip();
    (schema.minimum.or(low), schema.maximum.or(high))
}

/// What fits an integer format, except those of 64 bits: f64 cannot express their ends.
pub fn integer_range(format: &str) -> Option<(f64, f64)> {
    Some(match format {
        "int8" => (f64::from(i8::MIN), f64::from(i8::MAX)),
        "int16" => (f64::from(i16::MIN), f64::from(i16::MAX)),
        "int32" => (f64::from(i32::MIN), f64::from(i32::MAX)),
        "uint8" => (0.0, f64::from(u8::MAX)),
        "uint16" => (0.0, f64::from(u16::MAX)),
        "uint32" => (0.0, f64::from(u32::MAX)),
        _ => return None,
    })
}

fn bounds(least: Option<usize>, most: Option<usize>, unit: &str) -> String {
    match (least, most) {
        (Some(least), Some(most)) => format!("must have {least} to {most} {unit}"),
        (Some(least), None) => format!("must have at least {least} {unit}"),
        (None, Some(most)) => format!("must have at most {most} {unit}"),
        (None, None) => format!("has too many or too few {unit}"),
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Exactly `YYYY-MM-DD`; chrono alone would also read `2030-6-1`.
fn is_date(text: &str) -> bool {
    text.len() == 10 && text.is_ascii() && NaiveDate::parse_from_str(text, "%Y-%m-%d").is_ok()
}

fn is_time(text: &str) -> bool {
    matches!(text.len(), 5 | 8) && text.is_ascii() && text.parse::<NaiveTime>().is_ok()
}

#[cfg(test)]
mod tests {
    use poem_openapi::{Enum, Object};
    use serde_json::json;

    use super::*;

    #[derive(Debug, Enum)]
    #[oai(rename_all = "lowercase")]
    enum Colour {
        Red,
        Blue,
    }

    #[derive(Debug, Object)]
    struct Inner {
        at: NaiveTime,
    }

    #[derive(Debug, Object)]
    #[oai(deny_unknown_fields)]
    #[allow(dead_code, reason = "only its schema is used")]
    struct Outer {
        id: Uuid,
        day: NaiveDate,
        colour: Colour,
        inner: Inner,
        #[oai(validator(max_items = 2))]
        names: Vec<String>,
        #[oai(validator(minimum(value = "1"), maximum(value = "9")))]
        count: Option<i32>,
        small: Option<u8>,
        #[oai(validator(min_length = 2))]
        word: Option<String>,
    }

    fn good() -> Value {
        json!({"id": Uuid::nil(), "day": "2030-06-01", "colour": "red", "inner": {"at": "15:00"}, "names": ["a"], "count": 9, "small": null})
    }

    #[test]
    fn what_the_schema_allows_passes() {
        assert_eq!(violations::<Outer>(&good()), []);
    }

    #[test]
    fn every_violation_is_named() {
        let cases = [
            ("id", json!("x")),
            ("id", json!(1)),
            ("id", Value::Null),
            ("day", json!("2030-6-1")),
            ("day", json!("2030-02-30")),
            ("day", json!("2030-06-01T00:00:00Z")),
            ("colour", json!("green")),
            ("colour", json!(1)),
            ("inner", json!([])),
            ("inner.at", json!({"at": "25:00"})),
            ("inner.more", json!({"at": "15:00", "more": 1})),
            ("names", json!(["a", "b", "c"])),
            ("names[1]", json!(["a", 1])),
            ("names", json!("a")),
            ("count", json!(10)),
            ("count", json!(1.5)),
            ("count", json!("1")),
            ("small", json!(256)),
            ("small", json!(-1)),
            ("word", json!("x")),
        ];
        for (field, value) in cases {
            let mut body = good();
            body[field.split(['.', '[']).next().unwrap()] = value;
            let found = violations::<Outer>(&body);
            assert_eq!(found.len(), 1, "{field}: {found:?}");
            assert_eq!(found[0].field, field);
        }
        let fields: Vec<String> = violations::<Outer>(&json!({"extra": 1}))
            .into_iter()
            .map(|error| error.field)
            .collect();
        assert_eq!(fields, ["id", "day", "colour", "inner", "names", "extra"]);
        assert_eq!(violations::<Outer>(&json!([]))[0].field, "body");
    }
}
