//! Processes that end with us: each is known to a register on disk and to a watchdog.
//!
//! The watchdog is a shell that holds one end of a pipe. When this process ends, however it ends, the pipe closes and
//! the watchdog stops what is still listed. Should the watchdog be killed too, the register tells the next start.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

/// How long a process may take to stop before it is killed; longer than the worker's own grace.
const STOP_LIMIT: Duration = Duration::from_secs(35);

/// Reads `add PID SIGNAL`, `del PID` and `rm PATH` until the pipe closes; then stops the newest first, each in turn,
/// with whatever it started in its process group.
const WATCHDOG: &str = r#"
trap '' INT TERM HUP
list=
paths=
while read -r verb one two; do
  case $verb in
    add) list="$one:$two $list" ;;
    del) rest=; for entry in $list; do [ "${entry%%:*}" = "$one" ] || rest="$rest$entry "; done; list=$rest ;;
    rm) paths="$paths$one
" ;;
  esac
done
for entry in $list; do
  pid=${entry%%:*}
  kill -s "${entry#*:}" -- "-$pid" 2>/dev/null || continue
  n=0
  while [ $n -lt 350 ] && kill -s 0 -- "-$pid" 2>/dev/null; do sleep 0.1; n=$((n + 1)); done
  kill -s KILL -- "-$pid" 2>/dev/null
done
printf %s "$paths" | while read -r path; do rm -rf "$path"; done
exit 0
"#;

/// The signals that ask a process to stop, make it, or have it stand still for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Term,
    /// What Postgres calls a fast shutdown: roll back, disconnect, flush, exit.
    Int,
    /// What Postgres calls an immediate one: exit as after a crash, so that the next start has to recover.
    Quit,
    Kill,
    /// Stands still until [`Signal::Cont`], knowing nothing of it.
    Stop,
    Cont,
}

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Self::Term => "TERM",
            Self::Int => "INT",
            Self::Quit => "QUIT",
            Self::Kill => "KILL",
            Self::Stop => "STOP",
            Self::Cont => "CONT",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        [Self::Term, Self::Int, Self::Kill]
            .into_iter()
            .find(|signal| signal.name() == name)
    }
}

/// Sends a signal to the process group that this process leads; `false` when there is none. Through the shell, because
/// the system call is unsafe code.
pub fn send(pid: u32, signal: Signal) -> bool {
    Command::new("sh")
        .args(["-c", r#"kill -s "$0" -- "-$1""#, signal.name(), &pid.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// What tells this process from a later one with the same number: when it was started. `None` when it is gone.
pub fn identity(pid: u32) -> Option<String> {
    if Path::new("/proc/self/stat").exists() {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may hold anything; the fields after it do not.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let (state, started) = (fields.first()?, fields.get(19)?);
        (*state != "Z").then(|| format!("{}@{started}", boot.trim()))
    } else {
        let out = Command::new("ps")
            .args(["-o", "stat=,lstart=", "-p", &pid.to_string()])
            .output()
            .ok()?;
        let text = String::from_utf8_lossy(&out.stdout);
        let mut words = text.split_whitespace();
        let alive = words.next().is_some_and(|state| !state.starts_with('Z'));
        alive.then(|| words.collect::<Vec<_>>().join("_"))
    }
}

/// Is there a process of this number whose command line names `needle`?
pub fn is_running(pid: u32, needle: &str) -> bool {
    let command = match fs::read(format!("/proc/{pid}/cmdline")) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).replace('\0', " "),
        Err(_) => Command::new("ps")
            .args(["-o", "command=", "-p", &pid.to_string()])
            .output()
            .map(|out| String::from_utf8_lossy(&out.stdout).into_owned())
            .unwrap_or_default(),
    };
    command.contains(needle)
}

#[derive(Clone, Debug)]
struct Entry {
    pid: u32,
    signal: Signal,
    identity: String,
    name: String,
}

impl Entry {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        Some(Self {
            pid: words.next()?.parse().ok()?,
            signal: Signal::parse(words.next()?)?,
            identity: words.next()?.to_owned(),
            name: words.next()?.to_owned(),
        })
    }
}

struct State {
    entries: Vec<Entry>,
    watchdog: Child,
    pipe: Option<ChildStdin>,
}

