//! Listening, and stopping without dropping a request.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use poem::endpoint::make_sync;
use poem::listener::{Acceptor, Listener, TcpListener};
use poem::{Endpoint, IntoEndpoint, Route, Server};
use sqlx::PgPool;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::middleware::guard;
use crate::state::AppState;

/// How long running requests may take to finish once the process is told to stop: longer than one may take at all.
pub const GRACE: Duration = Duration::from_secs(35);
const _: () = assert!(GRACE.as_secs() > guard::TIMEOUT.as_secs());
/// Longer than a request may take, so that only connections that wait for nothing are closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// A listening server. Dropped, it goes on; call [`Running::stop`].
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    stopping: CancellationToken,
    task: JoinHandle<std::io::Result<()>>,
}

impl Running {
    /// Where it listens, with the port that the system chose if 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more connections, finishes the running requests within [`GRACE`], and returns.
    ///
    /// # Errors
    /// The server had failed before.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.stopping.cancel();
        self.task.await.context("the server's task")?.context("the server")
    }
}

/// Serves the API at `listen`.
///
/// # Errors
/// The address is taken or is none.
pub async fn start(state: AppState, listen: &str) -> anyhow::Result<Running> {
    let stopping = state.stopping.clone();
    run(crate::app(state)?, listen, "api", stopping).await
}

/// Serves the job dashboard at `listen`.
///
/// # Errors
/// The address is taken or is none.
pub async fn start_ops(state: AppState, listen: &str) -> anyhow::Result<Running> {
    let stopping = state.stopping.clone();
    run(crate::ops::app(state)?, listen, "ops", stopping).await
}

/// Serves `/metrics` at `listen`, for Prometheus.
///
/// # Errors
/// The address is taken or is none.
pub async fn start_metrics(pool: PgPool, listen: &str) -> anyhow::Result<Running> {
    let handle = roost_shared::telemetry::metrics();
    metrics::gauge!("roost_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    let page = make_sync(move |_| {
        metrics::gauge!("roost_database_connections_open").set(f64::from(pool.size()));
        let idle = u32::try_from(pool.num_idle()).unwrap_or(u32::MAX);
        metrics::gauge!("roost_database_connections_in_use").set(f64::from(pool.size().saturating_sub(idle)));
        handle.run_upkeep();
        poem::Response::builder()
            .content_type("text/plain; version=0.0.4; charset=utf-8")
            .body(handle.render())
    });
    run(
        Route::new().at("/metrics", poem::get(page)),
        listen,
        "metrics",
        CancellationToken::new(),
    )
    .await
}

async fn run<E>(app: E, listen: &str, name: &'static str, stopping: CancellationToken) -> anyhow::Result<Running>
where
    E: IntoEndpoint,
    E::Endpoint: Endpoint + 'static,
{
    let acceptor = TcpListener::bind(listen.to_owned())
        .into_acceptor()
        .await
        .with_context(|| format!("listening on {listen}"))?;
    let address = acceptor
        .local_addr()
        .first()
        .and_then(|address| address.as_socket_addr().copied())
        .context("the listener has no address")?;
    let app = app.into_endpoint();
    let server = Server::new_with_acceptor(acceptor)
        .name(name)
        .idle_timeout(IDLE_TIMEOUT);
    let task = tokio::spawn({
        let stopping = stopping.clone();
        async move {
            server
                .run_with_graceful_shutdown(app, stopping.cancelled_owned(), Some(GRACE))
                .await
        }
    });
    Ok(Running {
        address,
        stopping,
        task,
    })
}
