//! The cron table as operators see and set it. What it holds, and the ticks, are the workers' business.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use croner::Cron;
use serde_json::json;
use sqlx::PgPool;

use super::actions::{ActionError, By};
use super::kinds;
use crate::db::Tx;
use crate::operators::audit::{self, Entry};

const LONGEST_EXPRESSION: usize = 100;

/// A line of the cron table.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// Its name, which is that of the kind it enqueues.
    pub name: String,
    /// What it goes by: minute, hour, day, month, weekday; UTC.
    pub expression: String,
    /// What it goes by if no operator has changed it.
    pub default_expression: String,
    /// It does not fire by the clock.
    pub paused: bool,
    /// When it fires next; none while it is paused.
    pub next_tick: Option<DateTime<Utc>>,
    /// When it fired last.
    pub last_tick: Option<DateTime<Utc>>,
}

/// What an operator wants of a schedule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScheduleSettings {
    /// Do not fire by the clock.
    pub paused: bool,
    /// Go by this; none: by what the program has.
    pub expression: Option<String>,
}

/// The cron table.
///
/// # Errors
/// Postgres could not be reached.
pub async fn all(pool: &PgPool) -> Result<Vec<Schedule>, sqlx::Error> {
    sqlx::query_as!(
        Schedule,
        r#"SELECT name, coalesce(changed_to, expression) AS "expression!", expression AS default_expression, paused, next_tick, last_tick
           FROM cron_schedules ORDER BY name"#
    )
    .fetch_all(pool)
    .await
}

/// Sets a schedule. Ticks that it missed while it was paused are not made up for.
///
/// # Errors
/// There is no such schedule; the expression is none; one whose jobs move money needs a reason.
pub async fn set(tx: &mut Tx, name: &str, wanted: &ScheduleSettings, by: By<'_>) -> Result<(), ActionError> {
    by.answerable(kinds::kind(name).is_some_and(|kind| kind.moves_money))?;
    let now = tx.now();
    let before = sqlx::query!(
        "SELECT expression, changed_to, paused FROM cron_schedules WHERE name = $1 FOR UPDATE",
        name
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(ActionError::NotFound("schedule"))?;
    let expression = wanted.expression.as_ref().unwrap_or(&before.expression);
    let next = next_tick(expression, now).map_err(|message| ActionError::InvalidSetting {
        field: "expression",
        message,
    })?;
    sqlx::query!(
        "UPDATE cron_schedules SET paused = $2, changed_to = $3, next_tick = $4 WHERE name = $1",
        name,
        wanted.paused,
        wanted.expression,
        (!wanted.paused).then_some(next)
    )
    .execute(tx.conn())
    .await?;
    let entry = Entry::new(by.actor, "schedule.set", name)
        .before(json!({ "paused": before.paused, "expression": before.changed_to }))
        .after(json!({ "paused": wanted.paused, "expression": wanted.expression }))
        .because(by.reason());
    audit::append(tx, entry).await?;
    Ok(())
}

/// The first tick after `now`.
///
/// # Errors
/// What is wrong with the expression, for people.
pub fn next_tick(expression: &str, now: DateTime<Utc>) -> Result<DateTime<Utc>, String> {
    let shape = "must be minute, hour, day, month and weekday, as in 17 * * * *";
    if expression.chars().count() > LONGEST_EXPRESSION || expression.split_whitespace().count() != 5 {
        return Err(shape.to_owned());
    }
    let cron = Cron::from_str(expression).map_err(|error| format!("{shape}; {error}"))?;
    cron.find_next_occurrence(&now, false)
        .map_err(|error| format!("must have a next tick; {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_tick_is_after_now() {
        let now: DateTime<Utc> = "2027-01-31T23:30:00Z".parse().unwrap();
        let next = |expression| next_tick(expression, now).map(|next| next.to_rfc3339());
        assert_eq!(next("17 * * * *").unwrap(), "2027-02-01T00:17:00+00:00");
        assert_eq!(next("30 23 * * *").unwrap(), "2027-02-01T23:30:00+00:00");
        for wrong in [
            "61 * * * *",
            "* * * *",
            "* * * * * *",
            "0 0 30 2 *",
            "",
            "@hourly",
            &"1,".repeat(60),
        ] {
            assert!(next(wrong).is_err(), "{wrong:?}");
        }
    }
}
