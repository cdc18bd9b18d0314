//! A mail and a reader's locale become a subject, a text and an HTML part saying the same.
//!
//! Text from people is text: control characters (line breaks too) and direction overrides become
//! spaces before a template sees them, and the HTML templates escape.

use std::sync::LazyLock;

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use chrono_tz::Tz;
use minijinja::{Environment, ErrorKind, UndefinedBehavior, context};
use roost_shared::{
    locale::Locale,
    money::{Currency, Money},
};
use serde_json::Value;

use super::mails::Mail;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// One line.
    pub subject: String,
    pub text: String,
    pub html: String,
    /// For the header by which mail programs unsubscribe.
    pub unsubscribe_url: Option<String>,
}

/// A template and its struct disagree: a defect of the program, not of the data.
#[derive(Debug, thiserror::Error)]
#[error("the mail {mail} cannot be rendered")]
pub struct RenderError {
    mail: &'static str,
    source: minijinja::Error,
}

/// The texts are English; amounts, dates and times are written the way of `locale`.
pub fn render(mail: &Mail, locale: Locale) -> Result<Rendered, RenderError> {
    render_parts(mail, locale).map_err(|source| RenderError {
        mail: mail.name(),
        source,
    })
}

fn render_parts(mail: &Mail, locale: Locale) -> Result<Rendered, minijinja::Error> {
    let (reader, action_url) = mail.reader_and_action();
    let facts = context! {
        locale => locale.tag(),
        reader => single_line(reader),
        action_url,
        // UTC where no property lends its zone.
        time_zone => mail.stay().map_or(Tz::UTC, |stay| stay.time_zone).name(),
        nights => mail.stay().map_or(0, super::mails::Stay::nights),
        ..minijinja::Value::from_serialize(plain(to_json(mail)?))
    };
    let part = |file: &str, facts: &minijinja::Value| {
        TEMPLATES
            .get_template(&format!("{}/{file}", mail.name()))?
            .render(facts)
    };
    let subject = single_line(part("subject.txt", &facts)?.trim());
    let facts = context! { subject => subject, ..facts };
    Ok(Rendered {
        text: part("body.txt", &facts)?,
        html: part("body.html", &facts)?,
        subject,
        unsubscribe_url: mail.unsubscribe_url().map(single_line),
    })
}

fn to_json(mail: &Mail) -> Result<Value, minijinja::Error> {
    serde_json::to_value(mail).map_err(|error| minijinja::Error::new(ErrorKind::BadSerialization, error.to_string()))
}

fn plain(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(single_line(&text)),
        Value::Array(items) => items.into_iter().map(plain).collect(),
        Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, plain(value))).collect(),
        other => other,
    }
}

/// Without control characters, line and paragraph separators and the marks that turn the reading
/// direction, with which a name could pretend to be another line or another address.
pub(super) fn single_line(text: &str) -> String {
    let turns = |c: char| matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}');
    let spaced = text.replace(|c: char| c.is_control() || turns(c), " ");
    spaced.trim().to_owned()
}

macro_rules! mail_templates {
    ($($mail:literal),* $(,)?) => {
        &[
            ("layout.html", include_str!("../../templates/layout.html")),
            ("layout.txt", include_str!("../../templates/layout.txt")),
            ("stay.html", include_str!("../../templates/stay.html")),
            ("stay.txt", include_str!("../../templates/stay.txt")),
            $(
                (concat!($mail, "/subject.txt"), include_str!(concat!("../../templates/", $mail, "/subject.txt"))),
                (concat!($mail, "/body.txt"), include_str!(concat!("../../templates/", $mail, "/body.txt"))),
                (concat!($mail, "/body.html"), include_str!(concat!("../../templates/", $mail, "/body.html"))),
            )*
        ]
    };
}

const FILES: &[(&str, &str)] = mail_templates![
    "verify-email",
    "booking-requested-host",
    "booking-confirmed-guest",
    "booking-confirmed-host",
    "payment-failed",
    "booking-cancelled-guest",
    "booking-cancelled-host",
    "booking-expired",
    "booking-declined",
    "booking-no-show",
    "review-invitation",
    "review-reminder",
    "review-hidden",
    "review-shown",
    "unread-messages",
    "payment-lost-guest",
    "payment-lost-host",
    "refund-failed",
];

static TEMPLATES: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_keep_trailing_newline(true);
    environment.set_loader(|name| {
        Ok(FILES
            .iter()
            .find(|(file, _)| *file == name)
            .map(|(_, source)| (*source).to_owned()))
    });
    environment.add_filter("money", money);
    environment.add_filter("long_date", long_date);
    environment.add_filter("time_of_day", time_of_day);
    environment.add_filter("moment", moment);
    environment.add_filter("counted", counted);
    environment
});

fn fact(state: &minijinja::State, name: &str) -> Result<String, minijinja::Error> {
    state
        .lookup(name)
        .and_then(|value| value.as_str().map(str::to_owned))
        .ok_or_else(|| minijinja::Error::new(ErrorKind::UndefinedError, name.to_owned()))
}

fn reader_locale(state: &minijinja::State) -> Result<Locale, minijinja::Error> {
    Ok(Locale::from(fact(state, "locale")?.as_str()))
}

fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, minijinja::Error> {
    text.parse()
        .map_err(|error: T::Err| minijinja::Error::new(ErrorKind::InvalidOperation, format!("{text}: {error}")))
}

/// `{{ total_minor | money(currency) }}`
fn money(state: &minijinja::State, minor: i64, currency: &str) -> Result<String, minijinja::Error> {
    let currency: Currency = parsed(currency)?;
    Ok(Money::new(minor, currency).format(reader_locale(state)?))
}

/// `{{ stay.check_in | long_date }}`
fn long_date(state: &minijinja::State, date: &str) -> Result<String, minijinja::Error> {
    Ok(reader_locale(state)?.long_date(parsed::<NaiveDate>(date)?))
}

/// `{{ stay.check_in_from | time_of_day }}`
fn time_of_day(state: &minijinja::State, time: &str) -> Result<String, minijinja::Error> {
    Ok(reader_locale(state)?.time_of_day(parsed::<NaiveTime>(time)?))
}

/// An instant on the property's clock: `Saturday, June 1, 2030, 3:45 PM (CEST)`.
fn moment(state: &minijinja::State, instant: &str) -> Result<String, minijinja::Error> {
    let zone: Tz = parsed(&fact(state, "time_zone")?)?;
    let local = parsed::<DateTime<Utc>>(instant)?.with_timezone(&zone);
    let locale = reader_locale(state)?;
    let (date, time) = (locale.long_date(local.date_naive()), locale.time_of_day(local.time()));
    Ok(format!("{date}, {time} ({})", local.format("%Z")))
}

/// `{{ nights | counted("night") }}`: `1 night`, `3 nights`.
fn counted(number: i64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}
