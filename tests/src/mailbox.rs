//! A mailbox for developers and tests: a real SMTP server on loopback that keeps what it is given,
//! shows it in a browser and as JSON, and misbehaves on demand.
//!
//! ```no_run
//! # use std::time::Duration;
//! # use roost_tests::mailbox::{Mailbox, MailboxConfig};
//! # async fn story() -> Result<(), Box<dyn std::error::Error>> {
//! let mailbox = Mailbox::start(MailboxConfig::default()).await?;
//! println!("send to {} and look at {}", mailbox.smtp_url(), mailbox.http_url());
//! let mail = mailbox
//!     .wait_for(|mail| mail.is_to("grace@example.com"), Duration::from_secs(5))
//!     .await?;
//! assert!(mail.subject.starts_with("Booked"));
//! # Ok(())
//! # }
//! ```

mod faults;
mod http;
mod message;
mod smtp;
mod store;
mod tls;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use poem::listener::{Acceptor, Listener};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{faults::Faults, store::Store, tls::Identity};
pub use self::{
    faults::{Fault, Misbehaviour, Stage},
    message::Message,
    store::NoSuchMail,
    tls::Encryption,
};

/// Where to listen and how to behave. The default is free ports on loopback, nobody to log in.
#[derive(Debug, Clone)]
pub struct MailboxConfig {
    pub smtp_listen: SocketAddr,
    pub http_listen: SocketAddr,
    /// Older messages are forgotten.
    pub capacity: usize,
    /// User and password that AUTH must give before any mail is taken.
    pub credentials: Option<(String, String)>,
    pub encryption: Encryption,
}

impl Default for MailboxConfig {
    fn default() -> Self {
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self {
            smtp_listen: any_port,
            http_listen: any_port,
            capacity: 1_000,
            credentials: None,
            encryption: Encryption::None,
        }
    }
}

/// A running mailbox. Dropping it stops both servers.
#[derive(Debug)]
pub struct Mailbox {
    smtp: SocketAddr,
    encryption: Encryption,
    authority_pem: Option<String>,
    http: SocketAddr,
    store: Arc<Store>,
    faults: Arc<Faults>,
    connections: Arc<AtomicUsize>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Mailbox {
    /// Listens when it returns.
    pub async fn start(config: MailboxConfig) -> io::Result<Self> {
        let store = Arc::new(Store::new(config.capacity));
        let faults = Arc::new(Faults::default());
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());

        let smtp_listener = TcpListener::bind(config.smtp_listen).await?;
        let smtp = smtp_listener.local_addr()?;
        let http_acceptor = poem::listener::TcpListener::bind(config.http_listen)
            .into_acceptor()
            .await?;
        let http = http_acceptor
            .local_addr()
            .into_iter()
            .find_map(|address| address.as_socket_addr().copied())
            .ok_or_else(|| io::Error::other("the HTTP listener has no address"))?;

        let identity = match config.encryption {
            Encryption::None => None,
            Encryption::StartTls | Encryption::Implicit => Some(Identity::generate()?),
        };
        let authority_pem = identity.as_ref().map(|identity| identity.authority_pem().to_owned());

        let connections = Arc::new(AtomicUsize::new(0));
        let server = Arc::new(smtp::Server {
            connections: connections.clone(),
            store: store.clone(),
            faults: faults.clone(),
            credentials: config.credentials,
            encryption: config.encryption,
            identity,
        });
        tasks.spawn(server.run(smtp_listener, tasks.clone(), stop.clone()));
        let pages = http::routes(store.clone(), faults.clone());
        let stopped = stop.clone().cancelled_owned();
        tasks.spawn(async move {
            let served = poem::Server::new_with_acceptor(http_acceptor)
                .run_with_graceful_shutdown(pages, stopped, Some(Duration::from_millis(500)))
                .await;
            if let Err(error) = served {
                tracing::error!(%error, "the mailbox's pages ended");
            }
        });
        tasks.close();
        Ok(Self {
            smtp,
            encryption: config.encryption,
            authority_pem,
            http,
            store,
            faults,
            connections,
            stop,
            tasks,
        })
    }

    /// For SMTP_URL, such as `smtp://127.0.0.1:1025`; with encryption by the name that the certificate is for.
    pub fn smtp_url(&self) -> String {
        let port = self.smtp.port();
        match self.encryption {
            Encryption::None => format!("smtp://{}", self.smtp),
            Encryption::StartTls => format!("smtp://{}:{port}?tls=required", tls::HOST),
            Encryption::Implicit => format!("smtps://{}:{port}", tls::HOST),
        }
    }

    /// Where mail is taken.
    pub fn smtp_address(&self) -> SocketAddr {
        self.smtp
    }

    /// What SMTP_CA_FILE holds to trust this mailbox; none without encryption.
    pub fn authority_pem(&self) -> Option<&str> {
        self.authority_pem.as_deref()
    }

    /// The inbox, such as `http://127.0.0.1:8025`.
    pub fn http_url(&self) -> String {
        format!("http://{}", self.http)
    }

    /// What was delivered, oldest first.
    pub fn messages(&self) -> Vec<Arc<Message>> {
        self.store.all()
    }

    /// The first message, already here or still to come, that is `wanted`.
    pub async fn wait_for(
        &self,
        wanted: impl Fn(&Message) -> bool,
        patience: Duration,
    ) -> Result<Arc<Message>, NoSuchMail> {
        self.store.wait_for(wanted, patience).await
    }

    /// Misbehaves as told the next `fault.times` times, after the faults told before.
    pub fn inject(&self, fault: Fault) {
        self.faults.inject(fault);
    }

    /// How often faults were acted out so far.
    pub fn faults_seen(&self) -> usize {
        self.faults.seen()
    }

    /// How many connections clients have opened so far.
    pub fn connections_seen(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Forgets messages and pending faults.
    pub fn clear(&self) {
        self.store.clear();
        self.faults.clear();
    }

    /// Stops both servers and waits until they have.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
