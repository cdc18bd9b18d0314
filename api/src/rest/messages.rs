//! Messages between guest and host of a booking.

use std::time::Duration;

use async_graphql::{InputObject, SimpleObject};
use chrono::{DateTime, Utc};
use poem::http::Uri;
use poem_openapi::param::{Path, Query};
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};
use roost_shared::db::Retries;
use roost_shared::messages::{self, MessageError, TEXT_LENGTH};
use roost_shared::notifications;
use uuid::Uuid;

use super::Tag;
use super::users::NoContent;
use crate::auth::Auth;
use crate::body::JsonBody;
use crate::error::{ApiError, ApiResult};
use crate::idempotency::{Begun, Created, Idempotency};
use crate::page::{PageRequest, Paged};
use crate::state::AppState;
use crate::validate::Checks;

/// More than anybody types.
const MOST_PER_MINUTE: u32 = 60;

/// Operations on messages.
pub struct MessagesApi(pub AppState);

/// What to say to the other side.
#[derive(Clone, Debug, Object, InputObject)]
#[oai(deny_unknown_fields, example)]
pub struct NewMessage {
    /// 1 to 2,000 characters
    #[oai(validator(min_length = 1, max_length = 2000))]
    pub text: String,
}

impl Example for NewMessage {
    fn example() -> Self {
        Self {
            text: "We arrive at half past six. Is there somewhere to leave two bicycles?".to_owned(),
        }
    }
}

/// How far you have read.
#[derive(Clone, Debug, Object, InputObject)]
#[oai(deny_unknown_fields, example)]
pub struct ReadMark {
    /// The last message that you have read
    pub up_to: Uuid,
}

impl Example for ReadMark {
    fn example() -> Self {
        Self {
            up_to: Message::example().id,
        }
    }
}

/// A message.
#[derive(Clone, Debug, Object, SimpleObject)]
#[oai(example)]
pub struct Message {
    /// The message
    pub id: Uuid,
    /// Who wrote it
    pub sender_id: Uuid,
    /// Whether you wrote it
    pub own: bool,
    /// Plain text, as it was written: escape it where markup is read
    pub text: String,
    /// When it was written
    pub created_at: DateTime<Utc>,
    /// When the other side, or you, read it
    pub read_at: Option<DateTime<Utc>>,
}

impl Example for Message {
    fn example() -> Self {
        Self {
            id: Uuid::from_u128(0x019a_b6c8_6f5e_7c3a_9d0e_2f4f_1f6f_0a12),
            sender_id: Uuid::from_u128(0x019a_b6c8_6f5e_7c3a_9d0e_2f4f_1f6f_0a11),
            own: true,
            text: NewMessage::example().text,
            created_at: DateTime::UNIX_EPOCH + chrono::Duration::days(22_000),
            read_at: None,
        }
    }
}

impl Message {
    pub(crate) fn seen_by(message: messages::Message, viewer_id: Uuid) -> Self {
        Self {
            id: message.id,
            own: message.sender_id == viewer_id,
            sender_id: message.sender_id,
            text: message.text,
            created_at: message.created_at,
            read_at: message.read_at,
        }
    }
}

#[OpenApi(tag = "Tag::Bookings")]
impl MessagesApi {
    /// Write a message
    ///
    /// To the other side of a booking. If it is not read within ten minutes it is mailed, together with everything
    /// else that is unread.
    #[oai(
        path = "/bookings/:booking_id/messages",
        method = "post",
        operation_id = "create_message"
    )]
    pub(crate) async fn create(
        &self,
        auth: Auth,
        idempotency: Idempotency,
        /// The booking
        booking_id: Path<Uuid>,
        body: JsonBody<NewMessage>,
    ) -> ApiResult<Created<Message>> {
        Checks::new()
            .text("text", &body.text, TEXT_LENGTH.0, TEXT_LENGTH.1)
            .finish()?;
        let state = &self.0;
        state
            .limiter
            .check("message", &auth.scope(), MOST_PER_MINUTE, Duration::from_secs(60))
            .await?;
        let mut retries = Retries::default();
        loop {
            let mut work = match idempotency.begin(state, &auth.scope(), body.raw()).await? {
                Begun::Replay(stored) => return Ok(stored.into()),
                Begun::Work(work) => work,
            };
            match messages::send(work.tx(), auth.user_id, booking_id.0, body.text.trim()).await {
                Ok(message) => {
                    let location = format!("/bookings/{}/messages", booking_id.0);
                    return work.created(&location, &Message::seen_by(message, auth.user_id)).await;
                }
                Err(MessageError::Database(error)) if retries.again(&error).await => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// List messages
    ///
    /// Of a booking, newest first, for its guest and its host. Reading marks no message as read, for that is what the
    /// other side sees; the notification of what is on the page is read.
    #[oai(
        path = "/bookings/:booking_id/messages",
        method = "get",
        operation_id = "list_messages"
    )]
    async fn list(
        &self,
        auth: Auth,
        /// The booking
        booking_id: Path<Uuid>,
        /// How many at most
        #[oai(
            default = "crate::page::default_limit",
            validator(minimum(value = "1"), maximum(value = "100"))
        )]
        limit: Query<u16>,
        /// `next_cursor` of the page before
        cursor: Query<Option<String>>,
        uri: &Uri,
    ) -> ApiResult<Paged<Message>> {
        let page = PageRequest::<Uuid>::new(limit.0, cursor.0.as_deref(), uri)?;
        let found = show(&self.0, auth.user_id, booking_id.0, &page).await?;
        Ok(page.reply(
            found,
            |message| message.id,
            |message| Message::seen_by(message, auth.user_id),
        ))
    }

    /// Mark messages as read
    ///
    /// What the other side wrote, up to and including a message. The other side sees it, no mail is sent for it, and its
    /// notification is read.
    #[oai(
        path = "/bookings/:booking_id/messages/read",
        method = "post",
        operation_id = "mark_messages_read"
    )]
    pub(crate) async fn mark_read(
        &self,
        auth: Auth,
        /// The booking
        booking_id: Path<Uuid>,
        body: JsonBody<ReadMark>,
    ) -> ApiResult<NoContent> {
        let mut tx = self.0.db.begin().await?;
        messages::mark_read(&mut tx, auth.user_id, booking_id.0, body.up_to).await?;
        tx.commit().await?;
        Ok(NoContent::Done)
    }
}

/// What the list shows, for a page; the notification of it is read then.
///
/// # Errors
/// 404 `not_found`, 503 without Postgres.
pub(crate) async fn show(
    state: &AppState,
    user_id: Uuid,
    booking_id: Uuid,
    page: &PageRequest<Uuid>,
) -> ApiResult<Vec<messages::Message>> {
    let mut conn = state.db.pool().acquire().await?;
    let before = page.after().copied();
    let found = messages::list(&mut conn, user_id, booking_id, before, page.fetch()).await?;
    drop(conn);
    if let Some(newest) = messages::newest_unread(&found, user_id) {
        let mut tx = state.db.begin().await?;
        notifications::read_conversation(&mut tx, user_id, booking_id, newest).await?;
        tx.commit().await?;
    }
    Ok(found)
}

impl From<MessageError> for ApiError {
    fn from(error: MessageError) -> Self {
        match error {
            MessageError::NoSuchBooking => Self::not_found("booking"),
            MessageError::NoSuchMessage => Self::not_found("message"),
            MessageError::Database(error) => error.into(),
        }
    }
}
