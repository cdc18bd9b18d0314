//! The sandbox's clock: the machine's time plus an offset that tests move forward.
//!
//! It decides when authorisations lapse, idempotency keys are pruned and balances become
//! available. Webhook signatures use the machine's time, because the receiver compares them
//! with its own clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A shared clock in whole seconds since the Unix epoch.
#[derive(Clone, Debug, Default)]
pub struct SandboxClock {
    offset_seconds: Arc<AtomicI64>,
}

impl SandboxClock {
    /// Seconds since the Unix epoch, as the sandbox sees them.
    #[must_use]
    pub fn now(&self) -> i64 {
        machine_millis() / 1000 + self.offset_seconds.load(Ordering::SeqCst)
    }

    /// Moves the clock forward; it never goes back.
    pub fn advance(&self, by: Duration) {
        let seconds = i64::try_from(by.as_secs()).unwrap_or(i64::MAX / 4);
        self.offset_seconds.fetch_add(seconds, Ordering::SeqCst);
    }

    /// Puts the offset back to zero, when the sandbox forgets everything.
    pub(super) fn reset(&self) {
        self.offset_seconds.store(0, Ordering::SeqCst);
    }
}

/// The machine's time in milliseconds since the Unix epoch, for signatures and logs.
#[allow(
    clippy::disallowed_methods,
    reason = "a sandbox's own clock moves apart from the machine's"
)]
pub(super) fn machine_millis() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX))
}
