//! Of the kinds that have Stripe reserve, take, release or pay back money.

use super::{Facts, Outlook, Tone, answered, effect, english, say};
use crate::jobs::inspect::Effect;
use crate::jobs::inspections::AtStripe;

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

pub(super) fn authorize(facts: &Facts<'_>) -> Vec<Outlook> {
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

pub(super) fn capture(facts: &Facts<'_>) -> Vec<Outlook> {
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

pub(super) fn void(facts: &Facts<'_>) -> Vec<Outlook> {
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

pub(super) fn expire_hold(facts: &Facts<'_>) -> Vec<Outlook> {
    let release = effect(facts, "void:").map(|effect| {
        if is_open(effect) {
            answer(facts, effect)
                .and_then(answered::release)
                .unwrap_or_else(|| in_doubt(effect, "the release"))
        } else if effect.state == "done" {
            say(
                Tone::Safe,
                "The reservation on the guest's card is released already: a run does not release it again.",
            )
        } else {
            say(
                Tone::Safe,
                "The money was taken before it could be released: what is not owed goes back by a refund with a job of its own.",
            )
        }
    });
    let nights = say(
        Tone::Safe,
        "A run releases the nights only if the booking is still held or undecided and its time is over. Reserved money is released first.",
    );
    release.into_iter().chain([nights]).collect()
}

pub(super) fn refund(facts: &Facts<'_>) -> Vec<Outlook> {
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
