//! Limits of queues and kinds that hold across all workers: so many at a time, so many in a span of time.
//!
//! The jobs of a queue with a limit, its own or that of one of its kinds, do not go through Redis: workers claim them
//! here, one after the other under the lock of the queue's row, so that what is counted stays true until the claim is
//! committed. Queues without one are never asked about.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;

use super::lease::{Claimant, ClaimedJob, LEASE, Suspicion, claim_suspects};
use super::{Queue, rate};

/// What a claim within limits came to.
#[derive(Debug, Default)]
pub struct ClaimedWithin {
    /// To be run.
    pub jobs: Vec<ClaimedJob>,
    /// When a rate that is spent has room again; none: no rate is in the way.
    pub again_after: Option<Duration>,
}

/// A limit that is set, and what is used of it.
struct Limit {
    concurrency: Option<i32>,
    rate: Option<rate::Rate>,
    spent: Option<DateTime<Utc>>,
}

impl Limit {
    fn new(concurrency: Option<i32>, limit: Option<i32>, seconds: i32, spent: Option<DateTime<Utc>>) -> Self {
        Self {
            concurrency,
            rate: limit.and_then(|limit| rate::Rate::new(limit, seconds)),
            spent,
        }
    }

    /// How many more may begin while `running` run.
    fn room(&self, running: i64, now: DateTime<Utc>) -> i64 {
        let places = self
            .concurrency
            .map_or(i64::MAX, |most| (i64::from(most) - running).max(0));
        let tokens = self.rate.map_or(i64::MAX, |rate| rate.room(self.spent, now));
        places.min(tokens)
    }

    /// How long until the rate has room, if it has none.
    fn again_after(&self, now: DateTime<Utc>) -> Option<TimeDelta> {
        self.rate.and_then(|rate| rate.again_after(self.spent, now))
    }

    fn spent_by(&self, begun: i64, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.rate
            .filter(|_| begun > 0)
            .map(|rate| rate.spent_by(self.spent, begun, now))
    }
}

/// The limits of one queue, locked until the transaction ends.
struct Locked {
    queue: Limit,
    kinds: HashMap<String, Limit>,
    running: HashMap<String, i64>,
    now: DateTime<Utc>,
}

impl Locked {
    async fn of(conn: &mut PgConnection, queue: Queue) -> Result<Option<Self>, sqlx::Error> {
        let Some(own) = sqlx::query!(
            "SELECT concurrency, rate_limit, rate_seconds, rate_spent, paused FROM queues WHERE name = $1 FOR UPDATE",
            queue.name()
        )
        .fetch_optional(&mut *conn)
        .await?
        .filter(|own| !own.paused) else {
            return Ok(None);
        };
        let kinds = sqlx::query!(
            "SELECT name, concurrency, rate_limit, rate_seconds, rate_spent FROM kinds WHERE queue = $1 ORDER BY name FOR UPDATE",
            queue.name()
        )
        .fetch_all(&mut *conn)
        .await?;
        // A statement of its own: it sees what was committed before the lock was had.
        let running = sqlx::query!(
            r#"SELECT kind, count(*) AS "running!" FROM jobs WHERE state = 'running' AND queue = $1 GROUP BY kind"#,
            queue.name()
        )
        .fetch_all(&mut *conn)
        .await?;
        let now = sqlx::query_scalar!(r#"SELECT clock_timestamp() AS "now!""#)
            .fetch_one(conn)
            .await?;
        Ok(Some(Self {
            queue: Limit::new(own.concurrency, own.rate_limit, own.rate_seconds, own.rate_spent),
            kinds: kinds
                .into_iter()
                .map(|kind| {
                    let limit = Limit::new(kind.concurrency, kind.rate_limit, kind.rate_seconds, kind.rate_spent);
                    (kind.name, limit)
                })
                .collect(),
            running: running.into_iter().map(|row| (row.kind, row.running)).collect(),
            now,
        }))
    }

    /// How many jobs may begin in all.
    fn room(&self) -> i64 {
        self.queue.room(self.running.values().sum(), self.now)
    }

    /// Of those, how many of a kind.
    fn room_of(&self, kind: &str) -> i64 {
        let running = self.running.get(kind).copied().unwrap_or(0);
        self.kinds
            .get(kind)
            .map_or(i64::MAX, |limit| limit.room(running, self.now))
    }

    /// The first instant at which a spent rate has room.
    fn again_after(&self) -> Option<Duration> {
        let kinds = self
            .kinds
            .values()
            .filter_map(|limit| limit.again_after(self.now))
            .min();
        // While the queue's own rate is spent, that of a kind makes no difference.
        let next = self.queue.again_after(self.now).or(kinds);
        next.and_then(|wait| wait.to_std().ok())
    }

    /// Writes down what the claimed jobs use of the rates.
    async fn spend(&self, conn: &mut PgConnection, queue: Queue, jobs: &[ClaimedJob]) -> Result<(), sqlx::Error> {
        let begun = |kind: Option<&str>| {
            let begun = jobs
                .iter()
                .filter(|job| kind.is_none_or(|kind| job.kind == kind))
                .count();
            i64::try_from(begun).unwrap_or(i64::MAX)
        };
        if let Some(spent) = self.queue.spent_by(begun(None), self.now) {
            sqlx::query!("UPDATE queues SET rate_spent = $2 WHERE name = $1", queue.name(), spent)
                .execute(&mut *conn)
                .await?;
        }
        let (names, spent): (Vec<String>, Vec<DateTime<Utc>>) = self
            .kinds
            .iter()
            .filter_map(|(kind, limit)| Some((kind.clone(), limit.spent_by(begun(Some(kind)), self.now)?)))
            .unzip();
        if !names.is_empty() {
            sqlx::query!(
                "UPDATE kinds SET rate_spent = new.spent FROM unnest($1::text[], $2::timestamptz[]) AS new (name, spent)
                 WHERE kinds.name = new.name",
                &names,
                &spent
            )
            .execute(conn)
            .await?;
        }
        Ok(())
    }
}

/// Claims up to `most` due jobs of a queue as far as its limits go, those first that are nearest to when they ought to have
/// begun; of each kind those that were enqueued first. `claimant` names the kinds. In a transaction of its own, which ought to end soon.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn claim_within(
    conn: &mut PgConnection,
    queue: Queue,
    claimant: &Claimant,
    most: usize,
) -> Result<ClaimedWithin, sqlx::Error> {
    let Some(limits) = Locked::of(conn, queue).await? else {
        return Ok(ClaimedWithin::default());
    };
    let room = limits.room().min(i64::try_from(most).unwrap_or(i64::MAX));
    let (kinds, rooms): (Vec<String>, Vec<i64>) = claimant
        .kinds
        .iter()
        .map(|kind| (kind.clone(), limits.room_of(kind).min(room)))
        .filter(|(_, room)| *room > 0)
        .unzip();
    let mut claimed = ClaimedWithin {
        again_after: limits.again_after(),
        jobs: Vec::new(),
    };
    if kinds.is_empty() {
        return Ok(claimed);
    }
    claimed.jobs = claim_due(&mut *conn, queue, (&kinds, &rooms), room, (&claimant.owner, limits.now)).await?;
    limits.spend(conn, queue, &claimed.jobs).await?;
    Ok(claimed)
}

