//! Places at which the tests have a worker die, to see that what it leaves behind comes to the same end. A release build
//! has none: [`reach`] is empty there.
//!
//! `ROOST_CRASH_PLAN` names a folder. Each boundary that a job gets to is noted there, as the file
//! `reached/KIND@BOUNDARY`. Once the folder has a file `armed`, the first job at each of them aborts the process:
//! `taken/KIND@BOUNDARY` says that it is done, `died/JOB` where the job was. No job does it twice.

use std::fmt;

#[cfg(not(debug_assertions))]
use uuid::Uuid;

/// Between two of them something has become known to somebody else. A job may make several calls: they are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boundary {
    /// Claimed; nothing of the attempt is written.
    BeforeIntent,
    /// The intent of this call is committed, nothing was sent.
    AfterIntent(&'static str),
    /// The other side has answered this call, nobody has written it down.
    AfterCall(&'static str),
    /// What does not end the job is written and not committed: which PaymentIntent it is, that a card is being released.
    BeforeStep,
    /// All is written and not committed.
    BeforeCommit,
    /// The end is committed, the worker does not know yet.
    BeforeAck,
}

impl Boundary {
    /// The names of all, in the order of an attempt.
    pub const NAMES: [&'static str; 6] = [
        "before-intent",
        "after-intent",
        "after-call",
        "before-step",
        "before-commit",
        "before-ack",
    ];

    /// What it is called, without the call.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BeforeIntent => "before-intent",
            Self::AfterIntent(_) => "after-intent",
            Self::AfterCall(_) => "after-call",
            Self::BeforeStep => "before-step",
            Self::BeforeCommit => "before-commit",
            Self::BeforeAck => "before-ack",
        }
    }
}

impl fmt::Display for Boundary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::AfterIntent(call) | Self::AfterCall(call) => write!(f, ":{call}"),
            _ => Ok(()),
        }
    }
}

/// Tells the kind of a job that begins an attempt.
#[cfg(not(debug_assertions))]
pub const fn begin(_: Uuid, _: &str) {}

/// Dies here if it is the first time.
#[cfg(not(debug_assertions))]
pub const fn reach(_: Uuid, _: Boundary) {}

#[cfg(debug_assertions)]
pub use armed::{begin, reach};

#[cfg(debug_assertions)]
mod armed {
    use std::collections::{HashMap, HashSet};
    use std::fs::{self, File};
    use std::path::PathBuf;
    use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

    use uuid::Uuid;

    use super::Boundary;

    static PLAN: LazyLock<Option<PathBuf>> = LazyLock::new(|| std::env::var_os("ROOST_CRASH_PLAN").map(PathBuf::from));
    static SEEN: LazyLock<Mutex<Seen>> = LazyLock::new(Mutex::default);

    #[derive(Default)]
    struct Seen {
        kinds: HashMap<Uuid, String>,
        noted: HashSet<String>,
    }

    fn seen() -> MutexGuard<'static, Seen> {
        SEEN.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the kind of a job that begins an attempt.
    pub fn begin(job: Uuid, kind: &str) {
        if PLAN.is_some() {
            seen().kinds.insert(job, kind.to_owned());
        }
        reach(job, Boundary::BeforeIntent);
    }

    /// Dies here if it is the first time.
    pub fn reach(job: Uuid, boundary: Boundary) {
        let Some(plan) = &*PLAN else { return };
        // Held to the end, or another job's death comes between the two files.
        let mut seen = seen();
        let Some(kind) = seen.kinds.get(&job) else { return };
        let cell = format!("{kind}@{boundary}");
        if !seen.noted.contains(&cell) && fs::write(plan.join("reached").join(&cell), "").is_ok() {
            seen.noted.insert(cell.clone());
        }
        let died = plan.join("died").join(job.to_string());
        if !plan.join("armed").exists() || died.exists() {
            return;
        }
        if File::create_new(plan.join("taken").join(&cell)).is_ok() && fs::write(died, cell).is_ok() {
            std::process::abort();
        }
    }
}
