//! A fresh, migrated database for each test, and a Redis database of its own beside it.
//!
//! `make test` names the servers in `DATABASE_URL` and `REDIS_URL`. Without them, say under a plain `cargo test`, the
//! first test of the process starts private ones, which end with the process.

use std::{
    str::FromStr,
    sync::{Mutex, OnceLock, PoisonError},
    thread,
    time::{Duration, Instant},
};

use ::redis::{Commands, Connection, ExistenceCheck, SetExpiry, SetOptions};
use anyhow::{Context, Result, anyhow, bail};
use roost_shared::db::MIGRATOR;
use sha2::{Digest, Sha256};
use sqlx::{
    AssertSqlSafe, Connection as _, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::services::{Durability, Services, random_hex};

/// Names the servers of this process's tests.
struct Servers {
    database_url: String,
    redis_url: String,
    // Holds the private servers; they are stopped by their watchdog when the process ends.
    _private: Option<Services>,
}

fn servers() -> Result<&'static Servers> {
    static SERVERS: OnceLock<Result<Servers, String>> = OnceLock::new();
    SERVERS
        .get_or_init(|| {
            let services = Services::scratch(Durability::Scratch).map_err(|error| format!("{error:#}"))?;
            Ok(Servers {
                database_url: services.database_url().to_owned(),
                redis_url: services.redis_url().to_owned(),
                _private: Some(services),
            })
        })
        .as_ref()
        .map_err(|error| anyhow!("{error}"))
}

/// A database cloned from a migrated template, dropped when this is dropped.
pub struct TestDatabase {
    name: String,
    url: String,
    admin_url: String,
}

impl TestDatabase {
    /// Makes one. Tests of one process and of many may do so at the same time.
    pub async fn create() -> Result<Self> {
        let admin_url = servers()?.database_url.clone();
        let template = template(&admin_url).await?;
        let name = format!("roost_test_{}", random_hex());
        let mut admin = PgConnection::connect(&admin_url)
            .await
            .context("connecting to make a test database")?;
        execute(&mut admin, &format!("CREATE DATABASE {name} TEMPLATE {template}")).await?;
        admin.close().await?;
        let url = with_path(&admin_url, &name)?;
        Ok(Self { name, url, admin_url })
    }

    /// The connection string of this database.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A small pool on it.
    pub fn pool(&self) -> Result<PgPool> {
        let options = PgConnectOptions::from_str(&self.url)?;
        Ok(PgPoolOptions::new().max_connections(8).connect_lazy_with(options))
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let (admin_url, name) = (self.admin_url.clone(), self.name.clone());
        // A runtime of its own: this may run inside one, or after its end.
        let dropped = thread::spawn(move || -> Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut admin = PgConnection::connect(&admin_url).await?;
                execute(&mut admin, &format!("DROP DATABASE {name} WITH (FORCE)")).await
            })
        });
        match dropped.join() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => eprintln!("dropping {}: {error:#}", self.name),
            Err(_) => eprintln!("dropping {}: the thread ended", self.name),
        }
    }
}

async fn execute(connection: &mut PgConnection, sql: &str) -> Result<()> {
    // Database names cannot be bound; ours are made of hex digits.
    sqlx::query(AssertSqlSafe(sql))
        .execute(connection)
        .await
        .with_context(|| sql.to_owned())?;
    Ok(())
}

fn with_path(url: &str, database: &str) -> Result<String> {
    let mut url = reqwest::Url::parse(url).context("DATABASE_URL is not a URL")?;
    url.set_path(database);
    Ok(url.into())
}

