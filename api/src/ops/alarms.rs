//! What the overview says is wrong: each line tells what it is, what to do about it, and where.

use poem_openapi::Enum;
use roost_shared::jobs::failing::FailingKind;
use roost_shared::jobs::overview::{QueueState, Trouble, WorkerState};

use super::view::{bounded, cut, span};

/// A due job that waits longer than this is trouble, in seconds.
const WAITING_TOO_LONG: f64 = 60.0;
/// The audit log is checked every ten minutes, in seconds.
const UNCHECKED_TOO_LONG: f64 = 3_600.0;
/// Characters of an error that are shown; its jobs have the rest.
const LONGEST_ERROR: usize = 200;

/// Which sort of trouble it is
#[derive(Enum, Clone, Copy, Debug, PartialEq, Eq)]
#[oai(rename_all = "snake_case")]
pub enum AlarmCode {
    RedisDown,
    NoWorker,
    WorkersQuiet,
    AuditBroken,
    AuditUnchecked,
    QueuePaused,
    QueueUnserved,
    QueueBehind,
    KindFailing,
    EffectsUnknown,
    JobsDied,
    LeasesOverdue,
}

/// Something that needs a person.
pub struct Alarm {
    /// Which sort of trouble it is, for scripts.
    pub code: AlarmCode,
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
            code: AlarmCode::RedisDown,
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
            AlarmCode::NoWorker,
            None,
            "No worker is alive".to_owned(),
            "Nothing runs until one starts; jobs wait safely meanwhile.",
            "/ops/workers".to_owned(),
        );
    } else if !workers.iter().any(WorkerState::takes_jobs) {
        alarm(
            AlarmCode::WorkersQuiet,
            None,
            "Every worker is quiet or stopping".to_owned(),
            "None takes anything new; jobs wait safely meanwhile. Resume one that is quiet, or start another.",
            "/ops/workers".to_owned(),
        );
    }
    if let Some(seq) = trouble.audit_broken {
        alarm(
            AlarmCode::AuditBroken,
            None,
            format!("Entry {seq} of the audit log is not as it was written"),
            "Somebody changed it in Postgres: the workers' logs have the seals of what it was. Or JWT_SECRET was changed \
             without JWT_SECRET_PREVIOUS: then roost-api ops unseal-audit.",
            "/ops/audit".to_owned(),
        );
    } else if trouble.audit_unchecked_seconds > UNCHECKED_TOO_LONG {
        alarm(
            AlarmCode::AuditUnchecked,
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
            .any(|worker| worker.takes_jobs() && worker.queues.contains(&queue.name));
        if queue.paused {
            alarm(
                AlarmCode::QueuePaused,
                Some(&queue.name),
                format!("{} is paused", queue.name),
                "Jobs wait until somebody resumes it.",
                "/ops/queues".to_owned(),
            );
        } else if queue.due > 0 && !served {
            alarm(
                AlarmCode::QueueUnserved,
                Some(&queue.name),
                format!("Nobody works on {}", queue.name),
                "No worker takes jobs of this queue: start one with it among its --queues, or resume one that is quiet.",
                "/ops/workers".to_owned(),
            );
        } else if queue.due > 0 && queue.seconds_to_breach() < 0.0 {
            alarm(
                AlarmCode::QueueBehind,
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
            AlarmCode::KindFailing,
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
            AlarmCode::EffectsUnknown,
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
            AlarmCode::JobsDied,
            None,
            several(trouble.died_today, "job died within a day", "jobs died within a day"),
            "Look at their errors; retry them when the cause is gone.",
            "/ops/jobs?state=dead&state=quarantined".to_owned(),
        );
    }
    if trouble.overdue_leases > 0 {
        alarm(
            AlarmCode::LeasesOverdue,
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

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use poem_openapi::registry::Registry;
    use poem_openapi::types::{ToJSON, Type};
    use serde_json::Value;

    use super::*;

    /// A queue of which something has been due for so long.
    fn queue(name: &str, oldest_due_seconds: f64) -> QueueState {
        QueueState {
            name: name.to_owned(),
            paused: false,
            due: 1,
            unpublished: 0,
            oldest_due_seconds,
            publish_lag_seconds: 0.0,
            running: 0,
            limited: false,
            concurrency: None,
            rate_limit: None,
            rate_seconds: 1,
            target_seconds: 60,
            weight: 1,
        }
    }

    /// One that serves payments and has just been heard of.
    fn worker() -> WorkerState {
        WorkerState {
            name: "w".to_owned(),
            host: "rack-7".to_owned(),
            version: "1.0".to_owned(),
            queues: vec!["payments".to_owned()],
            concurrency: 8,
            started_at: DateTime::UNIX_EPOCH,
            seen_at: DateTime::UNIX_EPOCH,
            stopped_at: None,
            silent_seconds: 0.0,
            running: 0,
            quiet: false,
            stop: false,
        }
    }

    fn quiet() -> WorkerState {
        WorkerState {
            quiet: true,
            ..worker()
        }
    }

    fn stopping() -> WorkerState {
        WorkerState { stop: true, ..worker() }
    }

    fn raised(queues: &[QueueState], workers: &[WorkerState]) -> Vec<AlarmCode> {
        let alarms = alarms(queues, workers, &[], Trouble::default());
        alarms.iter().map(|alarm| alarm.code).collect()
    }

    #[test]
    fn who_takes_nothing_new_serves_no_queue() {
        let payments = [queue("payments", 1.0)];
        assert_eq!(raised(&payments, &[worker()]), []);
        let silent = WorkerState {
            silent_seconds: 20.0,
            ..worker()
        };
        assert_eq!(
            raised(&payments, std::slice::from_ref(&silent)),
            [AlarmCode::NoWorker, AlarmCode::QueueUnserved]
        );
        for none_takes in [vec![quiet()], vec![stopping()], vec![quiet(), stopping(), silent]] {
            assert_eq!(
                raised(&payments, &none_takes),
                [AlarmCode::WorkersQuiet, AlarmCode::QueueUnserved]
            );
        }
        assert_eq!(raised(&payments, &[quiet(), worker()]), []);
        // Another that works does not serve it.
        let warmer = WorkerState {
            queues: vec!["cache".to_owned()],
            ..worker()
        };
        assert_eq!(raised(&payments, &[quiet(), warmer]), [AlarmCode::QueueUnserved]);
    }

    #[test]
    fn every_alarm_is_in_the_document_and_can_be_raised() {
        let failing = FailingKind {
            kind: "mail.send".to_owned(),
            failed: 3,
            succeeded: 0,
            newest_error: None,
        };
        let trouble = Trouble {
            unknown_effects: 1,
            died_today: 1,
            overdue_leases: 1,
            audit_broken: Some(7),
            audit_unchecked_seconds: 0.0,
        };
        let unchecked = Trouble {
            audit_unchecked_seconds: UNCHECKED_TOO_LONG + 1.0,
            ..Trouble::default()
        };
        let paused = QueueState {
            paused: true,
            ..queue("cache", 1.0)
        };
        let mut raised = vec![Alarm::redis_is_down()];
        raised.extend(alarms(&[paused, queue("payments", 1.0)], &[], &[failing], trouble));
        raised.extend(alarms(&[queue("payments", 61.0)], &[worker()], &[], unchecked));
        raised.extend(alarms(&[], &[quiet()], &[], Trouble::default()));
        let mut raised: Vec<Value> = raised.iter().filter_map(|alarm| alarm.code.to_json()).collect();

        let mut document = Registry::new();
        AlarmCode::register(&mut document);
        let mut documented = document.schemas["AlarmCode"].enum_items.clone();
        for codes in [&mut raised, &mut documented] {
            codes.sort_by_key(Value::to_string);
            codes.dedup();
        }
        assert_eq!(raised, documented);
    }
}
