//! The resources, one file each: what they look like on the wire, their operations, and how their refusals read.

pub mod auth;
pub mod booking_events;
pub mod bookings;
pub mod health;
pub mod messages;
mod mirror;
pub mod notifications;
pub mod payments;
pub mod prices;
pub mod properties;
pub mod quotes;
pub mod reviews;
mod several;
pub mod stripe_webhook;
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
    /// Listing places to stay, finding one, and what a stay costs
    Properties,
    /// From the request to the end of the stay
    Bookings,
    /// Cards, and what was taken and paid back
    Payments,
    /// What guests say of stays and hosts of guests
    Reviews,
    /// What you were told, and how you want to be told
    Notifications,
    /// For Stripe, not for you
    Webhooks,
    /// Whether this process is alive and ready
    Health,
}
