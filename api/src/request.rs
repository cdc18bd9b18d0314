//! The id of the request at hand, from anywhere in its task.

use poem::http::HeaderName;

/// Carries the id, both ways.
pub const HEADER: HeaderName = HeaderName::from_static("x-request-id");

tokio::task_local! {
    static ID: String;
}

/// The id of the running request; empty outside one.
#[must_use]
pub fn current_id() -> String {
    ID.try_with(Clone::clone).unwrap_or_default()
}

/// Runs `work` as the request `id`.
pub async fn scope<F: Future>(id: String, work: F) -> F::Output {
    ID.scope(id, work).await
}

/// Whether a client's id may stand in our logs and replies: short, and nothing but letters, digits and `-_.:`.
#[must_use]
pub fn is_sane(id: &str) -> bool {
    (1..=64).contains(&id.len())
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
}
