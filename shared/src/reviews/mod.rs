//! Reviews: after check-out both sides have two weeks to write, neither sees the other's before both have written or
//! the time is over, and then they are public.
//!
//! [`open`] begins the time; [`write`], [`edit`] and [`delete`] are the author's; [`publish`] is the job's; [`answer`]
//! and [`report`] follow publication; [`open_reports`], [`hide`], [`unhide`] and [`dismiss_reports`] are the moderators'. [`rules`] is pure, [`store`] reads rows. Everything about one booking
//! waits for the row of its window, so that of two who write at the same time one sees the other.

mod aftermath;
mod moderation;
mod publication;
pub mod rules;
pub mod store;
mod writing;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::bookings::BookingState;

pub use aftermath::{Report, ReportReason, answer, report};
pub use moderation::{
    Decision, OpenReport, ReportFilter, ReportPosition, dismiss_reports, hide, is_moderator, open_reports,
    plan_of_reports, standing_decision, unhide,
};
pub use publication::{Publication, awaited, publish};
pub use rules::{Category, Histogram, Ratings, Side, Stars};
pub use store::{
    Filter, Order, Position, Rated, Review, Window, get, is_rateable, list, live_of_each, ratings, window,
};
pub use writing::{Edit, NewReview, delete, edit, open, write};

/// Why an operation was refused.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// Not there, or not for this user to see.
    #[error("there is no such review")]
    NoSuchReview,
    /// Not there, or not this user's.
    #[error("there is no such booking")]
    NoSuchBooking,
    /// Nobody has checked out yet, and perhaps nobody will.
    #[error("a booking that is {} cannot be reviewed", .0.name())]
    NotCheckedOut(BookingState),
    /// The two weeks are over.
    #[error("the time to write ended at {0}")]
    WindowClosed(DateTime<Utc>),
    /// One review a booking and side.
    #[error("you have reviewed this booking")]
    AlreadyReviewed {
        /// The author's own.
        review_id: Option<Uuid>,
    },
    /// What everybody has read stays as it is.
    #[error("a published review cannot be changed")]
    Published,
    /// A guest is not rated in these categories.
    #[error("a guest is not rated for {}", .0.join(", "))]
    MisplacedCategories(Vec<&'static str>),
    /// Only the host who is reviewed answers.
    #[error("only the host of the stay may answer")]
    NotYours,
    /// Hosts answer once.
    #[error("the review is answered")]
    AlreadyAnswered,
    /// Nobody reports what they wrote.
    #[error("you cannot report your own review")]
    OwnReview,
    /// One report a user.
    #[error("you have reported this review")]
    AlreadyReported,
    /// Moderators do not judge what they wrote, or what was written about them.
    #[error("somebody else decides about a review that you wrote or that is about you")]
    OwnCase,
    /// Only a moderator decides about reviews.
    #[error("only a moderator may do this")]
    NotModerator,
    /// Postgres.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}
