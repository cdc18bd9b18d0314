//! Form-encoded parameters with brackets (`metadata[booking]=…`, `expand[]=…`): parsing into a
//! tree and reading it field by field, so that what no operation asked for is refused.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::errors::ApiError;

/// The parameters of one request, or of one nested group of them.
#[derive(Debug, Default)]
pub(super) struct Params {
    fields: Map<String, Value>,
    prefix: Option<String>,
}

/// Parses query string and body, in this order, into one tree whose leaves are strings.
/// List items become members named by their index.
pub(super) fn parse_form(sources: &[&[u8]]) -> Map<String, Value> {
    let mut root = Value::Object(Map::new());
    for source in sources {
        for (key, value) in form_urlencoded::parse(source) {
            insert(&mut root, &segments(&key), &value);
        }
    }
    match root {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

fn segments(key: &str) -> Vec<&str> {
    match key.split_once('[') {
        Some((base, rest)) if rest.ends_with(']') => {
            let inner = &rest[..rest.len() - 1];
            std::iter::once(base).chain(inner.split("][")).collect()
        }
        _ => vec![key],
    }
}

fn insert(node: &mut Value, path: &[&str], value: &str) {
    let Some((first, rest)) = path.split_first() else {
        *node = Value::String(value.to_owned());
        return;
    };
    if !node.is_object() {
        *node = Value::Object(Map::new());
    }
    if let Value::Object(fields) = node {
        let name = if first.is_empty() {
            fields.len().to_string()
        } else {
            (*first).to_owned()
        };
        insert(fields.entry(name).or_insert(Value::Null), rest, value);
    }
}

impl Params {
    pub fn new(fields: Map<String, Value>) -> Self {
        Self { fields, prefix: None }
    }

    fn full_name(&self, name: &str) -> String {
        match &self.prefix {
            Some(prefix) => format!("{prefix}[{name}]"),
            None => name.to_owned(),
        }
    }

    /// A text, which may not be empty.
    pub fn text(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.fields.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) if text.is_empty() => {
                let name = self.full_name(name);
                Err(ApiError::invalid(format!(
                    "You passed an empty string for '{name}'. We assume empty values are an \
                     attempt to unset a parameter; however '{name}' cannot be unset."
                ))
                .code("parameter_invalid_empty")
                .param(name))
            }
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => {
                let name = self.full_name(name);
                Err(ApiError::invalid(format!("Invalid string: {name}")).param(name))
            }
        }
    }

    pub fn required_text(&mut self, name: &str) -> Result<String, ApiError> {
        self.text(name)?.ok_or_else(|| ApiError::missing(&self.full_name(name)))
    }

    pub fn integer(&mut self, name: &str) -> Result<Option<i64>, ApiError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        text.parse().map(Some).map_err(|_| {
            ApiError::invalid(format!("Invalid integer: {text}"))
                .code("parameter_invalid_integer")
                .param(self.full_name(name))
        })
    }

    /// An integer when the parameter is a plain value; a group is left for [`Params::group`].
    pub fn plain_integer(&mut self, name: &str) -> Result<Option<i64>, ApiError> {
        match self.fields.get(name) {
            Some(Value::String(_)) => self.integer(name),
            _ => Ok(None),
        }
    }

    /// An integer of at least one.
    pub fn positive(&mut self, name: &str) -> Result<Option<i64>, ApiError> {
        match self.integer(name)? {
            Some(number) if number < 1 => Err(ApiError::invalid("This value must be greater than or equal to 1.")
                .code("parameter_invalid_integer")
                .param(self.full_name(name))),
            number => Ok(number),
        }
    }

    pub fn boolean(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.text(name)?.as_deref() {
            None => Ok(None),
            Some("true" | "1") => Ok(Some(true)),
            Some("false" | "0") => Ok(Some(false)),
            Some(other) => Err(ApiError::invalid(format!("Invalid boolean: {other}")).param(self.full_name(name))),
        }
    }

    /// One of the listed words.
    pub fn one_of(&mut self, name: &str, allowed: &[&'static str]) -> Result<Option<&'static str>, ApiError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        match allowed.iter().find(|word| **word == text) {
            Some(word) => Ok(Some(word)),
            None => {
                let name = self.full_name(name);
                let words = allowed.join(", ");
                Err(ApiError::invalid(format!("Invalid {name}: must be one of {words}")).param(name))
            }
        }
    }

    /// A nested group; its own unknown members are found by [`Params::finish`] on it.
    pub fn group(&mut self, name: &str) -> Result<Option<Self>, ApiError> {
        match self.fields.remove(name) {
            None => Ok(None),
            Some(Value::Object(fields)) => Ok(Some(Self {
                fields,
                prefix: Some(self.full_name(name)),
            })),
            Some(_) => {
                let name = self.full_name(name);
                Err(ApiError::invalid(format!("Invalid object: {name}")).param(name))
            }
        }
    }

    /// A list of texts, written with `[]` or with indices.
    pub fn texts(&mut self, name: &str) -> Result<Vec<String>, ApiError> {
        let Some(mut group) = self.group(name)? else {
            return Ok(Vec::new());
        };
        let mut names: Vec<String> = group.fields.keys().cloned().collect();
        names.sort_by_key(|index| index.parse().unwrap_or(usize::MAX));
        names.iter().map(|index| group.required_text(index)).collect()
    }

    /// Metadata to set; an empty value asks for the key to be removed.
    pub fn metadata(&mut self) -> Result<BTreeMap<String, String>, ApiError> {
        let Some(group) = self.group("metadata")? else {
            return Ok(BTreeMap::new());
        };
        let mut metadata = BTreeMap::new();
        for (key, value) in group.fields {
            let Value::String(value) = value else {
                return Err(ApiError::invalid("Metadata values must be strings").param("metadata"));
            };
            if key.len() > 40 || value.len() > 500 {
                return Err(
                    ApiError::invalid("Metadata keys have at most 40 characters and values at most 500")
                        .param("metadata"),
                );
            }
            metadata.insert(key, value);
        }
        if metadata.len() > 50 {
            return Err(ApiError::invalid("Metadata has at most 50 keys").param("metadata"));
        }
        Ok(metadata)
    }

    /// Refuses whatever was sent and not asked for.
    pub fn finish(self) -> Result<(), ApiError> {
        match self.fields.keys().next() {
            None => Ok(()),
            Some(name) => {
                let name = self.full_name(name);
                Err(ApiError::invalid(format!("Received unknown parameter: {name}"))
                    .code("parameter_unknown")
                    .param(name))
            }
        }
    }
}

