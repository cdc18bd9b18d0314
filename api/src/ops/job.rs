//! One job: what it is, what became of it, what running it again would do. And the flight recorder of a booking.

use askama::Template;
use chrono::{DateTime, TimeDelta, Utc};
use poem::web::{Data, Path};
use poem::{Response, handler};
use roost_shared::jobs::actions::JobAction;
use roost_shared::jobs::batches::Batch;
use roost_shared::jobs::inspect::{self, JobDetail, Relative};
use roost_shared::jobs::inspections::Inspection;
use roost_shared::jobs::kinds;
use roost_shared::jobs::recorder::{self, Flight};
use roost_shared::jobs::{JobState, Outlook};
use roost_shared::operators::audit::{self, Written};
use uuid::Uuid;

use super::access::Signed;
use super::acting::EDITOR;
use super::fault::Fault;
use super::params::Params;
use super::shell::{Shell, html};
use super::view::{count, most_attempts, span, when};
use crate::state::AppState;

struct AttemptRow {
    number: i32,
    outcome: String,
    worker: String,
    began: String,
    took: String,
    error: Option<String>,
}

struct EffectRow {
    key: String,
    state: String,
    meaning: &'static str,
    external_id: Option<String>,
    error: Option<String>,
    sent: String,
    updated: String,
}

/// A page looks for an answer of Stripe for so long.
const ANSWERED_WITHIN: TimeDelta = TimeDelta::minutes(2);

/// What Stripe was asked about an effect.
struct AnswerRow {
    key: String,
    /// When it answered; when it was asked, while it has not.
    at: String,
    by: String,
    /// None: it has not answered yet.
    words: Option<String>,
    failed: bool,
    /// An attempt has run since.
    outdated: bool,
    /// The page looks again.
    awaited: bool,
}

impl AnswerRow {
    fn of(inspection: &Inspection, outdated: bool, now: DateTime<Utc>) -> Self {
        Self {
            key: inspection.effect_key.clone(),
            at: when(inspection.answered_at.unwrap_or(inspection.asked_at), now).to_string(),
            by: inspection.asked_by.clone(),
            words: inspection.words(),
            failed: inspection.error.is_some(),
            outdated,
            awaited: inspection.answered_at.is_none() && now - inspection.asked_at < ANSWERED_WITHIN,
        }
    }
}

/// A moment of the flight recorder.
struct MomentRow {
    when: String,
    source: &'static str,
    title: String,
    detail: String,
    bad: bool,
    job_id: Option<String>,
    /// Since the moment before, where that is long enough to matter.
    gap: Option<String>,
}

struct Recorder {
    booking_id: String,
    state: String,
    stay: String,
    total: String,
    moments: Vec<MomentRow>,
}

impl Recorder {
    fn of(flight: &Flight, now: DateTime<Utc>) -> Self {
        let mut last: Option<DateTime<Utc>> = None;
        let moments = flight
            .moments
            .iter()
            .map(|moment| {
                let gap = last.map(|last| (moment.at - last).num_milliseconds() as f64 / 1000.0);
                last = Some(moment.at);
                MomentRow {
                    when: when(moment.at, now).to_string(),
                    source: moment.source.name(),
                    title: moment.title.clone(),
                    detail: moment.detail.clone(),
                    bad: moment.bad,
                    job_id: moment.job_id.map(|id| id.to_string()),
                    gap: gap.filter(|gap| *gap >= 1.0).map(span),
                }
            })
            .collect();
        Self {
            booking_id: flight.booking_id.to_string(),
            state: flight.state.clone(),
            stay: flight.stay.clone(),
            total: flight.total.format("en"),
            moments,
        }
    }
}

struct AuditRow {
    seq: i64,
    at: String,
    actor: String,
    action: String,
    reason: Option<String>,
}

struct RelativeRow {
    id: String,
    kind: String,
    state: String,
}

impl From<&Relative> for RelativeRow {
    fn from(job: &Relative) -> Self {
        Self {
            id: job.id.to_string(),
            kind: job.kind.clone(),
            state: job.state.clone(),
        }
    }
}

/// A batch that the job is one of, or comes after.
struct BatchRow {
    id: String,
    role: &'static str,
    total: String,
    ended: i64,
    of: i64,
    done: String,
    failed: String,
    after_id: Option<String>,
    after_kind: String,
}

impl BatchRow {
    fn of(batch: &Batch, role: &'static str) -> Self {
        Self {
            id: batch.id.to_string(),
            role,
            total: count(batch.total),
            ended: batch.done + batch.failed,
            of: batch.total.max(1),
            done: count(batch.done),
            failed: count(batch.failed),
            after_id: batch.finished_at.map(|_| batch.after_id.to_string()),
            after_kind: batch.after_kind.clone(),
        }
    }
}

