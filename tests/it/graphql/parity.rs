//! REST and GraphQL are two faces of the same operations: each operation and object, what it takes and gives, what is
//! required and what may be null. What one has and the other lacks is named here, with the reason.

mod described;
mod excuses;

use std::collections::{BTreeMap, BTreeSet};

use roost_tests::app::TestApp;
use serde_json::Value;

use self::described::{Document, Schema, Shape, reference};
use self::excuses::Excuses;
use super::camel_case;

/// Operations of REST that GraphQL does not have.
const REST_ONLY: &[(&str, &str)] = &[
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

/// Operations that have another name in GraphQL: `me` is what clients look for there.
const RENAMED: &[(&str, &str)] = &[("get_own_user", "me")];

/// Parameters of REST that GraphQL does not have.
const PARAMETERS_OF_REST: &[(&str, &str)] = &[
    ("If-None-Match", "for HTTP caches"),
    ("Last-Event-ID", "for browsers that reconnect to an event stream"),
];

/// Parameters that have another name as arguments: connections have theirs by convention, headers are no names.
const ARGUMENTS: &[(&str, &str)] = &[
    ("limit", "first"),
    ("cursor", "after"),
    ("If-Match", "ifVersion"),
    ("Prefer", "wait"),
    ("Idempotency-Key", "idempotencyKey"),
];

/// Schemas of REST that are no type of GraphQL.
const SCHEMAS_OF_REST: &[(&str, &str)] = &[
    ("Problem", "the extensions of an error"),
    ("FieldError", "the extensions of an error"),
    ("Alive", "for load balancers and containers"),
    ("Condition", "for load balancers and containers"),
    ("Readiness", "for load balancers and containers"),
    ("Receipt", "what Stripe is told"),
];

/// Bodies of REST that are no input: their fields are arguments.
const BODIES_OF_REST: &[(&str, &str)] = &[("Reason", "one field, which may be left out")];

/// Schemas of REST that are parts of a type of GraphQL, because there the client picks the fields.
const PARTS: [(&str, &str); 3] = [
    ("BookingSummary", "Booking"),
    ("BookingPayment", "Payment"),
    ("PaymentSummary", "Payment"),
];

/// Fields of GraphQL that REST does not have.
const LINKS: &[(&str, &str)] = &[
    ("Booking.reviews", "GET /reviews has them"),
    ("Booking.property", "GET /properties/{id} has it"),
    ("Booking.guest", "GET /users/{id} has it"),
    ("Booking.host", "GET /users/{id} has it"),
    (
        "Booking.cancellationQuote",
        "GET /bookings/{id}/cancellation-quote has it",
    ),
    ("Property.host", "GET /users/{id} has it"),
    ("Payment.booking", "GET /bookings/{id} has it"),
    ("Notification.booking", "GET /bookings/{id} has it"),
];

/// Types of GraphQL that are no schema of REST.
const TYPES_OF_GRAPHQL: &[(&str, &str)] = &[
    ("Query", "the root of what is read"),
    ("Mutation", "the root of what is changed"),
    ("Subscription", "the root of what is followed"),
    (
        "PageInfo",
        "what a connection says of its pages: next and next_cursor of REST",
    ),
    ("Boolean", "a scalar"),
    ("DateTime", "a scalar"),
    ("Float", "a scalar"),
    ("ID", "a scalar that every GraphQL API has"),
    ("Int", "a scalar"),
    ("NaiveDate", "a scalar"),
    ("String", "a scalar"),
    ("UUID", "a scalar"),
];

async fn both() -> (Schema, Document) {
    let app = TestApp::start_with(|settings| settings.graphql_introspection = true).await;
    (Schema::of(&app).await, Document::of(&app).await)
}

/// The type of GraphQL that a schema is or is part of.
fn type_of(schema: &str) -> &str {
    let part = PARTS.iter().find(|(part, _)| *part == schema);
    part.map_or(schema, |(_, whole)| whole)
}

/// Whether two shapes are one: a schema may be a type's part, and one that is read and written is two types of GraphQL.
fn alike(rest: &Shape, graphql: &Shape) -> bool {
    let named = match (&rest.of, &graphql.of) {
        (Some(rest), Some(graphql)) => type_of(rest) == graphql || format!("{rest}Input") == *graphql,
        // An enum that may be null is written out, without its name.
        (None, _) => true,
        (Some(_), None) => false,
    };
    let bare = |shape: &Shape| Shape {
        of: None,
        ..shape.clone()
    };
    named && bare(rest) == bare(graphql)
}

/// What differs between the two, name by name.
fn differences(of: &str, rest: &BTreeMap<String, Shape>, graphql: &BTreeMap<String, Shape>) -> Vec<String> {
    let names: BTreeSet<&String> = rest.keys().chain(graphql.keys()).collect();
    let mut found = Vec::new();
    for name in names {
        let path = format!("{of}.{name}");
        match (rest.get(name), graphql.get(name)) {
            (Some(rest), Some(graphql)) if alike(rest, graphql) => {}
            (Some(rest), Some(graphql)) => {
                found.push(format!("{path} is {rest:?} in REST and {graphql:?} in GraphQL"));
            }
            (Some(_), None) => found.push(format!("GraphQL lacks {path}")),
            (None, _) => found.push(format!("REST lacks {path}")),
        }
    }
    found
}

/// The root and the field that an operation should have.
fn expected(method: &str, operation: &str, renamed: &Excuses) -> (&'static str, String) {
    let root = match (method, operation) {
        (_, "follow_booking") => "Subscription",
        ("get", _) => "Query",
        _ => "Mutation",
    };
    let other = RENAMED.iter().find(|(rest, _)| *rest == operation);
    let field = match other {
        Some((rest, graphql)) if renamed.excuse(rest) => (*graphql).to_owned(),
        _ => {
            let bare = operation.trim_start_matches("get_").trim_start_matches("list_");
            camel_case(if root == "Query" { bare } else { operation })
        }
    };
    (root, field)
}

/// The arguments that stand for the parameters and the body of an operation.
fn expected_arguments(
    document: &Document,
    operation: &Value,
    [parameters, renamed, bodies]: [&Excuses; 3],
) -> BTreeMap<String, Shape> {
    let mut arguments = BTreeMap::new();
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        let name = parameter["name"].as_str().unwrap();
        if parameters.excuse(name) {
            continue;
        }
        let other = ARGUMENTS.iter().find(|(rest, _)| *rest == name);
        let argument = match (parameter["in"].as_str().unwrap(), other) {
            ("path", _) => "id".to_owned(),
            (_, Some((rest, graphql))) if renamed.excuse(rest) => (*graphql).to_owned(),
            _ => camel_case(name),
        };
        arguments.insert(argument, document.parameter(parameter));
    }
    let body = &operation["requestBody"];
    let schema = &body["content"]["application/json"]["schema"];
    match reference(schema) {
        Some(name) if bodies.excuse(&name) => arguments.extend(document.properties(schema)),
        Some(_) => {
            let required = body["required"] == true;
            arguments.insert("input".to_owned(), document.shape(schema, required, !required));
        }
        None => {}
    }
    arguments
}

