//! What everybody may see of a property, ready to be sent: in this process for seconds, in Redis for minutes, in
//! Postgres for good.
//!
//! Per property everything that touches this process's copy happens one after the other, so a hundred requests for
//! what is not here ask Postgres once, whatever it answers, and what was read before a change never stays behind it:
//! the change waits for the read, then leaves a marker that only its own version or a later one replaces.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use metrics::Counter;
use moka::future::Cache;
use moka::ops::compute::{CompResult, Op};
use poem::http::HeaderValue;
use redis::RedisError;
use roost_shared::properties;
use roost_shared::properties::cache::{Cached, Rendered, channel, fetch, forget, read_message, store};
use roost_shared::redis::Redis;
use sqlx::PgPool;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use uuid::Uuid;

use crate::error::{ApiError, ApiResult};
use crate::etag;

const MOST_ENTRIES: u64 = 10_000;
/// How long a process may show what another one changed while Redis could not tell it.
const LOCAL_TTL: Duration = Duration::from_secs(5);
/// How long it is remembered that there was nothing to show, or no answer.
const NOTHING_TTL: Duration = Duration::from_secs(1);
/// Redis is here to be faster than Postgres; when it is not, it is left out.
const REDIS_TIMEOUT: Duration = Duration::from_millis(50);
/// How long subscribing may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a Redis that failed is not asked again.
const REDIS_PAUSE: Duration = Duration::from_secs(1);
/// How long a change waits until Redis knows of it.
const FORGET_TIMEOUT: Duration = Duration::from_millis(250);

/// A listed property as it is sent.
#[derive(Debug)]
pub struct Shown {
    /// Its version.
    pub version: i32,
    /// Its JSON.
    pub json: Bytes,
    /// Its entity tag.
    pub etag: HeaderValue,
}

impl From<Rendered> for Shown {
    fn from(rendered: Rendered) -> Self {
        Self {
            version: rendered.version,
            json: rendered.json,
            etag: etag::of(rendered.version),
        }
    }
}

#[derive(Clone)]
enum Entry {
    Shown(Arc<Shown>),
    /// It was changed to this version, which is to be read.
    Changed(i32),
    /// There was nothing to show of this version or a later one; for a moment only.
    Nothing {
        version: i32,
        since: Instant,
        /// Why, if nobody knows whether there is something.
        failure: Option<ApiError>,
    },
}

impl Entry {
    fn version(&self) -> i32 {
        match self {
            Self::Shown(shown) => shown.version,
            Self::Changed(version) | Self::Nothing { version, .. } => *version,
        }
    }

    /// What can be sent without reading: the property, or that there is nothing.
    fn answer(&self) -> Option<ApiResult<Option<Arc<Shown>>>> {
        match self {
            Self::Shown(shown) => Some(Ok(Some(Arc::clone(shown)))),
            Self::Nothing { since, failure, .. } if since.elapsed() < NOTHING_TTL => {
                Some(failure.clone().map_or(Ok(None), Err))
            }
            Self::Changed(_) | Self::Nothing { .. } => None,
        }
    }
}

/// The cache of one process. Clones share it; the last one to go ends its listening to the others.
#[derive(Clone)]
pub struct PropertyCache(Arc<Inner>);

struct Inner {
    local: Cache<Uuid, Entry>,
    redis: Redis,
    pool: PgPool,
    redis_pause: Pause,
    hits: Hits,
    listener: JoinHandle<()>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

struct Hits {
    local: Counter,
    redis: Counter,
    postgres: Counter,
}

impl PropertyCache {
    /// Starts the cache, and a task that listens for the changes that others make.
    #[must_use]
    pub fn spawn(pool: PgPool, redis: &Redis) -> Self {
        let local = Cache::builder()
            .max_capacity(MOST_ENTRIES)
            .time_to_live(LOCAL_TTL)
            .build();
        let hit = |tier: &'static str| metrics::counter!("roost_property_cache_total", "tier" => tier);
        Self(Arc::new(Inner {
            listener: tokio::spawn(listen(local.clone(), redis.clone())),
            local,
            redis: redis.clone(),
            pool,
            redis_pause: Pause::default(),
            hits: Hits {
                local: hit("process"),
                redis: hit("redis"),
                postgres: hit("postgres"),
            },
        }))
    }

    /// The property, if there is one and it is listed.
    ///
    /// # Errors
    /// It is in no cache and Postgres does not answer.
    pub async fn get(&self, id: Uuid) -> ApiResult<Option<Arc<Shown>>> {
        if let Some(answer) = self.0.local.get(&id).await.and_then(|entry| entry.answer()) {
            self.0.hits.local.increment(1);
            return answer;
        }
        let read = async |known: Option<moka::Entry<Uuid, Entry>>| {
            let known = known.map(moka::Entry::into_value);
            if known.as_ref().is_some_and(|entry| entry.answer().is_some()) {
                return Op::Nop;
            }
            let oldest = known.map_or(0, |entry| entry.version());
            let nothing = |failure| Entry::Nothing {
                version: oldest,
                since: Instant::now(),
                failure,
            };
            Op::Put(match self.0.read(id, oldest).await {
                Ok(Some(shown)) => Entry::Shown(Arc::new(shown)),
                Ok(None) => nothing(None),
                Err(error) => nothing(Some(error)),
            })
        };
        match self.0.local.entry(id).and_compute_with(read).await {
            CompResult::Inserted(entry) | CompResult::ReplacedWith(entry) | CompResult::Unchanged(entry) => {
                entry.into_value().answer().unwrap_or(Ok(None))
            }
            CompResult::Removed(_) | CompResult::StillNone(_) => Ok(None),
        }
    }

