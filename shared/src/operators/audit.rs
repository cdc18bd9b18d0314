//! What operators did, in an order that cannot be changed unseen: each entry's hash covers the entry and the hash
//! before it, and the end of the chain is kept apart. Postgres chains them in a trigger, so every way in is covered.

mod search;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{FromRow, PgPool};
use uuid::Uuid;

use crate::db::Tx;

pub use search::{AuditFilter, find, plan};

/// Entries that are checked in one statement.
const VERIFY_BATCH: i64 = 10_000;

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
    let mut tx = pool.begin().await?;
    sqlx::query!("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        .execute(&mut *tx)
        .await?;
    let head = sqlx::query!("SELECT seq, hash FROM operator_audit_head")
        .fetch_one(&mut *tx)
        .await?;
    let (mut last, mut hash) = (0_i64, vec![0_u8]);
    if let Some(before) = newest.map(|newest| head.seq - newest).filter(|before| *before > 0) {
        let entry = sqlx::query!("SELECT hash FROM operator_audit WHERE seq = $1", before)
            .fetch_optional(&mut *tx)
            .await?;
        let Some(entry) = entry else {
            return Ok(Verdict::Broken { seq: before });
        };
        (last, hash) = (before, entry.hash);
    }
    let since = last + 1;
    loop {
        // The first of the batch follows the last of the one before.
        let checked = sqlx::query!(
            r#"WITH batch AS (
                   SELECT entry.seq, entry.hash, row_number() OVER chain AS place,
                          coalesce(lag(entry.hash) OVER chain, $2) AS expected_prev, entry.prev_hash,
                          operator_audit_hash(entry) AS computed
                   FROM operator_audit AS entry WHERE entry.seq > $1 WINDOW chain AS (ORDER BY entry.seq) ORDER BY entry.seq LIMIT $3)
               SELECT count(*) AS "entries!", max(seq) AS last, (array_agg(hash ORDER BY seq DESC))[1] AS last_hash,
                      min(CASE WHEN seq <> $1 + place THEN $1 + place WHEN prev_hash <> expected_prev OR hash <> computed THEN seq END) AS broken
               FROM batch"#,
            last,
            hash,
            VERIFY_BATCH
        )
        .fetch_one(&mut *tx)
        .await?;
        if let Some(seq) = checked.broken {
            return Ok(Verdict::Broken { seq });
        }
        match (checked.last, checked.last_hash) {
            (Some(seq), Some(end)) => (last, hash) = (seq, end),
            _ => break,
        }
        if checked.entries < VERIFY_BATCH {
            break;
        }
    }
    if last != head.seq || hash != head.hash {
        return Ok(Verdict::Broken { seq: last + 1 });
    }
    Ok(Verdict::Whole { entries: last, since })
}