/// What the field of an operation should give.
fn expected_result(document: &Document, root: &str, operation: &Value) -> Shape {
    let responses = operation["responses"].as_object().unwrap();
    let (_, success) = responses.iter().find(|(status, _)| status.starts_with('2')).unwrap();
    let content = &success["content"];
    let told = &content["application/json"]["schema"];
    let followed = &content["text/event-stream"]["schema"]["x-data-schema"];
    let of = if let Some(item) = document.item_of_page(told) {
        Some(format!("{}Connection", type_of(&item)))
    } else {
        reference(told).or_else(|| reference(followed))
    };
    // What is asked for by its name may not be there; the rest of the reply stands then. A list is always one.
    let is_list = document.item_of_page(told).is_some();
    let nullable = root == "Query" && responses.contains_key("404") && !is_list;
    Shape {
        required: !nullable,
        nullable,
        items: Vec::new(),
        default: None,
        of,
    }
}

#[tokio::test]
async fn every_operation_is_in_both() {
    let (schema, document) = both().await;
    let [rest_only, renamed, parameters, arguments, bodies] =
        [REST_ONLY, RENAMED, PARAMETERS_OF_REST, ARGUMENTS, BODIES_OF_REST].map(Excuses::new);
    let mut unmatched: BTreeSet<String> = ["Query", "Mutation", "Subscription"]
        .into_iter()
        .flat_map(|root| {
            schema
                .members(root)
                .into_keys()
                .map(move |field| format!("{root}.{field}"))
        })
        .collect();
    let mut lacking = Vec::new();
    for (method, operation) in document.operations() {
        let name = operation["operationId"].as_str().unwrap();
        if rest_only.excuse(name) {
            continue;
        }
        let (root, field) = expected(method, name, &renamed);
        let path = format!("{root}.{field}");
        unmatched.remove(&path);
        let Some((taken, given)) = schema.field(root, &field) else {
            lacking.push(format!("{name} has no {path}"));
            continue;
        };
        let expected = expected_arguments(&document, operation, [&parameters, &arguments, &bodies]);
        lacking.extend(differences(&path, &expected, &taken));
        let expected = expected_result(&document, root, operation);
        if !alike(&expected, &given) {
            lacking.push(format!("{path} gives {given:?}, {name} {expected:?}"));
        }
    }
    lacking.extend(unmatched.into_iter().map(|path| format!("REST lacks {path}")));
    for excuses in [rest_only, renamed, parameters, arguments, bodies] {
        lacking.extend(excuses.stale());
    }
    assert!(lacking.is_empty(), "{lacking:#?}");
}

