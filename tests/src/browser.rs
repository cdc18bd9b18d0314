//! A real browser: Chromium, driven over the WebDriver protocol by a chromedriver of our own.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a step that fails ends the test that took it"
)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::services::{free_port, workspace_root};

/// What is waited for usually comes within milliseconds; a loaded machine takes longer.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a browser that is left behind may take to end.
const ENDING: Duration = Duration::from_secs(5);
/// The name of an element in WebDriver's JSON.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A window of a browser. When it is dropped, the browser is gone.
pub struct Browser {
    session: String,
    http: reqwest::Client,
    driver: Child,
    /// Where the driver listens, and the session's path there: what a step that failed has to end.
    open: Option<(u16, String)>,
    /// What the browser and its driver keep while they run; they leave it behind.
    files: PathBuf,
}

const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
const DRIVER: &str = "chromedriver";

/// The first of these on PATH that runs. Ubuntu's are scripts, which fail as long as the snap behind them is missing.
fn program(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .flat_map(|folder| names.iter().map(move |name| folder.join(name)))
        .find(|file| file.is_file() && runs(file))
}

fn runs(file: &Path) -> bool {
    let version = std::process::Command::new(file)
        .arg("--version")
        .stdin(Stdio::null())
        .output();
    version.is_ok_and(|out| out.status.success())
}

/// The browser and its driver, looked for once.
fn programs() -> &'static (Option<PathBuf>, Option<PathBuf>) {
    static FOUND: OnceLock<(Option<PathBuf>, Option<PathBuf>)> = OnceLock::new();
    FOUND.get_or_init(|| (program(&BROWSERS), program(&[DRIVER])))
}

/// What this machine lacks to open one. The harness keeps a passing test's output to itself, so `make test` says it.
pub fn missing() -> Option<&'static str> {
    match programs() {
        (Some(_), Some(_)) => None,
        (Some(_), None) => Some("no chromedriver that runs is on PATH"),
        (None, Some(_)) => Some("no Chromium or Chrome that runs is on PATH"),
        (None, None) => Some("no Chromium or Chrome that runs is on PATH, nor a chromedriver"),
    }
}

