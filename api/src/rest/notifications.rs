//! Notifications: what you were told, and how you want to be told.

use async_graphql::{InputObject, SimpleObject};
use chrono::{DateTime, Utc};
use poem::http::Uri;
use poem_openapi::param::Query;
use poem_openapi::payload::{Html, Json};
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};
use roost_shared::notifications::{self, Channel, Filter, Kind, NotificationError, Preferences as Choice};
use uuid::Uuid;

use super::Tag;
use super::mirror::mirror;
use super::users::NoContent;
use crate::auth::Auth;
use crate::body::{JsonBody, OneClick};
use crate::error::{ApiError, ApiResult};
use crate::page::{Page, PageRequest, Paged};
use crate::problem::FieldError;
use crate::state::AppState;

/// Operations on notifications.
pub struct NotificationsApi(pub AppState);

mirror! {
    /// What a notification is about.
    NotificationKind of Kind {
        /// A booking and its payment
        Booking,
        /// What the other side of a booking wrote
        Message,
        /// Reviews, to be written or published
        Review,
    }
}

mirror! {
    /// What happened.
    NotificationEvent of notifications::Event {
        /// Somebody asks to book your property
        BookingRequested,
        /// The booking stands
        BookingConfirmed,
        /// The host said no
        BookingDeclined,
        /// Nobody paid, or the host did not answer, in time
        BookingExpired,
        /// It was called off
        BookingCancelled,
        /// The host says that you did not come
        BookingNoShow,
        /// Your card was refused
        PaymentFailed,
        /// The other side wrote to you
        MessageReceived,
        /// The stay can be reviewed
        ReviewInvited,
        /// The time to review the stay ends soon
        ReviewReminded,
        /// What was written about the stay is public
        ReviewsPublished,
        /// The host answered your review
        ReviewAnswered,
        /// A moderator hid your review
        ReviewHidden,
        /// A moderator shows your review again
        ReviewShown,
    }
}

/// Something that you were told.
#[derive(Clone, Debug, Object, SimpleObject)]
#[oai(example)]
#[graphql(complex)]
pub struct Notification {
    /// The notification
    pub id: Uuid,
    /// What it is about
    pub kind: NotificationKind,
    /// What happened
    pub event: NotificationEvent,
    /// To which booking
    pub booking_id: Uuid,
    /// How often: so many messages of a conversation that you have not read are one notification; else 1
    pub count: i32,
    /// When, the first time
    pub created_at: DateTime<Utc>,
    /// When, the last time
    pub last_at: DateTime<Utc>,
    /// When you read it
    pub read_at: Option<DateTime<Utc>>,
}

impl Example for Notification {
    fn example() -> Self {
        Self {
            id: Uuid::from_u128(0x019a_b6c8_6f5e_7c3a_9d0e_2f4f_1f6f_0a13),
            kind: NotificationKind::Booking,
            event: NotificationEvent::BookingRequested,
            booking_id: Uuid::from_u128(0x019a_b6c8_6f5e_7c3a_9d0e_2f4f_1f6f_0a14),
            count: 1,
            created_at: DateTime::UNIX_EPOCH + chrono::Duration::days(22_000),
            last_at: DateTime::UNIX_EPOCH + chrono::Duration::days(22_000),
            read_at: None,
        }
    }
}

impl From<notifications::Notification> for Notification {
    fn from(row: notifications::Notification) -> Self {
        Self {
            id: row.id,
            kind: row.kind.into(),
            event: row.event.into(),
            booking_id: row.booking_id,
            count: row.count,
            created_at: row.created_at,
            last_at: row.last_at,
            read_at: row.read_at,
        }
    }
}

/// A page of the list, with how much there is to read.
#[derive(Clone, Debug, Object)]
#[oai(example)]
pub struct NotificationPage {
    /// In the order of the list
    pub items: Vec<Notification>,
    /// The next page, relative to this API; null on the last one
    pub next: Option<String>,
    /// For the `cursor` parameter of the next page; null on the last one
    pub next_cursor: Option<String>,
    /// How many you have not read, of any kind, on this page or not
    pub unread_count: i64,
}

impl Example for NotificationPage {
    fn example() -> Self {
        Self {
            items: vec![Notification::example()],
            next: None,
            next_cursor: None,
            unread_count: 1,
        }
    }
}

/// How far you have read.
#[derive(Clone, Debug, Object, InputObject)]
#[oai(deny_unknown_fields, example)]
pub struct NotificationMark {
    /// The last notification that you have read
    pub up_to: Uuid,
}

