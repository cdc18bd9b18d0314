//! How long jobs are kept after their end, by state: the operators' setting, which pruning reads at each run.

use chrono::TimeDelta;
use sqlx::PgExecutor;

/// Where the setting was deleted by hand.
const OTHERWISE: TimeDelta = TimeDelta::days(180);

/// For how long jobs of a state are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// `succeeded`, `cancelled`, `dead` or `quarantined`.
    pub state: String,
    /// After their end.
    pub seconds: i32,
}

/// The setting, by state.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn kept(db: impl PgExecutor<'_>) -> Result<Vec<Kept>, sqlx::Error> {
    sqlx::query_as!(
        Kept,
        "SELECT state, keep_seconds AS seconds FROM job_retention ORDER BY state"
    )
    .fetch_all(db)
    .await
}

/// How long jobs in `state` are kept.
#[must_use]
pub fn of(kept: &[Kept], state: &str) -> TimeDelta {
    kept.iter()
        .find(|kept| kept.state == state)
        .map_or(OTHERWISE, |kept| TimeDelta::seconds(i64::from(kept.seconds)))
}