/// The members of a type, but for the links that REST does not have.
fn without_links(
    schema: &Schema,
    name: &str,
    rest: &BTreeMap<String, Shape>,
    links: &Excuses,
) -> BTreeMap<String, Shape> {
    let mut members = schema.members(name);
    members.retain(|field, _| rest.contains_key(field) || !links.excuse(&format!("{name}.{field}")));
    members
}

/// What a connection has of a page: the items, each with its cursor, and what the page tells beside them.
fn of_connection(schema: &Schema, document: &Document, item: &str, page: &Value) -> Vec<String> {
    let node = type_of(item);
    let (connection, edge) = (format!("{node}Connection"), format!("{node}Edge"));
    if !schema.0.contains_key(&connection) || !schema.0.contains_key(&edge) {
        return vec![format!("there is no {connection} with {edge}")];
    }
    let always = |of: Option<&str>, items: &[bool]| Shape {
        required: true,
        nullable: false,
        items: items.to_vec(),
        default: None,
        of: of.map(str::to_owned),
    };
    let mut told = document.properties(page);
    for own in ["items", "next", "nextCursor"] {
        told.remove(own);
    }
    told.insert("nodes".to_owned(), always(Some(node), &[false]));
    told.insert("edges".to_owned(), always(Some(&edge), &[false]));
    told.insert("pageInfo".to_owned(), always(Some("PageInfo"), &[]));
    let mut found = differences(&connection, &told, &schema.members(&connection));
    let told = BTreeMap::from([
        ("cursor".to_owned(), always(None, &[])),
        ("node".to_owned(), always(Some(node), &[])),
    ]);
    found.extend(differences(&edge, &told, &schema.members(&edge)));
    found
}

