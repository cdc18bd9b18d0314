//! What keeps jobs moving when nobody is looking. One worker leads: it publishes what is due, fires the cron table and sets
//! the gauges; it frees what dead workers held, and so do the others, less often. Should two lead for a moment, `SKIP LOCKED`
//! shares the work between them.
//!
//! While Redis refuses, every worker takes due jobs from Postgres itself, after a few seconds also those that Redis had. So
//! do at any time those who know a kind that others of its queue do not know.

mod feed;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::{counter, gauge};
use roost_shared::jobs::presence::{self, Standing};
use roost_shared::jobs::relay::Head;
use roost_shared::jobs::{self, JobState, MAX_DEPTH, Queue, Transport, Waiting, batches, overview, pressure, relay};
use roost_shared::operators::audit::checks;
use roost_shared::redis::Redis;
use sqlx::{Connection, PgConnection};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::engine::{Engine, count_attempt};
use crate::epoch;
use crate::postgres;

/// A round follows each sign of life, so that an idle worker wakes once for both. It does not wait longer for one.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// While Redis has no room for all that is due, it is filled up this often.
const TOP_UP: Duration = Duration::from_millis(40);
/// Ids of one queue that are taken out of Postgres at a time.
const MOST_AT_ONCE: usize = 1_000;
/// A round that takes longer hangs on a connection that is dead without saying so.
const STEP_TIMEOUT: Duration = Duration::from_secs(15);
/// Scheduled jobs that become due in one statement.
const PROMOTE_BATCH: u64 = 5_000;
/// Ids that go to Redis in one script.
pub(crate) const PUSH_BATCH: usize = 500;
const STALE_EVERY: u64 = 3;
/// What came into Redis before it was seen to be another has been taken by then.
const IN_ORDER_AFTER: Duration = Duration::from_secs(10);
/// Once Redis has refused for so long, what it had does not wait for its return.
const RECALL_AFTER: Duration = Duration::from_secs(3);
/// Rounds after which workers that do not lead look for dead ones, should the leading worker be among these.
const FOLLOWERS_REAP_EVERY: u64 = 2;
const GAUGES_EVERY: u64 = 10;

/// Runs until `stop`.
pub(crate) async fn run(
    engine: Arc<Engine>,
    redis: Redis,
    mut standing: watch::Receiver<Option<Standing>>,
    shown: Arc<Notify>,
    stop: CancellationToken,
) {
    let transport = match Transport::new(&redis) {
        Ok(transport) => transport,
        Err(error) => {
            tracing::error!(%error, "the relay cannot start");
            return;
        }
    };
    let mut relay = Relay {
        engine,
        redis,
        transport,
        refused_since: None,
        answers: false,
        unheard: HashSet::new(),
        counted: BTreeMap::new(),
        published_again: None,
        led: false,
        tick: 0,
    };
    while !stop.is_cancelled() {
        let learnt = standing.borrow().clone();
        let mut more = relay.round(learnt.as_ref()).await;
        relay.tick += 1;
        let next = Instant::now() + LONGEST_PAUSE;
        let mut wait = TOP_UP;
        while !stop.is_cancelled() && Instant::now() < next {
            let rest = next.saturating_duration_since(Instant::now());
            tokio::select! {
                () = tokio::time::sleep(if more { rest.min(wait) } else { rest }) => {}
                () = stop.cancelled() => {}
                () = shown.notified() => break,
                // A queue that was resumed or is not limited any more does not wait for the next round.
                Ok(_) = standing.wait_for(|now| open_now(now.as_ref(), learnt.as_ref())) => break,
            }
            if let (true, Some(learnt)) = (more && !stop.is_cancelled(), &learnt) {
                let filled = relay.top_up(learnt).await;
                more = filled.more;
                // Where nobody takes anything there is no hurry.
                wait = if filled.published > 0 { TOP_UP } else { wait * 2 };
            }
        }
    }
}

/// Whether a queue is open that was not.
fn open_now(now: Option<&Standing>, before: Option<&Standing>) -> bool {
    match (now, before) {
        (Some(now), Some(before)) => before.closed().any(|name| now.closed().all(|still| still != name)),
        _ => false,
    }
}

