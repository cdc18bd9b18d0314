//! What hosts let: the listings, what a stay costs and which stays are taken.
//!
//! [`terms`] is what a booking needs to know of a property, read under a lock. Pure rules: [`pricing`], [`stay`],
//! [`quote`].

pub mod pricing;
pub mod quote;
pub mod stay;
pub mod terms;

pub use terms::{CancellationPolicy, PropertyStatus, PropertyTerms, lock_terms};

#[cfg(test)]
pub(crate) use terms::terms_for_tests;