/// The register and the watchdog of one instance. Clones share both.
#[derive(Clone)]
pub struct Supervisor {
    file: PathBuf,
    state: Arc<Mutex<State>>,
}

impl Supervisor {
    /// Stops what an earlier owner of this register left running, then starts the watchdog.
    pub fn start(file: PathBuf) -> Result<Self> {
        sweep(&file)?;
        let mut watchdog = Command::new("sh")
            .args(["-c", WATCHDOG])
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("starting the watchdog")?;
        let pipe = watchdog.stdin.take();
        let state = State {
            entries: Vec::new(),
            watchdog,
            pipe,
        };
        Ok(Self {
            file,
            state: Arc::new(Mutex::new(state)),
        })
    }

    /// Starts a process of our own: its own process group (the terminal's Ctrl-C is for us, we stop it in order), no
    /// standard input.
    pub fn spawn(&self, name: &str, signal: Signal, command: &mut Command) -> Result<Process> {
        let child = command
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {name} ({})", command.get_program().to_string_lossy()))?;
        let pid = child.id();
        self.change(|state| {
            let identity = identity(pid).unwrap_or_else(|| "gone".to_owned());
            state.entries.push(Entry {
                pid,
                signal,
                identity,
                name: name.to_owned(),
            });
            tell(state, &format!("add {pid} {}", signal.name()));
        })?;
        Ok(Process {
            name: name.to_owned(),
            signal,
            child,
            supervisor: self.clone(),
            stands_still: false,
            stopped: false,
        })
    }

    /// Has the watchdog remove this folder should we end without doing it ourselves.
    pub fn remove_at_exit(&self, path: &Path) -> Result<()> {
        self.change(|state| tell(state, &format!("rm {}", path.display())))
    }

    fn forget(&self, pid: u32) -> Result<()> {
        self.change(|state| {
            state.entries.retain(|entry| entry.pid != pid);
            tell(state, &format!("del {pid}"));
        })
    }

    fn change(&self, apply: impl FnOnce(&mut State)) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        apply(&mut state);
        let lines: String = state
            .entries
            .iter()
            .map(|entry| {
                format!(
                    "{} {} {} {}\n",
                    entry.pid,
                    entry.signal.name(),
                    entry.identity,
                    entry.name
                )
            })
            .collect();
        match fs::write(&self.file, lines) {
            // A scratch instance removes its folder before its last process is forgotten.
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("writing {}", self.file.display()))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        // With the pipe closed the watchdog does what is left of its list, which is nothing after an orderly stop.
        drop(self.pipe.take());
        let _ = self.watchdog.wait();
    }
}

fn tell(state: &mut State, line: &str) {
    if let Some(pipe) = &mut state.pipe {
        // A dead watchdog is no reason to stop: the register does its work at the next start.
        let _ = writeln!(pipe, "{line}").and_then(|()| pipe.flush());
    }
}

/// Stops every process in the register that is still the one that was written down, the newest first.
pub fn sweep(file: &Path) -> Result<()> {
    let text = match fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.with_context(|| format!("reading {}", file.display()))?,
    };
    for entry in text.lines().rev().filter_map(Entry::parse) {
        let same = || identity(entry.pid).is_some_and(|now| now == entry.identity);
        if same() {
            eprintln!(
                "stopping {} (pid {}), left over from an earlier run",
                entry.name, entry.pid
            );
            send(entry.pid, entry.signal);
            if !wait_until(STOP_LIMIT, || !same()) {
                send(entry.pid, Signal::Kill);
                wait_until(Duration::from_secs(5), || !same());
            }
        }
    }
    fs::remove_file(file).with_context(|| format!("removing {}", file.display()))
}