/// What a round of publishing did.
#[derive(Clone, Copy, Debug, Default)]
struct Filled {
    published: usize,
    /// There may be more than there is room for.
    more: bool,
}

/// Why a round ended early.
enum Trouble {
    Postgres(sqlx::Error),
    Redis(String),
}

impl From<sqlx::Error> for Trouble {
    fn from(error: sqlx::Error) -> Self {
        Self::Postgres(error)
    }
}

impl From<redis::RedisError> for Trouble {
    fn from(error: redis::RedisError) -> Self {
        Self::Redis(error.to_string())
    }
}

/// The end of a step that others do not build upon. What Postgres has against it is told and keeps no job from being
/// published; that Postgres does not answer ends the round.
fn by_itself<T>(step: &'static str, ended: Result<T, sqlx::Error>) -> Result<(), sqlx::Error> {
    match ended {
        Ok(_) => Ok(()),
        Err(error @ sqlx::Error::Database(_)) => {
            counter!("roost_relay_errors_total").increment(1);
            tracing::warn!(%error, step, "relay step failed, going on with the next");
            Ok(())
        }
        Err(error) => Err(error),
    }
}

struct Relay {
    engine: Arc<Engine>,
    redis: Redis,
    transport: Transport,
    /// Redis does not take writes, or not all else that is asked of it.
    refused_since: Option<Instant>,
    /// Whether it took one at the beginning of this round.
    answers: bool,
    /// Kinds that nobody knows, told once each while there are jobs of them.
    unheard: HashSet<String>,
    /// Jobs by kind and state, as the gauges have them.
    counted: BTreeMap<(String, String), i64>,
    /// When Redis was last found to have forgotten its messages.
    published_again: Option<Instant>,
    /// Whether this worker led in the round before.
    led: bool,
    tick: u64,
}

impl Relay {
    /// One round. True: there is more than there was room for.
    async fn round(&mut self, standing: Option<&Standing>) -> bool {
        let Some(standing) = standing else { return false };
        self.answers = self.probe().await;
        if self.led && !standing.leads {
            resign();
            self.unheard.drain().for_each(|kind| set_unknown(&kind, 0));
            self.counted.values_mut().for_each(|count| *count = 0);
            self.set_kinds();
        }
        self.led = standing.leads;
        let mut more = false;
        let step = match standing.leads {
            true => Some(Step::Lead),
            false => self.tick.is_multiple_of(FOLLOWERS_REAP_EVERY).then_some(Step::Reap),
        };
        if let Some(step) = step {
            match self.within(step, standing).await {
                Ok(filled) => more = filled.more,
                Err(trouble) => {
                    self.answers = false;
                    self.tell(trouble);
                }
            }
        }
        if self.answers && self.refused_since.is_some() && (standing.leads || self.waiting().await.is_ok()) {
            self.readmit();
        }
        more | self.feed_itself(standing).await.more
    }

    /// Publishes once more if Redis takes it and this worker leads, and takes what this worker takes by itself.
    async fn top_up(&mut self, standing: &Standing) -> Filled {
        let mut filled = Filled::default();
        if standing.leads && self.refused_since.is_none() {
            filled = self.step(Step::Fill, standing).await;
        }
        let fed = self.feed_itself(standing).await;
        Filled {
            published: filled.published + fed.published,
            more: filled.more || fed.more,
        }
    }

    async fn step(&mut self, step: Step, standing: &Standing) -> Filled {
        match self.within(step, standing).await {
            Ok(filled) => filled,
            Err(trouble) => {
                self.tell(trouble);
                Filled::default()
            }
        }
    }

    async fn within(&mut self, step: Step, standing: &Standing) -> Result<Filled, Trouble> {
        let mut connection = postgres::connection(self.engine.pool()).await?;
        let answer = tokio::time::timeout(STEP_TIMEOUT, async {
            match step {
                Step::Lead => self.lead(&mut connection, standing).await,
                Step::Fill => {
                    relay::promote_due(&mut *connection, PROMOTE_BATCH.cast_signed()).await?;
                    let waiting = self.waiting().await?;
                    self.publish(&mut connection, standing, &waiting).await
                }
                Step::Feed => self.feed(&mut connection, standing).await,
                Step::Reap => Ok(self.reap(&mut connection).await.map(|()| Filled::default())?),
            }
        })
        .await;
        postgres::answer(connection, answer)
    }

