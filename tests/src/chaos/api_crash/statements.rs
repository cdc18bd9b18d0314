//! The statements of the transaction that books, as one undisturbed booking showed them, and at which of them the API has
//! died.

use std::{collections::BTreeMap, fmt, sync::Arc};

use anyhow::{Context as _, Result, ensure};

use super::super::{
    Verdict,
    market::{Asked, Market},
    proxy::{Edge, Hit, Sent, Verb},
    testbed::Testbed,
};

const BEGIN: &str = "BEGIN";
const COMMIT: &str = "COMMIT";
/// Every booking stands and falls with these, by what they are known by.
const NAMED: [(&str, &str); 4] = [
    (BEGIN, BEGIN),
    ("the booking", "INSERT INTO bookings "),
    ("its jobs", "INSERT INTO jobs "),
    (COMMIT, COMMIT),
];

/// What the API has died at.
pub(super) struct Coverage {
    /// From BEGIN to COMMIT.
    steps: Arc<[Arc<str>]>,
    /// How often, at which statement.
    hits: BTreeMap<(usize, Edge), u32>,
    /// The same, at messages that are none of these.
    elsewhere: u32,
}

impl Coverage {
    /// Watches a booking that nothing happens to.
    pub async fn of_one_booking(testbed: &Testbed, market: &Market, asked: &mut Vec<Asked>) -> Result<Self> {
        let number = asked.len();
        testbed.api_postgres_proxy.record();
        asked.push(market.ask(number, market.wish(number)).await?);
        let sent = testbed.api_postgres_proxy.recorded();
        let run: Vec<&Sent> = sent.iter().filter(|sent| sent.verb == Verb::Run).collect();
        // Any BEGIN is taken for its own, so there must be no other.
        let begun = run.iter().filter(|sent| &*sent.sql == BEGIN).count();
        ensure!(begun == 1, "a booking began {begun} transactions");
        let commit = run.iter().find(|sent| &*sent.sql == COMMIT);
        let commit = commit.context("a booking committed nothing")?;
        let mut steps = commit.transaction.clone();
        steps.push(Arc::clone(&commit.sql));
        for (name, known_by) in NAMED {
            let found = steps.iter().filter(|sql| sql.contains(known_by)).count();
            ensure!(found == 1, "{found} statements of a booking are {name}");
        }
        Ok(Self {
            steps: steps.into(),
            hits: BTreeMap::new(),
            elsewhere: 0,
        })
    }

    /// The statements at which the API has to have died on both sides: all, or the named ones.
    pub fn wanted(&self, all: bool) -> Vec<usize> {
        let steps = self.steps.iter().enumerate();
        let wanted = steps.filter(|(_, sql)| all || name(sql).is_some());
        wanted.map(|(step, _)| step).collect()
    }

    /// Whether a message runs this statement of a booking's transaction.
    pub fn is_at(&self, step: usize) -> impl Fn(&Sent) -> bool + Send + Sync + 'static {
        let steps = Arc::clone(&self.steps);
        move |sent| step_of(&steps, sent) == Some(step)
    }

    /// Notes what the API died at. Whether the booking is committed there: it is not yet known of a message that is none of its
    /// transaction's.
    pub fn note(&mut self, hit: &Hit) -> Option<bool> {
        let Some(step) = hit.sent.iter().find_map(|sent| step_of(&self.steps, sent)) else {
            self.elsewhere += 1;
            return None;
        };
        *self.hits.entry((step, hit.edge)).or_default() += 1;
        Some(step + 1 == self.steps.len() && hit.edge == Edge::After)
    }

    /// Each statement that is wanted was hit on both sides.
    pub fn look(&self, all: bool, verdict: &mut Verdict) {
        for step in self.wanted(all) {
            for edge in [Edge::Before, Edge::After] {
                verdict.require(self.times(step, edge) > 0, || {
                    format!("the API never died {edge:?} {}", self.title(step))
                });
            }
        }
    }

    fn times(&self, step: usize, edge: Edge) -> u32 {
        self.hits.get(&(step, edge)).copied().unwrap_or(0)
    }

    fn title(&self, step: usize) -> String {
        let sql = self.steps.get(step).map_or("", |sql| sql);
        let title = name(sql).map(str::to_owned);
        title.unwrap_or_else(|| sql.split(' ').take(3).collect::<Vec<_>>().join(" ") + " …")
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in 0..self.steps.len() {
            let (before, after) = (self.times(step, Edge::Before), self.times(step, Edge::After));
            write!(f, "{} {before}/{after}, ", self.title(step))?;
        }
        write!(f, "other messages {}", self.elsewhere)
    }
}

/// Which statement of the transaction a message runs: by its text, and by all that came before it.
fn step_of(steps: &[Arc<str>], sent: &Sent) -> Option<usize> {
    let step = sent.transaction.len();
    let is_it = sent.verb == Verb::Run && steps.get(step) == Some(&sent.sql) && steps.starts_with(&sent.transaction);
    is_it.then_some(step)
}

fn name(sql: &str) -> Option<&'static str> {
    let found = NAMED.iter().find(|(_, known_by)| sql.contains(known_by));
    found.map(|(name, _)| *name)
}
