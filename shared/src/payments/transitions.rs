//! How a payment moves: what Stripe's word means for our record, forward and never back. Pure.
//!
//! The statements in [`super::follow`] write the same states in their `WHERE`; `tests/it/money/transitions.rs` compares
//! the two.

use super::PaymentState;
use crate::stripe::IntentStatus;

/// Something that moves a payment on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The guest has to prove to be the card's owner.
    RequireAction,
    /// The amount is reserved.
    Authorize,
    /// The card was refused.
    Fail,
    /// Another card takes its place.
    Supersede,
    /// The money was taken.
    Capture,
    /// The reservation is gone.
    Void,
}

impl Step {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::RequireAction,
        Self::Authorize,
        Self::Fail,
        Self::Supersede,
        Self::Capture,
        Self::Void,
    ];
}

/// What Stripe's word about a PaymentIntent means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// The payment moves on.
    Moves(Step),
    /// What was reserved is gone: the payment is void, and a booking that is bound on it ends.
    Lapsed,
    /// A card that was given up on is authorised after all: it is released.
    Unwanted,
    /// Money was taken on a payment that was given up.
    TakenUnwanted,
    /// Nothing new.
    Nothing,
}

impl PaymentState {
    /// The state after `step`; none: it does not happen.
    #[must_use]
    pub const fn after(self, step: Step) -> Option<Self> {
        let asked = matches!(self, Self::Pending | Self::RequiresAction);
        match step {
            Step::RequireAction if matches!(self, Self::Pending) => Some(Self::RequiresAction),
            Step::Authorize if asked => Some(Self::Authorized),
            Step::Fail if asked => Some(Self::Failed),
            Step::Supersede if matches!(self, Self::RequiresAction) => Some(Self::Failed),
            Step::Capture if asked || matches!(self, Self::Authorized) => Some(Self::Captured),
            Step::Void if asked || matches!(self, Self::Authorized) => Some(Self::Voided),
            Step::RequireAction | Step::Authorize | Step::Fail | Step::Supersede | Step::Capture | Step::Void => None,
        }
    }

    /// What it means that the PaymentIntent stands at `status`.
    #[must_use]
    pub const fn told(self, status: IntentStatus) -> Told {
        match (self, status) {
            (Self::Pending | Self::RequiresAction, IntentStatus::RequiresCapture) => Told::Moves(Step::Authorize),
            (Self::Pending, IntentStatus::RequiresAction) => Told::Moves(Step::RequireAction),
            (Self::Pending | Self::RequiresAction, IntentStatus::RequiresPaymentMethod) => Told::Moves(Step::Fail),
            (Self::Pending | Self::RequiresAction, IntentStatus::Canceled) => Told::Moves(Step::Void),
            // Lapsed, released by hand, or refused by the bank when it was to be captured.
            (Self::Authorized, IntentStatus::Canceled | IntentStatus::RequiresPaymentMethod) => Told::Lapsed,
            (Self::Pending | Self::RequiresAction | Self::Authorized, IntentStatus::Succeeded) => {
                Told::Moves(Step::Capture)
            }
            // A card that was given up on and proves itself after all: nobody wants the reservation any more.
            (Self::Failed | Self::Voided, IntentStatus::RequiresCapture) => Told::Unwanted,
            // We never ask for that: captured by hand, in Stripe's dashboard.
            (Self::Failed | Self::Voided, IntentStatus::Succeeded) => Told::TakenUnwanted,
            (
                Self::Pending | Self::RequiresAction | Self::Authorized,
                IntentStatus::RequiresConfirmation | IntentStatus::RequiresAction | IntentStatus::Processing,
            )
            | (Self::Authorized, IntentStatus::RequiresCapture)
            | (Self::Captured, _)
            | (
                Self::Failed | Self::Voided,
                IntentStatus::RequiresConfirmation
                | IntentStatus::RequiresAction
                | IntentStatus::Canceled
                | IntentStatus::RequiresPaymentMethod
                | IntentStatus::Processing,
            ) => Told::Nothing,
        }
    }
}