    fn tell(&mut self, trouble: Trouble) {
        counter!("roost_relay_errors_total").increment(1);
        match trouble {
            Trouble::Postgres(error) => {
                self.engine.note_outage();
                tracing::warn!(%error, "relay step failed");
            }
            Trouble::Redis(error) => self.refuse(&error),
        }
    }

    /// One line when it begins and one when it ends, whatever lies between.
    fn refuse(&mut self, error: &str) {
        if self.refused_since.is_none() {
            self.refused_since = Some(Instant::now());
            gauge!("roost_redis_refuses").set(1.0);
            tracing::error!(
                error,
                "Redis refuses: jobs go on from Postgres alone, caches and sessions do not"
            );
        }
    }

    /// Whether Redis takes a write.
    async fn probe(&mut self) -> bool {
        match self.transport.probe().await {
            Err(error) => {
                self.refuse(&error.to_string());
                false
            }
            Ok(()) => {
                if self.refused_since.is_none() {
                    gauge!("roost_redis_refuses").set(0.0);
                }
                true
            }
        }
    }

    /// After a round in which Redis did all that was asked of it: one that takes some commands only must not be back in
    /// every other round.
    fn readmit(&mut self) {
        if let Some(since) = self.refused_since.take() {
            gauge!("roost_redis_refuses").set(0.0);
            tracing::info!(seconds = since.elapsed().as_secs(), "Redis is back");
        }
    }

    /// Takes from dead workers what they ran. After an outage the living get a chance to renew before that.
    async fn reap(&self, db: &mut PgConnection) -> Result<(), sqlx::Error> {
        if !self.engine.all_could_renew() {
            return Ok(());
        }
        let reaped = jobs::reap(&mut *db).await?;
        let all = reaped.requeued + reaped.quarantined;
        if all > 0 {
            counter!("roost_lease_expiries_total").increment(all.unsigned_abs());
            tracing::warn!(
                requeued = reaped.requeued,
                quarantined = reaped.quarantined,
                "jobs taken from workers that stopped renewing"
            );
            for kind in reaped.kinds {
                count_attempt(kind, "lost");
            }
            self.engine.look_for_suspects();
        }
        Ok(())
    }

    /// What the leading worker does in a round.
    async fn lead(&mut self, db: &mut PgConnection, standing: &Standing) -> Result<Filled, Trouble> {
        let promoted = relay::promote_due(&mut *db, PROMOTE_BATCH.cast_signed()).await?;
        by_itself("ending batches", batches::finish(&mut *db).await)?;
        by_itself("noting pressure", pressure::note(&mut *db, &standing.fleet_kinds).await)?;
        by_itself("reaping", self.reap(&mut *db).await)?;
        if self.tick.is_multiple_of(GAUGES_EVERY) {
            by_itself("reporting queues", report(db).await)?;
            by_itself("reporting kinds", self.report_kinds(db).await)?;
            by_itself(
                "looking for unknown kinds",
                self.tell_unknown_kinds(db, &standing.fleet_kinds).await,
            )?;
            by_itself("forgetting workers", presence::forget(&mut *db).await)?;
        }
        if let Some(since) = self.refused_since {
            if since.elapsed() > RECALL_AFTER {
                feed::recall(db).await?;
            }
            if !self.answers {
                return Ok(Filled::default());
            }
        }
        // Until it is back, Redis is asked for all of it in every round.
        let every = |rounds: u64| self.refused_since.is_some() || self.tick.is_multiple_of(rounds);
        let (look_for_lost, prune) = (every(STALE_EVERY), every(GAUGES_EVERY));
        let waiting = self.waiting().await?;
        for (queue, waiting) in &waiting {
            gauge!("roost_redis_depth", "queue" => queue.name()).set(waiting.depth as f64);
        }
        let closed: Vec<&str> = standing.closed().collect();
        if epoch::watch::<Trouble>(&self.redis, &mut self.transport, db, &closed).await? {
            self.published_again = Some(Instant::now());
        }
        // Messages that came between have no place in the order of those that were published again.
        let in_order = self.published_again.is_none_or(|at| at.elapsed() > IN_ORDER_AFTER);
        if look_for_lost && in_order {
            self.find_lost(db, &waiting).await?;
        }
        if prune {
            for queue in Queue::ALL {
                self.transport.prune(queue).await?;
            }
        }
        let filled = self.publish(db, standing, &waiting).await?;
        Ok(Filled {
            more: filled.more || promoted >= PROMOTE_BATCH,
            ..filled
        })
    }

