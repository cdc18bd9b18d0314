//! The inbox for a browser and as JSON.
//!
//! | | |
//! |---|---|
//! | `GET /` | the inbox, newest first |
//! | `GET /messages/{id}` | one message; `?part=text` or `raw` |
//! | `GET /messages/{id}/html`, `…/raw` | its HTML part alone, its source |
//! | `GET /api/messages?to=&subject=&limit=` | JSON, newest first |
//! | `GET`, `DELETE /api/messages/{id}`, `DELETE /api/messages` | |
//! | `GET`, `POST`, `DELETE /api/faults` | `{"at": "rcpt", "what": {"reply": 451}, "times": 2}` |

use std::sync::{Arc, LazyLock};

use minijinja::{Environment, context};
use poem::{
    Endpoint, EndpointExt, IntoResponse, Response, Route, get, handler,
    http::{StatusCode, header},
    middleware::AddData,
    web::{Data, Html, Json, Path, Query},
};
use serde::Deserialize;

use super::{
    faults::{Fault, Faults},
    message::Message,
    store::Store,
};

pub(super) fn routes(store: Arc<Store>, faults: Arc<Faults>) -> impl Endpoint + 'static {
    Route::new()
        .at("/", get(inbox))
        .at("/messages/:id", get(message_page))
        .at("/messages/:id/html", get(html_part))
        .at("/messages/:id/raw", get(raw))
        .at("/api/messages", get(list).delete(delete_all))
        .at("/api/messages/:id", get(one).delete(delete_one))
        .at("/api/faults", get(pending_faults).post(add_fault).delete(clear_faults))
        .at("/healthz", get(healthz))
        .with(AddData::new(store))
        .with(AddData::new(faults))
}

static PAGES: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut pages = Environment::new();
    pages.set_loader(|name| {
        Ok(match name {
            "inbox.html" => Some(include_str!("inbox.html").to_owned()),
            "message.html" => Some(include_str!("message.html").to_owned()),
            "style.css" => Some(include_str!("style.css").to_owned()),
            _ => None,
        })
    });
    pages
});

fn page(name: &str, facts: minijinja::Value) -> Response {
    match PAGES.get_template(name).and_then(|template| template.render(facts)) {
        Ok(page) => Html(page).into_response(),
        Err(error) => {
            tracing::error!(%error, name, "a page of the mailbox cannot be rendered");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// All filters must hold; each is a part of the field, in any case.
#[derive(Debug, Default, Deserialize)]
struct Filter {
    to: Option<String>,
    subject: Option<String>,
    limit: Option<usize>,
}

impl Filter {
    fn find(&self, store: &Store) -> Vec<Arc<Message>> {
        let has = |field: &str, part: &Option<String>| match part {
            Some(part) => field.to_lowercase().contains(&part.to_lowercase()),
            None => true,
        };
        store.newest(self.limit.unwrap_or(100), |message| {
            message.to.iter().any(|address| has(address, &self.to)) && has(&message.subject, &self.subject)
        })
    }
}

#[handler]
fn inbox(Data(store): Data<&Arc<Store>>, Query(filter): Query<Filter>) -> Response {
    let messages = filter.find(store);
    let rows: Vec<_> = messages
        .iter()
        .map(|message| {
            context! {
                id => message.id,
                to => message.to.join(", "),
                subject => message.subject,
                at => message.received_at.format("%H:%M:%S").to_string(),
                date => message.received_at.format("%-d %b %Y").to_string(),
                preview => preview(message),
            }
        })
        .collect();
    page(
        "inbox.html",
        context! { messages => rows, to => filter.to, subject => filter.subject },
    )
}

fn preview(message: &Message) -> String {
    let text = message.text.as_deref().unwrap_or_default();
    let words: Vec<_> = text.split_whitespace().take(24).collect();
    words.join(" ")
}

#[derive(Debug, Deserialize)]
struct Part {
    part: Option<String>,
}

#[handler]
fn message_page(Data(store): Data<&Arc<Store>>, Path(id): Path<u64>, Query(Part { part }): Query<Part>) -> Response {
    let Some(message) = store.get(id) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let default = if message.html.is_some() { "html" } else { "text" };
    page(
        "message.html",
        context! {
            part => part.as_deref().unwrap_or(default),
            at => message.received_at.format("%-d %b %Y, %H:%M:%S UTC").to_string(),
            to => message.to.join(", "),
            raw => String::from_utf8_lossy(&message.raw),
            ..minijinja::Value::from_serialize(&*message)
        },
    )
}

/// For the frame: no script runs, nothing is sent, links open in a new tab.
const FRAME_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data: https:; \
                            sandbox allow-popups allow-popups-to-escape-sandbox";

#[handler]
fn html_part(Data(store): Data<&Arc<Store>>, Path(id): Path<u64>) -> Response {
    let message = store.get(id);
    let Some(html) = message.as_ref().and_then(|message| message.html.as_deref()) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let html = html.replacen("<head>", "<head><base target=\"_blank\">", 1);
    Html(html)
        .with_header(header::CONTENT_SECURITY_POLICY, FRAME_POLICY)
        .into_response()
}

#[handler]
fn raw(Data(store): Data<&Arc<Store>>, Path(id): Path<u64>) -> Response {
    match store.get(id) {
        Some(message) => Response::builder()
            .content_type("text/plain; charset=utf-8")
            .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
            .body(message.raw.clone()),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

#[handler]
fn list(Data(store): Data<&Arc<Store>>, Query(filter): Query<Filter>) -> Response {
    let messages = filter.find(store);
    Json(messages.iter().map(|message| &**message).collect::<Vec<_>>()).into_response()
}

#[handler]
fn one(Data(store): Data<&Arc<Store>>, Path(id): Path<u64>) -> Response {
    match store.get(id) {
        Some(message) => Json(&*message).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

#[handler]
fn delete_one(Data(store): Data<&Arc<Store>>, Path(id): Path<u64>) -> StatusCode {
    if store.remove(id) {
        StatusCode::NO_CONTENT
    } else {
        StatusCode::NOT_FOUND
    }
}

#[handler]
fn delete_all(Data(store): Data<&Arc<Store>>) -> StatusCode {
    store.clear();
    StatusCode::NO_CONTENT
}

#[handler]
fn pending_faults(Data(faults): Data<&Arc<Faults>>) -> Json<Vec<Fault>> {
    Json(faults.pending())
}

#[handler]
fn add_fault(Data(faults): Data<&Arc<Faults>>, Json(fault): Json<Fault>) -> StatusCode {
    faults.inject(fault);
    StatusCode::NO_CONTENT
}

#[handler]
fn clear_faults(Data(faults): Data<&Arc<Faults>>) -> StatusCode {
    faults.clear();
    StatusCode::NO_CONTENT
}

#[handler]
fn healthz() -> &'static str {
    "ok"
}
