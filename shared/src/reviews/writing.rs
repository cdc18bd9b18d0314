//! The author's part: from the end of the stay to publication.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::rules::{self, Category, Side, Stars};
use super::store::{self, Window, lock_review, lock_window};
use super::{Review, ReviewError};
use crate::bookings::{self, Booking, BookingState};
use crate::db::{self, Tx};
use crate::ids;
use crate::jobs::catalogue::{OpenReviews, PublishReviews, RemindReviewers};
use crate::notifications::{self, Event};

/// The stay ended at `ended_at`: both sides may write from now on.
///
/// # Errors
/// Postgres refused.
pub async fn open(tx: &mut Tx, booking: &Booking, ended_at: DateTime<Utc>) -> Result<(), sqlx::Error> {
    let now = tx.now();
    // Who learns of it late has some days all the same.
    let closes_at = rules::closes_at(ended_at, booking.zone()).max(now + rules::SHORTEST);
    let opened = sqlx::query!(
        "INSERT INTO review_windows (booking_id, opened_at, closes_at) VALUES ($1, $2, $3) ON CONFLICT (booking_id) DO NOTHING",
        booking.id,
        now,
        closes_at
    )
    .execute(tx.conn())
    .await?;
    if opened.rows_affected() == 0 {
        return Ok(());
    }
    let booking_id = booking.id;
    let both = [booking.guest_id, booking.host_id];
    notifications::tell(tx, Event::ReviewInvited, booking_id, &both).await?;
    tx.enqueue(&OpenReviews { booking_id });
    // Not at once, with the invitation.
    if closes_at - rules::REMINDER > now {
        tx.enqueue_at(&RemindReviewers { booking_id }, closes_at - rules::REMINDER);
    }
    tx.enqueue_at(&PublishReviews { booking_id }, closes_at);
    Ok(())
}

/// What somebody writes. Texts are trimmed and of the lengths that [`rules`] names.
#[derive(Clone, Debug)]
pub struct NewReview {
    /// About which stay.
    pub booking_id: Uuid,
    /// The ratings.
    pub stars: Stars,
    /// The words.
    pub text: String,
}

/// Writes a review, which nobody but its author sees until it is published.
///
/// # Errors
/// See [`ReviewError`].
pub async fn write(tx: &mut Tx, author_id: Uuid, new: NewReview) -> Result<Review, ReviewError> {
    let booking = bookings::get(tx.conn(), new.booking_id)
        .await?
        .filter(|booking| booking.guest_id == author_id || booking.host_id == author_id)
        .ok_or(ReviewError::NoSuchBooking)?;
    let (side, subject_id) = if booking.guest_id == author_id {
        (Side::Guest, booking.host_id)
    } else {
        (Side::Host, booking.guest_id)
    };
    let window = lock_window(tx, booking.id).await?;
    let written = store::live_of(tx.conn(), booking.id).await?;
    if let Some(own) = written.iter().find(|review| review.side == side) {
        return Err(ReviewError::AlreadyReviewed {
            review_id: Some(own.id),
        });
    }
    let window = window.ok_or_else(|| not_open(&booking))?;
    still_open(tx, window)?;
    let misplaced = new.stars.misplaced(side);
    if !misplaced.is_empty() {
        return Err(ReviewError::MisplacedCategories(misplaced));
    }
    let now = tx.now();
    let id = ids::new(now);
    let stars = new.stars;
    sqlx::query!(
        "INSERT INTO reviews (id, booking_id, property_id, side, author_id, subject_id, overall, cleanliness, accuracy, check_in,
             communication, location, value, text, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
        id,
        booking.id,
        booking.property_id,
        side.name(),
        author_id,
        subject_id,
        stars.overall,
        stars.cleanliness,
        stars.accuracy,
        stars.check_in,
        stars.communication,
        stars.location,
        stars.value,
        new.text,
        now
    )
    .execute(tx.conn())
    .await
    .map_err(|error| match db::violated_constraint(&error) {
        Some("reviews_one_per_side") => ReviewError::AlreadyReviewed { review_id: None },
        _ => error.into(),
    })?;
    if !written.is_empty() {
        tx.enqueue(&PublishReviews { booking_id: booking.id });
    }
    store::get(tx.conn(), id).await?.ok_or(ReviewError::NoSuchReview)
}

