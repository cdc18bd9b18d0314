//! Roost's HTTP API.
//!
//! Start reading at [`app`]: every resource in one list, and the layers around them. A handler takes what it needs
//! from [`state::AppState`], who asks from [`auth::Auth`], a body from [`body::JsonBody`]; it answers with plain
//! JSON, a [`page::Paged`] list or an [`idempotency::Created`], and refuses with an [`error::ApiError`].

pub mod auth;
pub mod body;
pub mod cache;
pub mod cli;
pub mod client;
pub mod error;
pub mod etag;
pub mod graphql;
pub mod idempotency;
pub mod middleware;
pub mod openapi;
pub mod ops;
pub mod page;
mod patch;
pub mod prefer;
pub mod problem;
pub mod problems;
pub mod ratelimit;
pub mod request;
pub mod rest;
mod schema;
pub mod server;
pub mod state;
mod strict_json;
pub mod validate;
pub mod waiting;

use std::sync::Arc;

use poem::endpoint::make_sync;
use poem::http::{HeaderValue, header};
use poem::middleware::{Compression, NormalizePath, TrailingSlash};
use poem::web::{CompressionAlgo, CompressionLevel, Html};
use poem::{Endpoint, EndpointExt, IntoResponse, Response, Route};
use poem_openapi::{LicenseObject, OpenApiService, ServerObject};
use serde_json::Value;

use crate::middleware::guard::{self, GRAPHQL_PATH, guard};
use crate::openapi::Routes;
use crate::rest::auth::AuthApi;
use crate::rest::booking_events::BookingEventsApi;
use crate::rest::bookings::BookingsApi;
use crate::rest::health::HealthApi;
use crate::rest::messages::MessagesApi;
use crate::rest::notifications::NotificationsApi;
use crate::rest::payments::PaymentsApi;
use crate::rest::properties::PropertiesApi;
use crate::rest::quotes::QuotesApi;
use crate::rest::reviews::ReviewsApi;
use crate::rest::reviews::moderation::ModerationApi;
use crate::rest::stripe_webhook::StripeWebhookApi;
use crate::rest::users::UsersApi;
use crate::state::AppState;

/// Every resource: a new one is a line here, and one in [`resources`].
type Resources = (
    HealthApi,
    UsersApi,
    AuthApi,
    PropertiesApi,
    QuotesApi,
    BookingsApi,
    BookingEventsApi,
    MessagesApi,
    PaymentsApi,
    ReviewsApi,
    ModerationApi,
    NotificationsApi,
    StripeWebhookApi,
);

fn resources(state: &AppState) -> Resources {
    (
        HealthApi(state.clone()),
        UsersApi(state.clone()),
        AuthApi(state.clone()),
        PropertiesApi(state.clone()),
        QuotesApi(state.clone()),
        BookingsApi(state.clone()),
        BookingEventsApi(state.clone()),
        MessagesApi(state.clone()),
        PaymentsApi(state.clone()),
        ReviewsApi(state.clone()),
        ModerationApi(state.clone()),
        NotificationsApi(state.clone()),
        StripeWebhookApi(state.clone()),
    )
}

fn service(state: &AppState) -> OpenApiService<Resources, ()> {
    OpenApiService::new(resources(state), "Roost", env!("CARGO_PKG_VERSION"))
        .description(include_str!("description.md").to_owned() + &problems::chapter())
        .license(LicenseObject::new("MIT OR Apache-2.0").url("https://spdx.org/licenses/"))
        .server(ServerObject::new(&state.settings.public_url).description("This deployment"))
}

/// The OpenAPI document.
///
/// # Errors
/// poem-openapi's document is not JSON, which does not happen.
pub fn document(state: &AppState) -> Result<Value, serde_json::Error> {
    let mut document = openapi::refine(&service(state).spec())?;
    rest::properties::state_limits(&mut document);
    Ok(document)
}

/// The whole API as an endpoint that never fails: every failure is a reply.
///
/// # Errors
/// The OpenAPI document cannot be made.
pub fn app(state: AppState) -> anyhow::Result<impl Endpoint<Output = Response> + 'static> {
    let service = service(&state);
    let document = document(&state)?;
    let routes = Arc::new(Routes::of(&document).with_path("/graphql", &["GET", "HEAD", "POST"]));
    let document = serde_json::to_string_pretty(&document)?;
    let docs = service.swagger_ui_html().replace(&service.spec(), &document);
    let guarded = {
        let routes = Arc::clone(&routes);
        let mut pages = Route::new();
        if state.settings.graphiql {
            pages = pages.at("/graphql/assets/:name", poem::get(graphql::graphiql_file));
        }
        pages
            .at(
                "/openapi.json",
                poem::get(make_sync(move |_| json_page(document.clone()))),
            )
            .at("/docs", poem::get(make_sync(move |_| docs_page(docs.clone()))))
            .at("/problems/:code", poem::get(problems::page))
            .at(GRAPHQL_PATH, graphql::route(&state))
            .nest_no_strip("/", service)
            .data(state.clone())
            .around(move |endpoint, request| guard(endpoint, Arc::clone(&routes), guard::TIMEOUT, request))
    };
    let cors_state = state.clone();
    Ok(guarded
        .with(NormalizePath::new(TrailingSlash::Trim))
        .around(move |endpoint, request| middleware::cors::cors(endpoint, cors_state.clone(), request))
        .with(
            Compression::new()
                .with_quality(CompressionLevel::Fastest)
                .algorithms([CompressionAlgo::BR, CompressionAlgo::GZIP]),
        )
        .around(middleware::coding::negotiate)
        .map_to_response()
        .around(move |endpoint, request| {
            middleware::observe::observe(endpoint, state.clone(), Arc::clone(&routes), request)
        }))
}

fn json_page(document: String) -> Response {
    Response::builder()
        .content_type("application/json")
        .header(header::CACHE_CONTROL, "public, max-age=60")
        .body(document)
}

fn docs_page(html: String) -> Response {
    let mut response = Html(html).into_response();
    // Swagger UI is one page with its script, style and pictures inside; it calls this API and nothing else.
    response.headers_mut().insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'",
        ),
    );
    response
}
