//! What operators did, in an order that cannot be changed unseen: each entry's hash covers the entry and the hash
//! before it, and the end of the chain is kept apart. Postgres chains them in a trigger, so every way in is covered. A job
//! seals what it has found whole ([`checks`]), because who owns the database can compute hashes again.

pub mod checks;
mod seal;
mod search;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{FromRow, PgPool};
use uuid::Uuid;

use crate::db::{self, Tx};
use crate::jobs::kinds;

use checks::Mark;
pub use seal::SealKeys;
pub use search::{AuditFilter, find, plan};

/// An entry to be written.
#[derive(Clone, Debug)]
pub struct Entry {
    actor: String,
    action: &'static str,
    target: String,
    job_id: Option<Uuid>,
    before: Option<Value>,
    after: Option<Value>,
    reason: Option<String>,
}

impl Entry {
    /// Who did what to which thing.
    #[must_use]
    pub fn new(actor: &str, action: &'static str, target: &str) -> Self {
        Self {
            actor: actor.to_owned(),
            action,
            target: target.to_owned(),
            job_id: None,
            before: None,
            after: None,
            reason: None,
        }
    }

    /// An action on a job.
    #[must_use]
    pub fn on_job(actor: &str, action: &'static str, job_id: Uuid) -> Self {
        let mut entry = Self::new(actor, action, &job_id.to_string());
        entry.job_id = Some(job_id);
        entry
    }

    /// How it was.
    #[must_use]
    pub fn before(mut self, value: Value) -> Self {
        self.before = Some(value);
        self
    }

    /// How it is now.
    #[must_use]
    pub fn after(mut self, value: Value) -> Self {
        self.after = Some(value);
        self
    }

    /// Why, in the operator's words.
    #[must_use]
    pub fn because(mut self, reason: Option<&str>) -> Self {
        self.reason = reason.map(str::to_owned);
        self
    }
}

/// Writes an entry in the transaction of what it tells of.
///
/// # Errors
/// Postgres refused.
pub async fn append(tx: &mut Tx, entry: Entry) -> Result<(), sqlx::Error> {
    let now = tx.now();
    sqlx::query!(
        "INSERT INTO operator_audit (at, actor, action, target, job_id, before, after, reason) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        now,
        entry.actor,
        entry.action,
        entry.target,
        entry.job_id,
        entry.before,
        entry.after,
        entry.reason
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// A written entry.
#[derive(Clone, Debug, FromRow)]
pub struct Written {
    /// Its place in the chain, from 1.
    pub seq: i64,
    /// When.
    pub at: DateTime<Utc>,
    /// Who.
    pub actor: String,
    /// What.
    pub action: String,
    /// To which thing.
    pub target: String,
    /// The job, if it was one.
    pub job_id: Option<Uuid>,
    /// How it was.
    pub before: Option<Value>,
    /// How it is now.
    pub after: Option<Value>,
    /// Why.
    pub reason: Option<String>,
    /// In hex.
    pub hash: String,
}

impl Written {
    /// As it may be shown: the arguments of jobs are masked by their kind.
    fn masked(mut self) -> Self {
        let kind = self.before.as_ref().and_then(|before| before["kind"].as_str());
        // A kind that nobody knows, and so is one that was not written down.
        let kind = kind.unwrap_or_default().to_owned();
        for facts in [&mut self.before, &mut self.after].into_iter().flatten() {
            if let Some(args) = facts.get_mut("args") {
                *args = kinds::masked(&kind, args);
            }
        }
        self
    }

    /// The action on many jobs that it is part of.
    #[must_use]
    pub fn bulk(&self) -> Option<&str> {
        self.after.as_ref()?["bulk"].as_str()
    }
}

/// All entries before `seq`, the newest first; [`find`] looks for some.
///
/// # Errors
/// Postgres could not be reached.
pub async fn list(pool: &PgPool, before: Option<i64>, limit: i64) -> Result<Vec<Written>, sqlx::Error> {
    sqlx::query_as!(
        Written,
        r#"SELECT seq, at, actor, action, target, job_id, before, after, reason, encode(hash, 'hex') AS "hash!"
           FROM operator_audit WHERE seq < $1 ORDER BY seq DESC LIMIT $2"#,
        before.unwrap_or(i64::MAX),
        limit
    )
    .fetch_all(pool)
    .await
    .map(shown)
}

fn shown(entries: Vec<Written>) -> Vec<Written> {
    entries.into_iter().map(Written::masked).collect()
}

/// What was done to one job, the newest first; 50 at most.
///
/// # Errors
/// Postgres could not be reached.
pub async fn of_job(pool: &PgPool, job_id: Uuid) -> Result<Vec<Written>, sqlx::Error> {
    sqlx::query_as!(
        Written,
        r#"SELECT seq, at, actor, action, target, job_id, before, after, reason, encode(hash, 'hex') AS "hash!"
           FROM operator_audit WHERE job_id = $1 ORDER BY seq DESC LIMIT 50"#,
        job_id
    )
    .fetch_all(pool)
    .await
    .map(shown)
}

/// What a look at the whole chain found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every entry is as it was written.
    Whole {
        /// How many there are.
        entries: i64,
        /// The first that was looked at: 1, or a later one if only the newest were wanted.
        since: i64,
    },
    /// The first entry that is not as it was written, or is missing.
    Broken {
        /// Its place.
        seq: i64,
    },
}

/// Computes the hashes again, of all entries or of the `newest`, and compares the end with the one that is kept apart.
///
/// # Errors
/// Postgres could not be reached.
pub async fn verify(pool: &PgPool, newest: Option<i64>) -> Result<Verdict, sqlx::Error> {
    // One snapshot: entries that are written meanwhile belong to a later look.
    let mut tx = db::snapshot(pool).await?;
    let head = checks::head(&mut tx).await?;
    let mut mark = Mark::beginning();
    if let Some(before) = newest.map(|newest| head.seq - newest).filter(|before| *before > 0) {
        let entry = sqlx::query!("SELECT hash FROM operator_audit WHERE seq = $1", before)
            .fetch_optional(&mut *tx)
            .await?;
        let Some(entry) = entry else {
            return Ok(Verdict::Broken { seq: before });
        };
        mark = Mark {
            seq: before,
            hash: entry.hash,
        };
    }
    let since = mark.seq + 1;
    // To the last entry that there is, also when the end that is kept apart is before it.
    let last = sqlx::query_scalar!("SELECT max(seq) FROM operator_audit")
        .fetch_one(&mut *tx)
        .await?;
    let (until, mut pages) = (last.unwrap_or(0).max(head.seq), u32::MAX);
    if let Some(seq) = checks::walk(&mut tx, &mut mark, until, &mut pages).await? {
        return Ok(Verdict::Broken { seq });
    }
    if mark != head {
        return Ok(Verdict::Broken { seq: mark.seq + 1 });
    }
    Ok(Verdict::Whole {
        entries: mark.seq,
        since,
    })
}
