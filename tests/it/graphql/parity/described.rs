//! The two descriptions of the API, OpenAPI's and GraphQL's, in terms that can be compared.

use std::collections::{BTreeMap, BTreeSet};

use roost_tests::app::TestApp;
use serde_json::{Value, json};

use super::super::{ask, camel_case, data};

/// What may be where a value is: of a field that is read, an input field, an argument or a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// It must be given. Of what is read: it is always there.
    pub required: bool,
    /// It may be null.
    pub nullable: bool,
    /// Whether the items of a list may be null, list by list.
    pub items: Vec<bool>,
    /// What it is when it is not given.
    pub default: Option<String>,
    /// The object, enum or union it is of, where that has a name in both.
    pub of: Option<String>,
}

/// GraphQL's introspection, by the name of the type.
pub struct Schema(pub BTreeMap<String, Value>);

impl Schema {
    pub async fn of(app: &TestApp) -> Self {
        let reply = ask(app, include_str!("../introspection.graphql"), &json!({}))
            .send()
            .await;
        let types = data(&reply)["__schema"]["types"].as_array().unwrap().clone();
        Self(
            types
                .into_iter()
                .map(|described| (described["name"].as_str().unwrap().to_owned(), described))
                .collect(),
        )
    }

    /// The names of what a type has of a kind: its `enumValues`, its `possibleTypes`.
    pub fn names(&self, name: &str, kind: &str) -> BTreeSet<String> {
        let named = self.0[name][kind].as_array().into_iter().flatten();
        named.map(|item| item["name"].as_str().unwrap().to_owned()).collect()
    }

    /// What an object is read with, or what an input object is written with.
    pub fn members(&self, name: &str) -> BTreeMap<String, Shape> {
        let described = &self.0[name];
        let written = described["kind"] == "INPUT_OBJECT";
        self.shapes(&described[if written { "inputFields" } else { "fields" }])
    }

    /// The arguments of a field and its result, if there is the field.
    pub fn field(&self, name: &str, field: &str) -> Option<(BTreeMap<String, Shape>, Shape)> {
        let fields = self.0[name]["fields"].as_array()?;
        let described = fields.iter().find(|described| described["name"] == field)?;
        Some((self.shapes(&described["args"]), self.shape(described)))
    }

    fn shapes(&self, list: &Value) -> BTreeMap<String, Shape> {
        let list = list.as_array().into_iter().flatten();
        list.map(|item| (item["name"].as_str().unwrap().to_owned(), self.shape(item)))
            .collect()
    }

    fn shape(&self, described: &Value) -> Shape {
        let (nullable, mut inner) = unwrapped(&described["type"]);
        let mut items = Vec::new();
        while inner["kind"] == "LIST" {
            let (item_nullable, item) = unwrapped(&inner["ofType"]);
            items.push(item_nullable);
            inner = item;
        }
        let name = inner["name"].as_str().unwrap();
        let scalar = self.0[name]["kind"] == "SCALAR";
        let default = described["defaultValue"].as_str().map(str::to_owned);
        Shape {
            required: !nullable && default.is_none(),
            nullable,
            items,
            default,
            of: (!scalar).then(|| name.to_owned()),
        }
    }
}

/// Whether a type may be null, and the type without that.
fn unwrapped(described: &Value) -> (bool, &Value) {
    if described["kind"] == "NON_NULL" {
        (false, &described["ofType"])
    } else {
        (true, described)
    }
}

/// The OpenAPI document.
pub struct Document(pub Value);

impl Document {
    pub async fn of(app: &TestApp) -> Self {
        Self(app.get("/openapi.json").send().await.expect(200))
    }

    pub fn schemas(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.0["components"]["schemas"].as_object().unwrap().iter()
    }

    /// Each operation with its method.
    pub fn operations(&self) -> impl Iterator<Item = (&str, &Value)> {
        let items = self.0["paths"].as_object().unwrap().values();
        items
            .flat_map(|item| item.as_object().unwrap())
            .filter(|(_, operation)| operation["operationId"].is_string())
            .map(|(method, operation)| (method.as_str(), operation))
    }

    /// The schema that is meant: that of a reference, if it is one.
    pub fn meant<'a>(&'a self, schema: &'a Value) -> &'a Value {
        match schema["$ref"].as_str() {
            Some(reference) => self.0.pointer(&reference[1..]).unwrap(),
            None => schema,
        }
    }

    /// The properties of a schema, those that it takes over from others as well, as GraphQL would name them.
    pub fn properties(&self, schema: &Value) -> BTreeMap<String, Shape> {
        let schema = self.meant(schema);
        let parts = schema["allOf"].as_array().into_iter().flatten();
        let mut found: BTreeMap<String, Shape> = parts.flat_map(|part| self.properties(part)).collect();
        let required: Vec<&str> = schema["required"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let nullable = property["nullable"] == true;
            let shape = self.shape(property, required.contains(&name.as_str()), nullable);
            found.insert(camel_case(name), shape);
        }
        found
    }

    /// What a parameter is as an argument: one that need not be given and has no default may be null.
    pub fn parameter(&self, parameter: &Value) -> Shape {
        let required = parameter["required"] == true;
        let schema = &parameter["schema"];
        let nullable = !required && schema["default"].is_null();
        self.shape(schema, required, nullable)
    }

    pub fn shape(&self, schema: &Value, required: bool, nullable: bool) -> Shape {
        let default = match &schema["default"] {
            Value::Null => None,
            Value::String(name) => Some(name.to_uppercase()),
            other => Some(other.to_string()),
        };
        let (mut items, mut inner) = (Vec::new(), schema);
        while self.meant(inner)["type"] == "array" {
            inner = &self.meant(inner)["items"];
            items.push(inner["nullable"] == true);
        }
        Shape {
            required,
            nullable,
            items,
            default,
            of: reference(inner),
        }
    }

    /// What a list has on a page: the name of an item's schema. None: it is no page.
    pub fn item_of_page(&self, schema: &Value) -> Option<String> {
        let schema = self.meant(schema);
        let parts = schema["allOf"].as_array().into_iter().flatten();
        let own = ["items", "next", "next_cursor"].map(|name| &schema["properties"][name]);
        if own.iter().all(|property| property.is_object()) {
            return reference(&own[0]["items"]);
        }
        parts.filter_map(|part| self.item_of_page(part)).next()
    }
}

/// The name of the schema that is referred to, directly or with something said about it.
pub fn reference(schema: &Value) -> Option<String> {
    let direct = schema["$ref"].as_str();
    let wrapped = schema["allOf"].as_array().filter(|parts| parts.len() == 1);
    let reference = direct.or_else(|| wrapped?[0]["$ref"].as_str())?;
    Some(reference.rsplit('/').next()?.to_owned())
}
