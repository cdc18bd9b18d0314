//! The cron table: what runs by the clock, unless operators set it otherwise (see [`roost_shared::jobs::schedules`]). A tick fires once, whatever the number of workers, because whoever moves
//! the schedule on enqueues the job in the same transaction.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use roost_shared::db::{Db, Tx};
use roost_shared::jobs::catalogue::{CompleteStays, PruneOutbox, SweepOverdue, VerifyAudit};
use roost_shared::jobs::presence::Standing;
use roost_shared::jobs::schedules::next_tick;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A line of the table.
struct Entry {
    name: &'static str,
    /// Minute, hour, day, month, weekday; UTC.
    expression: &'static str,
    enqueue: fn(&mut Tx),
}

const TABLE: &[Entry] = &[
    Entry {
        name: "outbox.prune",
        expression: "17 * * * *",
        enqueue: |tx| tx.enqueue(&PruneOutbox {}),
    },
    Entry {
        name: "stays.complete",
        expression: "41 * * * *",
        enqueue: |tx| tx.enqueue(&CompleteStays {}),
    },
    Entry {
        name: "overdue.sweep",
        expression: "*/5 * * * *",
        enqueue: |tx| tx.enqueue(&SweepOverdue {}),
    },
    Entry {
        name: "audit.verify",
        expression: "*/10 * * * *",
        enqueue: |tx| tx.enqueue(&VerifyAudit {}),
    },
];

/// The names of the table's lines.
pub fn names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|entry| entry.name)
}

const EVERY: Duration = Duration::from_secs(5);
/// A tick has the fraction of the second at which it was computed.
const SLACK: TimeDelta = TimeDelta::seconds(1);
/// Clocks of workers may differ by some minutes, and what one has fired the next one must not fire again. A tick that not
/// even a clock this far ahead would have set is a mistake.
const MOST_AHEAD: TimeDelta = TimeDelta::minutes(15);
const TIMEOUT: Duration = Duration::from_secs(10);

/// A schedule as Postgres has it.
struct Schedule {
    name: String,
    expression: String,
    changed_to: Option<String>,
    paused: bool,
    next_tick: Option<DateTime<Utc>>,
}

/// What is to be done with a schedule now.
enum Step {
    Stay,
    /// Its tick is due; this is the next one.
    Fire(Option<DateTime<Utc>>),
    /// Its tick is further away than any clock would have set it; this is the next one.
    Back(DateTime<Utc>),
    /// The program has another expression than it had; this is the next tick.
    Renew(Option<DateTime<Utc>>),
}

impl Schedule {
    fn step(&self, expression: &str, now: DateTime<Utc>) -> Result<Step, String> {
        let current = self.changed_to.as_deref().unwrap_or(expression);
        let next = next_tick(current, now)?;
        if self.next_tick.is_some_and(|tick| tick <= now) {
            return Ok(Step::Fire((!self.paused).then_some(next)));
        }
        let furthest = next_tick(current, now + MOST_AHEAD)? + SLACK;
        if self.next_tick.is_some_and(|tick| tick > furthest) {
            return Ok(Step::Back(next));
        }
        if self.expression == expression {
            return Ok(Step::Stay);
        }
        let moves = self.changed_to.is_none() && !self.paused;
        Ok(Step::Renew(if moves { Some(next) } else { self.next_tick }))
    }
}

