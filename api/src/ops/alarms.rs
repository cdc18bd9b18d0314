//! What the overview says is wrong: each line tells what it is, what to do about it, and where.

use roost_shared::jobs::failing::FailingKind;
use roost_shared::jobs::overview::{QueueState, Trouble, WorkerState};

use super::view::{bounded, cut, span};

/// A due job that waits longer than this is trouble, in seconds.
const WAITING_TOO_LONG: f64 = 60.0;
/// The audit log is checked every ten minutes, in seconds.
const UNCHECKED_TOO_LONG: f64 = 3_600.0;
/// Characters of an error that are shown; its jobs have the rest.
const LONGEST_ERROR: usize = 200;

/// Something that needs a person.
pub struct Alarm {
    /// Which sort of trouble it is, for scripts.
    pub code: &'static str,
    /// The queue or kind that has it, if it is that of one.
    pub subject: Option<String>,
    /// What is wrong.
    pub title: String,
    /// What to do about it.
    pub advice: String,
    /// Where to do it.
    pub href: String,
}

impl Alarm {
    /// Redis does not answer.
    pub(super) fn redis_is_down() -> Self {
        Self {
            code: "redis_down",
            subject: None,
            title: "Redis is down".to_owned(),
            advice: "Workers take jobs from Postgres meanwhile, and nobody can sign in to the API. Start it: it may be empty, \
                     nothing is lost."
                .to_owned(),
            href: "/ops/queues".to_owned(),
        }
    }
}

/// What needs a person, the worst first.
pub(super) fn alarms(
    queues: &[QueueState],
    workers: &[WorkerState],
    failing: &[FailingKind],
    trouble: Trouble,
) -> Vec<Alarm> {
    let mut alarms = Vec::new();
    let mut alarm = |code, subject: Option<&str>, title: String, advice: &str, href: String| {
        alarms.push(Alarm {
            code,
            subject: subject.map(str::to_owned),
            title,
            advice: advice.to_owned(),
            href,
        });
    };
    if !workers.iter().any(WorkerState::is_alive) {
        alarm(
            "no_worker",
            None,
            "No worker is alive".to_owned(),
            "Nothing runs until one starts; jobs wait safely meanwhile.",
            "/ops/workers".to_owned(),
        );
    }
    if let Some(seq) = trouble.audit_broken {
        alarm(
            "audit_broken",
            None,
            format!("Entry {seq} of the audit log is not as it was written"),
            "Somebody changed it in Postgres: the workers' logs have the seals of what it was. Or JWT_SECRET was changed \
             without JWT_SECRET_PREVIOUS: then roost-api ops unseal-audit.",
            "/ops/audit".to_owned(),
        );
    } else if trouble.audit_unchecked_seconds > UNCHECKED_TOO_LONG {
        alarm(
            "audit_unchecked",
            None,
            format!(
                "Nobody has checked the audit log for {}",
                span(trouble.audit_unchecked_seconds)
            ),
            "Its job runs every ten minutes: see what became of the last ones.",
            "/ops/jobs?kind=audit.verify".to_owned(),
        );
    }
    for queue in queues {
        let served = workers
            .iter()
            .any(|worker| worker.is_alive() && worker.queues.contains(&queue.name));
        if queue.paused {
            alarm(
                "queue_paused",
                Some(&queue.name),
                format!("{} is paused", queue.name),
                "Jobs wait until somebody resumes it.",
                "/ops/queues".to_owned(),
            );
        } else if queue.due > 0 && !served {
            alarm(
                "queue_unserved",
                Some(&queue.name),
                format!("Nobody works on {}", queue.name),
                "No living worker takes this queue: start one with it among its --queues.",
                "/ops/workers".to_owned(),
            );
        } else if queue.due > 0 && queue.seconds_to_breach() < 0.0 {
            alarm(
                "queue_behind",
                Some(&queue.name),
                format!("{} is behind: {} waiting", queue.name, span(queue.oldest_due_seconds)),
                if queue.limited {
                    "It, or one of its kinds, is limited: see its limits on the queues page."
                } else if queue.publish_lag_seconds > WAITING_TOO_LONG {
                    "Jobs do not reach Redis: is it up? Workers publish them as soon as it is."
                } else {
                    "More workers, or something that each of its jobs waits for."
                },
                format!("/ops/jobs?queue={}&state=queued", queue.name),
            );
        }
    }
    for kind in failing {
        let why = kind.newest_error.as_deref().unwrap_or("its workers were lost");
        alarm(
            "kind_failing",
            Some(&kind.kind),
            format!(
                "{} fails: {} of {} attempts within 10 minutes",
                kind.kind,
                bounded(kind.failed),
                bounded(kind.failed + kind.succeeded)
            ),
            &cut(why, LONGEST_ERROR),
            format!("/ops/jobs?{}", jobs_that_fail(&kind.kind)),
        );
    }
    if trouble.unknown_effects > 0 {
        alarm(
            "effects_unknown",
            None,
            several(
                trouble.unknown_effects,
                "call with an unknown outcome",
                "calls with an unknown outcome",
            ),
            "Their jobs try again under the same key. If they stay, ask Stripe on the job's page.",
            "/ops/jobs?effect=unknown".to_owned(),
        );
    }
    if trouble.died_today > 0 {
        alarm(
            "jobs_died",
            None,
            several(trouble.died_today, "job died within a day", "jobs died within a day"),
            "Look at their errors; retry them when the cause is gone.",
            "/ops/jobs?state=dead&state=quarantined".to_owned(),
        );
    }
    if trouble.overdue_leases > 0 {
        alarm(
            "leases_overdue",
            None,
            several(
                trouble.overdue_leases,
                "running job has lost its worker",
                "running jobs have lost their worker",
            ),
            "They are taken back within seconds if any worker is alive.",
            "/ops/jobs?state=running".to_owned(),
        );
    }
    alarms
}

fn several(number: i64, one: &str, many: &str) -> String {
    format!("{} {}", bounded(number), if number == 1 { one } else { many })
}

/// Where the jobs are whose attempts fail: most wait for another attempt, some have none left.
fn jobs_that_fail(kind: &str) -> String {
    form_urlencoded::Serializer::new(String::new())
        .append_pair("kind", kind)
        .append_pair("state", "retrying")
        .append_pair("state", "dead")
        .finish()
}
