//! The promises, checked from outside: by SQL on Postgres, by the sandbox's own record, by the mailbox.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use anyhow::Result;
use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use super::{
    market::{Answer, Asked, booked},
    money,
    testbed::Testbed,
    verdict::Verdict,
};
use crate::stars::wrong_sums;

/// After a drain, what is left must be done by then.
const LEFT_LIMIT: Duration = Duration::from_secs(30);

/// What must have become of a booking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Confirmed and paid for.
    Captured,
    /// The card was refused, nothing was taken.
    Declined,
    /// Paid for, given up by the guest, paid back in full.
    Refunded,
    /// Given up by the guest before anything was taken.
    Released,
    /// The host did not answer in time, nothing was taken.
    Expired,
    /// Paid for, and the stay is over.
    Completed,
    /// Confirmed, and the bank did not pay what it had reserved.
    Unpaid,
}

/// So many of the slowest recoveries are told.
const SLOWEST: usize = 3;

/// The milliseconds from each fault to the good end of the jobs that it hit, by their attempts that were lost. `hit`:
/// which process, when. The slowest are told on standard error, with what became of their attempts.
pub async fn recovery(testbed: &Testbed, hit: &[(u32, DateTime<Utc>)]) -> Result<Vec<f64>> {
    let lost: Vec<(String, DateTime<Utc>, DateTime<Utc>, Uuid)> = sqlx::query_as(
        "SELECT lost.worker, lost.ended_at, ended.ended_at, lost.job_id FROM job_attempts AS lost
         JOIN job_attempts AS ended ON ended.job_id = lost.job_id AND ended.outcome = 'succeeded'
         WHERE lost.outcome = 'lost'
           -- Hit again before its end: the last fault counts.
           AND NOT EXISTS (SELECT FROM job_attempts AS later WHERE later.job_id = lost.job_id AND later.outcome = 'lost' AND later.fence > lost.fence)",
    )
    .fetch_all(&testbed.pool)
    .await?;
    let times = lost.iter().filter_map(|(worker, lost, ended, job)| {
        // host-pid-start
        let pid: u32 = worker.rsplit('-').nth(1)?.parse().ok()?;
        let before = hit.iter().filter(|(victim, at)| *victim == pid && at < lost);
        let at = before.map(|(_, at)| *at).max()?;
        Some(((*ended - at).num_milliseconds() as f64, at, *job))
    });
    let mut times: Vec<(f64, DateTime<Utc>, Uuid)> = times.collect();
    times.sort_by(|(a, ..), (b, ..)| b.total_cmp(a));
    for (took, at, job) in times.iter().take(SLOWEST) {
        let attempts: Vec<String> = sqlx::query_scalar(
            "SELECT format('%s by %s from %s to %s ms', outcome, worker, round(extract(epoch FROM started_at - $2) * 1000),
                           round(extract(epoch FROM ended_at - $2) * 1000))
             FROM job_attempts WHERE job_id = $1 ORDER BY fence",
        )
        .bind(job)
        .bind(at)
        .fetch_all(&testbed.pool)
        .await?;
        eprintln!("{took:.0} ms from the fault to the effect: {}", attempts.join("; "));
    }
    Ok(times.into_iter().map(|(took, ..)| took).collect())
}

/// How many attempts at jobs of a kind were lost by the processes that were hit.
pub async fn lost(testbed: &Testbed, hit: &[(u32, DateTime<Utc>)], kind: &str) -> Result<u64> {
    let pids: Vec<i32> = hit.iter().map(|(pid, _)| pid.cast_signed()).collect();
    let lost: i64 = sqlx::query_scalar(
        // host-pid-start
        "SELECT count(*) FROM job_attempts WHERE outcome = 'lost' AND job_kind = $1
             AND (regexp_match(worker, '-([0-9]+)-[^-]*$'))[1]::int = ANY($2)",
    )
    .bind(kind)
    .bind(pids)
    .fetch_one(&testbed.pool)
    .await?;
    Ok(lost.unsigned_abs())
}

