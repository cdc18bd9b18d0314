//! The background half of Roost: takes job ids from Redis and runs the jobs against Postgres, Stripe and SMTP.
//!
//! The way of a job: [`queue`] (apalis brings an id) → [`engine`] (claim, run, settle) → [`jobs`] (the handlers).
//! [`relay`] and [`schedule`] run beside it.

pub mod cli;
mod config;
mod context;
pub mod email;
mod engine;
mod epoch;
mod error;
mod handler;
pub mod jobs;
mod observe;
mod postgres;
mod presence;
mod queue;
mod relay;
pub mod schedule;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use roost_shared::clock::Clock;
use roost_shared::db::Db;
use roost_shared::jobs::presence::{Presence, Standing};
use roost_shared::jobs::{Publisher, Queue};
use roost_shared::operators::audit::SealKeys;
use roost_shared::stripe::Gateway;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

pub use config::{Command, Options};
pub use context::Context;
pub use error::JobError;
pub use handler::{DONE, Done, Handler, Registry};
pub use observe::{healthcheck, serve_metrics};

use email::{Links, Mailer};
use engine::{Engine, Loops};

/// Of the time that a stop takes, what consumers get to end after the engine.
const CONSUMERS_END: Duration = Duration::from_secs(1);

/// A worker that runs.
pub struct Worker {
    engine: Arc<Engine>,
    loops: Loops,
    publisher: Publisher,
    standing: watch::Receiver<Option<Standing>>,
    consumers: TaskTracker,
    stop: CancellationToken,
    grace: Duration,
}

impl Worker {
    /// Connects by `options` and starts.
    ///
    /// # Errors
    /// An option makes no sense. Servers that are down are waited for.
    pub fn start(options: &Options, registry: Registry, clock: Clock) -> anyhow::Result<Self> {
        let pool = options.database.connect()?;
        let redis = options.redis.connect()?;
        let publisher = Publisher::spawn(pool.clone(), &redis).context("REDIS_URL")?;
        let (smtp_url, sender) = (options.smtp_url.expose(), &options.mail_from);
        let mailer = match &options.smtp_ca_file {
            Some(ca_file) => Mailer::trusting(ca_file, smtp_url, sender),
            None => Mailer::from_url(smtp_url, sender),
        };
        let ctx = Context {
            db: Db::new(pool, publisher, clock),
            redis,
            stripe: Gateway::new(&options.stripe)?,
            mailer: mailer.context("the way of mail")?,
            links: Links::from_options(&options.public_url, options.web_url.as_deref()),
            audit_seals: options
                .jwt_secret
                .as_ref()
                .map(|secret| SealKeys::derive(secret, options.jwt_secret_previous.as_ref()))
                .transpose()
                .map_err(|_| anyhow::anyhow!("JWT_SECRET or JWT_SECRET_PREVIOUS is shorter than 32 bytes"))?,
        };
        let queues = if options.queues.is_empty() {
            Queue::ALL.to_vec()
        } else {
            options.queues.clone()
        };
        Ok(Self::run(ctx, registry, &queues, options.concurrency, options.grace()))
    }

    /// Starts with what is connected already.
    #[must_use]
    pub fn run(ctx: Context, registry: Registry, queues: &[Queue], concurrency: usize, grace: Duration) -> Self {
        let owner = owner();
        let (redis, db) = (ctx.redis.clone(), ctx.db.clone());
        let presence = Presence {
            name: owner.clone(),
            host: host(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            queues: queues.to_vec(),
            kinds: registry.kinds(),
            concurrency,
        };
        let (engine, loops) = Engine::start(Arc::new(ctx), registry, queues, concurrency, owner);
        let (consumers, stop) = (TaskTracker::new(), CancellationToken::new());
        let (learnt, standing) = watch::channel(None);
        let (shown, clock) = (Arc::new(Notify::new()), db.clock().clone());
        consumers.spawn(presence::run(
            Arc::clone(&engine),
            presence,
            learnt,
            Arc::clone(&shown),
            clock,
            stop.clone(),
        ));
        for queue in queues {
            consumers.spawn(queue::consume(
                Arc::clone(&engine),
                redis.clone(),
                *queue,
                standing.clone(),
                stop.clone(),
            ));
        }
        consumers.spawn(relay::run(
            Arc::clone(&engine),
            redis,
            standing.clone(),
            shown,
            stop.clone(),
        ));
        let publisher = db.publisher().clone();
        consumers.spawn(schedule::run(db, standing.clone(), stop.clone()));
        consumers.close();
        Self {
            engine,
            loops,
            publisher,
            standing,
            consumers,
            stop,
            grace,
        }
    }

    /// Returns when an operator wants this worker to end.
    pub async fn asked_to_stop(&self) {
        let mut standing = self.standing.clone();
        let asked = |standing: &Option<Standing>| standing.as_ref().is_some_and(|standing| standing.stop);
        if standing.wait_for(asked).await.is_err() {
            // Nobody asks any more.
            std::future::pending::<()>().await;
        }
    }

    /// Stops taking jobs, lets those that run finish within the grace and hands the rest back. Ends within five seconds
    /// after the grace, whatever the servers do.
    pub async fn stop(self) {
        self.stop.cancel();
        self.engine.stop(self.loops, self.grace).await;
        // apalis waits for what it fetched; the engine refuses all of it by now.
        let _ = tokio::time::timeout(CONSUMERS_END, self.consumers.wait()).await;
        let last = async {
            self.engine.give_back().await;
            self.publisher.flush().await;
        };
        let _ = tokio::time::timeout(CONSUMERS_END, last).await;
    }
}

/// A name that no other process and no earlier start of this one has.
fn owner() -> String {
    let start = Uuid::new_v4().simple().to_string();
    format!("{}-{}-{}", host(), std::process::id(), &start[..8])
}

fn host() -> String {
    std::env::var("HOSTNAME").unwrap_or_else(|_| "worker".to_owned())
}