/// Claims up to `room` jobs, and of each kind no more than it has room for. Whether an id was handed to Redis makes no
/// difference: nobody else claims the jobs of this queue.
async fn claim_due(
    conn: &mut PgConnection,
    queue: Queue,
    (kinds, rooms): (&[String], &[i64]),
    room: i64,
    (owner, now): (&str, DateTime<Utc>),
) -> Result<Vec<ClaimedJob>, sqlx::Error> {
    // `jobs_at_rest` has the order of each kind.
    sqlx::query_as!(
        ClaimedJob,
        r#"WITH due AS (
               SELECT first.id FROM unnest($1::text[], $2::bigint[]) AS allowed (kind, room)
               CROSS JOIN LATERAL (
                   SELECT id, priority, run_at FROM jobs
                   WHERE jobs.kind = allowed.kind AND jobs.state = 'queued' AND jobs.queue = $3 AND crash_count = 0
                   ORDER BY uuid_send(id) LIMIT allowed.room FOR UPDATE SKIP LOCKED) AS first
               ORDER BY first.run_at - timestamptz 'epoch' + make_interval(secs => first.priority) LIMIT $4)
           UPDATE jobs SET state = 'running', attempt = attempt + 1, fence = next_fence(fence), lease_owner = $5,
                  lease_until = now() + make_interval(secs => $6), started_at = $7, rerun = false, progress = NULL
           FROM due WHERE jobs.id = due.id
           RETURNING jobs.id, kind, queue, args, attempt, max_attempts, fence, trace_context, run_at,
                  extract(epoch FROM clock_timestamp() - run_at)::float8 AS "waited!", crash_count"#,
        kinds,
        rooms,
        queue.name(),
        room,
        owner,
        LEASE.as_secs_f64(),
        now
    )
    .fetch_all(conn)
    .await
}

/// Claims the oldest job of a queue that was running when a worker died, as far as the queue's limits go. In a
/// transaction of its own, which ought to end soon.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn claim_suspect_within(
    conn: &mut PgConnection,
    queue: Queue,
    claimant: &Claimant,
    suspicion: Suspicion,
) -> Result<Option<ClaimedJob>, sqlx::Error> {
    let Some(limits) = Locked::of(conn, queue).await? else {
        return Ok(None);
    };
    if limits.room() == 0 {
        return Ok(None);
    }
    let allowed = Claimant {
        owner: claimant.owner.clone(),
        kinds: claimant
            .kinds
            .iter()
            .filter(|kind| limits.room_of(kind) > 0)
            .cloned()
            .collect(),
    };
    let claimed = claim_suspects(&mut *conn, &[queue.name().to_owned()], &allowed, suspicion, 1).await?;
    let Some(job) = claimed.into_iter().next() else {
        return Ok(None);
    };
    limits.spend(conn, queue, std::slice::from_ref(&job)).await?;
    Ok(Some(job))
}