/// The milliseconds from a kill to the good end of the jobs of the harness that were due then and were not in an attempt
/// that was lost: among them those whose messages a dead worker had in hand.
///
/// Counted from the first kill while a job was due: the kills go on, and from the last of them every wait would look
/// short. The harness enqueues far less than the fleet can do, so that no job waits for others; a queue would count as well.
pub async fn waits_over_kills(testbed: &Testbed, kills: &[DateTime<Utc>]) -> Result<Vec<f64>> {
    Ok(sqlx::query_scalar(
        "SELECT (extract(epoch FROM finished_at - first.kill) * 1000)::float8 FROM jobs
         CROSS JOIN LATERAL (SELECT min(at) AS kill FROM unnest($1::timestamptz[]) AS kill (at) WHERE at BETWEEN run_at AND finished_at) AS first
         WHERE kind LIKE 'chaos.%' AND state = 'succeeded' AND first.kill IS NOT NULL
           AND NOT EXISTS (SELECT FROM job_attempts WHERE job_id = jobs.id AND outcome = 'lost')",
    )
    .bind(kills)
    .fetch_all(&testbed.pool)
    .await?)
}

/// Waits until no job is due or running, and notes a violation if that does not come to be.
pub async fn drain(testbed: &Testbed, limit: Duration, verdict: &mut Verdict) -> Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        // Each reads one partial index, so that looking costs the jobs nothing.
        let open: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM jobs WHERE state = 'queued' AND published_at IS NOT NULL)
                 OR EXISTS (SELECT FROM jobs WHERE state = 'queued' AND published_at IS NULL)
                 OR EXISTS (SELECT FROM jobs WHERE state = 'running')
                 OR EXISTS (SELECT FROM jobs WHERE state IN ('scheduled', 'retrying') AND run_at < now() + interval '5 minutes')",
        )
        .fetch_one(&testbed.pool)
        .await?;
        if !open {
            return Ok(());
        }
        if Instant::now() > deadline {
            let left: Vec<(String, String, i64, Option<String>)> = sqlx::query_as(
                "SELECT kind, state, count(*), max(last_error) FROM jobs WHERE state IN ('queued', 'running', 'retrying') GROUP BY kind, state",
            )
            .fetch_all(&testbed.pool)
            .await?;
            verdict.require(false, || format!("not done after {limit:?}: {left:?}"));
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until nothing is queued, running or to be tried again, and counts what stays: a job that only waits for a far
/// retry has not come to its end either. What the cron table adds meanwhile gets its time.
async fn nothing_left(testbed: &Testbed, verdict: &mut Verdict) -> Result<()> {
    let deadline = Instant::now() + LEFT_LIMIT;
    loop {
        let left: Vec<(String, String, i64, Option<String>)> = sqlx::query_as(
            "SELECT kind, state, count(*), max(last_error) FROM jobs WHERE state IN ('queued', 'running', 'retrying') GROUP BY kind, state",
        )
        .fetch_all(&testbed.pool)
        .await?;
        let count: i64 = left.iter().map(|(_, _, count, _)| count).sum();
        if count == 0 || Instant::now() > deadline {
            verdict.lose(count.unsigned_abs(), &format!("jobs that came to no end: {left:?}"));
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The engine's books: every job ended well, once, with its effects known.
pub async fn jobs(testbed: &Testbed, verdict: &mut Verdict) -> Result<()> {
    nothing_left(testbed, verdict).await?;
    let counts: Vec<(String, i64)> = sqlx::query_as("SELECT state, count(*) FROM jobs GROUP BY state")
        .fetch_all(&testbed.pool)
        .await?;
    let of = |state: &str| {
        let found = counts.iter().find(|(name, _)| name == state);
        found.map_or(0, |(_, count)| count.unsigned_abs())
    };
    verdict.jobs = of("succeeded");
    verdict.lose(of("dead") + of("quarantined") + of("cancelled"), "jobs given up");
    if verdict.lost > 0 {
        let given_up: Vec<(String, String, i32, i32, Option<String>)> = sqlx::query_as(
            "SELECT kind, state, attempt, crash_count, last_error FROM jobs WHERE state IN ('dead', 'quarantined', 'cancelled') LIMIT 5",
        )
        .fetch_all(&testbed.pool)
        .await?;
        verdict.require(false, || format!("given up: {given_up:?}"));
    }
    let (none, twice): (i64, i64) = sqlx::query_as(
        // A job that is asked for while it runs begins anew with its first attempt, and may end once more. What was handed
        // back, snoozed or interrupted did not count.
        "SELECT count(*) FILTER (WHERE ended = 0), count(*) FILTER (WHERE ended > begun) FROM (
             SELECT count(*) FILTER (WHERE outcome = 'succeeded') AS ended,
                    count(*) FILTER (WHERE job_attempts.attempt = 1 AND outcome NOT IN ('handed_back', 'snoozed', 'interrupted')) AS begun
             FROM jobs LEFT JOIN job_attempts ON job_attempts.job_id = jobs.id
             WHERE jobs.state = 'succeeded' GROUP BY jobs.id) AS one",
    )
    .fetch_one(&testbed.pool)
    .await?;
    verdict.lose(none.unsigned_abs(), "ends of jobs that no attempt tells of");
    verdict.double(twice.unsigned_abs(), "jobs that ended twice");
    let open: Vec<(String, String)> =
        sqlx::query_as("SELECT key, state FROM effects WHERE state IN ('intent', 'unknown')")
            .fetch_all(&testbed.pool)
            .await?;
    verdict.require(open.is_empty(), || {
        let examples: Vec<_> = open.iter().take(3).collect();
        format!("{} effects of unknown outcome: {examples:?}", open.len())
    });
    Ok(())
}

/// The jobs of the harness, by the witnesses of their effects: each took effect, none did twice, and none by a claim that
/// was not the one that ended it.
pub async fn marks(testbed: &Testbed, nonces: &[Uuid], verdict: &mut Verdict) -> Result<()> {
    let (none, twice, stale): (i64, i64, i64) = sqlx::query_as(
        "WITH written AS (
             SELECT nonce, jobs.id AS job_id, chaos_effects.fence FROM chaos_effects
             LEFT JOIN jobs ON jobs.args->>'nonce' = nonce::text AND jobs.kind LIKE 'chaos.%' AND jobs.state = 'succeeded'
             UNION ALL SELECT split_part(key, ':', 2)::uuid, job_id, fence FROM chaos_effect_writes
             WHERE key LIKE 'chaos:%' AND state = 'done'),
         there AS (
             SELECT nonce FROM chaos_effects
             UNION ALL SELECT entity_id FROM effects WHERE key LIKE 'chaos:%' AND state = 'done')
         SELECT (SELECT count(*) FROM (
                     SELECT unnest($1::uuid[]) EXCEPT (SELECT nonce FROM written INTERSECT SELECT nonce FROM there)) AS missing),
                (SELECT count(*) FROM (SELECT FROM written GROUP BY nonce HAVING count(*) > 1) AS doubled),
                (SELECT count(*) FROM written WHERE NOT EXISTS (
                     SELECT FROM job_attempts AS attempt
                     WHERE attempt.job_id = written.job_id AND attempt.fence = written.fence AND outcome = 'succeeded'))",
    )
    .bind(nonces)
    .fetch_one(&testbed.pool)
    .await?;
    verdict.lose(none.unsigned_abs(), "effects of the harness's jobs");
    verdict.double(twice.unsigned_abs(), "effects of the harness's jobs");
    verdict.double(stale.unsigned_abs(), "effects by claims that ended nothing");
    Ok(())
}

/// The bookings that were answered for, and no others, each with its end, its jobs, its money and its mail.
pub async fn bookings(
    testbed: &Testbed,
    asked: &[Asked],
    fate: impl Fn(&Asked) -> Fate,
    verdict: &mut Verdict,
) -> Result<()> {
    let answered = booked(asked);
    for one in asked {
        if let Answer::Refused(status, code) = &one.answer {
            // Nobody else wants these nights: only an earlier try of the same request can be in the way.
            verdict.double(u64::from(*status == 409), "bookings that met themselves");
            verdict.require(*status == 409, || format!("refused: {status} {code}"));
        }
    }
    let rows: Vec<(Uuid, String, i64, String, i64, i64)> = sqlx::query_as(
        "SELECT bookings.id, bookings.state, total_minor, coalesce(payments.state, 'no payment'),
                coalesce(captured_minor, 0), coalesce(refunded_minor, 0)
         FROM bookings LEFT JOIN payments ON payments.booking_id = bookings.id",
    )
    .fetch_all(&testbed.pool)
    .await?;
    let there: HashSet<Uuid> = rows.iter().map(|row| row.0).collect();
    let missing = answered.keys().filter(|id| !there.contains(id)).count();
    verdict.lose(missing as u64, "bookings that were answered with 201");
    let unasked = there.iter().filter(|id| !answered.contains_key(id)).count();
    verdict.double(unasked as u64, "bookings that no request was told of");
    // Nobody tries a second card.
    verdict.double((rows.len() - there.len()) as u64, "payments of one booking");

    let mut wrong = Vec::new();
    for (booking, state, total, paid, captured, refunded) in &rows {
        let Some(asked) = answered.get(booking) else { continue };
        let expected = match fate(asked) {
            Fate::Captured => ("confirmed", "captured", *total, 0),
            Fate::Declined => ("held", "failed", 0, 0),
            Fate::Refunded => ("cancelled_by_guest", "captured", *total, *total),
            Fate::Released => ("cancelled_by_guest", "voided", 0, 0),
            Fate::Expired => ("expired", "voided", 0, 0),
            Fate::Completed => ("completed", "captured", *total, 0),
            Fate::Unpaid => ("payment_failed", "voided", 0, 0),
        };
        if (state.as_str(), paid.as_str(), *captured, *refunded) != expected {
            wrong.push(format!(
                "{booking}: {state}, {paid}, {captured} captured, {refunded} refunded"
            ));
        }
    }
    let examples: Vec<&String> = wrong.iter().take(3).collect();
    verdict.require(wrong.is_empty(), || {
        format!("{} bookings ended wrongly: {examples:?}", wrong.len())
    });
    money::agrees_with_stripe(testbed, verdict).await?;
    money::books(testbed, verdict).await?;
    timelines(testbed, verdict).await?;
    links(testbed, verdict).await?;
    let confirmed = answered.iter().filter_map(|(id, one)| match fate(one) {
        Fate::Captured | Fate::Refunded | Fate::Completed => Some((*id, true)),
        // Unless the bank was quicker than the mail.
        Fate::Unpaid => Some((*id, false)),
        Fate::Declined | Fate::Released | Fate::Expired => None,
    });
    confirmations(testbed, &confirmed.collect(), verdict).await?;
    told_once(testbed, verdict).await
}

/// The stars of the reviews that are public, each counted once.
pub async fn stars(testbed: &Testbed, verdict: &mut Verdict) -> Result<()> {
    let (public, awaited): (i64, i64) = sqlx::query_as(
        "SELECT count(*) FILTER (WHERE published_at IS NOT NULL), count(*) FILTER (WHERE published_at IS NULL) FROM reviews",
    )
    .fetch_one(&testbed.pool)
    .await?;
    verdict.figure("reviews", public as f64);
    verdict.require(public > 0, || "no review was published".to_owned());
    // Both sides have written.
    verdict.lose(awaited.unsigned_abs(), "publications of reviews");
    let wrong = wrong_sums(&testbed.pool).await?;
    let examples: Vec<&String> = wrong.iter().take(3).collect();
    verdict.require(wrong.is_empty(), || {
        format!("{} sums of stars are wrong: {examples:?}", wrong.len())
    });
    Ok(())
}

/// Nothing is told by two mails; what is told is told by a repetition of the same.
async fn told_once(testbed: &Testbed, verdict: &mut Verdict) -> Result<()> {
    let twice: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM (SELECT FROM jobs WHERE kind = 'mail.send' GROUP BY args HAVING count(*) > 1) AS again",
    )
    .fetch_one(&testbed.pool)
    .await?;
    verdict.double(twice.unsigned_abs(), "jobs of mails");
    let sent: Vec<Option<String>> = sqlx::query_scalar(
        "SELECT CASE WHEN state = 'done' THEN trim(external_id, '<>') END FROM effects WHERE key LIKE 'mail:%'",
    )
    .fetch_all(&testbed.pool)
    .await?;
    let mails = testbed.mails().await?;
    let arrived: HashSet<&str> = mails.iter().filter_map(|mail| mail["message_id"].as_str()).collect();
    let done: HashSet<&str> = sent.iter().flatten().map(String::as_str).collect();
    let lost = done.difference(&arrived).count();
    verdict.lose(lost as u64, "mails that count as sent");
    // What was begun may have been sent and then have had nothing more to say when it was tried again.
    let open = sent.iter().filter(|id| id.is_none()).count();
    let unknown = arrived.difference(&done).count().saturating_sub(open);
    verdict.double(unknown as u64, "mails under different ids");
    let nameless = mails.iter().filter(|mail| mail["message_id"].is_null()).count();
    verdict.require(nameless == 0, || format!("{nameless} mails have no Message-ID"));
    Ok(())
}

/// What happens once in a booking's life is told once.
async fn timelines(testbed: &Testbed, verdict: &mut Verdict) -> Result<()> {
    let twice: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM (
             SELECT FROM booking_events WHERE accepted AND event IN ('requested', 'payment_authorized', 'confirmed', 'payment_captured')
             GROUP BY booking_id, event HAVING count(*) > 1) AS doubled",
    )
    .fetch_one(&testbed.pool)
    .await?;
    verdict.double(twice.unsigned_abs(), "entries of timelines");
    Ok(())
}

