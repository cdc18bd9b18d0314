//! The operations over GraphQL: the same stories, rules and refusals as over REST.

mod bad_input;
mod limits;
mod messages;
mod no_show;
mod notifications;
mod parity;
mod payments;
mod reviews;
mod statements;
mod stories;
mod subscription;
mod users;

use roost_tests::app::{Call, Reply, TestApp};
use serde_json::{Value, json};

/// A request to `/graphql`.
fn ask(app: &TestApp, query: &str, variables: &Value) -> Call {
    app.post("/graphql", json!({"query": query, "variables": variables}))
}

/// What a reply without errors says.
#[track_caller]
fn data(reply: &Reply) -> Value {
    let body = reply.expect(200);
    assert!(body["errors"].is_null(), "{body}");
    body["data"].clone()
}

/// The only error of a reply, which must be complete, of this code.
#[track_caller]
fn refused(reply: &Reply, status: u16, code: &str) -> Value {
    let body = reply.expect(status);
    let errors = body["errors"].as_array().unwrap_or_else(|| panic!("{body}"));
    assert_eq!(errors.len(), 1, "{body}");
    let extensions = &errors[0]["extensions"];
    assert_eq!(extensions["code"], code, "{body}");
    assert_eq!(extensions["request_id"], reply.header("x-request-id"), "{body}");
    assert!(extensions["errors"].is_array(), "{body}");
    assert!(
        extensions["status"].as_u64().is_some_and(|status| status >= 400),
        "{body}"
    );
    assert!(!errors[0]["message"].as_str().unwrap().is_empty(), "{body}");
    assert!(
        roost_api::problems::meaning(code).is_some(),
        "{code} is not told in problems.rs"
    );
    body
}

/// The same, and it must be this field, among others, that was refused.
#[track_caller]
fn refused_field(reply: &Reply, status: u16, code: &str, field: &str) {
    let body = refused(reply, status, code);
    let errors = body["errors"][0]["extensions"]["errors"].as_array().unwrap();
    assert!(
        errors.iter().any(|error| error["field"] == field),
        "{field} is not among {errors:?}"
    );
}

/// What a host writes to list a flat, as the schema names it.
fn a_flat() -> Value {
    let flat = roost_tests::world::a_flat();
    let members = flat.as_object().unwrap().iter().map(|(name, value)| {
        let value = match name.as_str() {
            "cancellation_policy" | "status" => json!(value.as_str().unwrap().to_uppercase()),
            _ => value.clone(),
        };
        (camel_case(name), value)
    });
    Value::Object(members.collect())
}

/// A name of REST as GraphQL has it.
fn camel_case(name: &str) -> String {
    let mut words = name.split(['_', '-']);
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |written, word| {
        let (head, tail) = word.split_at(1.min(word.len()));
        written + &head.to_uppercase() + tail
    })
}
