//! The limit that Postgres sets: the same statements, sent by pgbench over the same loopback.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::services::workspace_root;

/// pgbench against one database.
#[derive(Clone, Debug)]
pub struct Pgbench {
    program: PathBuf,
    url: reqwest::Url,
    scripts: PathBuf,
}

/// What a run did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    pub per_second: f64,
    pub transactions: u64,
}

impl Pgbench {
    /// Finds the program beside the servers.
    pub fn find(database_url: &str, scripts: &Path) -> Result<Self> {
        let out = Command::new("sh")
            .arg(workspace_root()?.join(".config/provision"))
            .arg("--find")
            .output()
            .context("running .config/provision")?;
        let text = String::from_utf8(out.stdout)?;
        let bins = text
            .lines()
            .find_map(|line| line.strip_prefix("POSTGRES_BINS="))
            .unwrap_or_default();
        let program = bins
            .split(':')
            .map(|bin| Path::new(bin).join("pgbench"))
            .find(|program| program.is_file());
        Ok(Self {
            program: program.context(
                "no pgbench beside the PostgreSQL server: it is in the server's package, or in postgresql-contrib",
            )?,
            url: database_url.parse().context("DATABASE_URL is not a URL")?,
            scripts: scripts.to_owned(),
        })
    }

    /// Repeats `script` on `clients` connections for a while. A transaction that fails is an error.
    pub async fn run(
        &self,
        name: &str,
        script: &str,
        variables: &[(&str, String)],
        clients: usize,
        duration: Duration,
    ) -> Result<Rate> {
        let file = self.scripts.join(format!("{name}.sql"));
        std::fs::write(&file, script).with_context(|| format!("writing {}", file.display()))?;
        let mut command = Command::new(&self.program);
        command
            .args(["--no-vacuum", "--protocol=prepared"])
            .arg(format!("--client={clients}"))
            .arg(format!("--jobs={}", clients.min(2)))
            .arg(format!("--time={}", duration.as_secs().max(1)))
            .arg(format!("--file={}", file.display()));
        for (variable, value) in variables {
            command.arg(format!("--define={variable}={value}"));
        }
        // In the environment, not on the command line that everybody can read.
        command
            .env("PGHOST", self.url.host_str().unwrap_or("127.0.0.1"))
            .env("PGPORT", self.url.port().unwrap_or(5432).to_string())
            .env("PGUSER", self.url.username())
            .env("PGPASSWORD", self.url.password().unwrap_or_default())
            .env("PGDATABASE", self.url.path().trim_start_matches('/'))
            .stdin(Stdio::null());
        let out = tokio::task::spawn_blocking(move || command.output())
            .await?
            .context("running pgbench")?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        ensure!(
            out.status.success(),
            "pgbench failed on {}:\n{text}{}",
            file.display(),
            String::from_utf8_lossy(&out.stderr)
        );
        read(&text).with_context(|| format!("pgbench said:\n{text}"))
    }
}

fn read(text: &str) -> Result<Rate> {
    let after = |label: &str| text.lines().find_map(|line| line.strip_prefix(label)).map(str::trim);
    let first = |value: &str| value.split([' ', '/']).next().unwrap_or_default().to_owned();
    let failed = after("number of failed transactions:")
        .map(first)
        .unwrap_or_else(|| "0".to_owned());
    ensure!(failed == "0", "{failed} transactions failed");
    Ok(Rate {
        per_second: after("tps =").map(first).context("no tps")?.parse()?,
        transactions: after("number of transactions actually processed:")
            .map(first)
            .context("no count")?
            .parse()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_read() {
        let text = "number of transactions actually processed: 1234\nnumber of failed transactions: 0 (0.000%)\n\
                    latency average = 1.2 ms\ntps = 411.250000 (without initial connection time)\n";
        let rate = Rate {
            per_second: 411.25,
            transactions: 1234,
        };
        assert_eq!(read(text).unwrap(), rate);
        assert!(read(&text.replace(": 0 (", ": 3 (")).is_err());
    }
}