impl Example for NotificationMark {
    fn example() -> Self {
        Self {
            up_to: Notification::example().id,
        }
    }
}

/// The ways in which you are told of a kind.
#[derive(Clone, Debug, Object, SimpleObject)]
pub struct Channels {
    /// By mail
    pub email: bool,
    /// In the list of notifications
    pub in_app: bool,
}

/// What you want to be told, and how.
#[derive(Clone, Debug, Object, SimpleObject)]
#[oai(example)]
pub struct Preferences {
    /// Bookings and payments; mail about them cannot be switched off
    pub booking: Channels,
    /// What the other side of a booking writes
    pub message: Channels,
    /// Reviews, to be written or published
    pub review: Channels,
}

impl Example for Preferences {
    fn example() -> Self {
        let by = |email| Channels { email, in_app: true };
        Self {
            booking: by(true),
            message: by(false),
            review: by(true),
        }
    }
}

impl From<&Choice> for Preferences {
    fn from(choice: &Choice) -> Self {
        let channels = |kind| Channels {
            email: choice.wants(kind, Channel::Email),
            in_app: choice.wants(kind, Channel::InApp),
        };
        Self {
            booking: channels(Kind::Booking),
            message: channels(Kind::Message),
            review: channels(Kind::Review),
        }
    }
}

/// What to change for a kind. What is left out, or null, stays.
#[derive(Clone, Debug, Default, Object, InputObject)]
#[oai(deny_unknown_fields, skip_serializing_if_is_none)]
pub struct ChannelsPatch {
    /// By mail
    pub email: Option<bool>,
    /// In the list of notifications
    pub in_app: Option<bool>,
}

/// What to change. What is left out, or null, stays.
#[derive(Clone, Debug, Default, Object, InputObject)]
#[oai(deny_unknown_fields, example, skip_serializing_if_is_none)]
pub struct PreferencesPatch {
    /// Bookings and payments; mail about them cannot be switched off
    pub booking: Option<ChannelsPatch>,
    /// What the other side of a booking writes
    pub message: Option<ChannelsPatch>,
    /// Reviews, to be written or published
    pub review: Option<ChannelsPatch>,
}

impl Example for PreferencesPatch {
    fn example() -> Self {
        Self {
            message: Some(ChannelsPatch {
                email: Some(false),
                in_app: None,
            }),
            ..Self::default()
        }
    }
}

impl PreferencesPatch {
    fn changes(self) -> Vec<(Kind, Channel, bool)> {
        let kinds = [
            (Kind::Booking, self.booking),
            (Kind::Message, self.message),
            (Kind::Review, self.review),
        ];
        let mut changes = Vec::new();
        for (kind, patch) in kinds {
            let patch = patch.unwrap_or_default();
            for (channel, enabled) in [(Channel::Email, patch.email), (Channel::InApp, patch.in_app)] {
                changes.extend(enabled.map(|enabled| (kind, channel, enabled)));
            }
        }
        changes
    }
}

