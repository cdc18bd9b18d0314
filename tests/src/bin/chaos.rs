//! `make chaos`: see [`roost_tests::chaos`].

// One scenario runs the API in this process, whose futures are deep.
#![recursion_limit = "256"]

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use roost_tests::chaos::{self, Scenario, Size};

/// Breaks a running Roost on private servers and checks from outside what is left of its promises: one JSON line a
/// scenario on standard output.
///
/// Exits with 1 when a promise was broken, or a scenario could not be played to its end. The same seed does the same damage at the same times.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// These scenarios only, separated by commas
    #[arg(long, value_enum, value_delimiter = ',')]
    scenario: Vec<Scenario>,
    /// What the times and victims of the faults are drawn from; a random one is told when absent
    #[arg(long)]
    seed: Option<u64>,
    /// As much as the tests do, within a minute a scenario
    #[arg(long)]
    short: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

/// What the harness starts itself as.
#[derive(Subcommand)]
enum Command {
    /// Run jobs, those of the harness as well
    #[command(hide = true)]
    Worker {
        #[arg(long)]
        newer: bool,
        #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
        clock_offset: i64,
    },
}

fn main() -> ExitCode {
    // As in roost-worker: async-stripe's generated deserializers take much stack in a debug build.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_stack_size(8 << 20)
        .build();
    let done = runtime
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(execute(Arguments::parse())));
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("chaos: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn execute(arguments: Arguments) -> Result<ExitCode> {
    // Fails only if a provider is installed already, and then TLS works just as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    if let Some(Command::Worker { newer, clock_offset }) = arguments.command {
        chaos::jobs::work(newer, clock_offset).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let size = if arguments.short { Size::Short } else { Size::Full };
    let scenarios = if arguments.scenario.is_empty() {
        Scenario::value_variants().to_vec()
    } else {
        arguments.scenario
    };
    let mut clean = true;
    for scenario in scenarios {
        let seed = arguments.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
        let verdict = chaos::run(scenario, seed, size).await;
        eprintln!("{}: {}", verdict.scenario, verdict.figures());
        println!("{}", serde_json::to_string(&verdict)?);
        clean &= verdict.is_clean();
    }
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
