//! What is measured: the servers, a database of our own on them, and the release binaries as processes.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use reqwest::StatusCode;
use roost_shared::{clock::Clock, config::Secret, db, db::Db, jobs::Publisher, redis::Redis};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, PgPool};

use super::pgbench::Pgbench;
use crate::services::{
    Durability, Instance, Services, free_address,
    process::{Process, Signal, log_tail, open_log},
    random_hex, workspace_root,
};

/// Signs the events that are delivered to the API.
pub const WEBHOOK_SECRET: &str = "whsec_bench";
const START_LIMIT: Duration = Duration::from_secs(30);

/// Servers, data and binaries of one run.
pub struct Machine {
    pub pgbench: Pgbench,
    database: String,
    admin_url: String,
    database_url: String,
    redis_prefix: String,
    jwt_secret: String,
    bin: PathBuf,
    services: Services,
}

impl Machine {
    /// Servers as durable as production's, unless DATABASE_URL and REDIS_URL name some; there, a database and a key
    /// prefix of our own. `counted`: where the servers are private, PostgreSQL counts its statements.
    pub async fn start(counted: bool) -> Result<Self> {
        let durability = if counted {
            Durability::Counted
        } else {
            Durability::Durable
        };
        let instance = Instance::scratch(&workspace_root()?.join(".roost/bench"))?;
        let services = tokio::task::spawn_blocking(move || Services::start(instance, durability)).await??;
        let admin_url = services.database_url().to_owned();
        let name = random_hex();
        let database = format!("roost_bench_{}", name.get(..8).unwrap_or(&name));
        let mut url: reqwest::Url = admin_url.parse().context("DATABASE_URL is not a URL")?;
        url.set_path(&database);
        let machine = Self {
            pgbench: Pgbench::find(url.as_str(), services.instance().dir())?,
            redis_prefix: database.clone(),
            database,
            admin_url,
            database_url: url.into(),
            jwt_secret: random_hex() + &random_hex(),
            bin: std::env::current_exe()?
                .parent()
                .context("our own binary is in no folder")?
                .to_owned(),
            services,
        };
        machine
            .administer(&format!("CREATE DATABASE {}", machine.database))
            .await?;
        Ok(machine)
    }

    /// Forgets what was made on servers that are not ours.
    pub async fn finish(self) -> Result<()> {
        self.administer(&format!("DROP DATABASE {} WITH (FORCE)", self.database))
            .await?;
        self.forget_messages("*").await
    }

    async fn administer(&self, sql: &str) -> Result<()> {
        let mut admin = PgConnection::connect(&self.admin_url)
            .await
            .context("connecting to DATABASE_URL")?;
        // Names cannot be bound; ours is made of hex digits.
        admin
            .execute(AssertSqlSafe(sql.to_owned()))
            .await
            .with_context(|| sql.to_owned())?;
        Ok(admin.close().await?)
    }

    pub fn database_url(&self) -> &str {
        &self.database_url
    }

    /// Where the run keeps what it needs on disk.
    pub fn folder(&self) -> &Path {
        self.services.instance().dir()
    }

    pub fn jwt_secret(&self) -> Secret {
        Secret::new(self.jwt_secret.clone())
    }

    pub fn redis(&self) -> Result<Redis> {
        Ok(Redis::new(self.services.redis_url(), &self.redis_prefix)?)
    }

    pub fn pool(&self, connections: u32) -> Result<PgPool> {
        Ok(db::connect(&self.database_url, connections)?)
    }

    /// What the API has to enqueue with.
    pub fn db(&self, connections: u32) -> Result<Db> {
        let pool = self.pool(connections)?;
        let publisher = Publisher::spawn(pool.clone(), &self.redis()?)?;
        Ok(Db::new(pool, publisher, Clock::default()))
    }

    /// Takes a queue's messages out of Redis, as workers would; it would be full within seconds. Ends only by an error.
    pub async fn drain(&self, queue: &str) -> Result<()> {
        let mut ticks = tokio::time::interval(Duration::from_millis(500));
        loop {
            ticks.tick().await;
            self.forget_messages(&format!("{queue}:*")).await?;
        }
    }

    /// Deletes the keys of this run that match.
    async fn forget_messages(&self, pattern: &str) -> Result<()> {
        let redis = self.redis()?;
        let mut connection = redis.connection();
        let mut cursor = 0_u64;
        loop {
            let (next, keys): (u64, Vec<String>) = redis::cmd("SCAN")
                .arg(cursor)
                .arg("MATCH")
                .arg(redis.key(pattern))
                .arg("COUNT")
                .arg(1_000)
                .query_async(&mut connection)
                .await?;
            if !keys.is_empty() {
                redis::cmd("UNLINK").arg(keys).exec_async(&mut connection).await?;
            }
            cursor = next;
            if cursor == 0 {
                return Ok(());
            }
        }
    }

    /// Starts the API as production runs it, but for the bound on sign-ins of one account.
    pub async fn api(&self) -> Result<Running> {
        let address = free_address()?;
        let command = self.api_command(address, "off")?;
        self.start_process("api", command, address, "/readyz").await
    }

    /// Starts the API with its job dashboard, which is at the address.
    pub async fn dashboard(&self) -> Result<Running> {
        let address = free_address()?;
        let command = self.api_command(free_address()?, &address.to_string())?;
        self.start_process("api", command, address, "/ops/login").await
    }

    fn api_command(&self, address: SocketAddr, dashboard: &str) -> Result<Command> {
        let mut command = self.command("roost-api")?;
        command
            .env("API_LISTEN", address.to_string())
            .env("METRICS_LISTEN", free_address()?.to_string())
            .env("OPS_LISTEN", dashboard)
            .env("JWT_SECRET", &self.jwt_secret)
            .env("STRIPE_WEBHOOK_SECRET", WEBHOOK_SECRET)
            .env("LOGINS_PER_MINUTE", "0");
        Ok(command)
    }

