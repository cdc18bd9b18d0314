//! From written to public: both reviews at once when both exist, what there is when the time is over; and the sums of
//! stars, which change in the same transaction.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::rules::Side;
use super::store::{self, Rated, Review, lock_ratings, lock_window, write_ratings};
use super::{Ratings, ReviewError};
use crate::bookings::{self, Actor};
use crate::db::Tx;
use crate::jobs::catalogue::WarmCache;
use crate::notifications::{self, Event};

/// What publishing came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Publication {
    /// So many reviews are public now.
    Done(usize),
    /// It was done before, or there never was a window.
    Nothing,
    /// One side has not written and may until then.
    TooEarly(DateTime<Utc>),
}

/// Publishes what was written about a booking, if it is time.
///
/// # Errors
/// Postgres refused.
pub async fn publish(tx: &mut Tx, booking_id: Uuid) -> Result<Publication, ReviewError> {
    let now = tx.now();
    let window = lock_window(tx, booking_id).await?;
    let Some(window) = window.filter(|window| window.settled_at.is_none()) else {
        return Ok(Publication::Nothing);
    };
    let written = store::live_of(tx.conn(), booking_id).await?;
    if written.len() < 2 && now < window.closes_at {
        return Ok(Publication::TooEarly(window.closes_at));
    }
    sqlx::query!(
        "WITH settled AS (UPDATE review_windows SET settled_at = $2 WHERE booking_id = $1)
         UPDATE reviews SET published_at = $2 WHERE booking_id = $1 AND deleted_at IS NULL",
        booking_id,
        now
    )
    .execute(tx.conn())
    .await?;
    // The guest's first: everybody locks the property's row before any sum of stars.
    for side in [Side::Guest, Side::Host] {
        for review in written.iter().filter(|review| review.side == side) {
            count(tx, review, 1).await?;
        }
    }
    if let Some(review) = written.first() {
        let both = [review.author_id, review.subject_id];
        notifications::tell(tx, Event::ReviewsPublished, booking_id, &both).await?;
        bookings::note(tx, booking_id, "reviews_published", Actor::System, None).await?;
    }
    Ok(Publication::Done(written.len()))
}

/// Counts a review's stars in (1) or out (-1): a guest's for the property and the host, a host's for the guest.
pub(super) async fn count(tx: &mut Tx, review: &Review, change: i32) -> Result<(), sqlx::Error> {
    if review.side == Side::Host {
        recount(tx, Rated::Guest, review.subject_id, review, change).await?;
        return Ok(());
    }
    sqlx::query!(
        "SELECT id FROM properties WHERE id = $1 FOR NO KEY UPDATE",
        review.property_id
    )
    .fetch_one(tx.conn())
    .await?;
    let ratings = recount(tx, Rated::Property, review.property_id, review, change).await?;
    recount(tx, Rated::Host, review.subject_id, review, change).await?;
    let now = tx.now();
    sqlx::query!(
        "UPDATE properties SET rating_hundredths = $2, review_count = $3, version = version + 1, updated_at = $4 WHERE id = $1",
        review.property_id,
        ratings.overall.mean_hundredths(),
        ratings.overall.count(),
        now
    )
    .execute(tx.conn())
    .await?;
    tx.enqueue(&WarmCache {
        property_id: review.property_id,
    });
    Ok(())
}

/// Each transaction takes a property's sums, then a host's, then a guest's, and one of each at most: none waits for
/// another that waits for it.
async fn recount(
    tx: &mut Tx,
    rated: Rated,
    subject_id: Uuid,
    review: &Review,
    change: i32,
) -> Result<Ratings, sqlx::Error> {
    let mut ratings = lock_ratings(tx, rated, subject_id).await?;
    ratings.add(&review.stars, change);
    write_ratings(tx, rated, subject_id, &ratings).await?;
    Ok(ratings)
}

/// Which sides may still write about a booking and have not; until when.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn awaited(
    conn: &mut PgConnection,
    booking_id: Uuid,
    now: DateTime<Utc>,
) -> Result<Option<(DateTime<Utc>, Vec<Side>)>, sqlx::Error> {
    let window = store::window(conn, booking_id).await?;
    let Some(window) = window.filter(|window| window.settled_at.is_none() && now < window.closes_at) else {
        return Ok(None);
    };
    let written = store::live_of(conn, booking_id).await?;
    let missing = [Side::Guest, Side::Host]
        .into_iter()
        .filter(|side| !written.iter().any(|review| review.side == *side));
    Ok(Some((window.closes_at, missing.collect())))
}
