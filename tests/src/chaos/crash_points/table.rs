//! What was found, as a table: a row a kind of job, a column a boundary.

use std::{collections::BTreeMap, fmt::Write as _};

use roost_shared::jobs::crash_point::Boundary;

use super::{super::Verdict, kinds, plan::Cell};

const HEAD: &str = "# Crash points

In each cell a worker died once, of a job that it was running; the cell says how that job ended. Where a kind makes calls to
others, the call is named. Which boundaries a kind has was not written down but seen: all kinds ran undisturbed first, and
every boundary that any job came to, then or later, has to have had its death. A dash: no job of the kind came to such a
boundary.

- before-intent: the job is claimed, the attempt has written nothing.
- after-intent: that the call is going to be made is committed, nothing was sent.
- after-call: the other side has answered, nothing of that is written.
- before-step: in a transaction that does not end the job, before its commit: which PaymentIntent a payment has, that a card
  is being released, that a stray PaymentIntent is cancelled, the token of a verification, a batch of an operator's action.
  After its commit nothing is written before the next boundary: after-intent of the call that follows, or before-commit.
- before-commit: the end of the job is not committed. In `stays.complete` and `outbox.prune` their batches are.
- before-ack: the end is committed, the worker does not know it.

Three kinds release cards of themselves: `payment.authorize` where the guest calls the booking off before the card was
asked, `payment.capture` where the bank does not pay what it had reserved, `stripe.event.handle` where a PaymentIntent is
nobody's.
";

/// How the job ended that took its worker down, by kind and boundary.
pub struct Matrix {
    pub(super) ends: BTreeMap<Cell, String>,
    pub verdict: Verdict,
}

impl Matrix {
    /// The cells that are not as they should be.
    pub fn wrong(&self) -> Vec<String> {
        let wrong = self.ends.iter().filter(|(_, end)| *end != "succeeded");
        wrong.map(|(cell, end)| format!("{cell}: {end}")).collect()
    }

    /// A table in Markdown.
    pub fn table(&self) -> String {
        let names = Boundary::NAMES;
        let mut text = format!("{HEAD}\n");
        let _ = writeln!(
            text,
            "| Kind | {} |\n| --- |{}",
            names.join(" | "),
            " --- |".repeat(names.len())
        );
        for kind in kinds() {
            let cells = names.map(|name| self.cell(&kind, name));
            let _ = writeln!(text, "| `{kind}` | {} |", cells.join(" | "));
        }
        let broken = &self.verdict.violations;
        let _ = writeln!(
            text,
            "\n{} cells, {} crashes, {} jobs, {} lost, {} doubled. Violations: {}.",
            self.ends.len(),
            self.verdict.faults,
            self.verdict.jobs,
            self.verdict.lost,
            self.verdict.duplicated,
            if broken.is_empty() {
                "none".to_owned()
            } else {
                broken.join("; ")
            }
        );
        text
    }

    fn cell(&self, kind: &str, boundary: &str) -> String {
        let ends = self.ends.iter();
        let ends = ends.filter(|(cell, _)| cell.kind == kind && cell.boundary == boundary);
        let told: Vec<String> = ends
            .map(|(cell, end)| match &cell.call {
                Some(call) => format!("{call}: {end}"),
                None => end.clone(),
            })
            .collect();
        if told.is_empty() {
            "–".to_owned()
        } else {
            told.join(", ")
        }
    }
}
