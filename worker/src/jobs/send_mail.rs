//! `mail.send`: writes one mail and hands it to the SMTP server. At least once: a crash between the server's answer
//! and our commit repeats it, with the same Message-ID.

mod about_review;
mod unread_messages;

use chrono::{DateTime, Utc};
use roost_shared::bookings::{self, Booking, BookingState, Side};
use roost_shared::jobs::catalogue::{MailKind, SendMail};
use roost_shared::jobs::crash_point::{self, Boundary};
use roost_shared::jobs::effects;
use roost_shared::jobs::{FinishedEffect, Lease};
use roost_shared::locale::Locale;
use roost_shared::notifications::{self, Channel, Kind};
use roost_shared::payments::{self, Payment};
use roost_shared::users;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::context::Context;
use crate::email::{
    BookingCancelledGuest, BookingCancelledHost, BookingConfirmedGuest, BookingConfirmedHost, BookingDeclined,
    BookingExpired, BookingRequestedHost, CancelledBy, Expiry, Mail, MailError, PaymentFailed, PaymentLostGuest,
    PaymentLostHost, PriceLine, RefundFailed, Stay, VerifyEmail, mailbox, render,
};
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
                crash_point::reach(lease.job_id, Boundary::AfterCall);
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
        MailKind::UnreadMessages => unread_messages::unread_messages(ctx, job.subject_id).await,
        MailKind::RefundFailed => refund_failed(ctx, job.subject_id).await,
        mail => about_booking(ctx, mail, job.subject_id).await,
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

/// Whether a booking in this state is still what the mail says of it: a mail may come late.
fn still_holds(kind: MailKind, state: BookingState) -> bool {
    match kind {
        MailKind::BookingConfirmedGuest | MailKind::BookingConfirmedHost => state.is_bound(),
        MailKind::BookingRequestedHost => state == BookingState::PendingApproval,
        MailKind::BookingExpired => matches!(state, BookingState::Expired | BookingState::PaymentFailed),
        MailKind::PaymentLostGuest | MailKind::PaymentLostHost => state == BookingState::PaymentFailed,
        MailKind::BookingDeclined => state == BookingState::Declined,
        MailKind::BookingCancelledGuest | MailKind::BookingCancelledHost => {
            matches!(state, BookingState::CancelledByGuest | BookingState::CancelledByHost)
        }
        MailKind::PaymentTooLate => !state.is_bound(),
        MailKind::VerifyEmail
        | MailKind::PaymentFailed
        | MailKind::RefundFailed
        | MailKind::ReviewInvitationGuest
        | MailKind::ReviewInvitationHost
        | MailKind::ReviewReminderGuest
        | MailKind::ReviewReminderHost
        | MailKind::UnreadMessages => true,
    }
}

async fn about_booking(ctx: &Context, kind: MailKind, booking_id: Uuid) -> Result<Option<(Reader, Mail)>, JobError> {
    let mut connection = ctx.db.pool().acquire().await?;
    let booking = bookings::get(&mut connection, booking_id).await?;
    let Some(booking) = booking.filter(|booking| still_holds(kind, booking.state)) else {
        return Ok(None);
    };
    let side = match kind {
        MailKind::BookingConfirmedHost
        | MailKind::BookingRequestedHost
        | MailKind::BookingCancelledHost
        | MailKind::PaymentLostHost => Side::Host,
        _ => Side::Guest,
    };
    let (reader_id, other_id) = match side {
        Side::Guest => (booking.guest_id, booking.host_id),
        Side::Host => (booking.host_id, booking.guest_id),
    };
    let Some(reader) = reader(&mut connection, reader_id).await? else {
        return Ok(None);
    };
    let other = first_name(&mut connection, other_id).await?;
    let place = place(&mut connection, booking.property_id).await?;
    let payment = payments::latest_of(&mut connection, booking.id).await?;
    drop(connection);
    let names = match side {
        Side::Guest => Names {
            guest: reader.name.clone(),
            host: other,
        },
        Side::Host => Names {
            guest: other,
            host: reader.name.clone(),
        },
    };
    let mail = booking_mail(ctx, kind, &booking, payment.as_ref(), &place, names);
    Ok(mail.map(|mail| (reader, mail)))
}

struct Names {
    guest: String,
    host: String,
}