    /// Starts the worker as production runs it.
    pub async fn worker(&self) -> Result<Running> {
        let mut command = self.command("roost-worker")?;
        self.worker_env(&mut command)?;
        self.start_worker("worker", command).await
    }

    /// Starts the worker that knows the kinds of the benchmark as well.
    pub async fn bench_worker(&self) -> Result<Running> {
        let mut command = self.command("bench")?;
        command.arg("worker");
        self.worker_env(&mut command)?;
        self.start_worker("bench-worker", command).await
    }

    async fn start_worker(&self, name: &str, mut command: Command) -> Result<Running> {
        let metrics = free_address()?;
        command.env("METRICS_LISTEN", metrics.to_string());
        self.start_process(name, command, metrics, "/healthz").await
    }

    fn worker_env(&self, command: &mut Command) -> Result<()> {
        // Nothing that is measured calls Stripe or sends mail; where they would be, nobody listens.
        command
            .env("STRIPE_SECRET_KEY", "sk_test_bench")
            .env("STRIPE_API_BASE", format!("http://{}", free_address()?))
            .env("SMTP_URL", format!("smtp://{}", free_address()?));
        Ok(())
    }

    /// Starts the handler that does nothing but return so many bytes.
    pub async fn bare(&self, bytes: usize) -> Result<Running> {
        let mut command = self.command("bench")?;
        let address = free_address()?;
        command
            .arg("bare")
            .arg(format!("--bytes={bytes}"))
            .arg(format!("--listen={address}"));
        self.start_process("bare", command, address, "/").await
    }

    fn command(&self, binary: &str) -> Result<Command> {
        let path = self.bin.join(binary);
        ensure!(
            path.is_file(),
            "{} is not built: run cargo build --workspace --release",
            path.display()
        );
        let mut command = Command::new(path);
        command
            .env("DATABASE_URL", &self.database_url)
            .env("REDIS_URL", self.services.redis_url())
            .env("REDIS_PREFIX", &self.redis_prefix);
        Ok(command)
    }

    async fn start_process(
        &self,
        name: &str,
        mut command: Command,
        address: SocketAddr,
        ready: &str,
    ) -> Result<Running> {
        let path = self.services.instance().log(name);
        let log = open_log(&path)?;
        command.stdout(log.try_clone()?).stderr(log);
        let began = Instant::now();
        let mut process = self
            .services
            .instance()
            .supervisor()
            .spawn(name, Signal::Term, &mut command)?;
        let client = reqwest::Client::builder().timeout(START_LIMIT).build()?;
        loop {
            let reply = client.get(format!("http://{address}{ready}")).send().await;
            if reply.is_ok_and(|reply| reply.status() == StatusCode::OK) {
                break;
            }
            if process.exited()?.is_some() || began.elapsed() > START_LIMIT {
                bail!("{name} did not come up; {}:\n{}", path.display(), log_tail(&path, 20));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(Running {
            process,
            address,
            start: began.elapsed(),
        })
    }
}

/// A process that answers.
pub struct Running {
    process: Process,
    pub address: SocketAddr,
    /// From its start to its first good reply.
    pub start: Duration,
}

impl Running {
    /// Its resident memory in MB of a million bytes.
    pub fn memory(&self) -> Result<f64> {
        resident(self.process.pid())
    }

    /// The time that cores spent on it so far.
    pub fn processor_seconds(&self) -> Result<f64> {
        processor_seconds(self.process.pid())
    }

    /// The most resident memory while `work` runs, looked at ten times a second.
    pub async fn peak<T>(&self, work: impl Future<Output = Result<T>>) -> Result<(T, f64)> {
        let mut peak = self.memory()?;
        let mut ticks = tokio::time::interval(Duration::from_millis(100));
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok((done?, peak.max(self.memory()?))),
                _ = ticks.tick() => peak = peak.max(self.memory()?),
            }
        }
    }

    /// Asks it to stop and waits.
    pub async fn stop(mut self) -> Result<()> {
        tokio::task::spawn_blocking(move || self.process.stop()).await?
    }
}

fn resident(pid: u32) -> Result<f64> {
    let kilobytes = match std::fs::read_to_string(format!("/proc/{pid}/status")) {
        Ok(status) => status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .map(|value| value.trim_end_matches("kB").trim().to_owned()),
        Err(_) => {
            let out = Command::new("ps")
                .args(["-o", "rss=", "-p", &pid.to_string()])
                .output()?;
            Some(String::from_utf8(out.stdout)?.trim().to_owned())
        }
    };
    let kilobytes: f64 = kilobytes.context("no resident memory is told")?.parse()?;
    Ok(kilobytes * 1024.0 / 1e6)
}

/// From Linux' own account where there is one, else from ps, which counts in hundredths of a second on macOS.
fn processor_seconds(pid: u32) -> Result<f64> {
    if let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        let out = Command::new("getconf").arg("CLK_TCK").output()?;
        let ticks: f64 = String::from_utf8(out.stdout)?.trim().parse()?;
        // What stands before the last bracket is the program's name, which may hold anything.
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let times: Vec<f64> = fields.skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
        return Ok(times.iter().sum::<f64>() / ticks);
    }
    let out = Command::new("ps")
        .args(["-o", "time=", "-p", &pid.to_string()])
        .output()?;
    let text = String::from_utf8(out.stdout)?;
    text.trim().split(':').try_fold(0.0, |sum, part| {
        let part: f64 = part.parse().with_context(|| format!("ps says {text:?}"))?;
        Ok(sum * 60.0 + part)
    })
}
