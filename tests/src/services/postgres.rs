//! A private PostgreSQL: own data folder, free loopback port, a random password.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use super::{
    Durability, Instance, free_port,
    place::Place,
    process::{self, Process, Signal, Supervisor, log_tail, open_log, wait_until},
};

const USER: &str = "roost";
const DATABASE: &str = "roost";
/// Recovery after a crash replays the log before the server is ready.
const START_LIMIT: Duration = Duration::from_secs(120);

pub struct Postgres {
    process: Process,
    launch: Launch,
    port: u16,
    url: String,
}

/// What it takes to start the server, again and again.
struct Launch {
    bin: PathBuf,
    place: Place,
    data: PathBuf,
    durability: Durability,
    log: PathBuf,
    supervisor: Supervisor,
}

impl Postgres {
    /// Starts the server of this instance, making its cluster and database on the first start.
    pub fn start(instance: &Instance, bins: &[PathBuf], durability: Durability) -> Result<Self> {
        let place = Place::prepare(instance.dir(), "postgres")?;
        let data = place.path().join("data");
        let bin = match place.read("data/PG_VERSION") {
            Some(major) => bin_of_major(bins, &major).with_context(|| {
                format!(
                    "{} was made by PostgreSQL {major}, which is not installed any more: \
                     install it again, or forget the data with `make reset`",
                    data.display()
                )
            })?,
            None => {
                let bin = bins
                    .first()
                    .context("no PostgreSQL server found: run .config/provision")?;
                make_cluster(&place, bin, durability)?;
                bin
            }
        };
        let password = place.read("password").with_context(|| {
            format!(
                "{} has lost its password file: forget the data with `make reset`",
                place.path().display()
            )
        })?;
        stop_stray(&data)?;

        let launch = Launch {
            bin: bin.clone(),
            data,
            durability,
            log: instance.log("postgres"),
            supervisor: instance.supervisor().clone(),
            place,
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
                attempt < 3 && tail.contains("could not bind"),
                "PostgreSQL did not start; {}:\n{tail}",
                launch.log.display()
            );
        };
        launch.place.write_private("port", &port.to_string())?;
        make_database(&launch.bin, port, &password)?;
        let url = format!("postgres://{USER}:{password}@127.0.0.1:{port}/{DATABASE}");
        Ok(Self {
            process,
            launch,
            port,
            url,
        })
    }

    /// Stops the server: by [`Signal::Int`] in good order, by [`Signal::Quit`] as a crash does.
    pub fn stop(&mut self, by: Signal) -> Result<()> {
        self.process.stop_by(by)
    }

    /// Starts a stopped server again, on the same port and data.
    pub fn start_again(&mut self) -> Result<()> {
        stop_stray(&self.launch.data)?;
        self.process = self
            .launch
            .start(self.port)?
            .with_context(|| format!("PostgreSQL did not start again; {}", log_tail(&self.launch.log, 15)))?;
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
    /// `None` when the server ended instead of getting ready.
    fn start(&self, port: u16) -> Result<Option<Process>> {
        let file = open_log(&self.log)?;
        let mut command = self.place.command(self.bin.join("postgres"));
        command
            .arg("-D")
            .arg(&self.data)
            .args(["-p", &port.to_string()])
            .args(settings(self.durability));
        command.stdout(file.try_clone()?).stderr(file);
        let mut process = self.supervisor.spawn("postgres", Signal::Int, &mut command)?;
        Ok(ready(&mut process, &self.data)?.then_some(process))
    }
}

fn bin_of_major<'a>(bins: &'a [PathBuf], major: &str) -> Option<&'a PathBuf> {
    bins.iter().find(|bin| {
        let out = Command::new(bin.join("postgres")).arg("--version").output();
        let text = out
            .map(|out| String::from_utf8_lossy(&out.stdout).into_owned())
            .unwrap_or_default();
        // "postgres (PostgreSQL) 15.18 (Debian …)"; betas read "18beta1".
        let version = text.split_whitespace().nth(2).unwrap_or_default();
        version.split(|c: char| !c.is_ascii_digit()).next() == Some(major)
    })
}

