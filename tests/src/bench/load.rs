//! A closed-loop HTTP client: a fixed number of kept connections, each sends its next request when it has its reply.
//!
//! It does the least an HTTP/1.1 client can do, in threads of its own, so that it costs the servers little of the
//! machine that they share; the bare handler is measured with the same client.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::figure::percentile;

const REPLY_LIMIT: Duration = Duration::from_secs(20);

/// The request of each number, counted from 0 over all connections and rounds.
pub type Requests = Arc<dyn Fn(u64) -> Bytes + Send + Sync>;

/// What to send, and how.
#[derive(Clone)]
pub struct Load {
    pub address: SocketAddr,
    pub connections: usize,
    pub requests: Requests,
    /// The status that every reply has to have.
    pub status: u16,
    next: Arc<AtomicU64>,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub replies: u64,
    pub body_bytes: u64,
    pub seconds: f64,
    latencies: Vec<f64>,
}

impl Tally {
    pub fn per_second(&self) -> f64 {
        self.replies as f64 / self.seconds
    }

    /// In milliseconds.
    pub fn latency(&self, share: f64) -> f64 {
        percentile(&self.latencies, share) * 1000.0
    }

    pub fn mean_body(&self) -> usize {
        usize::try_from(self.body_bytes.checked_div(self.replies).unwrap_or(0)).unwrap_or(usize::MAX)
    }
}

impl Load {
    pub fn new(address: SocketAddr, connections: usize, status: u16, requests: Requests) -> Self {
        Self {
            address,
            connections,
            requests,
            status,
            next: Arc::default(),
        }
    }

    /// GETs of `paths`, in a mixed-up order that is the same every time.
    pub fn get(address: SocketAddr, connections: usize, paths: &[String]) -> Self {
        let requests: Vec<Bytes> = paths
            .iter()
            .map(|path| format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n").into())
            .collect();
        let pick = move |number: u64| {
            let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
            let index = usize::try_from(mixed).unwrap_or(0) % requests.len();
            requests.get(index).cloned().unwrap_or_default()
        };
        Self::new(address, connections, 200, Arc::new(pick))
    }

    /// Sends for a while and counts what is answered. Any other status than the expected one is an error.
    pub async fn run(&self, duration: Duration) -> Result<Tally> {
        let load = self.clone();
        tokio::task::spawn_blocking(move || load.run_in_threads(duration)).await?
    }

    fn run_in_threads(&self, duration: Duration) -> Result<Tally> {
        let threads = (available_cores() / 2).clamp(1, self.connections);
        let began = Instant::now();
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let load = self.clone();
                let connections = self.connections / threads + usize::from(thread < self.connections % threads);
                std::thread::spawn(move || -> Result<Tally> {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                    runtime.block_on(load.run_connections(connections, duration))
                })
            })
            .collect();
        let mut sum = Tally::default();
        for worker in workers {
            let tally = worker
                .join()
                .map_err(|_| anyhow::anyhow!("a client thread panicked"))??;
            sum.replies += tally.replies;
            sum.body_bytes += tally.body_bytes;
            sum.latencies.extend(tally.latencies);
        }
        sum.seconds = began.elapsed().as_secs_f64();
        ensure!(sum.replies > 0, "no reply from {} in {duration:?}", self.address);
        Ok(sum)
    }

    async fn run_connections(self, connections: usize, duration: Duration) -> Result<Tally> {
        let until = Instant::now() + duration;
        let tallies = futures::future::try_join_all((0..connections).map(|_| self.run_connection(until))).await?;
        let mut sum = Tally::default();
        for tally in tallies {
            sum.replies += tally.replies;
            sum.body_bytes += tally.body_bytes;
            sum.latencies.extend(tally.latencies);
        }
        Ok(sum)
    }

    async fn run_connection(&self, until: Instant) -> Result<Tally> {
        let mut connection = Connection::open(self.address).await?;
        let mut tally = Tally::default();
        while Instant::now() < until {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let request = (self.requests)(number);
            let sent = Instant::now();
            let body = connection.exchange(&request, self.status).await?;
            tally.latencies.push(sent.elapsed().as_secs_f64());
            tally.replies += 1;
            tally.body_bytes += body.len() as u64;
        }
        Ok(tally)
    }
}

fn available_cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// One kept connection.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)
            .await
            .with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: Vec::with_capacity(64 * 1024),
        })
    }

    /// Sends a request and returns the body of the reply.
    pub async fn exchange(&mut self, request: &[u8], status: u16) -> Result<&[u8]> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        let head = tokio::time::timeout(REPLY_LIMIT, self.read())
            .await
            .context("no reply in time")??;
        if head.status != status {
            let body = String::from_utf8_lossy(self.buffer.get(head.length..).unwrap_or_default()).into_owned();
            bail!("answered {} instead of {status}: {body}", head.status);
        }
        Ok(self.buffer.get(head.length..).unwrap_or_default())
    }

    async fn read(&mut self) -> Result<Head> {
        let mut head: Option<Head> = None;
        loop {
            if head.is_none() {
                head = Head::parse(&self.buffer)?;
            }
            if let Some(head) = &head
                && self.buffer.len() >= head.length + head.body
            {
                ensure!(
                    self.buffer.len() == head.length + head.body,
                    "more was sent than the reply"
                );
                return Ok(*head);
            }
            ensure!(
                self.stream.read_buf(&mut self.buffer).await? > 0,
                "the connection was closed"
            );
        }
    }
}

/// What has to be known of a reply's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    /// The head's own bytes.
    length: usize,
    /// The body's bytes.
    body: usize,
}

impl Head {
    /// None while it is not complete.
    fn parse(bytes: &[u8]) -> Result<Option<Self>> {
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
            return Ok(None);
        };
        let text = std::str::from_utf8(bytes.get(..end).unwrap_or_default()).context("the head is not text")?;
        let mut lines = text.split("\r\n");
        let status = lines
            .next()
            .and_then(|line| line.strip_prefix("HTTP/1.1 "))
            .and_then(|line| line.get(..3))
            .and_then(|status| status.parse().ok())
            .context("not a reply of HTTP/1.1")?;
        let length = lines.find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length")
                .then(|| value.trim().parse())
        });
        let body = length.context("a reply without content-length")??;
        Ok(Some(Self {
            status,
            length: end + 4,
            body,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_when_they_are_complete() {
        let reply = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nx: y\r\n\r\nhello";
        let head = Head {
            status: 200,
            length: reply.len() - 5,
            body: 5,
        };
        assert_eq!(Head::parse(reply).unwrap(), Some(head));
        assert_eq!(Head::parse(&reply[..30]).unwrap(), None);
        assert!(Head::parse(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
    }
}
