//! A TCP proxy on the way to a server that passes, delays, holds back, refuses or cuts. Before a Postgres it can tell at
//! which statement it did ([`frontend`]).

mod frontend;

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

use frontend::Frontend;
pub use frontend::{Sent, Verb};

/// What happens to bytes on their way, and to new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Pass,
    /// Each piece comes so much later.
    Delay(Duration),
    /// Nothing arrives and nothing is closed: a network that swallows packets.
    Hang,
    /// Connections are reset at once.
    Refuse,
}

/// Where in the conversation everything is to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Edge {
    /// Before the client's piece reaches the server.
    Before,
    /// After the server has answered it, before the answer reaches the client.
    After,
}

/// Stops everything at something that a client sends.
#[derive(Clone)]
struct Wire {
    at: At,
    edge: Edge,
}

#[derive(Clone)]
enum At {
    /// This piece, counted from 0.
    Piece(u64),
    /// The first message that is like this.
    Message(Arc<dyn Fn(&Sent) -> bool + Send + Sync>),
}

/// What was held back: the messages of a client's piece, or the answer to them.
#[derive(Clone, Debug)]
pub struct Hit {
    pub edge: Edge,
    /// None: what it was about is no statement, such as the greetings of a new connection.
    pub sent: Vec<Sent>,
}

struct Switches {
    target: SocketAddr,
    mode: watch::Sender<Mode>,
    /// Counts the times that all connections were cut.
    cuts: watch::Sender<u64>,
    wire: watch::Sender<Option<Wire>>,
    pieces: AtomicU64,
    tripped: watch::Sender<bool>,
    hit: Mutex<Option<Hit>>,
    /// Whether clients that come from now on are understood.
    reads: AtomicBool,
    record: Mutex<Option<Vec<Sent>>>,
}

/// One connection.
#[derive(Default)]
struct Line {
    /// If it is to be understood.
    frontend: Option<Frontend>,
    /// What its latest piece said.
    latest: Vec<Sent>,
    /// The answer to that is what the wire is for.
    awaited: bool,
}

