//! HTTP load by [wrk]: a fixed number of kept connections, each of which sends its next request when it has its reply.
//!
//! wrk costs the servers little of the machine that they share, and the bare handler is measured by it as well.
//!
//! [wrk]: https://github.com/wg/wrk

use std::{
    io::{BufWriter, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

const SCRIPT: &str = include_str!("requests.lua");
const REPLY_LIMIT: Duration = Duration::from_secs(20);

/// A request as it goes over the wire.
pub fn get(address: SocketAddr, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n")
}

/// The same with a body of JSON; each line of `headers` ends with CR LF.
pub fn post(address: SocketAddr, path: &str, headers: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\n{headers}content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// What to send, and how.
pub struct Load {
    pub address: SocketAddr,
    pub connections: usize,
    requests: Requests,
    /// Where wrk finds its script and the requests.
    folder: PathBuf,
}

enum Requests {
    /// These, over and over.
    Again(Vec<String>),
    /// Each number once, counted from 0 over all runs.
    Once {
        request: Box<dyn Fn(u64) -> String + Send + Sync>,
        next: AtomicU64,
        /// More than a core can answer; so many are made before a run.
        most_per_second: u64,
    },
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tally {
    /// Requests that wrk took from the file.
    taken: u64,
    pub replies: u64,
    /// Replies with a status of 400 or above.
    refused: u64,
    /// Connections that were not made or were cut.
    broken: u64,
    late: u64,
    seconds: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

impl Tally {
    /// Of those that were not refused.
    pub fn per_second(&self) -> f64 {
        (self.replies - self.refused) as f64 / self.seconds
    }
}

impl Load {
    /// GETs of `paths`, in a mixed-up order that is the same every time.
    pub fn get(folder: &Path, address: SocketAddr, connections: usize, paths: &[String]) -> Self {
        let mut requests: Vec<String> = paths.iter().map(|path| get(address, path)).collect();
        requests.sort_by_cached_key(|request| {
            let bytes = request.bytes();
            bytes.fold(0_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            })
        });
        Self::again(folder, address, connections, requests)
    }

    /// These requests, over and over.
    pub fn again(folder: &Path, address: SocketAddr, connections: usize, requests: Vec<String>) -> Self {
        Self::new(folder, address, connections, Requests::Again(requests))
    }

    /// The request of each number once, at most so many a second and core.
    pub fn once(
        folder: &Path,
        address: SocketAddr,
        connections: usize,
        most_per_second: u64,
        request: impl Fn(u64) -> String + Send + Sync + 'static,
    ) -> Self {
        let requests = Requests::Once {
            request: Box::new(request),
            next: AtomicU64::default(),
            most_per_second,
        };
        Self::new(folder, address, connections, requests)
    }

    fn new(folder: &Path, address: SocketAddr, connections: usize, requests: Requests) -> Self {
        Self {
            address,
            connections,
            requests,
            folder: folder.to_owned(),
        }
    }

    /// Sends for a while and counts what is answered. More than one reply in a thousand of 400 or above is an error:
    /// a server that is kept waiting by its machine for a second refuses a few, and a wrong request is refused always.
    pub async fn run(&self, duration: Duration) -> Result<Tally> {
        let (script, file) = (self.folder.join("requests.lua"), self.folder.join("requests.http"));
        std::fs::write(&script, SCRIPT).with_context(|| format!("writing {}", script.display()))?;
        let made = self
            .write(&file, duration)
            .with_context(|| format!("writing {}", file.display()))?;
        let threads = (available_cores() / 2).clamp(1, self.connections);
        let mut command = Command::new("wrk");
        command
            .arg(format!("--threads={threads}"))
            .arg(format!("--connections={}", self.connections))
            .arg(format!("--duration={}s", duration.as_secs().max(1)))
            .arg(format!("--timeout={}s", REPLY_LIMIT.as_secs()))
            .arg(format!("--script={}", script.display()))
            .arg(format!("http://{}", self.address))
            .arg("--")
            .arg(&file)
            .arg(threads.to_string())
            .stdin(Stdio::null());
        let out = tokio::task::spawn_blocking(move || command.output())
            .await?
            .context("running wrk, which .config/provision --bench installs")?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        ensure!(
            out.status.success(),
            "wrk failed: {text}{}",
            String::from_utf8_lossy(&out.stderr)
        );
        let tally = read(&text).with_context(|| format!("wrk against {} said:\n{text}", self.address))?;
        if let Requests::Once { next, .. } = &self.requests {
            ensure!(
                tally.taken <= made,
                "{} requests were sent and only {made} made",
                tally.taken
            );
            next.fetch_add(tally.taken, Ordering::Relaxed);
        }
        Ok(tally)
    }

    /// Returns how many were written.
    fn write(&self, file: &Path, duration: Duration) -> Result<u64> {
        let mut out = BufWriter::new(std::fs::File::create(file)?);
        let made = match &self.requests {
            Requests::Again(requests) => {
                for request in requests {
                    write!(out, "{request}\0")?;
                }
                requests.len() as u64
            }
            Requests::Once {
                request,
                next,
                most_per_second,
            } => {
                let first = next.load(Ordering::Relaxed);
                let count = most_per_second * available_cores() as u64 * duration.as_secs().max(1);
                for number in first..first + count {
                    write!(out, "{}\0", request(number))?;
                }
                count
            }
        };
        out.flush()?;
        Ok(made)
    }
}

fn available_cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn read(text: &str) -> Result<Tally> {
    let line = text.lines().rfind(|line| line.starts_with('{')).context("no summary")?;
    let tally: Tally = serde_json::from_str(line)?;
    ensure!(tally.replies > 0, "no reply");
    ensure!(
        tally.refused * 1_000 <= tally.replies && (tally.broken, tally.late) == (0, 0),
        "{} replies were refusals, {} connections broke, {} replies came late",
        tally.refused,
        tally.broken,
        tally.late
    );
    if tally.refused > 0 {
        eprintln!("{} of {} requests were refused", tally.refused, tally.replies);
    }
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_read() {
        let text = "Running 2s test @ http://127.0.0.1:1\n  2 threads and 8 connections\n\
                    {\"taken\": 9, \"replies\": 8, \"refused\": 0, \"broken\": 0, \"late\": 0, \"seconds\": 2.0, \
                    \"p50_ms\": 0.5, \"p99_ms\": 1.5}\n";
        assert_eq!(read(text).unwrap().per_second(), 4.0);
        for wrong in ["refused", "broken", "late"] {
            let text = text.replace(&format!("\"{wrong}\": 0"), &format!("\"{wrong}\": 1"));
            assert!(read(&text).is_err(), "{wrong}");
        }
        let long = text.replace("\"replies\": 8", "\"replies\": 2001");
        let refused = |count: u64| read(&long.replace("\"refused\": 0", &format!("\"refused\": {count}")));
        assert_eq!(refused(1).unwrap().per_second(), 1_000.0);
        assert!(refused(3).is_err());
        assert!(read(&text.replace("\"replies\": 8", "\"replies\": 0")).is_err());
        assert!(read("unable to connect").is_err());
    }

    #[test]
    fn what_is_sent_once_goes_on_where_the_last_run_ended() {
        let folder = scratch();
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let load = Load::once(&folder, address, 1, 10, |number| format!("request {number}"));
        let file = folder.join("requests.http");
        let made = load.write(&file, Duration::from_secs(1)).unwrap();
        assert_eq!(made, 10 * available_cores() as u64);
        let Requests::Once { next, .. } = &load.requests else {
            unreachable!("made with once")
        };
        next.fetch_add(7, Ordering::Relaxed);
        load.write(&file, Duration::from_secs(1)).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("request 7\0request 8\0"), "{text:?}");
        std::fs::remove_dir_all(folder).unwrap();
    }

    fn scratch() -> PathBuf {
        let folder = std::env::temp_dir().join(format!("roost-wrk-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }
}
