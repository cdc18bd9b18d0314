//! Bookings in GraphQL, and following one.

use async_graphql::{ComplexObject, Context, Object, Result, Subscription as Follows};
use chrono::NaiveDate;
use futures::{FutureExt, Stream, StreamExt};
use poem_openapi::param::{Header, Path};
use roost_shared::bookings::{self, Booking as Row};
use uuid::Uuid;

use super::caller::{app, auth, identity, rows};
use super::connection::{Page, cost, page, replayed};
use super::input::Input;
use super::limits::CHANGE;
use super::loaders::{BookingId, LatestPaymentOf, PropertyId, ReviewsOf, TimelineOf, forget};
use super::payments::seen_by;
use super::properties::seen as seen_property;
use super::users::public_profile;
use crate::body::OptionalJsonBody;
use crate::error::{ApiError, ApiResult};
use crate::idempotency::Idempotency;
use crate::page::PageRequest;
use crate::rest::booking_events::{BookingProgress, follow};
use crate::rest::bookings::cancellation::CancellationQuote;
use crate::rest::bookings::objects::{
    Booking, BookingPatch, BookingState, NewBooking, Parts, Reason, Side, TimelineEntry,
};
use crate::rest::bookings::reads::{is_party, quote_cancellation};
use crate::rest::bookings::{BookingsApi, check_days};
use crate::rest::payments::PaymentState;
use crate::rest::payments::objects::Payment;
use crate::rest::properties::view::PropertyView;
use crate::rest::reviews::objects::Review;
use crate::rest::users::PublicProfile;

/// What can be read of bookings.
#[derive(Default)]
pub struct BookingQueries;

/// What can be done with bookings.
#[derive(Default)]
pub struct BookingMutations;

/// What can be followed.
pub struct Subscription;

#[ComplexObject]
impl Booking {
    /// What the property is called
    async fn property_title(&self, ctx: &Context<'_>) -> Result<String> {
        let property = rows(ctx)?
            .load_one(PropertyId(self.summary.property_id))
            .boxed()
            .await?;
        Ok(property.map(|property| property.details.title).unwrap_or_default())
    }

    /// What is booked; null to the guest once it is not listed any more
    async fn property(&self, ctx: &Context<'_>) -> Result<Option<PropertyView>> {
        seen_property(ctx, self.summary.property_id).await
    }

    /// Who booked; null once the account is deleted
    async fn guest(&self, ctx: &Context<'_>) -> Result<Option<PublicProfile>> {
        public_profile(ctx, self.summary.guest_id).await
    }

    /// Who lets; null once the account is deleted
    async fn host(&self, ctx: &Context<'_>) -> Result<Option<PublicProfile>> {
        public_profile(ctx, self.summary.host_id).await
    }

    /// Where the latest card stands
    async fn payment_state(&self, ctx: &Context<'_>) -> Result<Option<PaymentState>> {
        let payment = rows(ctx)?.load_one(LatestPaymentOf(self.summary.id)).boxed().await?;
        Ok(payment.map(|payment| payment.state.into()))
    }

    /// The latest card
    async fn payment(&self, ctx: &Context<'_>) -> Result<Option<Payment>> {
        let payment = rows(ctx)?.load_one(LatestPaymentOf(self.summary.id)).boxed().await?;
        let user_id = identity(ctx)?.user_id;
        Ok(payment.map(|payment| seen_by(payment, user_id)))
    }

    /// Everything that was asked of it or happened to it, refusals included, oldest first
    #[graphql(complexity = "1 + 10 * child_complexity")]
    async fn timeline(&self, ctx: &Context<'_>) -> Result<Vec<TimelineEntry>> {
        let for_guest = self.summary.guest_id == identity(ctx)?.user_id;
        let entries = rows(ctx)?.load_one(TimelineOf(self.summary.id)).boxed().await?;
        let entries = entries.unwrap_or_default().into_iter();
        Ok(entries.map(|entry| TimelineEntry::new(entry, for_guest)).collect())
    }

    /// What guest and host wrote about the stay, as far as you may see it
    #[graphql(complexity = "1 + 2 * child_complexity")]
    async fn reviews(&self, ctx: &Context<'_>) -> Result<Vec<Review>> {
        let viewer_id = Some(identity(ctx)?.user_id);
        let written = rows(ctx)?.load_one(ReviewsOf(self.summary.id)).boxed().await?;
        let shown = written.unwrap_or_default().into_iter();
        let shown = shown.filter(|review| review.is_visible_to(viewer_id));
        Ok(shown.map(|review| Review::seen_by(review, viewer_id)).collect())
    }

