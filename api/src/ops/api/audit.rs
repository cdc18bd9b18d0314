//! What happened: the audit log of operators, and the flight recorder of a booking.

use chrono::{DateTime, Utc};
use poem_openapi::param::{Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};
use roost_shared::jobs::recorder;
use roost_shared::operators::audit::checks;
use roost_shared::operators::audit::{self, AuditFilter, Verdict, Written};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{DEFAULT_LIMIT, OpsAuth};
use crate::error::{ApiError, ApiResult};
use crate::ops::audit::CHECKED;
use crate::rest::bookings::objects::{example_id, example_instant};
use crate::state::AppState;

/// The operations.
pub struct AuditApi(pub AppState);

/// An entry of the audit log
#[derive(Object)]
#[oai(example)]
pub(super) struct AuditView {
    seq: i64,
    at: DateTime<Utc>,
    actor: String,
    action: String,
    target: String,
    before: Option<Value>,
    after: Option<Value>,
    reason: Option<String>,
    hash: String,
}

impl Example for AuditView {
    fn example() -> Self {
        Self {
            seq: 7,
            at: example_instant(),
            actor: "ada@ops.example.com".to_owned(),
            action: "queue.pause".to_owned(),
            target: "payments".to_owned(),
            before: Some(json!({"paused": false})),
            after: Some(json!({"paused": true})),
            reason: Some("Stripe is away".to_owned()),
            hash: "9f2c41d07b1e".to_owned(),
        }
    }
}

impl From<Written> for AuditView {
    fn from(entry: Written) -> Self {
        Self {
            seq: entry.seq,
            at: entry.at,
            actor: entry.actor,
            action: entry.action,
            target: entry.target,
            before: entry.before,
            after: entry.after,
            reason: entry.reason,
            hash: entry.hash,
        }
    }
}

/// Whether the audit log is as it was written
#[derive(Object)]
#[oai(example)]
struct VerdictView {
    whole: bool,
    entries: Option<i64>,
    /// The first entry that is not as it was written, or is missing
    broken_at: Option<i64>,
    /// The first entry that was looked at just now; those before it were by the job `audit.verify`
    since: Option<i64>,
    /// When that job last looked
    checked_at: Option<DateTime<Utc>>,
    /// Up to here it found the log whole
    checked_up_to: i64,
    /// Whether that is sealed
    sealed: bool,
}

impl Example for VerdictView {
    fn example() -> Self {
        Self {
            whole: true,
            entries: Some(7),
            broken_at: None,
            since: Some(1),
            checked_at: Some(example_instant()),
            checked_up_to: 6,
            sealed: true,
        }
    }
}

/// Something that happened to a booking
#[derive(Object)]
struct MomentView {
    at: DateTime<Utc>,
    /// `booking`, `job`, `webhook`, `effect`, `ledger` or `operator`
    source: String,
    title: String,
    detail: String,
    /// Whether it went wrong or was refused
    bad: bool,
    job_id: Option<Uuid>,
}

/// What happened to a booking
#[derive(Object)]
#[oai(example)]
struct FlightView {
    booking_id: Uuid,
    /// The booking's state
    state: String,
    /// `2030-06-01 to 2030-06-04`
    stay: String,
    /// What the guest pays, in minor units
    total_minor: i64,
    /// ISO 4217
    currency: String,
    /// The oldest first
    moments: Vec<MomentView>,
}

impl Example for FlightView {
    fn example() -> Self {
        Self {
            booking_id: example_id(2),
            state: "confirmed".to_owned(),
            stay: "2030-06-01 to 2030-06-04".to_owned(),
            total_minor: 35_840,
            currency: "EUR".to_owned(),
            moments: vec![MomentView {
                at: example_instant(),
                source: "job".to_owned(),
                title: "payment.capture succeeded".to_owned(),
                detail: "attempt 1".to_owned(),
                bad: false,
                job_id: Some(example_id(1)),
            }],
        }
    }
}

#[OpenApi]
impl AuditApi {
    /// What operators did, the newest first
    ///
    /// What an action on many jobs did to each of them is left out, unless `bulk` or `target` asks for it: its entry
    /// `jobs.bulk` stands for it.
    #[oai(path = "/audit", method = "get", operation_id = "ops_audit")]
    #[allow(clippy::too_many_arguments, reason = "each is a parameter of the URL")]
    async fn audit(
        &self,
        _auth: OpsAuth,
        /// By this operator: the e-mail address, or `cli:` and the user of a terminal
        actor: Query<Option<String>>,
        /// `job.retry`, `queue.pause` …
        action: Query<Option<String>>,
        /// To the job of this id, or to the queue, kind, worker, schedule or operator of this name
        target: Query<Option<String>>,
        /// Written at or after
        from: Query<Option<DateTime<Utc>>>,
        /// Written before
        to: Query<Option<DateTime<Utc>>>,
        /// Part of this action on many jobs
        bulk: Query<Option<Uuid>>,
        /// Entries before this one
        before: Query<Option<i64>>,
        /// 1 to 200, 50 if it is not given
        #[oai(validator(minimum(value = "1"), maximum(value = "200")))]
        limit: Query<Option<i64>>,
    ) -> ApiResult<Json<Vec<AuditView>>> {
        let filter = AuditFilter {
            actor: actor.0,
            action: action.0,
            target: target.0,
            from: from.0,
            to: to.0,
            bulk: bulk.0,
        };
        let limit = limit.0.unwrap_or(DEFAULT_LIMIT);
        let entries = audit::find(self.0.db.pool(), &filter, before.0, limit).await?;
        Ok(Json(entries.into_iter().map(AuditView::from).collect()))
    }

    /// Whether the audit log is as it was written
    ///
    /// The newest 20,000 entries are computed now; all of them, a piece at a time, by the job `audit.verify`.
    #[oai(path = "/audit/verify", method = "get", operation_id = "ops_verify_audit")]
    async fn verify(&self, _auth: OpsAuth) -> ApiResult<Json<VerdictView>> {
        let standing = checks::standing(self.0.db.pool()).await?;
        let (entries, since, broken) = match audit::verify(self.0.db.pool(), Some(CHECKED)).await? {
            Verdict::Whole { entries, since } => (Some(entries), Some(since), standing.broken_seq),
            Verdict::Broken { seq } => (None, None, Some(seq)),
        };
        Ok(Json(VerdictView {
            whole: broken.is_none(),
            entries,
            broken_at: broken,
            since,
            checked_at: standing.checked_at,
            checked_up_to: standing.checked_seq,
            sealed: standing.sealed,
        }))
    }

    /// What happened to a booking: transitions, jobs and their failed attempts, what operators did, webhooks, effects, money
    ///
    /// The newest 200 of each; where there are older ones, a moment before them says so.
    #[oai(path = "/bookings/:booking_id/flight", method = "get", operation_id = "ops_flight")]
    async fn flight(&self, _auth: OpsAuth, booking_id: Path<Uuid>) -> ApiResult<Json<FlightView>> {
        let flight = recorder::flight(self.0.db.pool(), booking_id.0)
            .await?
            .ok_or_else(|| ApiError::not_found("booking"))?;
        let moments = flight.moments.into_iter().map(|moment| MomentView {
            at: moment.at,
            source: moment.source.name().to_owned(),
            title: moment.title,
            detail: moment.detail,
            bad: moment.bad,
            job_id: moment.job_id,
        });
        Ok(Json(FlightView {
            booking_id: flight.booking_id,
            state: flight.state,
            stay: flight.stay,
            total_minor: flight.total.minor,
            currency: flight.total.currency.code().to_owned(),
            moments: moments.collect(),
        }))
    }
}
