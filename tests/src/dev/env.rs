//! Where everything is while it runs, in memory and as `.roost/env` for scripts.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use crate::services::write_private;

/// An account of the demo data, password included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DemoLogin {
    /// `guest`, `host` or `operator`.
    pub role: String,
    pub email: String,
    pub password: String,
}

/// The addresses of a running Roost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunEnv {
    pub api_url: String,
    /// The job dashboard; none when `OPS_LISTEN` was `off`.
    pub ops_url: Option<String>,
    /// The API's Prometheus metrics.
    pub metrics_url: String,
    /// The worker's.
    pub worker_metrics_url: String,
    /// The mailbox that catches all mail; none when `SMTP_URL` was given.
    pub mailbox_url: Option<String>,
    /// The Stripe sandbox; none when `STRIPE_SECRET_KEY` was given.
    pub stripe_api_base: Option<String>,
    pub database_url: String,
    pub redis_url: String,
    pub logins: Vec<DemoLogin>,
}

impl RunEnv {
    /// `KEY=VALUE` lines; the first login of each role is `DEMO_GUEST_EMAIL`, `DEMO_GUEST_PASSWORD` and so on.
    fn lines(&self) -> Vec<(String, &str)> {
        let mut lines = vec![("API_URL".to_owned(), self.api_url.as_str())];
        if let Some(url) = &self.ops_url {
            lines.push(("OPS_URL".to_owned(), url));
        }
        lines.extend([
            ("METRICS_URL".to_owned(), self.metrics_url.as_str()),
            ("WORKER_METRICS_URL".to_owned(), self.worker_metrics_url.as_str()),
        ]);
        if let Some(url) = &self.mailbox_url {
            lines.push(("MAILBOX_URL".to_owned(), url));
        }
        if let Some(url) = &self.stripe_api_base {
            lines.push(("STRIPE_API_BASE".to_owned(), url));
        }
        lines.push(("DATABASE_URL".to_owned(), &self.database_url));
        lines.push(("REDIS_URL".to_owned(), &self.redis_url));
        for (at, login) in self.logins.iter().enumerate() {
            if self.logins[..at].iter().all(|earlier| earlier.role != login.role) {
                let role = login.role.to_uppercase();
                lines.push((format!("DEMO_{role}_EMAIL"), &login.email));
                lines.push((format!("DEMO_{role}_PASSWORD"), &login.password));
            }
        }
        lines
    }

    /// Writes the file for scripts, readable by its owner only.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text: String = self
            .lines()
            .iter()
            .map(|(key, value)| format!("{key}={}\n", quoted(value)))
            .collect();
        write_private(path, &text)
    }

    /// Reads what [`RunEnv::write`] wrote.
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(path).with_context(|| format!("reading {}: is `make run` up?", path.display()))?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self> {
        let find = |key: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            value.map(|value| value.trim_matches('\'').replace("'\\''", "'"))
        };
        let need = |key: &str| find(key).with_context(|| format!("{key} is missing"));
        let mut logins = Vec::new();
        for role in ["guest", "host", "operator"] {
            let upper = role.to_uppercase();
            let (email, password) = (
                find(&format!("DEMO_{upper}_EMAIL")),
                find(&format!("DEMO_{upper}_PASSWORD")),
            );
            if let (Some(email), Some(password)) = (email, password) {
                logins.push(DemoLogin {
                    role: role.to_owned(),
                    email,
                    password,
                });
            }
        }
        Ok(Self {
            api_url: need("API_URL")?,
            ops_url: find("OPS_URL"),
            metrics_url: need("METRICS_URL")?,
            worker_metrics_url: need("WORKER_METRICS_URL")?,
            mailbox_url: find("MAILBOX_URL"),
            stripe_api_base: find("STRIPE_API_BASE"),
            database_url: need("DATABASE_URL")?,
            redis_url: need("REDIS_URL")?,
            logins,
        })
    }
}

/// As a shell reads it back: bare when nothing in it is special.
fn quoted(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:@%+=,".contains(c);
    if value.chars().all(plain) {
        value.to_owned()
    } else {
        format!("'{}'", value.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_reads_back_whatever_the_urls_hold() {
        let login = |role: &str| DemoLogin {
            role: role.to_owned(),
            email: format!("{role}@example.com"),
            password: "it's a secret".to_owned(),
        };
        let env = RunEnv {
            api_url: "http://127.0.0.1:8080".to_owned(),
            ops_url: Some("http://127.0.0.1:9092/ops".to_owned()),
            metrics_url: "http://127.0.0.1:9090/metrics".to_owned(),
            worker_metrics_url: "http://127.0.0.1:9091/metrics".to_owned(),
            mailbox_url: None,
            stripe_api_base: Some("http://127.0.0.1:12111/".to_owned()),
            database_url: "postgres://roost:secret@db.example.com/roost?sslmode=require&application_name=x".to_owned(),
            redis_url: "redis://:secret@127.0.0.1:6379/0".to_owned(),
            logins: vec![login("guest"), login("host"), login("operator")],
        };
        let text: String = env
            .lines()
            .iter()
            .map(|(key, value)| format!("{key}={}\n", quoted(value)))
            .collect();
        assert!(text.contains("'postgres://"), "a shell would split it at the &");
        assert_eq!(RunEnv::parse(&text).unwrap(), env);
    }
}