/// No booking without its jobs, no job without its booking.
async fn links(testbed: &Testbed, verdict: &mut Verdict) -> Result<()> {
    let (bookings, jobs): (i64, i64) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM (
                     (SELECT id::text FROM payments WHERE number = 1
                      EXCEPT SELECT args->>'payment_id' FROM jobs WHERE kind = 'payment.authorize')
                     UNION ALL
                     (SELECT id::text FROM bookings EXCEPT SELECT args->>'booking_id' FROM jobs WHERE kind = 'booking.expire_hold')) AS alone),
                (SELECT count(*) FROM (
                     (SELECT args->>'booking_id' FROM jobs WHERE args ? 'booking_id' EXCEPT SELECT id::text FROM bookings)
                     UNION ALL
                     (SELECT args->>'payment_id' FROM jobs WHERE args ? 'payment_id' EXCEPT SELECT id::text FROM payments)) AS alone)",
    )
    .fetch_one(&testbed.pool)
    .await?;
    verdict.lose(bookings.unsigned_abs(), "jobs of bookings");
    verdict.require(jobs == 0, || format!("{jobs} jobs without a booking"));
    Ok(())
}

/// The confirmations among the mails, by how their subjects begin: to the guest and to the host.
const CONFIRMATIONS: [&str; 2] = ["Booked: ", "New booking: "];

