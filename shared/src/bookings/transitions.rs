//! What may happen to a booking in each of its states, and what becomes of it. Pure.
//!
//! [`super::timeline`] writes nothing that is not in here. How a payment moves is in `payments::transitions`; the tests
//! below let the two meet in every order.

use super::BookingState;

/// Something that moves a booking on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// The card is authorised and the property takes guests at once.
    Confirm,
    /// The card is authorised; the host has the word.
    AwaitApproval,
    /// The host says yes.
    Approve,
    /// The host says no.
    Decline,
    /// The guest calls it off.
    CancelByGuest,
    /// The host calls it off.
    CancelByHost,
    /// The guest has arrived.
    CheckIn,
    /// The guest has left.
    CheckOut,
    /// The guest did not come.
    MissGuest,
    /// The last day is over.
    Complete,
    /// The time of the hold or of the host ran out.
    Expire,
    /// The same, and the last card was refused.
    ExpireUnpaid,
    /// What was reserved on the card is gone before it was taken.
    LosePayment,
}

impl Transition {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Confirm,
        Self::AwaitApproval,
        Self::Approve,
        Self::Decline,
        Self::CancelByGuest,
        Self::CancelByHost,
        Self::CheckIn,
        Self::CheckOut,
        Self::MissGuest,
        Self::Complete,
        Self::Expire,
        Self::ExpireUnpaid,
        Self::LosePayment,
    ];

    /// What the timeline calls it.
    #[must_use]
    pub const fn event(self) -> &'static str {
        match self {
            Self::Confirm | Self::Approve => "confirmed",
            Self::AwaitApproval => "authorized",
            Self::Decline => "declined",
            Self::CancelByGuest | Self::CancelByHost => "cancelled",
            Self::CheckIn => "checked_in",
            Self::CheckOut => "checked_out",
            Self::MissGuest => "no_show",
            Self::Complete => "completed",
            Self::Expire | Self::ExpireUnpaid => "expired",
            Self::LosePayment => "payment_lost",
        }
    }

    /// What a refusal calls it, as a participle.
    #[must_use]
    pub const fn verb(self) -> &'static str {
        match self {
            Self::Confirm => "confirmed",
            Self::AwaitApproval => "put to the host",
            Self::Approve => "approved",
            Self::Decline => "declined",
            Self::CancelByGuest | Self::CancelByHost => "cancelled",
            Self::CheckIn => "checked in",
            Self::CheckOut => "checked out",
            Self::MissGuest => "reported as a no-show",
            Self::Complete => "completed",
            Self::Expire | Self::ExpireUnpaid => "expired",
            Self::LosePayment => "ended for want of its payment",
        }
    }
}

/// What an authorised card means for its booking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authorized {
    /// The booking goes on.
    GoesOn,
    /// It had ended for want of a payment: it goes on if its nights are still free, or the card is released.
    GoesOnIfFree,
    /// It went on before.
    Nothing,
    /// Nobody wants the money any more: the card is released.
    Release,
}

impl BookingState {
    /// The state after `transition`; none: it is refused.
    #[must_use]
    pub const fn after(self, transition: Transition) -> Option<Self> {
        let allowed = match transition {
            Transition::Confirm | Transition::AwaitApproval => {
                matches!(self, Self::Held | Self::Expired | Self::PaymentFailed)
            }
            Transition::Approve | Transition::Decline => matches!(self, Self::PendingApproval),
            Transition::CancelByGuest | Transition::CancelByHost => self.can_be_cancelled(),
            // Who has checked in did come.
            Transition::CheckIn | Transition::MissGuest | Transition::LosePayment => matches!(self, Self::Confirmed),
            Transition::CheckOut => matches!(self, Self::CheckedIn),
            Transition::Complete => matches!(self, Self::Confirmed | Self::CheckedIn | Self::CheckedOut),
            Transition::Expire => matches!(self, Self::Held | Self::PendingApproval),
            Transition::ExpireUnpaid => matches!(self, Self::Held),
        };
        if !allowed {
            return None;
        }
        Some(match transition {
            Transition::Confirm | Transition::Approve => Self::Confirmed,
            Transition::AwaitApproval => Self::PendingApproval,
            Transition::Decline => Self::Declined,
            Transition::CancelByGuest => Self::CancelledByGuest,
            Transition::CancelByHost => Self::CancelledByHost,
            Transition::CheckIn => Self::CheckedIn,
            Transition::CheckOut => Self::CheckedOut,
            Transition::MissGuest => Self::NoShow,
            Transition::Complete => Self::Completed,
            Transition::Expire => Self::Expired,
            Transition::ExpireUnpaid | Transition::LosePayment => Self::PaymentFailed,
        })
    }

    /// What a card that is authorised now means for it.
    #[must_use]
    pub const fn when_authorized(self) -> Authorized {
        match self {
            Self::Held => Authorized::GoesOn,
            Self::Expired | Self::PaymentFailed => Authorized::GoesOnIfFree,
            Self::PendingApproval
            | Self::Confirmed
            | Self::CheckedIn
            | Self::CheckedOut
            | Self::Completed
            | Self::NoShow => Authorized::Nothing,
            Self::Declined | Self::CancelledByGuest | Self::CancelledByHost => Authorized::Release,
        }
    }
}

#[cfg(test)]
mod tests;
