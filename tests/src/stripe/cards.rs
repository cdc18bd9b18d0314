//! Stripe's test cards and how each behaves (https://docs.stripe.com/testing).

/// Why a card is refused.
#[derive(Debug)]
pub(super) struct Decline {
    pub code: &'static str,
    pub decline_code: &'static str,
    pub message: &'static str,
    pub advice_code: &'static str,
}

/// What happens to a charge after the money moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aftermath {
    Nothing,
    /// The cardholder disputes it, for this reason.
    Dispute(&'static str),
    /// A refund is reported as succeeded and fails later.
    RefundFails,
    /// A refund stays pending until it is settled from outside: `POST /_control/refunds/:id/:outcome`.
    RefundPending,
}

/// A card by its test token's name: `pm_card_NAME` or `tok_NAME`.
#[derive(Debug)]
pub(super) struct TestCard {
    pub name: &'static str,
    pub brand: &'static str,
    pub last4: &'static str,
    /// The bank asks the cardholder to authenticate (3-D Secure).
    pub authenticate: bool,
    pub decline: Option<&'static Decline>,
    pub aftermath: Aftermath,
}

static GENERIC: Decline = Decline {
    code: "card_declined",
    decline_code: "generic_decline",
    message: "Your card was declined.",
    advice_code: "try_again_later",
};
static INSUFFICIENT_FUNDS: Decline = Decline {
    code: "card_declined",
    decline_code: "insufficient_funds",
    message: "Your card has insufficient funds.",
    advice_code: "try_again_later",
};
static LOST: Decline = Decline {
    code: "card_declined",
    decline_code: "lost_card",
    message: "Your card was declined.",
    advice_code: "do_not_try_again",
};
static STOLEN: Decline = Decline {
    code: "card_declined",
    decline_code: "stolen_card",
    message: "Your card was declined.",
    advice_code: "do_not_try_again",
};
static FRAUDULENT: Decline = Decline {
    code: "card_declined",
    decline_code: "fraudulent",
    message: "Your card was declined.",
    advice_code: "do_not_try_again",
};
static EXPIRED: Decline = Decline {
    code: "expired_card",
    decline_code: "expired_card",
    message: "Your card has expired.",
    advice_code: "confirm_card_data",
};
static INCORRECT_CVC: Decline = Decline {
    code: "incorrect_cvc",
    decline_code: "incorrect_cvc",
    message: "Your card's security code is incorrect.",
    advice_code: "confirm_card_data",
};
static PROCESSING_ERROR: Decline = Decline {
    code: "processing_error",
    decline_code: "processing_error",
    message: "An error occurred while processing your card. Try again in a little bit.",
    advice_code: "try_again_later",
};
/// An off-session charge that the bank wants authenticated.
pub(super) static AUTHENTICATION_REQUIRED: Decline = Decline {
    code: "authentication_required",
    decline_code: "authentication_required",
    message: "Your card was declined. This transaction requires authentication.",
    advice_code: "confirm_card_data",
};

const fn good(name: &'static str, brand: &'static str, last4: &'static str) -> TestCard {
    let (decline, aftermath) = (None, Aftermath::Nothing);
    TestCard {
        name,
        brand,
        last4,
        authenticate: false,
        decline,
        aftermath,
    }
}

const fn declined(name: &'static str, last4: &'static str, why: &'static Decline) -> TestCard {
    TestCard {
        decline: Some(why),
        ..good(name, "visa", last4)
    }
}

const fn authenticated(name: &'static str, last4: &'static str) -> TestCard {
    TestCard {
        authenticate: true,
        ..good(name, "visa", last4)
    }
}

const fn followed_by(name: &'static str, last4: &'static str, aftermath: Aftermath) -> TestCard {
    TestCard {
        aftermath,
        ..good(name, "visa", last4)
    }
}

static CARDS: [TestCard; 32] = [
    good("visa", "visa", "4242"),
    good("visa_debit", "visa", "5556"),
    good("mastercard", "mastercard", "4444"),
    good("mastercard_debit", "mastercard", "8210"),
    good("amex", "amex", "8431"),
    declined("chargeDeclined", "0002", &GENERIC),
    declined("visa_chargeDeclined", "0002", &GENERIC),
    declined("chargeDeclinedInsufficientFunds", "9995", &INSUFFICIENT_FUNDS),
    declined("visa_chargeDeclinedInsufficientFunds", "9995", &INSUFFICIENT_FUNDS),
    declined("chargeDeclinedLostCard", "9987", &LOST),
    declined("visa_chargeDeclinedLostCard", "9987", &LOST),
    declined("chargeDeclinedStolenCard", "9979", &STOLEN),
    declined("visa_chargeDeclinedStolenCard", "9979", &STOLEN),
    declined("chargeDeclinedFraudulent", "0019", &FRAUDULENT),
    declined("radarBlock", "0019", &FRAUDULENT),
    declined("chargeDeclinedExpiredCard", "0069", &EXPIRED),
    declined("visa_chargeDeclinedExpiredCard", "0069", &EXPIRED),
    declined("chargeDeclinedIncorrectCvc", "0127", &INCORRECT_CVC),
    declined("visa_chargeDeclinedIncorrectCvc", "0127", &INCORRECT_CVC),
    declined("chargeDeclinedProcessingError", "0119", &PROCESSING_ERROR),
    declined("visa_chargeDeclinedProcessingError", "0119", &PROCESSING_ERROR),
    authenticated("authenticationRequired", "3184"),
    authenticated("threeDSecureRequired", "3063"),
    authenticated("threeDSecure2Required", "3220"),
    TestCard {
        authenticate: true,
        ..declined(
            "authenticationRequiredChargeDeclinedInsufficientFunds",
            "8260",
            &INSUFFICIENT_FUNDS,
        )
    },
    TestCard {
        authenticate: true,
        ..declined("threeDSecureRequiredChargeDeclined", "1629", &GENERIC)
    },
    followed_by("createDispute", "0259", Aftermath::Dispute("fraudulent")),
    followed_by(
        "createDisputeProductNotReceived",
        "2685",
        Aftermath::Dispute("product_not_received"),
    ),
    followed_by("refundFail", "5126", Aftermath::RefundFails),
    followed_by("pendingRefund", "7726", Aftermath::RefundPending),
    good("us", "visa", "4242"),
    good("gb", "visa", "0008"),
];

/// The card behind a test payment method (`pm_card_visa`) or test token (`tok_visa`).
pub(super) fn find(token: &str) -> Option<&'static TestCard> {
    let name = token.strip_prefix("pm_card_").or_else(|| token.strip_prefix("tok_"))?;
    CARDS.iter().find(|card| card.name == name)
}
