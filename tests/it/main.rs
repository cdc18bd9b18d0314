//! The integration tests, one binary: one link, services started once.

#![recursion_limit = "256"]
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "every function here is part of a test"
)]

mod auth;
mod bad_input_bookings;
mod bench_transaction;
mod booking_wait;
mod bookings;
mod chaos;
mod connections;
mod crash_points;
mod engine;
mod engine_batches;
mod engine_leases;
mod engine_limits;
mod engine_model;
mod engine_observed;
mod engine_redis;
mod engine_settings;
mod engine_states;
mod graphql;
mod healthcheck;
mod http_edge;
mod jobs;
mod kill;
mod leaving;
mod mail;
mod mail_tls;
mod mailbox;
mod make_run;
mod messages;
mod money;
mod no_show;
mod notifications;
mod openapi;
mod ops;
mod ops_browser;
mod ops_settings;
mod payments;
mod programs;
mod properties;
mod property_cache;
mod property_search;
mod published;
mod quotes;
mod readme;
mod rehearsal;
mod reviews;
mod search_plans;
mod seed;
mod stays;
mod stripe_sandbox;
mod traces;
mod uncertain;
mod users;
mod webhooks;
