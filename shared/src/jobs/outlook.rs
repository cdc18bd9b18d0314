//! What running a job again would do, in words: what it repeats, what it skips, what it asks first. Pure.

mod answered;
mod money;

use super::inspect::Effect;
use super::inspections::Inspection;
use crate::money::Money;

/// How a sentence is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// Nothing happens twice.
    Safe,
    /// Something in the world will happen.
    Acts,
    /// Nobody knows yet; the job looks first.
    Asks,
    /// It would come to nothing, or has to be looked at by a person.
    Futile,
}

impl Tone {
    /// In styles and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Safe => "safe",
            Self::Acts => "acts",
            Self::Asks => "asks",
            Self::Futile => "futile",
        }
    }
}

/// A sentence about the next run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outlook {
    /// How to take it.
    pub tone: Tone,
    /// The sentence.
    pub text: String,
}

/// A payment as our record has it.
#[derive(Clone, Copy, Debug)]
pub struct PaymentFacts {
    /// Its state.
    pub state: &'static str,
    /// What the guest pays.
    pub amount: Money,
    /// What was taken.
    pub captured: Money,
    /// What went back.
    pub refunded: Money,
}

/// A refund as our record has it.
#[derive(Clone, Copy, Debug)]
pub struct RefundFacts {
    /// What goes back.
    pub amount: Money,
    /// Whether it has gone back.
    pub succeeded: bool,
}

/// What is known.
pub(super) struct Facts<'a> {
    pub kind: &'a str,
    pub state: &'a str,
    /// The outcome of the newest attempt.
    pub last_outcome: Option<&'a str>,
    pub effects: &'a [Effect],
    /// What Stripe was asked about them.
    pub inspections: &'a [Inspection],
    pub payment: Option<PaymentFacts>,
    pub refund: Option<RefundFacts>,
}

const UNKNOWN_KIND: &str =
    "This build knows nothing about this kind. A retry waits until a worker that knows it takes it.";

/// What a retry would do.
pub(super) fn outlook(facts: &Facts<'_>) -> Vec<Outlook> {
    if facts.state == "running" {
        return vec![say(
            Tone::Asks,
            "It runs at this moment. Cancelling asks the worker to stop; what it has begun at Stripe is not taken back.",
        )];
    }
    let mut lines = match facts.kind {
        "payment.authorize" => money::authorize(facts),
        "payment.capture" => money::capture(facts),
        "payment.void" => money::void(facts),
        "payment.refund" => money::refund(facts),
        "mail.send" => mail(facts),
        "stripe.event.handle" => vec![say(
            Tone::Safe,
            "A run reads the object at Stripe as it is now and moves our record forward, never back. Repeating it changes nothing.",
        )],
        "booking.confirm" => vec![say(
            Tone::Safe,
            "A run confirms the booking if its payment is authorised and nobody has, and a job of its own takes the money; on a booking that has moved on it does nothing.",
        )],
        "booking.expire_hold" => money::expire_hold(facts),
        "review.open" | "review.remind" => vec![say(
            Tone::Safe,
            "A run enqueues the mails that are still wanted. A mail of this kind that was sent is not sent again.",
        )],
        "review.publish" => vec![say(
            Tone::Safe,
            "A run publishes what may be public by now. What is public already is counted once.",
        )],
        "message.notify" => vec![say(
            Tone::Safe,
            "A run gathers what is unread and was not mailed yet. A message is mailed once.",
        )],
        "cache.warm" => vec![say(
            Tone::Safe,
            "A run renders the page again. Nobody but a reader notices.",
        )],
        "outbox.prune" => vec![say(
            Tone::Safe,
            "A run deletes what has served its purpose. Repeating it deletes nothing more.",
        )],
        "stays.complete" => vec![say(
            Tone::Safe,
            "A run completes the stays that are over and are not completed yet. Repeating it changes nothing.",
        )],
        "audit.verify" => vec![say(
            Tone::Safe,
            "A run checks the audit log from where the last one ended. Repeating it changes nothing.",
        )],
        "overdue.sweep" => vec![say(
            Tone::Acts,
            "A run gives a job to each hold, request, capture, refund and event that is overdue and has none; that job takes, releases or pays back what is due. What has a job gets no second one.",
        )],
        "effect.inspect" => vec![say(
            Tone::Safe,
            "A run looks at Stripe once more and changes nothing there.",
        )],
        "ops.bulk" => vec![say(
            Tone::Safe,
            "A run goes on where the last batch ended; no job is acted on twice.",
        )],
        _ => vec![say(Tone::Asks, UNKNOWN_KIND)],
    };
    if facts.state == "quarantined" {
        lines.insert(
            0,
            say(
                Tone::Futile,
                "Three workers died while they ran it. Find out why before it takes another one down.",
            ),
        );
    }
    lines
}

fn say(tone: Tone, text: impl Into<String>) -> Outlook {
    Outlook {
        tone,
        text: text.into(),
    }
}

fn english(money: Money) -> String {
    money.format("en")
}

fn effect<'a>(facts: &'a Facts<'_>, prefix: &str) -> Option<&'a Effect> {
    facts.effects.iter().find(|effect| effect.key.starts_with(prefix))
}

