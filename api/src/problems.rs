//! Every code that a problem can have, and what it means: the pages behind `type`, and a chapter of the OpenAPI
//! document.

use poem::web::Path;
use poem::{IntoResponse, Response, handler};
use serde_json::json;

use crate::error::ApiError;

/// Code and meaning, in the order of the alphabet.
pub const PROBLEMS: [(&str, &str); 66] = [
    (
        "already_answered",
        "The host has answered the review; hosts answer once.",
    ),
    (
        "already_paying",
        "Another card is in play for the booking, or it is paid.",
    ),
    ("already_reported", "You have reported the review."),
    (
        "already_reviewed",
        "You have reviewed the booking; `review_id` says where that is.",
    ),
    (
        "already_verified",
        "The e-mail address is verified; there is nothing left to prove.",
    ),
    ("bad_request", "The request breaks the rules of HTTP."),
    (
        "batching_refused",
        "GraphQL: an array of operations; send one operation a request.",
    ),
    (
        "body_too_large",
        "The body has more bytes than are taken: 64 KiB, or 256 KiB for webhooks.",
    ),
    (
        "database_unavailable",
        "The database does not answer. Nothing was changed; try again after Retry-After.",
    ),
    (
        "dates_taken",
        "Some of the nights are booked; `conflict` says which stay is in the way.",
    ),
    (
        "duplicate_job",
        "Operators: another job that does the same work has not ended yet.",
    ),
    ("email_taken", "Another account has this e-mail address."),
    ("forbidden", "You may not do this."),
    ("future_bookings", "The property has bookings with nights to come."),
    ("hold_ended", "The time to pay for the booking is over."),
    (
        "idempotency_key_in_use",
        "Another request with this Idempotency-Key is being worked on; send it again.",
    ),
    (
        "idempotency_key_reused",
        "The Idempotency-Key came before with another request; a new request needs a new key.",
    ),
    (
        "internal",
        "Something went wrong on our side; the log knows it by `request_id`.",
    ),
    (
        "invalid_body",
        "The body does not follow its schema; `errors` names the fields.",
    ),
    (
        "invalid_credentials",
        "The e-mail address or the password is not right.",
    ),
    (
        "invalid_cursor",
        "The cursor does not come from `next_cursor` of this list.",
    ),
    ("invalid_event", "The webhook's body is no Stripe event."),
    (
        "invalid_json",
        "The body is not usable JSON: malformed, a key given twice, nested too deeply, or with U+0000 in a text.",
    ),
    (
        "invalid_parameter",
        "A parameter or header does not follow its schema; `errors` names it.",
    ),
    (
        "invalid_query",
        "GraphQL: the query cannot be read, or does not fit the schema; `errors` names the argument if it is one.",
    ),
    (
        "invalid_refresh_token",
        "The refresh token is unknown, or its session has ended; sign in again.",
    ),
    (
        "invalid_signature",
        "The webhook's signature is missing, malformed or wrong.",
    ),
    ("invalid_text", "A text contains a character that cannot be stored."),
    (
        "invalid_token",
        "The access token is not valid, or its session has ended; sign in again.",
    ),
    (
        "method_not_allowed",
        "The path does not know the method; see the Allow header.",
    ),
    ("not_found", "There is no such thing, or it is not yours to know of."),
    ("not_payable", "The booking's state takes no payment."),
    (
        "nothing_to_ask",
        "Operators: the job has done nothing at Stripe about which one could ask there.",
    ),
    (
        "open_bookings",
        "Bookings as guest or host are open; an account cannot be deleted before they end.",
    ),
    (
        "outcome_uncertain",
        "The database went away before it said whether the change was done: repeat the request with its Idempotency-Key.",
    ),
    (
        "overloaded",
        "Too many requests of this kind are waiting; try again after Retry-After.",
    ),
    (
        "own_case",
        "Moderators decide about nothing that they wrote, or that was written about them.",
    ),
    ("own_property", "Hosts do not book their own properties."),
    ("own_review", "Nobody reports what they wrote themselves."),
    ("property_archived", "An archived property cannot be changed."),
    (
        "query_too_complex",
        "GraphQL: the request asks for more than one may; ask for fewer fields or shorter pages.",
    ),
    ("query_too_deep", "GraphQL: fields are nested deeper than they may be."),
    (
        "quote_expired",
        "The quote is older than 15 minutes; ask for a new one.",
    ),
    ("quote_invalid", "The quote token was not made here."),
    (
        "quote_mismatch",
        "The quote is for another property, stay or number of guests.",
    ),
    (
        "rate_limited",
        "Too many requests from one place; try again after Retry-After.",
    ),
    (
        "redis_unavailable",
        "Sign-in does not work for the moment; try again after Retry-After.",
    ),
    (
        "refresh_token_reused",
        "The refresh token was spent before, so its session has been ended; sign in again.",
    ),
    ("review_published", "The review is public and stays as it is."),
    (
        "review_window_closed",
        "The 14 days after check-out are over, or both sides have written; `closed_at` says when the time ends or ended.",
    ),
    (
        "search_too_slow",
        "Operators: the database gave the search up; narrow it by kind, state or time.",
    ),
    (
        "stale_signature",
        "The webhook was signed too long ago, or in the future.",
    ),
    (
        "stay_over",
        "The day of departure has come; what belongs before or into the stay cannot be done any more.",
    ),
    ("stays_host", "A host does not become a guest again."),
    (
        "timeout",
        "The request took too long and was given up; what it changed is uncertain, so repeat it with its Idempotency-Key.",
    ),
    ("token_expired", "The access token has expired: POST /auth/refresh."),
    ("too_early", "The time for this has not come; `from` says when it does."),
    ("too_many_aliases", "GraphQL: more fields have another name than may."),
    ("unauthorized", "An access token is needed: Authorization: Bearer …"),
    (
        "unsubscribe_token_invalid",
        "The token is not that of a link in a mail of ours.",
    ),
    (
        "unsupported_media_type",
        "The body must be sent as Content-Type: application/json.",
    ),
    (
        "validation_failed",
        "The request is understood, but what it says is wrong; `errors` names the fields.",
    ),
    (
        "verification_invalid",
        "The verification token is unknown, was used before, or has expired.",
    ),
    (
        "version_mismatch",
        "If-Match names another version than the current one: read it again.",
    ),
    ("wrong_password", "The current password is not right."),
    (
        "wrong_state",
        "The booking's state does not allow this; `state` says which it is.",
    ),
];

/// What a code means.
#[must_use]
pub fn meaning(code: &str) -> Option<&'static str> {
    PROBLEMS
        .iter()
        .find(|(known, _)| *known == code)
        .map(|(_, meaning)| *meaning)
}

/// The page that `type` of a problem refers to.
#[handler]
pub fn page(Path(code): Path<String>) -> Response {
    match meaning(&code) {
        Some(meaning) => Response::builder()
            .content_type("application/json")
            .header("cache-control", "public, max-age=3600")
            .body(json!({"code": code, "meaning": meaning}).to_string()),
        None => ApiError::not_found("problem").into_response(),
    }
}

/// The chapter of the OpenAPI document's description.
#[must_use]
pub fn chapter() -> String {
    let mut text = "\n## Codes of problems\n\n| `code` | Meaning |\n| --- | --- |\n".to_owned();
    for (code, meaning) in PROBLEMS {
        text.push_str(&format!("| `{code}` | {meaning} |\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::PROBLEMS;

    #[test]
    fn codes_are_told_once_and_in_order() {
        let codes: Vec<&str> = PROBLEMS.iter().map(|(code, _)| *code).collect();
        let mut sorted = codes.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(codes, sorted);
    }
}
