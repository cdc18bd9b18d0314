//! Postgres: the pool, and the transaction that every change goes through.
//!
//! A [`Tx`] collects the jobs that its work enqueues, inserts them in one statement when it commits, and hands
//! their ids to Redis only after the commit. A transaction that is not committed leaves neither rows nor jobs.

use std::time::Duration;

use chrono::{DateTime, Utc};
use rand::Rng;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool, Postgres, Transaction};
use uuid::Uuid;

use crate::clock::Clock;
use crate::jobs::{self, Job, NewJob, Publisher};

/// The migrations of this build.
pub static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("../migrations");

/// A connection that was idle for so long is tried out before it is used. One in steady use is not: that would be a
/// round trip for every statement, and a request that goes away during it would take the connection with it.
const TRIED_AFTER: Duration = Duration::from_secs(1);

/// Postgres gives a statement up after that.
pub const STATEMENT_TIMEOUT: Duration = Duration::from_secs(15);

/// Opens a pool. Connections are made when they are needed; waiting for one ends after three seconds.
///
/// # Errors
/// The URL is not a Postgres URL.
pub fn connect(url: &str, max_connections: u32) -> Result<PgPool, sqlx::Error> {
    let options: PgConnectOptions = url.parse()?;
    let statement_timeout = format!("{}s", STATEMENT_TIMEOUT.as_secs());
    let options = options
        .application_name("roost")
        .options([
            ("statement_timeout", statement_timeout.as_str()),
            ("idle_in_transaction_session_timeout", "30s"),
            // No statement here runs long enough for compiling it to pay.
            ("jit", "off"),
            // Postgres finds out that this machine has vanished, and lets go of what its transactions had locked.
            ("tcp_keepalives_idle", "15"),
            ("tcp_keepalives_interval", "5"),
            ("tcp_keepalives_count", "3"),
        ])
        .log_slow_statements(tracing::log::LevelFilter::Warn, Duration::from_secs(1));
    Ok(PgPoolOptions::new()
        .max_connections(max_connections)
        .acquire_timeout(Duration::from_secs(3))
        .max_lifetime(Duration::from_secs(30 * 60))
        .test_before_acquire(false)
        .before_acquire(|connection, state| {
            Box::pin(async move {
                if state.idle_for >= TRIED_AFTER {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .connect_lazy_with(options))
}

/// Connections of its own for the job engine, to the same database as `pool`: its statements are short and must not wait
/// behind handlers. A connection is not tried out before use; whoever uses it tries again anyway.
///
/// Each of its statements is planned once a connection: planning takes longer than running it while the fleet is idle, and
/// Postgres would plan them again and again once `jobs` has grown. Such a plan may be made while the table is empty, so it
/// keeps to the index that there is for each of them.
#[must_use]
pub fn engine_pool(pool: &PgPool, max_connections: u32) -> PgPool {
    let options = pool.connect_options().as_ref().clone();
    let options = options.options([("plan_cache_mode", "force_generic_plan"), ("enable_seqscan", "off")]);
    PgPoolOptions::new()
        .max_connections(max_connections)
        .acquire_timeout(Duration::from_secs(3))
        .max_lifetime(Duration::from_secs(30 * 60))
        .test_before_acquire(false)
        .connect_lazy_with(options)
}

/// Begins a transaction. It is begun in a task of its own, so whoever waits for it can go away: sqlx 0.9 counts a transaction
/// once Postgres has answered, and without that count nobody rolls it back. Its connection then returns to the pool inside
/// of it, and what others write there, one statement at a time, is lost when it ends.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn begin(pool: &PgPool) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    begin_with(pool, "BEGIN").await
}

/// The same, to read one state of all tables.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn snapshot(pool: &PgPool) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    begin_with(pool, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is the way that does not leave a transaction open"
)]
async fn begin_with(pool: &PgPool, statement: &'static str) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    let pool = pool.clone();
    let begun = tokio::spawn(async move { pool.begin_with(statement).await });
    // The task is not cancelled but with the whole process.
    begun.await.unwrap_or(Err(sqlx::Error::PoolClosed))
}

/// What an operation needs to begin: the pool, the clock and the way to Redis.
#[derive(Clone)]
pub struct Db {
    pool: PgPool,
    publisher: Publisher,
    clock: Clock,
}

impl Db {
    /// Puts the parts together.
    #[must_use]
    pub fn new(pool: PgPool, publisher: Publisher, clock: Clock) -> Self {
        Self { pool, publisher, clock }
    }

    /// For reads, and for single statements that enqueue nothing.
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// The clock of this process.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The way to Redis.
    #[must_use]
    pub fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// Begins a transaction at the clock's now.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn begin(&self) -> Result<Tx, sqlx::Error> {
        let inner = begin(&self.pool).await?;
        Ok(Tx {
            inner,
            now: self.clock.now(),
            publisher: self.publisher.clone(),
            jobs: Vec::new(),
            changed_bookings: Vec::new(),
        })
    }
}

/// A transaction, the instant it works at, and what it will announce once it is committed.
pub struct Tx {
    inner: Transaction<'static, Postgres>,
    now: DateTime<Utc>,
    publisher: Publisher,
    jobs: Vec<NewJob>,
    changed_bookings: Vec<Uuid>,
}

impl Tx {
    /// The connection, for statements.
    pub fn conn(&mut self) -> &mut PgConnection {
        &mut self.inner
    }

    /// The instant this transaction works at.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        self.now
    }

    /// Enqueues a job to run as soon as this transaction is committed.
    pub fn enqueue<J: Job>(&mut self, job: &J) {
        self.jobs.push(NewJob::of(job, self.now, None));
    }

    /// Enqueues a job to run at `run_at`, or at once if that is past.
    pub fn enqueue_at<J: Job>(&mut self, job: &J, run_at: DateTime<Utc>) {
        self.jobs.push(NewJob::of(job, self.now, Some(run_at)));
    }

    /// Enqueues a job of a batch that has not ended: see [`jobs::batches`].
    pub fn enqueue_in<J: Job>(&mut self, batch_id: Uuid, job: &J) {
        self.jobs.push(NewJob::of(job, self.now, None).in_batch(batch_id));
    }

    /// Tells those who wait for this booking, after the commit, that it changed.
    pub fn booking_changed(&mut self, booking_id: Uuid) {
        if !self.changed_bookings.contains(&booking_id) {
            self.changed_bookings.push(booking_id);
        }
    }

    /// Inserts the enqueued jobs, commits, then publishes.
    ///
    /// # Errors
    /// Postgres refused or could not be reached; nothing is published then. When the connection broke during the
    /// commit the outcome is unknown: [`is_commit_unconfirmed`].
    pub async fn commit(mut self) -> Result<(), sqlx::Error> {
        let published = jobs::insert(&mut self.inner, &self.jobs, |queue| self.publisher.takes(queue)).await?;
        self.inner.commit().await.map_err(|error| match error {
            refused @ sqlx::Error::Database(_) => refused,
            broken => sqlx::Error::Io(std::io::Error::other(CommitUnconfirmed(broken))),
        })?;
        self.publisher.publish(published, self.changed_bookings);
        Ok(())
    }
}

