//! `roost-worker`: see `--help`.

use clap::Parser;
use roost_shared::clock::Clock;
use roost_shared::telemetry;
use roost_worker::{Command, Options, Worker, cli, healthcheck, jobs, serve_metrics};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

fn main() -> anyhow::Result<()> {
    // async-stripe's generated deserializers take over a megabyte of stack in a debug build.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_stack_size(8 << 20)
        .build()?;
    runtime.block_on(run(Options::parse()))
}

async fn run(options: Options) -> anyhow::Result<()> {
    if options.command == Some(Command::Healthcheck) {
        return Ok(healthcheck(options.metrics_listen).await?);
    }
    if let Some(Command::Jobs(command)) = &options.command {
        return cli::run(command, &options.database, &options.redis).await;
    }
    telemetry::init(options.log.log_format);
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("another TLS provider is installed"))?;
    let stop = CancellationToken::new();
    serve_metrics(options.metrics_listen, stop.clone()).await?;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let worker = Worker::start(&options, jobs::registry(), Clock::default())?;
    tracing::info!("working");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = worker.asked_to_stop() => {}
    }
    tracing::info!("stopping");
    worker.stop().await;
    stop.cancel();
    tracing::info!("stopped");
    Ok(())
}
