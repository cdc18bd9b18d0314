//! One measured figure: a JSON line for machines, a row of the table for people.

use serde::Serialize;

/// What a target says of a figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// The ratio to the limit is so much or more.
    RatioAtLeast(f64),
    /// The value is so much or more.
    AtLeast(f64),
    /// The value is so much or less.
    AtMost(f64),
}

/// A value, the limit that was measured beside it, and whether the target is met.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figure {
    pub figure: &'static str,
    pub value: f64,
    pub unit: &'static str,
    /// What the value is held against.
    pub limit: Option<&'static str>,
    pub limit_value: Option<f64>,
    /// Value by limit.
    pub ratio: Option<f64>,
    /// In words; none when the figure is for information.
    pub target: Option<String>,
    pub ok: Option<bool>,
    /// Requests, jobs or samples in all rounds.
    pub n: u64,
    pub notes: String,
}

impl Figure {
    pub fn new(figure: &'static str, value: f64, unit: &'static str, n: u64) -> Self {
        Self {
            figure,
            value: rounded(value),
            unit,
            n,
            ..Self::default()
        }
    }

    /// Holds the value against a limit measured in the same run.
    pub fn against(mut self, limit: &'static str, value: f64) -> Self {
        self.limit = Some(limit);
        self.limit_value = Some(rounded(value));
        self.ratio = (value > 0.0).then(|| (self.value / value * 1000.0).round() / 1000.0);
        self
    }

    pub fn target(mut self, target: Target) -> Self {
        let (words, ok) = match target {
            Target::RatioAtLeast(least) => (
                format!("ratio ≥ {least}"),
                self.ratio.is_some_and(|ratio| ratio >= least),
            ),
            Target::AtLeast(least) => (format!("≥ {least} {}", self.unit), self.value >= least),
            Target::AtMost(most) => (format!("≤ {most} {}", self.unit), self.value <= most),
        };
        self.target = Some(words);
        self.ok = Some(ok);
        self
    }

    pub fn note(mut self, note: impl AsRef<str>) -> Self {
        if !self.notes.is_empty() {
            self.notes.push_str("; ");
        }
        self.notes.push_str(note.as_ref());
        self
    }
}

fn rounded(value: f64) -> f64 {
    let digits = if value.abs() >= 100.0 { 1.0 } else { 1000.0 };
    (value * digits).round() / digits
}

/// The figures of a run, printed as they come.
#[derive(Debug, Default)]
pub struct Report {
    figures: Vec<Figure>,
}

impl Report {
    pub fn add(&mut self, figure: Figure) -> anyhow::Result<()> {
        println!("{}", serde_json::to_string(&figure)?);
        self.figures.push(figure);
        Ok(())
    }

    /// Whether no figure missed its target.
    pub fn all_met(&self) -> bool {
        self.figures.iter().all(|figure| figure.ok != Some(false))
    }

    /// The table for people.
    pub fn table(&self) -> String {
        let mut rows = vec![["figure", "value", "limit", "ratio", "target", ""].map(str::to_owned)];
        for figure in &self.figures {
            let limit = figure
                .limit
                .zip(figure.limit_value)
                .map(|(limit, value)| format!("{value} {limit}"));
            rows.push([
                figure.figure.to_owned(),
                format!("{} {}", figure.value, figure.unit),
                limit.unwrap_or_default(),
                figure.ratio.map(|ratio| ratio.to_string()).unwrap_or_default(),
                figure.target.clone().unwrap_or_default(),
                figure.ok.map_or("", |ok| if ok { "met" } else { "MISSED" }).to_owned(),
            ]);
        }
        let widths: Vec<usize> = (0..6)
            .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
            .collect();
        let mut table = String::new();
        for row in rows {
            let cells: Vec<String> = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:width$}"))
                .collect();
            table.push_str(cells.join("  ").trim_end());
            table.push('\n');
        }
        table
    }
}

/// The middle of the rounds.
pub fn median(values: &[f64]) -> f64 {
    percentile(values, 0.5)
}

/// The value that a share of all is not above.
pub fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(
            (median(&values), percentile(&values, 0.99), percentile(&values, 1.0)),
            (50.0, 99.0, 100.0)
        );
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[]), 0.0);
    }

    #[test]
    fn a_target_is_met_or_missed() {
        let figure = Figure::new("detail", 50.0, "requests/s", 1).against("bare", 100.0);
        assert_eq!(figure.clone().target(Target::RatioAtLeast(0.4)).ok, Some(true));
        assert_eq!(figure.clone().target(Target::RatioAtLeast(0.6)).ok, Some(false));
        assert_eq!(figure.clone().target(Target::AtMost(49.0)).ok, Some(false));
        assert_eq!(figure.clone().target(Target::AtLeast(50.0)).ok, Some(true));
        assert_eq!(figure.clone().target(Target::AtLeast(51.0)).ok, Some(false));
        assert_eq!(figure.ok, None);
    }
}
