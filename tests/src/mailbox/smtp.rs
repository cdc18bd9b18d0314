//! The SMTP side (RFC 5321): smtp-proto reads the grammar and the dot-stuffing, this file holds the
//! conversation. 8BITMIME, SMTPUTF8, SIZE and PIPELINING; AUTH PLAIN where credentials are asked for;
//! STARTTLS where the mailbox has it.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use roost_shared::clock::Clock;
use smtp_proto::{
    AUTH_PLAIN, EXT_8BIT_MIME, EXT_AUTH, EXT_PIPELINING, EXT_SIZE, EXT_SMTP_UTF8, EXT_START_TLS, EhloResponse, Error,
    Request,
    request::receiver::{DataReceiver, DummyLineReceiver, LineReceiver, RequestReceiver},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    faults::{Faults, Misbehaviour, Stage},
    message::Message,
    store::Store,
    tls::{Encryption, Identity, Stream},
};

const MAX_MESSAGE: usize = 10 * 1024 * 1024;
const MAX_RECIPIENTS: usize = 100;
/// RFC 5321 4.5.3.2.7 asks a server to wait five minutes for the next command.
const IDLE: Duration = Duration::from_secs(300);

pub(super) struct Server {
    pub store: Arc<Store>,
    pub faults: Arc<Faults>,
    pub credentials: Option<(String, String)>,
    pub encryption: Encryption,
    pub identity: Option<Identity>,
    pub connections: Arc<AtomicUsize>,
}

impl Server {
    pub async fn run(self: Arc<Self>, listener: TcpListener, tasks: TaskTracker, stop: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a mail connection was not accepted");
                    // Out of file descriptors, most likely: give connections time to end.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            self.connections.fetch_add(1, Ordering::Relaxed);
            let (server, stop) = (self.clone(), stop.clone());
            tasks.spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    ended = server.converse(stream) => {
                        if let Err(error) = ended {
                            tracing::debug!(%error, "a mail connection broke");
                        }
                    }
                }
            });
        }
    }

    async fn converse(self: Arc<Self>, stream: TcpStream) -> io::Result<()> {
        let mut session = Session::new(self.clone(), Box::new(stream));
        if self.encryption == Encryption::Implicit {
            session.encrypt().await?;
        }
        session.serve().await
    }
}

/// One connection.
struct Session {
    server: Arc<Server>,
    stream: Box<dyn Stream>,
    encrypted: bool,
    /// Read and not yet understood: clients may send several commands at once.
    unread: Vec<u8>,
    greeted: bool,
    logged_in: bool,
    /// The sender of the mail under way; empty for a bounce.
    sender: Option<String>,
    recipients: Vec<String>,
}

/// Whether the conversation goes on.
#[derive(PartialEq, Eq)]
enum Next {
    Listen,
    HangUp,
}

impl Session {
    fn new(server: Arc<Server>, stream: Box<dyn Stream>) -> Self {
        let logged_in = server.credentials.is_none();
        Self {
            server,
            stream,
            encrypted: false,
            unread: Vec::new(),
            greeted: false,
            logged_in,
            sender: None,
            recipients: Vec::new(),
        }
    }

    async fn serve(mut self) -> io::Result<()> {
        if self.acts_out(Stage::Connect).await?.is_some() {
            // A connection that was not greeted is over (RFC 5321 3.1).
            return self.stream.shutdown().await;
        }
        self.reply("220 mailbox ESMTP").await?;
        let mut receiver = RequestReceiver::default();
        loop {
            let mut bytes = self.unread.iter();
            let request = receiver.ingest(&mut bytes).map(Request::into_owned);
            let rest = bytes.as_slice().len();
            self.unread.drain(..self.unread.len() - rest);
            let next = match request {
                Ok(request) => self.answer(request).await?,
                Err(Error::NeedsMoreData { .. }) => {
                    // The receiver has kept the incomplete line.
                    self.unread.clear();
                    if self.read().await? { Next::Listen } else { Next::HangUp }
                }
                Err(error) => self.refuse(&error).await?,
            };
            if next == Next::HangUp {
                return self.stream.shutdown().await;
            }
        }
    }

    /// More bytes to understand; false at the end of the stream.
    async fn read(&mut self) -> io::Result<bool> {
        let read = tokio::time::timeout(IDLE, self.stream.read_buf(&mut self.unread));
        Ok(read.await?? > 0)
    }

    async fn reply(&mut self, line: &str) -> io::Result<Next> {
        self.stream.write_all(format!("{line}\r\n").as_bytes()).await?;
        Ok(Next::Listen)
    }

