//! Which operations there are.

use std::collections::HashMap;

use serde_json::Value;

use super::METHODS;

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

    /// Knows a path as well that is no operation of the document.
    #[must_use]
    pub fn with_path(mut self, path: &str, methods: &[&str]) -> Self {
        let segments = path.split('/').map(str::to_owned).collect();
        let methods = methods.iter().map(|method| (*method).to_owned()).collect();
        self.paths.push((segments, methods));
        self
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
