//! Every field of every body and every parameter, made from the documents: what does not fit is refused with a code,
//! and the field is named.

use roost_tests::app::Reply;
use roost_tests::ops::Dashboard;
use serde_json::{Value, json};

use super::spoilt::{fitting, fitting_text, spoilt, spoilt_texts};
use super::{Described, Operation};
use crate::reviews::Scene;

/// Fields whose refusal names another one.
const NAMED_OTHERWISE: [(&str, &str); 1] = [
    // What is unknown in the list is told with the list: the message quotes it.
    ("amenities[0]", "amenities"),
];

/// What is wrong with a refusal, if anything is.
fn fault(reply: &Reply, field: &str) -> Option<String> {
    let status = reply.status;
    if !(400..500).contains(&status) {
        return Some(format!(
            "{status}: {}",
            reply.text().chars().take(200).collect::<String>()
        ));
    }
    if reply.header("content-type") != "application/problem+json" {
        return Some(format!("{status} is no problem: {}", reply.text()));
    }
    let problem = reply.json();
    let code = problem["code"].as_str().unwrap_or_default();
    if roost_api::problems::meaning(code).is_none() {
        return Some(format!("{status} with the code {code:?}"));
    }
    let otherwise = NAMED_OTHERWISE.iter().find(|(own, _)| *own == field);
    let other = otherwise.map_or(field, |(_, other)| *other);
    let errors = problem["errors"].as_array().cloned().unwrap_or_default();
    let named = errors
        .iter()
        .any(|error| (error["field"] == field || error["field"] == other) && error["message"] != "");
    (!named).then(|| format!("{status} {code} does not name {field}: {problem}"))
}

async fn every_body_field(api: &Described, faults: &mut Vec<String>) -> usize {
    let mut asked = 0;
    for operation in api.operations() {
        let Some(schema) = operation.body_schema() else {
            continue;
        };
        if api.resolve(schema).get("properties").is_none() {
            assert_eq!(operation.id, "receive_stripe_event", "its body is not described");
            continue;
        }
        let good = fitting(api, schema);
        for spoilt in spoilt(api, schema, &good, "") {
            asked += 1;
            let reply = operation
                .call(None, &needed(&operation))
                .json(&spoilt.value)
                .send()
                .await;
            faults.extend(
                fault(&reply, &spoilt.field)
                    .map(|fault| format!("{}: {} as {}: {fault}", operation.id, spoilt.field, spoilt.how)),
            );
        }
    }
    asked
}

/// The query that the operation cannot do without.
fn needed(operation: &Operation<'_>) -> String {
    let required = operation
        .parameters("query")
        .filter(|parameter| parameter["required"] == true);
    let pairs: Vec<String> = required
        .map(|parameter| {
            let value = fitting_text(operation.api, &parameter["schema"]);
            format!("{}={value}", parameter["name"].as_str().unwrap())
        })
        .collect();
    if pairs.is_empty() {
        String::new()
    } else {
        format!("?{}", pairs.join("&"))
    }
}

async fn every_parameter(api: &Described, faults: &mut Vec<String>) -> usize {
    let mut asked = 0;
    for operation in api.operations() {
        let body = operation.body_schema().map(|schema| fitting(api, schema));
        let complete = |call: roost_tests::app::Call| match &body {
            Some(body) => call.json(body),
            None => call,
        };
        for location in ["path", "query", "header"] {
            for parameter in operation.parameters(location) {
                let name = parameter["name"].as_str().unwrap();
                let mut texts = spoilt_texts(api, &parameter["schema"]);
                if name == "cursor" {
                    texts.extend(["nonsense", "", "bnVsbA", "WyJ4Il0"].map(str::to_owned));
                }
                for text in texts {
                    let call = match location {
                        "path" if text.is_empty() => continue,
                        "path" => operation.call(Some((name, &text)), &needed(&operation)),
                        "query" => operation.call(None, &format!("?{name}={text}")),
                        _ if text == "%00" => continue,
                        _ => operation.call(None, &needed(&operation)).header(name, &text),
                    };
                    asked += 1;
                    let reply = complete(call).send().await;
                    let short: String = text.chars().take(40).collect();
                    faults.extend(
                        fault(&reply, name).map(|fault| format!("{}: {name} as {short:?}: {fault}", operation.id)),
                    );
                }
                if location == "query" && parameter["required"] == true {
                    asked += 1;
                    let reply = complete(operation.call(None, "")).send().await;
                    faults.extend(fault(&reply, name).map(|fault| format!("{}: no {name}: {fault}", operation.id)));
                }
            }
        }
    }
    asked
}

/// Somebody with a stay behind them and reviews of it, who may moderate too: nothing is refused for want of a thing.
async fn somebody_with_everything() -> (Scene, Described) {
    let scene = Scene::set().await;
    let world = &scene.world;
    let booking = scene.ended_stay(&scene.guest).await;
    let [review, _] = scene.both_write(&scene.guest, booking, [5, 5]).await;
    let moderates = roost_shared::users::set_moderator(world.pool(), &scene.guest.email, true).await;
    assert!(moderates.unwrap());
    let guest = scene.again(&scene.guest).await;
    let host = world.patch("/users/me", json!({"role": "host"})).by(&guest);
    host.send().await.expect(200);
    let flat = world.lists(&guest, json!({})).await;
    let payments = world.get("/payments").by(&guest).send().await.expect(200);
    let mut api = Described::api(world, &guest).await;
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    api.known.extend([
        ("booking_id", booking.to_string()),
        ("property_id", flat.to_string()),
        ("payment_id", text(&payments["items"][0]["id"])),
        ("review_id", review.to_string()),
        ("user_id", guest.id.clone()),
        ("session_id", guest.session_id.clone()),
    ]);
    (scene, api)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_field_and_parameter_of_the_api() {
    let (scene, api) = somebody_with_everything().await;
    let mut faults = Vec::new();
    let fields = every_body_field(&api, &mut faults).await;
    let parameters = every_parameter(&api, &mut faults).await;
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    assert!(fields > 300 && parameters > 200, "{fields} and {parameters}");
    // Still signed in: no reply was a refusal of the session.
    let me = scene
        .world
        .get("/users/me")
        .header("authorization", &format!("Bearer {}", api.token));
    me.send().await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_field_and_parameter_of_the_dashboards_api() {
    let app = roost_tests::app::TestApp::start().await;
    let dashboard = Dashboard::start(&app.state).await;
    let mut api = Described::dashboard(&dashboard).await;
    api.known.insert("name", "cache".to_owned());
    let mut faults = Vec::new();
    let fields = every_body_field(&api, &mut faults).await;
    let parameters = every_parameter(&api, &mut faults).await;
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    assert!(fields > 100 && parameters > 40, "{fields} and {parameters}");
}
