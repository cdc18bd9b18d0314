//! The cron table: what runs by the clock, unless operators set it otherwise (see [`roost_shared::jobs::schedules`]). A tick fires once, whatever the number of workers, because whoever moves
//! the schedule on enqueues the job in the same transaction.

use std::time::Duration;

use chrono::TimeDelta;
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
const UNTIL_LEADING: Duration = Duration::from_secs(1);

/// Looks for ticks that are due every few seconds, until `stop`. The leading worker does it.
pub(crate) async fn run(db: Db, standing: watch::Receiver<Option<Standing>>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let leads = standing.borrow().as_ref().is_some_and(|standing| standing.leads);
        for entry in TABLE.iter().filter(|_| leads) {
            let fired = tokio::time::timeout(
                Duration::from_secs(10),
                fire_if_due(&db, entry.name, entry.expression, entry.enqueue),
            );
            if let Err(error) = fired.await.unwrap_or_else(|_| Err("no end in time".to_owned())) {
                tracing::warn!(schedule = entry.name, error, "schedule not moved on");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(if leads { EVERY } else { UNTIL_LEADING }) => {}
            () = stop.cancelled() => {}
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
    let line = sqlx::query!(
        "SELECT expression, changed_to, paused, next_tick FROM cron_schedules WHERE name = $1 FOR UPDATE",
        name
    )
    .fetch_optional(tx.conn())
    .await
    .map_err(|error| error.to_string())?;
    let Some(line) = line else {
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
    let current = line.changed_to.as_deref().unwrap_or(expression);
    let next = next_tick(current, now)?;
    let is_due = line.next_tick.is_some_and(|tick| tick <= now);
    if is_due {
        sqlx::query!(
            "UPDATE cron_schedules SET last_tick = next_tick, next_tick = $3, expression = $2 WHERE name = $1",
            name,
            expression,
            (!line.paused).then_some(next)
        )
        .execute(tx.conn())
        .await
        .map_err(|error| error.to_string())?;
        return Ok(true);
    }
    let furthest = next_tick(current, now + MOST_AHEAD)?;
    let too_far = line.next_tick.filter(|tick| *tick > furthest + SLACK);
    if let Some(tick) = too_far {
        tracing::warn!(schedule = name, %tick, %next, "a clock was far ahead when the next tick was set, going back to this one's");
    }
    let is_new = line.expression != expression;
    if is_new || too_far.is_some() {
        let moves = too_far.is_some() || line.changed_to.is_none() && !line.paused;
        sqlx::query!(
            "UPDATE cron_schedules SET expression = $2, next_tick = $3 WHERE name = $1",
            name,
            expression,
            if moves { Some(next) } else { line.next_tick }
        )
        .execute(tx.conn())
        .await
        .map_err(|error| error.to_string())?;
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{DateTime, Utc};

    #[test]
    fn every_line_of_the_table_has_a_next_tick() {
        let now: DateTime<Utc> = "2027-01-31T23:30:00Z".parse().expect("an instant");
        for entry in TABLE {
            assert!(next_tick(entry.expression, now).expect(entry.name) > now);
        }
    }
}
