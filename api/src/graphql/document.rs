//! What stands in a query, whatever the schema says of it.

use std::convert::Infallible;

use async_graphql::parser::types::{ExecutableDocument, Selection, SelectionSet};
use async_graphql::{Pos, Value, Variables};

use super::errors::invalid_query;
use crate::error::ApiResult;

/// An argument of a field.
pub struct Argument<'a> {
    /// Its name.
    pub name: &'a str,
    /// Where its value stands.
    pub place: Pos,
    /// What is written there, null for variables.
    pub value: Value,
}

/// Every argument of every field. Bound how deep fields are nested first.
pub fn arguments(document: &ExecutableDocument) -> Vec<Argument<'_>> {
    let operations = document.operations.iter();
    let operations = operations.map(|(_, operation)| &operation.node.selection_set.node);
    let fragments = document.fragments.values();
    let fragments = fragments.map(|fragment| &fragment.node.selection_set.node);
    let mut found = Vec::new();
    for set in operations.chain(fragments) {
        collect(set, &mut found);
    }
    found
}

fn collect<'a>(set: &'a SelectionSet, found: &mut Vec<Argument<'a>>) {
    for selection in &set.items {
        match &selection.node {
            Selection::Field(field) => {
                found.extend(field.node.arguments.iter().map(|(name, value)| {
                    let Ok(written) = value.node.clone().into_const_with(|_| Ok::<_, Infallible>(Value::Null));
                    Argument {
                        name: &name.node,
                        place: value.pos,
                        value: written,
                    }
                }));
                collect(&field.node.selection_set.node, found);
            }
            Selection::InlineFragment(fragment) => collect(&fragment.node.selection_set.node, found),
            Selection::FragmentSpread(_) => {}
        }
    }
}

/// Refuses texts with the character that Postgres cannot hold, as [`crate::strict_json`] does in bodies.
///
/// # Errors
/// 400 `invalid_query`.
pub fn check_texts(document: &ExecutableDocument, variables: &Variables) -> ApiResult<()> {
    let arguments = arguments(document);
    let literals = arguments.iter().map(|argument| (argument.name, &argument.value));
    let defaults = document.operations.iter().flat_map(|(_, operation)| {
        let declared = operation.node.variable_definitions.iter();
        declared.filter_map(|variable| Some((&*variable.node.name.node, &variable.node.default_value.as_ref()?.node)))
    });
    let given = variables.iter().map(|(name, value)| (&**name, value));
    let path = literals
        .chain(defaults)
        .chain(given)
        .find_map(|(name, value)| nul_in(name.to_owned(), value));
    match path {
        Some(path) => Err(invalid_query("A text contains the character U+0000.", Some(&path))),
        None => Ok(()),
    }
}

/// The path to the first text with a NUL, from the value at `path` on.
fn nul_in(path: String, value: &Value) -> Option<String> {
    match value {
        Value::String(text) => text.contains('\0').then_some(path),
        Value::List(items) => {
            let mut items = items.iter().enumerate();
            items.find_map(|(index, item)| nul_in(format!("{path}.{index}"), item))
        }
        Value::Object(members) => {
            let mut members = members.iter();
            members.find_map(|(name, member)| nul_in(format!("{path}.{name}"), member))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use async_graphql::parser::parse_query;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_nul_is_found_wherever_it_is() {
        let check = |query: &str, variables| {
            let document = parse_query(query).unwrap();
            check_texts(&document, &Variables::from_json(variables)).map_err(|error| error.problem()["errors"].clone())
        };
        assert_eq!(
            check("query($a: [X]) { a(b: $a, c: \"d\") }", json!({"a": ["e"]})),
            Ok(())
        );
        for (query, variables, field) in [
            ("{ a(b: \"\\u0000\") }", json!({}), "b"),
            ("{ a { b(input: {c: [\"d\", \"e\\u0000\"]}) } }", json!({}), "c[1]"),
            (
                "{ ...F } fragment F on Query { ... { a(b: \"\\u0000\") } }",
                json!({}),
                "b",
            ),
            ("query($a: X = \"\\u0000\") { b(c: $a) }", json!({}), "a"),
            ("query($input: X) { b(c: $input) }", json!({"input": {"d": "e\0"}}), "d"),
        ] {
            let errors = check(query, variables).unwrap_err();
            assert_eq!(errors[0]["field"], field, "{query}");
        }
    }
}
