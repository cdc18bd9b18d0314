//! Options that both processes share, each also an environment variable. Secrets never show their value in `--help`.

use std::fmt;

use clap::Args;
use sqlx::PgPool;

use crate::db;
use crate::redis::Redis;
use crate::telemetry::LogFormat;

/// An option is missing or makes no sense. The message names the option and its variable.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Neither given as an option nor in the environment.
    #[error("{0} is not set")]
    Missing(&'static str),
    /// Given, and not usable.
    #[error("{name} is not usable: {reason}")]
    Invalid {
        /// The variable.
        name: &'static str,
        /// What is wrong with it; never its value.
        reason: String,
    },
}

/// The same value, but a `Debug` print does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a value.
    #[must_use]
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("<secret>")
    }
}

impl From<&str> for Secret {
    fn from(value: &str) -> Self {
        Self::new(value)
    }
}

/// Where Postgres is.
#[derive(Args, Clone, Debug)]
pub struct DatabaseArgs {
    /// Postgres connection URL, `postgres://user:password@host:port/database`. Required
    #[arg(long, env = "DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub database_url: Option<Secret>,

    /// Most connections to Postgres that this process opens; a worker's engine has five more
    #[arg(long, env = "DATABASE_MAX_CONNECTIONS", value_name = "COUNT", default_value_t = 20,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub database_max_connections: u32,
}

impl DatabaseArgs {
    /// Opens the pool; nothing is connected yet.
    ///
    /// # Errors
    /// The URL is missing or is not one.
    pub fn connect(&self) -> Result<PgPool, ConfigError> {
        let url = self
            .database_url
            .as_ref()
            .ok_or(ConfigError::Missing("DATABASE_URL (--database-url)"))?;
        db::connect(url.expose(), self.database_max_connections).map_err(|error| ConfigError::Invalid {
            name: "DATABASE_URL",
            reason: error.to_string(),
        })
    }
}

/// Where Redis is.
#[derive(Args, Clone, Debug)]
pub struct RedisArgs {
    /// Redis connection URL, `redis://host:port/database` or `rediss://` with TLS. Required
    #[arg(long, env = "REDIS_URL", value_name = "URL", hide_env_values = true)]
    pub redis_url: Option<Secret>,

    /// Prefix of every key, so that deployments can share one Redis
    #[arg(long, env = "REDIS_PREFIX", value_name = "PREFIX", default_value = "roost")]
    pub redis_prefix: String,
}

impl RedisArgs {
    /// Opens the connection lazily. Needs a tokio runtime.
    ///
    /// # Errors
    /// The URL is missing or is not one.
    pub fn connect(&self) -> Result<Redis, ConfigError> {
        let url = self
            .redis_url
            .as_ref()
            .ok_or(ConfigError::Missing("REDIS_URL (--redis-url)"))?;
        Redis::new(url.expose(), &self.redis_prefix).map_err(|error| ConfigError::Invalid {
            name: "REDIS_URL",
            reason: error.to_string(),
        })
    }
}

/// How to log. What to log is said by RUST_LOG (`info`, `roost_api=debug,sqlx=warn`, …).
#[derive(Args, Clone, Copy, Debug)]
pub struct LogArgs {
    /// Form of the log lines on standard error; RUST_LOG filters them
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// Where clients find this deployment.
#[derive(Args, Clone, Debug)]
pub struct PublicUrlArgs {
    /// Public base URL of the API: in the OpenAPI document, and in links of mails that the API itself answers
    #[arg(
        long,
        env = "PUBLIC_URL",
        value_name = "URL",
        default_value = "http://127.0.0.1:8080"
    )]
    pub public_url: String,
}
