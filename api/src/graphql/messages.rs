//! Messages between guest and host in GraphQL.

use async_graphql::{Context, Object, Result};
use futures::FutureExt;
use poem_openapi::param::Path;
use uuid::Uuid;

use super::caller::{app, auth, identity};
use super::connection::{Page, cost, page, replayed};
use super::input::Input;
use super::limits::CHANGE;
use crate::idempotency::Idempotency;
use crate::page::PageRequest;
use crate::rest::messages::{Message, MessagesApi, NewMessage, ReadMark, show};

/// What can be read of messages.
#[derive(Default)]
pub struct MessageQueries;

/// What can be done with messages.
#[derive(Default)]
pub struct MessageMutations;

#[Object]
impl MessageQueries {
    /// List the messages of a booking, newest first, for its guest and its host. Reading marks no message as read; the
    /// notification of what is on the page is
    #[graphql(complexity = "cost(first, child_complexity)")]
    async fn messages(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The booking")] id: Uuid,
        #[graphql(default = 20, desc = "How many at most: 1 to 100")] first: i32,
        #[graphql(desc = "The cursor of the last item of the page before")] after: Option<String>,
    ) -> Result<Page<Message>> {
        let user_id = identity(ctx)?.user_id;
        let request = PageRequest::<Uuid>::of_connection(first, after.as_deref())?;
        let found = show(app(ctx)?, user_id, id, &request).boxed().await?;
        Ok(page(
            &request,
            found,
            |row| row.id,
            |row| Message::seen_by(row, user_id),
        ))
    }
}

#[Object]
impl MessageMutations {
    /// Write to the other side of a booking. What is not read within ten minutes is mailed
    #[graphql(complexity = "CHANGE + child_complexity")]
    async fn create_message(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The booking")] id: Uuid,
        input: Input<NewMessage>,
        #[graphql(desc = "The same key gets the first reply again, for 24 hours")] idempotency_key: Option<String>,
    ) -> Result<Message> {
        let name = format!("createMessage {id}");
        let idempotency = Idempotency::of_operation(idempotency_key.as_deref(), &name)?;
        let messages = MessagesApi(app(ctx)?.clone());
        let reply = messages
            .create(auth(ctx)?, idempotency, Path(id), input.into_body())
            .boxed()
            .await?;
        replayed(ctx, reply)
    }

    /// Mark what the other side wrote as read, up to and including a message
    #[graphql(complexity = "CHANGE + child_complexity")]
    async fn mark_messages_read(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The booking")] id: Uuid,
        input: Input<ReadMark>,
    ) -> Result<bool> {
        let messages = MessagesApi(app(ctx)?.clone());
        messages
            .mark_read(auth(ctx)?, Path(id), input.into_body())
            .boxed()
            .await?;
        Ok(true)
    }
}
