//! The handlers, one file a kind of job.

mod authorize_payment;
mod capture_payment;
mod complete_stays;
mod confirm_booking;
mod expire_hold;
mod handle_stripe_event;
mod inspect_effect;
mod notify_of_message;
mod open_reviews;
mod prune_outbox;
mod publish_reviews;
mod refund_payment;
mod remind_reviewers;
mod run_bulk_action;
mod send_mail;
mod stripe_call;
mod sweep_overdue;
mod verify_audit;
mod void_payment;
mod warm_cache;

use roost_shared::jobs::catalogue::{
    AuthorizePayment, CapturePayment, CompleteStays, ConfirmBooking, ExpireHold, HandleStripeEvent, InspectEffect,
    NotifyOfMessage, OpenReviews, PruneOutbox, PublishReviews, RefundPayment, RemindReviewers, RunBulkAction, SendMail,
    SweepOverdue, VerifyAudit, VoidPayment, WarmCache,
};

use crate::handler::Registry;

/// Every kind that this build knows.
#[must_use]
pub fn registry() -> Registry {
    Registry::default()
        .with::<AuthorizePayment>()
        .with::<ConfirmBooking>()
        .with::<CapturePayment>()
        .with::<VoidPayment>()
        .with::<RefundPayment>()
        .with::<ExpireHold>()
        .with::<HandleStripeEvent>()
        .with::<OpenReviews>()
        .with::<RemindReviewers>()
        .with::<PublishReviews>()
        .with::<NotifyOfMessage>()
        .with::<SendMail>()
        .with::<WarmCache>()
        .with::<CompleteStays>()
        .with::<PruneOutbox>()
        .with::<RunBulkAction>()
        .with::<InspectEffect>()
        .with::<SweepOverdue>()
        .with::<VerifyAudit>()
}