    async fn answer(&mut self, request: Request<String>) -> io::Result<Next> {
        match request {
            Request::Ehlo { host } => self.hello(&host).await,
            Request::Helo { host } => {
                self.reset();
                self.greeted = true;
                self.reply(&format!("250 mailbox greets {host}")).await
            }
            Request::Noop { .. } => self.reply("250 OK").await,
            Request::Rset => {
                self.reset();
                self.reply("250 OK").await
            }
            Request::Quit => {
                self.reply("221 Bye").await?;
                Ok(Next::HangUp)
            }
            Request::Vrfy { .. } => self.reply("252 Send it and see").await,
            Request::Help { .. } => self.reply("214 EHLO AUTH MAIL RCPT DATA RSET NOOP QUIT").await,
            Request::StartTls => self.start_tls().await,
            Request::Auth {
                mechanism,
                initial_response,
            } => self.log_in(mechanism, initial_response).await,
            Request::Mail { from } => self.mail(from.address, from.size).await,
            Request::Rcpt { to } => self.recipient(to.address).await,
            Request::Data => self.data().await,
            other => self.reply(&format!("502 {} is not offered", other.name())).await,
        }
    }

    async fn hello(&mut self, host: &str) -> io::Result<Next> {
        self.reset();
        self.greeted = true;
        tracing::debug!(host, "a mail client says hello");
        let mut offer = EhloResponse::new("mailbox");
        offer.capabilities = EXT_8BIT_MIME | EXT_SMTP_UTF8 | EXT_SIZE | EXT_PIPELINING;
        offer.size = MAX_MESSAGE;
        if self.must_encrypt() {
            offer.capabilities |= EXT_START_TLS;
        } else if self.server.credentials.is_some() {
            offer.capabilities |= EXT_AUTH;
            offer.auth_mechanisms = AUTH_PLAIN;
        }
        let mut reply = Vec::new();
        offer.write(&mut reply)?;
        self.stream.write_all(&reply).await?;
        Ok(Next::Listen)
    }

    /// Whether STARTTLS comes before anything that matters.
    fn must_encrypt(&self) -> bool {
        self.server.encryption == Encryption::StartTls && !self.encrypted
    }

    async fn start_tls(&mut self) -> io::Result<Next> {
        if !self.must_encrypt() {
            return self.reply("502 STARTTLS is not offered").await;
        }
        if let Some(next) = self.acts_out(Stage::StartTls).await? {
            return Ok(next);
        }
        self.reply("220 Go ahead").await?;
        self.encrypt().await?;
        Ok(Next::Listen)
    }

    /// The conversation begins anew: what came in the clear may be anybody's (RFC 3207 4.2).
    async fn encrypt(&mut self) -> io::Result<()> {
        let Some(identity) = &self.server.identity else {
            return Err(io::Error::other("no certificate"));
        };
        self.unread.clear();
        let clear = std::mem::replace(&mut self.stream, Box::new(tokio::io::empty()));
        self.stream = identity.accept(clear).await?;
        self.encrypted = true;
        self.greeted = false;
        self.reset();
        Ok(())
    }

    async fn log_in(&mut self, mechanism: u64, initial: String) -> io::Result<Next> {
        if self.must_encrypt() {
            return self.reply("530 STARTTLS comes first").await;
        }
        let Some((user, password)) = self.server.credentials.clone() else {
            return self.reply("502 AUTH is not offered").await;
        };
        if mechanism != AUTH_PLAIN {
            return self.reply("504 PLAIN only").await;
        }
        let response = if initial.is_empty() {
            self.reply("334 ").await?;
            match self.line().await? {
                Some(line) => line,
                None => return Ok(Next::HangUp),
            }
        } else {
            initial.into_bytes()
        };
        // RFC 4616: authzid NUL user NUL password.
        let given = BASE64_STANDARD.decode(response).unwrap_or_default();
        let expected = [b"\0", user.as_bytes(), b"\0", password.as_bytes()].concat();
        if given == expected {
            self.logged_in = true;
            self.reply("235 Welcome").await
        } else {
            self.reply("535 User or password is wrong").await
        }
    }

    async fn mail(&mut self, sender: String, size: usize) -> io::Result<Next> {
        if !self.greeted {
            return self.reply("503 Say EHLO first").await;
        }
        if self.must_encrypt() {
            return self.reply("530 STARTTLS comes first").await;
        }
        if !self.logged_in {
            return self.reply("530 Log in first").await;
        }
        if self.sender.is_some() {
            return self.reply("503 One mail at a time").await;
        }
        if size > MAX_MESSAGE {
            return self.reply("552 Too large").await;
        }
        self.sender = Some(sender);
        self.reply("250 OK").await
    }

    async fn recipient(&mut self, address: String) -> io::Result<Next> {
        if self.sender.is_none() {
            return self.reply("503 MAIL comes before RCPT").await;
        }
        if let Some(next) = self.acts_out(Stage::Rcpt).await? {
            return Ok(next);
        }
        if self.recipients.len() >= MAX_RECIPIENTS {
            return self.reply("452 Too many recipients").await;
        }
        self.recipients.push(address);
        self.reply("250 OK").await
    }