fn mail(facts: &Facts<'_>) -> Vec<Outlook> {
    vec![match effect(facts, "mail:") {
        Some(effect) if effect.state == "done" => say(
            Tone::Safe,
            "The mail server has taken the mail already: a retry sends nothing.",
        ),
        _ if facts.last_outcome == Some("failed") => say(
            Tone::Acts,
            "The mail server refused the mail for good. A retry offers it once more; it comes to the same unless the cause is gone.",
        ),
        Some(effect) if effect.state == "intent" || effect.state == "unknown" => say(
            Tone::Acts,
            "The mail may have been sent once already. A retry sends it again with the same Message-ID, which most mail programs show once.",
        ),
        _ => say(Tone::Acts, "The mail has not been sent. A retry sends it."),
    }]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::inspections::AtStripe;
    use crate::jobs::kinds::KINDS;
    use crate::money::Currency;

    fn payment(state: &'static str, captured: i64) -> Option<PaymentFacts> {
        Some(PaymentFacts {
            state,
            amount: Money::new(12_000, Currency::EUR),
            captured: Money::new(captured, Currency::EUR),
            refunded: Money::new(0, Currency::EUR),
        })
    }

    fn capture_of(effect_state: Option<&str>) -> Vec<Effect> {
        let at = "2030-06-01T12:00:00Z".parse().unwrap();
        effect_state
            .map(|state| Effect {
                key: "capture:1".to_owned(),
                state: state.to_owned(),
                external_id: None,
                error: Some("no answer in 30 s".to_owned()),
                first_sent_at: at,
                updated_at: at,
            })
            .into_iter()
            .collect()
    }

    #[test]
    fn a_capture_says_whether_money_would_move() {
        let line = |payment, effects: &[Effect]| {
            let facts = Facts {
                kind: "payment.capture",
                state: "dead",
                last_outcome: None,
                effects,
                inspections: &[],
                payment,
                refund: None,
            };
            outlook(&facts).remove(0)
        };
        let captured = line(payment("captured", 12_000), &[]);
        assert_eq!(
            (captured.tone, captured.text.as_str()),
            (Tone::Safe, "Stripe already captured €120.00: a retry marks it done.")
        );
        let fresh = line(payment("authorized", 0), &[]);
        assert_eq!(
            (fresh.tone, fresh.text.as_str()),
            (Tone::Acts, "A retry takes €120.00 from the guest's card.")
        );
        let unknown = line(payment("authorized", 0), &capture_of(Some("unknown")));
        assert_eq!(unknown.tone, Tone::Asks);
        assert!(unknown.text.contains("no answer in 30 s"), "{}", unknown.text);
        assert_eq!(line(None, &[]).tone, Tone::Futile);
    }

    #[test]
    fn an_answer_of_stripe_counts_until_the_next_attempt() {
        let effects = capture_of(Some("unknown"));
        let mut asked = Inspection {
            effect_key: "capture:1".to_owned(),
            asked_at: effects[0].updated_at,
            asked_by: "ada@ops.example.com".to_owned(),
            answered_at: Some(effects[0].updated_at),
            facts: Some(sqlx::types::Json(AtStripe::Intent {
                id: "pi_1".to_owned(),
                status: crate::stripe::IntentStatus::Succeeded,
                currency: Currency::EUR,
                amount_minor: 12_000,
                capturable_minor: 0,
                captured_minor: 12_000,
                refunded_minor: 0,
                capture_before: None,
                decline: None,
            })),
            error: None,
            effect_updated_at: Some(effects[0].updated_at),
        };
        let line = |asked: &Inspection| {
            let facts = Facts {
                kind: "payment.capture",
                state: "dead",
                last_outcome: None,
                effects: &effects,
                inspections: std::slice::from_ref(asked),
                payment: payment("authorized", 0),
                refund: None,
            };
            outlook(&facts).remove(0)
        };
        assert_eq!(asked.words().unwrap(), "Stripe captured €120.00 (pi_1).");
        let answered = line(&asked);
        assert_eq!(
            (answered.tone, answered.text.as_str()),
            (Tone::Safe, "Stripe already captured €120.00: a retry marks it done.")
        );
        asked.effect_updated_at = None;
        assert_eq!(line(&asked).tone, Tone::Asks);
    }

    #[test]
    fn the_end_of_a_hold_tells_of_the_release_before_the_nights() {
        let lines = |effects: &[Effect]| {
            outlook(&Facts {
                kind: "booking.expire_hold",
                state: "dead",
                last_outcome: None,
                effects,
                inspections: &[],
                payment: None,
                refund: None,
            })
        };
        let release = |state| {
            let mut effects = capture_of(Some(state));
            effects[0].key = "void:1".to_owned();
            lines(&effects)
        };
        assert_eq!(lines(&[]).len(), 1);
        let unknown = release("unknown");
        assert_eq!((unknown[0].tone, unknown[1].tone), (Tone::Asks, Tone::Safe));
        assert!(unknown[0].text.contains("no answer in 30 s"), "{}", unknown[0].text);
        assert!(release("done")[0].text.contains("released already"));
        assert!(release("failed")[0].text.contains("taken before"));
    }

    #[test]
    fn every_kind_has_an_outlook_of_its_own() {
        let of = |kind: &str| {
            outlook(&Facts {
                kind,
                state: "dead",
                last_outcome: None,
                effects: &[],
                inspections: &[],
                payment: None,
                refund: None,
            })
        };
        assert_eq!(of("of.another.build")[0].text, UNKNOWN_KIND);
        for kind in KINDS {
            let lines = of(kind.name);
            assert!(!lines.is_empty(), "{}", kind.name);
            assert!(lines.iter().all(|line| line.text != UNKNOWN_KIND), "{}", kind.name);
        }
    }

    #[test]
    fn a_quarantined_job_warns_first() {
        let facts = Facts {
            kind: "cache.warm",
            state: "quarantined",
            last_outcome: Some("lost"),
            effects: &[],
            inspections: &[],
            payment: None,
            refund: None,
        };
        let lines = outlook(&facts);
        assert_eq!((lines[0].tone, lines[1].tone), (Tone::Futile, Tone::Safe));
    }
}
