//! What users are told beside what they ask: inside the product and by mail, each as far as they want it.
//!
//! [`tell`] notes an event for somebody, [`tell_of_message`] counts what is written in a conversation until
//! [`read_conversation`]; [`list`], [`unread_count`] and [`mark_read`] are theirs to use; [`preferences`], [`set_preference`]
//! and [`unsubscribe`] are their choice. Mails about bookings and payments are always sent.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use sqlx::{PgConnection, Postgres, QueryBuilder};
use uuid::Uuid;

use crate::db::Tx;
use crate::ids;

/// What a notification is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Kind {
    /// A booking and its payment.
    Booking,
    /// What the other side of a booking wrote.
    Message,
    /// Reviews, to be written or published.
    Review,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Booking, Self::Message, Self::Review];

    /// Its name in JSON, SQL and tokens.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Booking => "booking",
            Self::Message => "message",
            Self::Review => "review",
        }
    }
}

/// How a user is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Channel {
    /// By mail.
    Email,
    /// In the list of notifications.
    InApp,
}

impl Channel {
    /// Its name in JSON and SQL.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Email => "email",
            Self::InApp => "in_app",
        }
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Event {
    /// To the host: somebody asks to book.
    BookingRequested,
    /// To both: the booking stands.
    BookingConfirmed,
    /// To the guest: the host said no.
    BookingDeclined,
    /// To the guest: nobody paid or nobody answered in time.
    BookingExpired,
    /// To both: it was called off.
    BookingCancelled,
    /// To the guest: the host says that they did not come.
    BookingNoShow,
    /// To the guest: the card was refused.
    PaymentFailed,
    /// To the one who did not write it.
    MessageReceived,
    /// To both: the stay can be reviewed.
    ReviewInvited,
    /// To who has not written: the time to review ends soon.
    ReviewReminded,
    /// To both: what was written is public.
    ReviewsPublished,
    /// To the author: the host answered.
    ReviewAnswered,
    /// To the author: a moderator hid it.
    ReviewHidden,
    /// To the author: a moderator shows it again.
    ReviewShown,
}

impl Event {
    /// Its name in JSON and SQL.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BookingRequested => "booking_requested",
            Self::BookingConfirmed => "booking_confirmed",
            Self::BookingDeclined => "booking_declined",
            Self::BookingExpired => "booking_expired",
            Self::BookingCancelled => "booking_cancelled",
            Self::BookingNoShow => "booking_no_show",
            Self::PaymentFailed => "payment_failed",
            Self::MessageReceived => "message_received",
            Self::ReviewInvited => "review_invited",
            Self::ReviewReminded => "review_reminded",
            Self::ReviewsPublished => "reviews_published",
            Self::ReviewAnswered => "review_answered",
            Self::ReviewHidden => "review_hidden",
            Self::ReviewShown => "review_shown",
        }
    }

    /// What it is about.
    #[must_use]
    pub const fn kind(self) -> Kind {
        match self {
            Self::BookingRequested
            | Self::BookingConfirmed
            | Self::BookingDeclined
            | Self::BookingExpired
            | Self::BookingCancelled
            | Self::BookingNoShow
            | Self::PaymentFailed => Kind::Booking,
            Self::MessageReceived => Kind::Message,
            Self::ReviewInvited
            | Self::ReviewReminded
            | Self::ReviewsPublished
            | Self::ReviewAnswered
            | Self::ReviewHidden
            | Self::ReviewShown => Kind::Review,
        }
    }
}

/// Why an operation was refused.
#[derive(Debug, thiserror::Error)]
pub enum NotificationError {
    /// Not there, or not this user's.
    #[error("there is no such notification")]
    NoSuchNotification,
    /// Who books or lets has to learn what becomes of it.
    #[error("mails about bookings cannot be switched off")]
    BookingMail,
    /// We did not issue it, or somebody changed it.
    #[error("the link is not one of ours")]
    InvalidToken,
    /// Postgres.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Something that a user was told.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct Notification {
    /// The notification.
    pub id: Uuid,
    /// What it is about.
    pub kind: Kind,
    /// What happened.
    pub event: Event,
    /// To which booking.
    pub booking_id: Uuid,
    /// How often: so many messages of a conversation, everything else once.
    pub count: i32,
    /// When, the first time.
    pub created_at: DateTime<Utc>,
    /// When, the last time.
    pub last_at: DateTime<Utc>,
    /// When the user read it.
    pub read_at: Option<DateTime<Utc>>,
}

