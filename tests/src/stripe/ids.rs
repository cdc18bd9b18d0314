//! Object ids in Stripe's form: a prefix that tells the kind, then random letters and digits.

use rand::distr::{Alphanumeric, SampleString};

/// A new id such as `pi_3Q9…`, `ch_…` or `evt_…`.
pub(super) fn new_id(prefix: &str) -> String {
    format!("{prefix}_{}", random(24))
}

/// Random letters and digits.
pub(super) fn random(length: usize) -> String {
    Alphanumeric.sample_string(&mut rand::rng(), length)
}
