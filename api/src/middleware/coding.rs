//! Which coding a reply is sent in: brotli or gzip, whichever the client likes better (RFC 9110, section 12.5.3). Event
//! streams go out as they are: a compressor keeps small pieces back until it has enough of them.

use std::sync::Arc;

use poem::http::{HeaderMap, HeaderValue, StatusCode, header};
use poem::{Endpoint, Request, Response};

/// Calls `endpoint`, which compresses, with the one coding that it shall use, if any.
pub async fn negotiate<E: Endpoint<Output = Response>>(
    endpoint: Arc<E>,
    mut request: Request,
) -> poem::Result<Response> {
    let coding = accepted(request.headers()).filter(|_| !is_stream(&request));
    let headers = request.headers_mut();
    match coding {
        Some(coding) => headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(coding)),
        None => headers.remove(header::ACCEPT_ENCODING),
    };
    let mut response = endpoint.call(request).await?;
    let bodyless = matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if bodyless {
        response.take_body();
        response.headers_mut().remove(header::CONTENT_ENCODING);
    }
    let vary = HeaderValue::from_static("Accept-Encoding");
    response.headers_mut().append(header::VARY, vary);
    Ok(response)
}

/// A connection that becomes a WebSocket has no body to compress either.
fn is_stream(request: &Request) -> bool {
    let asked = request.header(header::ACCEPT);
    asked.is_some_and(|accepted| accepted.contains("text/event-stream"))
        || request.headers().contains_key(header::UPGRADE)
        || request.uri().path().trim_end_matches('/').ends_with("/events")
}

/// The coding of ours that the client gives the most weight; none if it would rather have the plain reply.
fn accepted(headers: &HeaderMap) -> Option<&'static str> {
    let wishes: Vec<(&str, f32)> = headers
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','))
        .map(wish)
        .collect();
    let named = |name: &str| {
        let wish = wishes.iter().find(|(coding, _)| coding.eq_ignore_ascii_case(name));
        wish.map(|(_, weight)| *weight)
    };
    let weight = |name| named(name).or_else(|| named("*")).unwrap_or(0.0);
    let best = if weight("br") >= weight("gzip") { "br" } else { "gzip" };
    let plain = named("identity").unwrap_or(0.0);
    (weight(best) > 0.0 && weight(best) >= plain).then_some(best)
}

/// A coding and its weight; one whose weight cannot be read is not wanted.
fn wish(element: &str) -> (&str, f32) {
    let mut parts = element.split(';').map(str::trim);
    let coding = parts.next().unwrap_or_default();
    let weight = parts.find_map(|part| {
        let (name, value) = part.split_once('=')?;
        name.trim()
            .eq_ignore_ascii_case("q")
            .then(|| value.trim().parse().unwrap_or(0.0))
    });
    (coding, weight.unwrap_or(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_coding_with_the_most_weight_is_chosen_and_weight_0_is_a_refusal() {
        for (wishes, chosen) in [
            ("gzip, deflate, br, zstd", Some("br")),
            ("gzip", Some("gzip")),
            ("GZIP;q=1.0, br; q=0.5", Some("gzip")),
            ("*", Some("br")),
            ("*, br;q=0", Some("gzip")),
            ("br;q=0", None),
            ("br; q=0, gzip;Q=0.000", None),
            ("*;q=0", None),
            ("identity;q=1, gzip;q=0.5", None),
            ("identity;q=0.5, *;q=1.0, br;q=0.3", Some("gzip")),
            ("gzip;q=much", None),
            ("zstd, deflate", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(wishes));
            assert_eq!(accepted(&headers), chosen, "{wishes}");
        }
        assert_eq!(accepted(&HeaderMap::new()), None);
    }
}
