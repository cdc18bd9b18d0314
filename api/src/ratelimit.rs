//! How often one client may do something dear. Counted in Redis over fixed windows; without Redis nothing is limited here.
//! Sign-ins of operators are: [`roost_shared::operators::sign_ins`].

use std::time::Duration;

use redis::Script;
use roost_shared::redis::Redis;
use sha2::{Digest, Sha256};

use crate::error::{ApiError, ApiResult};

const COUNT: &str = r"
local count = redis.call('INCRBY', KEYS[1], ARGV[2])
if count == tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
return {count, redis.call('PTTL', KEYS[1])}
";

const REMEMBERED: Duration = Duration::from_secs(30 * 86_400);

/// Counts per key.
#[derive(Clone)]
pub struct RateLimiter {
    redis: Redis,
}

impl RateLimiter {
    /// Counts in `redis`.
    #[must_use]
    pub fn new(redis: Redis) -> Self {
        Self { redis }
    }

    /// Counts one `action` of `subject` and refuses it once there were more than `most` in the window. The subject
    /// may be personal: only its hash is stored. A `most` of 0 limits nothing.
    ///
    /// # Errors
    /// 429 `rate_limited`.
    pub async fn check(&self, action: &str, subject: &str, most: u32, window: Duration) -> ApiResult<()> {
        self.spend(action, subject, 1, most, window).await
    }

    /// The same for an action that counts as much as `points` of them.
    ///
    /// # Errors
    /// 429 `rate_limited`.
    pub async fn spend(&self, action: &str, subject: &str, points: u32, most: u32, window: Duration) -> ApiResult<()> {
        if most == 0 || points == 0 {
            return Ok(());
        }
        let key = self.key(&format!("limit:{action}"), subject);
        let counted: Result<(u64, i64), _> = Script::new(COUNT)
            .key(key)
            .arg(u64::try_from(window.as_millis()).unwrap_or(u64::MAX))
            .arg(points)
            .invoke_async(&mut self.redis.connection())
            .await;
        match counted {
            Ok((count, _)) if count <= u64::from(most) => Ok(()),
            Ok((_, left)) => {
                metrics::counter!("roost_rate_limited_total", "action" => action.to_owned()).increment(1);
                let seconds = u64::try_from(left).unwrap_or(0).div_ceil(1000).max(1);
                Err(ApiError::too_many_requests(
                    format!("Too many attempts; try again in {seconds} s."),
                    seconds,
                ))
            }
            Err(error) => {
                tracing::warn!(%error, action, "not limited");
                Ok(())
            }
        }
    }

    /// Remembers for a month that `subject` is known for something. Only its hash is stored.
    pub async fn remember(&self, subject: &str) {
        let remembered: Result<(), _> = redis::cmd("SET")
            .arg(self.key("known", subject))
            .arg(1)
            .arg("EX")
            .arg(REMEMBERED.as_secs())
            .query_async(&mut self.redis.connection())
            .await;
        if let Err(error) = remembered {
            tracing::warn!(%error, "not remembered");
        }
    }

    /// Whether `subject` is remembered.
    pub async fn is_remembered(&self, subject: &str) -> bool {
        redis::cmd("EXISTS")
            .arg(self.key("known", subject))
            .query_async(&mut self.redis.connection())
            .await
            .unwrap_or_else(|error: redis::RedisError| {
                tracing::warn!(%error, "not looked up");
                false
            })
    }

    fn key(&self, kind: &str, subject: &str) -> String {
        let digest = Sha256::digest(subject.as_bytes());
        let digest = hex::encode(digest.get(..16).unwrap_or_default());
        self.redis.key(&format!("{kind}:{digest}"))
    }
}
