//! Where a private server keeps its files, and as whom it runs.
//!
//! Postgres refuses to run as root, so under root the servers run as `postgres` (or `nobody`). That user may be unable
//! to reach the clone, say under `/root`: then the files go to a private folder in `/var/tmp`, named by a pointer file.

use std::{
    fs,
    io::ErrorKind,
    os::unix::{
        fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

/// The user that a root caller's servers run as.
#[derive(Clone, Copy, Debug)]
struct Owner {
    uid: u32,
    gid: u32,
}

impl Owner {
    /// `None` unless we are root.
    fn find() -> Result<Option<Self>> {
        let number = |args: &[&str]| -> Option<u32> {
            let out = Command::new("id").args(args).stderr(Stdio::null()).output().ok()?;
            String::from_utf8_lossy(&out.stdout).trim().parse().ok()
        };
        if number(&["-u"]) != Some(0) {
            return Ok(None);
        }
        for user in ["postgres", "nobody"] {
            if let (Some(uid), Some(gid)) = (number(&["-u", user]), number(&["-g", user])) {
                return Ok(Some(Self { uid, gid }));
            }
        }
        bail!("PostgreSQL refuses to run as root, and this machine has neither a user postgres nor nobody")
    }
}

/// A folder of mode 700 that belongs to whoever the server runs as.
#[derive(Clone, Debug)]
pub struct Place {
    path: PathBuf,
    owner: Option<Owner>,
}

impl Place {
    /// The folder `name` under `parent`, or where the pointer `name.at` beside it says; made when missing.
    pub fn prepare(parent: &Path, name: &str) -> Result<Self> {
        let path = parent.join(name);
        let Some(owner) = Owner::find()? else {
            make_private(&path)?;
            return Ok(Self { path, owner: None });
        };
        let pointer = pointer(parent, name);
        if let Ok(text) = fs::read_to_string(&pointer) {
            let path = PathBuf::from(text.trim());
            // Others may write in /var/tmp: only a real folder of the right owner is the one we made.
            if fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_dir() && meta.uid() == owner.uid) {
                return Ok(Self {
                    path,
                    owner: Some(owner),
                });
            }
        }
        make_private(&path)?;
        let place = Self {
            path,
            owner: Some(owner),
        };
        place.hand_over(&place.path)?;
        if place.reachable()? {
            return Ok(place);
        }
        fs::remove_dir_all(&place.path).with_context(|| format!("removing {}", place.path.display()))?;
        let path = Path::new("/var/tmp").join(format!("roost-{}", super::random_hex()));
        make_private(&path)?;
        let place = Self {
            path,
            owner: Some(owner),
        };
        place.hand_over(&place.path)?;
        ensure!(
            place.reachable()?,
            "user {} cannot use {}",
            owner.uid,
            place.path.display()
        );
        fs::write(&pointer, format!("{}\n", place.path.display()))
            .with_context(|| format!("writing {}", pointer.display()))?;
        Ok(place)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A command that runs in this folder as its owner, with an environment of its own: a `PGDATA` or `LC_ALL` of the
    /// caller is not for private servers.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command
            .current_dir(&self.path)
            .env_clear()
            .env("LC_ALL", "C")
            .env("TZ", "UTC");
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        if let Some(owner) = self.owner {
            command.uid(owner.uid).gid(owner.gid);
        }
        command
    }

    /// Writes a file that only the owner can read.
    pub fn write_private(&self, name: &str, content: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        write_private(&path, content)?;
        self.hand_over(&path)?;
        Ok(path)
    }

    pub fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.path.join(name))
            .ok()
            .map(|text| text.trim().to_owned())
    }

    fn hand_over(&self, path: &Path) -> Result<()> {
        match self.owner {
            Some(Owner { uid, gid }) => {
                chown(path, Some(uid), Some(gid)).with_context(|| format!("giving {} to user {uid}", path.display()))
            }
            None => Ok(()),
        }
    }

    fn reachable(&self) -> Result<bool> {
        let mut probe = self.command("/bin/sh");
        let script = r#"cd "$0" && : >.probe && rm .probe"#;
        let status = probe
            .args(["-c", script])
            .arg(&self.path)
            .current_dir("/")
            .stderr(Stdio::null())
            .status()
            .context("running sh")?;
        Ok(status.success())
    }
}

/// Removes a place and its pointer, wherever it is.
pub fn remove(parent: &Path, name: &str) -> Result<()> {
    let pointer = pointer(parent, name);
    let elsewhere = fs::read_to_string(&pointer).ok().map(|text| PathBuf::from(text.trim()));
    for path in elsewhere.into_iter().chain([parent.join(name)]) {
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("removing {}", path.display()));
            }
            _ => {}
        }
    }
    let _ = fs::remove_file(pointer);
    Ok(())
}

fn pointer(parent: &Path, name: &str) -> PathBuf {
    parent.join(format!("{name}.at"))
}

fn make_private(path: &Path) -> Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("making {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Writes a file of mode 600, replacing one that is there.
pub fn write_private(path: &Path, content: &str) -> Result<()> {
    use std::io::Write;
    let _ = fs::remove_file(path);
    fs::File::options()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(content.as_bytes()))
        .with_context(|| format!("writing {}", path.display()))
}
