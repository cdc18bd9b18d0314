//! What moderators do: read the reports that nobody has decided about, hide a review, show it again, or let it stand.
//! Each decision is kept with its reason, and settles the open reports of its review.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Postgres, QueryBuilder};
use uuid::Uuid;

use super::aftermath::{ReportReason, lock_public};
use super::publication::count;
use super::store::{self, lock_review, review_columns};
use super::{Review, ReviewError};
use crate::db::Tx;
use crate::ids;
use crate::jobs::catalogue::{MailKind, SendMail};
use crate::notifications::{self, Event};

/// A report that is open, with what it is about.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct OpenReport {
    /// Who complains.
    pub reporter_id: Uuid,
    /// Of what.
    pub reason: ReportReason,
    /// In words.
    pub details: Option<String>,
    /// When.
    pub reported_at: DateTime<Utc>,
    /// The review as it stands.
    #[sqlx(flatten)]
    pub review: Review,
}

/// Where a page of reports ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportPosition {
    /// When it was reported.
    pub reported_at: DateTime<Utc>,
    /// What was.
    pub review_id: Uuid,
    /// By whom.
    pub reporter_id: Uuid,
}

/// What the list of open reports is narrowed to.
#[derive(Clone, Debug, Default)]
pub struct ReportFilter {
    /// Of this kind.
    pub reason: Option<ReportReason>,
    /// Of this review.
    pub review_id: Option<Uuid>,
    /// From here on.
    pub after: Option<ReportPosition>,
}

/// A page of open reports, the oldest first.
///
/// # Errors
/// [`ReviewError::NotModerator`].
pub async fn open_reports(
    conn: &mut PgConnection,
    moderator_id: Uuid,
    filter: &ReportFilter,
    limit: i64,
) -> Result<Vec<OpenReport>, ReviewError> {
    if !is_moderator(conn, moderator_id).await? {
        return Err(ReviewError::NotModerator);
    }
    Ok(query(SELECT, filter, limit).build_query_as().fetch_all(conn).await?)
}

/// How Postgres would find a page, line by line.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn plan_of_reports(
    conn: &mut PgConnection,
    filter: &ReportFilter,
    limit: i64,
) -> Result<Vec<String>, sqlx::Error> {
    query(EXPLAIN, filter, limit).build_query_scalar().fetch_all(conn).await
}

macro_rules! select_report {
    () => {
        concat!(
            "SELECT reporter_id, review_reports.reason, review_reports.details, review_reports.created_at AS reported_at, ",
            review_columns!(),
            "FROM review_reports JOIN reviews ON reviews.id = review_id JOIN users ON users.id = author_id \
             WHERE decision_id IS NULL"
        )
    };
}
const SELECT: &str = select_report!();
const EXPLAIN: &str = concat!("EXPLAIN ", select_report!());

fn query(select: &'static str, filter: &ReportFilter, limit: i64) -> QueryBuilder<Postgres> {
    let mut query = QueryBuilder::new(select);
    if let Some(reason) = filter.reason {
        query.push(" AND review_reports.reason = ").push_bind(reason.name());
    }
    if let Some(review_id) = filter.review_id {
        query.push(" AND review_id = ").push_bind(review_id);
    }
    if let Some(after) = filter.after {
        query.push(" AND (review_reports.created_at, review_id, reporter_id) > (");
        query.push_bind(after.reported_at).push(", ").push_bind(after.review_id);
        query.push(", ").push_bind(after.reporter_id).push(")");
    }
    query.push(" ORDER BY review_reports.created_at, review_id, reporter_id LIMIT ");
    query.push_bind(limit);
    query
}

/// Takes a published review out of sight and its stars out of the sums, and tells its author. Hiding what is hidden
/// changes nothing.
///
/// # Errors
/// See [`ReviewError`].
pub async fn hide(tx: &mut Tx, moderator_id: Uuid, review_id: Uuid, reason: &str) -> Result<Review, ReviewError> {
    let review = lock_for_moderator(tx, moderator_id, review_id).await?;
    if review.hidden_at.is_some() {
        return Ok(review);
    }
    let now = tx.now();
    sqlx::query!(
        "UPDATE reviews SET hidden_at = $2, hidden_by = $3, hidden_reason = $4 WHERE id = $1 AND hidden_at IS NULL",
        review_id,
        now,
        moderator_id,
        reason
    )
    .execute(tx.conn())
    .await?;
    let decision_id = decide(tx, moderator_id, review_id, "hide", reason).await?;
    count(tx, &review, -1).await?;
    tell_author(tx, &review, decision_id, Event::ReviewHidden, MailKind::ReviewHidden).await?;
    store::get(tx.conn(), review_id).await?.ok_or(ReviewError::NoSuchReview)
}

