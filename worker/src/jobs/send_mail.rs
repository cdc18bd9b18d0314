//! `mail.send`: writes one mail and hands it to the SMTP server. At least once: a crash between the server's answer
//! and our commit repeats it, with the same Message-ID.

mod about_booking;
mod about_review;
mod unread_messages;

use chrono::{DateTime, Utc};
use roost_shared::bookings::{self, Booking, BookingState};
use roost_shared::jobs::catalogue::{MailKind, SendMail};
use roost_shared::jobs::crash_point::{self, Boundary};
use roost_shared::jobs::effects;
use roost_shared::jobs::{FinishedEffect, Lease};
use roost_shared::locale::Locale;
use roost_shared::notifications::{self, Channel, Kind};
use roost_shared::payments;
use roost_shared::users;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::context::Context;
use crate::email::{Mail, MailError, PaymentFailed, RefundFailed, Stay, VerifyEmail, mailbox, render};
use crate::error::JobError;
use crate::handler::{DONE, Done, Handler};

impl Handler for SendMail {
    async fn run(self, ctx: &Context, lease: Lease) -> Result<Done, JobError> {
        let key = match self.mail {
            // Asked for again by a new job, or about what can happen to a booking twice.
            MailKind::VerifyEmail | MailKind::BookingExpired => {
                format!("mail:{}:{}:{}", self.mail.name(), self.subject_id, lease.job_id)
            }
            // Everything else is told once.
            _ => format!("mail:{}:{}", self.mail.name(), self.subject_id),
        };
        let now = ctx.clock().now();
        let effect = effects::begin(ctx.db.pool(), &lease, &key, self.subject_id, now).await?;
        crash_point::reach(lease.job_id, Boundary::AfterIntent("send"));
        if effect.state == "done" {
            return Ok(DONE);
        }
        let Some((reader, mail)) = write(ctx, &lease, &self, &key).await? else {
            let mut tx = ctx.db.begin().await?;
            effects::close(&mut tx, &key, false).await?;
            lease.complete(&mut tx).await?;
            tx.commit().await?;
            return Ok(Done::Settled);
        };
        let rendered =
            render(&mail, Locale::from(reader.locale.as_str())).map_err(|error| JobError::Fail(error.to_string()))?;
        let to = mailbox(&reader.name, &reader.email).map_err(|error| JobError::Fail(error.to_string()))?;
        let message_id = ctx.mailer.message_id(&key);
        match ctx.mailer.send(to, &rendered, &message_id, now).await {
            Ok(()) => {
                crash_point::reach(lease.job_id, Boundary::AfterCall("send"));
                Ok(Done::With(vec![FinishedEffect {
                    key,
                    entity_id: Some(self.subject_id),
                    external_id: Some(message_id),
                    response: None,
                }]))
            }
            Err(error @ MailError::Permanent(_)) => Err(JobError::Fail(error.to_string())),
            Err(error @ MailError::Transient(_)) => Err(JobError::Retry(error.to_string())),
        }
    }
}

/// Who reads a mail.
struct Reader {
    name: String,
    email: String,
    locale: String,
}

/// Loads what the mail says. None: there is nobody to tell, or nothing to say any more.
async fn write(ctx: &Context, lease: &Lease, job: &SendMail, key: &str) -> Result<Option<(Reader, Mail)>, JobError> {
    match job.mail {
        MailKind::VerifyEmail => verify_email(ctx, lease, job.subject_id, key).await,
        MailKind::PaymentFailed => payment_failed(ctx, job.subject_id).await,
        mail @ (MailKind::ReviewInvitationGuest
        | MailKind::ReviewInvitationHost
        | MailKind::ReviewReminderGuest
        | MailKind::ReviewReminderHost) => about_review::about_review(ctx, mail, job.subject_id).await,
        MailKind::ReviewHidden | MailKind::ReviewShown => about_review::decided(ctx, job.subject_id).await,
        MailKind::UnreadMessages => unread_messages::unread_messages(ctx, job.subject_id).await,
        MailKind::RefundFailed => refund_failed(ctx, job.subject_id).await,
        mail => about_booking::about_booking(ctx, mail, job.subject_id).await,
    }
}

/// The token of a verification, the same in every attempt at its mail: whichever of them arrives has to be good.
#[derive(Serialize, Deserialize)]
struct Verification {
    token: String,
    expires_at: DateTime<Utc>,
}

