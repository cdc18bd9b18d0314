//! What the tests and the development commands stand on: private servers, a database per test, the demo's parts.

pub mod database;
pub mod services;
