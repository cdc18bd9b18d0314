//! Mails that ask for a review, or tell what a moderator decided about one.

use roost_shared::bookings;
use roost_shared::jobs::catalogue::MailKind;
use roost_shared::notifications::Kind;
use roost_shared::reviews::{self, Side};
use uuid::Uuid;

use super::{Reader, first_name, place, reader, stay, unsubscribe_url};
use crate::context::Context;
use crate::email::{Mail, ReviewInvitation, ReviewModerated, ReviewReminder};
use crate::error::JobError;

/// An invitation or a reminder, as long as its reader may still write and has not.
pub(super) async fn about_review(
    ctx: &Context,
    kind: MailKind,
    booking_id: Uuid,
) -> Result<Option<(Reader, Mail)>, JobError> {
    let mut connection = ctx.db.pool().acquire().await?;
    let Some(booking) = bookings::get(&mut connection, booking_id).await? else {
        return Ok(None);
    };
    let (writes, reader_id, other_id) = match kind {
        MailKind::ReviewInvitationHost | MailKind::ReviewReminderHost => {
            (Side::Host, booking.host_id, booking.guest_id)
        }
        _ => (Side::Guest, booking.guest_id, booking.host_id),
    };
    let awaited = reviews::awaited(&mut connection, booking_id, ctx.clock().now()).await?;
    let Some((closes_at, _)) = awaited.filter(|(_, sides)| sides.contains(&writes)) else {
        return Ok(None);
    };
    let Some(reader) = reader(&mut connection, reader_id).await? else {
        return Ok(None);
    };
    let Some(unsubscribe_url) = unsubscribe_url(ctx, &mut connection, reader_id, Kind::Review).await? else {
        return Ok(None);
    };
    let other_name = first_name(&mut connection, other_id).await?;
    let place = place(&mut connection, booking.property_id).await?;
    let name = reader.name.clone();
    let (stay, booking_url) = (stay(&booking, &place), ctx.links.booking(booking.id));
    let reminds = matches!(kind, MailKind::ReviewReminderGuest | MailKind::ReviewReminderHost);
    let mail = if reminds {
        Mail::ReviewReminder(ReviewReminder {
            name,
            other_name,
            writes,
            stay,
            closes_at,
            booking_url,
            unsubscribe_url,
        })
    } else {
        Mail::ReviewInvitation(ReviewInvitation {
            name,
            other_name,
            writes,
            stay,
            closes_at,
            booking_url,
            unsubscribe_url,
        })
    };
    Ok(Some((reader, mail)))
}

/// What a moderator decided about a review, for its author, unless it has been decided otherwise since.
pub(super) async fn decided(ctx: &Context, decision_id: Uuid) -> Result<Option<(Reader, Mail)>, JobError> {
    let mut connection = ctx.db.pool().acquire().await?;
    let Some(decision) = reviews::standing_decision(&mut connection, decision_id).await? else {
        return Ok(None);
    };
    let Some(review) = reviews::get(&mut connection, decision.review_id).await? else {
        return Ok(None);
    };
    let Some(booking) = bookings::get(&mut connection, review.booking_id).await? else {
        return Ok(None);
    };
    let Some(reader) = reader(&mut connection, review.author_id).await? else {
        return Ok(None);
    };
    let Some(unsubscribe_url) = unsubscribe_url(ctx, &mut connection, review.author_id, Kind::Review).await? else {
        return Ok(None);
    };
    let other_name = first_name(&mut connection, review.subject_id).await?;
    let place = place(&mut connection, booking.property_id).await?;
    let told = ReviewModerated {
        name: reader.name.clone(),
        other_name,
        writes: review.side,
        stay: stay(&booking, &place),
        text: review.text,
        reason: decision.reason,
        booking_url: ctx.links.booking(booking.id),
        unsubscribe_url,
    };
    let mail = if decision.hides {
        Mail::ReviewHidden(told)
    } else {
        Mail::ReviewShown(told)
    };
    Ok(Some((reader, mail)))
}