/// The proxy; dropped, it ends with its connections.
pub struct Proxy {
    address: SocketAddr,
    switches: Arc<Switches>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    pub async fn start(target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let switches = Arc::new(Switches {
            target,
            mode: watch::Sender::new(Mode::Pass),
            cuts: watch::Sender::new(0),
            wire: watch::Sender::new(None),
            pieces: AtomicU64::new(0),
            tripped: watch::Sender::new(false),
            hit: Mutex::default(),
            reads: AtomicBool::new(false),
            record: Mutex::default(),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&switches)));
        Ok(Self {
            address,
            switches,
            accepting,
        })
    }

    /// One before the server of this URL, and the URL with the proxy in its place.
    pub async fn before(url: &str) -> Result<(Self, String)> {
        let mut url: reqwest::Url = url.parse()?;
        let port = url.port().context("a server without a port")?;
        let proxy = Self::start(SocketAddr::from(([127, 0, 0, 1], port))).await?;
        url.set_port(Some(proxy.address().port()))
            .map_err(|()| anyhow::anyhow!("a URL that takes no port"))?;
        Ok((proxy, url.into()))
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn set(&self, mode: Mode) {
        self.switches.mode.send_replace(mode);
        if mode == Mode::Refuse {
            self.cut();
        }
    }

    /// Resets all connections that are open, in the middle of whatever they do. Returns how many there were.
    pub fn cut(&self) -> u64 {
        let open = self.switches.cuts.receiver_count() as u64;
        self.switches.cuts.send_modify(|cuts| *cuts += 1);
        open
    }

    /// Understands the clients that connect from now on: the server is a Postgres.
    pub fn read_statements(&self) {
        self.switches.reads.store(true, Ordering::SeqCst);
    }

    /// Keeps what clients say about statements from now on.
    pub fn record(&self) {
        *lock(&self.switches.record) = Some(Vec::new());
    }

    /// What was kept, in the order in which it came; and keeps no more.
    pub fn recorded(&self) -> Vec<Sent> {
        lock(&self.switches.record).take().unwrap_or_default()
    }

    /// Counts the clients' pieces from now on and holds everything back from the given one.
    pub fn trip_at(&self, piece: u64, edge: Edge) {
        self.arm(At::Piece(piece), edge);
    }

    /// Holds everything back from the first message that is like this. Needs [`Self::read_statements`].
    pub fn trip_at_message(&self, is_it: impl Fn(&Sent) -> bool + Send + Sync + 'static, edge: Edge) {
        self.arm(At::Message(Arc::new(is_it)), edge);
    }

    fn arm(&self, at: At, edge: Edge) {
        self.switches.pieces.store(0, Ordering::SeqCst);
        lock(&self.switches.hit).take();
        self.switches.tripped.send_replace(false);
        self.switches.wire.send_replace(Some(Wire { at, edge }));
    }

    /// What was held back, once it was.
    pub fn hit(&self) -> Option<Hit> {
        lock(&self.switches.hit).clone()
    }

    /// Waits until that piece or message has come.
    pub async fn tripped(&self) {
        let mut tripped = self.switches.tripped.subscribe();
        // The sender lives as long as we do.
        let _ = tripped.wait_for(|tripped| *tripped).await;
    }

    /// Lets everything pass again.
    pub fn disarm(&self) {
        self.switches.wire.send_replace(None);
        self.set(Mode::Pass);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn accept(listener: TcpListener, switches: Arc<Switches>) {
    while let Ok((client, _)) = listener.accept().await {
        tokio::spawn(relay(client, Arc::clone(&switches)));
    }
}

async fn relay(mut client: TcpStream, switches: Arc<Switches>) {
    let mut cut = switches.cuts.subscribe();
    let mut mode = switches.mode.subscribe();
    let line = Mutex::new(Line {
        frontend: switches.reads.load(Ordering::SeqCst).then(Frontend::default),
        ..Line::default()
    });
    let carried = async {
        let mode_now = *mode.borrow_and_update();
        match mode_now {
            Mode::Refuse => return Err(io::ErrorKind::ConnectionReset.into()),
            Mode::Hang => {
                let _ = mode.wait_for(|mode| *mode != Mode::Hang).await;
            }
            Mode::Pass | Mode::Delay(_) => {}
        }
        let mut server = TcpStream::connect(switches.target).await?;
        server.set_nodelay(true)?;
        client.set_nodelay(true)?;
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = server.split();
        let up = async {
            let mut buffer = vec![0; 64 * 1024];
            loop {
                let length = from_client.read(&mut buffer).await?;
                let piece = buffer.get(..length).filter(|piece| !piece.is_empty());
                let Some(piece) = piece else {
                    return to_server.shutdown().await;
                };
                trip(&switches, &line, piece);
                hold(&switches).await;
                to_server.write_all(piece).await?;
            }
        };
        let down = async {
            let mut buffer = vec![0; 64 * 1024];
            loop {
                let length = from_server.read(&mut buffer).await?;
                let piece = buffer.get(..length).filter(|piece| !piece.is_empty());
                let Some(piece) = piece else {
                    return to_client.shutdown().await;
                };
                trip_after(&switches, &line);
                hold(&switches).await;
                to_client.write_all(piece).await?;
            }
        };
        // Both servers and clients close as a whole: when one side ends, so does the other.
        tokio::select! {
            ended = up => ended,
            ended = down => ended,
        }
    };
    let reset = tokio::select! {
        // First: what was held back when the connection was cut must not get through because all may pass again.
        biased;
        _ = cut.changed() => true,
        carried = carried => carried.is_err(),
    };
    if reset {
        // Zero linger makes closing send RST and not an orderly FIN.
        let _ = client.set_zero_linger();
    }
}

/// Counts a piece on its way to the server, and stops everything if it is the one.
fn trip(switches: &Switches, line: &Mutex<Line>, piece: &[u8]) {
    let number = switches.pieces.fetch_add(1, Ordering::SeqCst);
    let mut line = lock(line);
    let sent = line.frontend.as_mut().map(|frontend| frontend.read(piece));
    line.latest = sent.unwrap_or_default();
    if let Some(record) = &mut *lock(&switches.record) {
        record.extend(line.latest.iter().cloned());
    }
    let wire = switches.wire.borrow().clone();
    let Some(Wire { at, edge }) = wire else { return };
    let is_it = match at {
        At::Piece(piece) => number >= piece,
        At::Message(is_it) => line.latest.iter().any(|sent| is_it(sent)),
    };
    line.awaited = is_it;
    if is_it && edge == Edge::Before {
        stop(switches, edge, &line);
    }
}

/// The same for the answer to that piece.
fn trip_after(switches: &Switches, line: &Mutex<Line>) {
    let wire = switches.wire.borrow().clone();
    let Some(Wire { edge: Edge::After, at }) = wire else {
        return;
    };
    let line = lock(line);
    let is_it = match at {
        // It may be one that has no answer of its own.
        At::Piece(piece) => switches.pieces.load(Ordering::SeqCst) > piece,
        At::Message(_) => line.awaited,
    };
    if is_it {
        stop(switches, Edge::After, &line);
    }
}

/// Only the first stops anything: from then on all is held back.
fn stop(switches: &Switches, edge: Edge, line: &Line) {
    switches.mode.send_replace(Mode::Hang);
    switches.tripped.send_if_modified(|tripped| {
        if !*tripped {
            *lock(&switches.hit) = Some(Hit {
                edge,
                sent: line.latest.clone(),
            });
        }
        !std::mem::replace(tripped, true)
    });
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn hold(switches: &Switches) {
    let mut mode = switches.mode.subscribe();
    let now = *mode.borrow_and_update();
    match now {
        Mode::Hang => {
            let _ = mode.wait_for(|mode| *mode != Mode::Hang).await;
        }
        Mode::Delay(time) => tokio::time::sleep(time).await,
        Mode::Pass | Mode::Refuse => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that sends back what it gets.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        address
    }

    async fn said(stream: &mut TcpStream, text: &[u8]) -> io::Result<Vec<u8>> {
        stream.write_all(text).await?;
        let mut heard = vec![0; text.len()];
        stream.read_exact(&mut heard).await?;
        Ok(heard)
    }

    #[tokio::test]
    async fn bytes_pass_wait_and_are_cut_as_told() {
        let proxy = Proxy::start(echo().await).await.unwrap();
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(said(&mut stream, b"one").await.unwrap(), b"one");

        proxy.set(Mode::Hang);
        let soon = Duration::from_millis(100);
        assert!(tokio::time::timeout(soon, said(&mut stream, b"two")).await.is_err());
        proxy.set(Mode::Pass);
        let mut late = [0; 3];
        stream.read_exact(&mut late).await.unwrap();
        assert_eq!(&late, b"two");

        assert_eq!(proxy.cut(), 1);
        assert!(said(&mut stream, b"three").await.is_err());
        proxy.set(Mode::Refuse);
        let refused = async { said(&mut TcpStream::connect(proxy.address()).await?, b"four").await };
        assert!(refused.await.is_err());
    }

    #[tokio::test]
    async fn a_wire_stops_at_its_piece_before_or_after_the_server_has_it() {
        let proxy = Proxy::start(echo().await).await.unwrap();
        for edge in [Edge::Before, Edge::After] {
            let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
            proxy.trip_at(1, edge);
            assert_eq!(said(&mut stream, b"one").await.unwrap(), b"one");
            stream.write_all(b"two").await.unwrap();
            proxy.tripped().await;
            let mut heard = [0; 3];
            let soon = tokio::time::timeout(Duration::from_millis(50), stream.read_exact(&mut heard));
            assert!(soon.await.is_err(), "{edge:?}");
            proxy.disarm();
            stream.read_exact(&mut heard).await.unwrap();
            assert_eq!(&heard, b"two");
        }
    }
}
