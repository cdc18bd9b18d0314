//! The worker's own listener: `/metrics` for Prometheus, `/healthz` (it lives) and `/readyz` (it takes jobs) for containers.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// Of the process, as the metrics are.
static READY: AtomicBool = AtomicBool::new(false);

/// Whether Postgres hears this worker. A restart does not change it, so it is no matter of `/healthz`; but a new version that
/// finds no table of its own should not take the place of the old one.
pub(crate) fn set_ready(ready: bool) {
    READY.store(ready, Ordering::Relaxed);
}

/// Serves until `stop`.
///
/// # Errors
/// The address cannot be listened on.
pub async fn serve_metrics(address: SocketAddr, stop: CancellationToken) -> std::io::Result<()> {
    let handle = roost_shared::telemetry::metrics();
    let listener = TcpListener::bind(address).await?;
    tracing::info!(address = %listener.local_addr()?, "metrics and health");
    tokio::spawn(async move {
        let mut upkeep = tokio::time::interval(Duration::from_secs(5));
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = upkeep.tick() => handle.run_upkeep(),
                accepted = listener.accept() => {
                    let Ok((stream, _)) = accepted else { continue };
                    let handle = handle.clone();
                    let service = service_fn(move |request| answer(request, handle.clone()));
                    tokio::spawn(async move {
                        let served = hyper::server::conn::http1::Builder::new()
                            .timer(TokioTimer::new())
                            .header_read_timeout(Duration::from_secs(5))
                            .serve_connection(TokioIo::new(stream), service)
                            .await;
                        if let Err(error) = served {
                            tracing::debug!(%error, "metrics connection");
                        }
                    });
                }
            }
        }
    });
    Ok(())
}

async fn answer(request: Request<Incoming>, handle: PrometheusHandle) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, body) = match request.uri().path().trim_end_matches('/') {
        "/metrics" => (StatusCode::OK, handle.render()),
        "/healthz" => (StatusCode::OK, "ok\n".to_owned()),
        "/readyz" if READY.load(Ordering::Relaxed) => (StatusCode::OK, "ok\n".to_owned()),
        "/readyz" => (
            StatusCode::SERVICE_UNAVAILABLE,
            "Postgres does not hear this worker\n".to_owned(),
        ),
        _ => (StatusCode::NOT_FOUND, "try /metrics, /healthz or /readyz\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    Ok(response)
}

/// Whether a worker on this machine answers.
///
/// # Errors
/// It does not, within two seconds.
pub async fn healthcheck(address: SocketAddr) -> std::io::Result<()> {
    let ask = async {
        let mut stream = TcpStream::connect((std::net::Ipv4Addr::LOCALHOST, address.port())).await?;
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .await?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await?;
        if reply.starts_with("HTTP/1.1 200") {
            Ok(())
        } else {
            Err(std::io::Error::other("unhealthy"))
        }
    };
    tokio::time::timeout(Duration::from_secs(2), ask).await?
}
