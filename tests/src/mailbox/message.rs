//! A delivered message, taken apart with mail-parser.

use chrono::{DateTime, Utc};
use mail_parser::{MessageParser, decoders::html::html_to_text};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Counts from 1 in the order of arrival.
    pub id: u64,
    pub received_at: DateTime<Utc>,
    /// The `From` header, such as `Roost <stay@roost.example>`.
    pub from: String,
    /// The recipients of the envelope, in lower case: those who get the message, whatever `To` says.
    pub to: Vec<String>,
    pub subject: String,
    /// Without angle brackets.
    pub message_id: Option<String>,
    /// Every header as sent, unfolded, in order.
    pub headers: Vec<(String, String)>,
    pub text: Option<String>,
    pub html: Option<String>,
    /// The addresses the message links to, each once, in order.
    pub links: Vec<String>,
    /// As it came over the wire, dots unstuffed.
    #[serde(skip)]
    pub raw: Vec<u8>,
}

impl Message {
    pub(super) fn parse(id: u64, received_at: DateTime<Utc>, to: &[String], raw: Vec<u8>) -> Self {
        let to = to.iter().map(|address| address.to_lowercase()).collect();
        let empty = Self {
            id,
            received_at,
            from: String::new(),
            to,
            subject: String::new(),
            message_id: None,
            headers: Vec::new(),
            text: None,
            html: None,
            links: Vec::new(),
            raw: Vec::new(),
        };
        let Some(parsed) = MessageParser::default().parse(&raw) else {
            return Self { raw, ..empty };
        };
        // The getters of mail-parser make a text part out of HTML and the other way round: only a
        // part that was sent counts here.
        let of_type = |subtype: &str| {
            parsed.parts.iter().find_map(|part| {
                let is_type = mail_parser::MimeHeaders::content_type(part)
                    .is_some_and(|sent| sent.subtype().is_some_and(|name| name.eq_ignore_ascii_case(subtype)));
                part.text_contents().filter(|_| is_type).map(str::to_owned)
            })
        };
        let html = of_type("html");
        // A message without MIME headers is plain text.
        let text = of_type("plain").or_else(|| match html {
            None => parsed.body_text(0).map(std::borrow::Cow::into_owned),
            Some(_) => None,
        });
        let headers = parsed
            .headers_raw()
            .map(|(name, value)| (name.to_owned(), unfolded(value)))
            .collect();
        let from = parsed
            .from()
            .and_then(|from| from.first())
            .map(written)
            .unwrap_or_default();
        let subject = parsed.subject().unwrap_or_default().to_owned();
        let message_id = parsed.message_id().map(str::to_owned);
        drop(parsed);
        let links = links(text.as_deref(), html.as_deref());
        Self {
            from,
            subject,
            message_id,
            headers,
            text,
            html,
            links,
            raw,
            ..empty
        }
    }

    /// Whether the address is among the recipients, in any case.
    pub fn is_to(&self, address: &str) -> bool {
        self.to.iter().any(|recipient| recipient.eq_ignore_ascii_case(address))
    }

    /// The first header of that name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(header, _)| header.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The first link that contains `part`, such as `verify-email?token=`.
    pub fn link(&self, part: &str) -> Option<&str> {
        self.links.iter().find(|link| link.contains(part)).map(String::as_str)
    }
}

fn written(address: &mail_parser::Addr) -> String {
    let email = address.address().unwrap_or_default();
    match address.name() {
        Some(name) => format!("{name} <{email}>"),
        None => email.to_owned(),
    }
}

fn unfolded(value: &str) -> String {
    value
        .split(['\r', '\n'])
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

fn links(text: Option<&str>, html: Option<&str>) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let hrefs = html.into_iter().flat_map(|html| html.split("href=\"").skip(1));
    let hrefs = hrefs.filter_map(|rest| rest.split('"').next());
    for href in hrefs {
        // Attribute values carry entities, as text does.
        found.push(html_to_text(href).trim().to_owned());
    }
    let words = text
        .into_iter()
        .flat_map(|text| text.split([' ', '\n', '\r', '\t', '<', '>', '"']));
    for word in words.filter(|word| word.starts_with("http://") || word.starts_with("https://")) {
        found.push(word.trim_end_matches(['.', ',', ';', ':', ')', '!', '?']).to_owned());
    }
    let mut seen = std::collections::HashSet::new();
    found.retain(|link| link.starts_with("http") && seen.insert(link.clone()));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(raw: &str) -> Message {
        let raw = raw.replace('\n', "\r\n").into_bytes();
        Message::parse(1, DateTime::UNIX_EPOCH, &["Grace@Example.com".to_owned()], raw)
    }

    #[test]
    fn a_multipart_message_is_taken_apart() {
        let message = parsed(
            "From: =?utf-8?b?Um9vc3Q=?= <stay@roost.example>\n\
             To: somebody@else.example\n\
             Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\n folded\n\
             Message-ID: <1@roost.example>\n\
             MIME-Version: 1.0\n\
             Content-Type: multipart/alternative; boundary=x\n\n\
             --x\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n\n\
             See https://roost.example/a?b=3D1&c=3D2.\n\
             --x\nContent-Type: text/html; charset=utf-8\n\n\
             <a href=\"https:&#x2f;&#x2f;roost.example/a?b=1&amp;c=2\">a</a><a href=\"https://roost.example/d\">d</a>\n\
             --x--\n",
        );
        assert_eq!(message.from, "Roost <stay@roost.example>");
        assert_eq!(message.to, ["grace@example.com"]);
        assert!(message.is_to("GRACE@example.com") && !message.is_to("somebody@else.example"));
        assert_eq!(message.subject, "Grüße folded");
        assert_eq!(message.message_id.as_deref(), Some("1@roost.example"));
        assert_eq!(message.header("mime-version"), Some("1.0"));
        assert!(
            message
                .text
                .as_deref()
                .is_some_and(|text| text.starts_with("See https://"))
        );
        assert!(message.html.as_deref().is_some_and(|html| html.starts_with("<a href")));
        assert_eq!(
            message.links,
            ["https://roost.example/a?b=1&c=2", "https://roost.example/d"]
        );
        assert_eq!(message.link("/d"), Some("https://roost.example/d"));
    }

    #[test]
    fn a_bare_message_is_text() {
        let message = parsed("Subject: Hi\n\nhello\n");
        assert_eq!(message.text.as_deref().map(str::trim), Some("hello"));
        assert_eq!(message.html, None);
    }

    #[test]
    fn nonsense_is_kept_as_it_came() {
        let message = parsed("\u{0}\u{1}");
        assert_eq!(message.raw, b"\x00\x01");
        assert_eq!(message.to, ["grace@example.com"]);
    }
}
