//! Which operations there are.

use std::collections::HashMap;

use serde_json::Value;

use super::METHODS;

/// Which operations there are: for the Allow header, for logs, and for what an operation takes.
#[derive(Debug, Default)]
pub struct Routes {
    paths: Vec<Path>,
    patterns: HashMap<String, String>,
}

#[derive(Debug)]
struct Path {
    segments: Vec<String>,
    /// For the Allow header.
    methods: Vec<String>,
    operations: Vec<Operation>,
}

/// An operation of the document.
#[derive(Debug)]
pub struct Operation {
    method: String,
    id: String,
    takes_body: bool,
}

impl Operation {
    /// Its `operationId`.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether a body would go unread: it declares none, and is no GET, whose body means nothing anywhere (RFC 9110,
    /// 9.3.1).
    #[must_use]
    pub fn refuses_body(&self) -> bool {
        !self.takes_body && self.method != "GET"
    }
}

impl Routes {
    /// The routes of a document.
    #[must_use]
    pub fn of(document: &Value) -> Self {
        let mut routes = Self::default();
        let paths = document.get("paths").and_then(Value::as_object);
        for (path, item) in paths.into_iter().flatten() {
            let mut known = Path {
                segments: path.split('/').map(str::to_owned).collect(),
                methods: Vec::new(),
                operations: Vec::new(),
            };
            for (method, operation) in item.as_object().into_iter().flatten() {
                if !METHODS.contains(&method.as_str()) {
                    continue;
                }
                known.methods.push(method.to_uppercase());
                if method == "get" {
                    known.methods.push("HEAD".to_owned());
                }
                if let Some(id) = operation.get("operationId").and_then(Value::as_str) {
                    routes.patterns.insert(id.to_owned(), path.clone());
                    known.operations.push(Operation {
                        method: method.to_uppercase(),
                        id: id.to_owned(),
                        takes_body: operation.get("requestBody").is_some(),
                    });
                }
            }
            routes.paths.push(known);
        }
        routes
    }

    /// The same under a path that the document's server adds.
    #[must_use]
    pub fn below(mut self, root: &str) -> Self {
        for path in &mut self.paths {
            let root = root.split('/').map(str::to_owned);
            path.segments = root.chain(path.segments.drain(..).skip(1)).collect();
        }
        for pattern in self.patterns.values_mut() {
            pattern.insert_str(0, root);
        }
        self
    }

    /// Knows a path as well that is no operation of the document.
    #[must_use]
    pub fn with_path(mut self, path: &str, methods: &[&str]) -> Self {
        self.paths.push(Path {
            segments: path.split('/').map(str::to_owned).collect(),
            methods: methods.iter().map(|method| (*method).to_owned()).collect(),
            operations: Vec::new(),
        });
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
        self.find(path)
            .map_or_else(|| "GET, HEAD".to_owned(), |path| path.methods.join(", "))
    }

    /// The operation that a request is for.
    #[must_use]
    pub fn operation(&self, method: &str, path: &str) -> Option<&Operation> {
        let operations = &self.find(path)?.operations;
        operations.iter().find(|operation| operation.method == method)
    }

    /// The name of the parameter at this position of a path, counted in segments.
    #[must_use]
    pub fn parameter_at(&self, method: &str, path: &str, position: usize) -> Option<&str> {
        self.operation(method, path)?;
        let segment = self.find(path)?.segments.get(position)?;
        segment.strip_prefix('{')?.strip_suffix('}')
    }

    /// The path of the document that fits this one best: `/users/me` is not `/users/{user_id}`.
    fn find(&self, path: &str) -> Option<&Path> {
        let path = path.trim_end_matches('/');
        let given: Vec<&str> = path.split('/').collect();
        let exact = |segments: &[String]| segments.iter().zip(&given).filter(|(own, given)| own == *given).count();
        self.paths
            .iter()
            .filter(|Path { segments, .. }| {
                segments.len() == given.len()
                    && segments
                        .iter()
                        .zip(&given)
                        .all(|(own, given)| own == given || own.starts_with('{'))
            })
            .max_by_key(|path| exact(&path.segments))
    }
}
