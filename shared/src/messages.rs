//! Messages between guest and host of a booking: [`send`], [`list`] and [`mark_read`]. What stays unread for ten minutes
//! is mailed, everything unread in one mail: [`claim_digest`] gathers it, [`digest`] reads it for the mail.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::db::Tx;
use crate::ids;
use crate::jobs::catalogue::NotifyOfMessage;
use crate::notifications;

/// How long a message waits to be read before it is mailed.
pub const PATIENCE: TimeDelta = TimeDelta::minutes(10);
/// The fewest and the most characters of a message.
pub const TEXT_LENGTH: (usize, usize) = (1, 2_000);
/// The most messages that one mail quotes; the rest is counted.
pub const MOST_QUOTED: i64 = 20;

/// Why an operation was refused.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// Not there, or not this user's.
    #[error("there is no such booking")]
    NoSuchBooking,
    /// Not of this booking.
    #[error("there is no such message")]
    NoSuchMessage,
    /// Postgres.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The message.
    pub id: Uuid,
    /// Who wrote it.
    pub sender_id: Uuid,
    /// The words.
    pub text: String,
    /// When.
    pub created_at: DateTime<Utc>,
    /// When the other side read it.
    pub read_at: Option<DateTime<Utc>>,
}

/// The other side of a booking, for its guest and its host.
async fn other_side(conn: &mut PgConnection, user_id: Uuid, booking_id: Uuid) -> Result<Uuid, MessageError> {
    sqlx::query_scalar!(
        r#"SELECT CASE WHEN guest_id = $2 THEN host_id ELSE guest_id END AS "other!" FROM bookings
           WHERE id = $1 AND (guest_id = $2 OR host_id = $2)"#,
        booking_id,
        user_id
    )
    .fetch_optional(conn)
    .await?
    .ok_or(MessageError::NoSuchBooking)
}

/// Writes to the other side of a booking. `text` is trimmed and of the length that [`TEXT_LENGTH`] says.
///
/// # Errors
/// See [`MessageError`].
pub async fn send(tx: &mut Tx, sender_id: Uuid, booking_id: Uuid, text: &str) -> Result<Message, MessageError> {
    let recipient_id = other_side(tx.conn(), sender_id, booking_id).await?;
    let now = tx.now();
    let id = ids::new(now);
    sqlx::query!(
        "INSERT INTO messages (id, booking_id, sender_id, recipient_id, text, created_at) VALUES ($1, $2, $3, $4, $5, $6)",
        id,
        booking_id,
        sender_id,
        recipient_id,
        text,
        now
    )
    .execute(tx.conn())
    .await?;
    notifications::tell_of_message(tx, booking_id, recipient_id, id).await?;
    tx.enqueue_at(&NotifyOfMessage { message_id: id }, now + PATIENCE);
    Ok(Message {
        id,
        sender_id,
        text: text.to_owned(),
        created_at: now,
        read_at: None,
    })
}

/// The messages of a booking, newest first, for its guest and its host.
///
/// # Errors
/// See [`MessageError`].
pub async fn list(
    conn: &mut PgConnection,
    user_id: Uuid,
    booking_id: Uuid,
    before: Option<Uuid>,
    limit: i64,
) -> Result<Vec<Message>, MessageError> {
    other_side(conn, user_id, booking_id).await?;
    Ok(sqlx::query_as!(
        Message,
        "SELECT id, sender_id, text, created_at, read_at FROM messages
         WHERE booking_id = $1 AND id < coalesce($2, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid) ORDER BY id DESC LIMIT $3",
        booking_id,
        before,
        limit
    )
    .fetch_all(conn)
    .await?)
}

/// The newest message on a page that the other side wrote and `user_id` has not marked as read. Who is shown the page
/// has read the notification of it, though not the messages: that is for [`mark_read`] to say.
#[must_use]
pub fn newest_unread(page: &[Message], user_id: Uuid) -> Option<Uuid> {
    let unread = page
        .iter()
        .filter(|message| message.sender_id != user_id && message.read_at.is_none());
    unread.map(|message| message.id).max()
}

