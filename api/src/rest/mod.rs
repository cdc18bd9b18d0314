//! The resources, one file each: what they look like on the wire, their operations, and how their refusals read.

pub mod auth;
pub mod health;
pub mod users;

use poem_openapi::Tags;

/// The chapters of the OpenAPI document.
#[derive(Tags)]
pub enum Tag {
    /// Accounts and profiles
    Users,
    /// Signing in and out, refreshing tokens, proving an e-mail address
    #[oai(rename = "Authentication")]
    Auth,
    /// Whether this process is alive and ready
    Health,
}