/// Notes an event for these users, except for those who do not want to be told of its kind, and those who have left.
///
/// # Errors
/// Postgres refused.
pub async fn tell(tx: &mut Tx, event: Event, booking_id: Uuid, users: &[Uuid]) -> Result<(), sqlx::Error> {
    let now = tx.now();
    let ids: Vec<Uuid> = users.iter().map(|_| ids::new(now)).collect();
    sqlx::query!(
        "INSERT INTO notifications (id, user_id, kind, event, booking_id, created_at, last_at)
         SELECT told.id, told.user_id, $3, $4, $5, $6, $6 FROM unnest($1::uuid[], $2::uuid[]) AS told (id, user_id)
         WHERE NOT EXISTS (
             SELECT 1 FROM notification_preferences
             WHERE user_id = told.user_id AND kind = $3 AND channel = 'in_app' AND NOT enabled)
         AND EXISTS (SELECT 1 FROM users WHERE users.id = told.user_id AND deleted_at IS NULL)",
        &ids,
        users,
        event.kind().name(),
        event.name(),
        booking_id,
        now
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Tells somebody of a message, unless they do not want to be told of messages. What they have not read of a conversation
/// is one notification: it keeps its place in the list and counts.
///
/// # Errors
/// Postgres refused.
pub async fn tell_of_message(
    tx: &mut Tx,
    booking_id: Uuid,
    user_id: Uuid,
    message_id: Uuid,
) -> Result<(), sqlx::Error> {
    let now = tx.now();
    sqlx::query!(
        "INSERT INTO notifications (id, user_id, kind, event, booking_id, created_at, last_at, last_message_id)
         SELECT $1, $2, $3, 'message_received', $4, $5, $5, $6
         WHERE NOT EXISTS (
             SELECT 1 FROM notification_preferences
             WHERE user_id = $2 AND kind = $3 AND channel = 'in_app' AND NOT enabled)
           AND EXISTS (SELECT 1 FROM users WHERE users.id = $2 AND deleted_at IS NULL)
         ON CONFLICT (user_id, booking_id) WHERE event = 'message_received' AND read_at IS NULL AND last_message_id IS NOT NULL DO UPDATE SET
             count = notifications.count + 1, last_at = greatest(notifications.last_at, EXCLUDED.last_at),
             last_message_id = greatest(notifications.last_message_id, EXCLUDED.last_message_id)",
        ids::new(now),
        user_id,
        Kind::Message.name(),
        booking_id,
        now,
        message_id
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Somebody has read a conversation up to and including a message: its notification is read, or counts what is left.
///
/// # Errors
/// Postgres refused.
pub async fn read_conversation(tx: &mut Tx, user_id: Uuid, booking_id: Uuid, up_to: Uuid) -> Result<(), sqlx::Error> {
    let now = tx.now();
    sqlx::query!(
        "UPDATE notifications SET
             read_at = CASE WHEN last_message_id > $3 THEN NULL ELSE $4::timestamptz END,
             count = CASE WHEN last_message_id > $3 THEN greatest(1, least(count, (
                 SELECT count(*)::int FROM messages WHERE recipient_id = $1 AND messages.booking_id = $2 AND messages.id > $3
                     AND messages.read_at IS NULL))) ELSE count END
         WHERE user_id = $1 AND kind = 'message' AND booking_id = $2 AND event = 'message_received' AND read_at IS NULL",
        user_id,
        booking_id,
        up_to,
        now
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// What a list of notifications is narrowed to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Filter {
    /// About this.
    pub kind: Option<Kind>,
    /// Only those that were not read.
    pub unread_only: bool,
    /// Only older than this one: the last of the page before.
    pub before: Option<Uuid>,
}

/// What a user was told, newest first.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn list(
    conn: &mut PgConnection,
    user_id: Uuid,
    filter: &Filter,
    limit: i64,
) -> Result<Vec<Notification>, sqlx::Error> {
    query(SELECT, user_id, filter, limit)
        .build_query_as()
        .fetch_all(conn)
        .await
}

/// How Postgres would find a page, line by line.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn plan(
    conn: &mut PgConnection,
    user_id: Uuid,
    filter: &Filter,
    limit: i64,
) -> Result<Vec<String>, sqlx::Error> {
    query(EXPLAIN, user_id, filter, limit)
        .build_query_scalar()
        .fetch_all(conn)
        .await
}

macro_rules! select_notification {
    () => {
        "SELECT id, kind, event, booking_id, count, created_at, last_at, read_at FROM notifications WHERE user_id = "
    };
}
const SELECT: &str = select_notification!();
const EXPLAIN: &str = concat!("EXPLAIN ", select_notification!());

/// Only the conditions that are asked for, so that each shape finds its index.
fn query(select: &'static str, user_id: Uuid, filter: &Filter, limit: i64) -> QueryBuilder<Postgres> {
    let mut query = QueryBuilder::new(select);
    query.push_bind(user_id);
    if let Some(kind) = filter.kind {
        query.push(" AND kind = ").push_bind(kind.name());
    }
    if filter.unread_only {
        query.push(" AND read_at IS NULL");
    }
    if let Some(before) = filter.before {
        query.push(" AND id < ").push_bind(before);
    }
    query.push(" ORDER BY id DESC LIMIT ").push_bind(limit);
    query
}

/// How many notifications of any kind a user has not read.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn unread_count(conn: &mut PgConnection, user_id: Uuid) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM notifications WHERE user_id = $1 AND read_at IS NULL"#,
        user_id
    )
    .fetch_one(conn)
    .await
}

/// Marks a user's notifications as read, up to and including one of them.
///
/// # Errors
/// See [`NotificationError`].
pub async fn mark_read(tx: &mut Tx, user_id: Uuid, up_to: Uuid) -> Result<(), NotificationError> {
    let known = sqlx::query_scalar!(
        "SELECT id FROM notifications WHERE id = $1 AND user_id = $2",
        up_to,
        user_id
    )
    .fetch_optional(tx.conn())
    .await?;
    known.ok_or(NotificationError::NoSuchNotification)?;
    let now = tx.now();
    // In one order, so that two marks at the same time wait for each other instead of standing in each other's way.
    sqlx::query!(
        "WITH unread AS (
             SELECT id FROM notifications WHERE user_id = $1 AND id <= $2 AND read_at IS NULL ORDER BY id FOR NO KEY UPDATE)
         UPDATE notifications SET read_at = $3 FROM unread WHERE notifications.id = unread.id AND notifications.read_at IS NULL",
        user_id,
        up_to,
        now
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// What a user wants to be told, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preferences {
    refused: Vec<(Kind, Channel)>,
}

impl Preferences {
    /// Whether the user is told of this kind this way.
    #[must_use]
    pub fn wants(&self, kind: Kind, channel: Channel) -> bool {
        !self.refused.contains(&(kind, channel))
    }
}

/// What a user chose: everything, unless said otherwise.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn preferences(conn: &mut PgConnection, user_id: Uuid) -> Result<Preferences, sqlx::Error> {
    let refused = sqlx::query!(
        r#"SELECT kind AS "kind: Kind", channel AS "channel: Channel" FROM notification_preferences WHERE user_id = $1 AND NOT enabled"#,
        user_id
    )
    .fetch_all(conn)
    .await?;
    Ok(Preferences {
        refused: refused.into_iter().map(|row| (row.kind, row.channel)).collect(),
    })
}

