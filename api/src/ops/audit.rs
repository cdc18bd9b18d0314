//! What operators did, and whether the log is as it was written.

use askama::Template;
use poem::web::Data;
use poem::{Response, handler};
use roost_shared::jobs::bulk;
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
    /// The page of what was acted on, where it has one.
    href: Option<String>,
    before: Option<String>,
    after: Option<String>,
    /// The page of the bulk action that a job's entry is part of.
    bulk_href: Option<String>,
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
                href: match entry.job_id {
                    Some(job) => Some(format!("/ops/jobs/{job}")),
                    None if bulk::is_target_of(&entry.action) => Some(format!("/ops/bulk/{}", entry.target)),
                    None => None,
                },
                seq: entry.seq,
                at: when(entry.at, now).to_string(),
                actor: entry.actor,
                action: entry.action,
                target: entry.target,
                before: entry.before.map(|value| value.to_string()),
                bulk_href: entry
                    .after
                    .as_ref()
                    .and_then(|after| after["bulk"].as_str())
                    .map(|bulk| format!("/ops/bulk/{bulk}")),
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
