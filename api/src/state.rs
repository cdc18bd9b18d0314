//! What every handler may need, put together once at start.

use std::sync::Arc;

use anyhow::Context;
use poem::http::HeaderName;
use roost_shared::clock::Clock;
use roost_shared::config::Secret;
use roost_shared::db::Db;
use roost_shared::jobs::Publisher;
use roost_shared::operators::SealingKeys;
use roost_shared::properties::quote::QuoteKey;
use roost_shared::redis::Redis;
use roost_shared::sessions::Sessions;
use roost_shared::tokens::Tokens;
use roost_shared::users::Passwords;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::cache::PropertyCache;
use crate::graphql::OpenSockets;
use crate::ratelimit::RateLimiter;
use crate::rest::booking_events::OpenStreams;
use crate::server::Bounds;
use crate::waiting::Announcements;

/// How this deployment is set up.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Base URL under which clients find the API, without a slash at its end.
    pub public_url: String,
    /// Origins whose pages may read replies; the API's own is always allowed.
    pub cors_allowed_origins: Vec<String>,
    /// The header that names the client's address, behind a proxy that sets it. Its last entry counts.
    pub client_ip_header: Option<HeaderName>,
    /// Sign-ins that are tried per minute for one account from one address; 0: without bound.
    pub logins_per_minute: u32,
    /// Registrations per hour from one address; 0: without bound.
    pub registrations_per_hour: u32,
    /// What clients may take of the API's and the dashboard's listener.
    pub connections: Bounds,
    /// Whether `/graphql` tells its schema.
    pub graphql_introspection: bool,
    /// Whether `/graphql` has a page to try it on.
    pub graphiql: bool,
    /// What one caller may ask of `/graphql` per minute, in points of complexity; 0: without bound.
    pub graphql_points_per_minute: u32,
    /// Stripe signs webhooks with one of these.
    pub stripe_webhook_secrets: Vec<Secret>,
}

/// The secrets and parts that an [`AppState`] is made of.
#[derive(Clone)]
pub struct AppConfig {
    /// Postgres.
    pub pool: PgPool,
    /// Redis.
    pub redis: Redis,
    /// The time.
    pub clock: Clock,
    /// Signs access tokens: 32 bytes at least.
    pub jwt_secret: Secret,
    /// Still accepted during a rotation.
    pub jwt_secret_previous: Option<Secret>,
    /// The rest.
    pub settings: Settings,
}

/// Shared by all requests; a clone is a few reference counts.
#[derive(Clone)]
pub struct AppState {
    /// Transactions, and the pool for reads.
    pub db: Db,
    /// Caches, limits, announcements.
    pub redis: Redis,
    /// The time.
    pub clock: Clock,
    /// Hashes and checks passwords.
    pub passwords: Passwords,
    /// Sign-ins.
    pub sessions: Sessions,
    /// Access tokens.
    pub tokens: Arc<Tokens>,
    /// Seals the secrets of operators' authenticators.
    pub sealing: Arc<SealingKeys>,
    /// Signs quotes.
    pub quote_key: QuoteKey,
    /// Listed properties, ready to be sent.
    pub properties: PropertyCache,
    /// Bounds per client.
    pub limiter: RateLimiter,
    /// Changes of bookings, for those who wait for one.
    pub announcements: Announcements,
    /// The event streams that are open.
    pub streams: OpenStreams,
    /// The WebSockets that are open.
    pub sockets: OpenSockets,
    /// Cancelled when the server stops: what would go on for long ends then.
    pub stopping: CancellationToken,
    /// How this deployment is set up.
    pub settings: Arc<Settings>,
}

impl AppState {
    /// Puts the parts together. Needs a tokio runtime; connects to nothing yet.
    ///
    /// # Errors
    /// A secret is too short, or a client's settings are refused.
    pub fn new(config: AppConfig) -> anyhow::Result<Self> {
        let publisher = Publisher::spawn(config.pool.clone(), &config.redis).context("starting the publisher")?;
        Ok(Self {
            properties: PropertyCache::spawn(config.pool.clone(), &config.redis),
            db: Db::new(config.pool, publisher, config.clock.clone()),
            clock: config.clock,
            passwords: Passwords::new()?,
            sessions: Sessions::new(config.redis.clone()),
            tokens: Arc::new(Tokens::new(&config.jwt_secret, config.jwt_secret_previous.as_ref())?),
            sealing: Arc::new(SealingKeys::derive(
                &config.jwt_secret,
                config.jwt_secret_previous.as_ref(),
            )?),
            quote_key: QuoteKey::derive(
                config.jwt_secret.expose().as_bytes(),
                config
                    .jwt_secret_previous
                    .as_ref()
                    .map(|secret| secret.expose().as_bytes()),
            ),
            limiter: RateLimiter::new(config.redis.clone()),
            announcements: Announcements::spawn(config.redis.clone()),
            streams: OpenStreams::default(),
            sockets: OpenSockets::new(config.settings.connections.open),
            stopping: CancellationToken::new(),
            redis: config.redis,
            settings: Arc::new(config.settings),
        })
    }
}