/// Changes a choice.
///
/// # Errors
/// See [`NotificationError`].
pub async fn set_preference(
    tx: &mut Tx,
    user_id: Uuid,
    kind: Kind,
    channel: Channel,
    enabled: bool,
) -> Result<(), NotificationError> {
    if kind == Kind::Booking && channel == Channel::Email && !enabled {
        return Err(NotificationError::BookingMail);
    }
    let now = tx.now();
    sqlx::query!(
        "INSERT INTO notification_preferences (user_id, kind, channel, enabled, updated_at) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (user_id, kind, channel) DO UPDATE SET enabled = EXCLUDED.enabled, updated_at = EXCLUDED.updated_at",
        user_id,
        kind.name(),
        channel.name(),
        enabled,
        now
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

const VERSION: &str = "v1";

/// What a link in a mail carries, so that whoever has the mail can end mails of its kind to its reader, and nothing
/// else: `v1.<payload>.<mac>`. It does not expire, because old mails are unsubscribed from as well.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn unsubscribe_token(conn: &mut PgConnection, user_id: Uuid, kind: Kind) -> Result<String, sqlx::Error> {
    let key = key(conn).await?;
    let payload = BASE64.encode(format!("{user_id} {}", kind.name()));
    let mac = BASE64.encode(mac_of(&key, &payload)?.finalize().into_bytes());
    Ok(format!("{VERSION}.{payload}.{mac}"))
}

/// Whose mails of what kind a token ends.
///
/// # Errors
/// See [`NotificationError`].
pub async fn read_token(conn: &mut PgConnection, token: &str) -> Result<(Uuid, Kind), NotificationError> {
    let mut parts = token.split('.');
    let (Some(VERSION), Some(payload), Some(mac), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(NotificationError::InvalidToken);
    };
    let mac = BASE64.decode(mac).map_err(|_| NotificationError::InvalidToken)?;
    let key = key(conn).await?;
    mac_of(&key, payload)?
        .verify_slice(&mac)
        .map_err(|_| NotificationError::InvalidToken)?;
    read_payload(payload).ok_or(NotificationError::InvalidToken)
}

fn read_payload(payload: &str) -> Option<(Uuid, Kind)> {
    let text = String::from_utf8(BASE64.decode(payload).ok()?).ok()?;
    let (user_id, name) = text.split_once(' ')?;
    let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name)?;
    Some((user_id.parse().ok()?, kind))
}

/// Ends the mails that a token is about.
///
/// # Errors
/// See [`NotificationError`].
pub async fn unsubscribe(tx: &mut Tx, token: &str) -> Result<Kind, NotificationError> {
    let (user_id, kind) = read_token(tx.conn(), token).await?;
    set_preference(tx, user_id, kind, Channel::Email, false).await?;
    Ok(kind)
}

async fn key(conn: &mut PgConnection) -> Result<Vec<u8>, sqlx::Error> {
    sqlx::query_scalar!("SELECT key FROM signing_keys WHERE purpose = 'unsubscribe'")
        .fetch_one(conn)
        .await
}

fn mac_of(key: &[u8], payload: &str) -> Result<Hmac<Sha256>, sqlx::Error> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).map_err(|error| sqlx::Error::Decode(error.to_string().into()))?;
    mac.update(b"roost unsubscribe\n");
    mac.update(payload.as_bytes());
    Ok(mac)
}