    /// What cancelling would pay back at this instant, for the side you stand on. Null with the error `wrong_state` once
    /// it cannot be cancelled
    #[graphql(complexity = "1 + 3 * child_complexity")]
    async fn cancellation_quote(&self, ctx: &Context<'_>) -> Option<Result<CancellationQuote>> {
        let read = async {
            let booking = row(ctx, self.summary.id).boxed().await?;
            Ok(quote_cancellation(app(ctx)?, identity(ctx)?.user_id, &booking)?)
        };
        Some(read.boxed().await)
    }
}

#[Object]
impl BookingQueries {
    /// List bookings: those you made, or with `role: HOST` those of your properties; newest first
    #[allow(clippy::too_many_arguments, reason = "each is an argument of the field")]
    #[graphql(complexity = "cost(first, child_complexity)")]
    async fn bookings(
        &self,
        ctx: &Context<'_>,
        #[graphql(default_with = "Side::Guest", desc = "On which side you stand")] role: Side,
        #[graphql(desc = "Only in these states")] state: Option<Vec<BookingState>>,
        #[graphql(desc = "Only stays that end after this day")] from: Option<NaiveDate>,
        #[graphql(desc = "Only stays that begin before this day")] to: Option<NaiveDate>,
        #[graphql(desc = "Only of this property")] property_id: Option<Uuid>,
        #[graphql(default = 20, desc = "How many at most: 1 to 100")] first: i32,
        #[graphql(desc = "The cursor of the last item of the page before")] after: Option<String>,
    ) -> Result<Page<Booking>> {
        let user_id = identity(ctx)?.user_id;
        let request = PageRequest::<Uuid>::of_connection(first, after.as_deref())?;
        check_days(from, to)?;
        let filter = bookings::Filter {
            side: role.into(),
            states: state.into_iter().flatten().map(bookings::BookingState::from).collect(),
            from,
            to,
            property_id,
            before: request.after().copied(),
            limit: request.fetch(),
        };
        let mut conn = app(ctx)?.db.pool().acquire().await.map_err(ApiError::from)?;
        let found = bookings::list(&mut conn, user_id, &filter)
            .await
            .map_err(ApiError::from)?;
        Ok(page(&request, found, |row| row.id, |row| seen(row, user_id)))
    }

    /// A booking, for its guest and its host only
    async fn booking(
        &self,
        ctx: &Context<'_>,
        id: Uuid,
        #[graphql(
            desc = "While the booking is held and its card is still being asked: wait for so many seconds, 20 at most"
        )]
        wait: Option<u32>,
    ) -> Option<Result<Booking>> {
        let read = async {
            if wait.is_some() {
                let bookings = BookingsApi(app(ctx)?.clone());
                return Ok(bookings
                    .get(auth(ctx)?, Path(id), Header(prefer(wait)))
                    .boxed()
                    .await?
                    .into_inner());
            }
            Ok(seen(row(ctx, id).boxed().await?, identity(ctx)?.user_id))
        };
        Some(read.boxed().await)
    }
}

#[Object]
impl BookingMutations {
    /// Book: takes the nights for 15 minutes and has the card authorised in the background. Refusals of its own:
    /// `dates_taken` with `conflict`, `own_property`, `quote_invalid`, `quote_expired`, `quote_mismatch`
    #[graphql(complexity = "CHANGE + child_complexity")]
    async fn create_booking(
        &self,
        ctx: &Context<'_>,
        input: Input<NewBooking>,
        #[graphql(desc = "The same key gets the first reply again, for 24 hours")] idempotency_key: Option<String>,
        #[graphql(desc = "Wait until the card is authorised or refused, so many seconds, 20 at most")] wait: Option<
            u32,
        >,
    ) -> Result<Booking> {
        forget(ctx)?;
        let idempotency = Idempotency::of_operation(idempotency_key.as_deref(), "createBooking")?;
        let bookings = BookingsApi(app(ctx)?.clone());
        let reply = bookings
            .create(auth(ctx)?, idempotency, Header(prefer(wait)), input.into_body())
            .boxed()
            .await?;
        replayed(ctx, reply)
    }

    /// Change what costs nothing: the number of guests, the time of arrival, the message to the host. For the guest,
    /// until the stay is over
    #[graphql(complexity = "CHANGE + child_complexity")]
    async fn update_booking(&self, ctx: &Context<'_>, id: Uuid, input: Input<BookingPatch>) -> Result<Booking> {
        let bookings = acting(ctx)?;
        Ok(bookings.amend(auth(ctx)?, Path(id), input.into_body()).boxed().await?.0)
    }

    /// Cancel, by the guest or the host. What is paid back is what `cancellationQuote` says
    #[graphql(complexity = "CHANGE + child_complexity")]
    async fn cancel_booking(
        &self,
        ctx: &Context<'_>,
        id: Uuid,
        #[graphql(desc = "For the other side to read, and kept on the timeline: 500 characters at most")]
        reason: Option<String>,
    ) -> Result<Booking> {
        let bookings = acting(ctx)?;
        Ok(bookings.cancel(auth(ctx)?, Path(id), because(reason)?).boxed().await?.0)
    }

