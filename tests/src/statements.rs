//! What Postgres ran in a test's database, as Postgres itself counts it.

#![allow(clippy::unwrap_used, reason = "a step that fails ends the test that took it")]

use crate::app::{Call, Reply, TestApp};

/// The counts of one database.
pub struct Statements<'a>(&'a TestApp);

impl<'a> Statements<'a> {
    /// Begins to count.
    pub async fn counted(app: &'a TestApp) -> Self {
        let loaded: String = sqlx::query_scalar("SHOW shared_preload_libraries")
            .fetch_one(app.state.db.pool())
            .await
            .unwrap();
        assert!(
            loaded.contains("pg_stat_statements"),
            "the server that DATABASE_URL names must load pg_stat_statements, as the private one does"
        );
        sqlx::query("CREATE EXTENSION pg_stat_statements")
            .execute(app.state.db.pool())
            .await
            .unwrap();
        Self(app)
    }

    /// What `call` ran, in no order, with `$n` for every constant; and what it answered.
    pub async fn of(&self, call: Call) -> (Vec<String>, Reply) {
        let pool = self.0.state.db.pool();
        sqlx::query("SELECT pg_stat_statements_reset(0, oid, 0) FROM pg_database WHERE datname = current_database()")
            .execute(pool)
            .await
            .unwrap();
        let reply = call.send().await;
        let counted: Vec<(String, i64)> = sqlx::query_as(
            "SELECT query, calls FROM pg_stat_statements JOIN pg_database ON pg_database.oid = dbid
             WHERE datname = current_database() AND query NOT LIKE '%pg_stat_statements_reset%'",
        )
        .fetch_all(pool)
        .await
        .unwrap();
        let ran = counted.into_iter().flat_map(|(statement, calls)| {
            let calls = usize::try_from(calls).unwrap();
            std::iter::repeat_n(statement, calls)
        });
        (ran.collect(), reply)
    }
}
