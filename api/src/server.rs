//! Listening, and stopping without dropping a request.

mod accept;
mod connections;
mod stream;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use poem::endpoint::make_sync;
use poem::{Endpoint, IntoEndpoint, Route};
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::middleware::guard;
use crate::prefer;
use crate::state::AppState;

pub use connections::Bounds;

/// How long running requests may take to finish once the process is told to stop: longer than one may take at all.
pub const GRACE: Duration = Duration::from_secs(35);
const _: () = assert!(GRACE.as_secs() > guard::TIMEOUT.as_secs() + prefer::LONGEST_WAIT.as_secs());

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
    let bounds = state.settings.connections;
    run(crate::app(state)?, listen, "api", bounds, stopping).await
}

/// Serves the job dashboard at `listen`.
///
/// # Errors
/// The address is taken or is none.
pub async fn start_ops(state: AppState, listen: &str) -> anyhow::Result<Running> {
    let stopping = state.stopping.clone();
    let bounds = state.settings.connections;
    run(crate::ops::app(state)?, listen, "ops", bounds, stopping).await
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
    let page = Arc::new(poem::get(page));
    run(
        Route::new().at("/metrics", Arc::clone(&page)).at("/metrics/", page),
        listen,
        "metrics",
        Bounds::default(),
        CancellationToken::new(),
    )
    .await
}

async fn run<E>(
    app: E,
    listen: &str,
    name: &'static str,
    bounds: Bounds,
    stopping: CancellationToken,
) -> anyhow::Result<Running>
where
    E: IntoEndpoint,
    E::Endpoint: Endpoint + 'static,
{
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("listening on {listen}"))?;
    let address = listener.local_addr().context("the listener has no address")?;
    let app = app.into_endpoint();
    let task = tokio::spawn(accept::serve(listener, app, name, bounds, stopping.clone()));
    Ok(Running {
        address,
        stopping,
        task,
    })
}
