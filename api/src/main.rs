//! `roost-api`: see [`roost_api::cli`].

use clap::Parser;

/// Of each thread. GraphQL resolves fields within fields, and a build that is not optimised needs more for it than
/// the usual 2 MiB; only what is used is taken from memory.
const STACK_BYTES: usize = 16 * 1024 * 1024;

fn main() -> anyhow::Result<()> {
    // Fails only if a provider is installed already, and then TLS works just as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_stack_size(STACK_BYTES)
        .build()?
        .block_on(roost_api::cli::Cli::parse().run())
}