/// Polls until `done` or the limit; tells whether it was done.
pub fn wait_until(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// A process started by a [`Supervisor`]; dropping it stops it.
pub struct Process {
    name: String,
    signal: Signal,
    child: Child,
    supervisor: Supervisor,
    stands_still: bool,
    stopped: bool,
}

impl Process {
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn child_mut(&mut self) -> &mut Child {
        &mut self.child
    }

    /// How it ended, if it has.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .with_context(|| format!("waiting for {}", self.name))
    }

    /// Sends it a signal, with whatever it started; `false` when it is gone.
    pub fn signal(&mut self, signal: Signal) -> bool {
        match signal {
            Signal::Stop => self.stands_still = true,
            Signal::Cont => self.stands_still = false,
            Signal::Term | Signal::Int | Signal::Quit | Signal::Kill => {}
        }
        send(self.pid(), signal)
    }

    /// Ends it without a chance to do anything about it.
    pub fn kill(&mut self) -> Result<()> {
        if !std::mem::replace(&mut self.stopped, true) {
            send(self.pid(), Signal::Kill);
            self.child
                .wait()
                .with_context(|| format!("waiting for {}", self.name))?;
            self.supervisor.forget(self.child.id())?;
        }
        Ok(())
    }

    /// Asks it to stop, waits, kills it if it does not. Blocks.
    pub fn stop(&mut self) -> Result<()> {
        self.stop_by(self.signal)
    }

    /// The same, asking by another signal than the usual one.
    pub fn stop_by(&mut self, signal: Signal) -> Result<()> {
        if std::mem::replace(&mut self.stopped, true) {
            return Ok(());
        }
        if self.exited()?.is_none() {
            send(self.pid(), signal);
            if self.stands_still {
                send(self.pid(), Signal::Cont);
            }
            if !wait_until(STOP_LIMIT, || !matches!(self.child.try_wait(), Ok(None))) {
                eprintln!("{} did not stop in {} s: killed", self.name, STOP_LIMIT.as_secs());
                send(self.pid(), Signal::Kill);
                self.child
                    .wait()
                    .with_context(|| format!("waiting for {}", self.name))?;
            }
        }
        self.supervisor.forget(self.child.id())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("stopping {}: {error:#}", self.name);
        }
    }
}

/// Opens a log for appending; what stood there before is kept once as `.log.1`.
pub fn open_log(path: &Path) -> Result<File> {
    if path.exists() {
        let _ = fs::rename(path, path.with_extension("log.1"));
    }
    File::options()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("opening {}", path.display()))
}

/// The last lines of a log, for a message about a process that died.
pub fn log_tail(path: &Path, lines: usize) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> PathBuf {
        let folder = std::env::temp_dir().join(format!("roost-process-{}", crate::services::random_hex()));
        fs::create_dir(&folder).unwrap();
        folder
    }

    #[test]
    fn what_a_killed_run_left_behind_is_stopped_by_the_next_one() {
        let folder = folder();
        let file = folder.join("pids");
        let first = Supervisor::start(file.clone()).unwrap();
        let mut process = first
            .spawn("sleeper", Signal::Term, Command::new("sleep").arg("1000"))
            .unwrap();
        assert!(process.exited().unwrap().is_none());
        sweep(&file).unwrap();
        assert!(wait_until(Duration::from_secs(5), || process
            .exited()
            .unwrap()
            .is_some()));
        drop(process);
        drop(first);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_register_entry_whose_number_is_another_process_now_is_left_alone() {
        let folder = folder();
        let file = folder.join("pids");
        let mut bystander = Command::new("sleep").arg("1000").spawn().unwrap();
        fs::write(&file, format!("{} TERM another-start sleeper\n", bystander.id())).unwrap();
        sweep(&file).unwrap();
        assert!(bystander.try_wait().unwrap().is_none());
        bystander.kill().unwrap();
        bystander.wait().unwrap();
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn the_watchdog_stops_what_its_owner_could_not_and_removes_the_folder() {
        let folder = folder();
        let mut orphan = Command::new("sleep").arg("1000").process_group(0).spawn().unwrap();
        let supervisor = Supervisor::start(folder.join("pids")).unwrap();
        supervisor.remove_at_exit(&folder).unwrap();
        supervisor
            .change(|state| tell(state, &format!("add {} TERM", orphan.id())))
            .unwrap();
        // Reaped at once, as init does with orphans: a group that only a zombie is left of still takes signals.
        let reaper = thread::spawn(move || orphan.wait());
        drop(supervisor); // closes the pipe, as the end of the process does
        assert!(!reaper.join().unwrap().unwrap().success());
        assert!(!folder.exists());
    }
}