impl Browser {
    /// Opens one; none where Chromium or its driver is not installed. With `CI=true` that is a failure.
    pub async fn open() -> Option<Self> {
        let (Some(chromium), Some(driver)) = programs() else {
            let here = missing().unwrap_or_default();
            assert!(std::env::var("CI").as_deref() != Ok("true"), "CI=true, and {here}");
            return None;
        };
        let port = free_port(None).unwrap();
        // Chromium makes a socket in it, whose path has to be short.
        let files = std::env::temp_dir().join(format!("roost-browser-{port}"));
        std::fs::create_dir_all(&files).unwrap();
        let mut child = Command::new(driver)
            .arg(format!("--port={port}"))
            .env("TMPDIR", &files)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let base = format!("http://127.0.0.1:{port}");
        let ready = async {
            while http.get(format!("{base}/status")).send().await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, ready).await.is_err() {
            child.start_kill().unwrap();
            panic!("chromedriver does not answer");
        }
        let wanted = json!({"capabilities": {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": {
            "binary": chromium,
            // In a container there is often no sandbox to be had and little shared memory.
            "args": ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars", "--window-size=1280,900", "--lang=en-GB"],
        }}}});
        let reply = http.post(format!("{base}/session")).json(&wanted).send().await.unwrap();
        let opened: Value = reply.json().await.unwrap();
        let id = opened["value"]["sessionId"]
            .as_str()
            .unwrap_or_else(|| panic!("no browser: {opened}"));
        Some(Self {
            session: format!("{base}/session/{id}"),
            http,
            driver: child,
            open: Some((port, format!("/session/{id}"))),
            files,
        })
    }

    async fn answer(&self, path: &str, body: &Value) -> Value {
        let reply = self.http.post(format!("{}{path}", self.session)).json(body).send();
        reply.await.unwrap().json().await.unwrap()
    }

    async fn command(&self, path: &str, body: Value) -> Value {
        let answer = self.answer(path, &body).await;
        assert!(answer["value"]["error"].is_null(), "{path} {body}: {answer}");
        answer["value"].clone()
    }

    /// Goes to a page and waits until it is loaded.
    pub async fn goto(&self, url: &str) {
        self.command("/url", json!({ "url": url })).await;
    }

    /// Where it is.
    pub async fn url(&self) -> String {
        self.script("return location.href").await.as_str().unwrap().to_owned()
    }

    /// The result of a script's body.
    pub async fn script(&self, body: &str) -> Value {
        self.command("/execute/sync", json!({"script": body, "args": []})).await
    }

    async fn element(&self, css: &str) -> String {
        let found = self
            .command("/element", json!({"using": "css selector", "value": css}))
            .await;
        found[ELEMENT].as_str().unwrap().to_owned()
    }

    /// Does this to an element. A page that keeps itself fresh may have put another in its place meanwhile.
    async fn to_element(&self, css: &str, verb: &str, body: Value) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let element = self.element(css).await;
            let answer = self.answer(&format!("/element/{element}/{verb}"), &body).await;
            let error = &answer["value"]["error"];
            if error.is_null() {
                return;
            }
            let gone = error == "stale element reference" && tokio::time::Instant::now() < deadline;
            assert!(gone, "{verb} {css} {body}: {answer}");
        }
    }

    /// Clicks as a person does: what is hidden or covered cannot be clicked.
    pub async fn click(&self, css: &str) {
        self.to_element(css, "click", json!({})).await;
    }

    /// Types into a field.
    pub async fn fill(&self, css: &str, text: &str) {
        self.to_element(css, "value", json!({ "text": text })).await;
    }

    /// Types into a field in place of what it says.
    pub async fn replace(&self, css: &str, text: &str) {
        self.to_element(css, "clear", json!({})).await;
        if !text.is_empty() {
            self.fill(css, text).await;
        }
    }

    /// Presses keys wherever the focus is.
    pub async fn press(&self, keys: &str) {
        let actions: Vec<Value> = keys
            .chars()
            .flat_map(|key| {
                [
                    json!({"type": "keyDown", "value": key}),
                    json!({"type": "keyUp", "value": key}),
                ]
            })
            .collect();
        let keyboard = json!({"actions": [{"type": "key", "id": "keyboard", "actions": actions}]});
        self.command("/actions", keyboard).await;
    }

    /// Moves the pointer to so many pixels right of an element's middle, and leaves it there.
    pub async fn rest_on(&self, css: &str, right: i64) {
        let at = json!({ELEMENT: self.element(css).await});
        let moves = json!([{"type": "pointerMove", "duration": 0, "origin": at, "x": right, "y": 0}]);
        let pointer = json!({"actions": [{"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": moves}]});
        self.command("/actions", pointer).await;
    }

    /// Whether the page has it now.
    pub async fn has(&self, css: &str) -> bool {
        let found = self
            .command("/elements", json!({"using": "css selector", "value": css}))
            .await;
        !found.as_array().unwrap().is_empty()
    }

    /// The text that a person sees.
    pub async fn text(&self) -> String {
        let text = self.script("return document.body.innerText").await;
        text.as_str().unwrap().to_owned()
    }

    /// Waits until the page says this.
    pub async fn sees(&self, text: &str) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let page = self.text().await;
            if page.contains(text) {
                return;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "{text:?} does not come up in:\n{page}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until the page says this no more.
    pub async fn sees_no_more(&self, text: &str) {
        self.until(&format!("return !document.body.innerText.includes({})", json!(text)))
            .await;
    }

    /// Waits until a script's body returns true.
    pub async fn until(&self, body: &str) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while self.script(body).await != json!(true) {
            if tokio::time::Instant::now() >= deadline {
                panic!("{body} stays false in:\n{}", self.text().await);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn devtools(&self, command: &str, params: Value) -> Value {
        let body = json!({"cmd": command, "params": params});
        self.command("/goog/cdp/execute", body).await
    }

    /// Prefers `light` or `dark` from now on.
    pub async fn prefer(&self, scheme: &str) {
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.devtools("Emulation.setEmulatedMedia", features).await;
    }

    /// Lives in this time zone from now on.
    pub async fn zone(&self, name: &str) {
        self.devtools("Emulation.setTimezoneOverride", json!({ "timezoneId": name }))
            .await;
    }

    /// A window of this width from now on; a narrow one is a telephone's.
    pub async fn width(&self, width: u32) {
        let metrics = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600});
        self.devtools("Emulation.setDeviceMetricsOverride", metrics).await;
    }

    /// Writes a picture of the whole page to `target/screenshots/`.
    pub async fn picture(&self, name: &str) {
        let folder = screenshots();
        std::fs::create_dir_all(&folder).unwrap();
        let shot = json!({"format": "png", "captureBeyondViewport": true});
        let shot = self.devtools("Page.captureScreenshot", shot).await;
        let bytes = STANDARD.decode(shot["data"].as_str().unwrap()).unwrap();
        std::fs::write(folder.join(format!("{name}.png")), bytes).unwrap();
    }

    /// What axe finds wrong with the page, a line a rule; and that nothing is wider than the window. On a telephone no
    /// table has to be moved aside to be read.
    pub async fn faults(&self, axe: &str) -> Vec<String> {
        self.script(&format!("{axe}; return true")).await;
        let body = json!({"script": "const done = arguments[arguments.length - 1];
            axe.run(document, {resultTypes: ['violations']}).then((found) => done(found.violations.map((rule) =>
                `${rule.id}: ${rule.help}: ${rule.nodes.map((node) => node.html + ' ' + (node.any[0]?.message ?? '')).join(' | ')}`)));", "args": []});
        let found = self.command("/execute/async", body).await;
        let mut faults: Vec<String> = found
            .as_array()
            .unwrap()
            .iter()
            .map(|fault| fault.as_str().unwrap().to_owned())
            .collect();
        let wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth";
        let over = self.script(wide).await.as_i64().unwrap();
        if over > 0 {
            faults.push(format!("the page is {over} px wider than the window"));
        }
        let aside = "return innerWidth > 560 ? [] : [...document.querySelectorAll('.scroll')].filter((one) => one.scrollWidth > one.clientWidth)
            .map((one) => `${one.getAttribute('aria-label')} is ${one.scrollWidth - one.clientWidth} px wider than its place`)";
        let aside: Vec<String> = serde_json::from_value(self.script(aside).await).unwrap();
        faults.extend(aside);
        faults
    }

    /// Closes the window and the browser.
    pub async fn close(mut self) {
        self.http.delete(&self.session).send().await.unwrap();
        self.open = None;
        self.driver.kill().await.unwrap();
        // A process that is just ending may still write.
        let gone = async {
            while std::fs::remove_dir_all(&self.files).is_err() && self.files.exists() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, gone).await.unwrap();
    }
}

impl Drop for Browser {
    /// A driver that is killed leaves its browser running: the session is ended first.
    fn drop(&mut self) {
        if let Some((port, session)) = self.open.take() {
            let _ = end_session(port, &session);
            let _ = std::fs::remove_dir_all(&self.files);
        }
    }
}

/// Without the runtime, which may be ending.
fn end_session(port: u16, path: &str) -> std::io::Result<()> {
    let mut driver = TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), ENDING)?;
    driver.set_read_timeout(Some(ENDING))?;
    write!(driver, "DELETE {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n")?;
    // The reply comes when the browser is gone.
    driver.read(&mut [0; 64]).map(drop)
}

fn screenshots() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || workspace_root().unwrap().join("target"),
        |folder| Path::new(&folder).to_owned(),
    );
    target.join("screenshots")
}