#[OpenApi(tag = "Tag::Notifications")]
impl NotificationsApi {
    /// List notifications
    ///
    /// Yours, newest first. `unread_count` counts what you have not read, whatever the list is narrowed to.
    #[oai(path = "/notifications", method = "get", operation_id = "list_notifications")]
    async fn list(
        &self,
        auth: Auth,
        /// Only about this
        kind: Query<Option<NotificationKind>>,
        /// `true`: only those that you have not read
        #[oai(default)]
        unread: Query<bool>,
        /// How many at most
        #[oai(
            default = "crate::page::default_limit",
            validator(minimum(value = "1"), maximum(value = "100"))
        )]
        limit: Query<u16>,
        /// `next_cursor` of the page before
        cursor: Query<Option<String>>,
        uri: &Uri,
    ) -> ApiResult<Paged<Notification, NotificationPage>> {
        let page = PageRequest::<Uuid>::new(limit.0, cursor.0.as_deref(), uri)?;
        let filter = Filter {
            kind: kind.0.map(Kind::from),
            unread_only: unread.0,
            before: page.after().copied(),
        };
        let mut conn = self.0.db.pool().acquire().await?;
        let found = notifications::list(&mut conn, auth.user_id, &filter, page.fetch()).await?;
        let unread_count = notifications::unread_count(&mut conn, auth.user_id).await?;
        drop(conn);
        let page = page.reply(found, |row| row.id, Notification::from);
        let tell = |page: Page<Notification>| NotificationPage {
            items: page.items,
            next: page.next,
            next_cursor: page.next_cursor,
            unread_count,
        };
        Ok(page.with(tell))
    }

    /// Mark notifications as read
    ///
    /// Yours, up to and including one of them.
    #[oai(
        path = "/notifications/read",
        method = "post",
        operation_id = "mark_notifications_read"
    )]
    pub(crate) async fn mark_read(&self, auth: Auth, body: JsonBody<NotificationMark>) -> ApiResult<NoContent> {
        let mut tx = self.0.db.begin().await?;
        notifications::mark_read(&mut tx, auth.user_id, body.up_to).await?;
        tx.commit().await?;
        Ok(NoContent::Done)
    }

    /// Read your preferences
    #[oai(
        path = "/notifications/preferences",
        method = "get",
        operation_id = "get_notification_preferences"
    )]
    pub(crate) async fn preferences(&self, auth: Auth) -> ApiResult<Json<Preferences>> {
        let mut conn = self.0.db.pool().acquire().await?;
        let choice = notifications::preferences(&mut conn, auth.user_id).await?;
        Ok(Json(Preferences::from(&choice)))
    }

    /// Change your preferences
    ///
    /// By kind and channel; what is left out stays as it is.
    #[oai(
        path = "/notifications/preferences",
        method = "patch",
        operation_id = "update_notification_preferences"
    )]
    pub(crate) async fn change(&self, auth: Auth, body: JsonBody<PreferencesPatch>) -> ApiResult<Json<Preferences>> {
        let mut tx = self.0.db.begin().await?;
        for (kind, channel, enabled) in body.into_inner().changes() {
            notifications::set_preference(&mut tx, auth.user_id, kind, channel, enabled).await?;
        }
        let choice = notifications::preferences(tx.conn(), auth.user_id).await?;
        tx.commit().await?;
        Ok(Json(Preferences::from(&choice)))
    }

    /// Ask whether to unsubscribe
    ///
    /// The page that mails link to: it has one button. A look at it changes nothing, because mail programs look too.
    #[oai(
        path = "/notifications/unsubscribe",
        method = "get",
        operation_id = "ask_to_unsubscribe"
    )]
    async fn ask(
        &self,
        /// As the mail's link has it
        #[oai(validator(min_length = 1, max_length = 512))]
        token: Query<String>,
    ) -> ApiResult<Html<String>> {
        let mut conn = self.0.db.pool().acquire().await?;
        let (_, kind) = notifications::read_token(&mut conn, &token.0).await?;
        let question = format!("No more mails about {}?", plural(kind));
        let button = "<form method=\"post\"><button>Unsubscribe</button></form>";
        Ok(page(&question, button))
    }

    /// Unsubscribe
    ///
    /// Ends mails of one kind to one reader, as the token says; no sign-in is needed. This is also the one-click address
    /// of RFC 8058 in the `List-Unsubscribe` header. `PATCH /notifications/preferences` takes it back.
    #[oai(path = "/notifications/unsubscribe", method = "post", operation_id = "unsubscribe")]
    async fn unsubscribe(
        &self,
        /// As the mail's link has it
        #[oai(validator(min_length = 1, max_length = 512))]
        token: Query<String>,
        _form: OneClick,
    ) -> ApiResult<Html<String>> {
        let mut tx = self.0.db.begin().await?;
        let kind = notifications::unsubscribe(&mut tx, &token.0).await?;
        tx.commit().await?;
        let done = format!("You get no more mails about {}.", plural(kind));
        Ok(page(&done, "<p>You can change that in your preferences.</p>"))
    }
}

const fn plural(kind: Kind) -> &'static str {
    match kind {
        Kind::Booking => "bookings",
        Kind::Message => "messages",
        Kind::Review => "reviews",
    }
}

/// Nothing in it comes from outside.
fn page(heading: &str, body: &str) -> Html<String> {
    Html(format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><meta name=\"color-scheme\" content=\"light dark\">\
         <meta name=\"robots\" content=\"noindex\"><title>{heading}</title></head>\
         <body><h1>{heading}</h1>{body}</body></html>\n"
    ))
}

impl From<NotificationError> for ApiError {
    fn from(error: NotificationError) -> Self {
        match error {
            NotificationError::NoSuchNotification => Self::not_found("notification"),
            NotificationError::BookingMail => {
                Self::invalid(vec![FieldError::new("booking.email", "cannot be switched off")])
            }
            NotificationError::InvalidToken => Self::unprocessable("unsubscribe_token_invalid", "")
                .with_errors(vec![FieldError::new("token", "must be that of a link in a mail")]),
            NotificationError::Database(error) => error.into(),
        }
    }
}
