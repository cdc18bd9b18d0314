//! What the tests and the development commands stand on.
//!
//! [`app`]: the API and people who use it. [`ops`]: the job dashboard and its operators, [`browser`]: a window to look at it. [`services`]: private servers. [`database`]: a database for each test, [`statements`]: what is run in it, [`stars`]: whether its sums are exact. [`dev`]: the commands behind the Makefile,
//! which fill a database with [`seed`] and show a booking with [`demo`]. [`mailbox`]: where mail goes. [`stripe`]: the
//! Stripe that the worker talks to. [`bench`]: speed and size. [`chaos`]: what is left when everything breaks.

pub mod app;
pub mod bench;
pub mod browser;
pub mod chaos;
pub mod database;
pub mod demo;
pub mod dev;
pub mod mailbox;
pub mod ops;
pub mod seed;
pub mod services;
pub mod stars;
pub mod statements;
pub mod stripe;
pub mod world;
