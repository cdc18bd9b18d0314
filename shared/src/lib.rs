//! What the API and the worker must agree on.
//!
//! Ground: [`clock`], [`ids`], [`locale`], [`money`], [`config`], [`telemetry`], [`db`], [`redis`].
//! Background work: [`jobs`]. The outside: [`stripe`].
//! The domain, one module a resource: [`users`], [`sessions`], [`tokens`], [`properties`], [`bookings`], [`payments`], [`ledger`],
//! [`reviews`], [`messages`], [`notifications`]. Who runs it: [`operators`].

pub mod bookings;
pub mod clock;
pub mod config;
pub mod db;
pub mod ids;
pub mod jobs;
pub mod ledger;
pub mod locale;
pub mod messages;
pub mod money;
pub mod notifications;
pub mod operators;
pub mod payments;
pub mod properties;
pub mod redis;
pub mod reviews;
pub mod sessions;
pub mod stripe;
pub mod telemetry;
pub mod tokens;
pub mod users;
