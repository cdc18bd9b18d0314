//! The processes of a whole Roost over private or given servers, and how they are started, watched and stopped.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tokio::net::TcpStream;

use crate::services::{
    Services, free_port,
    process::{Process, Signal, log_tail, open_log},
};

/// A debug build on a busy machine is slow to come up; a dead child is noticed at once.
const READY_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// Everything that runs. Dropping it stops everything, the last started first.
pub struct Stack {
    children: Vec<Process>,
    services: Services,
    bin: PathBuf,
}

impl Stack {
    /// Over these services; the binaries are those beside our own.
    pub fn new(services: Services) -> Result<Self> {
        let exe = std::env::current_exe().context("finding our own binary")?;
        let bin = exe.parent().context("our own binary is in no folder")?.to_owned();
        Ok(Self {
            children: Vec::new(),
            services,
            bin,
        })
    }

    pub fn services(&self) -> &Services {
        &self.services
    }

    /// A program of the workspace that knows the servers. What it does not get from us it takes from our environment.
    pub fn command(&self, binary: &str) -> Result<Command> {
        let path = self.bin.join(binary);
        ensure!(
            path.is_file(),
            "{} is not built: run cargo build --workspace",
            path.display()
        );
        let mut command = Command::new(path);
        command
            .env("DATABASE_URL", self.services.database_url())
            .env("REDIS_URL", self.services.redis_url());
        Ok(command)
    }

    /// Runs a program to its end; its output is shown only when it fails. Dropping the future kills it.
    pub async fn finish(&self, name: &str, command: Command) -> Result<()> {
        let mut command = tokio::process::Command::from(command);
        // Its message says what is wrong; where in the program it arose does not.
        command.env("RUST_LIB_BACKTRACE", "0");
        command.stdin(Stdio::null()).process_group(0).kill_on_drop(true);
        let out = command.output().await.with_context(|| format!("running {name}"))?;
        ensure!(
            out.status.success(),
            "{name} failed ({}):\n{}{}",
            out.status,
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        );
        Ok(())
    }

    /// Starts a program that stays, logging to `.roost/log/NAME.log`.
    pub fn start(&mut self, name: &str, mut command: Command) -> Result<()> {
        let log = open_log(&self.services.instance().log(name))?;
        // No colours: what they write goes to a file.
        command.env("NO_COLOR", "1").stdout(log.try_clone()?).stderr(log);
        let child = self
            .services
            .instance()
            .supervisor()
            .spawn(name, Signal::Term, &mut command)?;
        self.children.push(child);
        Ok(())
    }

    /// Waits until something listens on this port of 127.0.0.1.
    pub async fn wait_listening(&mut self, name: &str, port: u16) -> Result<()> {
        self.wait(name, async || TcpStream::connect(("127.0.0.1", port)).await.is_ok())
            .await
    }

    /// Waits until this URL answers 200.
    pub async fn wait_ok(&mut self, name: &str, url: &str) -> Result<()> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(5))
            .build()?;
        self.wait(name, async || {
            client
                .get(url)
                .send()
                .await
                .is_ok_and(|reply| reply.status().is_success())
        })
        .await
    }

    async fn wait(&mut self, name: &str, ready: impl AsyncFn() -> bool) -> Result<()> {
        let deadline = Instant::now() + READY_LIMIT;
        while !ready().await {
            self.check()?;
            if Instant::now() > deadline {
                let log = self.services.instance().log(name);
                bail!(
                    "{name} was not ready after {} s; {}:\n{}",
                    READY_LIMIT.as_secs(),
                    log.display(),
                    log_tail(&log, 20)
                );
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Fails when any of the processes has ended, with the end of its log.
    pub fn check(&mut self) -> Result<()> {
        let mut dead = None;
        for process in self.children.iter_mut().chain(self.services.processes_mut()) {
            if let Some(status) = process.exited()? {
                dead = Some((process.name().to_owned(), status));
                break;
            }
        }
        if let Some((name, status)) = dead {
            let log = self.services.instance().log(&name);
            bail!(
                "{name} ended by itself ({status}); the end of {}:\n{}",
                log.display(),
                log_tail(&log, 20)
            );
        }
        Ok(())
    }

    /// Returns only when one of the processes ends.
    pub async fn watch(&mut self) -> Result<()> {
        loop {
            self.check()?;
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        while let Some(child) = self.children.pop() {
            drop(child);
        }
    }
}

/// The address to listen on: the one that the environment names, else the usual port if it is free, else another.
pub fn listen_address(variable: &str, usual: u16) -> Result<String> {
    match std::env::var(variable) {
        Ok(address) if !address.is_empty() => {
            // Whoever waits for it has to know where it is.
            ensure!(
                !address.ends_with(":0"),
                "{variable} is {address}: name a port, or unset it for a free one"
            );
            Ok(address)
        }
        _ => Ok(format!("127.0.0.1:{}", free_port(Some(usual))?)),
    }
}
