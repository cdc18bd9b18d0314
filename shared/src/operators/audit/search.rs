//! Looking for entries: by who, what, to which thing and when, the newest first, each by an index.
//!
//! An action on many jobs writes an entry for each of them. Those are told under their action: they are found by it or by
//! their job, and left out otherwise.

use chrono::{DateTime, Utc};
use sqlx::{PgPool, Postgres, QueryBuilder};
use uuid::Uuid;

use super::{Written, shown};
use crate::jobs::list::{FilterError, ListError};

const COLUMNS: &str = "seq, at, actor, action, target, job_id, before, after, reason, encode(hash, 'hex') AS hash";

/// Which entries. Everything that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// By this operator's e-mail address, or `cli:<user>`.
    pub actor: Option<String>,
    /// `job.retry`, `queue.pause`.
    pub action: Option<String>,
    /// To the job of this id, or the thing of this name.
    pub target: Option<String>,
    /// Written at or after.
    pub from: Option<DateTime<Utc>>,
    /// Written before.
    pub to: Option<DateTime<Utc>>,
    /// Part of this action on many jobs.
    pub bulk: Option<Uuid>,
}

impl AuditFilter {
    /// Whether it asks for nothing in particular.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Checks what a person wrote.
    ///
    /// # Errors
    /// A text that nothing can be called, or a span of time that ends before it begins.
    pub fn check(&self) -> Result<(), FilterError> {
        for (field, text) in [
            ("actor", &self.actor),
            ("action", &self.action),
            ("target", &self.target),
        ] {
            if text.as_deref().is_some_and(|text| text.contains('\0')) {
                let message = "contains U+0000".to_owned();
                return Err(FilterError { field, message });
            }
        }
        if self.from.zip(self.to).is_some_and(|(from, to)| from >= to) {
            let message = "must be after from".to_owned();
            return Err(FilterError { field: "to", message });
        }
        Ok(())
    }

    fn select(&self, query: &mut QueryBuilder<Postgres>, before: Option<i64>, limit: i64) {
        query
            .push("SELECT ")
            .push(COLUMNS)
            .push(" FROM operator_audit WHERE seq < ");
        query.push_bind(before.unwrap_or(i64::MAX));
        match (&self.bulk, &self.target) {
            (Some(bulk), _) => {
                query.push(" AND after ->> 'bulk' = ").push_bind(bulk.to_string());
            }
            (None, Some(_)) => {}
            (None, None) => {
                query.push(" AND after ->> 'bulk' IS NULL");
            }
        }
        if let Some(target) = &self.target {
            match target.parse::<Uuid>() {
                Ok(job) => {
                    query.push(" AND (job_id = ").push_bind(job);
                    query
                        .push(" OR job_id IS NULL AND target = ")
                        .push_bind(job.to_string());
                    query.push(")");
                }
                Err(_) => {
                    query
                        .push(" AND job_id IS NULL AND target = ")
                        .push_bind(target.clone());
                }
            }
        }
        for (condition, text) in [(" AND actor = ", &self.actor), (" AND action = ", &self.action)] {
            if let Some(text) = text {
                query.push(condition).push_bind(text.clone());
            }
        }
        for (condition, at) in [(" AND at >= ", self.from), (" AND at < ", self.to)] {
            if let Some(at) = at {
                query.push(condition).push_bind(at);
            }
        }
        query.push(" ORDER BY seq DESC LIMIT ").push_bind(limit);
    }
}

/// The entries that match and were written before `before`, the newest first.
///
/// # Errors
/// See [`ListError`].
pub async fn find(
    pool: &PgPool,
    filter: &AuditFilter,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<Written>, ListError> {
    filter.check()?;
    let mut query = QueryBuilder::new("");
    filter.select(&mut query, before, limit);
    // Planned for these values, and not once for all.
    Ok(shown(query.build_query_as().persistent(false).fetch_all(pool).await?))
}

/// How Postgres would find a page: for tests.
///
/// # Errors
/// See [`ListError`].
pub async fn plan(pool: &PgPool, filter: &AuditFilter, limit: i64) -> Result<Vec<String>, ListError> {
    let mut query = QueryBuilder::new("EXPLAIN ");
    filter.select(&mut query, None, limit);
    Ok(query.build_query_scalar().persistent(false).fetch_all(pool).await?)
}