    /// The guest has arrived: either side may say so from the day of check-in on. Before that, `too_early`
    #[graphql(complexity = "CHANGE + child_complexity")]
    async fn check_in_booking(&self, ctx: &Context<'_>, id: Uuid) -> Result<Booking> {
        Ok(acting(ctx)?.check_in(auth(ctx)?, Path(id)).boxed().await?.0)
    }

    /// The guest has left: either side may say so once the guest is checked in
    #[graphql(complexity = "CHANGE + child_complexity")]
    async fn check_out_booking(&self, ctx: &Context<'_>, id: Uuid) -> Result<Booking> {
        Ok(acting(ctx)?.check_out(auth(ctx)?, Path(id)).boxed().await?.0)
    }

    /// Report that the guest did not come, by the host of a booking that is `CONFIRMED`, from the time of check-in until
    /// that of check-out: before that `too_early`, afterwards `stay_over`. Nothing is paid back, and the nights that are
    /// left can be booked again. Reporting it again changes nothing
    #[graphql(complexity = "CHANGE + child_complexity")]
    async fn report_no_show(
        &self,
        ctx: &Context<'_>,
        id: Uuid,
        #[graphql(desc = "For the guest to read, and kept on the timeline: 500 characters at most")] reason: Option<
            String,
        >,
    ) -> Result<Booking> {
        let bookings = acting(ctx)?;
        Ok(bookings
            .report_no_show(auth(ctx)?, Path(id), because(reason)?)
            .boxed()
            .await?
            .0)
    }

    /// Approve a request to book, by the host while it is `PENDING_APPROVAL`
    #[graphql(complexity = "CHANGE + child_complexity")]
    async fn approve_booking(&self, ctx: &Context<'_>, id: Uuid) -> Result<Booking> {
        Ok(acting(ctx)?.approve(auth(ctx)?, Path(id)).boxed().await?.0)
    }

    /// Decline a request to book, by the host while it is `PENDING_APPROVAL`
    #[graphql(complexity = "CHANGE + child_complexity")]
    async fn decline_booking(
        &self,
        ctx: &Context<'_>,
        id: Uuid,
        #[graphql(desc = "For the other side to read, and kept on the timeline: 500 characters at most")]
        reason: Option<String>,
    ) -> Result<Booking> {
        let bookings = acting(ctx)?;
        Ok(bookings
            .decline(auth(ctx)?, Path(id), because(reason)?)
            .boxed()
            .await?
            .0)
    }
}

#[Follows]
impl Subscription {
    /// Follow a booking, for its guest and its host: first how it stands, then each change of it or of its payment.
    /// Ends when the booking has ended, when your session has, or after 30 minutes
    #[graphql(complexity = "CHANGE + child_complexity")]
    async fn follow_booking(
        &self,
        ctx: &Context<'_>,
        id: Uuid,
    ) -> Result<impl Stream<Item = Result<BookingProgress>> + use<>> {
        let events = follow(app(ctx)?, identity(ctx)?, id).boxed().await?;
        Ok(events.map(Ok))
    }
}

/// The booking as its guest or host sees it, without what is only read when it is asked for.
fn seen(row: Row, user_id: Uuid) -> Booking {
    let parts = Parts {
        booking: row,
        payment: None,
        property_title: String::new(),
        timeline: Vec::new(),
    };
    parts.seen_by(user_id)
}

/// The booking, if the caller is its guest or host.
async fn row(ctx: &Context<'_>, id: Uuid) -> Result<Row> {
    let user_id = identity(ctx)?.user_id;
    let booking = rows(ctx)?.load_one(BookingId(id)).boxed().await?;
    let booking = booking.filter(|booking| is_party(booking, user_id));
    Ok(booking.ok_or_else(|| ApiError::not_found("booking"))?)
}

/// The same as a field of what belongs to it.
pub async fn of_party(ctx: &Context<'_>, id: Uuid) -> Result<Booking> {
    Ok(seen(row(ctx, id).boxed().await?, identity(ctx)?.user_id))
}

fn acting(ctx: &Context<'_>) -> Result<BookingsApi> {
    forget(ctx)?;
    Ok(BookingsApi(app(ctx)?.clone()))
}

fn because(reason: Option<String>) -> ApiResult<OptionalJsonBody<Reason>> {
    OptionalJsonBody::of(&Reason { reason })
}

/// The wait as `Prefer` has it.
fn prefer(wait: Option<u32>) -> Option<String> {
    wait.map(|seconds| format!("wait={seconds}"))
}
