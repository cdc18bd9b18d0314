//! The mail that quotes what somebody has not read.

use roost_shared::messages;
use roost_shared::notifications::Kind;
use uuid::Uuid;

use super::{Reader, reader, unsubscribe_url};
use crate::context::Context;
use crate::email::{Mail, QuotedMessage, UnreadMessages};
use crate::error::JobError;

/// Everything of a digest that is still unread; nothing once all of it was read.
pub(super) async fn unread_messages(ctx: &Context, digest_id: Uuid) -> Result<Option<(Reader, Mail)>, JobError> {
    let mut connection = ctx.db.pool().acquire().await?;
    let Some(digest) = messages::digest(&mut connection, digest_id).await? else {
        return Ok(None);
    };
    let Some(reader) = reader(&mut connection, digest.recipient_id).await? else {
        return Ok(None);
    };
    let Some(unsubscribe_url) = unsubscribe_url(ctx, &mut connection, digest.recipient_id, Kind::Message).await? else {
        return Ok(None);
    };
    let first = digest.messages.first().map(|message| message.booking_id);
    let mail = Mail::UnreadMessages(UnreadMessages {
        name: reader.name.clone(),
        count: digest.count,
        messages: digest
            .messages
            .into_iter()
            .map(|message| QuotedMessage {
                sender_name: first_word(&message.sender_name),
                property_title: message.property_title,
                text: message.text,
            })
            .collect(),
        booking_url: first.map_or_else(|| ctx.links.properties(), |booking_id| ctx.links.booking(booking_id)),
        unsubscribe_url,
    });
    Ok(Some((reader, mail)))
}

/// What the other side may know of a person.
fn first_word(name: &str) -> String {
    name.split_whitespace().next().unwrap_or("Somebody").to_owned()
}
