//! The options of `roost-worker`, each also an environment variable.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use roost_shared::config::{DatabaseArgs, LogArgs, PublicUrlArgs, RedisArgs, Secret};
use roost_shared::jobs::Queue;
use roost_shared::stripe::StripeArgs;

use crate::cli::JobsCommand;

/// Runs Roost's background jobs: bookings, payments, mail, caches, housekeeping.
#[derive(Parser, Clone)]
#[command(name = "roost-worker", version, about, long_about = None)]
pub struct Options {
    #[command(flatten)]
    pub database: DatabaseArgs,
    #[command(flatten)]
    pub redis: RedisArgs,
    #[command(flatten)]
    pub stripe: StripeArgs,

    /// SMTP server, `smtp://user:password@host:port?tls=required` or `smtps://…`
    #[arg(
        long,
        env = "SMTP_URL",
        value_name = "URL",
        default_value = "smtp://127.0.0.1:1025",
        hide_env_values = true
    )]
    pub smtp_url: Secret,
    /// PEM file of the authorities that the mail server's certificate may be signed by, and no others. Default: Mozilla's
    /// list
    #[arg(long, env = "SMTP_CA_FILE", value_name = "FILE")]
    pub smtp_ca_file: Option<PathBuf>,
    /// Sender of every mail
    #[arg(
        long,
        env = "MAIL_FROM",
        value_name = "MAILBOX",
        default_value = "Roost <no-reply@roost.example>"
    )]
    pub mail_from: String,
    /// The API's secret: the audit log of operators is sealed under a key derived from it
    #[arg(long, env = "JWT_SECRET", value_name = "SECRET", hide_env_values = true)]
    pub jwt_secret: Option<Secret>,
    /// The API's secret before, during a rotation
    #[arg(long, env = "JWT_SECRET_PREVIOUS", value_name = "SECRET", hide_env_values = true)]
    pub jwt_secret_previous: Option<Secret>,
    #[command(flatten)]
    pub public_url: PublicUrlArgs,
    /// Base URL of the marketplace's web pages, which mails link to: `/bookings/{id}/` and `/properties/` below it. Default:
    /// PUBLIC_URL
    #[arg(long, env = "WEB_URL", value_name = "URL")]
    pub web_url: Option<String>,

    /// Queues to work on, separated by commas; all without this option
    #[arg(
        long,
        env = "WORKER_QUEUES",
        value_name = "QUEUES",
        value_enum,
        value_delimiter = ','
    )]
    pub queues: Vec<Queue>,
    /// Jobs of one queue that run at the same time
    #[arg(long, env = "WORKER_CONCURRENCY", value_name = "COUNT", default_value_t = 256, value_parser = parse_concurrency)]
    pub concurrency: usize,
    /// Seconds that running jobs have to finish on SIGTERM; the rest is handed back
    #[arg(long, env = "WORKER_GRACE", value_name = "SECONDS", default_value_t = 20)]
    pub grace: u64,
    /// Address of the metrics (`/metrics`) and health (`/healthz`, `/readyz`) listener
    #[arg(
        long,
        env = "METRICS_LISTEN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:9091"
    )]
    pub metrics_listen: SocketAddr,
    #[command(flatten)]
    pub log: LogArgs,

    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do instead of working.
#[derive(Subcommand, Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Exit 0 if the worker on METRICS_LISTEN is alive; for containers
    Healthcheck,
    /// Look at jobs, retry or cancel them, pause queues
    #[command(subcommand)]
    Jobs(JobsCommand),
}

impl Options {
    /// The grace as a duration.
    #[must_use]
    pub fn grace(&self) -> Duration {
        Duration::from_secs(self.grace)
    }
}

fn parse_concurrency(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=1_000) => Ok(count),
        _ => Err("a number from 1 to 1000".to_owned()),
    }
}