/// A window is missing: the stay is not over, or ended before there were reviews.
fn not_open(booking: &Booking) -> ReviewError {
    match booking.state {
        BookingState::CheckedOut | BookingState::Completed => ReviewError::WindowClosed(booking.updated_at),
        state => ReviewError::NotCheckedOut(state),
    }
}

fn still_open(tx: &Tx, window: Window) -> Result<(), ReviewError> {
    if window.settled_at.is_some() || tx.now() >= window.closes_at {
        Err(ReviewError::WindowClosed(window.closes_at))
    } else {
        Ok(())
    }
}

/// What to change. None: left as it is.
#[derive(Clone, Debug, Default)]
pub struct Edit {
    /// The whole.
    pub overall: Option<i16>,
    /// The categories to rate otherwise, or no longer.
    pub categories: Vec<(Category, Option<i16>)>,
    /// The words.
    pub text: Option<String>,
}

/// Changes a review that is not public yet.
///
/// # Errors
/// See [`ReviewError`].
pub async fn edit(tx: &mut Tx, author_id: Uuid, review_id: Uuid, edit: &Edit) -> Result<Review, ReviewError> {
    let review = lock_own(tx, author_id, review_id).await?;
    let mut stars = review.stars;
    stars.overall = edit.overall.unwrap_or(stars.overall);
    for (category, given) in &edit.categories {
        stars.rate(*category, *given);
    }
    let misplaced = stars.misplaced(review.side);
    if !misplaced.is_empty() {
        return Err(ReviewError::MisplacedCategories(misplaced));
    }
    let now = tx.now();
    sqlx::query!(
        "UPDATE reviews SET overall = $2, cleanliness = $3, accuracy = $4, check_in = $5, communication = $6, location = $7,
             value = $8, text = coalesce($9, text), edited_at = $10
         WHERE id = $1 AND published_at IS NULL AND deleted_at IS NULL",
        review_id,
        stars.overall,
        stars.cleanliness,
        stars.accuracy,
        stars.check_in,
        stars.communication,
        stars.location,
        stars.value,
        edit.text,
        now
    )
    .execute(tx.conn())
    .await?;
    store::get(tx.conn(), review_id).await?.ok_or(ReviewError::NoSuchReview)
}

/// Takes a review back that is not public yet; the author may write another one while there is time.
///
/// # Errors
/// See [`ReviewError`].
pub async fn delete(tx: &mut Tx, author_id: Uuid, review_id: Uuid) -> Result<(), ReviewError> {
    lock_own(tx, author_id, review_id).await?;
    let now = tx.now();
    sqlx::query!(
        "UPDATE reviews SET deleted_at = $2 WHERE id = $1 AND published_at IS NULL AND deleted_at IS NULL",
        review_id,
        now
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// The author's review, which is neither published nor changed by anybody else until the transaction ends.
async fn lock_own(tx: &mut Tx, author_id: Uuid, review_id: Uuid) -> Result<Review, ReviewError> {
    let booking_id = sqlx::query_scalar!(
        "SELECT booking_id FROM reviews WHERE id = $1 AND author_id = $2",
        review_id,
        author_id
    )
    .fetch_optional(tx.conn())
    .await?;
    let window = match booking_id {
        Some(booking_id) => lock_window(tx, booking_id).await?,
        None => None,
    };
    // Only now: whatever was done to it before the window was locked is seen.
    let review = lock_review(tx, review_id).await?.ok_or(ReviewError::NoSuchReview)?;
    let window = window.ok_or(ReviewError::NoSuchReview)?;
    if review.author_id != author_id || review.deleted_at.is_some() {
        return Err(ReviewError::NoSuchReview);
    }
    if review.published_at.is_some() {
        return Err(ReviewError::Published);
    }
    still_open(tx, window)?;
    Ok(review)
}
