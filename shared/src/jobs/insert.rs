//! Writing jobs: all of a transaction in one statement.

use std::collections::{BTreeMap, HashSet};

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::publish::JobRef;
use super::{Job, Queue, batches};
use crate::ids;
use crate::telemetry::TraceContext;

/// A job about to be written.
pub(crate) struct NewJob {
    id: Uuid,
    kind: &'static str,
    queue: Queue,
    priority: i16,
    max_attempts: i32,
    args: Result<Value, serde_json::Error>,
    dedupe_key: Option<String>,
    run_at: Option<DateTime<Utc>>,
    batch_id: Option<Uuid>,
}

impl NewJob {
    /// `run_at` of none, or not after `now`, means at once.
    pub(crate) fn of<J: Job>(job: &J, now: DateTime<Utc>, run_at: Option<DateTime<Utc>>) -> Self {
        Self {
            id: ids::new(now),
            kind: J::KIND,
            queue: J::QUEUE,
            priority: J::PRIORITY,
            max_attempts: J::MAX_ATTEMPTS,
            args: serde_json::to_value(job),
            dedupe_key: job.dedupe_key(),
            run_at: run_at.filter(|at| *at > now),
            batch_id: None,
        }
    }

    /// As a job of a batch.
    pub(crate) fn in_batch(mut self, batch_id: Uuid) -> Self {
        self.batch_id = Some(batch_id);
        self
    }
}

/// Inserts `jobs` and returns those that are due and that `takes` says yes to the queue of, for publishing.
///
/// One whose dedupe key is taken is left out, as the job that has the key does the same work. If that one runs already
/// it may have read what this transaction changes, so it will run again. If it waits, its row stays locked until this
/// transaction ends, so nobody runs it on what was there before.
pub(crate) async fn insert(
    conn: &mut PgConnection,
    jobs: &[NewJob],
    takes: impl Fn(Queue) -> bool,
) -> Result<Vec<JobRef>, sqlx::Error> {
    let mut keys = HashSet::new();
    let jobs: Vec<&NewJob> = jobs
        .iter()
        .filter(|job| job.dedupe_key.as_ref().is_none_or(|key| keys.insert(key)))
        .collect();
    if jobs.is_empty() {
        return Ok(Vec::new());
    }
    let context = TraceContext::current();
    let mut args = Vec::with_capacity(jobs.len());
    for job in &jobs {
        args.push(
            job.args
                .as_ref()
                .map_err(|error| sqlx::Error::Encode(error.to_string().into()))?
                .clone(),
        );
    }
    let ids: Vec<Uuid> = jobs.iter().map(|job| job.id).collect();
    let kinds: Vec<String> = jobs.iter().map(|job| job.kind.to_owned()).collect();
    let queues: Vec<String> = jobs.iter().map(|job| job.queue.name().to_owned()).collect();
    let priorities: Vec<i16> = jobs.iter().map(|job| job.priority).collect();
    let max_attempts: Vec<i32> = jobs.iter().map(|job| job.max_attempts).collect();
    let dedupe_keys: Vec<Option<String>> = jobs.iter().map(|job| job.dedupe_key.clone()).collect();
    let batch_ids: Vec<Option<Uuid>> = jobs.iter().map(|job| job.batch_id).collect();
    let published: Vec<bool> = jobs.iter().map(|job| takes(job.queue)).collect();
    let run_ats: Vec<Option<DateTime<Utc>>> = jobs.iter().map(|job| job.run_at).collect();
    // A due job counts as published from the start: its id goes to Redis right after the commit, and saves a write
    // per job. When that fails the publisher takes the mark back; when the process dies in between, the relay sees
    // a job that was published long ago and that nobody claimed.
    let rows = sqlx::query!(
        r#"INSERT INTO jobs (id, kind, queue, priority, args, dedupe_key, max_attempts, state, run_at, published_at, trace_context, actor,
                             batch_id, parent_id)
           SELECT id, kind, queue, priority, args, dedupe_key, max_attempts,
                  CASE WHEN run_at IS NULL THEN 'queued' ELSE 'scheduled' END,
                  coalesce(run_at, now()),
                  CASE WHEN run_at IS NULL AND published THEN now() END, $8, $9, batch_id, $12
           FROM unnest($1::uuid[], $2::text[], $3::text[], $4::smallint[], $5::jsonb[], $6::text[], $7::int[], $10::timestamptz[], $11::uuid[], $13::bool[])
                AS new (id, kind, queue, priority, args, dedupe_key, max_attempts, run_at, batch_id, published)
           ON CONFLICT (dedupe_key) WHERE dedupe_key IS NOT NULL AND state IN ('scheduled', 'queued', 'running', 'retrying')
           DO UPDATE SET rerun = true WHERE jobs.state = 'running'
           RETURNING id, queue, state = 'queued' AND published_at IS NOT NULL AS "due!""#,
        &ids,
        &kinds,
        &queues,
        &priorities,
        &args,
        &dedupe_keys as &[Option<String>],
        &max_attempts,
        context.as_ref().map(|context| context.traceparent.as_str()),
        context.as_ref().and_then(|context| context.actor.as_deref()),
        &run_ats as &[Option<DateTime<Utc>>],
        &batch_ids as &[Option<Uuid>],
        context.as_ref().and_then(|context| context.job_id),
        &published,
    )
    .fetch_all(&mut *conn)
    .await?;
    if jobs.iter().any(|job| job.batch_id.is_some()) {
        // A row with another id is the job that has the dedupe key.
        let written: HashSet<Uuid> = rows.iter().map(|row| row.id).collect();
        let mut grown: BTreeMap<Uuid, i32> = BTreeMap::new();
        for (job, batch_id) in jobs.iter().filter_map(|job| Some((job, job.batch_id?))) {
            *grown.entry(batch_id).or_default() += i32::from(written.contains(&job.id));
        }
        let (batch_ids, added): (Vec<Uuid>, Vec<i32>) = grown.into_iter().unzip();
        batches::grow(conn, &batch_ids, &added).await?;
    }
    Ok(rows
        .into_iter()
        .filter(|row| row.due)
        .filter_map(|row| Queue::by_name(&row.queue).map(|queue| JobRef { id: row.id, queue }))
        .collect())
}
