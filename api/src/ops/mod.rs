//! The job dashboard at `/ops`, on a listener of its own: what is wrong, what a retry would do, and doing it.
//!
//! Pages are rendered here and read Postgres; the rules of every action are in [`roost_shared::jobs::actions`]. Start
//! reading at [`app`]: every page in one list. [`access`] says who may see it, [`live`] keeps the overview fresh,
//! [`api`] is the same as JSON.

mod access;
mod account;
mod acting;
mod alarms;
pub mod api;
mod assets;
mod audit;
mod bulk;
mod chart;
mod fault;
mod filter;
mod job;
mod jobs;
mod landing;
mod live;
mod overview;
mod params;
mod qr;
mod queues;
mod settings;
mod shell;
mod view;
mod workers;

use std::sync::Arc;

use poem::http::{HeaderName, HeaderValue, StatusCode, header};
use poem::{Endpoint, EndpointExt, IntoResponse, Request, Response, Route, get, handler, post};
use poem_openapi::OpenApiService;

pub use access::COOKIE;

use self::fault::Fault;
use self::live::Live;
use crate::middleware::guard::{self, guard};
use crate::middleware::observe;
use crate::openapi::{self, Routes};
use crate::state::AppState;

/// Nothing but our own files, no frame, no form to elsewhere. Styles are in files: not even `style=` is needed.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// The dashboard as an endpoint that never fails: every failure is a page or a problem.
///
/// # Errors
/// The OpenAPI document cannot be made.
pub fn app(state: AppState) -> anyhow::Result<impl Endpoint<Output = Response> + 'static> {
    let live = Live::spawn(state.db.pool().clone(), state.redis.clone(), state.stopping.clone());
    let service = OpenApiService::new(api::resources(&state), "Roost operations", env!("CARGO_PKG_VERSION"))
        .description(api::DESCRIPTION)
        .server("/ops/api");
    let document = openapi::refine(&service.spec())?;
    let routes = Arc::new(Routes::of(&document).below("/ops/api"));
    let document = document.to_string();
    let pages = Route::new()
        .at("/ops", get(overview::page))
        .at("/ops/login", get(access::login_page).post(access::login))
        .at("/ops/logout", post(access::logout))
        .at("/ops/account", get(account::page))
        .at("/ops/account/password", post(account::password))
        .at("/ops/account/authenticator", post(account::begin))
        .at("/ops/account/authenticator/confirm", post(account::confirm))
        .at("/ops/account/authenticator/remove", post(account::remove))
        .at("/ops/account/sessions/:id/end", post(account::end))
        .at("/ops/live", get(live::stream))
        .at("/ops/jobs", get(jobs::page))
        .at("/ops/jobs/bulk", get(bulk::preview_page).post(bulk::begin))
        .at("/ops/bulk/:id", get(bulk::page))
        .at("/ops/bulk/:id/stop", post(bulk::stop))
        .at("/ops/jobs/:id", get(job::page))
        .at("/ops/jobs/:id/edit", post(acting::edit))
        .at("/ops/jobs/:id/ask", post(acting::ask))
        .at("/ops/jobs/:id/:action", post(acting::act))
        .at("/ops/bookings/:id", get(job::flight_page))
        .at("/ops/queues", get(queues::page))
        .at("/ops/queues/:name/settings", post(settings::queue))
        .at("/ops/queues/:name/:action", post(acting::queue))
        .at("/ops/kinds/:name/limits", post(settings::kind))
        .at("/ops/retention/:state", post(settings::retention))
        .at("/ops/workers", get(workers::page))
        .at("/ops/workers/:name/:wish", post(settings::worker))
        .at("/ops/schedules", get(queues::schedules_page))
        .at("/ops/schedules/:name/run", post(acting::schedule))
        .at("/ops/schedules/:name/settings", post(settings::schedule))
        .at("/ops/audit", get(audit::page))
        .at("/ops/assets/:version/:name", get(assets::file))
        .at(
            "/ops/api/openapi.json",
            get(poem::endpoint::make_sync(move |_| {
                Response::builder()
                    .content_type("application/json")
                    .body(document.clone())
            })),
        )
        .nest("/ops/api", service)
        .at("/", get(home))
        .at("/*rest", get(nowhere).post(nowhere))
        .data(state.clone())
        .data(live);
    Ok(pages
        .around({
            let routes = Arc::clone(&routes);
            move |endpoint, request| guard(endpoint, Arc::clone(&routes), guard::DASHBOARD_TIMEOUT, request)
        })
        .map_to_response()
        .around(move |endpoint, request| observe::observe(endpoint, state.clone(), Arc::clone(&routes), request))
        .around(harden))
}

#[handler]
fn home() -> Response {
    Response::builder()
        .status(StatusCode::SEE_OTHER)
        .header(header::LOCATION, "/ops")
        .finish()
}

#[handler]
fn nowhere() -> Response {
    Fault::NotFound("page").into_response()
}

/// The headers of every reply.
async fn harden<E: Endpoint<Output = Response>>(endpoint: Arc<E>, request: Request) -> poem::Result<Response> {
    let mut response = endpoint.call(request).await?;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        // Forms need it to prove where they come from.
        (header::REFERRER_POLICY, "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (
            HeaderName::from_static("permissions-policy"),
            "camera=(), geolocation=(), microphone=(), payment=()",
        ),
        (HeaderName::from_static("x-robots-tag"), "noindex"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}
