//! REST and GraphQL are two faces of the same operations. What one has and the other lacks is named here, with the
//! reason.

use std::collections::{BTreeMap, BTreeSet};

use roost_tests::app::TestApp;
use serde_json::{Value, json};

use super::{ask, camel_case, data};

/// Operations of REST that GraphQL does not have.
const REST_ONLY: [(&str, &str); 9] = [
    ("get_health", "for load balancers and containers"),
    ("get_readiness", "for load balancers and containers"),
    ("receive_stripe_event", "Stripe posts its own format"),
    ("update_user", "with one's own id only: updateOwnUser does it"),
    ("delete_user", "with one's own id only: deleteOwnUser does it"),
    ("quote_cancellation", "Booking.cancellationQuote"),
    ("get_verification_page", "an HTML page, for the link in a mail"),
    ("ask_to_unsubscribe", "an HTML page, for the link in a mail"),
    ("unsubscribe", "an HTML page, and the one click of RFC 8058"),
];

/// Operations that have another name in GraphQL.
const RENAMED: [(&str, &str); 1] = [("get_own_user", "me")];

/// Parameters of REST that GraphQL does not have.
const PARAMETERS_OF_REST: [(&str, &str); 2] = [
    ("If-None-Match", "for HTTP caches"),
    ("Last-Event-ID", "for browsers that reconnect to an event stream"),
];

/// Schemas of REST that are no type of GraphQL.
const SCHEMAS_OF_REST: [(&str, &str); 18] = [
    ("BookingSummary", "Booking: the client picks the fields"),
    ("BookingPayment", "Payment: the client picks the fields"),
    ("PaymentSummary", "Payment: the client picks the fields"),
    ("Page_BookingSummary", "BookingConnection"),
    ("Page_PaymentSummary", "PaymentConnection"),
    ("Page_Property", "PropertyConnection"),
    ("Page_Review", "ReviewConnection"),
    ("Page_ReviewReport", "ReviewReportConnection"),
    ("Page_Message", "MessageConnection"),
    ("Page_Notification", "NotificationConnection"),
    ("Page_SessionView", "SessionViewConnection"),
    ("Reason", "the argument reason"),
    ("Problem", "the extensions of an error"),
    ("FieldError", "the extensions of an error"),
    ("Alive", "for load balancers and containers"),
    ("Condition", "for load balancers and containers"),
    ("Readiness", "for load balancers and containers"),
    ("Receipt", "what Stripe is told"),
];

/// Fields of GraphQL that lead on to what REST has at a path of its own.
const LINKS: [(&str, &str); 8] = [
    ("Booking", "reviews"),
    ("Booking", "property"),
    ("Booking", "guest"),
    ("Booking", "host"),
    ("Booking", "cancellationQuote"),
    ("Property", "host"),
    ("Payment", "booking"),
    ("Notification", "booking"),
];

struct Schema(BTreeMap<String, Value>);

impl Schema {
    async fn of(app: &TestApp) -> Self {
        let reply = ask(app, include_str!("introspection.graphql"), &json!({})).send().await;
        let types = data(&reply)["__schema"]["types"].as_array().unwrap().clone();
        Self(
            types
                .into_iter()
                .map(|described| (described["name"].as_str().unwrap().to_owned(), described))
                .collect(),
        )
    }

    fn members(&self, name: &str, kind: &str) -> BTreeSet<String> {
        names(&self.0[name][kind])
    }

    /// The arguments of a field, if there is the field.
    fn arguments(&self, name: &str, field: &str) -> Option<BTreeSet<String>> {
        let fields = self.0[name]["fields"].as_array()?;
        let described = fields.iter().find(|described| described["name"] == field)?;
        Some(names(&described["args"]))
    }
}

fn names(list: &Value) -> BTreeSet<String> {
    let named = list.as_array().into_iter().flatten();
    named.map(|item| item["name"].as_str().unwrap().to_owned()).collect()
}

fn excused<'a>(list: &[(&'a str, &'a str)], name: &str) -> bool {
    list.iter()
        .any(|(excused, reason)| *excused == name && !reason.is_empty())
}

/// The root and the field that an operation should have.
fn expected(method: &str, operation: &str) -> (&'static str, String) {
    let root = match (method, operation) {
        (_, "follow_booking") => "Subscription",
        ("get", _) => "Query",
        _ => "Mutation",
    };
    let renamed = RENAMED.iter().find(|(rest, _)| *rest == operation);
    let field = renamed.map_or_else(
        || {
            let bare = operation.trim_start_matches("get_").trim_start_matches("list_");
            camel_case(if root == "Query" { bare } else { operation })
        },
        |(_, graphql)| (*graphql).to_owned(),
    );
    (root, field)
}

/// The arguments that stand for the parameters and the body of an operation.
fn expected_arguments(operation: &Value) -> BTreeSet<String> {
    let mut arguments: BTreeSet<String> = operation["parameters"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|parameter| {
            let name = parameter["name"].as_str().unwrap();
            if excused(&PARAMETERS_OF_REST, name) {
                return None;
            }
            Some(match (parameter["in"].as_str().unwrap(), name) {
                ("path", _) => "id".to_owned(),
                (_, "limit") => "first".to_owned(),
                (_, "cursor") => "after".to_owned(),
                (_, "If-Match") => "ifVersion".to_owned(),
                (_, "Prefer") => "wait".to_owned(),
                (_, "Idempotency-Key") => "idempotencyKey".to_owned(),
                (_, other) => camel_case(other),
            })
        })
        .collect();
    match operation.pointer("/requestBody/content/application~1json/schema/$ref") {
        Some(reference) if reference == "#/components/schemas/Reason" => arguments.insert("reason".to_owned()),
        Some(_) => arguments.insert("input".to_owned()),
        None => false,
    };
    arguments
}

