//! The state machine against a reference that knows nothing but what happened, and what must hold whatever the order.

use proptest::prelude::*;

use super::super::list::STATES;
use super::*;

/// What is tried on a job. A claim is named by how many came after it, so that stale ones are tried as well.
#[derive(Clone, Copy, Debug)]
enum Step {
    Event(Event),
    Renew(i64),
    Settle(i64, Ending),
    HandBack(i64),
}

impl Step {
    const fn on(self, job: Lifecycle) -> Event {
        match self {
            Self::Event(event) => event,
            Self::Renew(age) => Event::Renew(job.fence - age),
            Self::Settle(age, ending) => Event::Settle(job.fence - age, ending),
            Self::HandBack(age) => Event::HandBack(job.fence - age),
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let age = || prop_oneof![4 => Just(0_i64), 1 => 1..3_i64];
    let step = prop_oneof![
        6 => Just(Step::Event(Event::Claim)),
        3 => Just(Step::Event(Event::ClaimSuspect)),
        3 => Just(Step::Event(Event::Promote)),
        2 => Just(Step::Event(Event::Publish)),
        1 => Just(Step::Event(Event::Unpublish)),
        1 => Just(Step::Event(Event::Adopt)),
        2 => Just(Step::Event(Event::Want)),
        3 => any::<bool>().prop_map(|beside_a_suspect| Step::Event(Event::Lose { beside_a_suspect })),
        1 => Just(Step::Event(Event::Retry)),
        1 => Just(Step::Event(Event::RunNow)),
        1 => Just(Step::Event(Event::Cancel)),
        1 => Just(Step::Event(Event::Edit)),
        1 => age().prop_map(Step::Renew),
        1 => age().prop_map(Step::HandBack),
        6 => (age(), prop::sample::select(Ending::ALL.to_vec())).prop_map(|(age, ending)| Step::Settle(age, ending)),
    ];
    prop::collection::vec(step, 0..60)
}

fn jobs() -> impl Strategy<Value = Lifecycle> {
    (1..4, any::<bool>()).prop_map(|(max_attempts, due)| Lifecycle::new(max_attempts, due))
}

/// A job as its history tells it: no field of its own, everything is counted anew.
struct Reference {
    first: Lifecycle,
    history: Vec<Event>,
}

impl Reference {
    const fn is_claim(event: Event) -> bool {
        matches!(event, Event::Claim | Event::ClaimSuspect | Event::Adopt)
    }

    fn fence(&self) -> i64 {
        count(&self.history, |event| Self::is_claim(*event)).into()
    }

    /// The events after the last one that `ends` says.
    fn since(&self, ends: impl Fn(usize, &Event) -> bool) -> &[Event] {
        let last = (0..self.history.len()).rev().find(|at| ends(*at, &self.history[*at]));
        &self.history[last.map_or(0, |at| at + 1)..]
    }

    /// As it was before the event at `at`.
    fn before(&self, at: usize) -> Self {
        Self {
            first: self.first,
            history: self.history[..at].to_vec(),
        }
    }

    fn is_wanted(&self) -> bool {
        let since = self.since(|_, event| Self::is_claim(*event) || matches!(event, Event::Settle(..)));
        since.contains(&Event::Want)
    }

    fn is_to_stop(&self) -> bool {
        let since = self.since(|_, event| matches!(event, Event::Settle(..) | Event::Retry));
        since.contains(&Event::Cancel)
    }

    /// Claims since it last began anew, without those that were given back.
    fn attempt(&self) -> i32 {
        let began_anew = |at: usize, event: &Event| match event {
            Event::Settle(_, ending) => {
                let before = self.before(at);
                !ending.state(before.attempt(), before.max_attempts()).waits() && before.is_wanted()
            }
            _ => false,
        };
        let since = self.since(began_anew);
        let claims = count(since, |event| matches!(event, Event::Claim | Event::ClaimSuspect));
        claims
            - count(since, |event| {
                matches!(
                    event,
                    Event::HandBack(_) | Event::Settle(_, Ending::Snoozed | Ending::Interrupted)
                )
            })
    }

    fn max_attempts(&self) -> i32 {
        let retried = (0..self.history.len()).filter(|at| self.history[*at] == Event::Retry);
        retried
            .map(|at| self.before(at).attempt() + MORE_ATTEMPTS)
            .fold(self.first.max_attempts, i32::max)
    }

    fn crash_count(&self) -> i32 {
        let since = self.since(|_, event| matches!(event, Event::Settle(..) | Event::Retry));
        since.iter().fold(0, |crashes, event| match event {
            Event::Lose { beside_a_suspect } if crashes > 0 || !beside_a_suspect => crashes + 1,
            _ => crashes,
        })
    }

    fn state(&self) -> JobState {
        let moved = (0..self.history.len())
            .rev()
            .find_map(|at| Some((at, self.moved_to(at)?)));
        moved.map_or(self.first.state, |(_, state)| state)
    }

    /// Where the event at `at` brought it; none: it stayed where it was.
    fn moved_to(&self, at: usize) -> Option<JobState> {
        let before = self.before(at);
        match self.history[at] {
            Event::Promote | Event::Retry | Event::RunNow | Event::HandBack(_) => Some(JobState::Queued),
            Event::Claim | Event::ClaimSuspect | Event::Adopt => Some(JobState::Running),
            Event::Cancel => (before.state() != JobState::Running).then_some(JobState::Cancelled),
            Event::Lose { .. } => match self.before(at + 1).crash_count() {
                MAX_CRASHES if before.crash_count() < MAX_CRASHES => Some(JobState::Quarantined),
                _ => Some(JobState::Queued),
            },
            Event::Settle(_, ending) => {
                let state = ending.state(before.attempt(), before.max_attempts());
                Some(match state.waits() {
                    true if before.is_to_stop() => JobState::Cancelled,
                    false if before.is_wanted() => JobState::Queued,
                    _ => state,
                })
            }
            Event::Publish | Event::Unpublish | Event::Renew(_) | Event::Want | Event::Edit => None,
        }
    }
}

fn count(events: &[Event], holds: impl Fn(&Event) -> bool) -> i32 {
    i32::try_from(events.iter().filter(|event| holds(event)).count()).unwrap()
}

#[test]
fn the_lists_of_states_agree() {
    assert_eq!(STATES, JobState::ALL.map(JobState::name));
    for state in JobState::ALL {
        assert_eq!(JobState::by_name(state.name()), Some(state));
    }
}

proptest! {
    #[test]
    fn what_happened_tells_where_a_job_stands(first in jobs(), steps in steps()) {
        let mut job = first;
        let mut reference = Reference { first, history: Vec::new() };
        for step in steps {
            let event = step.on(job);
            if let Some(after) = job.after(event) {
                reference.history.push(event);
                job = after;
            }
            prop_assert_eq!(job.state, reference.state(), "{:?}", &reference.history);
            prop_assert_eq!(job.fence, reference.fence(), "{:?}", &reference.history);
            prop_assert_eq!(job.attempt, reference.attempt(), "{:?}", &reference.history);
            prop_assert_eq!(job.max_attempts, reference.max_attempts(), "{:?}", &reference.history);
            prop_assert_eq!(job.crash_count, reference.crash_count(), "{:?}", &reference.history);
        }
    }

    #[test]
    fn whatever_the_order(first in jobs(), steps in steps()) {
        let mut job = first;
        for step in steps {
            let event = step.on(job);
            let Some(after) = job.after(event) else { continue };
            if !job.state.is_open() && after.state != job.state {
                prop_assert_eq!(event, Event::Retry, "left {:?} by itself", job.state);
            }
            let claims = i64::from(Reference::is_claim(event));
            prop_assert_eq!(after.fence, job.fence + claims, "the fence counts claims");
            let holders = (0..=after.fence).filter(|fence| after.is_held_by(*fence)).count();
            prop_assert_eq!(holders, usize::from(after.state == JobState::Running), "leases that hold");
            if matches!(event, Event::Publish | Event::Unpublish | Event::Renew(_)) {
                prop_assert_eq!(Lifecycle { published: job.published, ..after }, job, "Redis decides nothing");
            }
            if event == Event::Edit {
                prop_assert!(job.state != JobState::Running && job.state != JobState::Succeeded, "edited too late");
                prop_assert_eq!(after, job, "other arguments are no other life");
            }
            if let Event::Settle(fence, _) | Event::HandBack(fence) | Event::Renew(fence) = event {
                prop_assert!(job.is_held_by(fence), "a stale worker wrote");
                prop_assert!(!after.is_held_by(fence) || matches!(event, Event::Renew(_)), "settled twice");
            }
            if matches!(event, Event::Settle(..)) && job.rerun && !job.cancel_requested {
                prop_assert!(after.state.is_open(), "what was wanted meanwhile was forgotten");
            }
            prop_assert!(after.attempt >= i32::from(after.state == JobState::Running), "an attempt that was never begun");
            prop_assert!((after.attempt - job.attempt).abs() <= 1 || job.rerun, "more than one attempt at once");
            let suspected = after.state == JobState::Queued && after.crash_count > 0;
            prop_assert!(!(suspected && after.published), "a suspect went through Redis");
            prop_assert_eq!(
                after.state == JobState::Quarantined,
                after.crash_count >= MAX_CRASHES && !after.state.is_open(),
                "quarantine"
            );
            job = after;
        }
    }

    #[test]
    fn what_is_open_comes_to_an_end(first in jobs(), steps in steps()) {
        let mut job = first;
        for step in steps {
            job = job.after(step.on(job)).unwrap_or(job);
        }
        let mut rounds = 0;
        while job.state.is_open() {
            let next = match job.state {
                JobState::Scheduled | JobState::Retrying => job.after(Event::Promote),
                JobState::Queued => job.after(Event::Claim).or_else(|| job.after(Event::ClaimSuspect)),
                _ => job.after(Event::Settle(job.fence, Ending::Succeeded)),
            };
            let Some(next) = next else { return Err(TestCaseError::fail(format!("stuck: {job:?}"))) };
            job = next;
            rounds += 1;
            prop_assert!(rounds < 8, "no end in sight: {:?}", job);
        }
    }
}
