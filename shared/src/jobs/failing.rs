//! The kinds that fail now: what a job of theirs needs is away, so that most of their attempts come to nothing. Such jobs
//! are tried again for hours or days before the first one dies.

use sqlx::PgPool;

use super::overview::COUNTED;

/// A hiccup has fewer failures; a job that fails for so many times in a row is enough.
const LEAST: i64 = 3;

/// A kind of which most attempts of the last 10 minutes failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailingKind {
    /// The kind.
    pub kind: String,
    /// Attempts that failed, up to [`COUNTED`] of all kinds.
    pub failed: i64,
    /// Attempts that succeeded in the same time.
    pub succeeded: i64,
    /// What went wrong last.
    pub newest_error: Option<String>,
}

/// The kinds that fail, the one with the most failures first.
///
/// Failures are found by an index of their own, so those of a kind that runs seldom are seen behind any number of others.
/// Successes are counted for these kinds only, and only until there are as many as failures.
///
/// # Errors
/// Postgres could not be reached.
pub async fn kinds(pool: &PgPool) -> Result<Vec<FailingKind>, sqlx::Error> {
    sqlx::query_as!(
        FailingKind,
        r#"WITH newest AS (
               SELECT job_id, attempt, ended_at, error FROM job_attempts
               WHERE outcome IN ('retry', 'failed', 'lost') AND ended_at > now() - interval '10 minutes'
               ORDER BY ended_at DESC LIMIT $1),
           reached AS (
               SELECT CASE WHEN count(*) < $1 THEN '-infinity' ELSE min(ended_at) END AS since FROM newest),
           suspects AS (
               SELECT jobs.kind, count(*) AS failed, (array_agg(newest.error ORDER BY newest.ended_at DESC))[1] AS newest_error
               FROM newest JOIN jobs ON jobs.id = newest.job_id
               GROUP BY jobs.kind HAVING count(*) >= $2 OR max(newest.attempt) >= $2)
           SELECT suspects.kind AS "kind!", suspects.failed AS "failed!", succeeded.count AS "succeeded!", suspects.newest_error
           FROM suspects CROSS JOIN reached CROSS JOIN LATERAL (
               SELECT count(*) FROM (
                   SELECT FROM jobs WHERE jobs.kind = suspects.kind AND jobs.state = 'succeeded'
                   AND jobs.finished_at > now() - interval '10 minutes' AND jobs.finished_at > reached.since
                   ORDER BY jobs.finished_at DESC LIMIT suspects.failed) AS bounded) AS succeeded
           WHERE succeeded.count < suspects.failed ORDER BY suspects.failed DESC, suspects.kind"#,
        COUNTED,
        LEAST
    )
    .fetch_all(pool)
    .await
}
