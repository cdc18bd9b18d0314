//! A private Redis (or Valkey): free loopback port, a random password, nothing on disk.
//!
//! Everything in it can be rebuilt from Postgres, so nothing is saved; it refuses writes when full instead of
//! dropping what it chooses.

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    time::Duration,
};

use anyhow::{Result, ensure};

use super::{
    Instance, free_port,
    place::Place,
    process::{Process, Signal, log_tail, open_log, wait_until},
};

/// One numbered database a test, so many of them.
pub const DATABASES: u32 = 1024;
const START_LIMIT: Duration = Duration::from_secs(20);

pub struct Redis {
    process: Process,
    url: String,
}

impl Redis {
    pub fn start(instance: &Instance, server: &Path) -> Result<Self> {
        let place = Place::prepare(instance.dir(), "redis")?;
        let password = super::random_hex();
        let log = instance.log("redis");
        let mut attempt = 0;
        let (process, port) = loop {
            attempt += 1;
            let port = free_port(place.read("port").and_then(|text| text.parse().ok()))?;
            // In a file, not on the command line that everybody can read.
            let config = place.write_private(
                "redis.conf",
                &format!(
                    "bind 127.0.0.1\nport {port}\nrequirepass {password}\ndatabases {DATABASES}\ndaemonize no\n\
                     save \"\"\nappendonly no\nmaxmemory-policy noeviction\ntcp-backlog 128\n"
                ),
            )?;
            let file = open_log(&log)?;
            let mut command = place.command(server);
            command.arg(config).stdout(file.try_clone()?).stderr(file);
            let mut process = instance.supervisor().spawn("redis", Signal::Term, &mut command)?;
            if answers(&mut process, port, &password) {
                break (process, port);
            }
            // Somebody may have taken the port between our look and the server's.
            let tail = log_tail(&log, 15);
            ensure!(
                attempt < 3 && tail.contains("bind"),
                "Redis did not start; {}:\n{tail}",
                log.display()
            );
        };
        place.write_private("port", &port.to_string())?;
        Ok(Self {
            process,
            url: format!("redis://:{password}@127.0.0.1:{port}/0"),
        })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn process_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// Waits until it knows our password; `false` when it ended or never answered.
fn answers(process: &mut Process, port: u16, password: &str) -> bool {
    let ping = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(format!("AUTH {password}\r\nPING\r\n").as_bytes())?;
        let mut reply = [0; 12];
        stream.read_exact(&mut reply)?;
        Ok(&reply == b"+OK\r\n+PONG\r\n")
    };
    let mut alive = true;
    let done = wait_until(START_LIMIT, || {
        alive = matches!(process.exited(), Ok(None));
        !alive || ping().unwrap_or(false)
    });
    done && alive
}
