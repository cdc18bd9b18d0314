//! The background half of Roost: takes job ids from Redis and runs the jobs against Postgres, Stripe and SMTP.
//!
//! The way of a job: [`queue`] (apalis brings an id) → [`engine`] (claim, run, settle) → [`jobs`] (the handlers).
//! [`relay`] and [`schedule`] run beside it.

pub mod cli;
mod config;
mod context;
pub mod email;
mod engine;
mod error;
mod handler;
pub mod jobs;
mod observe;
mod presence;
mod queue;
mod relay;
pub mod schedule;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use roost_shared::clock::Clock;
use roost_shared::db::Db;
use roost_shared::jobs::{Publisher, Queue};
use roost_shared::stripe::Gateway;
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

/// A worker that runs.
pub struct Worker {
    engine: Arc<Engine>,
    loops: Loops,
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
        let ctx = Context {
            db: Db::new(pool, publisher, clock),
            redis,
            stripe: Gateway::new(&options.stripe).context("STRIPE_SECRET_KEY")?,
            mailer: Mailer::from_url(options.smtp_url.expose(), &options.mail_from).context("SMTP_URL")?,
            links: Links::new(&options.public_url.public_url),
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
        let (engine, loops) = Engine::start(Arc::new(ctx), registry, queues, concurrency, owner.clone());
        let (consumers, stop) = (TaskTracker::new(), CancellationToken::new());
        for queue in queues {
            let name = format!("{owner}-{}", queue.name());
            consumers.spawn(queue::consume(
                Arc::clone(&engine),
                redis.clone(),
                *queue,
                name,
                stop.clone(),
            ));
        }
        consumers.spawn(relay::run(Arc::clone(&engine), redis, stop.clone()));
        consumers.spawn(presence::run(
            db.pool().clone(),
            owner,
            queues.to_vec(),
            concurrency,
            stop.clone(),
        ));
        consumers.spawn(schedule::run(db, stop.clone()));
        consumers.close();
        Self {
            engine,
            loops,
            consumers,
            stop,
            grace,
        }
    }

    /// Stops taking jobs, lets those that run finish within the grace and hands the rest back.
    pub async fn stop(self) {
        self.stop.cancel();
        self.engine.stop(self.loops, self.grace).await;
        // apalis waits for what it fetched; the engine refuses all of it by now.
        let _ = tokio::time::timeout(Duration::from_secs(2), self.consumers.wait()).await;
        self.engine.give_back().await;
    }
}

/// A name that no other process and no earlier start of this one has.
fn owner() -> String {
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "worker".to_owned());
    let start = Uuid::new_v4().simple().to_string();
    format!("{host}-{}-{}", std::process::id(), &start[..8])
}