#[tokio::test]
async fn every_operation_is_in_both() {
    let app = TestApp::start_with(|settings| settings.graphql_introspection = true).await;
    let schema = Schema::of(&app).await;
    let document = app.get("/openapi.json").send().await.expect(200);
    let mut unmatched: BTreeSet<(&str, String)> = ["Query", "Mutation", "Subscription"]
        .into_iter()
        .flat_map(|root| {
            schema
                .members(root, "fields")
                .into_iter()
                .map(move |field| (root, field))
        })
        .collect();
    let (mut lacking, mut unused): (Vec<String>, BTreeSet<&str>) =
        (Vec::new(), REST_ONLY.iter().map(|(name, _)| *name).collect());
    for item in document["paths"].as_object().unwrap().values() {
        for (method, operation) in item.as_object().unwrap() {
            let Some(name) = operation["operationId"].as_str() else {
                continue;
            };
            if excused(&REST_ONLY, name) {
                unused.remove(name);
                continue;
            }
            let (root, field) = expected(method, name);
            unmatched.remove(&(root, field.clone()));
            match schema.arguments(root, &field) {
                Some(arguments) if arguments == expected_arguments(operation) => {}
                Some(arguments) => lacking.push(format!(
                    "{root}.{field} takes {arguments:?}, {name} {:?}",
                    expected_arguments(operation)
                )),
                None => lacking.push(format!("{name} has no {root}.{field}")),
            }
        }
    }
    assert!(lacking.is_empty(), "{lacking:#?}");
    assert!(unmatched.is_empty(), "REST lacks {unmatched:?}");
    assert!(unused.is_empty(), "excused, and not there: {unused:?}");
}

/// The properties of a schema, those that it takes over from others as well.
fn properties(document: &Value, schema: &Value) -> BTreeSet<String> {
    if let Some(reference) = schema["$ref"].as_str() {
        return properties(document, document.pointer(&reference[1..]).unwrap());
    }
    let parts = schema["allOf"].as_array().into_iter().flatten();
    let mut found: BTreeSet<String> = parts.flat_map(|part| properties(document, part)).collect();
    let own = schema["properties"].as_object().into_iter().flatten();
    found.extend(own.map(|(name, _)| camel_case(name)));
    found
}

#[tokio::test]
async fn every_object_says_the_same_in_both() {
    let app = TestApp::start_with(|settings| settings.graphql_introspection = true).await;
    let schema = Schema::of(&app).await;
    let document = app.get("/openapi.json").send().await.expect(200);
    let mut lacking = Vec::new();
    let mut seen = BTreeSet::new();
    for (name, described) in document["components"]["schemas"].as_object().unwrap() {
        if excused(&SCHEMAS_OF_REST, name) {
            continue;
        }
        seen.insert(name.clone());
        let Some(graphql) = schema.0.get(name) else {
            lacking.push(format!("{name} is no type of GraphQL"));
            continue;
        };
        let kind = graphql["kind"].as_str().unwrap();
        let (rest, own) = match kind {
            "ENUM" => {
                let values = described["enum"].as_array().unwrap().iter();
                let upper = values.map(|value| value.as_str().unwrap().to_uppercase());
                (upper.collect(), schema.members(name, "enumValues"))
            }
            "UNION" => continue,
            "INPUT_OBJECT" => (properties(&document, described), schema.members(name, "inputFields")),
            _ => (properties(&document, described), schema.members(name, "fields")),
        };
        let own: BTreeSet<String> = own
            .into_iter()
            .filter(|field| !LINKS.contains(&(name.as_str(), field.as_str())))
            .collect();
        // An object that is read and written has two types in GraphQL.
        let input = format!("{name}Input");
        if schema.0.contains_key(&input) {
            seen.insert(input.clone());
            if schema.members(&input, "inputFields") != own {
                lacking.push(format!("{input} is not as {name}"));
            }
        }
        if rest != own {
            let difference: Vec<&String> = rest.symmetric_difference(&own).collect();
            lacking.push(format!("{name}: {difference:?}"));
        }
    }
    // GraphQL's own: roots, scalars, and how lists are written.
    let own = |name: &str| {
        let scalar = schema.0[name]["kind"] == "SCALAR";
        let root = ["Query", "Mutation", "Subscription", "PageInfo"].contains(&name);
        scalar || root || name.starts_with("__") || name.ends_with("Connection") || name.ends_with("Edge")
    };
    lacking.extend(
        schema
            .0
            .keys()
            .filter(|name| !seen.contains(*name) && !own(name))
            .map(|name| format!("{name} is no schema of REST")),
    );
    assert!(lacking.is_empty(), "{lacking:#?}");
}

#[test]
fn the_schema_that_is_checked_in_is_the_programs() {
    let checked_in = include_str!("../../../api/schema.graphql");
    assert!(
        roost_api::graphql::sdl() == checked_in,
        "api/schema.graphql is out of date: roost-api graphql-schema > api/schema.graphql"
    );
}
