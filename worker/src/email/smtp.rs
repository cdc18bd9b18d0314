//! Mail over SMTP with lettre, at least once: a connection lost after DATA may have delivered, and the
//! retry then carries the same Message-ID.
//!
//! The connections are kept here because lettre's own pool waits for a silent server without end and
//! reuses a connection whose conversation was cut short: its next mail would read the last one's replies.

use std::{
    fmt,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use lettre::{
    Address, Message,
    address::Envelope,
    message::{Mailbox, MultiPart, header},
    transport::smtp::{
        authentication::DEFAULT_MECHANISMS,
        client::{AsyncSmtpConnection, Tls},
    },
};
use sha2::{Digest, Sha256};

use super::{
    render::{Rendered, single_line},
    smtp_url::{SmtpServer, SmtpUrlError},
};

/// For connecting, and again for the conversation about one mail.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Idle connections beyond this number are closed.
const KEPT: usize = 8;
/// Servers hang up on the idle after some minutes (RFC 5321 4.5.3.2.7: five).
const KEPT_FOR: Duration = Duration::from_secs(60);

/// Why a mail did not leave.
#[derive(Debug, thiserror::Error)]
pub enum MailError {
    /// The server refused this mail for good (5xx), or it cannot be written as a mail at all.
    #[error("the mail was refused for good: {0}")]
    Permanent(String),
    /// Not now: 4xx, no connection, a time-out, a login refused (an operator can mend that).
    #[error("the mail could not be sent now: {0}")]
    Transient(String),
}

/// Sends as one sender through one server. Cheap to clone; the clones share the connections.
#[derive(Clone)]
pub struct Mailer {
    inner: Arc<Inner>,
}

struct Inner {
    server: SmtpServer,
    sender: Mailbox,
    timeout: Duration,
    idle: Mutex<Vec<(Instant, AsyncSmtpConnection)>>,
}

impl Mailer {
    /// `smtp_url` as SMTP_URL, `sender` as MAIL_FROM. Connects when the first mail is sent.
    pub fn from_url(smtp_url: &str, sender: &str) -> Result<Self, SmtpUrlError> {
        Self::with_timeout(smtp_url, sender, TIMEOUT)
    }

    /// With another patience than ten seconds.
    pub fn with_timeout(smtp_url: &str, sender: &str, timeout: Duration) -> Result<Self, SmtpUrlError> {
        Self::through(SmtpServer::parse(smtp_url, None)?, sender, timeout)
    }

    /// Trusting the authorities in a PEM file, as SMTP_CA_FILE, and no others.
    pub fn trusting(ca_file: &Path, smtp_url: &str, sender: &str) -> Result<Self, SmtpUrlError> {
        Self::through(SmtpServer::parse(smtp_url, Some(ca_file))?, sender, TIMEOUT)
    }

    fn through(server: SmtpServer, sender: &str, timeout: Duration) -> Result<Self, SmtpUrlError> {
        let inner = Inner {
            server,
            sender: sender.parse()?,
            timeout,
            idle: Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The Message-ID of an effect: the same for every try, and telling nothing of the key.
    pub fn message_id(&self, effect_key: &str) -> String {
        let digest = hex::encode(&Sha256::digest(effect_key)[..16]);
        format!("<{digest}@{}>", self.inner.sender.email.domain())
    }

    /// Sends one mail, dated `at`. Delivered means the server took charge of it.
    pub async fn send(
        &self,
        to: Mailbox,
        rendered: &Rendered,
        message_id: &str,
        at: DateTime<Utc>,
    ) -> Result<(), MailError> {
        let recipient = to.email.clone();
        let (envelope, bytes) = self.compose(to, rendered, message_id, at)?;
        self.deliver(&envelope, &bytes)
            .await
            .map_err(|error| error.without(&recipient))
    }

    pub(super) fn compose(
        &self,
        to: Mailbox,
        rendered: &Rendered,
        message_id: &str,
        at: DateTime<Utc>,
    ) -> Result<(Envelope, Vec<u8>), MailError> {
        let mut message = Message::builder()
            .from(self.inner.sender.clone())
            .to(Mailbox::new(to.name.map(|name| single_line(&name)), to.email))
            .subject(single_line(&rendered.subject))
            .date(at.into())
            .message_id(Some(single_line(message_id)))
            // RFC 3834: no holiday notices in reply.
            .raw_header(raw_header("Auto-Submitted", "auto-generated".to_owned()));
        if let Some(url) = &rendered.unsubscribe_url {
            // RFC 2369, and RFC 8058: one click, answered by a POST.
            message = message
                .raw_header(raw_header("List-Unsubscribe", format!("<{url}>")))
                .raw_header(raw_header(
                    "List-Unsubscribe-Post",
                    "List-Unsubscribe=One-Click".to_owned(),
                ));
        }
        let message = message
            .multipart(MultiPart::alternative_plain_html(
                rendered.text.clone(),
                rendered.html.clone(),
            ))
            .map_err(|error| MailError::Permanent(error.to_string()))?;
        Ok((message.envelope().clone(), message.formatted()))
    }

    /// A connection is put back only after a whole conversation; one that failed, timed out or was
    /// dropped with this future is closed.
    async fn deliver(&self, envelope: &Envelope, bytes: &[u8]) -> Result<(), MailError> {
        let mut connection = self.connection().await?;
        let reply = tokio::time::timeout(self.inner.timeout, connection.send(envelope, bytes)).await;
        match reply {
            Ok(Ok(_)) => {
                self.keep(connection);
                Ok(())
            }
            // A client error: the address cannot be expressed to this server.
            Ok(Err(error)) if error.is_permanent() || error.is_client() => Err(MailError::Permanent(chain(&error))),
            Ok(Err(error)) => Err(MailError::Transient(chain(&error))),
            Err(_) => Err(self.silent()),
        }
    }

    /// An idle connection that still answers, else a new one.
    async fn connection(&self) -> Result<AsyncSmtpConnection, MailError> {
        while let Some(mut connection) = self.take_idle() {
            let answer = tokio::time::timeout(self.inner.timeout, connection.test_connected());
            if answer.await.is_ok_and(|alive| alive) {
                return Ok(connection);
            }
        }
        match tokio::time::timeout(self.inner.timeout, self.connect()).await {
            // Even a 5xx here is about the server or our login, not about the mail.
            Ok(connected) => connected.map_err(|error| MailError::Transient(chain(&error))),
            Err(_) => Err(self.silent()),
        }
    }

    async fn connect(&self) -> Result<AsyncSmtpConnection, lettre::transport::smtp::Error> {
        let server = &self.inner.server;
        let wrapper = match &server.tls {
            Tls::Wrapper(parameters) => Some(parameters.clone()),
            _ => None,
        };
        let mut connection = AsyncSmtpConnection::connect_tokio1(
            (server.host.as_str(), server.port),
            Some(self.inner.timeout),
            &server.hello,
            wrapper,
            None,
        )
        .await?;
        match &server.tls {
            Tls::Required(parameters) => {
                connection.starttls(parameters.clone(), &server.hello).await?;
            }
            Tls::Opportunistic(parameters) if connection.can_starttls() => {
                connection.starttls(parameters.clone(), &server.hello).await?;
            }
            _ => {}
        }
        if let Some(credentials) = &server.credentials {
            connection.auth(DEFAULT_MECHANISMS, credentials).await?;
        }
        Ok(connection)
    }

    fn take_idle(&self) -> Option<AsyncSmtpConnection> {
        let mut idle = self.inner.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(since, _)| since.elapsed() < KEPT_FOR);
        idle.pop().map(|(_, connection)| connection)
    }

    fn keep(&self, connection: AsyncSmtpConnection) {
        let mut idle = self.inner.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < KEPT && !connection.has_broken() {
            idle.push((Instant::now(), connection));
        }
    }

    fn silent(&self) -> MailError {
        let patience = self.inner.timeout;
        MailError::Transient(format!("no answer from {:?} in {patience:?}", self.inner.server))
    }
}

impl fmt::Debug for Mailer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mailer({} via {:?})", self.inner.sender, self.inner.server)
    }
}

