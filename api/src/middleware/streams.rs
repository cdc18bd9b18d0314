//! Event streams go out as they are: a compressor keeps small pieces back until it has enough of them.

use std::sync::Arc;

use poem::http::header;
use poem::{Endpoint, Request};

/// Calls `endpoint`, which compresses, as if the client of an event stream could not decompress.
pub async fn uncompressed<E: Endpoint>(endpoint: Arc<E>, mut request: Request) -> poem::Result<E::Output> {
    let asked = request
        .header(header::ACCEPT)
        .is_some_and(|accepted| accepted.contains("text/event-stream"));
    if asked || request.uri().path().trim_end_matches('/').ends_with("/events") {
        request.headers_mut().remove(header::ACCEPT_ENCODING);
    }
    endpoint.call(request).await
}
