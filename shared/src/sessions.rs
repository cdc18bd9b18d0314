//! Login sessions, in Redis: people sign in again when it is flushed, and nothing else is lost.
//!
//! A session is one family of refresh tokens. Each refresh replaces the token; an old one that comes back means
//! that two parties hold the family, so it ends. Only hashes of tokens are stored.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Duration, Utc};
use rand::RngCore;
use redis::{RedisError, Script};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::ids;
use crate::redis::Redis;

/// How long a session lives without a refresh.
pub const LIFETIME: Duration = Duration::days(30);

const TOKEN_PREFIX: &str = "rt_";
const SECRET_BYTES: usize = 32;
/// More sign-ins than this end the session that was used longest ago.
const MOST_PER_USER: usize = 50;

/// Where a sign-in came from.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// The client's `User-Agent`, cut to 200 characters.
    pub user_agent: Option<String>,
    /// The client's address.
    pub ip: Option<String>,
}

/// A signed-in device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its id, the `sid` of its access tokens.
    pub id: Uuid,
    /// Whose it is.
    pub user_id: Uuid,
    /// The sign-in.
    pub created_at: DateTime<Utc>,
    /// The last refresh, or the sign-in.
    pub last_used_at: DateTime<Utc>,
    /// The client's `User-Agent` at sign-in.
    pub user_agent: Option<String>,
    /// The client's address at sign-in.
    pub ip: Option<String>,
}

/// Why a refresh is refused.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// Unknown, ended, or never a token.
    #[error("the refresh token is not valid")]
    Invalid,
    /// It was replaced before. The session has been ended.
    #[error("the refresh token was used before, its session has been ended")]
    Reused,
    /// Redis could not be asked.
    #[error(transparent)]
    Redis(#[from] RedisError),
}

/// A refresh token that some session handed out, the newest one or not.
#[derive(Debug)]
pub struct HeldToken {
    session_id: Uuid,
    user_id: Uuid,
    family: Vec<u8>,
    secret: Vec<u8>,
}

impl HeldToken {
    /// Its session.
    #[must_use]
    pub fn session_id(&self) -> Uuid {
        self.session_id
    }

    /// Whose session it is.
    #[must_use]
    pub fn user_id(&self) -> Uuid {
        self.user_id
    }
}

/// A session just opened or refreshed.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The session.
    pub session_id: Uuid,
    /// Whose it is.
    pub user_id: Uuid,
    /// To be shown to the client once.
    pub refresh_token: String,
}

/// The sessions of a deployment.
#[derive(Clone)]
pub struct Sessions {
    redis: Redis,
}

impl Sessions {
    /// Sessions kept in `redis`.
    #[must_use]
    pub fn new(redis: Redis) -> Self {
        Self { redis }
    }

    /// Opens a session.
    ///
    /// # Errors
    /// Redis could not be asked.
    pub async fn open(&self, user_id: Uuid, origin: &Origin, now: DateTime<Utc>) -> Result<Opened, RedisError> {
        let session_id = ids::new(now);
        let (family, secret) = (new_secret(), new_secret());
        let user_key = self.user_key(user_id);
        let ended: Vec<String> = Script::new(OPEN)
            .key(self.session_key(session_id))
            .key(&user_key)
            .arg(session_id.to_string())
            .arg(user_id.to_string())
            .arg(hash(&family))
            .arg(hash(&secret))
            .arg(now.timestamp_micros())
            .arg(origin.user_agent.as_deref().unwrap_or_default())
            .arg(origin.ip.as_deref().unwrap_or_default())
            .arg(LIFETIME.num_seconds())
            .arg(MOST_PER_USER)
            .invoke_async(&mut self.redis.connection())
            .await?;
        for id in ended.iter().filter_map(|id| Uuid::parse_str(id).ok()) {
            self.end(user_id, id).await?;
        }
        Ok(Opened {
            session_id,
            user_id,
            refresh_token: format_token(session_id, &family, &secret),
        })
    }