    /// To be called after a change was committed: nothing older than `version` is shown any more, by this process
    /// at once and by the others as soon as Redis tells them.
    pub async fn changed(&self, id: Uuid, version: i32) {
        note_change(&self.0.local, id, version).await;
        // The job that the change enqueued does the same, should Redis be down or this process end here.
        match timeout(FORGET_TIMEOUT, forget(&self.0.redis, id, version)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, property_id = %id, "the fleet's cache is told later"),
            Err(_) => tracing::warn!(property_id = %id, "the fleet's cache is told later: no answer from redis"),
        }
    }
}

impl Inner {
    /// Reads version `oldest` or a later one from Redis, else from Postgres.
    async fn read(&self, id: Uuid, oldest: i32) -> ApiResult<Option<Shown>> {
        if let Some(rendered) = self.read_redis(id).await
            && rendered.version >= oldest
        {
            self.hits.redis.increment(1);
            return Ok(Some(rendered.into()));
        }
        let mut conn = self.pool.acquire().await?;
        let property = properties::get(&mut conn, id).await?;
        drop(conn);
        self.hits.postgres.increment(1);
        let Some(property) = property.filter(properties::Property::is_public) else {
            return Ok(None);
        };
        let rendered = Rendered::of(&property).map_err(ApiError::internal)?;
        if !self.redis_pause.is_on() {
            let (redis, copy) = (self.redis.clone(), rendered.clone());
            tokio::spawn(async move {
                if let Ok(Err(error)) = timeout(FORGET_TIMEOUT, store(&redis, id, &copy)).await {
                    tracing::debug!(%error, property_id = %id, "not kept in redis");
                }
            });
        }
        Ok(Some(rendered.into()))
    }

    async fn read_redis(&self, id: Uuid) -> Option<Rendered> {
        if self.redis_pause.is_on() {
            return None;
        }
        match timeout(REDIS_TIMEOUT, fetch(&self.redis, id)).await {
            Ok(Ok(Cached::Rendered(rendered))) => Some(rendered),
            Ok(Ok(Cached::Unknown | Cached::Changed(_))) => None,
            Ok(Err(error)) => {
                tracing::debug!(%error, "property cache without redis");
                self.redis_pause.begin();
                None
            }
            Err(_) => {
                self.redis_pause.begin();
                None
            }
        }
    }
}

async fn note_change(local: &Cache<Uuid, Entry>, id: Uuid, version: i32) {
    local
        .entry(id)
        .and_compute_with(async |known| match known {
            Some(known) if known.value().version() >= version => Op::Nop,
            _ => Op::Put(Entry::Changed(version)),
        })
        .await;
}

/// Follows the changes of others, for as long as the process lives.
async fn listen(local: Cache<Uuid, Entry>, redis: Redis) {
    let channel = channel(&redis);
    let subscribe = async || {
        let mut subscriber = redis.subscriber().await?;
        subscriber.subscribe(&channel).await?;
        Ok::<_, RedisError>(subscriber)
    };
    loop {
        match timeout(CONNECT_TIMEOUT, subscribe()).await {
            Ok(Ok(mut subscriber)) => {
                // Whatever was announced while nobody listened is read again.
                local.invalidate_all();
                let mut messages = subscriber.on_message();
                while let Some(message) = messages.next().await {
                    let change = message.get_payload::<String>().ok();
                    if let Some((id, version)) = change.as_deref().and_then(read_message) {
                        note_change(&local, id, version).await;
                    }
                }
            }
            Ok(Err(error)) => tracing::debug!(%error, "not subscribed to changes of properties"),
            Err(_) => tracing::debug!("not subscribed to changes of properties: no answer from redis"),
        }
        tokio::time::sleep(REDIS_PAUSE).await;
    }
}

/// A while in which something that failed is not tried.
struct Pause {
    start: Instant,
    until_millis: AtomicU64,
}

impl Default for Pause {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            until_millis: AtomicU64::new(0),
        }
    }
}

impl Pause {
    fn elapsed_millis(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn is_on(&self) -> bool {
        self.elapsed_millis() < self.until_millis.load(Ordering::Relaxed)
    }

    fn begin(&self) {
        let pause = u64::try_from(REDIS_PAUSE.as_millis()).unwrap_or(u64::MAX);
        self.until_millis
            .store(self.elapsed_millis().saturating_add(pause), Ordering::Relaxed);
    }
}
