//! The built programs, run as processes against a test's own servers.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use roost_tests::world::World;
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

/// The worker's program, told of this test's servers and of nothing else.
pub(crate) fn worker(world: &World) -> Command {
    let mut command = Command::new(built("roost-worker"));
    command
        .env_clear()
        .env("DATABASE_URL", world.database_url())
        .env("REDIS_URL", world.redis_url())
        .env("REDIS_PREFIX", "test")
        .env("STRIPE_SECRET_KEY", "sk_test_roost")
        .env("STRIPE_API_BASE", world.stripe.base_url())
        .env("SMTP_URL", world.mailbox.smtp_url())
        .env("METRICS_LISTEN", "127.0.0.1:0")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
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
    let ran = worker(world).env("USER", "ada").arg("jobs").args(arguments).output();
    let ran = tokio::time::timeout(Duration::from_secs(30), ran)
        .await
        .unwrap()
        .unwrap();
    let text = [ran.stdout, ran.stderr].concat();
    (ran.status.success(), String::from_utf8(text).unwrap())
}
