//! TCP connections the sandbox can cut: a handler marks its peer's connection and the next write
//! resets it, so the client sees a connection that died without a reply.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use poem::http::uri::Scheme;
use poem::listener::Acceptor;
use poem::web::{LocalAddr, RemoteAddr};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

use super::locked;

type Switches = Arc<Mutex<HashMap<SocketAddr, Arc<AtomicBool>>>>;

/// The open connections by their peer.
#[derive(Clone, Debug, Default)]
pub(super) struct Connections {
    switches: Switches,
}

impl Connections {
    /// Resets the peer's connection as soon as the server writes to it.
    pub fn cut(&self, peer: SocketAddr) {
        if let Some(switch) = locked(&self.switches).get(&peer) {
            switch.store(true, Ordering::SeqCst);
        }
    }
}

/// Accepts connections that can be cut.
pub(super) struct CuttableAcceptor {
    listener: TcpListener,
    address: SocketAddr,
    connections: Connections,
}

impl CuttableAcceptor {
    pub fn new(listener: TcpListener, connections: Connections) -> io::Result<Self> {
        Ok(Self {
            address: listener.local_addr()?,
            listener,
            connections,
        })
    }
}

impl Acceptor for CuttableAcceptor {
    type Io = CuttableStream;

    fn local_addr(&self) -> Vec<LocalAddr> {
        vec![LocalAddr(self.address.into())]
    }

    async fn accept(&mut self) -> io::Result<(Self::Io, LocalAddr, RemoteAddr, Scheme)> {
        let (stream, peer) = self.listener.accept().await?;
        // Replies are small; waiting to fill a packet would only add latency.
        stream.set_nodelay(true)?;
        let switch = Arc::new(AtomicBool::new(false));
        locked(&self.connections.switches).insert(peer, switch.clone());
        let switches = self.connections.switches.clone();
        let stream = CuttableStream {
            stream,
            peer,
            switch,
            switches,
        };
        Ok((
            stream,
            LocalAddr(self.address.into()),
            RemoteAddr(peer.into()),
            Scheme::HTTP,
        ))
    }
}

/// A TCP stream with a switch that makes its next write fail and reset the connection.
pub(super) struct CuttableStream {
    stream: TcpStream,
    peer: SocketAddr,
    switch: Arc<AtomicBool>,
    switches: Switches,
}

impl CuttableStream {
    fn check(&self) -> io::Result<()> {
        if self.switch.load(Ordering::SeqCst) {
            // Zero linger makes closing send RST and not an orderly FIN.
            self.stream.set_zero_linger()?;
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }
}

impl Drop for CuttableStream {
    fn drop(&mut self) {
        locked(&self.switches).remove(&self.peer);
    }
}

impl AsyncRead for CuttableStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for CuttableStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
