//! What follows publication: the host answers, readers report.

use uuid::Uuid;

use super::rules::Side;
use super::store::{self, lock_review};
use super::{Review, ReviewError};
use crate::db::{self, Tx};
use crate::notifications::{self, Event};

/// The host answers what a guest wrote, once.
///
/// # Errors
/// See [`ReviewError`].
pub async fn answer(tx: &mut Tx, user_id: Uuid, review_id: Uuid, text: &str) -> Result<Review, ReviewError> {
    let review = lock_public(tx, user_id, review_id).await?;
    if review.side != Side::Guest || review.subject_id != user_id {
        return Err(ReviewError::NotYours);
    }
    let now = tx.now();
    let answered = sqlx::query!(
        "UPDATE reviews SET answer = $2, answered_at = $3 WHERE id = $1 AND answer IS NULL",
        review_id,
        text,
        now
    )
    .execute(tx.conn())
    .await?;
    if answered.rows_affected() == 0 {
        return Err(ReviewError::AlreadyAnswered);
    }
    notifications::tell(tx, Event::ReviewAnswered, review.booking_id, &[review.author_id]).await?;
    store::get(tx.conn(), review_id).await?.ok_or(ReviewError::NoSuchReview)
}

/// What is wrong with a review.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum ReportReason {
    /// It insults.
    Offensive,
    /// It tells what is nobody's business.
    PersonalInformation,
    /// It is not true.
    Untrue,
    /// It advertises.
    Spam,
    /// The details say.
    Other,
}

impl ReportReason {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Offensive => "offensive",
            Self::PersonalInformation => "personal_information",
            Self::Untrue => "untrue",
            Self::Spam => "spam",
            Self::Other => "other",
        }
    }
}

/// A reader's complaint.
#[derive(Clone, Debug)]
pub struct Report {
    /// Of what kind.
    pub reason: ReportReason,
    /// In words.
    pub details: Option<String>,
}

/// Tells the moderators of a review, once a reader.
///
/// # Errors
/// See [`ReviewError`].
pub async fn report(tx: &mut Tx, user_id: Uuid, review_id: Uuid, report: &Report) -> Result<(), ReviewError> {
    let review = store::get(tx.conn(), review_id)
        .await?
        .filter(|review| review.is_visible_to(Some(user_id)))
        .ok_or(ReviewError::NoSuchReview)?;
    if review.author_id == user_id {
        return Err(ReviewError::OwnReview);
    }
    let now = tx.now();
    sqlx::query!(
        "INSERT INTO review_reports (review_id, reporter_id, reason, details, created_at) VALUES ($1, $2, $3, $4, $5)",
        review_id,
        user_id,
        report.reason.name(),
        report.details,
        now
    )
    .execute(tx.conn())
    .await
    .map_err(|error| match db::violated_constraint(&error) {
        Some("review_reports_pkey") => ReviewError::AlreadyReported,
        _ => error.into(),
    })?;
    Ok(())
}

pub(super) async fn lock_public(tx: &mut Tx, user_id: Uuid, review_id: Uuid) -> Result<Review, ReviewError> {
    lock_review(tx, review_id)
        .await?
        .filter(|review| review.is_visible_to(Some(user_id)))
        .ok_or(ReviewError::NoSuchReview)
}
