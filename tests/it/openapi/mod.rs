//! What the OpenAPI documents promise, asked of every operation in them: one that is new is asked without being named.

mod bad_input;
mod bodyless;
mod examples;
mod spoilt;
mod viewer;

use std::collections::BTreeMap;

use reqwest::Method;
use roost_shared::operators::Role;
use roost_tests::app::{Actor, Call, TestApp};
use roost_tests::ops::{Dashboard, PASSWORD};
use serde_json::{Value, json};

/// An API with its document, as somebody who is signed in meets it.
struct Described {
    document: Value,
    base: String,
    token: String,
    /// What stands for a parameter in a path; an id of nothing if it is not here.
    known: BTreeMap<&'static str, String>,
    http: reqwest::Client,
}

/// An operation of the document.
struct Operation<'a> {
    api: &'a Described,
    id: &'a str,
    method: Method,
    path: &'a str,
    described: &'a Value,
}

impl Described {
    async fn api(app: &TestApp, actor: &Actor) -> Self {
        Self {
            document: app.get("/openapi.json").send().await.expect(200),
            base: app.url().to_owned(),
            token: actor.access_token.clone(),
            known: BTreeMap::new(),
            http: reqwest::Client::new(),
        }
    }

    async fn dashboard(dashboard: &Dashboard) -> Self {
        Self::dashboard_of(dashboard, Role::Admin).await
    }

    async fn dashboard_of(dashboard: &Dashboard, role: Role) -> Self {
        let email = dashboard.make(role).await;
        let base = format!("{}/ops/api", dashboard.base);
        let http = reqwest::Client::new();
        let credentials = json!({"email": email, "password": PASSWORD});
        let session = Call::of(http.post(format!("{base}/session")).json(&credentials));
        let document = Call::of(http.get(format!("{base}/openapi.json")));
        Self {
            document: document.send().await.expect(200),
            token: session.send().await.expect(200)["token"].as_str().unwrap().to_owned(),
            base,
            known: BTreeMap::new(),
            http,
        }
    }

    fn operations(&self) -> Vec<Operation<'_>> {
        let mut found = Vec::new();
        for (path, item) in self.document["paths"].as_object().unwrap() {
            for (method, described) in item.as_object().unwrap() {
                found.push(Operation {
                    api: self,
                    id: described["operationId"].as_str().unwrap(),
                    method: method.to_uppercase().parse().unwrap(),
                    path,
                    described,
                });
            }
        }
        found
    }

    /// What a reference refers to; anything else as it is.
    fn resolve<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(reference) => self.document.pointer(&reference[1..]).unwrap(),
            None => value,
        }
    }
}

impl Operation<'_> {
    fn parameters(&self, location: &str) -> impl Iterator<Item = &Value> {
        let all = self.described["parameters"].as_array().into_iter().flatten();
        all.filter(move |parameter| parameter["in"] == location)
    }

    fn body_schema(&self) -> Option<&Value> {
        self.described
            .pointer("/requestBody/content/application~1json; charset=utf-8/schema")
            .or_else(|| self.described.pointer("/requestBody/content/application~1json/schema"))
    }

    /// A request for it, with this in the place of a parameter of the path, and this query.
    fn call(&self, replaced: Option<(&str, &str)>, query: &str) -> Call {
        let mut path = self.path.to_owned();
        for parameter in self.parameters("path") {
            let name = parameter["name"].as_str().unwrap();
            let known = self.api.known.get(name).cloned();
            let value = match replaced {
                Some((given, value)) if given == name => value.to_owned(),
                _ => known.unwrap_or_else(|| spoilt::fitting_text(self.api, &parameter["schema"])),
            };
            path = path.replace(&format!("{{{name}}}"), &value);
        }
        let url = format!("{}{path}{query}", self.api.base);
        Call::of(
            self.api
                .http
                .request(self.method.clone(), url)
                .bearer_auth(&self.api.token),
        )
    }
}

#[tokio::test]
async fn the_document_promises_only_what_is_answered() {
    let app = TestApp::start().await;
    let document = app.get("/openapi.json").send().await.expect(200);
    for operation in document["paths"]
        .as_object()
        .unwrap()
        .values()
        .flat_map(|item| item.as_object().unwrap().values())
    {
        for status in ["410", "428"] {
            assert!(operation["responses"].get(status).is_none(), "{operation}");
        }
    }
}

#[tokio::test]
async fn the_document_is_complete_and_its_page_stands_alone() {
    let app = TestApp::start().await;
    let document = app.get("/openapi.json").send().await.expect(200);
    assert!(document["openapi"].as_str().unwrap().starts_with("3."));
    let mut ids = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let at = format!("{method} {path}");
            for member in ["operationId", "summary", "tags"] {
                assert!(!operation[member].is_null(), "{at} has no {member}");
            }
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                assert!(parameter["description"].is_string(), "{at}: {parameter}");
            }
            for (status, response) in operation["responses"].as_object().unwrap() {
                let shared = response["$ref"].as_str().map(|reference| &reference[1..]);
                let response = shared.map_or(response, |pointer| document.pointer(pointer).unwrap());
                let description = response["description"].as_str().unwrap_or_default();
                assert!(!description.is_empty(), "{at} {status} has no description");
                if status.starts_with(['4', '5']) && !path.starts_with("/readyz") {
                    assert!(
                        response["content"]["application/problem+json"].is_object(),
                        "{at} {status}"
                    );
                }
            }
            ids.push(operation["operationId"].clone());
        }
    }
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        for (field, property) in schema["properties"].as_object().into_iter().flatten() {
            let described =
                property["description"].is_string() || property["allOf"].is_array() || property["$ref"].is_string();
            assert!(described, "{name}.{field} has no description");
        }
    }
    for (tag, described) in document["tags"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tag| (&tag["name"], &tag["description"]))
    {
        assert!(described.is_string(), "{tag}");
    }
    assert_eq!(document["servers"][0]["url"], "http://roost.test");

    let page = app.get("/docs").send().await;
    assert_eq!(page.status, 200);
    let text = page.text();
    assert!(text.contains("register_user") && text.contains("additionalProperties"));
    assert!(!text.contains("<script src=") && !text.contains("<link"));
}
