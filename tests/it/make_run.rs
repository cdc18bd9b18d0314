//! What `make run`, `make demo` and `make reset` promise, kept by the real programs in a clone of their own.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use roost_tests::app::PASSWORD;
use roost_tests::services::process::{Signal, identity, send};
use roost_tests::services::{free_port, workspace_root};
use roost_tests::world::World;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::programs::built;

/// Servers, migrations, demo data and a booking take seconds; a loaded machine takes longer.
const PATIENCE: Duration = Duration::from_secs(150);
/// What a start may take when everything is there already: seconds, and a loaded machine takes longer.
const SECOND_START: Duration = Duration::from_secs(60);
/// The usual ports of the API, its metrics, the dashboard, the worker's metrics, the mailbox and the Stripe sandbox.
const USUAL: [u16; 6] = [8080, 9090, 9092, 9091, 8025, 12111];
/// The stories want the usual ports.
static PORTS: Mutex<()> = Mutex::const_new(());

/// A folder that the development commands take for a clone. Whatever they left in it goes with it.
struct Checkout(PathBuf);

impl Checkout {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("roost-clone-{}", Uuid::new_v4()));
        fs::create_dir_all(path.join(".config")).unwrap();
        let provision = workspace_root().unwrap().join(".config/provision");
        fs::copy(provision, path.join(".config/provision")).unwrap();
        Self(path)
    }

    fn roost(&self, name: &str) -> PathBuf {
        self.0.join(".roost").join(name)
    }

    fn command(&self, verb: &str, settings: &[(&str, &str)]) -> Command {
        let mut command = Command::new(built("roost-dev"));
        command.arg(verb).current_dir(&self.0).env_clear();
        for kept in ["PATH", "HOME"] {
            command.envs(std::env::var_os(kept).map(|value| (kept, value)));
        }
        command.envs(settings.iter().copied()).stdin(Stdio::null());
        command
    }

    /// Runs a command to its end: whether it succeeded, and what it printed.
    async fn runs(&self, verb: &str, settings: &[(&str, &str)]) -> (bool, String) {
        let mut command = self.command(verb, settings);
        command.kill_on_drop(true);
        let out = tokio::time::timeout(PATIENCE, command.output()).await.unwrap().unwrap();
        let text = [out.stdout, out.stderr].concat();
        (out.status.success(), String::from_utf8(text).unwrap())
    }

    /// Starts `run` as a shell does, in a process group of its own, and waits until it is up.
    async fn is_up(&self, settings: &[(&str, &str)]) -> Run {
        let log = self.0.join("run.log");
        let out = File::create(&log).unwrap();
        let mut command = self.command("run", settings);
        command.stdout(out.try_clone().unwrap()).stderr(out).process_group(0);
        let mut child = command.kill_on_drop(true).spawn().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while !fs::read_to_string(&log).unwrap().contains("Ctrl-C stops it.") {
            let gone = child.try_wait().unwrap().is_some();
            assert!(
                !gone && Instant::now() < deadline,
                "not up:\n{}",
                fs::read_to_string(&log).unwrap()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Run {
            env: read_env(&self.roost("env")),
            child,
            log,
        }
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        // Also what a story that failed left running, and files in a place outside the folder.
        let _ = std::process::Command::new(built("roost-dev"))
            .arg("reset")
            .current_dir(&self.0)
            .status();
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// `KEY=VALUE` as a shell reads them.
fn read_env(path: &Path) -> HashMap<String, String> {
    let out = std::process::Command::new("sh")
        .args(["-c", r#"set -a; . "$0"; exec env"#])
        .arg(path)
        .env_clear()
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
    let text = String::from_utf8(out.stdout).unwrap();
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .filter(|(key, _)| !["PWD", "SHLVL", "_", "OLDPWD"].contains(&key.as_str()))
        .collect()
}

/// A `make run` that is up.
struct Run {
    child: Child,
    log: PathBuf,
    env: HashMap<String, String>,
}

impl Run {
    fn says(&self, what: &str) {
        let text = fs::read_to_string(&self.log).unwrap();
        assert!(text.contains(what), "{what:?} in:\n{text}");
    }

    fn value(&self, key: &str) -> &str {
        self.env
            .get(key)
            .unwrap_or_else(|| panic!("{key} among {:?}", self.env.keys()))
    }

    async fn status(&self, key: &str, path: &str) -> StatusCode {
        reqwest::get(format!("{}{path}", self.value(key)))
            .await
            .unwrap()
            .status()
    }

    async fn post(&self, key: &str, path: &str, body: Value) -> StatusCode {
        let request = reqwest::Client::new().post(format!("{}{path}", self.value(key)));
        request.json(&body).send().await.unwrap().status()
    }

    async fn counts(&self, what: &str) -> i64 {
        let mut connection = PgConnection::connect(self.value("DATABASE_URL")).await.unwrap();
        let sql = match what {
            "properties" => "SELECT count(*) FROM properties",
            "cities" => "SELECT count(DISTINCT city) FROM properties",
            "hosts" => "SELECT count(DISTINCT host_id) FROM properties",
            "users" => "SELECT count(*) FROM users",
            other => panic!("what are {other}?"),
        };
        sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap()
    }

    /// All that it started, at any remove, by number and by when it began.
    fn processes(&self) -> Vec<(u32, String)> {
        let parents = parents();
        let mut found = vec![self.child.id().unwrap()];
        let mut at = 0;
        while let Some(parent) = found.get(at).copied() {
            found.extend(
                parents
                    .iter()
                    .filter(|(_, above)| *above == parent)
                    .map(|(pid, _)| *pid),
            );
            at += 1;
        }
        let known = found.into_iter().filter_map(|pid| Some((pid, identity(pid)?)));
        known.collect()
    }

    async fn gets(&mut self, signal: Signal) -> ExitStatus {
        assert!(send(self.child.id().unwrap(), signal));
        tokio::time::timeout(PATIENCE, self.child.wait())
            .await
            .unwrap()
            .unwrap()
    }
}

/// Every process with its parent.
fn parents() -> Vec<(u32, u32)> {
    if !Path::new("/proc/self/stat").exists() {
        let out = std::process::Command::new("ps")
            .args(["-A", "-o", "pid=,ppid="])
            .output();
        let text = String::from_utf8(out.unwrap().stdout).unwrap();
        let pair = |line: &str| {
            let mut words = line.split_whitespace().map(|word| word.parse().ok());
            Some((words.next()??, words.next()??))
        };
        return text.lines().filter_map(pair).collect();
    }
    let parent = |pid: u32| -> Option<u32> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may hold anything.
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    let numbers = fs::read_dir("/proc").unwrap().flatten();
    let pids = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| Some((pid, parent(pid)?))).collect()
}

/// Fails unless all of these end.
async fn all_gone(processes: &[(u32, String)]) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let alive = |(pid, began): &&(u32, String)| identity(*pid).as_ref() == Some(began);
        let left: Vec<_> = processes.iter().filter(alive).collect();
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "still there: {left:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_keeps_its_data_until_it_is_reset() {
    let _alone = PORTS.lock().await;
    let clone = Checkout::new();

    // The first: everything is where `.roost/env` says, and works.
    let mut run = clone.is_up(&[]).await;
    run.says(" steps observed, ");
    let mode = fs::metadata(clone.roost("env")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    for (key, path) in [
        ("API_URL", "/readyz"),
        ("API_URL", "/docs"),
        ("METRICS_URL", ""),
        ("WORKER_METRICS_URL", ""),
        ("OPS_URL", ""),
        ("MAILBOX_URL", "/"),
        ("STRIPE_API_BASE", ""),
    ] {
        assert_eq!(run.status(key, path).await, 200, "{key}{path}");
    }
    let mut redis = redis::Client::open(run.value("REDIS_URL"))
        .and_then(|client| client.get_connection())
        .unwrap();
    assert!(redis::cmd("DBSIZE").query::<u64>(&mut redis).unwrap() > 0);
    assert!(run.counts("properties").await >= 200);
    assert!(run.counts("cities").await >= 10);
    assert!(run.counts("hosts").await >= 20);
    for (role, key, path) in [
        ("GUEST", "API_URL", "/auth/login"),
        ("HOST", "API_URL", "/auth/login"),
        ("OPERATOR", "OPS_URL", "/api/session"),
    ] {
        let login = json!({
            "email": run.value(&format!("DEMO_{role}_EMAIL")),
            "password": run.value(&format!("DEMO_{role}_PASSWORD")),
        });
        let signed_in = run.post(key, path, login).await;
        assert!(signed_in.is_success(), "{role}: {signed_in}");
    }
    let newcomer = json!({"email": "kept@example.com", "password": PASSWORD, "full_name": "Kay Kept", "role": "guest"});
    assert_eq!(run.post("API_URL", "/users/", newcomer).await, 201);
    let login = json!({"email": "kept@example.com", "password": PASSWORD});
    let properties = run.counts("properties").await;

    let (second, text) = clone.runs("run", &[]).await;
    assert!(!second && text.contains("another run of this clone is up"), "{text}");

    // Ctrl-C stops all of it: Postgres, Redis, mailbox, sandbox, API, worker and who watches over them.
    let processes = run.processes();
    assert!(processes.len() > 7, "{processes:?}");
    let api = run.value("API_URL").to_owned();
    assert!(run.gets(Signal::Int).await.success());
    run.says("Stopped everything");
    all_gone(&processes).await;
    assert!(reqwest::get(format!("{api}/healthz")).await.is_err());
    assert!(!clone.roost("env").exists());

    // The same data again; of the demo there is one more property.
    let (observed, text) = clone.runs("demo", &[]).await;
    assert!(observed && !text.contains("not observed"), "{text}");
    assert!(!clone.roost("env").exists());
    let begun = Instant::now();
    let mut run = clone.is_up(&[]).await;
    let took = begun.elapsed();
    assert!(took < SECOND_START, "the second start took {took:?}");
    assert_eq!(run.post("API_URL", "/auth/login", login).await, 200);
    assert_eq!(run.counts("properties").await, properties + 2);

    // Not even a run that is killed leaves anything behind, and what it kept is forgotten when that is wanted.
    let processes = run.processes();
    assert!(!run.gets(Signal::Kill).await.success());
    all_gone(&processes).await;
    let (forgotten, text) = clone.runs("reset", &[]).await;
    assert!(forgotten, "{text}");
    assert!(!clone.0.join(".roost").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_on_the_usual_ports_are_left_alone() {
    let _alone = PORTS.lock().await;
    let clone = Checkout::new();
    // Where one cannot be had, somebody else's server is what the run has to leave alone.
    let mut taken = Vec::new();
    for port in USUAL {
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)).await {
            taken.push(listener);
        }
    }

    let mut run = clone.is_up(&[]).await;
    for key in [
        "API_URL",
        "METRICS_URL",
        "OPS_URL",
        "WORKER_METRICS_URL",
        "MAILBOX_URL",
        "STRIPE_API_BASE",
    ] {
        let port = reqwest::Url::parse(run.value(key)).unwrap().port().unwrap();
        assert!(!USUAL.contains(&port), "{key} is at {port}, which somebody else has");
        assert!(!run.status(key, "").await.is_server_error(), "{key}");
    }
    assert_eq!(run.status("API_URL", "/readyz").await, 200);
    assert!(run.gets(Signal::Int).await.success());

    // They listen as before: whoever connects is theirs.
    for listener in taken {
        let address = listener.local_addr().unwrap();
        let accepted = async {
            let (client, _) = tokio::try_join!(TcpStream::connect(address), listener.accept()).unwrap();
            client.peer_addr().unwrap()
        };
        assert_eq!(tokio::time::timeout(PATIENCE, accepted).await.unwrap(), address);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_are_given_are_used_and_none_are_started_beside_them() {
    let _alone = PORTS.lock().await;
    let (clone, world) = (Checkout::new(), World::without_worker().await);
    let listen = format!("127.0.0.1:{}", free_port(None).unwrap());
    let secret = "whsec_given";
    world
        .stripe
        .set_webhook(format!("http://{listen}/webhooks/stripe"), secret);
    let smtp_url = world.mailbox.smtp_url();
    let given = [
        ("API_LISTEN", listen.as_str()),
        ("DATABASE_URL", world.database_url()),
        ("REDIS_URL", world.redis_url()),
        ("SMTP_URL", &smtp_url),
        ("STRIPE_SECRET_KEY", "sk_test_given"),
        ("STRIPE_API_BASE", world.stripe.base_url()),
        ("STRIPE_WEBHOOK_SECRET", secret),
    ];

    let mut run = clone.is_up(&given).await;
    run.says("goes out over the given SMTP_URL");
    run.says("the real one, with the given test key");
    assert_eq!(run.value("API_URL"), format!("http://{listen}"));
    assert_eq!(run.value("DATABASE_URL"), world.database_url());
    assert_eq!(run.value("REDIS_URL"), world.redis_url());
    for own in ["MAILBOX_URL", "STRIPE_API_BASE"] {
        assert!(!run.env.contains_key(own), "{own}");
    }
    let mut started: Vec<String> = fs::read_dir(clone.roost("log"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    started.sort();
    assert_eq!(started, ["api.log", "worker.log"]);
    for server in ["postgres", "redis"] {
        assert!(!clone.roost(server).exists() && !clone.roost(&format!("{server}.at")).exists());
    }
    // What was given has been migrated and filled, paid with and mailed through.
    assert!(run.counts("properties").await >= 200);
    assert!(world.stripe.record().iter().any(|payment| payment.captured > 0));
    let booked = world
        .mailbox
        .wait_for(|mail| mail.subject.starts_with("Booked: "), PATIENCE)
        .await;
    booked.unwrap();

    let processes = run.processes();
    assert!(run.gets(Signal::Term).await.success());
    run.says("the data stays in the database of DATABASE_URL");
    all_gone(&processes).await;
    assert!(world.counts("SELECT count(*) FROM properties").await >= 200);

    // Its mail is in somebody else's hands: not all of the demo can be seen.
    let (observed, text) = clone.runs("demo", &given).await;
    assert!(!observed && text.contains("steps could not be observed"), "{text}");
    assert!(text.contains("not observed: "), "{text}");

    let (begun, text) = clone.runs("run", &[("STRIPE_SECRET_KEY", "sk_live_given")]).await;
    assert!(!begun && text.contains("a live key"), "{text}");
}