fn booking_mail(
    ctx: &Context,
    kind: MailKind,
    booking: &Booking,
    payment: Option<&Payment>,
    place: &Place,
    Names {
        guest: guest_name,
        host: host_name,
    }: Names,
) -> Option<Mail> {
    let stay = stay(booking, place);
    let booking_url = ctx.links.booking(booking.id);
    let search_url = ctx.links.properties();
    let (currency, total_minor) = (booking.currency, booking.total_minor);
    let payout_minor = payout(booking);
    let message = booking.message.clone();
    Some(match kind {
        MailKind::BookingConfirmedGuest => Mail::BookingConfirmedGuest(BookingConfirmedGuest {
            guest_name,
            host_name,
            stay,
            lines: booking
                .price_lines
                .iter()
                .map(|line| PriceLine {
                    label: line.label.clone(),
                    amount_minor: line.amount_minor,
                })
                .collect(),
            total_minor,
            currency,
            house_rules: Some(place.house_rules.clone()).filter(|rules| !rules.is_empty()),
            booking_url,
        }),
        MailKind::BookingConfirmedHost => Mail::BookingConfirmedHost(BookingConfirmedHost {
            host_name,
            guest_name,
            stay,
            total_minor,
            host_fee_minor: booking.host_fee_minor,
            payout_minor,
            currency,
            arrival_time: booking.arrival_time,
            message,
            booking_url,
        }),
        MailKind::BookingRequestedHost => Mail::BookingRequestedHost(BookingRequestedHost {
            host_name,
            guest_name,
            stay,
            payout_minor,
            currency,
            message,
            approve_by: booking.approval_expires_at?,
            booking_url,
        }),
        MailKind::BookingCancelledGuest | MailKind::BookingCancelledHost => {
            cancelled(kind, booking, payment, stay, guest_name, host_name, booking_url)?
        }
        MailKind::BookingExpired | MailKind::PaymentTooLate => Mail::BookingExpired(BookingExpired {
            guest_name,
            host_name,
            stay,
            because: if kind == MailKind::PaymentTooLate {
                Expiry::PaidTooLate
            } else if booking.approval_expires_at.is_some() {
                Expiry::Unanswered
            } else {
                Expiry::Unpaid
            },
            search_url,
        }),
        MailKind::PaymentLostGuest => Mail::PaymentLostGuest(PaymentLostGuest {
            guest_name,
            stay,
            total_minor,
            currency,
            search_url,
        }),
        MailKind::PaymentLostHost => Mail::PaymentLostHost(PaymentLostHost {
            host_name,
            guest_name,
            stay,
            booking_url,
        }),
        MailKind::BookingDeclined => Mail::BookingDeclined(BookingDeclined {
            guest_name,
            host_name,
            stay,
            message: None,
            search_url,
        }),
        MailKind::VerifyEmail
        | MailKind::PaymentFailed
        | MailKind::RefundFailed
        | MailKind::ReviewInvitationGuest
        | MailKind::ReviewInvitationHost
        | MailKind::ReviewReminderGuest
        | MailKind::ReviewReminderHost
        | MailKind::UnreadMessages => return None,
    })
}

fn cancelled(
    kind: MailKind,
    booking: &Booking,
    payment: Option<&Payment>,
    stay: Stay,
    guest_name: String,
    host_name: String,
    booking_url: String,
) -> Option<Mail> {
    let by_host = booking.state == BookingState::CancelledByHost;
    let cancelled_by = if by_host { CancelledBy::Host } else { CancelledBy::Guest };
    // The decision again, as it was at that instant.
    let before = Booking {
        state: if booking.confirmed_at.is_some() {
            BookingState::Confirmed
        } else {
            BookingState::Held
        },
        ..booking.clone()
    };
    let decision = bookings::cancellation(&before, by_host, booking.cancelled_at?);
    let bound = booking.confirmed_at.is_some() && payment.is_some_and(|payment| payment.state.is_live());
    let paid_minor = if bound { booking.total_minor } else { 0 };
    let refund_minor = if bound { decision.total(&booking.price_lines) } else { 0 };
    let kept = if booking.total_minor > 0 {
        let (payout, kept, total) = (
            i128::from(payout(booking)),
            i128::from(paid_minor - refund_minor),
            i128::from(booking.total_minor),
        );
        i64::try_from((2 * payout * kept + total) / (2 * total)).unwrap_or(0)
    } else {
        0
    };
    let rule = decision.explanation.to_owned();
    let currency = booking.currency;
    Some(if kind == MailKind::BookingCancelledGuest {
        Mail::BookingCancelledGuest(BookingCancelledGuest {
            guest_name,
            host_name,
            stay,
            cancelled_by,
            paid_minor,
            refund_minor,
            currency,
            rule,
            booking_url,
        })
    } else {
        Mail::BookingCancelledHost(BookingCancelledHost {
            host_name,
            guest_name,
            stay,
            cancelled_by,
            paid_minor,
            refund_minor,
            payout_minor: kept,
            currency,
            rule,
            booking_url,
        })
    })
}

/// What the host receives of a booking that takes place.
fn payout(booking: &Booking) -> i64 {
    use roost_shared::properties::pricing::LineKind;
    let guest_fee: i64 = booking
        .price_lines
        .iter()
        .filter(|line| line.kind == LineKind::GuestServiceFee)
        .map(|line| line.amount_minor)
        .sum();
    booking.total_minor - guest_fee - booking.host_fee_minor
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
