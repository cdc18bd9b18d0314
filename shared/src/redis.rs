//! The connection to Redis: one multiplexed, self-healing connection with short time-outs, and the key prefix.

use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::io::tcp::TcpSettings;
use redis::io::tcp::socket2::TcpKeepalive;
use redis::{Client, IntoConnectionInfo, RedisError};

/// How long a reply from Redis may take before the caller goes on without it.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_millis(500);

/// How long Redis may take to say that it is there, connecting included.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// A peer that vanished without a word is found out after so long, whether anybody waits for it or not.
const SILENCE: Duration = Duration::from_secs(30);

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
        let client = Client::open(url.into_connection_info()?.set_tcp_settings(tcp_settings()))?;
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

    /// Whether Redis answers within a second.
    pub async fn answers(&self) -> bool {
        matches!(tokio::time::timeout(PROBE_TIMEOUT, self.ping()).await, Ok(Ok(())))
    }
}

fn tcp_settings() -> TcpSettings {
    let keepalive = TcpKeepalive::new().with_time(SILENCE / 2).with_interval(SILENCE / 6);
    let settings = TcpSettings::default().set_keepalive(keepalive);
    #[cfg(target_os = "linux")]
    let settings = settings.set_user_timeout(SILENCE);
    settings
}

/// One attempt to connect a command: who asks goes on without Redis, and the pause before a second attempt, a second long,
/// would be the caller's.
fn manager_config(response_timeout: Duration) -> ConnectionManagerConfig {
    ConnectionManagerConfig::new()
        .set_connection_timeout(Some(Duration::from_secs(1)))
        .set_response_timeout(Some(response_timeout))
        .set_number_of_retries(0)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// The timers of this machine's connections to `port`, as the kernel tells them: 02 is keepalive.
    fn timers(port: u16) -> Vec<String> {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
        let peer = format!("0100007F:{port:04X}");
        let rows = table.lines().map(|row| row.split_whitespace().collect::<Vec<&str>>());
        rows.filter(|row| row.get(2) == Some(&peer.as_str()))
            .filter_map(|row| row.get(5)?.get(..2).map(str::to_owned))
            .collect()
    }

    #[tokio::test]
    async fn a_silent_peer_is_probed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let redis = Redis::new(&format!("redis://127.0.0.1:{port}/"), "test").expect("a client");
        let asking = tokio::spawn(async move { redis.ping().await });
        // Accepted and never answered.
        let _silent = listener.accept().await.expect("a connection");
        while !timers(port).contains(&"02".to_owned()) {
            assert!(!asking.is_finished(), "no probes: {:?}", timers(port));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        asking.abort();
    }
}
