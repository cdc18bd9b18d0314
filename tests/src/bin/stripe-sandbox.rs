//! The Stripe sandbox as a process of its own, for `make run` and compose.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use roost_tests::stripe::{RetryPolicy, SandboxConfig, StripeSandbox, WebhookEndpoint};
use tokio::signal::unix::{SignalKind, signal};

/// A small, stateful Stripe for development and tests.
///
/// Prints `listening on http://…` as its first line. State lives in memory and ends with the
/// process.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// Where to listen; port 0 picks a free one.
    #[arg(long, env = "STRIPE_SANDBOX_LISTEN", default_value = "127.0.0.1:12111")]
    listen: SocketAddr,
    /// Where events are delivered; may be given several times.
    #[arg(long, env = "STRIPE_SANDBOX_WEBHOOK_URL", value_delimiter = ',')]
    webhook_url: Vec<String>,
    /// The secret that signs deliveries; two while it is rotated.
    #[arg(
        long,
        env = "STRIPE_SANDBOX_WEBHOOK_SECRET",
        value_delimiter = ',',
        default_value = "whsec_sandbox"
    )]
    webhook_secret: Vec<String>,
    /// Pause before the second delivery attempt, in milliseconds; doubled each time.
    #[arg(long, env = "STRIPE_SANDBOX_WEBHOOK_RETRY_MS", default_value_t = 500)]
    webhook_retry_ms: u64,
    /// Attempts to deliver an event in all.
    #[arg(long, env = "STRIPE_SANDBOX_WEBHOOK_ATTEMPTS", default_value_t = 20)]
    webhook_attempts: u32,
    /// Deliveries under way at the same time; more than one may reorder events.
    #[arg(long, env = "STRIPE_SANDBOX_WEBHOOK_CONCURRENCY", default_value_t = 8)]
    webhook_concurrency: usize,
    /// The only API key taken; any test key when absent.
    #[arg(long, env = "STRIPE_SANDBOX_SECRET_KEY")]
    secret_key: Option<String>,
    /// How many requests are kept in full for `/_control/exchanges`.
    #[arg(long, env = "STRIPE_SANDBOX_JOURNAL_LENGTH", default_value_t = 1_000)]
    journal_length: usize,
}

impl Options {
    fn into_config(self) -> SandboxConfig {
        let endpoints = self.webhook_url.into_iter().map(|url| WebhookEndpoint {
            url,
            secrets: self.webhook_secret.clone(),
            enabled_events: Vec::new(),
        });
        SandboxConfig {
            listen: self.listen,
            webhook_endpoints: endpoints.collect(),
            retry: RetryPolicy {
                first: Duration::from_millis(self.webhook_retry_ms),
                attempts: self.webhook_attempts,
                ..RetryPolicy::default()
            },
            webhook_concurrency: self.webhook_concurrency,
            secret_key: self.secret_key,
            journal_length: self.journal_length,
            ..SandboxConfig::default()
        }
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let sandbox = StripeSandbox::start(Options::parse().into_config()).await?;
    println!("listening on {}", sandbox.base_url());
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => result?,
        _ = terminate.recv() => {}
    }
    sandbox.stop().await;
    Ok(())
}
