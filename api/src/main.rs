//! `roost-api`: see [`roost_api::cli`].

use clap::Parser;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // Fails only if a provider is installed already, and then TLS works just as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    roost_api::cli::Cli::parse().run().await
}
