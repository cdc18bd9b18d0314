//! What is damaged: private servers, the real programs as processes, and our own way in beside them.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use chrono::{DateTime, Utc};
use roost_shared::{clock::Clock, db, db::Db, jobs::Publisher, redis::Redis};
use serde_json::Value;
use sqlx::PgPool;

use super::{jobs, proxy::Proxy};
use crate::services::{
    Durability, Instance, Services, free_address,
    process::{Process, Signal, log_tail, open_log},
    random_hex, workspace_root,
};

const START_LIMIT: Duration = Duration::from_secs(60);
/// Connections to Postgres of each program: all of them together must fit.
const CONNECTIONS: &str = "12";

/// Servers and programs of one scenario.
pub struct Testbed {
    /// Straight to Postgres, past the proxy.
    pub pool: PgPool,
    pub http: reqwest::Client,
    /// Between Postgres and the workers.
    pub postgres_proxy: Proxy,
    /// Between Postgres and the API.
    pub api_postgres_proxy: Proxy,
    pub redis_proxy: Proxy,
    pub api: Option<Program>,
    pub workers: Vec<Program>,
    /// What the programs know the servers by.
    database_url: String,
    api_database_url: String,
    redis_url: String,
    api_address: SocketAddr,
    mailbox: SocketAddr,
    smtp: SocketAddr,
    sandbox: SocketAddr,
    jwt_secret: String,
    pub webhook_secret: String,
    bin: PathBuf,
    peers: Vec<Program>,
    started: u32,
    // After the programs, so that they end before their servers do.
    pub services: Services,
}

/// How a worker is started.
#[derive(Clone, Debug, Default)]
pub struct WorkerPlan {
    /// The harness's worker, which knows its kinds as well, instead of `roost-worker`.
    pub own_kinds: bool,
    /// It knows the newest kind.
    pub newer: bool,
    /// Seconds that its clock is ahead.
    pub clock_offset: i64,
    /// Only these queues.
    pub queues: Option<&'static str>,
    pub concurrency: Option<usize>,
    pub grace: Option<u64>,
    /// Where it dies.
    pub crash_plan: Option<PathBuf>,
}

impl WorkerPlan {
    pub fn own() -> Self {
        Self {
            own_kinds: true,
            ..Self::default()
        }
    }
}

impl Testbed {
    /// Servers, sandbox and mailbox; neither API nor worker yet. Programs reach Postgres and Redis through proxies.
    pub async fn start(durability: Durability) -> Result<Self> {
        let parent = workspace_root()?.join(".roost/chaos");
        let services = tokio::task::spawn_blocking(move || {
            let instance = Instance::scratch(&parent)?;
            Services::private(instance, durability)
        })
        .await??;
        let (postgres_proxy, database_url) = Proxy::before(services.database_url()).await?;
        let (api_postgres_proxy, api_database_url) = Proxy::before(services.database_url()).await?;
        let (redis_proxy, redis_url) = Proxy::before(services.redis_url()).await?;
        let mut testbed = Self {
            pool: db::connect(services.database_url(), 10)?,
            http: reqwest::Client::builder()
                .no_proxy()
                .timeout(Duration::from_secs(60))
                .build()?,
            postgres_proxy,
            api_postgres_proxy,
            redis_proxy,
            api: None,
            workers: Vec::new(),
            database_url,
            api_database_url,
            redis_url,
            api_address: free_address()?,
            mailbox: free_address()?,
            smtp: free_address()?,
            sandbox: free_address()?,
            jwt_secret: random_hex() + &random_hex(),
            webhook_secret: format!("whsec_{}", random_hex()),
            bin: folder_of_binaries()?,
            peers: Vec::new(),
            started: 0,
            services,
        };
        testbed.migrate().await?;
        jobs::make_tables(&testbed.pool).await?;
        testbed.start_peers().await?;
        Ok(testbed)
    }

    async fn migrate(&self) -> Result<()> {
        let mut command = tokio::process::Command::from(self.command("roost-api")?);
        let out = command.arg("migrate").kill_on_drop(true).output().await?;
        ensure!(
            out.status.success(),
            "roost-api migrate: {}",
            String::from_utf8_lossy(&out.stderr)
        );
        Ok(())
    }

    async fn start_peers(&mut self) -> Result<()> {
        let mut mailbox = self.command("mailbox")?;
        mailbox
            .args(["--smtp-listen", &self.smtp.to_string()])
            .args(["--http-listen", &self.mailbox.to_string()])
            .args(["--capacity", "1000000"]);
        let mailbox = self.spawn("mailbox", mailbox, None)?;
        let mut sandbox = self.command("stripe-sandbox")?;
        sandbox
            .args(["--listen", &self.sandbox.to_string()])
            .args(["--webhook-url", &format!("http://{}/webhooks/stripe", self.api_address)])
            .args(["--webhook-secret", &self.webhook_secret]);
        let sandbox = self.spawn("stripe-sandbox", sandbox, None)?;
        self.peers = vec![mailbox, sandbox];
        for url in [
            format!("http://{}/healthz", self.mailbox),
            self.sandbox_url("/_control/clock"),
        ] {
            self.wait_ok(&url).await?;
        }
        Ok(())
    }