    /// Whose session a refresh token is of. Spends nothing.
    ///
    /// # Errors
    /// The token is of no session, or Redis could not be asked.
    pub async fn holder(&self, token: &str) -> Result<HeldToken, RefreshError> {
        let (session_id, family, secret) = parse_token(token).ok_or(RefreshError::Invalid)?;
        let (user_id, known): (Option<String>, Option<String>) = redis::cmd("HMGET")
            .arg(self.session_key(session_id))
            .arg("user")
            .arg("family")
            .query_async(&mut self.redis.connection())
            .await?;
        let user_id = user_id.and_then(|id| Uuid::parse_str(&id).ok());
        match user_id {
            Some(user_id) if known == Some(hash(&family)) => Ok(HeldToken {
                session_id,
                user_id,
                family,
                secret,
            }),
            _ => Err(RefreshError::Invalid),
        }
    }

    /// Replaces a refresh token by the next one of its session.
    ///
    /// # Errors
    /// The token is not the session's newest, or Redis could not be asked.
    pub async fn refresh(&self, held: HeldToken, now: DateTime<Utc>) -> Result<Opened, RefreshError> {
        let next = new_secret();
        let outcome: String = Script::new(ROTATE)
            .key(self.session_key(held.session_id))
            .key(self.user_key(held.user_id))
            .arg(hash(&held.family))
            .arg(hash(&held.secret))
            .arg(hash(&next))
            .arg(now.timestamp_micros())
            .arg(LIFETIME.num_seconds())
            .arg(held.session_id.to_string())
            .invoke_async(&mut self.redis.connection())
            .await?;
        match outcome.as_str() {
            "rotated" => Ok(Opened {
                session_id: held.session_id,
                user_id: held.user_id,
                refresh_token: format_token(held.session_id, &held.family, &next),
            }),
            "reused" => {
                self.end(held.user_id, held.session_id).await?;
                Err(RefreshError::Reused)
            }
            _ => Err(RefreshError::Invalid),
        }
    }

    /// Whether the session has not ended.
    ///
    /// # Errors
    /// Redis could not be asked.
    pub async fn exists(&self, session_id: Uuid) -> Result<bool, RedisError> {
        redis::cmd("EXISTS")
            .arg(self.session_key(session_id))
            .query_async(&mut self.redis.connection())
            .await
    }

    /// A user's sessions, the newest first.
    ///
    /// # Errors
    /// Redis could not be asked.
    pub async fn list(&self, user_id: Uuid) -> Result<Vec<Session>, RedisError> {
        let mut connection = self.redis.connection();
        let user_key = self.user_key(user_id);
        let ids: Vec<String> = redis::cmd("ZREVRANGE")
            .arg(&user_key)
            .arg(0)
            .arg(-1)
            .query_async(&mut connection)
            .await?;
        let ids: Vec<Uuid> = ids.iter().filter_map(|id| Uuid::parse_str(id).ok()).collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = redis::pipe();
        for id in &ids {
            pipe.cmd("HGETALL").arg(self.session_key(*id));
        }
        let hashes: Vec<HashMap<String, String>> = pipe.query_async(&mut connection).await?;
        let mut sessions: Vec<Session> = ids
            .into_iter()
            .zip(&hashes)
            .filter_map(|(id, fields)| read(id, fields))
            .filter(|session| session.user_id == user_id)
            .collect();
        sessions.sort_by_key(|session| std::cmp::Reverse(session.id));
        Ok(sessions)
    }

    /// The first `most` of the same list, or those that come after this one.
    ///
    /// # Errors
    /// Redis could not be asked.
    pub async fn list_after(&self, user_id: Uuid, after: Option<Uuid>, most: i64) -> Result<Vec<Session>, RedisError> {
        let mut sessions = self.list(user_id).await?;
        sessions.retain(|session| after.is_none_or(|after| session.id < after));
        sessions.truncate(usize::try_from(most).unwrap_or_default());
        Ok(sessions)
    }

    /// Ends one of the user's sessions. False if there is none of that id.
    ///
    /// # Errors
    /// Redis could not be asked.
    pub async fn end(&self, user_id: Uuid, session_id: Uuid) -> Result<bool, RedisError> {
        Script::new(END)
            .key(self.session_key(session_id))
            .key(self.user_key(user_id))
            .arg(session_id.to_string())
            .arg(user_id.to_string())
            .invoke_async(&mut self.redis.connection())
            .await
    }

