//! The folder in which workers note where they get to and where they die; see [`roost_shared::jobs::crash_point`].

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use roost_shared::jobs::crash_point::Boundary;
use uuid::Uuid;

use super::kinds;

/// Boundaries that every attempt has, whatever its kind does.
const OF_EVERY_KIND: [Boundary; 3] = [Boundary::BeforeIntent, Boundary::BeforeCommit, Boundary::BeforeAck];
/// Where jobs have to come although they often, or in the ordinary course of things, do not. See [`super::supply`] and
/// [`super::given_up`].
const SELDOM: [(&str, Boundary); 5] = [
    ("payment.authorize", Boundary::AfterCall("void")),
    ("payment.capture", Boundary::AfterCall("void")),
    // Not where the authorisation has released the card.
    ("payment.void", Boundary::AfterCall("void")),
    ("stripe.event.handle", Boundary::AfterCall("void")),
    ("mail.send", Boundary::BeforeStep),
];

/// A boundary of a kind of job.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cell {
    pub kind: String,
    /// Its name, without the call.
    pub boundary: String,
    /// Which call it is at, if it is at one.
    pub call: Option<String>,
}

impl Cell {
    fn of(kind: &str, boundary: Boundary) -> Result<Self> {
        Self::parse(&format!("{kind}@{boundary}"))
    }

    fn parse(text: &str) -> Result<Self> {
        let (kind, place) = text.split_once('@').context("no boundary")?;
        let (boundary, call) = match place.split_once(':') {
            Some((boundary, call)) => (boundary, Some(call.to_owned())),
            None => (place, None),
        };
        Ok(Self {
            kind: kind.to_owned(),
            boundary: boundary.to_owned(),
            call,
        })
    }

    /// Whether it is at the release of a card.
    pub fn releases(&self) -> bool {
        self.call.as_deref() == Some("void")
    }

    /// Whether it is this boundary, of whichever kind and call.
    pub fn is(&self, boundary: Boundary) -> bool {
        self.boundary == boundary.name()
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.kind, self.boundary)?;
        self.call.iter().try_for_each(|call| write!(f, ":{call}"))
    }
}

/// The folder.
pub(super) struct Plan(PathBuf);

impl Plan {
    /// Nobody dies yet.
    pub fn make(folder: &Path) -> Result<Self> {
        for part in ["reached", "taken", "died"] {
            fs::create_dir_all(folder.join(part))?;
        }
        Ok(Self(folder.to_owned()))
    }

    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// From now on the first job at each boundary takes its worker down.
    pub fn arm(&self) -> Result<()> {
        Ok(fs::write(self.0.join("armed"), "")?)
    }

    /// The boundaries that any job came to.
    pub fn reached(&self) -> Result<BTreeSet<Cell>> {
        names(&self.0.join("reached"))?
            .iter()
            .map(|name| Cell::parse(name))
            .collect()
    }

    /// Which job died where.
    pub fn died(&self) -> Result<BTreeMap<Cell, Uuid>> {
        let folder = self.0.join("died");
        let mut died = BTreeMap::new();
        for name in names(&folder)? {
            let cell = fs::read_to_string(folder.join(&name))?;
            // Its worker is just writing it.
            if cell.is_empty() {
                continue;
            }
            died.insert(Cell::parse(&cell)?, name.parse()?);
        }
        Ok(died)
    }

    /// Where a job comes if all kinds run, and none has come yet.
    pub fn unseen(&self) -> Result<BTreeSet<Cell>> {
        let reached = self.reached()?;
        let mut expected = BTreeSet::new();
        for kind in kinds() {
            for boundary in OF_EVERY_KIND {
                expected.insert(Cell::of(&kind, boundary)?);
            }
        }
        for (kind, boundary) in SELDOM {
            expected.insert(Cell::of(kind, boundary)?);
        }
        Ok(expected.difference(&reached).cloned().collect())
    }

    /// Where jobs came, and no worker has died yet.
    pub fn survived(&self) -> Result<BTreeSet<Cell>> {
        let died = self.died()?;
        let reached = self.reached()?.into_iter();
        Ok(reached.filter(|cell| !died.contains_key(cell)).collect())
    }
}

fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(folder)?;
    entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect()
}