#[tokio::test]
async fn every_object_says_the_same_in_both() {
    let (schema, document) = both().await;
    let [of_rest, bodies, of_graphql, links] =
        [SCHEMAS_OF_REST, BODIES_OF_REST, TYPES_OF_GRAPHQL, LINKS].map(Excuses::new);
    let (mut lacking, mut seen, mut parts) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    for (name, described) in document.schemas() {
        if let Some(item) = document.item_of_page(described) {
            lacking.extend(of_connection(&schema, &document, &item, described));
            seen.extend(["Connection", "Edge"].map(|what| format!("{}{what}", type_of(&item))));
            continue;
        }
        let rest = document.properties(described);
        if type_of(name) != name {
            parts.insert(name.as_str());
            let whole = schema.members(type_of(name));
            let missing = rest.keys().filter(|field| !whole.contains_key(*field));
            lacking.extend(missing.map(|field| format!("{} lacks {field} of {name}", type_of(name))));
        }
        let Some(graphql) = schema.0.get(name) else {
            if type_of(name) == name && !of_rest.excuse(name) && !bodies.excuse(name) {
                lacking.push(format!("{name} is no type of GraphQL"));
            }
            continue;
        };
        seen.insert(name.clone());
        match graphql["kind"].as_str().unwrap() {
            "ENUM" => {
                let values = described["enum"].as_array().unwrap().iter();
                let values: BTreeSet<String> = values.map(|value| value.as_str().unwrap().to_uppercase()).collect();
                let own = schema.names(name, "enumValues");
                let differing = values.symmetric_difference(&own);
                lacking.extend(differing.map(|value| format!("{name} has {value} in one only")));
            }
            "UNION" => {
                let members = described["anyOf"].as_array().or(described["oneOf"].as_array());
                let members: BTreeSet<String> = members.into_iter().flatten().filter_map(reference).collect();
                let own = schema.names(name, "possibleTypes");
                if members.is_empty() || members != own {
                    lacking.push(format!("{name} is {members:?} in REST and {own:?} in GraphQL"));
                }
            }
            _ => {
                let own = without_links(&schema, name, &rest, &links);
                lacking.extend(differences(name, &rest, &own));
            }
        }
        // An object that is read and written has two types in GraphQL.
        let input = format!("{name}Input");
        if schema.0.contains_key(&input) {
            lacking.extend(differences(&input, &rest, &schema.members(&input)));
            seen.insert(input);
        }
    }
    // What begins with two underscores is GraphQL's own by its specification.
    let more = schema
        .0
        .keys()
        .filter(|name| !seen.contains(*name) && !name.starts_with("__"));
    let more = more.filter(|name| !of_graphql.excuse(name));
    lacking.extend(more.map(|name| format!("{name} is no schema of REST")));
    let gone = PARTS.iter().filter(|(part, _)| !parts.contains(part));
    lacking.extend(gone.map(|(part, _)| format!("{part} is no schema of REST")));
    for excuses in [of_rest, bodies, of_graphql, links] {
        lacking.extend(excuses.stale());
    }
    assert!(lacking.is_empty(), "{lacking:#?}");
}

#[test]
fn an_excuse_that_excuses_nothing_is_a_fault() {
    const TWO: &[(&str, &str)] = &[("Booking.host", "elsewhere"), ("Booking.moon", "nowhere")];
    let excuses = Excuses::new(TWO);
    assert!(excuses.excuse("Booking.host") && !excuses.excuse("Booking.guest"));
    assert_eq!(excuses.stale(), ["Booking.moon is excused, and need not be"]);
}

#[test]
fn what_differs_in_one_point_is_found() {
    let shape = Shape {
        required: true,
        nullable: false,
        items: vec![false],
        default: Some("20".to_owned()),
        of: Some("Booking".to_owned()),
    };
    let one = |shape: &Shape| BTreeMap::from([("name".to_owned(), shape.clone())]);
    let same = one(&shape);
    assert!(differences("Type", &same, &same).is_empty());
    let others = [
        Shape {
            required: false,
            ..shape.clone()
        },
        Shape {
            nullable: true,
            ..shape.clone()
        },
        Shape {
            items: vec![true],
            ..shape.clone()
        },
        Shape {
            items: Vec::new(),
            ..shape.clone()
        },
        Shape {
            default: None,
            ..shape.clone()
        },
        Shape {
            of: Some("Payment".to_owned()),
            ..shape
        },
    ];
    for other in others {
        assert_eq!(differences("Type", &same, &one(&other)).len(), 1, "{other:?}");
        assert_eq!(differences("Type", &one(&other), &same).len(), 1, "{other:?}");
    }
    for (rest, graphql) in [(&same, &BTreeMap::new()), (&BTreeMap::new(), &same)] {
        assert_eq!(differences("Type", rest, graphql).len(), 1);
    }
}

#[test]
fn the_schema_that_is_checked_in_is_the_programs() {
    let checked_in = include_str!("../../../api/schema.graphql");
    assert!(
        roost_api::graphql::sdl() == checked_in,
        "api/schema.graphql is out of date: roost-api graphql-schema > api/schema.graphql"
    );
}
