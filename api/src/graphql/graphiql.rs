//! GraphiQL, a page to try queries on, inside the program: nothing is loaded from elsewhere.
//!
//! Version 4.1.2 of the npm package `graphiql` with `react` and `react-dom` 18.3.1 (their `umd`), as published; the licences
//! (MIT) are in `assets/LICENSE.txt`. It is the last one that is a single script of 1 MB: version 5 brings an editor of
//! several. The SHA-256 of each file as it is in its package, which `tests/it/published.rs` computes:
//!
//! - `graphiql.min.css` 30487e07635d312a63f647b140d37740a73c53332b0975bf4b1fe985ca6ec885
//! - `graphiql.min.js` 867226ba8af5ce7949903fc53932f78dac9f4bfc6cc8da0fd3869b8bc6c5256b
//! - `react.production.min.js` d949f1c3687aedadcedac85261865f29b17cd273997e7f6b2bfc53b2f9d4c4dd
//! - `react-dom.production.min.js` 35f4f974f4b2bcd44da73963347f8952e341f83909e4498227d4e26b98f66f0d

use poem::http::{HeaderValue, header};
use poem::web::{Html, Path};
use poem::{IntoResponse, Response, handler};

use crate::error::ApiError;

/// Nothing but the files below and this API. Fonts and pictures are inside the style sheet. A dialog's inline style that
/// keeps the page behind it from scrolling is refused too: that page does not scroll.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; font-src data:; img-src 'self' data:; \
                      connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'";

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const FILES: [(&str, &str, &str); 7] = [
    ("graphiql.min.css", STYLE, include_str!("assets/graphiql.min.css")),
    ("graphiql.min.js", SCRIPT, include_str!("assets/graphiql.min.js")),
    (
        "react.production.min.js",
        SCRIPT,
        include_str!("assets/react.production.min.js"),
    ),
    (
        "react-dom.production.min.js",
        SCRIPT,
        include_str!("assets/react-dom.production.min.js"),
    ),
    ("page.css", STYLE, include_str!("assets/page.css")),
    ("page.js", SCRIPT, include_str!("assets/page.js")),
    (
        "LICENSE.txt",
        "text/plain; charset=utf-8",
        include_str!("assets/LICENSE.txt"),
    ),
];

/// The page.
pub(super) fn page() -> Response {
    let mut response = Html(include_str!("assets/graphiql.html")).into_response();
    response
        .headers_mut()
        .insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    response
}

/// What the page is made of.
#[handler]
pub fn file(Path(name): Path<String>) -> poem::Result<Response> {
    let Some((_, content_type, text)) = FILES.iter().find(|(known, _, _)| *known == name) else {
        return Err(ApiError::not_found("file").into());
    };
    Ok(Response::builder()
        .content_type(content_type)
        // Not for ever: another build may bring others under the same names.
        .header(header::CACHE_CONTROL, "public, max-age=300")
        .body(*text))
}
