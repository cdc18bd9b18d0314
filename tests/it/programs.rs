//! The built programs, run as processes against a test's own servers.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use roost_tests::app::JWT_SECRET;
use roost_tests::world::World;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// A program beside this test.
pub(crate) fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let binary = test.parent().unwrap().parent().unwrap().join(name);
    assert!(
        binary.exists(),
        "{} is missing: cargo build --workspace builds it",
        binary.display()
    );
    binary
}

/// A program that is told where this test's Postgres and Redis are, and of nothing else.
pub(crate) fn program(world: &World, name: &str) -> Command {
    let mut command = Command::new(built(name));
    command
        .env_clear()
        .env("DATABASE_URL", world.database_url())
        .env("REDIS_URL", world.redis_url())
        .env("REDIS_PREFIX", "test")
        .env("METRICS_LISTEN", "127.0.0.1:0")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// The API's program, without the job dashboard.
pub(crate) fn api(world: &World) -> Command {
    let mut command = program(world, "roost-api");
    command
        .env("API_LISTEN", "127.0.0.1:0")
        .env("OPS_LISTEN", "off")
        .env("JWT_SECRET", JWT_SECRET);
    command
}

/// The worker's program.
pub(crate) fn worker(world: &World) -> Command {
    let mut command = program(world, "roost-worker");
    command
        .env("JWT_SECRET", JWT_SECRET)
        .env("STRIPE_SECRET_KEY", "sk_test_roost")
        .env("STRIPE_API_BASE", world.stripe.base_url())
        .env("SMTP_URL", world.mailbox.smtp_url());
    command
}

/// A program that runs until it is dropped, and the JSON lines that it has logged.
pub(crate) struct Logging {
    child: Child,
    lines: Arc<Mutex<Vec<Value>>>,
}

impl Logging {
    pub(crate) fn start(mut command: Command) -> Self {
        command.env("LOG_FORMAT", "json").stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut written = BufReader::new(child.stderr.take().unwrap()).lines();
        let lines: Arc<Mutex<Vec<Value>>> = Arc::default();
        let kept = Arc::clone(&lines);
        tokio::spawn(async move {
            while let Ok(Some(line)) = written.next_line().await {
                let line = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line}"));
                kept.lock().unwrap().push(line);
            }
        });
        Self { child, lines }
    }

    /// The lines that say this.
    pub(crate) fn saying(&self, message: &str) -> Vec<Value> {
        let lines = self.lines.lock().unwrap();
        lines
            .iter()
            .filter(|line| line["message"] == message)
            .cloned()
            .collect()
    }

    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

/// A worker that works until it is killed or dropped, with more set in its environment.
pub(crate) fn start_worker(world: &World, settings: &[(&str, &str)]) -> Child {
    worker(world)
        .envs(settings.iter().copied())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// What a subcommand of `roost-worker jobs` prints, and whether it succeeded.
pub(crate) async fn on_a_terminal(world: &World, arguments: &[&str]) -> (bool, String) {
    let mut worker = program(world, "roost-worker");
    let ran = worker.env("USER", "ada").arg("jobs").args(arguments).output();
    let ran = tokio::time::timeout(Duration::from_secs(30), ran)
        .await
        .unwrap()
        .unwrap();
    let text = [ran.stdout, ran.stderr].concat();
    (ran.status.success(), String::from_utf8(text).unwrap())
}
