//! What every handler may use.

use roost_shared::clock::Clock;
use roost_shared::db::Db;
use roost_shared::operators::audit::SealKeys;
use roost_shared::redis::Redis;
use roost_shared::stripe::Gateway;

use crate::email::{Links, Mailer};

/// The worker's connections to the world.
pub struct Context {
    /// Postgres, and enqueueing.
    pub db: Db,
    /// Caches.
    pub redis: Redis,
    /// Cards.
    pub stripe: Gateway,
    /// Mail.
    pub mailer: Mailer,
    /// The links in mails.
    pub links: Links,
    /// Seals the operators' log; none without the API's secret.
    pub audit_seals: Option<SealKeys>,
}

impl Context {
    /// The clock of this process.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        self.db.clock()
    }
}