/// Applies a metadata parameter to an object's metadata.
pub(super) fn merge_metadata(metadata: &mut BTreeMap<String, String>, changes: BTreeMap<String, String>) {
    for (key, value) in changes {
        if value.is_empty() {
            metadata.remove(&key);
        } else {
            metadata.insert(key, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn brackets_become_a_tree_and_lists_keep_their_order() {
        let fields = parse_form(&[b"amount=100&metadata[booking]=b+1&expand[]=a&expand[]=b&x[y][z]=1"]);
        assert_eq!(
            Value::Object(fields.clone()),
            json!({"amount": "100", "metadata": {"booking": "b 1"},
                   "expand": {"0": "a", "1": "b"}, "x": {"y": {"z": "1"}}})
        );
        let mut params = Params::new(fields);
        assert_eq!(params.texts("expand").unwrap(), ["a", "b"]);
    }

    #[test]
    fn what_nobody_asked_for_is_refused_by_its_full_name() {
        let mut params = Params::new(parse_form(&[b"a[b]=1&a[c]=2"]));
        let mut group = params.group("a").unwrap().unwrap();
        group.text("b").unwrap();
        let error = group.finish().unwrap_err().body("req_1");
        assert_eq!(error["error"]["code"], "parameter_unknown");
        assert_eq!(error["error"]["param"], "a[c]");
    }
}
