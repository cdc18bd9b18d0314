//! The operator of the demo data, who may do everything at the job dashboard.

use anyhow::{Context, Result};
use roost_shared::{clock::Clock, ids, users::Passwords};
use sqlx::{Connection, PgConnection};

use super::DemoLogin;

const EMAIL: &str = "oona.nightjar@example.com";
const PASSWORD: &str = "watch-over-the-roost";

/// Makes the operator unless there is one of that address.
pub async fn demo_operator(database_url: &str) -> Result<DemoLogin> {
    let mut connection = PgConnection::connect(database_url)
        .await
        .context("connecting to make the demo operator")?;
    let there: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM operators WHERE email = $1)")
        .bind(EMAIL)
        .fetch_one(&mut connection)
        .await?;
    if !there {
        let now = Clock::default().now();
        let password_hash = Passwords::new()?.hash(PASSWORD.to_owned()).await?;
        sqlx::query(
            "INSERT INTO operators (id, email, role, password_hash, created_at) VALUES ($1, $2, 'admin', $3, $4)
             ON CONFLICT (email) DO NOTHING",
        )
        .bind(ids::new(now))
        .bind(EMAIL)
        .bind(password_hash)
        .bind(now)
        .execute(&mut connection)
        .await?;
    }
    connection.close().await?;
    Ok(DemoLogin {
        role: "operator".to_owned(),
        email: EMAIL.to_owned(),
        password: PASSWORD.to_owned(),
    })
}
