//! A market to measure in, made by a few set-based statements.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use roost_shared::{db::MIGRATOR, users::Passwords};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use uuid::Uuid;

/// Every account's password.
pub const PASSWORD: &str = "correct horse battery staple";

/// Its size, and how its ids are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// There are five bookings a property, and a user a property.
    pub properties: u64,
}

impl Dataset {
    /// The users from 1 to this one are hosts, the others guests.
    pub fn hosts(self) -> u64 {
        self.properties / 5
    }

    pub fn property(self, number: u64) -> Uuid {
        id(0x9000, 1 + number % self.properties)
    }

    pub fn booking(self, number: u64) -> Uuid {
        id(0xa000, 1 + number % (self.properties * 5))
    }

    /// The one of the booking of this number.
    pub fn payment(self, number: u64) -> Uuid {
        id(0xb000, 1 + number % (self.properties * 5))
    }

    pub fn guest(self, number: u64) -> Uuid {
        id(0x8000, self.guest_number(number))
    }

    pub fn guest_email(self, number: u64) -> String {
        format!("user{}@roost.example", self.guest_number(number))
    }

    fn guest_number(self, number: u64) -> u64 {
        self.hosts() + 1 + number % (self.properties - self.hosts())
    }

    /// Migrates an empty database, fills it and gathers statistics. Returns the seconds that the filling took.
    pub async fn make(self, database_url: &str) -> Result<f64> {
        let mut connection = PgConnection::connect(database_url)
            .await
            .context("connecting to make the data set")?;
        MIGRATOR.run(&mut connection).await?;
        let began = Instant::now();
        let hash = Passwords::new()?.hash(PASSWORD.to_owned()).await?;
        let script = include_str!("dataset.sql")
            .replace("{password_hash}", &hash)
            .replace("{hosts}", &self.hosts().to_string())
            .replace("{properties}", &self.properties.to_string());
        connection
            .execute(AssertSqlSafe(script))
            .await
            .context("filling the data set")?;
        let seconds = began.elapsed().as_secs_f64();
        let (properties, bookings, payments): (i64, i64, i64) = sqlx::query_as(
            "SELECT (SELECT count(*) FROM properties), (SELECT count(*) FROM bookings), (SELECT count(*) FROM payments)",
        )
        .fetch_one(&mut connection)
        .await?;
        let made = (
            properties.cast_unsigned(),
            bookings.cast_unsigned(),
            payments.cast_unsigned(),
        );
        ensure!(
            made == (self.properties, 5 * self.properties, 5 * self.properties),
            "the data set is not whole: {made:?}"
        );
        connection.execute("VACUUM ANALYZE").await?;
        connection.execute("CHECKPOINT").await?;
        connection.close().await?;
        Ok(seconds)
    }
}

fn id(kind: u128, number: u64) -> Uuid {
    Uuid::from_u128(0x0190_0000_0000_7000_0000_0000_0000_0000 | kind << 48 | u128::from(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_the_script() {
        let dataset = Dataset { properties: 100_000 };
        assert_eq!(
            dataset.property(35_560).to_string(),
            "01900000-0000-7000-9000-000000008ae9"
        );
        assert_eq!(dataset.guest(0).to_string(), "01900000-0000-7000-8000-000000004e21");
        assert_eq!(dataset.guest_email(80_000), "user20001@roost.example");
    }
}
