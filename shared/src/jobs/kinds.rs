//! What the dashboard and the command line know of each kind of job, by name: a line a kind.

use std::time::Duration;

use serde_json::Value;

use super::catalogue::{
    AuthorizePayment, CapturePayment, CompleteStays, ConfirmBooking, ExpireHold, HandleStripeEvent, InspectEffect,
    NotifyOfMessage, OpenReviews, PruneOutbox, PublishReviews, RefundPayment, RemindReviewers, RunBulkAction, SendMail,
    SweepOverdue, VerifyAudit, VoidPayment, WarmCache,
};
use super::{Job, Queue};

/// Arguments as their kind writes them and the dedupe key that goes with them, or what is wrong with them.
type Checked = Result<(Value, Option<String>), String>;

/// A kind of job.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// `payment.capture`.
    pub name: &'static str,
    /// Where it runs.
    pub queue: Queue,
    /// Attempts before it is dead.
    pub max_attempts: i32,
    /// How long an attempt may take.
    pub timeout: Duration,
    /// What it does, for somebody who meets it at night.
    pub about: &'static str,
    /// Whether acting on one needs a reason.
    pub moves_money: bool,
    /// Arguments that are shown; any other is masked.
    pub shown: &'static [&'static str],
    check: fn(&Value) -> Checked,
}