/// Shows a hidden review again, counts its stars again, and tells its author. Showing what is not hidden changes
/// nothing.
///
/// # Errors
/// See [`ReviewError`].
pub async fn unhide(tx: &mut Tx, moderator_id: Uuid, review_id: Uuid, reason: &str) -> Result<Review, ReviewError> {
    let review = lock_for_moderator(tx, moderator_id, review_id).await?;
    if review.hidden_at.is_none() {
        return Ok(review);
    }
    sqlx::query!(
        "UPDATE reviews SET hidden_at = NULL, hidden_by = NULL, hidden_reason = NULL WHERE id = $1 AND hidden_at IS NOT NULL",
        review_id
    )
    .execute(tx.conn())
    .await?;
    let decision_id = decide(tx, moderator_id, review_id, "unhide", reason).await?;
    count(tx, &review, 1).await?;
    tell_author(tx, &review, decision_id, Event::ReviewShown, MailKind::ReviewShown).await?;
    store::get(tx.conn(), review_id).await?.ok_or(ReviewError::NoSuchReview)
}

/// Settles the open reports of a review that stays as it is. Without open reports nothing changes.
///
/// # Errors
/// See [`ReviewError`].
pub async fn dismiss_reports(
    tx: &mut Tx,
    moderator_id: Uuid,
    review_id: Uuid,
    reason: &str,
) -> Result<(), ReviewError> {
    lock_for_moderator(tx, moderator_id, review_id).await?;
    let open = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT 1 FROM review_reports WHERE review_id = $1 AND decision_id IS NULL) AS "open!""#,
        review_id
    )
    .fetch_one(tx.conn())
    .await?;
    if open {
        decide(tx, moderator_id, review_id, "dismiss", reason).await?;
    }
    Ok(())
}

async fn decide(
    tx: &mut Tx,
    moderator_id: Uuid,
    review_id: Uuid,
    decision: &str,
    reason: &str,
) -> Result<Uuid, sqlx::Error> {
    let now = tx.now();
    let id = ids::new(now);
    sqlx::query!(
        "WITH decided AS (
             INSERT INTO review_decisions (id, review_id, moderator_id, decision, reason, created_at)
             VALUES ($1, $2, $3, $4, $5, $6) RETURNING id)
         UPDATE review_reports SET decision_id = decided.id FROM decided WHERE review_id = $2 AND decision_id IS NULL",
        id,
        review_id,
        moderator_id,
        decision,
        reason,
        now
    )
    .execute(tx.conn())
    .await?;
    Ok(id)
}

/// Whoever wrote it learns what was decided about it, with a mail that gives the reason.
async fn tell_author(
    tx: &mut Tx,
    review: &Review,
    decision_id: Uuid,
    event: Event,
    mail: MailKind,
) -> Result<(), sqlx::Error> {
    notifications::tell(tx, event, review.booking_id, &[review.author_id]).await?;
    tx.enqueue(&SendMail {
        mail,
        subject_id: decision_id,
    });
    Ok(())
}

/// What a moderator decided about a review, for the mail that tells its author.
#[derive(Clone, Debug)]
pub struct Decision {
    /// The review.
    pub review_id: Uuid,
    /// Whether it was hidden or shown again.
    pub hides: bool,
    /// Why.
    pub reason: String,
}

/// A decision to hide a review or to show it again, if it is the last one about it and so still holds.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn standing_decision(conn: &mut PgConnection, decision_id: Uuid) -> Result<Option<Decision>, sqlx::Error> {
    sqlx::query_as!(
        Decision,
        r#"SELECT review_id, decision = 'hide' AS "hides!", reason FROM review_decisions AS told
           WHERE id = $1 AND decision IN ('hide', 'unhide') AND NOT EXISTS (
               SELECT FROM review_decisions AS later
               WHERE later.review_id = told.review_id AND later.id > told.id AND later.decision IN ('hide', 'unhide'))"#,
        decision_id
    )
    .fetch_optional(conn)
    .await
}

/// The review, which nobody else changes until the transaction ends, hidden or not.
async fn lock_for_moderator(tx: &mut Tx, moderator_id: Uuid, review_id: Uuid) -> Result<Review, ReviewError> {
    if !is_moderator(tx.conn(), moderator_id).await? {
        // Who may not decide about it may still not learn of it.
        lock_public(tx, moderator_id, review_id).await?;
        return Err(ReviewError::NotModerator);
    }
    let review = lock_review(tx, review_id)
        .await?
        .filter(|review| review.published_at.is_some())
        .ok_or(ReviewError::NoSuchReview)?;
    if [review.author_id, review.subject_id].contains(&moderator_id) {
        return Err(ReviewError::OwnCase);
    }
    Ok(review)
}

/// Whether a user is a moderator. Asked of the row each time, so that a right that was taken away is gone at once.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn is_moderator(conn: &mut PgConnection, user_id: Uuid) -> Result<bool, sqlx::Error> {
    let moderator = sqlx::query_scalar!(
        "SELECT is_moderator FROM users WHERE id = $1 AND deleted_at IS NULL",
        user_id
    )
    .fetch_optional(conn)
    .await?;
    Ok(moderator == Some(true))
}
