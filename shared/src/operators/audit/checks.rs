//! The check that a job makes again and again, a bounded piece at a time: it goes on from the place up to which the log was
//! sealed, seals what it found whole, and computes what is sealed again from its beginning, round after round.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor, PgPool};

use super::seal::SealKeys;
use super::{Entry, append};
use crate::db::{self, Tx};

/// Entries that are computed in one statement.
const BATCH: i64 = 10_000;

/// A place in the log: an entry and its hash, which covers all before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The entry; 0 is before the first.
    pub seq: i64,
    /// Its hash.
    pub hash: Vec<u8>,
}

impl Mark {
    /// Before the first entry.
    pub(super) fn beginning() -> Self {
        Self { seq: 0, hash: vec![0] }
    }
}

/// Why nothing could be found out.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// Only who has the API's secret can tell whether the seal holds.
    #[error("the audit log is sealed, and this process has no JWT_SECRET to check the seal")]
    NoKey,
    /// Postgres could not be reached.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// What a look found. [`keep`] stores it.
#[derive(Clone, Debug)]
pub struct Look {
    /// The first entry that is not as it was written.
    pub broken: Option<i64>,
    /// Up to here the log is whole.
    pub sealed: Mark,
    /// There was no seal yet, or somebody took it away.
    pub unsealed: bool,
    round: Mark,
    rounded: bool,
}

/// Looks at the next `pages` of 10,000 entries at most.
///
/// # Errors
/// See [`CheckError`].
pub async fn look(pool: &PgPool, keys: Option<&SealKeys>, pages: u32) -> Result<Look, CheckError> {
    // One snapshot: entries that are written meanwhile belong to a later look.
    let mut tx = db::snapshot(pool).await?;
    let stored = sqlx::query!("SELECT sealed_seq, sealed_hash, seal, round_seq, round_hash FROM operator_audit_checks")
        .fetch_one(&mut *tx)
        .await?;
    let head = head(&mut tx).await?;
    let mut look = Look {
        broken: None,
        sealed: Mark {
            seq: stored.sealed_seq,
            hash: stored.sealed_hash,
        },
        unsealed: stored.seal.is_none(),
        round: Mark {
            seq: stored.round_seq,
            hash: stored.round_hash,
        },
        rounded: false,
    };
    match (keys, &stored.seal) {
        (Some(keys), Some(seal)) if !keys.holds(&look.sealed, seal) => {
            look.broken = Some(look.sealed.seq);
            return Ok(look);
        }
        (None, Some(_)) => return Err(CheckError::NoKey),
        // What nobody vouches for is computed again before it is sealed.
        (Some(_), None) => look.sealed = Mark::beginning(),
        _ => {}
    }
    if look.round.seq > look.sealed.seq {
        look.round = Mark::beginning();
    }
    look.broken = look.go_on(&mut tx, &head, pages).await?;
    Ok(look)
}

impl Look {
    /// The first entry that is not as it was written, if one was met.
    async fn go_on(&mut self, conn: &mut PgConnection, head: &Mark, pages: u32) -> Result<Option<i64>, sqlx::Error> {
        if !is_in_log(conn, &self.sealed).await? {
            return Ok(Some(self.sealed.seq));
        }
        let (mut pages, sealed) = (pages, self.sealed.seq);
        if let Some(broken) = walk(conn, &mut self.sealed, head.seq, &mut pages).await? {
            return Ok(Some(broken));
        }
        if self.sealed.seq >= head.seq && self.sealed != *head {
            return Ok(Some(self.sealed.seq));
        }
        if let Some(broken) = walk(conn, &mut self.round, sealed, &mut pages).await? {
            return Ok(Some(broken));
        }
        if self.round.seq == sealed && self.sealed == *head {
            (self.round, self.rounded) = (Mark::beginning(), true);
        }
        Ok(None)
    }

    /// The seal of what was found whole.
    #[must_use]
    pub fn seal(&self, keys: &SealKeys) -> Vec<u8> {
        keys.seal(&self.sealed)
    }
}

