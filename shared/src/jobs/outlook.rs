//! What running a job again would do, in words: what it repeats, what it skips, what it asks first. Pure.

mod answered;

use super::inspect::Effect;
use super::inspections::{AtStripe, Inspection};
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
        "payment.authorize" => authorize(facts),
        "payment.capture" => capture(facts),
        "payment.void" => void(facts),
        "payment.refund" => refund(facts),
        "mail.send" => mail(facts),
        "stripe.event.handle" => vec![say(
            Tone::Safe,
            "A run reads the object at Stripe as it is now and moves our record forward, never back. Repeating it changes nothing.",
        )],
        "booking.confirm" => vec![say(
            Tone::Safe,
            "A run confirms the booking if its payment is authorised and nobody has; on a booking that has moved on it does nothing.",
        )],
        "booking.expire_hold" => vec![say(
            Tone::Safe,
            "A run releases the nights only if the booking is still held or undecided and its time is over. Reserved money is released first.",
        )],
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

/// What Stripe said of the effect, if it was asked and no attempt has come since.
fn answer<'a>(facts: &'a Facts<'_>, effect: &Effect) -> Option<&'a AtStripe> {
    let asked = facts.inspections.iter().find(|asked| asked.effect_key == effect.key)?;
    asked.answer_on(effect)
}

/// Whether nobody has recorded what became of it.
fn is_open(effect: &Effect) -> bool {
    matches!(effect.state.as_str(), "unknown" | "intent")
}

/// The call was made, and its outcome was never learnt.
fn in_doubt(effect: &Effect, what: &str) -> Outlook {
    let why = effect
        .error
        .as_deref()
        .map(|error| format!(" ({error})"))
        .unwrap_or_default();
    say(
        Tone::Asks,
        format!(
            "Stripe was asked and nobody knows the outcome{why}. A retry reads the payment at Stripe first, then sends again under the same idempotency key: {what} happens once at most."
        ),
    )
}

fn authorize(facts: &Facts<'_>) -> Vec<Outlook> {
    let Some(payment) = facts.payment else {
        return vec![say(Tone::Futile, "Its payment is gone: a retry does nothing.")];
    };
    let amount = english(payment.amount);
    vec![match (payment.state, effect(facts, "authorize:")) {
        ("captured" | "authorized" | "voided", _) => say(
            Tone::Safe,
            format!(
                "Our record says the payment of {amount} is {}: a retry marks the job done.",
                payment.state
            ),
        ),
        ("failed", _) => say(
            Tone::Futile,
            "The card was refused, and a refused card is not tried again. The guest has to give another one.",
        ),
        (_, Some(effect)) if is_open(effect) => answer(facts, effect)
            .and_then(answered::authorization)
            .unwrap_or_else(|| in_doubt(effect, "the reservation")),
        ("requires_action", _) => say(
            Tone::Asks,
            "Stripe waits for the guest to prove to be the card's owner. A retry only looks whether that has happened.",
        ),
        _ => say(
            Tone::Acts,
            format!(
                "Nothing has been sent to Stripe. A retry reserves {amount} on the guest's card, if the booking still wants it."
            ),
        ),
    }]
}

fn capture(facts: &Facts<'_>) -> Vec<Outlook> {
    let Some(payment) = facts.payment else {
        return vec![say(Tone::Futile, "Its payment is gone: a retry does nothing.")];
    };
    let done = effect(facts, "capture:").is_some_and(|effect| effect.state == "done");
    vec![match (payment.state, effect(facts, "capture:")) {
        ("captured", _) => say(
            Tone::Safe,
            format!(
                "Stripe already captured {}{}: a retry marks it done.",
                english(payment.captured),
                if payment.refunded.minor > 0 {
                    format!(" and {} went back", english(payment.refunded))
                } else {
                    String::new()
                }
            ),
        ),
        _ if done => say(Tone::Safe, "Stripe already captured it: a retry marks it done."),
        ("authorized", Some(effect)) if is_open(effect) => answer(facts, effect)
            .and_then(answered::capture)
            .unwrap_or_else(|| in_doubt(effect, "the capture")),
        ("authorized", Some(effect)) if effect.state == "failed" => say(
            Tone::Futile,
            "Stripe said that the reservation is gone. A retry reads it again; if it is gone still, somebody has to talk to the guest.",
        ),
        ("authorized", _) => say(
            Tone::Acts,
            format!("A retry takes {} from the guest's card.", english(payment.amount)),
        ),
        (state, _) => say(
            Tone::Safe,
            format!("The payment is {state}, there is nothing to capture: a retry marks the job done."),
        ),
    }]
}

fn void(facts: &Facts<'_>) -> Vec<Outlook> {
    let Some(payment) = facts.payment else {
        return vec![say(Tone::Futile, "Its payment is gone: a retry does nothing.")];
    };
    vec![match (payment.state, effect(facts, "void:")) {
        ("voided", _) => say(
            Tone::Safe,
            "The reservation is released already: a retry marks it done.",
        ),
        ("captured", _) => say(
            Tone::Acts,
            format!(
                "The money was taken meanwhile ({}): a release is not possible, and a retry pays it back instead if the booking is not wanted.",
                english(payment.captured)
            ),
        ),
        (_, Some(effect)) if is_open(effect) => answer(facts, effect)
            .and_then(answered::release)
            .unwrap_or_else(|| in_doubt(effect, "the release")),
        _ => say(
            Tone::Acts,
            format!(
                "A retry releases {} on the guest's card; nothing is taken.",
                english(payment.amount)
            ),
        ),
    }]
}

fn refund(facts: &Facts<'_>) -> Vec<Outlook> {
    let Some(refund) = facts.refund else {
        return vec![say(Tone::Futile, "Its refund is gone: a retry does nothing.")];
    };
    let amount = english(refund.amount);
    vec![match effect(facts, "refund:") {
        _ if refund.succeeded => say(
            Tone::Safe,
            format!("{amount} went back to the guest already: a retry marks it done."),
        ),
        Some(effect) if is_open(effect) => answer(facts, effect)
            .and_then(answered::refund)
            .unwrap_or_else(|| in_doubt(effect, "the refund")),
        Some(effect) if effect.state == "failed" => say(
            Tone::Futile,
            format!(
                "Stripe refused the refund of {amount}{}. A retry asks once more.",
                effect
                    .error
                    .as_deref()
                    .map(|error| format!(" ({error})"))
                    .unwrap_or_default()
            ),
        ),
        _ => say(Tone::Acts, format!("A retry pays {amount} back to the guest's card.")),
    }]
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
