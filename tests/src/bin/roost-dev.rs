//! The development commands behind the Makefile.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use roost_tests::{
    browser,
    dev::{self, Goal},
    services::{self, Durability, workspace_root},
};

/// Runs, shows and tests a whole Roost on private servers in `.roost/`.
///
/// DATABASE_URL and REDIS_URL, when set, are used instead of private servers; STRIPE_SECRET_KEY (a test key) instead
/// of the sandbox; SMTP_URL instead of the mailbox. Everything else that roost-api and roost-worker read from the
/// environment is passed on.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Cmd,
}

#[derive(Subcommand)]
enum Cmd {
    /// Start everything, show one booking, stay up until Ctrl-C.
    Run,
    /// The same, but end after the booking: exit 0 only if every step was observed.
    Demo,
    /// Run `cargo test --workspace` beside private servers; further arguments go to cargo.
    Test {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run a command with DATABASE_URL and REDIS_URL of private servers that end with it.
    Beside {
        /// Keep to the disk what is committed, as production does; without it the servers are made for tests.
        #[arg(long)]
        durable: bool,
        /// Have PostgreSQL count its statements, for bench --statements
        #[arg(long, requires = "durable")]
        counted: bool,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    /// Stop what an earlier run left and forget the private servers' data.
    Reset,
}

#[tokio::main]
async fn main() -> ExitCode {
    match execute(Arguments::parse().command).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("roost-dev: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn execute(command: Cmd) -> Result<ExitCode> {
    let mut out = std::io::stdout();
    match command {
        Cmd::Run => dev::run(Goal::Serve, &mut out).await?,
        Cmd::Demo => dev::run(Goal::Demo, &mut out).await?,
        Cmd::Reset => services::reset(&workspace_root()?.join(".roost"))?,
        Cmd::Test { arguments } => {
            let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
            let mut command = [cargo.as_str(), "test", "--workspace", "--locked"]
                .map(str::to_owned)
                .to_vec();
            command.extend(arguments);
            let code = dev::alongside(Durability::Scratch, &command).await?;
            if let Some(missing) = browser::missing() {
                eprintln!(
                    "\n*** SKIPPED: the tests that look at pages in a browser (tests/it/ops_browser.rs), because {missing}.\n\
                     *** .config/provision --browser installs what they need, or says why it cannot.\n"
                );
            }
            return Ok(ExitCode::from(code));
        }
        Cmd::Beside {
            durable,
            counted,
            command,
        } => {
            let durability = match (durable, counted) {
                (true, true) => Durability::Counted,
                (true, false) => Durability::Durable,
                (false, _) => Durability::Scratch,
            };
            return Ok(ExitCode::from(dev::alongside(durability, &command).await?));
        }
    }
    Ok(ExitCode::SUCCESS)
}