/// Marks what the other side wrote as read, up to and including a message; the ones before keep their mark. The
/// notification of what was read is read as well.
///
/// # Errors
/// See [`MessageError`].
pub async fn mark_read(tx: &mut Tx, user_id: Uuid, booking_id: Uuid, up_to: Uuid) -> Result<(), MessageError> {
    other_side(tx.conn(), user_id, booking_id).await?;
    let known = sqlx::query_scalar!(
        "SELECT id FROM messages WHERE id = $1 AND booking_id = $2",
        up_to,
        booking_id
    )
    .fetch_optional(tx.conn())
    .await?;
    known.ok_or(MessageError::NoSuchMessage)?;
    let now = tx.now();
    // In one order, so that two marks at the same time wait for each other instead of standing in each other's way.
    sqlx::query!(
        "WITH unread AS (
             SELECT id FROM messages WHERE recipient_id = $1 AND booking_id = $2 AND id <= $3 AND read_at IS NULL
             ORDER BY id FOR NO KEY UPDATE)
         UPDATE messages SET read_at = $4 FROM unread WHERE messages.id = unread.id AND messages.read_at IS NULL",
        user_id,
        booking_id,
        up_to,
        now
    )
    .execute(tx.conn())
    .await?;
    notifications::read_conversation(tx, user_id, booking_id, up_to).await?;
    Ok(())
}

/// Gathers everything that the recipient of a message has not read and was not mailed into one mail, named after this
/// message. False: there is nothing to mail, because it was read or is in another mail.
///
/// # Errors
/// Postgres refused.
pub async fn claim_digest(tx: &mut Tx, message_id: Uuid) -> Result<bool, sqlx::Error> {
    let waiting = sqlx::query!(
        "SELECT recipient_id FROM messages WHERE id = $1 AND read_at IS NULL AND digest_id IS NULL",
        message_id
    )
    .fetch_optional(tx.conn())
    .await?;
    let Some(waiting) = waiting else {
        return Ok(false);
    };
    let claimed = sqlx::query!(
        "WITH unread AS (
             SELECT id FROM messages WHERE recipient_id = $1 AND read_at IS NULL AND digest_id IS NULL
             ORDER BY id FOR NO KEY UPDATE)
         UPDATE messages SET digest_id = $2 FROM unread
         WHERE messages.id = unread.id AND messages.read_at IS NULL AND messages.digest_id IS NULL",
        waiting.recipient_id,
        message_id
    )
    .execute(tx.conn())
    .await?;
    Ok(claimed.rows_affected() > 0)
}

/// What one mail tells its reader.
#[derive(Clone, Debug)]
pub struct Digest {
    /// Who reads it.
    pub recipient_id: Uuid,
    /// How many are unread.
    pub count: i64,
    /// The first of them, oldest first.
    pub messages: Vec<DigestEntry>,
}

/// A message in a mail.
#[derive(Clone, Debug)]
pub struct DigestEntry {
    /// The booking it belongs to.
    pub booking_id: Uuid,
    /// Where the booking is.
    pub property_title: String,
    /// The sender's full name.
    pub sender_name: String,
    /// The words.
    pub text: String,
}

/// What is still unread of a mail's messages; none if everything was read meanwhile.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn digest(conn: &mut PgConnection, digest_id: Uuid) -> Result<Option<Digest>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT messages.recipient_id, messages.booking_id, properties.title, users.full_name, messages.text, count(*) OVER () AS "count!"
           FROM messages JOIN bookings ON bookings.id = messages.booking_id JOIN properties ON properties.id = bookings.property_id
               JOIN users ON users.id = messages.sender_id
           WHERE digest_id = $1 AND read_at IS NULL ORDER BY messages.id LIMIT $2"#,
        digest_id,
        MOST_QUOTED
    )
    .fetch_all(conn)
    .await?;
    let Some(first) = rows.first() else {
        return Ok(None);
    };
    Ok(Some(Digest {
        recipient_id: first.recipient_id,
        count: first.count,
        messages: rows
            .into_iter()
            .map(|row| DigestEntry {
                booking_id: row.booking_id,
                property_title: row.title,
                sender_name: row.full_name,
                text: row.text,
            })
            .collect(),
    }))
}