/// Each confirmed booking is told to each side by one mail, and nobody else is told so. Mail is at least once; a repeated
/// one has the same Message-ID. `confirmed`: whether both sides have to know of it; if not, they may.
async fn confirmations(testbed: &Testbed, confirmed: &HashMap<Uuid, bool>, verdict: &mut Verdict) -> Result<()> {
    let sides: Vec<(Uuid, String, String)> = sqlx::query_as(
        "SELECT bookings.id, guest.email, host.email FROM bookings
         JOIN users AS guest ON guest.id = guest_id JOIN users AS host ON host.id = host_id",
    )
    .fetch_all(&testbed.pool)
    .await?;
    let mails = testbed.mails().await?;
    // By booking, side and addressee.
    let mut told: HashMap<(Uuid, &str, &str), HashSet<&Value>> = HashMap::new();
    let mut arrived = 0;
    for mail in &mails {
        let subject = mail["subject"].as_str().unwrap_or_default();
        let Some(side) = CONFIRMATIONS.into_iter().find(|start| subject.starts_with(start)) else {
            continue;
        };
        for to in mail["to"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let ids = told.entry((booking_linked(mail).unwrap_or_default(), side, to));
            ids.or_default().insert(&mail["message_id"]);
            arrived += 1;
        }
    }
    verdict.figure(
        "mails_repeated",
        (arrived - told.values().map(HashSet::len).sum::<usize>()) as f64,
    );
    let (mut missing, mut twice) = (0, 0);
    for (booking, guest, host) in &sides {
        let Some(has_to_be_told) = confirmed.get(booking) else {
            continue;
        };
        for (side, to) in CONFIRMATIONS.into_iter().zip([guest, host]) {
            let ids = told
                .remove(&(*booking, side, to.as_str()))
                .map_or(0, |ids| ids.len() as u64);
            missing += u64::from(ids == 0 && *has_to_be_told);
            twice += ids.saturating_sub(1);
        }
    }
    verdict.lose(missing, "mails of confirmed bookings");
    verdict.double(twice, "mails of confirmed bookings");
    verdict.require(told.is_empty(), || {
        let example = told.keys().next();
        format!("{} confirmations went to the wrong ones: {example:?}", told.len())
    });
    Ok(())
}

/// The booking that a mail links to.
fn booking_linked(mail: &Value) -> Option<Uuid> {
    let mut links = mail["links"].as_array()?.iter().filter_map(Value::as_str);
    links.find_map(|link| link.split_once("/bookings/")?.1.split('/').next()?.parse().ok())
}