/// Postgres was asked to commit and its answer did not arrive.
#[derive(Debug, thiserror::Error)]
#[error("the commit was not confirmed: {0}")]
struct CommitUnconfirmed(sqlx::Error);

/// Whether the connection broke in the middle of a commit, so that nobody knows what became of it.
#[must_use]
pub fn is_commit_unconfirmed(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => error
            .get_ref()
            .is_some_and(<dyn std::error::Error + Send + Sync>::is::<CommitUnconfirmed>),
        _ => false,
    }
}

/// Whether Postgres could not be reached, or is starting, ending or out of connections: it has nothing to do with what it was
/// asked.
#[must_use]
pub fn is_away(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::Io(_) | sqlx::Error::Tls(_) => true,
        sqlx::Error::Database(database) => matches!(
            database.code().as_deref(),
            Some("57P01" | "57P02" | "57P03" | "53300" | "53400")
        ),
        _ => false,
    }
}

/// Whether Postgres ended the transaction for the sake of another one, so that it can simply be tried again.
#[must_use]
pub fn is_retryable(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code)
        .is_some_and(|code| code == "40P01" || code == "40001")
}

/// The most times that a transaction is tried again.
const MOST_RETRIES: u32 = 3;
const RETRY_STEP_MILLISECONDS: u64 = 20;

/// Counts how often a transaction was tried again.
#[derive(Debug, Default)]
pub struct Retries(u32);

impl Retries {
    /// Whether to begin anew: the error is retryable and there were not three of them yet. Waits a little first, at
    /// random, so that two that met do not meet again.
    pub async fn again(&mut self, error: &sqlx::Error) -> bool {
        if self.0 >= MOST_RETRIES || !is_retryable(error) {
            return false;
        }
        self.0 += 1;
        metrics::counter!("roost_transactions_retried_total").increment(1);
        let pause = rand::rng().random_range(0..RETRY_STEP_MILLISECONDS << self.0);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        true
    }
}

/// The name of the constraint that refused, if one did.
#[must_use]
pub fn violated_constraint(error: &sqlx::Error) -> Option<&str> {
    error.as_database_error().and_then(|database| database.constraint())
}
