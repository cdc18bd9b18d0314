//! Styles and scripts, inside the program: nothing is loaded from elsewhere.
//!
//! `htmx.min.js` is version 2.0.11 of the npm package `htmx.org`, licence 0BSD; `uPlot.iife.min.js` and `uPlot.min.css` are
//! version 1.6.32 of `uplot`, whose licence (MIT) is in `assets/uPlot.LICENSE.txt`. All are as published. The SHA-256 of
//! each, which `tests/it/published.rs` computes:
//!
//! - `htmx.min.js` d6fdc75f204e6bdefa99b69bf1e6d4ac69b8a364f77929f45c13476b4000f717
//! - `uPlot.iife.min.js` 19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f
//! - `uPlot.min.css` df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04

use poem::http::{StatusCode, header};
use poem::web::Path;
use poem::{IntoResponse, Response, handler};

use super::fault::Fault;

/// Where they are.
pub const BASE: &str = concat!("/ops/assets/", env!("CARGO_PKG_VERSION"));

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const FILES: [(&str, &str, &str); 7] = [
    ("ops.css", STYLE, include_str!("assets/ops.css")),
    ("ops.js", SCRIPT, include_str!("assets/ops.js")),
    ("charts.js", SCRIPT, include_str!("assets/charts.js")),
    ("htmx.min.js", SCRIPT, include_str!("assets/htmx.min.js")),
    ("uPlot.iife.min.js", SCRIPT, include_str!("assets/uPlot.iife.min.js")),
    ("uPlot.min.css", STYLE, include_str!("assets/uPlot.min.css")),
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
