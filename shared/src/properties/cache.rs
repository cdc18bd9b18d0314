//! Rendered properties in Redis: one format for the API, which fills it as it is asked, and for the worker, which
//! warms it. Redis may lose all of it at any time.
//!
//! A value is `<version>\n<json>`. After a change it is `<version>\n` with nothing to read: whoever still holds the
//! old rendering cannot put it back, because a value is only ever replaced by the same version or a later one.

use std::time::Duration;

use bytes::Bytes;
use redis::{RedisError, Script};
use sqlx::PgPool;
use uuid::Uuid;

use super::property::{Property, public_json};
use crate::redis::Redis;

/// How long Redis keeps a rendering.
pub const TTL: Duration = Duration::from_secs(5 * 60);

/// A property as everybody sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// The property's version.
    pub version: i32,
    /// Its JSON.
    pub json: Bytes,
}

impl Rendered {
    /// Renders a property.
    ///
    /// # Errors
    /// See [`public_json`].
    pub fn of(property: &Property) -> Result<Self, serde_json::Error> {
        Ok(Self {
            version: property.version,
            json: public_json(property)?,
        })
    }
}

/// What Redis knows of a property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cached {
    /// Nothing.
    Unknown,
    /// It was changed to this version; the rendering is to be made.
    Changed(i32),
    /// The rendering.
    Rendered(Rendered),
}

/// The key of a property's rendering.
#[must_use]
pub fn key(redis: &Redis, property_id: Uuid) -> String {
    redis.key(&format!("property:{property_id}"))
}

/// The channel on which changes are announced, as `<property> <version>`.
#[must_use]
pub fn channel(redis: &Redis) -> String {
    redis.key("properties:changed")
}

/// Reads a message of [`channel`].
#[must_use]
pub fn read_message(message: &str) -> Option<(Uuid, i32)> {
    let (property_id, version) = message.split_once(' ')?;
    Some((property_id.parse().ok()?, version.parse().ok()?))
}

/// Looks a property up.
///
/// # Errors
/// Redis is not reachable.
pub async fn fetch(redis: &Redis, property_id: Uuid) -> Result<Cached, RedisError> {
    let value: Option<Bytes> = redis::cmd("GET")
        .arg(key(redis, property_id))
        .query_async(&mut redis.connection())
        .await?;
    Ok(value.as_ref().and_then(decode).unwrap_or(Cached::Unknown))
}

fn decode(value: &Bytes) -> Option<Cached> {
    let end = value.iter().position(|byte| *byte == b'\n')?;
    let version = std::str::from_utf8(&value[..end]).ok()?.parse().ok()?;
    let json = value.slice(end + 1..);
    Some(if json.is_empty() {
        Cached::Changed(version)
    } else {
        Cached::Rendered(Rendered { version, json })
    })
}

/// Keeps a rendering, unless Redis knows of a later version.
///
/// # Errors
/// Redis is not reachable.
pub async fn store(redis: &Redis, property_id: Uuid, rendered: &Rendered) -> Result<(), RedisError> {
    replace(redis, property_id, rendered.version, &rendered.json).await
}

/// Forgets what was rendered before `version`, and tells every process.
///
/// # Errors
/// Redis is not reachable.
pub async fn forget(redis: &Redis, property_id: Uuid, version: i32) -> Result<(), RedisError> {
    replace(redis, property_id, version, &[]).await?;
    redis::cmd("PUBLISH")
        .arg(channel(redis))
        .arg(format!("{property_id} {version}"))
        .query_async(&mut redis.connection())
        .await
}

async fn replace(redis: &Redis, property_id: Uuid, version: i32, json: &[u8]) -> Result<(), RedisError> {
    // A marker replaces a rendering of an earlier version only: the job may have been here first.
    let script = Script::new(
        r"local known = redis.call('GET', KEYS[1])
          local version = tonumber(ARGV[1])
          if known then
            local known_version = tonumber(string.match(known, '^(%d+)\n')) or 0
            if known_version > version or (known_version == version and #ARGV[2] == 0) then return end
          end
          redis.call('SET', KEYS[1], ARGV[1] .. '\n' .. ARGV[2], 'EX', ARGV[3])",
    );
    script
        .key(key(redis, property_id))
        .arg(version)
        .arg(json)
        .arg(TTL.as_secs())
        .invoke_async(&mut redis.connection())
        .await
}

/// Why a property was not warmed.
#[derive(Debug, thiserror::Error)]
pub enum WarmError {
    /// Postgres.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// Redis.
    #[error(transparent)]
    Redis(#[from] RedisError),
    /// No JSON.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

/// Puts a property into the cache as it is now; one that is not listed is taken out.
///
/// # Errors
/// See [`WarmError`].
pub async fn warm(pool: &PgPool, redis: &Redis, property_id: Uuid) -> Result<(), WarmError> {
    // The connection is given back before Redis is asked.
    let property = super::get(&mut *pool.acquire().await?, property_id).await?;
    let Some(property) = property else {
        return Ok(());
    };
    // Tells the processes too: the one that made the change may have died before it could.
    forget(redis, property_id, property.version).await?;
    if property.is_public() {
        store(redis, property_id, &Rendered::of(&property)?).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_back_and_nonsense_is_nothing() {
        let rendered = Rendered {
            version: 12,
            json: Bytes::from_static(b"{\"id\":\n1}"),
        };
        assert_eq!(
            decode(&Bytes::from_static(b"12\n{\"id\":\n1}")),
            Some(Cached::Rendered(rendered))
        );
        assert_eq!(decode(&Bytes::from_static(b"3\n")), Some(Cached::Changed(3)));
        for nonsense in ["", "3", "x\n{}", "\n{}"] {
            assert_eq!(decode(&Bytes::from_static(nonsense.as_bytes())), None, "{nonsense}");
        }
    }

    #[test]
    fn messages_are_read_back() {
        let id = Uuid::from_u128(7);
        assert_eq!(read_message(&format!("{id} 3")), Some((id, 3)));
        for nonsense in ["", "3", "x 3"] {
            assert_eq!(read_message(nonsense), None);
        }
    }
}
