//! Accepts connections and speaks HTTP/1.1 on them, within [`Bounds`]. poem's own server has no bound on the time of a
//! request's head nor on the number of connections, so this one drives hyper itself; HTTP/2 is spoken by what ends TLS.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::uri::Scheme;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use poem::Endpoint;
use poem::web::{LocalAddr, RemoteAddr};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::GRACE;
use super::connections::{Bounds, Connections, Place};
use super::stream::{Reply, Stream};

/// How soon those who wait for a request are looked at again, when all places are taken.
const FULL: Duration = Duration::from_millis(20);
/// How long nothing is accepted after the system refused, for want of file descriptors as a rule.
const REFUSED: Duration = Duration::from_millis(50);

/// What the connections of a listener share.
struct Server<E> {
    endpoint: E,
    local: SocketAddr,
    stopping: CancellationToken,
    /// The grace of a stop is over.
    over: CancellationToken,
}

/// Serves until `stopping`, and then what runs already, for [`GRACE`] at most.
pub(super) async fn serve<E: Endpoint + 'static>(
    listener: TcpListener,
    endpoint: E,
    name: &'static str,
    bounds: Bounds,
    stopping: CancellationToken,
) -> std::io::Result<()> {
    let server = Arc::new(Server {
        endpoint,
        local: listener.local_addr()?,
        stopping: stopping.clone(),
        over: CancellationToken::new(),
    });
    tracing::info!(name, address = %server.local, "listening");
    let connections = Arc::new(Connections::new(name, bounds));
    let places = Arc::new(Semaphore::new(bounds.open));
    let tasks = TaskTracker::new();
    let accepting = async {
        loop {
            let (socket, remote) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(name, %error, "no connection can be accepted");
                    connections.make_room();
                    tokio::time::sleep(REFUSED).await;
                    continue;
                }
            };
            let permit = place(&places, &connections).await;
            tasks.spawn(converse(
                Arc::clone(&server),
                connections.enter(Instant::now()),
                socket,
                remote,
                permit,
            ));
        }
    };
    tokio::select! {
        () = accepting => {}
        () = stopping.cancelled() => {}
    }
    drop(listener);
    tasks.close();
    if tokio::time::timeout(GRACE, tasks.wait()).await.is_err() {
        tracing::warn!(name, connections = tasks.len(), "the grace is over");
        server.over.cancel();
        tasks.wait().await;
    }
    Ok(())
}

/// A place for one more connection, which may cost those that wait for a request theirs.
async fn place(places: &Arc<Semaphore>, connections: &Connections) -> OwnedSemaphorePermit {
    loop {
        if let Ok(permit) = Arc::clone(places).try_acquire_owned() {
            return permit;
        }
        connections.make_room();
        // The semaphore is never closed.
        if let Ok(Ok(permit)) = tokio::time::timeout(FULL, Arc::clone(places).acquire_owned()).await {
            return permit;
        }
    }
}

/// All requests of one connection.
async fn converse<E: Endpoint + 'static>(
    server: Arc<Server<E>>,
    place: Place,
    socket: TcpStream,
    remote: SocketAddr,
    permit: OwnedSemaphorePermit,
) {
    // A reply is written at once, so there is nothing to be gained by waiting for more.
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY");
    }
    let connection = Arc::clone(&place.connection);
    let stream = Stream {
        socket,
        connection: Arc::clone(&connection),
        _permit: permit,
    };
    let service = service_fn(|request: Request<Incoming>| {
        let serving = connection.serves();
        let server = &server;
        async move {
            let addresses = (LocalAddr(server.local.into()), RemoteAddr(remote.into()));
            let request = (request, addresses.0, addresses.1, Scheme::HTTP).into();
            let response: Response<_> = server.endpoint.get_response(request).await.into();
            Ok::<_, Infallible>(response.map(|body| Reply {
                body,
                _serving: serving,
            }))
        }
    });
    let mut http = std::pin::pin!(
        http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
    );
    let mut leaving = false;
    loop {
        let look = match connection.overdue(Instant::now()) {
            Ok(look) => look,
            Err(reason) => {
                tracing::debug!(%remote, reason, "closing a connection");
                return place.closed(reason);
            }
        };
        tokio::select! {
            served = &mut http => {
                if let Err(error) = served {
                    tracing::debug!(%remote, %error, "connection");
                }
                return;
            }
            () = tokio::time::sleep_until(look) => {}
            () = connection.unwanted.cancelled() => return place.closed("room"),
            () = server.over.cancelled() => return place.closed("stop"),
            () = server.stopping.cancelled(), if !leaving => {
                leaving = true;
                http.as_mut().graceful_shutdown();
            }
        }
    }
}