#[derive(Template)]
#[template(path = "ops/job.html")]
struct Page {
    shell: Shell,
    id: String,
    kind: String,
    about: Option<&'static str>,
    queue: String,
    state: String,
    /// It has not ended: the page keeps itself fresh.
    open: bool,
    stopping: bool,
    last_error: Option<String>,
    facts: Vec<(&'static str, String)>,
    args: String,
    raw_args: Option<String>,
    outlook: Vec<Outlook>,
    attempts: Vec<AttemptRow>,
    /// How many there are, if not all are shown; of the children as well.
    attempts_of: Option<String>,
    children_of: Option<String>,
    effects: Vec<EffectRow>,
    answers: Vec<AnswerRow>,
    awaits_answer: bool,
    recorder: Option<Recorder>,
    audit: Vec<AuditRow>,
    parent: Option<RelativeRow>,
    children: Vec<RelativeRow>,
    batches: Vec<BatchRow>,
    moves_money: bool,
    can_ask: bool,
    can_retry: bool,
    can_run: bool,
    can_cancel: bool,
    can_delete: bool,
    can_edit: bool,
}

#[handler]
pub async fn page(
    state: Data<&AppState>,
    signed: Signed,
    Path(id): Path<String>,
    params: Params,
) -> Result<Response, Fault> {
    let id: Uuid = id.parse().map_err(|_| Fault::NotFound("job"))?;
    let pool = state.db.pool();
    let detail = inspect::inspect(pool, id).await?.ok_or(Fault::NotFound("job"))?;
    let flight = match detail.booking_id {
        Some(booking_id) => recorder::flight(pool, booking_id).await?,
        None => None,
    };
    let audit = audit::of_job(pool, id).await?;
    let shell = Shell::new(&signed, "jobs", format!("{} {}", detail.job.kind, detail.job.state));
    let now = state.clock.now();
    html(&Page::of(
        shell.with_notice(params.get("notice")),
        detail,
        flight.as_ref(),
        &audit,
        now,
    )?)
}

impl Page {
    fn of(
        shell: Shell,
        detail: JobDetail,
        flight: Option<&Flight>,
        audit: &[Written],
        now: DateTime<Utc>,
    ) -> Result<Self, Fault> {
        let job = &detail.job;
        let fits = |action: JobAction| action.fits(&job.state);
        let (operates, admins) = (shell.may_operate(), shell.may_admin());
        let answers = answers(&detail, now);
        let can_edit = shell.may(EDITOR) && job.is_editable();
        Ok(Self {
            facts: facts(&detail, now),
            args: pretty(&kinds::masked(&job.kind, &job.args))?,
            raw_args: if can_edit { Some(pretty(&job.args)?) } else { None },
            about: kinds::kind(&job.kind).map(|kind| kind.about),
            moves_money: kinds::moves_money(&job.kind),
            can_ask: operates && detail.can_be_asked_about(),
            can_retry: operates && fits(JobAction::Retry),
            can_run: operates && fits(JobAction::RunNow),
            can_cancel: operates && fits(JobAction::Cancel) && !job.cancel_requested,
            can_delete: admins && fits(JobAction::Delete),
            can_edit,
            id: job.id.to_string(),
            kind: job.kind.clone(),
            queue: job.queue.clone(),
            state: job.state.clone(),
            open: JobState::by_name(&job.state).is_some_and(JobState::is_open),
            stopping: job.cancel_requested && job.state == "running",
            last_error: job.last_error.clone(),
            attempts: attempts(&detail, now),
            attempts_of: beyond(detail.attempts.len(), detail.attempts_total),
            children_of: beyond(detail.children.len(), detail.children_total),
            effects: effects(&detail, now),
            awaits_answer: answers.iter().any(|answer| answer.awaited),
            answers,
            recorder: flight.map(|flight| Recorder::of(flight, now)),
            audit: audit
                .iter()
                .map(|entry| AuditRow {
                    seq: entry.seq,
                    at: when(entry.at, now).to_string(),
                    actor: entry.actor.clone(),
                    action: entry.action.clone(),
                    reason: entry.reason.clone(),
                })
                .collect(),
            parent: detail.parent.as_ref().map(RelativeRow::from),
            children: detail.children.iter().map(RelativeRow::from).collect(),
            batches: detail
                .batch
                .iter()
                .map(|batch| BatchRow::of(batch, "one of"))
                .chain(detail.follows.iter().map(|batch| BatchRow::of(batch, "after")))
                .collect(),
            outlook: detail.outlook,
            shell,
        })
    }
}

/// How many there are, where not all are shown.
fn beyond(shown: usize, total: i64) -> Option<String> {
    i64::try_from(shown)
        .is_ok_and(|shown| shown < total)
        .then(|| count(total))
}

fn pretty(value: &serde_json::Value) -> Result<String, Fault> {
    serde_json::to_string_pretty(value).map_err(Fault::internal)
}

/// What is known, as safe HTML: texts that a job brought are escaped.
fn facts(detail: &JobDetail, now: DateTime<Utc>) -> Vec<(&'static str, String)> {
    let job = &detail.job;
    let text = |text: &str| askama::filters::escape(text, askama::filters::Html).map(|safe| safe.to_string());
    let text = |value: &str| text(value).unwrap_or_default();
    let time = |at: Option<DateTime<Utc>>| at.map(|at| when(at, now).to_string());
    let waits = matches!(job.state.as_str(), "scheduled" | "retrying" | "queued");
    let facts = [
        (
            "Attempts",
            Some(format!("{} of {}", job.attempt, most_attempts(job.max_attempts))),
        ),
        ("Enqueued", time(Some(job.created_at))),
        ("Due", time(Some(job.run_at).filter(|_| waits))),
        ("Began", time(job.started_at)),
        ("Ended", time(job.finished_at)),
        (
            "In Redis since",
            time(job.published_at.filter(|_| job.state == "queued")),
        ),
        ("Worker", job.lease_owner.as_deref().map(text)),
        ("Lease until", time(job.lease_until.filter(|_| job.state == "running"))),
        ("Progress", job.progress.map(|progress| format!("{progress} %"))),
        (
            "Workers lost",
            (job.crash_count > 0).then(|| job.crash_count.to_string()),
        ),
        ("Priority", Some(job.priority.to_string())),
        ("Dedupe key", job.dedupe_key.as_deref().map(text)),
        ("Trace", job.trace_id().map(text)),
        ("Asked by user", job.actor.as_deref().map(text)),
    ];
    facts
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
}

fn attempts(detail: &JobDetail, now: DateTime<Utc>) -> Vec<AttemptRow> {
    detail
        .attempts
        .iter()
        .map(|attempt| AttemptRow {
            number: attempt.attempt,
            outcome: attempt.outcome.clone(),
            worker: attempt.worker.clone(),
            began: when(attempt.started_at, now).to_string(),
            took: span((attempt.ended_at - attempt.started_at).num_microseconds().unwrap_or(0) as f64 / 1e6),
            error: attempt.error.clone(),
        })
        .collect()
}

fn effects(detail: &JobDetail, now: DateTime<Utc>) -> Vec<EffectRow> {
    detail
        .effects
        .iter()
        .map(|effect| EffectRow {
            key: effect.key.clone(),
            meaning: match effect.state.as_str() {
                "done" => "It happened, once.",
                "failed" => "It was refused; nothing happened.",
                "unknown" => "It was asked for, and the answer never came.",
                _ => "It was about to be asked for.",
            },
            state: effect.state.clone(),
            external_id: effect.external_id.clone(),
            error: effect.error.clone(),
            sent: when(effect.first_sent_at, now).to_string(),
            updated: when(effect.updated_at, now).to_string(),
        })
        .collect()
}

fn answers(detail: &JobDetail, now: DateTime<Utc>) -> Vec<AnswerRow> {
    let effects = detail.effects.iter();
    effects
        .filter_map(|effect| {
            let inspection = detail.inspection_of(effect)?;
            let outdated = inspection.facts.is_some() && inspection.answer_on(effect).is_none();
            Some(AnswerRow::of(inspection, outdated, now))
        })
        .collect()
}

#[derive(Template)]
#[template(path = "ops/flight.html")]
struct FlightPage {
    shell: Shell,
    recorder: Recorder,
}

#[handler]
pub async fn flight_page(state: Data<&AppState>, signed: Signed, Path(id): Path<String>) -> Result<Response, Fault> {
    let id: Uuid = id.parse().map_err(|_| Fault::NotFound("booking"))?;
    let flight = recorder::flight(state.db.pool(), id)
        .await?
        .ok_or(Fault::NotFound("booking"))?;
    html(&FlightPage {
        shell: Shell::new(&signed, "jobs", format!("Booking {id}")),
        recorder: Recorder::of(&flight, state.clock.now()),
    })
}