/// Stores what was found. What is broken stays sealed as it was.
///
/// # Errors
/// Postgres refused.
pub async fn keep(tx: &mut Tx, look: &Look, keys: Option<&SealKeys>) -> Result<(), sqlx::Error> {
    let now = tx.now();
    if look.broken.is_some() {
        sqlx::query!(
            "UPDATE operator_audit_checks SET checked_at = $1, broken_seq = $2",
            now,
            look.broken
        )
        .execute(tx.conn())
        .await?;
        return Ok(());
    }
    sqlx::query!(
        "UPDATE operator_audit_checks SET checked_at = $1, broken_seq = NULL, sealed_seq = $2, sealed_hash = $3, seal = $4,
             round_seq = $5, round_hash = $6, whole_at = CASE WHEN $7 THEN $1 ELSE whole_at END",
        now,
        look.sealed.seq,
        look.sealed.hash,
        keys.map(|keys| look.seal(keys)),
        look.round.seq,
        look.round.hash,
        look.rounded
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// What the job has found so far.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// The last look; none: there was none yet.
    pub checked_at: Option<DateTime<Utc>>,
    /// The first entry that was not as it was written then.
    pub broken_seq: Option<i64>,
    /// Up to here the log was whole.
    pub checked_seq: i64,
    /// Whether that is sealed.
    pub sealed: bool,
    /// When all of that had last been computed again from the beginning.
    pub whole_at: Option<DateTime<Utc>>,
    /// Since the last look, or since the first entry if there was none yet.
    pub unchecked_seconds: f64,
}

/// See [`Standing`].
///
/// # Errors
/// Postgres could not be reached.
pub async fn standing(db: impl PgExecutor<'_>) -> Result<Standing, sqlx::Error> {
    sqlx::query_as!(
        Standing,
        r#"SELECT checked_at, broken_seq, sealed_seq AS checked_seq, seal IS NOT NULL AS "sealed!", whole_at,
                  coalesce(extract(epoch FROM now() - coalesce(checked_at, (SELECT at FROM operator_audit ORDER BY seq LIMIT 1))), 0)::float8 AS "unchecked_seconds!"
           FROM operator_audit_checks"#
    )
    .fetch_one(db)
    .await
}

/// Takes the seal off, so that the next look computes the log from its beginning and seals it anew: for when the secret that
/// made the seal is gone. The entry of `actor` says that it was done.
///
/// # Errors
/// [`UnsealError::Broken`]: the hashes do not agree, whoever made the seal.
pub async fn unseal(tx: &mut Tx, actor: &str, reason: &str) -> Result<Mark, UnsealError> {
    // Nothing is added to the log meanwhile.
    sqlx::query!("LOCK TABLE operator_audit IN SHARE ROW EXCLUSIVE MODE")
        .execute(tx.conn())
        .await?;
    let (head, mut mark, mut pages) = (head(tx.conn()).await?, Mark::beginning(), u32::MAX);
    if let Some(seq) = walk(tx.conn(), &mut mark, head.seq, &mut pages).await? {
        return Err(UnsealError::Broken(seq));
    }
    if mark != head {
        return Err(UnsealError::Broken(mark.seq + 1));
    }
    sqlx::query!("UPDATE operator_audit_checks SET seal = NULL, broken_seq = NULL")
        .execute(tx.conn())
        .await?;
    append(tx, Entry::new(actor, "audit.unseal", "audit log").because(Some(reason))).await?;
    Ok(mark)
}

/// Why the seal was not taken off.
#[derive(Debug, thiserror::Error)]
pub enum UnsealError {
    /// No seal made it so.
    #[error("entry {0} is not as it was written, so its seal stays: compare it with the seals in the workers' logs")]
    Broken(i64),
    /// Postgres could not be reached.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// The end of the log, as it is kept apart.
pub(super) async fn head(conn: &mut PgConnection) -> Result<Mark, sqlx::Error> {
    sqlx::query_as!(Mark, "SELECT seq, hash FROM operator_audit_head")
        .fetch_one(conn)
        .await
}

async fn is_in_log(conn: &mut PgConnection, mark: &Mark) -> Result<bool, sqlx::Error> {
    if mark.seq == 0 {
        return Ok(*mark == Mark::beginning());
    }
    let hash = sqlx::query_scalar!("SELECT hash FROM operator_audit WHERE seq = $1", mark.seq)
        .fetch_optional(conn)
        .await?;
    Ok(hash.as_ref() == Some(&mark.hash))
}

/// Computes the entries after `mark` up to `until`, in so many pages at most, and moves it on over those that are as they
/// were written. Returns the first that is not.
pub(super) async fn walk(
    conn: &mut PgConnection,
    mark: &mut Mark,
    until: i64,
    pages: &mut u32,
) -> Result<Option<i64>, sqlx::Error> {
    while mark.seq < until && *pages > 0 {
        *pages -= 1;
        // The first of the batch follows the last of the one before.
        let checked = sqlx::query!(
            r#"WITH batch AS (
                   SELECT entry.seq, entry.hash, row_number() OVER chain AS place,
                          coalesce(lag(entry.hash) OVER chain, $2) AS expected_prev, entry.prev_hash,
                          operator_audit_hash(entry) AS computed
                   FROM operator_audit AS entry WHERE entry.seq > $1 AND entry.seq <= $4
                   WINDOW chain AS (ORDER BY entry.seq) ORDER BY entry.seq LIMIT $3)
               SELECT count(*) AS "entries!", (array_agg(hash ORDER BY seq DESC))[1] AS last_hash,
                      min(CASE WHEN seq <> $1 + place THEN $1 + place WHEN prev_hash <> expected_prev OR hash <> computed THEN seq END) AS broken
               FROM batch"#,
            mark.seq,
            mark.hash,
            BATCH,
            until.min(mark.seq + BATCH)
        )
        .fetch_one(&mut *conn)
        .await?;
        if checked.broken.is_some() {
            return Ok(checked.broken);
        }
        let wanted = BATCH.min(until - mark.seq);
        if let Some(hash) = checked.last_hash {
            *mark = Mark {
                seq: mark.seq + checked.entries,
                hash,
            };
        }
        if checked.entries < wanted {
            return Ok(Some(mark.seq + 1));
        }
    }
    Ok(None)
}
