//! The connection to Redis: one multiplexed, self-healing connection with short time-outs, and the key prefix.

use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, RedisError};

/// How long a reply from Redis may take before the caller goes on without it.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_millis(500);

/// A shared connection. Cloning is cheap; commands of all clones are pipelined on one socket.
#[derive(Clone)]
pub struct Redis {
    client: Client,
    connection: ConnectionManager,
    prefix: String,
}

impl Redis {
    /// Opens the connection lazily: a Redis that is down now is used once it is up.
    ///
    /// # Errors
    /// The URL is not a Redis URL.
    pub fn new(url: &str, prefix: &str) -> Result<Self, RedisError> {
        let client = Client::open(url)?;
        let connection = ConnectionManager::new_lazy_with_config(client.clone(), manager_config(RESPONSE_TIMEOUT))?;
        Ok(Self {
            client,
            connection,
            prefix: prefix.to_owned(),
        })
    }

    /// A handle for commands.
    #[must_use]
    pub fn connection(&self) -> ConnectionManager {
        self.connection.clone()
    }

    /// A connection of its own, for consumers that may wait longer than a request can.
    ///
    /// # Errors
    /// The client's settings are refused.
    pub fn separate_connection(&self, response_timeout: Duration) -> Result<ConnectionManager, RedisError> {
        ConnectionManager::new_lazy_with_config(self.client.clone(), manager_config(response_timeout))
    }

    /// A connection that receives what is published.
    ///
    /// # Errors
    /// Redis is not reachable.
    pub async fn subscriber(&self) -> Result<redis::aio::PubSub, RedisError> {
        tokio::time::timeout(Duration::from_secs(2), self.client.get_async_pubsub())
            .await
            .unwrap_or_else(|_| Err(RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut))))
    }

    /// `name` under the prefix of this deployment.
    #[must_use]
    pub fn key(&self, name: &str) -> String {
        format!("{}:{name}", self.prefix)
    }

    /// Whether Redis answers.
    ///
    /// # Errors
    /// It does not.
    pub async fn ping(&self) -> Result<(), RedisError> {
        redis::cmd("PING").query_async(&mut self.connection()).await
    }
}

fn manager_config(response_timeout: Duration) -> ConnectionManagerConfig {
    ConnectionManagerConfig::new()
        .set_connection_timeout(Some(Duration::from_secs(1)))
        .set_response_timeout(Some(response_timeout))
        .set_number_of_retries(1)
        .set_max_delay(Duration::from_secs(1))
}