    async fn data(&mut self) -> io::Result<Next> {
        if self.recipients.is_empty() {
            return self.reply("503 RCPT comes before DATA").await;
        }
        if let Some(next) = self.acts_out(Stage::Data).await? {
            return Ok(next);
        }
        self.reply("354 Go ahead, end with a dot on a line of its own").await?;
        let Some(raw) = self.content().await? else {
            return Ok(Next::HangUp);
        };
        let recipients = std::mem::take(&mut self.recipients);
        self.reset();
        if raw.len() > MAX_MESSAGE {
            return self.reply("552 Too large").await;
        }
        let fault = self.server.faults.next(Stage::Message);
        if let Some(fault @ (Misbehaviour::Reply(_) | Misbehaviour::Hang)) = fault {
            return Ok(self.act(fault).await?.unwrap_or(Next::Listen));
        }
        if let Some(Misbehaviour::Delay(milliseconds)) = fault {
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        }
        let store = self.server.store.clone();
        let id = store.add(|id| Message::parse(id, Clock::default().now(), &recipients, raw));
        if fault == Some(Misbehaviour::Close) {
            return Ok(Next::HangUp);
        }
        self.reply(&format!("250 Kept as {id}")).await
    }

    /// The bytes up to the lone dot, unstuffed; none if the client went away before.
    async fn content(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut receiver = DataReceiver::new();
        // The receiver wants to see the line break before a first dot: here it was DATA's own.
        receiver.ingest(&mut b"\r\n".iter(), &mut Vec::new());
        let mut content = Vec::new();
        loop {
            let mut bytes = self.unread.iter();
            let complete = receiver.ingest(&mut bytes, &mut content);
            let rest = bytes.as_slice().len();
            self.unread.drain(..self.unread.len() - rest);
            if complete {
                return Ok(Some(content));
            }
            // Too large is told after the dot; what is beyond is not kept until then.
            content.truncate(MAX_MESSAGE + 1);
            if !self.read().await? {
                return Ok(None);
            }
        }
    }

    /// One line that is no command.
    async fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut receiver = LineReceiver::new(());
        loop {
            let mut bytes = self.unread.iter();
            let complete = receiver.ingest(&mut bytes);
            let rest = bytes.as_slice().len();
            self.unread.drain(..self.unread.len() - rest);
            if complete {
                return Ok(Some(receiver.buf));
            }
            if !self.read().await? {
                return Ok(None);
            }
        }
    }

    async fn refuse(&mut self, error: &Error) -> io::Result<Next> {
        match error {
            Error::ResponseTooLong => {
                let mut receiver = DummyLineReceiver::default();
                while !receiver.ingest(&mut self.unread.iter()) {
                    self.unread.clear();
                    if !self.read().await? {
                        return Ok(Next::HangUp);
                    }
                }
                let end = self.unread.iter().position(|byte| *byte == b'\n');
                self.unread.drain(..end.map_or(0, |end| end + 1));
                self.reply("500 The line is too long").await
            }
            Error::UnknownCommand => self.reply("500 Unknown command").await,
            Error::InvalidSenderAddress | Error::InvalidRecipientAddress => self.reply("553 Not an address").await,
            Error::SyntaxError { syntax } => self.reply(&format!("501 Syntax: {syntax}")).await,
            Error::InvalidParameter { param } => self.reply(&format!("501 Invalid parameter {param}")).await,
            Error::UnsupportedParameter { .. } => self.reply("555 Parameter not supported").await,
            Error::NeedsMoreData { .. } | Error::InvalidResponse { .. } => self.reply("500 Syntax error").await,
        }
    }

    fn reset(&mut self) {
        self.sender = None;
        self.recipients.clear();
    }

    /// Acts out the next fault for this step. None: the step goes on as usual.
    async fn acts_out(&mut self, stage: Stage) -> io::Result<Option<Next>> {
        match self.server.faults.next(stage) {
            Some(fault) => self.act(fault).await,
            None => Ok(None),
        }
    }

    async fn act(&mut self, fault: Misbehaviour) -> io::Result<Option<Next>> {
        match fault {
            Misbehaviour::Reply(code) => self.reply(&format!("{code} Misbehaving as told")).await.map(Some),
            Misbehaviour::Delay(milliseconds) => {
                tokio::time::sleep(Duration::from_millis(milliseconds)).await;
                Ok(None)
            }
            Misbehaviour::Hang => {
                while self.read().await? {
                    self.unread.clear();
                }
                Ok(Some(Next::HangUp))
            }
            Misbehaviour::Close => Ok(Some(Next::HangUp)),
        }
    }
}