async fn verify_email(
    ctx: &Context,
    lease: &Lease,
    user_id: Uuid,
    key: &str,
) -> Result<Option<(Reader, Mail)>, JobError> {
    let mut tx = ctx.db.begin().await?;
    let Some(reader) = reader(tx.conn(), user_id).await? else {
        return Ok(None);
    };
    let now = tx.now();
    let kept = effects::kept(&mut tx, key).await?;
    let kept = kept.and_then(|kept| serde_json::from_value::<Verification>(kept).ok());
    let verification = match kept.filter(|kept| kept.expires_at > now) {
        Some(kept) => kept,
        None => {
            let Some(token) = users::create_verification(&mut tx, user_id).await? else {
                return Ok(None);
            };
            let verification = Verification {
                token,
                expires_at: users::expires_at(now),
            };
            let kept = serde_json::to_value(&verification).map_err(|error| JobError::Fail(error.to_string()))?;
            effects::keep(&mut tx, key, &kept).await?;
            verification
        }
    };
    lease.guard(&mut tx).await?;
    tx.commit().await?;
    let mail = Mail::VerifyEmail(VerifyEmail {
        name: reader.name.clone(),
        verify_url: ctx.links.verify_email(&verification.token),
        expires_at: verification.expires_at,
    });
    Ok(Some((reader, mail)))
}

async fn payment_failed(ctx: &Context, payment_id: Uuid) -> Result<Option<(Reader, Mail)>, JobError> {
    let mut connection = ctx.db.pool().acquire().await?;
    let Some(payment) = payments::get(&mut connection, payment_id).await? else {
        return Ok(None);
    };
    // Another card can be tried only while the nights are held.
    let booking = bookings::get(&mut connection, payment.booking_id).await?;
    let Some(booking) = booking.filter(|booking| booking.state == BookingState::Held) else {
        return Ok(None);
    };
    let Some(reader) = reader(&mut connection, booking.guest_id).await? else {
        return Ok(None);
    };
    let place = place(&mut connection, booking.property_id).await?;
    let mail = Mail::PaymentFailed(PaymentFailed {
        guest_name: reader.name.clone(),
        stay: stay(&booking, &place),
        total_minor: payment.amount_minor,
        currency: payment.currency,
        reason: payment.failure_message.filter(|reason| !reason.is_empty()),
        hold_expires_at: booking.hold_expires_at,
        booking_url: ctx.links.booking(booking.id),
    });
    Ok(Some((reader, mail)))
}

async fn refund_failed(ctx: &Context, refund_id: Uuid) -> Result<Option<(Reader, Mail)>, JobError> {
    let mut connection = ctx.db.pool().acquire().await?;
    let Some(refund) = payments::refund(&mut connection, refund_id).await? else {
        return Ok(None);
    };
    let Some(payment) = payments::get(&mut connection, refund.payment_id).await? else {
        return Ok(None);
    };
    let Some(booking) = bookings::get(&mut connection, payment.booking_id).await? else {
        return Ok(None);
    };
    let Some(reader) = reader(&mut connection, booking.guest_id).await? else {
        return Ok(None);
    };
    let place = place(&mut connection, booking.property_id).await?;
    let mail = Mail::RefundFailed(RefundFailed {
        guest_name: reader.name.clone(),
        stay: stay(&booking, &place),
        refund_minor: refund.amount_minor,
        currency: payment.currency,
        booking_url: ctx.links.booking(booking.id),
    });
    Ok(Some((reader, mail)))
}

async fn reader(connection: &mut PgConnection, user_id: Uuid) -> Result<Option<Reader>, sqlx::Error> {
    sqlx::query_as!(
        Reader,
        "SELECT full_name AS name, email, locale FROM users WHERE id = $1 AND deleted_at IS NULL",
        user_id
    )
    .fetch_optional(connection)
    .await
}

/// The link by which the reader ends mails of this kind. None: they have.
async fn unsubscribe_url(
    ctx: &Context,
    connection: &mut PgConnection,
    user_id: Uuid,
    kind: Kind,
) -> Result<Option<String>, sqlx::Error> {
    let choice = notifications::preferences(connection, user_id).await?;
    if !choice.wants(kind, Channel::Email) {
        return Ok(None);
    }
    let token = notifications::unsubscribe_token(connection, user_id, kind).await?;
    Ok(Some(ctx.links.unsubscribe(&token)))
}

/// What the other side may know of a person.
async fn first_name(connection: &mut PgConnection, user_id: Uuid) -> Result<String, sqlx::Error> {
    let name = sqlx::query_scalar!("SELECT full_name FROM users WHERE id = $1", user_id)
        .fetch_one(connection)
        .await?;
    Ok(name.split_whitespace().next().unwrap_or_default().to_owned())
}

struct Place {
    title: String,
    city: String,
    house_rules: String,
}

async fn place(connection: &mut PgConnection, property_id: Uuid) -> Result<Place, sqlx::Error> {
    sqlx::query_as!(
        Place,
        "SELECT title, city, house_rules FROM properties WHERE id = $1",
        property_id
    )
    .fetch_one(connection)
    .await
}

fn stay(booking: &Booking, place: &Place) -> Stay {
    Stay {
        booking_id: booking.id,
        property_title: place.title.clone(),
        city: place.city.clone(),
        check_in: booking.check_in,
        check_out: booking.check_out,
        check_in_from: booking.check_in_from,
        check_out_by: booking.check_out_by,
        time_zone: booking.zone(),
        guests: booking.guests,
    }
}