    /// Finds jobs whose messages are gone: with a consumer that died, or lost on the way.
    async fn find_lost(&mut self, db: &mut PgConnection, waiting: &[(Queue, Waiting)]) -> Result<(), Trouble> {
        let living = presence::living(&mut *db).await?;
        for queue in Queue::ALL {
            for consumer in self.transport.consumers(queue).await? {
                if !living.iter().any(|owner| consumer.starts_with(owner.as_str())) {
                    let ids = self.transport.drain(queue, &consumer).await?;
                    relay::unpublish(&mut *db, &ids).await?;
                }
            }
        }
        let heads: Vec<Head> = waiting
            .iter()
            .map(|(queue, waiting)| Head {
                queue: *queue,
                next: waiting.next.clone(),
            })
            .collect();
        let lost = relay::unpublish_stale(&mut *db, &heads).await?;
        if lost > 0 {
            counter!("roost_messages_lost_total").increment(lost);
            tracing::info!(lost, "published jobs that nobody claimed, publishing again");
        }
        Ok(())
    }

    async fn tell_unknown_kinds(&mut self, db: &mut PgConnection, kinds: &[String]) -> Result<(), sqlx::Error> {
        let unknown = relay::unknown_kinds(&mut *db, kinds).await?;
        // Of these none waits any more, or a worker has come that knows them.
        self.unheard.retain(|kind| {
            let still = unknown.iter().any(|(unknown, _)| unknown == kind);
            if !still {
                set_unknown(kind, 0);
            }
            still
        });
        for (kind, count) in unknown {
            set_unknown(&kind, count);
            if self.unheard.insert(kind.clone()) {
                tracing::error!(
                    kind,
                    count,
                    "no worker knows this kind of job; it waits for one that does"
                );
            }
        }
        Ok(())
    }

    /// Counts by kind and state, but for those that succeeded: `roost_job_attempts_total` counts them. A pair that there
    /// is none of any more stays, at zero.
    async fn report_kinds(&mut self, db: &mut PgConnection) -> Result<(), sqlx::Error> {
        let states = JobState::ALL.into_iter();
        let mut tx = db.begin().await?;
        let counts = overview::counts(&mut tx, states.filter(|state| *state != JobState::Succeeded)).await?;
        tx.commit().await?;
        self.counted.values_mut().for_each(|count| *count = 0);
        self.counted
            .extend(counts.into_iter().map(|one| ((one.kind, one.state), one.count)));
        self.set_kinds();
        Ok(())
    }

    fn set_kinds(&self) {
        for ((kind, state), count) in &self.counted {
            gauge!("roost_jobs", "kind" => kind.clone(), "state" => state.clone()).set(*count as f64);
        }
    }

    async fn waiting(&mut self) -> Result<Vec<(Queue, Waiting)>, Trouble> {
        let mut all = Vec::with_capacity(Queue::ALL.len());
        for queue in Queue::ALL {
            all.push((queue, self.transport.waiting(queue).await?));
        }
        Ok(all)
    }

