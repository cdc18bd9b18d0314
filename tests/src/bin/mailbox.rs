//! The mailbox as a program: takes any mail on loopback and shows it in the browser.

use std::{io::Write, net::SocketAddr};

use clap::Parser;
use roost_tests::mailbox::{Mailbox, MailboxConfig};
use tokio::signal::unix::{SignalKind, signal};

/// Takes any mail over SMTP, delivers none, and shows all in the browser and as JSON.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// Where to take mail; port 0 takes a free one.
    #[arg(long, env = "MAILBOX_SMTP_LISTEN", default_value = "127.0.0.1:1025")]
    smtp_listen: SocketAddr,
    /// Where to show it.
    #[arg(long, env = "MAILBOX_HTTP_LISTEN", default_value = "127.0.0.1:8025")]
    http_listen: SocketAddr,
    /// How many messages to keep; older ones are forgotten.
    #[arg(long, env = "MAILBOX_CAPACITY", default_value_t = 1_000)]
    capacity: usize,
    /// Ask clients to log in as this user. Needs a password as well.
    #[arg(long, env = "MAILBOX_USER", requires = "password")]
    user: Option<String>,
    #[arg(long, env = "MAILBOX_PASSWORD", hide_env_values = true, requires = "user")]
    password: Option<String>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let options = Options::parse();
    let mut terminated = signal(SignalKind::terminate())?;
    let mailbox = Mailbox::start(MailboxConfig {
        smtp_listen: options.smtp_listen,
        http_listen: options.http_listen,
        capacity: options.capacity,
        credentials: options.user.zip(options.password),
        ..MailboxConfig::default()
    })
    .await?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}\n{}", mailbox.smtp_url(), mailbox.http_url())?;
    out.flush()?;
    drop(out);
    tokio::select! {
        _ = terminated.recv() => {}
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    mailbox.stop().await;
    Ok(())
}
