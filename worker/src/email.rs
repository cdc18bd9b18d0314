//! Mail to guests and hosts: what each mail says ([`mails`]), how it reads ([`render`]) and how it
//! leaves ([`Mailer`]). No database here: a job loads the facts, fills a struct and sends it.
//!
//! ```
//! # use roost_worker::email::{Links, Mail, VerifyEmail, render};
//! # use chrono::{TimeZone, Utc};
//! let links = Links::new("https://api.roost.example", "https://roost.example");
//! let mail = Mail::VerifyEmail(VerifyEmail {
//!     name: "Ada".into(),
//!     verify_url: links.verify_email("t0ken"),
//!     expires_at: Utc.with_ymd_and_hms(2030, 6, 2, 9, 30, 0).single().expect("an instant"),
//! });
//! let rendered = render(&mail, "en".into())?;
//! assert_eq!(rendered.subject, "Confirm your e-mail address");
//! assert!(rendered.text.contains("https://api.roost.example/auth/verify-email?token=t0ken"));
//! # Ok::<(), roost_worker::email::RenderError>(())
//! ```

mod links;
mod mails;
mod render;
mod smtp;
mod smtp_url;
#[cfg(test)]
mod tests;

pub use self::{
    links::Links,
    mails::{
        BookingCancelledGuest, BookingCancelledHost, BookingConfirmedGuest, BookingConfirmedHost, BookingDeclined,
        BookingExpired, BookingNoShow, BookingRequestedHost, CancelledBy, Expiry, Mail, PaymentFailed,
        PaymentLostGuest, PaymentLostHost, PriceLine, QuotedMessage, RefundFailed, ReviewInvitation, ReviewModerated,
        ReviewReminder, Stay, UnreadMessages, VerifyEmail,
    },
    render::{RenderError, Rendered, render},
    smtp::{MailError, Mailer, mailbox},
    smtp_url::SmtpUrlError,
};
