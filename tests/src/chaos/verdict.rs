//! What a scenario found: one JSON line.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::bench::figure::percentile;

/// How many times longer than promised something may take. Debug builds are for machines with other work to do: there a limit
/// is only clear of what would last for ever.
const PATIENCE: f64 = if cfg!(debug_assertions) { 5.0 } else { 1.0 };

/// How long it took from a fault to the effect that it was in the way of, in milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Recovery {
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

/// The outcome of one scenario.
#[derive(Debug, Serialize)]
pub struct Verdict {
    pub scenario: String,
    pub seed: u64,
    /// Jobs that came to a good end.
    pub jobs: u64,
    /// Faults that were done: kills, stops, cut connections, answers spoilt.
    pub faults: u64,
    /// What was promised and is not there.
    pub lost: u64,
    /// What took effect more often than once.
    pub duplicated: u64,
    /// Every broken promise in words, losses and duplicates included.
    pub violations: Vec<String>,
    pub recovery_ms: Recovery,
    pub seconds: f64,
    /// What else was measured, told on standard error.
    #[serde(skip)]
    pub figures: BTreeMap<&'static str, f64>,
    #[serde(skip)]
    began: Instant,
}

impl Verdict {
    pub fn new(scenario: &str, seed: u64) -> Self {
        Self {
            scenario: scenario.to_owned(),
            seed,
            jobs: 0,
            faults: 0,
            lost: 0,
            duplicated: 0,
            violations: Vec::new(),
            recovery_ms: Recovery::default(),
            seconds: 0.0,
            figures: BTreeMap::new(),
            began: Instant::now(),
        }
    }

    /// Notes a violation unless this holds.
    pub fn require(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.violations.push(otherwise());
        }
    }

    /// Counts what is missing.
    pub fn lose(&mut self, count: u64, what: &str) {
        self.lost += count;
        self.require(count == 0, || format!("{count} lost: {what}"));
    }

    /// Counts what is there too often.
    pub fn double(&mut self, count: u64, what: &str) {
        self.duplicated += count;
        self.require(count == 0, || format!("{count} doubled: {what}"));
    }

    /// Notes a violation if this took more milliseconds than promised, with the [`PATIENCE`] that this build has.
    pub fn in_time(&mut self, took: f64, limit: f64, what: &str) {
        self.require(took <= limit * PATIENCE, || {
            format!("{what} took {took:.0} ms, more than {limit:.0} ms")
        });
    }

    /// Takes times of recovery in milliseconds; none of them may be above `limit` ([`Self::in_time`]). There must be some:
    /// a fault that was in nothing's way shows nothing.
    pub fn recovered(&mut self, times: &[f64], limit: f64) {
        self.require(!times.is_empty(), || {
            "nothing had to recover from any fault: this proves nothing".to_owned()
        });
        self.recovery_ms = Recovery {
            p50: percentile(times, 0.5).round(),
            p99: percentile(times, 0.99).round(),
            max: percentile(times, 1.0).round(),
        };
        self.in_time(self.recovery_ms.max, limit, "the slowest recovery");
    }

    /// Adds a figure, to a tenth.
    pub fn figure(&mut self, name: &'static str, value: f64) {
        self.figures.insert(name, (value * 10.0).round() / 10.0);
    }

    /// Stops the clock. `limit`: how long all of it may have taken. Debug builds, on machines with other work to do, only
    /// tell when it took longer.
    #[must_use]
    pub fn finished(mut self, limit: Option<Duration>) -> Self {
        let took = self.began.elapsed();
        self.seconds = (took.as_secs_f64() * 10.0).round() / 10.0;
        if let Some(limit) = limit.filter(|limit| took > *limit) {
            let late = format!("it took {took:.1?}, longer than {limit:?}");
            if cfg!(debug_assertions) {
                eprintln!("{}: {late}", self.scenario);
            } else {
                self.violations.push(late);
            }
        }
        self
    }

    /// The figures on one line.
    pub fn figures(&self) -> String {
        let figures = self.figures.iter().map(|(name, value)| format!("{name} {value}"));
        figures.collect::<Vec<_>>().join(", ")
    }

    pub fn is_clean(&self) -> bool {
        self.violations.is_empty()
    }
}