/// Looks for ticks that are due every few seconds, until `stop`. The leading worker does it.
pub(crate) async fn run(db: Db, mut standing: watch::Receiver<Option<Standing>>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        tokio::select! {
            leads = standing.wait_for(|now| now.as_ref().is_some_and(|standing| standing.leads)) => {
                if leads.is_err() {
                    return;
                }
            }
            () = stop.cancelled() => return,
        }
        let looked = tokio::time::timeout(TIMEOUT, to_move(&db)).await;
        match looked.unwrap_or_else(|_| Err("no answer in time".to_owned())) {
            Ok(entries) => fire(&db, entries).await,
            Err(error) => tracing::warn!(error, "no schedule moved on"),
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// The lines of the table whose schedules do not stay as they are, by one look at all.
async fn to_move(db: &Db) -> Result<Vec<&'static Entry>, String> {
    let now = db.clock().now();
    let schedules = sqlx::query_as!(
        Schedule,
        "SELECT name, expression, changed_to, paused, next_tick FROM cron_schedules"
    )
    .fetch_all(db.pool())
    .await
    .map_err(|error| error.to_string())?;
    let stays = |entry: &Entry| {
        let schedule = schedules.iter().find(|schedule| schedule.name == entry.name);
        schedule.is_some_and(|schedule| matches!(schedule.step(entry.expression, now), Ok(Step::Stay)))
    };
    Ok(TABLE.iter().filter(|entry| !stays(entry)).collect())
}

async fn fire(db: &Db, entries: Vec<&Entry>) {
    for entry in entries {
        let fired = tokio::time::timeout(TIMEOUT, fire_if_due(db, entry.name, entry.expression, entry.enqueue));
        if let Err(error) = fired.await.unwrap_or_else(|_| Err("no end in time".to_owned())) {
            tracing::warn!(schedule = entry.name, error, "schedule not moved on");
        }
    }
}

/// Fires the schedule's tick if it is due and nobody has. Ticks that were missed fire once, not once each; `expression`
/// holds unless an operator has set another.
///
/// # Errors
/// The expression is none, or Postgres cannot be reached.
pub async fn fire_if_due(db: &Db, name: &str, expression: &str, enqueue: impl FnOnce(&mut Tx)) -> Result<bool, String> {
    let mut tx = db.begin().await.map_err(|error| error.to_string())?;
    let fired = move_on(&mut tx, name, expression).await?;
    if fired {
        enqueue(&mut tx);
    }
    tx.commit().await.map_err(|error| error.to_string())?;
    if fired {
        metrics::counter!("roost_cron_ticks_total", "schedule" => name.to_owned()).increment(1);
    }
    Ok(fired)
}

/// Moves the schedule on to its next tick if it is due; else only to what the program has now, or back from a tick that a
/// clock which was far ahead has set.
async fn move_on(tx: &mut Tx, name: &str, expression: &str) -> Result<bool, String> {
    let now = tx.now();
    let schedule = sqlx::query_as!(
        Schedule,
        "SELECT name, expression, changed_to, paused, next_tick FROM cron_schedules WHERE name = $1 FOR UPDATE",
        name
    )
    .fetch_optional(tx.conn())
    .await
    .map_err(|error| error.to_string())?;
    let Some(schedule) = schedule else {
        let next = next_tick(expression, now)?;
        sqlx::query!(
            "INSERT INTO cron_schedules (name, expression, next_tick) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING",
            name,
            expression,
            next
        )
        .execute(tx.conn())
        .await
        .map_err(|error| error.to_string())?;
        return Ok(false);
    };
    let (is_due, next) = match schedule.step(expression, now)? {
        Step::Stay => return Ok(false),
        Step::Fire(next) => (true, next),
        Step::Renew(next) => (false, next),
        Step::Back(next) => {
            let tick = schedule.next_tick.map(|tick| tick.to_rfc3339());
            tracing::warn!(schedule = name, tick, %next, "a clock was far ahead when the next tick was set, going back to this one's");
            (false, Some(next))
        }
    };
    sqlx::query!(
        "UPDATE cron_schedules SET last_tick = CASE WHEN $4 THEN next_tick ELSE last_tick END, next_tick = $3, expression = $2
         WHERE name = $1",
        name,
        expression,
        next,
        is_due
    )
    .execute(tx.conn())
    .await
    .map_err(|error| error.to_string())?;
    Ok(is_due)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_table_has_a_next_tick() {
        let now: DateTime<Utc> = "2027-01-31T23:30:00Z".parse().expect("an instant");
        for entry in TABLE {
            assert!(next_tick(entry.expression, now).expect(entry.name) > now);
        }
    }
}