    fn command(&self, binary: &str) -> Result<Command> {
        let path = self.bin.join(binary);
        ensure!(
            path.is_file(),
            "{} is not built: run cargo build --workspace",
            path.display()
        );
        let mut command = Command::new(path);
        command
            .env_clear()
            .env("NO_COLOR", "1")
            .env("DATABASE_URL", &self.database_url)
            .env("DATABASE_MAX_CONNECTIONS", CONNECTIONS)
            .env("REDIS_URL", &self.redis_url)
            .env("RUST_LOG", "warn");
        Ok(command)
    }

    fn spawn(&self, name: &str, mut command: Command, metrics: Option<SocketAddr>) -> Result<Program> {
        let path = self.services.instance().log(name);
        let log = open_log(&path)?;
        command.stdout(log.try_clone()?).stderr(log);
        let process = self
            .services
            .instance()
            .supervisor()
            .spawn(name, Signal::Term, &mut command)?;
        Ok(Program {
            process,
            metrics,
            log: path,
        })
    }

    /// Starts the API, again on the same port, and waits until it serves.
    pub async fn start_api(&mut self) -> Result<()> {
        let mut command = self.command("roost-api")?;
        let metrics = free_address()?;
        command
            .env("DATABASE_URL", &self.api_database_url)
            .env("API_LISTEN", self.api_address.to_string())
            .env("OPS_LISTEN", "off")
            .env("METRICS_LISTEN", metrics.to_string())
            .env("PUBLIC_URL", self.api_url(""))
            .env("JWT_SECRET", &self.jwt_secret)
            .env("STRIPE_WEBHOOK_SECRET", &self.webhook_secret)
            .env("LOGINS_PER_MINUTE", "0")
            .env("REGISTRATIONS_PER_HOUR", "0");
        self.started += 1;
        self.api = Some(self.spawn(&format!("api-{}", self.started), command, Some(metrics))?);
        self.wait_ok(&self.api_url("/healthz")).await
    }

    /// Starts a worker, does not wait for it, and returns its place among the workers.
    pub fn start_worker(&mut self, plan: &WorkerPlan) -> Result<usize> {
        let worker = self.new_worker(plan)?;
        self.workers.push(worker);
        Ok(self.workers.len() - 1)
    }

    /// Starts a worker that is not among the workers yet.
    pub fn new_worker(&mut self, plan: &WorkerPlan) -> Result<Program> {
        let mut command = if plan.own_kinds {
            let mut command = self.command("chaos")?;
            command.arg("worker");
            command.args(plan.newer.then_some("--newer"));
            command.arg(format!("--clock-offset={}", plan.clock_offset));
            command
        } else {
            self.command("roost-worker")?
        };
        let metrics = free_address()?;
        command
            .env("JWT_SECRET", &self.jwt_secret)
            .env("STRIPE_SECRET_KEY", "sk_test_chaos")
            .env("STRIPE_API_BASE", self.sandbox_url("/"))
            .env("SMTP_URL", format!("smtp://{}", self.smtp))
            .env("PUBLIC_URL", self.api_url(""))
            .env("METRICS_LISTEN", metrics.to_string());
        if let Some(queues) = plan.queues {
            command.env("WORKER_QUEUES", queues);
        }
        if let Some(concurrency) = plan.concurrency {
            command.env("WORKER_CONCURRENCY", concurrency.to_string());
        }
        if let Some(folder) = &plan.crash_plan {
            command.env("ROOST_CRASH_PLAN", folder);
        }
        if let Some(grace) = plan.grace {
            command.env("WORKER_GRACE", grace.to_string());
        }
        self.started += 1;
        self.spawn(&format!("worker-{}", self.started), command, Some(metrics))
    }

    /// Starts a worker in the place of each one that has died. How many had.
    pub fn new_worker_for_dead(&mut self, plan: &WorkerPlan) -> Result<u64> {
        let mut replaced = 0;
        for place in 0..self.workers.len() {
            let died = match self.workers.get_mut(place) {
                Some(worker) => worker.process.exited()?.is_some(),
                None => false,
            };
            if died {
                let next = self.new_worker(plan)?;
                if let Some(worker) = self.workers.get_mut(place) {
                    *worker = next;
                }
                replaced += 1;
            }
        }
        Ok(replaced)
    }

