//! What operators did, and whether the log is as it was written.

use askama::Template;
use poem::web::Data;
use poem::{Response, handler};
use roost_shared::operators::audit::{self, Verdict};

use super::access::Signed;
use super::fault::Fault;
use super::params::Params;
use super::shell::{Shell, html};
use super::view::{count, when};
use crate::state::AppState;

const PAGE: i64 = 50;
/// Entries whose hashes are computed whenever the page is shown; more only when somebody asks for all.
const CHECKED: i64 = 20_000;

struct Row {
    seq: i64,
    at: String,
    actor: String,
    action: String,
    target: String,
    job_id: Option<String>,
    before: Option<String>,
    after: Option<String>,
    reason: Option<String>,
    hash: String,
}

#[derive(Template)]
#[template(path = "ops/audit.html")]
struct Page {
    shell: Shell,
    rows: Vec<Row>,
    older: Option<i64>,
    whole: bool,
    verdict: String,
    /// Whether there are older ones that were not looked at.
    partly: bool,
}

#[handler]
pub async fn page(state: Data<&AppState>, signed: Signed, params: Params) -> Result<Response, Fault> {
    let pool = state.db.pool();
    let now = state.clock.now();
    let entries = audit::list(pool, params.parsed("before")?, PAGE).await?;
    let wanted = if params.get("check").is_some() {
        None
    } else {
        Some(CHECKED)
    };
    let verdict = audit::verify(pool, wanted).await?;
    let partly = matches!(verdict, Verdict::Whole { since, .. } if since > 1);
    let (whole, verdict) = match verdict {
        Verdict::Whole { entries, since } if since > 1 => (
            true,
            format!(
                "The newest {} of {} entries are as they were written.",
                count(entries + 1 - since),
                count(entries)
            ),
        ),
        Verdict::Whole { entries: 1, .. } => (true, "The one entry is as it was written.".to_owned()),
        Verdict::Whole { entries, .. } => (
            true,
            format!("All {} entries are as they were written.", count(entries)),
        ),
        Verdict::Broken { seq } => (
            false,
            format!("Entry {seq} is not as it was written, or is missing. What comes after it cannot be trusted."),
        ),
    };
    let full = i64::try_from(entries.len()).is_ok_and(|rows| rows == PAGE);
    html(&Page {
        shell: Shell::new(&signed, "audit", "Audit"),
        older: entries.last().filter(|_| full).map(|last| last.seq),
        rows: entries
            .into_iter()
            .map(|entry| Row {
                seq: entry.seq,
                at: when(entry.at, now).to_string(),
                actor: entry.actor,
                action: entry.action,
                target: entry.target,
                job_id: entry.job_id.map(|id| id.to_string()),
                before: entry.before.map(|value| value.to_string()),
                after: entry.after.map(|value| value.to_string()),
                reason: entry.reason,
                hash: entry.hash.chars().take(12).collect(),
            })
            .collect(),
        whole,
        verdict,
        partly,
    })
}
