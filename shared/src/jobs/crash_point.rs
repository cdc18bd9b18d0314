//! Places at which the tests have a worker die, to see that what it leaves behind comes to the same end. A release build
//! has none: [`reach`] is empty there.
//!
//! The plan is a folder, named by `ROOST_CRASH_PLAN`. A file `KIND@BOUNDARY` in it has the first job of that kind that
//! gets there abort the process. The file is taken away before, and `JOB` says where it was, so no job does it twice.

#[cfg(not(debug_assertions))]
use uuid::Uuid;

/// Between two of them something has become known to somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boundary {
    /// Claimed; nothing of the attempt is written.
    BeforeIntent,
    /// The intent of a call is committed, nothing was sent.
    AfterIntent,
    /// The other side has answered, nobody has written it down.
    AfterCall,
    /// All is written and not committed.
    BeforeCommit,
    /// The end is committed, the worker does not know yet.
    BeforeAck,
}

impl Boundary {
    /// All, in the order of an attempt.
    pub const ALL: [Self; 5] = [
        Self::BeforeIntent,
        Self::AfterIntent,
        Self::AfterCall,
        Self::BeforeCommit,
        Self::BeforeAck,
    ];

    /// Its name in a plan.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BeforeIntent => "before-intent",
            Self::AfterIntent => "after-intent",
            Self::AfterCall => "after-call",
            Self::BeforeCommit => "before-commit",
            Self::BeforeAck => "before-ack",
        }
    }
}

/// Tells the kind of a job that begins an attempt.
#[cfg(not(debug_assertions))]
pub const fn begin(_: Uuid, _: &str) {}

/// Dies here if that is planned.
#[cfg(not(debug_assertions))]
pub const fn reach(_: Uuid, _: Boundary) {}

#[cfg(debug_assertions)]
pub use armed::{begin, reach};

#[cfg(debug_assertions)]
mod armed {
    use std::collections::HashMap;
    use std::fs;
    use std::path::PathBuf;
    use std::sync::{LazyLock, Mutex, PoisonError};

    use uuid::Uuid;

    use super::Boundary;

    static PLAN: LazyLock<Option<PathBuf>> = LazyLock::new(|| std::env::var_os("ROOST_CRASH_PLAN").map(PathBuf::from));
    static KINDS: LazyLock<Mutex<HashMap<Uuid, String>>> = LazyLock::new(Mutex::default);

    /// Tells the kind of a job that begins an attempt.
    pub fn begin(job: Uuid, kind: &str) {
        if PLAN.is_some() {
            let mut kinds = KINDS.lock().unwrap_or_else(PoisonError::into_inner);
            kinds.insert(job, kind.to_owned());
        }
        reach(job, Boundary::BeforeIntent);
    }

    /// Dies here if that is planned.
    pub fn reach(job: Uuid, boundary: Boundary) {
        let Some(plan) = &*PLAN else { return };
        // Held to the end, or another job's death comes between the two files.
        let kinds = KINDS.lock().unwrap_or_else(PoisonError::into_inner);
        let (Some(kind), false) = (kinds.get(&job), plan.join(job.to_string()).exists()) else {
            return;
        };
        let cell = format!("{kind}@{}", boundary.name());
        if fs::remove_file(plan.join(&cell)).is_ok() && fs::write(plan.join(job.to_string()), cell).is_ok() {
            std::process::abort();
        }
    }
}
