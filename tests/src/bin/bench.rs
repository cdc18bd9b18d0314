//! `make bench`: see [`roost_tests::bench`].

use std::{net::SocketAddr, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};
use roost_tests::bench::{self, Part, Plan};

/// Measures Roost's speed and size on private servers: one JSON line a figure on standard output, a table at the end.
///
/// DATABASE_URL (an owner who may create databases) and REDIS_URL, when set, are used instead of private servers. Exits
/// with 1 when a target is missed.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Only as much as shows that everything works; the figures mean little then
    #[arg(long)]
    quick: bool,
    /// Measure these parts only, separated by commas
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Jobs a round, instead of 100,000
    #[arg(long, value_name = "COUNT")]
    jobs: Option<u64>,
    /// With the part jobs: also print how long PostgreSQL took for a job, by statement. Counting slows it down a little, so
    /// the other figures are better taken without
    #[arg(long)]
    statements: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

/// What the benchmark starts itself as.
#[derive(Subcommand)]
enum Command {
    /// Serve so many bytes with nothing but poem
    #[command(hide = true)]
    Bare {
        #[arg(long)]
        listen: SocketAddr,
        #[arg(long)]
        bytes: usize,
    },
    /// Run jobs, those of the benchmark as well
    #[command(hide = true)]
    Worker,
}

#[tokio::main]
async fn main() -> ExitCode {
    match execute(Arguments::parse()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn execute(arguments: Arguments) -> Result<ExitCode> {
    // Fails only if a provider is installed already, and then TLS works just as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match arguments.command {
        Some(Command::Bare { listen, bytes }) => bench::bare::serve(listen, bytes).await?,
        Some(Command::Worker) => bench::jobs::work().await?,
        None => {
            let mut plan = Plan::new(arguments.quick, arguments.jobs);
            plan.statements = arguments.statements;
            let met = bench::run(&plan, &arguments.only).await?;
            return Ok(if met || arguments.quick {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            });
        }
    }
    Ok(ExitCode::SUCCESS)
}
