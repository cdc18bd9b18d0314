//! Chance that falls the same way each time.

use chrono::{DateTime, Utc};
use rand::{Rng, RngCore, SeedableRng, rngs::StdRng};
use uuid::Uuid;

/// A generator with a fixed seed.
pub struct Dice(StdRng);

impl Dice {
    pub fn new() -> Self {
        Self(StdRng::seed_from_u64(0x0052_6f6f_7374))
    }

    /// A number from `low` to `high`, both included.
    pub fn among(&mut self, low: i64, high: i64) -> i64 {
        self.0.random_range(low..=high)
    }

    /// True this often in a hundred.
    pub fn percent(&mut self, chance: i64) -> bool {
        self.among(1, 100) <= chance
    }

    /// Somewhere from `low` to `high`.
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        self.0.random_range(low..=high)
    }

    /// One of them; none of none.
    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        if all.is_empty() {
            return None;
        }
        all.get(self.0.random_range(0..all.len()))
    }

    /// A UUIDv7 of that instant.
    pub fn id(&mut self, at: DateTime<Utc>) -> Uuid {
        let mut random = [0; 10];
        self.0.fill_bytes(&mut random);
        let millis = u64::try_from(at.timestamp_millis()).unwrap_or(0);
        uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
    }

    /// An id as Stripe writes them.
    pub fn stripe_id(&mut self, prefix: &str) -> String {
        let mut random = [0; 12];
        self.0.fill_bytes(&mut random);
        format!("{prefix}_{}", hex::encode(random))
    }
}
