//! Secrets of a private run, made once and kept beside its data, so that tokens stay good over a restart.

use std::{fs, path::Path};

use anyhow::Result;

use crate::services::{random_hex, write_private};

pub struct Secrets {
    pub jwt: String,
    pub stripe_webhook: String,
}

impl Secrets {
    /// Reads the file of mode 600, making it when it is missing or incomplete.
    pub fn load(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).unwrap_or_default();
        let find = |key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
                .map(str::to_owned)
        };
        if let (Some(jwt), Some(stripe_webhook)) = (find("JWT_SECRET"), find("STRIPE_WEBHOOK_SECRET")) {
            return Ok(Self { jwt, stripe_webhook });
        }
        let made = Self {
            jwt: format!("{}{}", random_hex(), random_hex()),
            stripe_webhook: format!("whsec_{}{}", random_hex(), random_hex()),
        };
        write_private(
            path,
            &format!(
                "JWT_SECRET={}\nSTRIPE_WEBHOOK_SECRET={}\n",
                made.jwt, made.stripe_webhook
            ),
        )?;
        Ok(made)
    }
}