impl MailError {
    /// Servers like to repeat the address in a refusal, in a spelling of their own; errors are kept longer than people's
    /// data may be.
    fn without(self, recipient: &Address) -> Self {
        match self {
            Self::Permanent(text) => Self::Permanent(without_addresses(&text, recipient.user())),
            Self::Transient(text) => Self::Transient(without_addresses(&text, recipient.user())),
        }
    }
}

/// Hides whatever looks like an address, and the name before the recipient's `@` on its own.
fn without_addresses(text: &str, user: &str) -> String {
    let ends_word = |c: char| c.is_whitespace() || "<>()[],;:\"'`".contains(c);
    let mut shown = String::with_capacity(text.len());
    for piece in text.split_inclusive(ends_word) {
        let word = piece.trim_end_matches(ends_word);
        let bare = word.trim_end_matches('.');
        if word.contains('@') || bare.to_lowercase() == user.to_lowercase() {
            shown.push_str("(recipient)");
            shown.push_str(&piece[word.len()..]);
        } else {
            shown.push_str(piece);
        }
    }
    shown
}

/// The address of a person. The name may be anything: it cannot add a header.
pub fn mailbox(name: &str, email: &str) -> Result<Mailbox, MailError> {
    let email: Address = email
        .parse()
        .map_err(|error: lettre::address::AddressError| MailError::Permanent(format!("not an address: {error}")))?;
    let name = single_line(name);
    Ok(Mailbox::new((!name.is_empty()).then_some(name), email))
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // lettre's Display already ends with its first cause.
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

fn raw_header(name: &'static str, value: String) -> header::HeaderValue {
    header::HeaderValue::new(header::HeaderName::new_from_ascii_str(name), value)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn written(name: &str, subject: &str, message_id: &str) -> String {
        let mailer = Mailer::from_url("smtp://localhost", "Roost <stay@roost.example>").unwrap();
        let rendered = Rendered {
            subject: subject.into(),
            text: "Grüße\n.\n".into(),
            html: "<p>Grüße</p>".into(),
            unsubscribe_url: None,
        };
        let to = mailbox(name, "grace@example.com").unwrap();
        let at = "2030-05-01T08:15:00Z".parse().unwrap();
        let (_, bytes) = mailer.compose(to, &rendered, message_id, at).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    fn header_names(message: &str) -> Vec<&str> {
        let (head, _) = message.split_once("\r\n\r\n").unwrap();
        let starts = |line: &&str| !line.starts_with([' ', '\t']);
        head.split("\r\n")
            .filter(starts)
            .map(|line| line.split(':').next().unwrap())
            .collect()
    }

    #[tokio::test]
    async fn a_mail_has_the_headers_of_an_automatic_one() {
        let message = written("Grace Hopper", "Booked: Köln", "<1@roost.example>").await;
        for line in [
            "From: Roost <stay@roost.example>",
            "To: \"Grace Hopper\" <grace@example.com>",
            "Date: Wed, 01 May 2030 08:15:00 +0000",
            "Message-ID: <1@roost.example>",
            "Auto-Submitted: auto-generated",
            "MIME-Version: 1.0",
            "Content-Type: multipart/alternative;",
            "Content-Type: text/plain; charset=utf-8",
            "Content-Type: text/html; charset=utf-8",
        ] {
            assert!(
                message.contains(&format!("\r\n{line}")) || message.starts_with(line),
                "{line} in {message}"
            );
        }
        assert!(message.is_ascii());
    }

    #[tokio::test]
    async fn no_header_is_smuggled_in() {
        let clean = written("Grace", "Booked", "<1@roost.example>").await;
        let evil = "Eve\r\nBcc: all@example.com\r\n\r\nbody";
        for message in [
            written(evil, "Booked", "<1@roost.example>").await,
            written("Grace", evil, "<1@roost.example>").await,
            written("Grace", "Booked", "<1@roost.example>\r\nBcc: all@example.com").await,
            written("Eve\nBcc: all@example.com\u{0}\u{b}", "Booked", "<1@roost.example>").await,
        ] {
            assert_eq!(header_names(&message), header_names(&clean), "{message}");
        }
    }

    #[tokio::test]
    async fn an_address_is_one_address() {
        for wrong in [
            "",
            "grace",
            "grace@example.com\r\nRCPT TO:<all@example.com>",
            "a@b@c",
            "grace @example.com",
        ] {
            assert!(
                matches!(mailbox("Grace", wrong), Err(MailError::Permanent(_))),
                "{wrong}"
            );
        }
    }

    #[tokio::test]
    async fn a_message_id_stays_the_same_and_tells_nothing() {
        let mailer = Mailer::from_url("smtp://localhost", "Roost <stay@roost.example>").unwrap();
        let id = mailer.message_id("mail:booking-confirmed-guest:7");
        assert_eq!(id, mailer.message_id("mail:booking-confirmed-guest:7"));
        assert_ne!(id, mailer.message_id("mail:booking-confirmed-host:7"));
        assert!(
            id.starts_with('<') && id.ends_with("@roost.example>") && !id.contains("booking"),
            "{id}"
        );
    }

    #[test]
    fn an_address_is_hidden_however_the_server_spells_it() {
        let recipient: Address = "Grace.Hopper@Example.com".parse().unwrap();
        for (said, kept) in [
            (
                "550 5.1.1 <grace.hopper@EXAMPLE.com>: no such user",
                "550 5.1.1 <(recipient)>: no such user",
            ),
            (
                "550 5.1.1 user GRACE.HOPPER unknown",
                "550 5.1.1 user (recipient) unknown",
            ),
            (
                "450 4.2.1 mailto:grace.hopper%x@example.com.",
                "450 4.2.1 mailto:(recipient)",
            ),
            ("421 4.3.2 try again", "421 4.3.2 try again"),
        ] {
            let error = MailError::Permanent(said.to_owned()).without(&recipient);
            assert!(
                matches!(&error, MailError::Permanent(text) if text == kept),
                "{error:?}"
            );
        }
    }

    #[test]
    fn the_sender_must_be_an_address() {
        let refusal = Mailer::from_url("smtp://localhost", "Roost").unwrap_err().to_string();
        assert!(refusal.contains("MAIL_FROM"), "{refusal}");
    }
}
