//! What a job did to the world, and what Stripe was asked about it.

use chrono::{DateTime, Utc};
use poem_openapi::Object;
use roost_shared::jobs::inspect::{Effect, JobDetail};
use serde_json::Value;

/// Something that the job did, or may have done, to the world
#[derive(Object)]
pub(super) struct EffectView {
    key: String,
    /// `intent`, `done`, `unknown` or `failed`
    state: String,
    external_id: Option<String>,
    error: Option<String>,
    first_sent_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    /// What Stripe was asked about it last
    inspection: Option<InspectionView>,
}

impl EffectView {
    pub(super) fn of(effect: &Effect, detail: &JobDetail) -> Self {
        let inspection = detail.inspection_of(effect).map(|inspection| InspectionView {
            asked_at: inspection.asked_at,
            asked_by: inspection.asked_by.clone(),
            answered_at: inspection.answered_at,
            answer: inspection.words(),
            facts: inspection
                .facts
                .as_ref()
                .and_then(|facts| serde_json::to_value(facts).ok()),
            holds: inspection.answer_on(effect).is_some(),
        });
        Self {
            key: effect.key.clone(),
            state: effect.state.clone(),
            external_id: effect.external_id.clone(),
            error: effect.error.clone(),
            first_sent_at: effect.first_sent_at,
            updated_at: effect.updated_at,
            inspection,
        }
    }
}

/// A question to Stripe about an effect
#[derive(Object)]
struct InspectionView {
    asked_at: DateTime<Utc>,
    asked_by: String,
    /// None while nobody has looked
    answered_at: Option<DateTime<Utc>>,
    /// In words; also why Stripe could not be asked
    answer: Option<String>,
    /// The object as it was at Stripe: `object`, `id`, `status`, amounts in minor units; none if it could not be read
    facts: Option<Value>,
    /// Whether no attempt has run since
    holds: bool,
}
