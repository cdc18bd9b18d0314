//! What operators did, looked for by who, what, to which thing and when; and whether the log is as it was written.

use askama::Template;
use chrono::{DateTime, Utc};
use poem::web::Data;
use poem::{Response, handler};
use roost_shared::jobs::bulk;
use roost_shared::operators::audit::checks::{self, Standing};
use roost_shared::operators::audit::{self, AuditFilter, Verdict, Written};

use super::access::Signed;
use super::fault::Fault;
use super::filter::{Bound, bound};
use super::params::Params;
use super::shell::{Shell, html};
use super::view::{count, when};
use crate::state::AppState;

const PAGE: i64 = 50;
/// Entries whose hashes are computed whenever the page is shown; all others by a job, `audit.verify`.
pub(super) const CHECKED: i64 = 20_000;

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
    /// The entries that are told under this one.
    unfolds: Option<String>,
    reason: Option<String>,
    hash: String,
}

impl Row {
    fn of(entry: Written, now: DateTime<Utc>) -> Self {
        let began = bulk::begins(&entry.action);
        Self {
            href: match entry.job_id {
                Some(job) => Some(format!("/ops/jobs/{job}")),
                None if bulk::is_target_of(&entry.action) => Some(format!("/ops/bulk/{}", entry.target)),
                None => None,
            },
            unfolds: began.then(|| format!("/ops/audit?bulk={}", entry.target)),
            seq: entry.seq,
            at: when(entry.at, now).to_string(),
            before: entry.before.as_ref().map(ToString::to_string),
            bulk_href: entry.bulk().map(|bulk| format!("/ops/bulk/{bulk}")),
            after: entry.after.as_ref().map(ToString::to_string),
            actor: entry.actor,
            action: entry.action,
            target: entry.target,
            reason: entry.reason,
            hash: entry.hash.chars().take(12).collect(),
        }
    }
}

#[derive(Template)]
#[template(path = "ops/audit.html")]
struct Page {
    shell: Shell,
    rows: Vec<Row>,
    /// As they were written.
    actor: String,
    action: String,
    target: String,
    from: Bound,
    to: Bound,
    bulk: Option<String>,
    filtered: bool,
    refusal: Option<String>,
    older: Option<String>,
    whole: bool,
    verdict: String,
    /// What the job found that checks all of it.
    standing: String,
}

fn read(params: &Params) -> Result<AuditFilter, Fault> {
    let text = |name: &str| params.get(name).map(str::to_owned);
    let filter = AuditFilter {
        actor: text("actor"),
        action: text("action"),
        target: text("target"),
        from: bound(params, "from")?,
        to: bound(params, "to")?,
        bulk: params.parsed("bulk")?,
    };
    filter.check()?;
    Ok(filter)
}

/// The next page of the same search.
fn older(params: &Params, last: i64) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for name in ["actor", "action", "target", "from", "to", "bulk"] {
        if let Some(value) = params.get(name) {
            query.append_pair(name, value);
        }
    }
    query.append_pair("before", &last.to_string());
    format!("/ops/audit?{}", query.finish())
}

#[handler]
pub async fn page(state: Data<&AppState>, signed: Signed, params: Params) -> Result<Response, Fault> {
    let pool = state.db.pool();
    let now = state.clock.now();
    let before = params.parsed("before")?;
    // What makes no sense is told above an empty list, with the search as it was written.
    let (filter, refusal) = match read(&params) {
        Ok(filter) => (filter, None),
        Err(Fault::Bad(message)) => (AuditFilter::default(), Some(message)),
        Err(fault) => return Err(fault),
    };
    let entries = if refusal.is_none() {
        audit::find(pool, &filter, before, PAGE).await?
    } else {
        Vec::new()
    };
    let standing = checks::standing(pool).await?;
    let (whole, verdict) = told(&audit::verify(pool, Some(CHECKED)).await?);
    let full = i64::try_from(entries.len()).is_ok_and(|rows| rows == PAGE);
    let written = |name: &str| params.get(name).unwrap_or_default().to_owned();
    html(&Page {
        shell: Shell::new(&signed, "audit", "Audit"),
        actor: written("actor"),
        action: written("action"),
        target: written("target"),
        from: Bound::of(params.get("from")),
        to: Bound::of(params.get("to")),
        bulk: filter.bulk.map(|bulk| bulk.to_string()),
        filtered: !filter.is_empty() || refusal.is_some(),
        refusal,
        older: entries.last().filter(|_| full).map(|last| older(&params, last.seq)),
        rows: entries.into_iter().map(|entry| Row::of(entry, now)).collect(),
        whole: whole && standing.broken_seq.is_none(),
        verdict,
        standing: stood(&standing, now),
    })
}

/// What the job found, in HTML: its age is renewed by the page's script.
fn stood(standing: &Standing, now: DateTime<Utc>) -> String {
    let Some(at) = standing.checked_at else {
        return "No worker has checked all of it yet: see the schedule audit.verify.".to_owned();
    };
    let at = when(at, now);
    if let Some(seq) = standing.broken_seq {
        return format!("A worker checked it {at}: entry {seq} is not as it was written, or one before it.");
    }
    let whole = match standing.whole_at {
        Some(whole_at) => format!("; all of them last from the first on, {}", when(whole_at, now)),
        None => String::new(),
    };
    let sealed = if standing.sealed { " and sealed" } else { ", not sealed" };
    let entries = count(standing.checked_seq);
    format!("A worker checked it {at}: whole up to entry {entries}{sealed}{whole}.")
}

/// Whether the newest entries are whole, and in words.
fn told(verdict: &Verdict) -> (bool, String) {
    match *verdict {
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
    }
}
