//! What the demo prints: a line a step with the time it took, and a sum at the end.

use std::{
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

/// Prints and counts steps.
pub struct Stage<'a, W> {
    out: &'a mut W,
    colours: bool,
    begun: Instant,
    observed: usize,
    skipped: usize,
}

impl<'a, W: Write> Stage<'a, W> {
    /// Coloured when standard output is a terminal that has not been told otherwise.
    pub fn new(out: &'a mut W) -> Self {
        Self {
            out,
            colours: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
            begun: Instant::now(),
            observed: 0,
            skipped: 0,
        }
    }

    /// Does one step and says how long it took and what came of it. One that fails says what was seen instead.
    pub async fn step<T>(&mut self, what: &str, work: impl AsyncFnOnce() -> Result<(T, String)>) -> Result<T> {
        let begun = Instant::now();
        match work().await {
            Ok((value, facts)) => {
                self.observed += 1;
                self.line(Mark::Seen, what, Some(begun.elapsed()), &facts)?;
                Ok(value)
            }
            Err(error) => {
                self.line(Mark::Missed, what, Some(begun.elapsed()), &format!("{error:#}"))?;
                Err(error).with_context(|| format!("step \"{what}\""))
            }
        }
    }

    /// Says that a step cannot be observed here, and why.
    pub fn skip(&mut self, what: &str, why: &str) -> Result<()> {
        self.skipped += 1;
        self.line(Mark::Skipped, what, None, &format!("not observed: {why}"))
    }

    /// The sum of it all. Returns how many steps could not be observed.
    pub fn close(&mut self, facts: &str) -> Result<usize> {
        let skipped = match self.skipped {
            0 => String::new(),
            skipped => format!(", {skipped} not observable here"),
        };
        writeln!(
            self.out,
            "\n  {} steps observed{skipped}, {} ms in all: {facts}.",
            self.observed,
            self.begun.elapsed().as_millis()
        )?;
        self.out.flush()?;
        Ok(self.skipped)
    }

    fn line(&mut self, mark: Mark, what: &str, took: Option<Duration>, facts: &str) -> Result<()> {
        let took = took.map(|took| format!("{} ms", took.as_millis())).unwrap_or_default();
        if self.colours {
            let (sign, colour) = match mark {
                Mark::Seen => ("✓", 32),
                Mark::Skipped => ("–", 33),
                Mark::Missed => ("✗", 31),
            };
            writeln!(
                self.out,
                "  \x1b[{colour}m{sign}\x1b[0m {what:<33}{took:>8}  \x1b[2m{facts}\x1b[0m"
            )?;
        } else {
            let sign = match mark {
                Mark::Seen => "ok",
                Mark::Skipped => "--",
                Mark::Missed => "NO",
            };
            writeln!(self.out, "  {sign} {what:<33}{took:>8}  {facts}")?;
        }
        Ok(self.out.flush()?)
    }
}

#[derive(Clone, Copy)]
enum Mark {
    Seen,
    Skipped,
    Missed,
}