fn make_cluster(place: &Place, bin: &Path, durability: Durability) -> Result<()> {
    // A cluster whose making was interrupted has no PG_VERSION, or is in the interim folder; begin afresh.
    let interim = place.path().join("new");
    for folder in [&interim, &place.path().join("data")] {
        if folder.exists() {
            fs::remove_dir_all(folder).with_context(|| format!("removing {}", folder.display()))?;
        }
    }
    let password = place.write_private("password", &super::random_hex())?;
    let mut command = place.command(bin.join("initdb"));
    // Byte order for sorting is the same on every machine; case and classes of letters are Unicode's.
    let ctype = if cfg!(target_os = "macos") {
        "en_US.UTF-8"
    } else {
        "C.UTF-8"
    };
    command
        .arg("-D")
        .arg(&interim)
        .args(["-U", USER, "--encoding=UTF8", "--locale=C", "--auth=scram-sha-256"]);
    command.arg(format!("--lc-ctype={ctype}")).arg("--pwfile").arg(password);
    if durability == Durability::Scratch {
        command.arg("--no-sync");
    }
    let out = command.stdin(Stdio::null()).output().context("running initdb")?;
    ensure!(
        out.status.success(),
        "initdb failed:\n{}",
        String::from_utf8_lossy(&out.stderr)
    );
    fs::rename(&interim, place.path().join("data")).context("putting the new cluster in its place")
}

/// A postmaster of this data folder that no register knows is stopped; a pid file whose number now belongs to another
/// program is removed, because Postgres would take that program for its old self and refuse to start.
fn stop_stray(data: &Path) -> Result<()> {
    let file = data.join("postmaster.pid");
    let Ok(text) = fs::read_to_string(&file) else {
        return Ok(());
    };
    let Some(pid) = text.lines().next().and_then(|line| line.trim().parse::<u32>().ok()) else {
        return Ok(());
    };
    let ours = || process::is_running(pid, &data.to_string_lossy());
    if ours() {
        process::send(pid, Signal::Int);
        if !wait_until(Duration::from_secs(30), || !ours()) {
            bail!(
                "a PostgreSQL (pid {pid}) still runs on {} and does not stop",
                data.display()
            );
        }
    } else {
        fs::remove_file(&file).with_context(|| format!("removing {}", file.display()))?;
    }
    Ok(())
}

fn settings(durability: Durability) -> Vec<String> {
    let mut settings = vec![
        "listen_addresses=127.0.0.1",
        "unix_socket_directories=",
        "cluster_name=roost",
        "timezone=UTC",
        "log_timezone=UTC",
        "logging_collector=off",
        "shared_buffers=128MB",
    ];
    settings.extend(match durability {
        Durability::Durable => ["max_connections=200", "checkpoint_timeout=10min"].as_slice(),
        Durability::Counted => [
            "max_connections=200",
            "checkpoint_timeout=10min",
            "shared_preload_libraries=pg_stat_statements",
            "pg_stat_statements.track_planning=on",
        ]
        .as_slice(),
        Durability::Scratch => [
            "max_connections=400",
            "fsync=off",
            "full_page_writes=off",
            "synchronous_commit=off",
            "autovacuum_naptime=10min",
            // Tests count statements. There are many databases in one server, each with entries of its own.
            "shared_preload_libraries=pg_stat_statements",
            "pg_stat_statements.max=20000",
            // A test's database is dropped while its runtime stands still, perhaps in the middle of connecting. The
            // drop waits for such a connection, which nobody goes on with, until the server gives it up.
            "authentication_timeout=5s",
        ]
        .as_slice(),
    });
    settings
        .iter()
        .flat_map(|setting| ["-c".to_owned(), (*setting).to_owned()])
        .collect()
}

/// Waits for the line in postmaster.pid that says so; `false` when the server ended instead.
fn ready(process: &mut Process, data: &Path) -> Result<bool> {
    let file = data.join("postmaster.pid");
    let pid = process.pid().to_string();
    let mut ended = None;
    let done = wait_until(START_LIMIT, || {
        if let Ok(Some(status)) = process.exited() {
            ended = Some(status);
            return true;
        }
        let text = fs::read_to_string(&file).unwrap_or_default();
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        lines.first() == Some(&pid.as_str()) && lines.get(7) == Some(&"ready")
    });
    ensure!(done, "PostgreSQL was not ready after {} s", START_LIMIT.as_secs());
    Ok(ended.is_none())
}

fn make_database(bin: &Path, port: u16, password: &str) -> Result<()> {
    let psql = |sql: &str| -> Result<String> {
        let out = Command::new(bin.join("psql"))
            .args([
                "-X",
                "-A",
                "-t",
                "-v",
                "ON_ERROR_STOP=1",
                "-h",
                "127.0.0.1",
                "-U",
                USER,
                "-d",
                "postgres",
            ])
            .args(["-p", &port.to_string(), "-c", sql])
            .env("PGPASSWORD", password)
            .env_remove("PGOPTIONS")
            .env_remove("PGSERVICE")
            .stdin(Stdio::null())
            .output()
            .context("running psql")?;
        ensure!(out.status.success(), "psql: {}", String::from_utf8_lossy(&out.stderr));
        Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
    };
    if psql(&format!("SELECT 1 FROM pg_database WHERE datname = '{DATABASE}'"))?.is_empty() {
        psql(&format!("CREATE DATABASE {DATABASE}"))?;
    }
    Ok(())
}