    /// Ends all of the user's sessions but `kept`.
    ///
    /// # Errors
    /// Redis could not be asked.
    pub async fn end_others(&self, user_id: Uuid, kept: Option<Uuid>) -> Result<(), RedisError> {
        for session in self.list(user_id).await? {
            if Some(session.id) != kept {
                self.end(user_id, session.id).await?;
            }
        }
        Ok(())
    }

    fn session_key(&self, session_id: Uuid) -> String {
        self.redis.key(&format!("session:{session_id}"))
    }

    fn user_key(&self, user_id: Uuid) -> String {
        self.redis.key(&format!("sessions:{user_id}"))
    }
}

// The user's set orders session ids by last use; entries older than the lifetime are of sessions that expired.
const OPEN: &str = r"
redis.call('HSET', KEYS[1], 'user', ARGV[2], 'family', ARGV[3], 'token', ARGV[4], 'created', ARGV[5], 'used', ARGV[5], 'agent', ARGV[6], 'ip', ARGV[7])
redis.call('EXPIRE', KEYS[1], ARGV[8])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', tonumber(ARGV[5]) - tonumber(ARGV[8]) * 1000000)
redis.call('ZADD', KEYS[2], ARGV[5], ARGV[1])
redis.call('EXPIRE', KEYS[2], ARGV[8])
local over = redis.call('ZCARD', KEYS[2]) - tonumber(ARGV[9])
if over > 0 then return redis.call('ZRANGE', KEYS[2], 0, over - 1) end
return {}
";

// The first half of a token stays the same for the whole family and proves that it was once handed out; only then
// can a token that is not the newest end the session. Knowing the session's id alone does nothing. The user's set lives
// as long as its newest session.
const ROTATE: &str = r"
if redis.call('HGET', KEYS[1], 'family') ~= ARGV[1] then return 'unknown' end
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[2] then return 'reused' end
redis.call('HSET', KEYS[1], 'token', ARGV[3], 'used', ARGV[4])
redis.call('EXPIRE', KEYS[1], ARGV[5])
redis.call('ZADD', KEYS[2], ARGV[4], ARGV[6])
redis.call('EXPIRE', KEYS[2], ARGV[5])
return 'rotated'
";

const END: &str = r"
if redis.call('HGET', KEYS[1], 'user') ~= ARGV[2] then return 0 end
redis.call('ZREM', KEYS[2], ARGV[1])
return redis.call('DEL', KEYS[1])
";

fn read(id: Uuid, fields: &HashMap<String, String>) -> Option<Session> {
    let instant = |name| {
        fields
            .get(name)
            .and_then(|micros: &String| micros.parse().ok())
            .and_then(DateTime::from_timestamp_micros)
    };
    let text = |name| fields.get(name).filter(|value: &&String| !value.is_empty()).cloned();
    Some(Session {
        id,
        user_id: Uuid::parse_str(fields.get("user")?).ok()?,
        created_at: instant("created")?,
        last_used_at: instant("used")?,
        user_agent: text("agent"),
        ip: text("ip"),
    })
}

fn new_secret() -> [u8; SECRET_BYTES] {
    let mut secret = [0; SECRET_BYTES];
    rand::rng().fill_bytes(&mut secret);
    secret
}

fn hash(secret: &[u8]) -> String {
    hex::encode(Sha256::digest(secret))
}

fn format_token(session_id: Uuid, family: &[u8], secret: &[u8]) -> String {
    let bytes = [session_id.as_bytes().as_slice(), family, secret].concat();
    format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
}

fn parse_token(token: &str) -> Option<(Uuid, Vec<u8>, Vec<u8>)> {
    let bytes = URL_SAFE_NO_PAD.decode(token.strip_prefix(TOKEN_PREFIX)?).ok()?;
    let (id, secrets) = bytes.split_at_checked(16)?;
    let (family, secret) = secrets.split_at_checked(SECRET_BYTES)?;
    if secret.len() != SECRET_BYTES {
        return None;
    }
    Some((Uuid::from_slice(id).ok()?, family.to_vec(), secret.to_vec()))
}
