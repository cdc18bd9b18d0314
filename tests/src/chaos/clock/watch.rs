//! Triggers that write down what workers do to leases and to the cron table, with the time by Postgres' clock.

use anyhow::Result;
use chrono::{DateTime, Utc};
use roost_shared::jobs::LEASE;

use crate::chaos::{Run, testbed::Testbed};

/// `chaos_leases` has a row for each lease that was given or renewed, with its seconds, and for each that was taken from
/// its owner, with the seconds it had left; `chaos_ticks` one for each tick that was fired.
const WITNESSES: &str = "
    CREATE TABLE chaos_leases (job_id uuid NOT NULL, act text NOT NULL, seconds float8 NOT NULL);
    CREATE FUNCTION chaos_watch_leases() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF OLD.state = 'running' AND (NEW.crash_count > OLD.crash_count OR NEW.fence > OLD.fence AND NEW.lease_owner <> OLD.lease_owner) THEN
            INSERT INTO chaos_leases VALUES (OLD.id, 'taken', extract(epoch FROM OLD.lease_until - clock_timestamp()));
        END IF;
        IF NEW.state = 'running' AND NEW.lease_until IS DISTINCT FROM OLD.lease_until THEN
            INSERT INTO chaos_leases VALUES (NEW.id, 'given', extract(epoch FROM NEW.lease_until - now()));
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER chaos_leases AFTER UPDATE ON jobs FOR EACH ROW
        WHEN (OLD.state = 'running' OR NEW.state = 'running') EXECUTE FUNCTION chaos_watch_leases();
    CREATE TABLE chaos_ticks (name text NOT NULL, tick timestamptz NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp());
    CREATE FUNCTION chaos_watch_ticks() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO chaos_ticks VALUES (NEW.name, NEW.last_tick);
        RETURN NULL;
    END $$;
    CREATE TRIGGER chaos_ticks AFTER UPDATE OF last_tick ON cron_schedules FOR EACH ROW EXECUTE FUNCTION chaos_watch_ticks();";

/// Begins to watch.
pub async fn install(testbed: &Testbed) -> Result<()> {
    sqlx::raw_sql(WITNESSES).execute(&testbed.pool).await?;
    Ok(())
}

/// Every lease lasts as long as it should by Postgres' clock, none was taken before its end, and no two of a job overlap.
/// Nobody died: a job begins once, unless the machine stood still for so long that a lease did end.
pub async fn leases(testbed: &Testbed, run: &mut Run) -> Result<()> {
    let (given, odd, ended, taken): (i64, i64, i64, i64) = sqlx::query_as(
        "SELECT count(*) FILTER (WHERE act = 'given'), count(*) FILTER (WHERE act = 'given' AND abs(seconds - $1) > 0.001),
                count(*) FILTER (WHERE act = 'taken' AND seconds <= 0), count(*) FILTER (WHERE act = 'taken' AND seconds > 0)
         FROM chaos_leases",
    )
    .bind(LEASE.as_secs_f64())
    .fetch_one(&testbed.pool)
    .await?;
    run.verdict.figure("leases_given_or_renewed", given as f64);
    run.verdict.figure("leases_that_ended", ended as f64);
    run.verdict
        .require(given > 0, || "no lease was seen to be given".to_owned());
    run.verdict
        .require(odd == 0, || format!("{odd} of {given} leases do not last {LEASE:?}"));
    run.verdict
        .double(taken.unsigned_abs(), "leases, taken from their owners before their end");
    let (overlaps, again, workers): (i64, i64, i64) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM job_attempts AS one JOIN job_attempts AS other USING (job_id)
                 WHERE one.fence < other.fence AND other.started_at < one.ended_at),
                (SELECT count(*) - count(DISTINCT nonce) FROM chaos_starts),
                (SELECT count(DISTINCT pid) FROM chaos_starts)",
    )
    .fetch_one(&testbed.pool)
    .await?;
    run.verdict
        .double(overlaps.unsigned_abs(), "leases of one job that overlap");
    run.verdict
        .double((again - ended).max(0).unsigned_abs(), "beginnings of jobs");
    run.verdict.require(workers >= 2, || {
        format!("only {workers} worker did anything: this proves nothing")
    });
    Ok(())
}

/// No tick was fired twice, and these were fired, by leaders with either clock.
pub async fn ticks(testbed: &Testbed, run: &mut Run, due: &[DateTime<Utc>]) -> Result<()> {
    let (fired, twice, missing): (i64, i64, i64) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM chaos_ticks),
                (SELECT count(*) FROM (SELECT FROM chaos_ticks GROUP BY name, tick HAVING count(*) > 1) AS again),
                (SELECT count(*) FROM (SELECT unnest($1::timestamptz[]) EXCEPT SELECT tick FROM chaos_ticks) AS missing)",
    )
    .bind(due)
    .fetch_one(&testbed.pool)
    .await?;
    run.verdict.figure("ticks_fired", fired as f64);
    run.verdict.double(twice.unsigned_abs(), "ticks of the cron table");
    run.verdict.lose(missing.unsigned_abs(), "ticks of the cron table");
    Ok(())
}