impl Kind {
    const fn of<J: Job>(about: &'static str, shown: &'static [&'static str]) -> Self {
        Self {
            name: J::KIND,
            queue: J::QUEUE,
            max_attempts: J::MAX_ATTEMPTS,
            timeout: J::TIMEOUT,
            about,
            moves_money: false,
            shown,
            check: check::<J>,
        }
    }

    /// By itself, or by the jobs that it enqueues or puts back to work.
    const fn moving_money(mut self) -> Self {
        self.moves_money = true;
        self
    }

    /// The arguments as the kind writes them, and the dedupe key that goes with them.
    ///
    /// # Errors
    /// They are not of this kind: a field is missing, unknown or of another type.
    pub fn check(&self, args: &Value) -> Result<(Value, Option<String>), String> {
        (self.check)(args)
    }
}

fn check<J: Job>(args: &Value) -> Checked {
    let job: J = serde_json::from_value(args.clone()).map_err(|error| error.to_string())?;
    let written = serde_json::to_value(&job).map_err(|error| error.to_string())?;
    if let (Some(given), Some(known)) = (args.as_object(), written.as_object())
        && let Some(extra) = given.keys().find(|name| !known.contains_key(*name))
    {
        return Err(format!("unknown field `{extra}`"));
    }
    Ok((written, job.dedupe_key()))
}

/// Every kind, by resource.
pub const KINDS: &[Kind] = &[
    Kind::of::<AuthorizePayment>(
        "Asks Stripe to reserve the amount of a booking on the guest's card.",
        &["payment_id"],
    )
    .moving_money(),
    Kind::of::<CapturePayment>("Takes the reserved amount of a confirmed booking.", &["payment_id"]).moving_money(),
    Kind::of::<VoidPayment>(
        "Releases a reserved amount that is not wanted any more.",
        &["payment_id"],
    )
    .moving_money(),
    Kind::of::<RefundPayment>("Pays back what a cancellation promised.", &["refund_id"]).moving_money(),
    Kind::of::<HandleStripeEvent>(
        "Reads the object of a Stripe event again and moves our record forward.",
        &["event_id"],
    )
    .moving_money(),
    Kind::of::<ConfirmBooking>(
        "Takes an authorised booking to confirmed, or to the host's decision.",
        &["booking_id"],
    )
    .moving_money(),
    Kind::of::<ExpireHold>(
        "Ends a hold that was not paid, or a request that the host did not answer.",
        &["booking_id"],
    )
    .moving_money(),
    Kind::of::<OpenReviews>(
        "Invites both sides of a stay that has just ended to review it.",
        &["booking_id"],
    ),
    Kind::of::<RemindReviewers>("Reminds the sides that have not reviewed a stay.", &["booking_id"]),
    Kind::of::<PublishReviews>("Publishes the reviews of a stay.", &["booking_id"]),
    Kind::of::<NotifyOfMessage>(
        "Ten minutes after a message, mails what its reader has not read.",
        &["message_id"],
    ),
    Kind::of::<SendMail>("Sends one mail.", &["mail", "subject_id"]),
    Kind::of::<WarmCache>("Renders a property's public page into the cache.", &["property_id"]),
    Kind::of::<InspectEffect>(
        "Looks an effect up at Stripe for an operator; it changes nothing there.",
        &["effect_key"],
    ),
    Kind::of::<SweepOverdue>("Puts back to work what is past its time and has lost its job.", &[]).moving_money(),
    Kind::of::<PruneOutbox>("Deletes finished jobs, old replies and spent tokens.", &[]),
    Kind::of::<CompleteStays>("Completes the stays that are over.", &[]),
    Kind::of::<VerifyAudit>("Checks the audit log and seals what is as it was written.", &[]),
    Kind::of::<RunBulkAction>("Works off an operator's action on many jobs.", &["action_id"]).moving_money(),
];

/// The kind of that name; none for a job that a newer or older build wrote.
#[must_use]
pub fn kind(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}

/// Whether acting on a job of this kind needs a reason. A kind that is not known is taken for one that does.
#[must_use]
pub fn moves_money(name: &str) -> bool {
    kind(name).is_none_or(|kind| kind.moves_money)
}

/// The arguments as they may be shown: what the kind does not list is masked, and so is everything of a kind that is
/// not known.
#[must_use]
pub fn masked(name: &str, args: &Value) -> Value {
    let shown = kind(name).map_or(&[][..], |kind| kind.shown);
    match args {
        Value::Object(fields) => Value::Object(
            fields
                .iter()
                .map(|(field, value)| {
                    let value = if shown.contains(&field.as_str()) || value.is_null() {
                        value.clone()
                    } else {
                        Value::String("•••".to_owned())
                    };
                    (field.clone(), value)
                })
                .collect(),
        ),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn arguments_are_checked_against_their_kind() {
        let capture = kind("payment.capture").unwrap();
        let id = "01a2037c-a236-775c-8d03-3d14bc67841b";
        let (args, dedupe_key) = capture.check(&json!({"payment_id": id})).unwrap();
        assert_eq!(args, json!({"payment_id": id}));
        assert_eq!(dedupe_key, Some(format!("payment.capture:{id}")));
        assert!(capture.check(&json!({"payment_id": "no id"})).is_err());
        assert!(capture.check(&json!({})).is_err());
        let extra = capture.check(&json!({"payment_id": id, "amount": 1})).unwrap_err();
        assert!(extra.contains("amount"), "{extra}");
    }

    #[test]
    fn whatever_leads_to_a_card_needs_a_reason() {
        let moving: Vec<&str> = KINDS
            .iter()
            .filter(|kind| kind.moves_money)
            .map(|kind| kind.name)
            .collect();
        assert_eq!(
            moving,
            [
                "payment.authorize",
                "payment.capture",
                "payment.void",
                "payment.refund",
                "stripe.event.handle",
                "booking.confirm",
                "booking.expire_hold",
                "overdue.sweep",
                "ops.bulk"
            ]
        );
        assert!(moves_money("of.another.build"));
    }

    #[test]
    fn what_a_kind_does_not_list_is_masked() {
        let args = json!({"payment_id": "p", "email": "ada@example.com"});
        assert_eq!(
            masked("payment.capture", &args),
            json!({"payment_id": "p", "email": "•••"})
        );
        assert_eq!(
            masked("of.another.build", &args),
            json!({"payment_id": "•••", "email": "•••"})
        );
    }
}
