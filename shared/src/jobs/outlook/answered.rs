//! What a retry would do once Stripe has told how an effect stands. None where the answer settles nothing: it is on its
//! way still, or not about this.

use super::{Outlook, Tone, english, say};
use crate::jobs::inspections::AtStripe;
use crate::money::Money;
use crate::stripe::{IntentStatus, RefundStatus};

/// After an authorisation.
pub(super) fn authorization(answer: &AtStripe) -> Option<Outlook> {
    let line = match answer {
        AtStripe::NoIntent => say(
            Tone::Acts,
            "Stripe was never told to ask the card: nothing is reserved. A retry asks it, if the booking still wants it.",
        ),
        AtStripe::Intent {
            status,
            currency,
            amount_minor,
            capturable_minor,
            captured_minor,
            decline,
            ..
        } => {
            let english = |minor| english(Money::new(minor, *currency));
            match status {
                IntentStatus::RequiresCapture => say(
                    Tone::Safe,
                    format!(
                        "Stripe already reserved {}: a retry marks it done.",
                        english(*capturable_minor)
                    ),
                ),
                IntentStatus::Succeeded => say(
                    Tone::Safe,
                    format!(
                        "Stripe already captured {}: a retry marks it done.",
                        english(*captured_minor)
                    ),
                ),
                IntentStatus::RequiresConfirmation => say(
                    Tone::Acts,
                    format!(
                        "Stripe has not asked the card yet: a retry reserves {}, if the booking still wants it.",
                        english(*amount_minor)
                    ),
                ),
                IntentStatus::RequiresAction => say(
                    Tone::Asks,
                    "Stripe waits for the guest to prove to be the card's owner. A retry only looks whether that has happened.",
                ),
                IntentStatus::RequiresPaymentMethod => say(
                    Tone::Futile,
                    format!(
                        "The card was refused{}. A retry records that and asks no card; the guest has to give another one.",
                        decline.as_ref().map(|code| format!(" ({code})")).unwrap_or_default()
                    ),
                ),
                IntentStatus::Canceled => say(
                    Tone::Safe,
                    "Stripe has cancelled it, nothing is reserved: a retry records that.",
                ),
                IntentStatus::Processing => return None,
            }
        }
        AtStripe::Refund { .. } | AtStripe::NoRefund => return None,
    };
    Some(line)
}

/// After a capture.
pub(super) fn capture(answer: &AtStripe) -> Option<Outlook> {
    let AtStripe::Intent {
        status,
        currency,
        capturable_minor,
        captured_minor,
        ..
    } = answer
    else {
        return None;
    };
    let english = |minor| english(Money::new(minor, *currency));
    match status {
        IntentStatus::Succeeded => Some(say(
            Tone::Safe,
            format!(
                "Stripe already captured {}: a retry marks it done.",
                english(*captured_minor)
            ),
        )),
        IntentStatus::RequiresCapture => Some(say(
            Tone::Acts,
            format!(
                "Stripe has captured nothing: a retry takes the reserved {} from the guest's card, once.",
                english(*capturable_minor)
            ),
        )),
        IntentStatus::Canceled | IntentStatus::RequiresPaymentMethod => Some(say(
            Tone::Acts,
            "The reservation is gone at Stripe: a retry takes nothing. It ends the booking and tells both sides.",
        )),
        IntentStatus::RequiresConfirmation | IntentStatus::RequiresAction | IntentStatus::Processing => None,
    }
}

/// After a release.
pub(super) fn release(answer: &AtStripe) -> Option<Outlook> {
    let AtStripe::Intent {
        status,
        currency,
        amount_minor,
        captured_minor,
        ..
    } = answer
    else {
        return None;
    };
    let english = |minor| english(Money::new(minor, *currency));
    match status {
        IntentStatus::Canceled => Some(say(
            Tone::Safe,
            "Stripe already released the reservation: a retry marks it done.",
        )),
        IntentStatus::Succeeded => Some(say(
            Tone::Acts,
            format!(
                "Stripe captured {} before it could be released: a retry pays it back if the booking is not wanted.",
                english(*captured_minor)
            ),
        )),
        IntentStatus::Processing => None,
        IntentStatus::RequiresCapture
        | IntentStatus::RequiresConfirmation
        | IntentStatus::RequiresAction
        | IntentStatus::RequiresPaymentMethod => Some(say(
            Tone::Acts,
            format!(
                "Stripe has not released it: a retry releases {}; nothing is taken.",
                english(*amount_minor)
            ),
        )),
    }
}

/// After a refund.
pub(super) fn refund(answer: &AtStripe) -> Option<Outlook> {
    match answer {
        AtStripe::NoRefund => Some(say(
            Tone::Acts,
            "Stripe has no such refund: a retry pays the money back, once.",
        )),
        AtStripe::Refund {
            status,
            currency,
            amount_minor,
            ..
        } => {
            let amount = english(Money::new(*amount_minor, *currency));
            Some(match status {
                RefundStatus::Succeeded => say(
                    Tone::Safe,
                    format!("Stripe already paid {amount} back: a retry marks it done."),
                ),
                RefundStatus::Pending => say(
                    Tone::Safe,
                    format!("Stripe is paying {amount} back already: a retry records that and looks again later."),
                ),
                RefundStatus::Failed => say(
                    Tone::Futile,
                    format!(
                        "Stripe could not pay {amount} back: a retry records that, and somebody has to talk to the guest."
                    ),
                ),
            })
        }
        AtStripe::Intent { .. } | AtStripe::NoIntent => None,
    }
}