    /// Waits until every worker answers.
    pub async fn workers_ready(&self) -> Result<()> {
        for worker in &self.workers {
            self.wait_ok(&worker.url("/healthz")?).await?;
        }
        Ok(())
    }

    /// Waits until this URL answers well.
    pub async fn wait_ok(&self, url: &str) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        while !self
            .http
            .get(url)
            .send()
            .await
            .is_ok_and(|reply| reply.status().is_success())
        {
            if Instant::now() > deadline {
                bail!("{url} does not answer after {} s", START_LIMIT.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    pub fn api_url(&self, path: &str) -> String {
        format!("http://{}{path}", self.api_address)
    }

    pub fn sandbox_url(&self, path: &str) -> String {
        format!("http://{}{path}", self.sandbox)
    }

    /// What the sandbox itself knows.
    pub async fn sandbox(&self, path: &str) -> Result<Value> {
        Ok(self.http.get(self.sandbox_url(path)).send().await?.json().await?)
    }

    /// Has the sandbox do something.
    pub async fn tell_sandbox(&self, path: &str, body: &Value) -> Result<()> {
        let reply = self.http.post(self.sandbox_url(path)).json(body).send().await?;
        ensure!(reply.status().is_success(), "{path}: {}", reply.text().await?);
        Ok(())
    }

    /// All mails that have arrived.
    pub async fn mails(&self) -> Result<Vec<Value>> {
        let url = format!("http://{}/api/messages?limit=1000000", self.mailbox);
        Ok(self.http.get(url).send().await?.json().await?)
    }

    /// What another process enqueues with.
    pub fn db(&self) -> Result<Db> {
        let publisher = Publisher::spawn(self.pool.clone(), &self.redis()?)?;
        Ok(Db::new(self.pool.clone(), publisher, Clock::default()))
    }

    /// Straight to Redis, past the proxy.
    pub fn redis(&self) -> Result<Redis> {
        Ok(Redis::new(self.services.redis_url(), "roost")?)
    }

    /// The time by the clock that leases go by.
    pub async fn now(&self) -> Result<DateTime<Utc>> {
        Ok(sqlx::query_scalar("SELECT clock_timestamp()")
            .fetch_one(&self.pool)
            .await?)
    }

    /// The programs that have ended, though nobody ended them.
    pub fn dead(&mut self) -> Result<Vec<String>> {
        let mut dead = Vec::new();
        for program in self.api.iter_mut().chain(&mut self.workers).chain(&mut self.peers) {
            if let Some(status) = program.process.exited()? {
                let name = program.process.name();
                dead.push(format!("{name} ended ({status}):\n{}", log_tail(&program.log, 10)));
            }
        }
        Ok(dead)
    }

    /// Copies the logs to `.roost/chaos-logs/NAME`, for a look at what went wrong.
    pub fn keep_logs(&self, name: &str) -> Result<PathBuf> {
        let kept = workspace_root()?.join(".roost/chaos-logs").join(name);
        fs::create_dir_all(&kept)?;
        for entry in fs::read_dir(self.services.instance().dir().join("log"))? {
            let entry = entry?;
            fs::copy(entry.path(), kept.join(entry.file_name()))?;
        }
        Ok(kept)
    }

    /// The text of the logs whose names begin so.
    pub fn logs(&self, prefix: &str) -> Result<String> {
        let mut text = String::new();
        for entry in fs::read_dir(self.services.instance().dir().join("log"))? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(prefix) {
                text += &String::from_utf8_lossy(&fs::read(entry.path())?);
            }
        }
        Ok(text)
    }
}

/// One of our processes.
pub struct Program {
    pub process: Process,
    metrics: Option<SocketAddr>,
    pub log: PathBuf,
}

impl Program {
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Waits until it answers.
    pub async fn ready(&self, testbed: &Testbed) -> Result<()> {
        testbed.wait_ok(&self.url("/healthz")?).await
    }

    fn url(&self, path: &str) -> Result<String> {
        let address = self.metrics.context("it has no metrics")?;
        Ok(format!("http://{address}{path}"))
    }

    /// The sum of a metric over its labels; zero when it was never touched.
    pub async fn metric(&self, http: &reqwest::Client, name: &str) -> Result<f64> {
        let text = http.get(self.url("/metrics")?).send().await?.text().await?;
        let values = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            (rest.starts_with('{') || rest.starts_with(' ')).then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
        });
        Ok(values.sum())
    }
}

/// Beside our own binary, or beside the folder that cargo puts tests in.
fn folder_of_binaries() -> Result<PathBuf> {
    let exe = std::env::current_exe()?;
    let folder = exe.ancestors().skip(1).find(|folder| folder.join("chaos").is_file());
    Ok(folder
        .context("chaos is not built: run cargo build --workspace")?
        .to_owned())
}
