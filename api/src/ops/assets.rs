//! Styles and scripts, inside the program: nothing is loaded from elsewhere.
//!
//! `htmx.min.js` is version 2.0.11 of the npm package `htmx.org`, licence 0BSD, as published. Its SHA-256,
//! which `tests/it/published.rs` computes:
//!
//! - `htmx.min.js` d6fdc75f204e6bdefa99b69bf1e6d4ac69b8a364f77929f45c13476b4000f717

use poem::http::{StatusCode, header};
use poem::web::Path;
use poem::{IntoResponse, Response, handler};

use super::fault::Fault;

/// Where they are.
pub const BASE: &str = concat!("/ops/assets/", env!("CARGO_PKG_VERSION"));

const FILES: [(&str, &str, &str); 4] = [
    ("ops.css", "text/css; charset=utf-8", include_str!("assets/ops.css")),
    (
        "ops.js",
        "text/javascript; charset=utf-8",
        include_str!("assets/ops.js"),
    ),
    (
        "htmx.min.js",
        "text/javascript; charset=utf-8",
        include_str!("assets/htmx.min.js"),
    ),
    ("icon.svg", "image/svg+xml", include_str!("assets/icon.svg")),
];

#[handler]
pub fn file(Path((_, name)): Path<(String, String)>) -> Response {
    let Some((_, content_type, text)) = FILES.iter().find(|(known, _, _)| *known == name) else {
        return Fault::NotFound("file").into_response();
    };
    Response::builder()
        .status(StatusCode::OK)
        .content_type(content_type)
        // Not for ever: a build of the same version may bring others.
        .header(header::CACHE_CONTROL, "public, max-age=300")
        .body(*text)
}
