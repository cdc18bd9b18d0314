//! The page behind the link in a verification mail: a button that spends the token. Reading the page spends nothing,
//! because the programs that look through mail read every link in it.

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use poem_openapi::payload::{Html, Response};
use sha2::{Digest, Sha256};

const STYLE: &str = include_str!("verify_page.css");
const SCRIPT: &str = include_str!("verify_page.js");

static PAGE: LazyLock<String> = LazyLock::new(|| {
    include_str!("verify_page.html")
        .replace("{{style}}", STYLE)
        .replace("{{script}}", SCRIPT)
});

/// Allows this one style and script, and talking to this API.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = |text: &str| STANDARD.encode(Sha256::digest(text.as_bytes()));
    format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hash(STYLE),
        hash(SCRIPT)
    )
});

/// The page. It finds the token in its own address, so nothing of a request is ever part of it.
pub(super) fn page() -> Response<Html<&'static str>> {
    Response::new(Html(PAGE.as_str())).header("Content-Security-Policy", POLICY.as_str())
}
