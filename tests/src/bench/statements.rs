//! Where PostgreSQL spends its time on jobs, as `pg_stat_statements` counts it.

use std::fmt::Write as _;

use anyhow::{Result, ensure};
use sqlx::PgPool;

/// Statements that take less of a job are left out, in µs.
const LEAST: f64 = 0.05;
/// Characters of a statement that say which one it is.
const SHOWN: i32 = 90;

/// Begins to count anew.
pub async fn count(pool: &PgPool) -> Result<()> {
    let loaded: String = sqlx::query_scalar("SHOW shared_preload_libraries")
        .fetch_one(pool)
        .await?;
    ensure!(
        loaded.contains("pg_stat_statements"),
        "the server that DATABASE_URL names does not load pg_stat_statements"
    );
    for statement in [
        "CREATE EXTENSION IF NOT EXISTS pg_stat_statements",
        "SELECT pg_stat_statements_reset(0, oid, 0) FROM pg_database WHERE datname = current_database()",
    ] {
        sqlx::query(statement).execute(pool).await?;
    }
    Ok(())
}

/// A table of what was run since, the slowest first, by job of `jobs`. What triggers run is in the statement that sets
/// them off; the time that commits take to get to the disk is in none.
pub async fn of_each(pool: &PgPool, jobs: u64) -> Result<String> {
    let rows: Vec<(f64, f64, i64, String)> = sqlx::query_as(
        "SELECT (total_exec_time + total_plan_time) * 1000 / $1 AS micros, total_plan_time * 1000 / $1,
                calls, left(regexp_replace(query, '\\s+', ' ', 'g'), $2)
         FROM pg_stat_statements JOIN pg_database ON pg_database.oid = dbid
         WHERE datname = current_database() AND query NOT LIKE '%pg_stat_statements_reset%'
           AND (total_exec_time + total_plan_time) * 1000 / $1 >= $3
         ORDER BY micros DESC",
    )
    .bind(jobs as f64)
    .bind(SHOWN)
    .bind(LEAST)
    .fetch_all(pool)
    .await?;
    let mut table = String::from("µs a job  planning  jobs a call  statement\n");
    for (micros, planning, calls, statement) in rows {
        let each = jobs as f64 / calls as f64;
        writeln!(table, "{micros:8.2}  {planning:8.2}  {each:11.1}  {statement}")?;
    }
    Ok(table)
}
