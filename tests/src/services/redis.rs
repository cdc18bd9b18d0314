//! A private Redis (or Valkey): free loopback port, a random password, nothing on disk.
//!
//! Everything in it can be rebuilt from Postgres, so nothing is saved; it refuses writes when full instead of
//! dropping what it chooses.

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::{
    Instance, free_port,
    place::Place,
    process::{Process, Signal, Supervisor, log_tail, open_log, wait_until},
};

/// One numbered database a test, so many of them.
pub const DATABASES: u32 = 1024;
const START_LIMIT: Duration = Duration::from_secs(20);

pub struct Redis {
    process: Process,
    launch: Launch,
    port: u16,
    url: String,
}

/// What it takes to start the server, again and again.
struct Launch {
    server: PathBuf,
    place: Place,
    password: String,
    log: PathBuf,
    supervisor: Supervisor,
}

impl Redis {
    pub fn start(instance: &Instance, server: &Path) -> Result<Self> {
        let launch = Launch {
            server: server.to_owned(),
            place: Place::prepare(instance.dir(), "redis")?,
            password: super::random_hex(),
            log: instance.log("redis"),
            supervisor: instance.supervisor().clone(),
        };
        let mut attempt = 0;
        let (process, port) = loop {
            attempt += 1;
            let port = free_port(launch.place.read("port").and_then(|text| text.parse().ok()))?;
            if let Some(process) = launch.start(port)? {
                break (process, port);
            }
            // Somebody may have taken the port between our look and the server's.
            let tail = log_tail(&launch.log, 15);
            ensure!(
                attempt < 3 && tail.contains("bind"),
                "Redis did not start; {}:\n{tail}",
                launch.log.display()
            );
        };
        launch.place.write_private("port", &port.to_string())?;
        Ok(Self {
            process,
            url: format!("redis://:{}@127.0.0.1:{port}/0", launch.password),
            launch,
            port,
        })
    }

    /// Ends the server as a crash does; it forgets everything.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Starts a killed server again, empty, on the same port.
    pub fn start_again(&mut self) -> Result<()> {
        self.process = self
            .launch
            .start(self.port)?
            .with_context(|| format!("Redis did not start again; {}", log_tail(&self.launch.log, 15)))?;
        Ok(())
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn process_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

impl Launch {
    /// `None` when the server ended at once or never answered.
    fn start(&self, port: u16) -> Result<Option<Process>> {
        // In a file, not on the command line that everybody can read.
        let config = self.place.write_private(
            "redis.conf",
            &format!(
                "bind 127.0.0.1\nport {port}\nrequirepass {}\ndatabases {DATABASES}\ndaemonize no\n\
                 save \"\"\nappendonly no\nmaxmemory-policy noeviction\ntcp-backlog 128\n",
                self.password
            ),
        )?;
        let file = open_log(&self.log)?;
        let mut command = self.place.command(&self.server);
        command.arg(config).stdout(file.try_clone()?).stderr(file);
        let mut process = self.supervisor.spawn("redis", Signal::Term, &mut command)?;
        Ok(answers(&mut process, port, &self.password).then_some(process))
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
