//! Private Postgres and Redis servers for a run of the program or of its tests.
//!
//! They live in an instance: a folder with a lock, logs, a register of processes and the servers' own places. The
//! lock says whether somebody uses the folder; an instance that nobody holds is swept by the next start.

use std::{
    fs::{self, File},
    io::{Seek, Write},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{self as std_process, Command},
};

use anyhow::{Context, Result, bail, ensure};
use rand::Rng;

mod place;
mod postgres;
pub mod process;
mod redis;

pub use place::write_private;
pub use postgres::Postgres;
pub use redis::{DATABASES as REDIS_DATABASES, Redis};

use process::{Process, Supervisor};

/// What a crash of the machine may take away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Nothing that was committed.
    Durable,
    /// The same, and PostgreSQL counts its statements, which slows it down a little.
    Counted,
    /// Everything: for tests, where speed is worth more.
    Scratch,
}

/// A folder that one process at a time runs services in.
pub struct Instance {
    dir: PathBuf,
    supervisor: Supervisor,
    scratch: bool,
    // Last, so that the lock outlives what it guards.
    _lock: File,
}

impl Instance {
    /// Takes the folder, or says who has it. Stops what a killed run left behind in it.
    pub fn open(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir.join("log")).with_context(|| format!("making {}", dir.display()))?;
        let Some(lock) = take_lock(dir)? else {
            let holder = fs::read_to_string(dir.join("lock")).unwrap_or_default();
            bail!(
                "another run of this clone is up (pid {}): stop it first, or use what it prints in {}",
                holder.trim(),
                dir.join("env").display()
            );
        };
        let supervisor = Supervisor::start(dir.join("pids"))?;
        Ok(Self {
            dir: dir.to_owned(),
            supervisor,
            scratch: false,
            _lock: lock,
        })
    }

    /// A fresh folder under `parent` that goes away with the instance. Sweeps siblings that nobody holds any more.
    pub fn scratch(parent: &Path) -> Result<Self> {
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            remove_abandoned(&entry.path())?;
        }
        let dir = parent.join(format!("{}-{}", std_process::id(), &random_hex()[..8]));
        let mut instance = Self::open(&dir)?;
        instance.scratch = true;
        Ok(instance)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn log(&self, name: &str) -> PathBuf {
        self.dir.join("log").join(format!("{name}.log"))
    }

    pub fn supervisor(&self) -> &Supervisor {
        &self.supervisor
    }

    /// For an owner that may end without dropping this: the watchdog removes the folder then.
    fn remove_at_exit(&self) -> Result<()> {
        for name in PLACES {
            if let Ok(path) = fs::read_to_string(self.dir.join(format!("{name}.at"))) {
                self.supervisor.remove_at_exit(Path::new(path.trim()))?;
            }
        }
        self.supervisor.remove_at_exit(&self.dir)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if self.scratch
            && let Err(error) = remove_dir(&self.dir)
        {
            eprintln!("removing {}: {error:#}", self.dir.display());
        }
    }
}

const PLACES: [&str; 2] = ["postgres", "redis"];

fn take_lock(dir: &Path) -> Result<Option<File>> {
    let path = dir.join("lock");
    let mut file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .with_context(|| format!("opening {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => {
            file.set_len(0)?;
            file.rewind()?;
            write!(file, "{}", std_process::id())?;
            Ok(Some(file))
        }
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(error)) => Err(error).with_context(|| format!("locking {}", path.display())),
    }
}

fn remove_abandoned(dir: &Path) -> Result<()> {
    if dir.join("lock").exists()
        && let Some(_lock) = take_lock(dir)?
    {
        process::sweep(&dir.join("pids"))?;
        remove_dir(dir)?;
    }
    Ok(())
}

/// Removes an instance's folder and what its servers keep elsewhere.
fn remove_dir(dir: &Path) -> Result<()> {
    for name in PLACES {
        place::remove(dir, name)?;
    }
    fs::remove_dir_all(dir).with_context(|| format!("removing {}", dir.display()))
}

/// Forgets everything in an instance's folder: stops leftovers, removes the data.
pub fn reset(dir: &Path) -> Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    let instance = Instance::open(dir)?;
    remove_dir(&instance.dir)
}

/// The servers of one instance; those that the environment names are not started.
pub struct Services {
    postgres: Option<Postgres>,
    redis: Option<Redis>,
    database_url: String,
    redis_url: String,
    // After the servers, so that they are stopped before the folder goes.
    instance: Instance,
}

impl Services {
    /// Starts what `DATABASE_URL` and `REDIS_URL` do not name.
    pub fn start(instance: Instance, durability: Durability) -> Result<Self> {
        let given = |name: &str| std::env::var(name).ok().filter(|url| !url.is_empty());
        let (database_given, redis_given) = (given("DATABASE_URL"), given("REDIS_URL"));
        let servers = Servers::find()?;
        let postgres = match &database_given {
            Some(_) => None,
            None => Some(Postgres::start(&instance, &servers.postgres_bins, durability)?),
        };
        let redis = match &redis_given {
            Some(_) => None,
            None => Some(Redis::start(&instance, &servers.redis()?)?),
        };
        let database_url = postgres
            .as_ref()
            .map(|server| server.url().to_owned())
            .or(database_given);
        let redis_url = redis.as_ref().map(|server| server.url().to_owned()).or(redis_given);
        Ok(Self {
            database_url: database_url.unwrap_or_default(),
            redis_url: redis_url.unwrap_or_default(),
            postgres,
            redis,
            instance,
        })
    }

