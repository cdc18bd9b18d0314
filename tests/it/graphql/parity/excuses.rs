//! What one of the two has and the other lacks, by name and with the reason. An excuse that excuses nothing is a fault.

use std::cell::RefCell;
use std::collections::BTreeSet;

/// A list of excuses, and which of them were needed.
pub struct Excuses {
    list: &'static [(&'static str, &'static str)],
    needed: RefCell<BTreeSet<&'static str>>,
}

impl Excuses {
    pub fn new(list: &'static [(&'static str, &'static str)]) -> Self {
        let names: BTreeSet<&str> = list.iter().map(|(name, _)| *name).collect();
        assert_eq!(names.len(), list.len(), "something is excused twice");
        assert!(
            list.iter().all(|(_, reason)| !reason.is_empty()),
            "an excuse needs a reason"
        );
        Self {
            list,
            needed: RefCell::default(),
        }
    }

    /// Whether this is excused, which it was needed for.
    pub fn excuse(&self, name: &str) -> bool {
        let known = self.list.iter().find(|(excused, _)| *excused == name);
        self.needed.borrow_mut().extend(known.map(|(excused, _)| *excused));
        known.is_some()
    }

    /// What was excused and need not be.
    pub fn stale(&self) -> Vec<String> {
        let needed = self.needed.borrow();
        let stale = self.list.iter().filter(|(name, _)| !needed.contains(name));
        stale
            .map(|(name, _)| format!("{name} is excused, and need not be"))
            .collect()
    }
}
