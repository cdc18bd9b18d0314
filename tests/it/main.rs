//! The integration tests, one binary: one link, services started once.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "every function here is part of a test"
)]

mod engine;
mod jobs;
mod kill;
mod mail;
mod mailbox;
mod search_plans;
mod seed;
mod stripe_sandbox;