/// The template of this build's migrations, made by whoever comes first and kept for the next ones.
async fn template(admin_url: &str) -> Result<String> {
    static READY: OnceLock<String> = OnceLock::new();
    if let Some(name) = READY.get() {
        return Ok(name.clone());
    }
    let mut hash = Sha256::new();
    for migration in MIGRATOR.iter() {
        hash.update(&migration.checksum);
    }
    let name = format!("roost_template_{}", &hex::encode(hash.finalize())[..16]);

    let mut admin = PgConnection::connect(admin_url)
        .await
        .context("connecting to make the template database")?;
    // Held until this connection ends; other processes and threads wait here.
    sqlx::query("SELECT pg_advisory_lock(hashtext('roost_template'))")
        .execute(&mut admin)
        .await?;
    let finished: Option<bool> = sqlx::query_scalar("SELECT datistemplate FROM pg_database WHERE datname = $1")
        .bind(&name)
        .fetch_optional(&mut admin)
        .await?;
    if finished != Some(true) {
        execute(&mut admin, &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await?;
        execute(&mut admin, &format!("CREATE DATABASE {name}")).await?;
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .connect(&with_path(admin_url, &name)?)
            .await?;
        MIGRATOR.run(&pool).await.context("migrating the template database")?;
        pool.close().await;
        // Nobody may connect to a template while it is being copied.
        execute(
            &mut admin,
            &format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false IS_TEMPLATE true"),
        )
        .await?;
    }
    admin.close().await?;
    Ok(READY.get_or_init(|| name).clone())
}

/// Says that a Redis database holds a test's data, which may be flushed, and nobody else's.
const MARK: &str = "roost-tests:mark";
/// A test that was killed gives its database back after this long.
const LEASE_SECONDS: u64 = 3600;

/// A numbered Redis database that no other test uses, empty, flushed when this is dropped.
///
/// Publish and subscribe know no databases: a test may hear another one's messages. Use `FLUSHDB`, never `FLUSHALL`.
pub struct TestRedis {
    number: u32,
    url: String,
    lease: String,
    // Database 0, where the leases are.
    registrar: Mutex<Connection>,
}

impl TestRedis {
    /// Takes a free database, waiting for one if all are taken.
    pub async fn create() -> Result<Self> {
        tokio::task::spawn_blocking(Self::take).await?
    }

    fn take() -> Result<Self> {
        let base = &servers()?.redis_url;
        let mut registrar = connect(base, 0)?;
        let count = databases(&mut registrar);
        let deadline = Instant::now() + Duration::from_secs(60);
        let lease = random_hex();
        while Instant::now() < deadline {
            // Begin where the last one did not, so that a long row of taken numbers is not asked one by one.
            let start: u32 = registrar.incr("roost-tests:next", 1)?;
            for step in 0..count - 1 {
                let number = 1 + (start.wrapping_add(step)) % (count - 1);
                let once = SetOptions::default()
                    .conditional_set(ExistenceCheck::NX)
                    .with_expiration(SetExpiry::EX(LEASE_SECONDS));
                if !registrar.set_options::<_, _, bool>(lease_key(number), &lease, once)? {
                    continue;
                }
                let mut own = connect(base, number)?;
                let size: u64 = ::redis::cmd("DBSIZE").query(&mut own)?;
                if size > 0 && !own.exists::<_, bool>(MARK)? {
                    // Somebody's data: not ours to flush. The lease stays, so that it is not looked at again.
                    continue;
                }
                ::redis::cmd("FLUSHDB").exec(&mut own)?;
                own.set::<_, _, ()>(MARK, 1)?;
                let url = database_url(base, number)?;
                return Ok(Self {
                    number,
                    url,
                    lease,
                    registrar: Mutex::new(registrar),
                });
            }
            thread::sleep(Duration::from_millis(50));
        }
        bail!("no free Redis database among {count}")
    }

    /// The connection string, database number included.
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for TestRedis {
    fn drop(&mut self) {
        let registrar = self.registrar.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut give_back = || -> ::redis::RedisResult<()> {
            let holder: Option<String> = registrar.get(lease_key(self.number))?;
            if holder.as_deref() == Some(&self.lease) {
                ::redis::pipe()
                    .cmd("SELECT")
                    .arg(self.number)
                    .cmd("FLUSHDB")
                    .cmd("SELECT")
                    .arg(0)
                    .exec(registrar)?;
                registrar.del::<_, ()>(lease_key(self.number))?;
            }
            Ok(())
        };
        if let Err(error) = give_back() {
            eprintln!("giving back Redis database {}: {error}", self.number);
        }
    }
}

fn lease_key(number: u32) -> String {
    format!("roost-tests:lease:{number}")
}

/// How many databases the server has; managed ones do not tell, and then have the default of 16 or fewer.
fn databases(connection: &mut Connection) -> u32 {
    ::redis::cmd("CONFIG")
        .arg("GET")
        .arg("databases")
        .query::<(String, u32)>(connection)
        .map_or(16, |(_, count)| count)
        .max(2)
}

fn database_url(base: &str, number: u32) -> Result<String> {
    let mut url = reqwest::Url::parse(base).context("REDIS_URL is not a URL")?;
    url.set_path(&number.to_string());
    Ok(url.into())
}

fn connect(base: &str, number: u32) -> Result<Connection> {
    let client = ::redis::Client::open(database_url(base, number)?)?;
    client
        .get_connection_with_timeout(Duration::from_secs(5))
        .context("connecting to Redis")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn databases_are_migrated_apart_and_gone_afterwards() {
        let many = futures::future::join_all((0..8).map(|_| tokio::spawn(TestDatabase::create()))).await;
        let many: Vec<TestDatabase> = many.into_iter().map(|made| made.unwrap().unwrap()).collect();
        let mut names: Vec<String> = many.iter().map(|database| database.name.clone()).collect();
        for database in &many {
            let pool = database.pool().unwrap();
            let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_tables WHERE tablename IN ('users', 'jobs')")
                .fetch_one(&pool)
                .await
                .unwrap();
            assert_eq!(tables, 2);
        }
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 8);
        let mut admin = PgConnection::connect(&many[0].admin_url).await.unwrap();
        drop(many);
        let left: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_database WHERE datname = ANY($1)")
            .bind(&names)
            .fetch_one(&mut admin)
            .await
            .unwrap();
        assert_eq!(left, 0);
    }

    #[tokio::test]
    async fn redis_databases_are_apart_and_empty_when_given_out_again() {
        let (one, other) = (TestRedis::create().await.unwrap(), TestRedis::create().await.unwrap());
        assert_ne!(one.url(), other.url());
        let base = servers().unwrap().redis_url.clone();
        let mut connection = connect(&base, one.number).unwrap();
        connection.set::<_, _, ()>("booking", "1").unwrap();
        assert!(
            !connect(&base, other.number)
                .unwrap()
                .exists::<_, bool>("booking")
                .unwrap()
        );
        drop(one);
        assert!(!connection.exists::<_, bool>("booking").unwrap());
    }
}
