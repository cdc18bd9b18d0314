//! The timeline: every transition is written together with the entry that tells of it, and refusals are told as well.

use uuid::Uuid;

use super::{Actor, Booking, BookingError, BookingState, Transition};
use crate::db::Tx;

/// The state that `transition` brings the booking to.
///
/// # Errors
/// [`BookingError::WrongState`].
pub(super) fn allowed(booking: &Booking, transition: Transition) -> Result<BookingState, BookingError> {
    booking.state.after(transition).ok_or(BookingError::WrongState {
        state: booking.state,
        verb: transition.verb(),
    })
}

/// Moves a booking on, if it can be, and writes that it happened.
pub(super) async fn transition(
    tx: &mut Tx,
    booking: &Booking,
    transition: Transition,
    actor: Actor,
    reason: Option<&str>,
) -> Result<(), BookingError> {
    let to = allowed(booking, transition)?;
    let now = tx.now();
    let moved = sqlx::query!(
        "WITH moved AS (
             UPDATE bookings SET state = $3, version = version + 1, updated_at = $4 WHERE id = $1 AND state = $2 RETURNING id)
         INSERT INTO booking_events (booking_id, at, event, actor, actor_id, from_state, to_state, accepted, reason)
         SELECT id, $4, $5, $6, $7, $2, $3, true, $8 FROM moved",
        booking.id,
        booking.state.name(),
        to.name(),
        now,
        transition.event(),
        actor.kind(),
        actor.id(),
        reason
    )
    .execute(tx.conn())
    .await?;
    if moved.rows_affected() == 0 {
        return Err(BookingError::WrongState {
            state: booking.state,
            verb: "changed: it has just been changed",
        });
    }
    tx.booking_changed(booking.id);
    Ok(())
}

/// Notes on the timeline what changed no state.
///
/// # Errors
/// Postgres refused.
pub async fn note(
    tx: &mut Tx,
    booking_id: Uuid,
    event: &str,
    actor: Actor,
    reason: Option<&str>,
) -> Result<(), sqlx::Error> {
    let now = tx.now();
    sqlx::query!(
        "INSERT INTO booking_events (booking_id, at, event, actor, actor_id, accepted, reason) VALUES ($1, $2, $3, $4, $5, true, $6)",
        booking_id,
        now,
        event,
        actor.kind(),
        actor.id(),
        reason
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Notes on the timeline what was asked and not done, once: the same refusal again, with nothing done in between, says
/// nothing new. Runs in a transaction of its own: that of the request was rolled back.
///
/// # Errors
/// Postgres refused.
pub async fn note_refusal(
    tx: &mut Tx,
    booking: &Booking,
    event: &str,
    actor: Actor,
    reason: &str,
) -> Result<(), sqlx::Error> {
    let now = tx.now();
    sqlx::query!(
        "INSERT INTO booking_events (booking_id, at, event, actor, actor_id, from_state, to_state, accepted, reason)
         SELECT $1, $2, $3, $4, $5, $6, $6, false, $7
         WHERE NOT EXISTS (
             SELECT FROM booking_events
             WHERE booking_id = $1 AND NOT accepted AND event = $3 AND actor = $4 AND reason = $7
               AND id > coalesce((SELECT max(id) FROM booking_events WHERE booking_id = $1 AND accepted), 0))",
        booking.id,
        now,
        event,
        actor.kind(),
        actor.id(),
        booking.state.name(),
        reason
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}
