//! Notifications and preferences in GraphQL.

use async_graphql::{ComplexObject, Context, Object, Result};
use futures::FutureExt;
use roost_shared::notifications::{self, Filter, Kind};
use uuid::Uuid;

use super::bookings::of_party;
use super::caller::{app, auth, identity};
use super::connection::{Page, cost, page_with};
use super::input::Input;
use super::limits::CHANGE;
use crate::error::ApiError;
use crate::page::PageRequest;
use crate::rest::bookings::objects::Booking;
use crate::rest::notifications::{
    Notification, NotificationKind, NotificationMark, NotificationsApi, Preferences, PreferencesPatch,
};

/// What can be read of notifications.
#[derive(Default)]
pub struct NotificationQueries;

/// What can be done with notifications.
#[derive(Default)]
pub struct NotificationMutations;

#[ComplexObject]
impl Notification {
    /// What it happened to
    async fn booking(&self, ctx: &Context<'_>) -> Result<Booking> {
        of_party(ctx, self.booking_id).await
    }
}

/// What a page of notifications tells beside them.
pub struct Unread;

#[Object]
impl Unread {
    /// How many you have not read, of any kind, on this page or not
    async fn unread_count(&self, ctx: &Context<'_>) -> Result<i64> {
        let user_id = identity(ctx)?.user_id;
        let mut conn = app(ctx)?.db.pool().acquire().await.map_err(ApiError::from)?;
        let count = notifications::unread_count(&mut conn, user_id).await;
        Ok(count.map_err(ApiError::from)?)
    }
}

#[Object]
impl NotificationQueries {
    /// List your notifications, newest first
    #[graphql(complexity = "cost(first, child_complexity)")]
    async fn notifications(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Only about this")] kind: Option<NotificationKind>,
        #[graphql(default, desc = "Only those that you have not read")] unread: bool,
        #[graphql(default = 20, desc = "How many at most: 1 to 100")] first: i32,
        #[graphql(desc = "The cursor of the last item of the page before")] after: Option<String>,
    ) -> Result<Page<Notification, Unread>> {
        let user_id = identity(ctx)?.user_id;
        let request = PageRequest::<Uuid>::of_connection(first, after.as_deref())?;
        let mut conn = app(ctx)?.db.pool().acquire().await.map_err(ApiError::from)?;
        let filter = Filter {
            kind: kind.map(Kind::from),
            unread_only: unread,
            before: request.after().copied(),
        };
        let found = notifications::list(&mut conn, user_id, &filter, request.fetch())
            .await
            .map_err(ApiError::from)?;
        Ok(page_with(Unread, &request, found, |row| row.id, Notification::from))
    }

    /// What you want to be told, and how
    async fn notification_preferences(&self, ctx: &Context<'_>) -> Result<Preferences> {
        let notifications = NotificationsApi(app(ctx)?.clone());
        Ok(notifications.preferences(auth(ctx)?).boxed().await?.0)
    }
}

#[Object]
impl NotificationMutations {
    /// Mark your notifications as read, up to and including one of them
    #[graphql(complexity = "CHANGE + child_complexity")]
    async fn mark_notifications_read(&self, ctx: &Context<'_>, input: Input<NotificationMark>) -> Result<bool> {
        let notifications = NotificationsApi(app(ctx)?.clone());
        notifications.mark_read(auth(ctx)?, input.into_body()).boxed().await?;
        Ok(true)
    }

    /// Change what you want to be told, and how, by kind and channel. What is left out, or null, stays
    #[graphql(complexity = "CHANGE + child_complexity")]
    async fn update_notification_preferences(
        &self,
        ctx: &Context<'_>,
        input: Input<PreferencesPatch>,
    ) -> Result<Preferences> {
        let notifications = NotificationsApi(app(ctx)?.clone());
        Ok(notifications.change(auth(ctx)?, input.into_body()).boxed().await?.0)
    }
}
