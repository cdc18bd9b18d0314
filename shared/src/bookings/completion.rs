//! The end of stays: what the guest has paid for and nobody called off is completed once its last day is over.

use chrono::TimeDelta;

use super::timeline::transition;
use super::{Actor, BookingError, BookingState, Transition, lock};
use crate::db::Tx;
use crate::properties::stay::check_out_at;
use crate::reviews;

/// Where a day ends last: UTC-12.
const LAST_ZONE: TimeDelta = TimeDelta::hours(12);

/// Completes up to `limit` stays whose day of departure is over wherever on earth they were, the oldest first, and
/// says how many there were. A guest whom nobody checked in or out is taken to have stayed: that somebody did not come
/// is for the host to say. From now on both may review.
///
/// # Errors
/// See [`BookingError`].
pub async fn complete_ended(tx: &mut Tx, limit: i64) -> Result<usize, BookingError> {
    let last_day = (tx.now() - LAST_ZONE).date_naive();
    let ended = sqlx::query_scalar!(
        "SELECT id FROM bookings WHERE state IN ('confirmed', 'checked_in', 'checked_out') AND upper(stay) < $1
         ORDER BY upper(stay) LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED",
        last_day,
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    for booking_id in &ended {
        if let Some(booking) = lock(tx, *booking_id).await? {
            transition(tx, &booking, Transition::Complete, Actor::System, None).await?;
            // Whoever checked out has been asked already.
            if booking.state != BookingState::CheckedOut {
                let ended_at = check_out_at(booking.stay(), booking.check_out_by, booking.zone());
                reviews::open(tx, &booking, ended_at).await?;
            }
        }
    }
    Ok(ended.len())
}