    /// Starts both, whatever the environment names: for who does damage to them.
    pub fn private(instance: Instance, durability: Durability) -> Result<Self> {
        let servers = Servers::find()?;
        let postgres = Postgres::start(&instance, &servers.postgres_bins, durability)?;
        let redis = Redis::start(&instance, &servers.redis()?)?;
        instance.remove_at_exit()?;
        Ok(Self {
            database_url: postgres.url().to_owned(),
            redis_url: redis.url().to_owned(),
            postgres: Some(postgres),
            redis: Some(redis),
            instance,
        })
    }

    /// Services for tests, in a scratch folder of the clone; they end with this process even when nobody drops them.
    pub fn scratch(durability: Durability) -> Result<Self> {
        let instance = Instance::scratch(&workspace_root()?.join(".roost/test"))?;
        let services = Self::start(instance, durability)?;
        services.instance.remove_at_exit()?;
        Ok(services)
    }

    /// A Redis without a database beside it, for a test that stops it.
    pub fn redis_alone() -> Result<Self> {
        let instance = Instance::scratch(&workspace_root()?.join(".roost/test"))?;
        let redis = Redis::start(&instance, &Servers::find()?.redis()?)?;
        instance.remove_at_exit()?;
        Ok(Self {
            database_url: String::new(),
            redis_url: redis.url().to_owned(),
            postgres: None,
            redis: Some(redis),
            instance,
        })
    }

    pub fn database_url(&self) -> &str {
        &self.database_url
    }

    pub fn redis_url(&self) -> &str {
        &self.redis_url
    }

    /// Whether the database is ours and not one that `DATABASE_URL` names.
    pub fn database_is_private(&self) -> bool {
        self.postgres.is_some()
    }

    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// The private Postgres.
    pub fn postgres_mut(&mut self) -> Result<&mut Postgres> {
        self.postgres.as_mut().context("Postgres is not ours")
    }

    /// The private Redis.
    pub fn redis_mut(&mut self) -> Result<&mut Redis> {
        self.redis.as_mut().context("Redis is not ours")
    }

    /// The private servers that run, to watch over.
    pub fn processes_mut(&mut self) -> impl Iterator<Item = &mut Process> {
        let postgres = self.postgres.as_mut().map(Postgres::process_mut);
        postgres.into_iter().chain(self.redis.as_mut().map(Redis::process_mut))
    }
}

/// Where `.config/provision` found the servers.
struct Servers {
    postgres_bins: Vec<PathBuf>,
    redis: Option<PathBuf>,
}

impl Servers {
    fn find() -> Result<Self> {
        let script = workspace_root()?.join(".config/provision");
        let out = Command::new("sh")
            .arg(&script)
            .arg("--find")
            .output()
            .context("running .config/provision")?;
        ensure!(
            out.status.success(),
            "{}: {}",
            script.display(),
            String::from_utf8_lossy(&out.stderr)
        );
        let text = String::from_utf8(out.stdout)?;
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
        let paths = |list: &str| {
            list.split(':')
                .filter(|path| !path.is_empty())
                .map(PathBuf::from)
                .collect()
        };
        let postgres_bins = paths(value("POSTGRES_BINS="));
        let redis: Vec<PathBuf> = paths(value("REDIS_SERVER="));
        Ok(Self {
            postgres_bins,
            redis: redis.into_iter().next(),
        })
    }

    fn redis(&self) -> Result<PathBuf> {
        self.redis
            .clone()
            .context("no Redis server found: run .config/provision")
    }
}

/// The clone that we are run in.
pub fn workspace_root() -> Result<PathBuf> {
    let here = std::env::current_dir().context("reading the current folder")?;
    let above = here.ancestors().find(|dir| dir.join(".config/provision").is_file());
    above
        .map(Path::to_owned)
        .with_context(|| format!("{} is not inside a clone of Roost", here.display()))
}

/// Below those that Linux and macOS give to outgoing connections: one of these could take the port of a server that is
/// about to start, or that is down for a moment.
const SERVER_PORTS: std::ops::Range<u16> = 20_000..32_000;

/// A port of 127.0.0.1 that is free now, the preferred one if that is.
pub fn free_port(preferred: Option<u16>) -> Result<u16> {
    let mut dice = rand::rng();
    let drawn = std::iter::repeat_with(|| dice.random_range(SERVER_PORTS)).take(1_000);
    preferred
        .into_iter()
        .chain(drawn)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .context("looking for a free port")
}

/// An address with a [`free_port`].
pub fn free_address() -> Result<SocketAddr> {
    Ok(SocketAddr::from(([127, 0, 0, 1], free_port(None)?)))
}

/// 128 random bits, for names and passwords.
pub fn random_hex() -> String {
    hex::encode(rand::random::<[u8; 16]>())
}