    /// Publishes what is due and not in Redis, as far as the queues have room.
    async fn publish(
        &mut self,
        db: &mut PgConnection,
        standing: &Standing,
        waiting: &[(Queue, Waiting)],
    ) -> Result<Filled, Trouble> {
        let room: Vec<(Queue, usize)> = waiting
            .iter()
            .filter(|(queue, _)| !standing.closed().any(|name| name == queue.name()))
            .map(|(queue, waiting)| (*queue, MAX_DEPTH.saturating_sub(waiting.depth).min(MOST_AT_ONCE)))
            .collect();
        let due = relay::take_unpublished(&mut *db, &room, &standing.fleet_kinds, &standing.apart).await?;
        let mut more = false;
        for (queue, free) in room {
            let ids: Vec<Uuid> = due.iter().filter(|job| job.queue == queue).map(|job| job.id).collect();
            more |= ids.len() >= free;
            for begun in (0..ids.len()).step_by(PUSH_BATCH) {
                let chunk = &ids[begun..ids.len().min(begun + PUSH_BATCH)];
                let pushed = self.transport.push(queue, chunk).await;
                let arrived = begun + pushed.as_ref().copied().unwrap_or(0);
                if arrived < begun + chunk.len() {
                    counter!("roost_publish_failed_total", "queue" => queue.name())
                        .increment((ids.len() - arrived) as u64);
                    // Those of the other queues too, if it is Redis: whoever feeds itself takes them at once.
                    let mut left: Vec<Uuid> = ids[arrived..].to_vec();
                    if pushed.is_err() {
                        left.extend(due.iter().filter(|job| job.queue > queue).map(|job| job.id));
                    }
                    relay::unpublish(&mut *db, &left).await?;
                    pushed?;
                    break;
                }
            }
        }
        Ok(Filled {
            published: due.len(),
            more,
        })
    }
}

#[derive(Clone, Copy)]
enum Step {
    Lead,
    Fill,
    Feed,
    Reap,
}

/// Lowers the gauges that another worker sets from now on.
fn resign() {
    for queue in Queue::ALL {
        for name in [
            "roost_queue_oldest_due_seconds",
            "roost_queue_due_jobs",
            "roost_publish_lag_seconds",
            "roost_redis_depth",
        ] {
            gauge!(name, "queue" => queue.name()).set(0.0);
        }
    }
    for name in [
        "roost_effects_unknown",
        "roost_audit_broken",
        "roost_audit_unchecked_seconds",
    ] {
        gauge!(name).set(0.0);
    }
}

fn set_unknown(kind: &str, count: i64) {
    gauge!("roost_jobs_of_unknown_kind", "kind" => kind.to_owned()).set(count as f64);
}

/// Sets the gauges that alarms and autoscalers look at: per queue the due jobs, counted up to ten thousand in Redis and as
/// many that are not, the age of the oldest of those that would run next, and how long the first that is not in Redis has
/// waited for that; the calls whose outcome nobody knows; and how the audit log stands.
async fn report(db: &mut PgConnection) -> Result<(), sqlx::Error> {
    // Each half has a partial index of its own.
    let rows = sqlx::query!(
        r#"SELECT name AS "name!", extract(epoch FROM now() - min(due.run_at))::float8 AS age, count(due.run_at) AS "due!",
                  extract(epoch FROM now() - min(due.run_at) FILTER (WHERE NOT due.published))::float8 AS lag
           FROM queues LEFT JOIN LATERAL (
               (SELECT run_at, true AS published FROM jobs WHERE jobs.queue = queues.name AND state = 'queued' AND published_at IS NOT NULL
                ORDER BY published_at LIMIT 10000)
               UNION ALL
               (SELECT run_at, false FROM jobs WHERE jobs.queue = queues.name AND state = 'queued' AND published_at IS NULL
                ORDER BY run_at - timestamptz 'epoch' + make_interval(secs => priority) LIMIT 10000)) AS due ON true
           GROUP BY name"#
    )
    .fetch_all(&mut *db)
    .await?;
    for row in rows {
        gauge!("roost_queue_oldest_due_seconds", "queue" => row.name.clone()).set(row.age.unwrap_or(0.0));
        gauge!("roost_publish_lag_seconds", "queue" => row.name.clone()).set(row.lag.unwrap_or(0.0));
        gauge!("roost_queue_due_jobs", "queue" => row.name).set(row.due as f64);
    }
    let unknown = sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM effects WHERE state = 'unknown'"#)
        .fetch_one(&mut *db)
        .await?;
    gauge!("roost_effects_unknown").set(unknown as f64);
    let audit = checks::standing(&mut *db).await?;
    gauge!("roost_audit_broken").set(if audit.broken_seq.is_some() { 1.0 } else { 0.0 });
    gauge!("roost_audit_unchecked_seconds").set(audit.unchecked_seconds);
    Ok(())
}
