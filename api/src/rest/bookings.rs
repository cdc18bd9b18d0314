//! Bookings: asking for nights, waiting for the card, and what guest and host do with a booking afterwards.

mod actions;
pub(crate) mod cancellation;
pub mod objects;
pub(crate) mod reads;
pub(crate) mod refusals;
mod request;

use chrono::NaiveDate;
use poem::http::Uri;
use poem_openapi::OpenApi;
use poem_openapi::param::{Header, Path, Query};
use poem_openapi::payload::Json;
use roost_shared::bookings::{self, Amendment};
use uuid::Uuid;

use self::actions::Action;
use self::cancellation::CancellationQuote;
use self::objects::{Booking, BookingPatch, BookingState, BookingSummary, NewBooking, Reason, Side};
use self::reads::Held;
use super::Tag;
use super::several::Several;
use crate::auth::Auth;
use crate::body::{JsonBody, OptionalJsonBody};
use crate::error::{ApiError, ApiResult};
use crate::idempotency::{Created, Idempotency};
use crate::page::{PageRequest, Paged};
use crate::prefer::Wait;
use crate::state::AppState;
use crate::validate::Checks;

/// Operations on bookings.
pub struct BookingsApi(pub AppState);

#[OpenApi(tag = "Tag::Bookings")]
impl BookingsApi {
    /// Book
    ///
    /// Takes the nights for 15 minutes and has the card authorised in the background; then the booking is
    /// `confirmed`, or `pending_approval` if the host decides. If the card is refused or needs the guest
    /// (`payment.state`), the nights stay held and `POST /payments` tries another card.
    ///
    /// Refusals of its own: 409 `dates_taken` with the member `conflict` {`check_in`, `check_out`}, 409
    /// `own_property`, 422 `quote_invalid`, `quote_expired` and `quote_mismatch`.
    ///
    /// With `Prefer: wait=N` the reply is held until the card is authorised or refused, N seconds at most. With an
    /// `Idempotency-Key` as well, the reply that was held is the one that is kept: sent again, with or without `Prefer`, the
    /// request waits for it if it must and gets it byte for byte.
    #[oai(path = "/bookings", method = "post", operation_id = "create_booking")]
    pub(crate) async fn create(
        &self,
        auth: Auth,
        idempotency: Idempotency,
        /// `wait=N`: hold the reply until the card is authorised or refused, N seconds at most. More than 20 is 20
        #[oai(name = "Prefer", example = "prefer_example")]
        prefer: Header<Option<String>>,
        body: JsonBody<NewBooking>,
    ) -> ApiResult<Created<Booking>> {
        request::create(
            &self.0,
            &auth,
            &idempotency,
            Wait::preferred(prefer.0.as_deref()),
            &body,
        )
        .await
    }

    /// List bookings
    ///
    /// Those you made, or with `role=host` those of your properties; newest first.
    #[oai(path = "/bookings", method = "get", operation_id = "list_bookings")]
    #[allow(clippy::too_many_arguments, reason = "one argument a parameter")]
    async fn list(
        &self,
        auth: Auth,
        /// On which side you stand
        #[oai(default = "default_side")]
        role: Query<Side>,
        /// Only in these states; repeat the parameter, or separate them by commas
        state: Query<Several<BookingState>>,
        /// Only stays that end after this day
        from: Query<Option<NaiveDate>>,
        /// Only stays that begin before this day
        to: Query<Option<NaiveDate>>,
        /// Only of this property
        property_id: Query<Option<Uuid>>,
        /// How many at most
        #[oai(
            default = "crate::page::default_limit",
            validator(minimum(value = "1"), maximum(value = "100"))
        )]
        limit: Query<u16>,
        /// `next_cursor` of the page before
        cursor: Query<Option<String>>,
        uri: &Uri,
    ) -> ApiResult<Paged<BookingSummary>> {
        let page = PageRequest::<Uuid>::new(limit.0, cursor.0.as_deref(), uri)?;
        check_days(from.0, to.0)?;
        let filter = bookings::Filter {
            side: role.0.into(),
            states: state.0.into_iter().map(bookings::BookingState::from).collect(),
            from: from.0,
            to: to.0,
            property_id: property_id.0,
            before: page.after().copied(),
            limit: page.fetch(),
        };
        reads::list(&self.0, auth.user_id, &filter, page).await
    }

    /// Read a booking
    ///
    /// For its guest and its host only. With `Prefer: wait=N` the reply is held while the booking is `held` and its
    /// card is still being asked, N seconds at most.
    #[oai(path = "/bookings/:booking_id", method = "get", operation_id = "get_booking")]
    pub(crate) async fn get(
        &self,
        auth: Auth,
        /// The booking
        booking_id: Path<Uuid>,
        /// `wait=N`: hold the reply until the card is authorised or refused, N seconds at most. More than 20 is 20
        #[oai(name = "Prefer", example = "prefer_example")]
        prefer: Header<Option<String>>,
    ) -> ApiResult<Held<Booking>> {
        reads::one(
            &self.0,
            auth.user_id,
            booking_id.0,
            Wait::preferred(prefer.0.as_deref()),
        )
        .await
    }

    /// Change a booking
    ///
    /// What costs nothing: the number of guests, the time of arrival, the message to the host. For the guest, until
    /// the stay is over.
    #[oai(path = "/bookings/:booking_id", method = "patch", operation_id = "update_booking")]
    pub(crate) async fn amend(
        &self,
        auth: Auth,
        /// The booking
        booking_id: Path<Uuid>,
        body: JsonBody<BookingPatch>,
    ) -> ApiResult<Json<Booking>> {
        let patch = body.into_inner();
        Checks::new()
            .text("message", patch.message.as_deref().unwrap_or_default(), 0, 2_000)
            .finish()?;
        if patch.guests.is_none() && patch.arrival_time.is_none() && patch.message.is_none() {
            return Ok(Json(reads::view(&self.0, auth.user_id, booking_id.0).await?));
        }
        let amendment = Amendment {
            guests: patch.guests,
            arrival_time: patch.arrival_time.as_deref().map(clock_time).transpose()?,
            message: patch.message,
        };
        actions::act(&self.0, auth.user_id, booking_id.0, &Action::Amend(amendment)).await
    }

    /// Cancel
    ///
    /// By the guest or the host. What is paid back is what `GET …/cancellation-quote` says; the refund is on its way
    /// when this answers. Refused with 409 `wrong_state` once the stay is over or the booking has ended.
    #[oai(
        path = "/bookings/:booking_id/cancel",
        method = "post",
        operation_id = "cancel_booking"
    )]
    pub(crate) async fn cancel(
        &self,
        auth: Auth,
        /// The booking
        booking_id: Path<Uuid>,
        body: OptionalJsonBody<Reason>,
    ) -> ApiResult<Json<Booking>> {
        let reason = reason_of(body)?;
        actions::act(&self.0, auth.user_id, booking_id.0, &Action::Cancel(reason)).await
    }

    /// Check in
    ///
    /// The guest has arrived: either side may say so from the day of check-in on. Before that, 409 `too_early`.
    #[oai(
        path = "/bookings/:booking_id/check-in",
        method = "post",
        operation_id = "check_in_booking"
    )]
    pub(crate) async fn check_in(
        &self,
        auth: Auth,
        /// The booking
        booking_id: Path<Uuid>,
    ) -> ApiResult<Json<Booking>> {
        actions::act(&self.0, auth.user_id, booking_id.0, &Action::CheckIn).await
    }

    /// Check out
    ///
    /// The guest has left: either side may say so once the guest is checked in.
    #[oai(
        path = "/bookings/:booking_id/check-out",
        method = "post",
        operation_id = "check_out_booking"
    )]
    pub(crate) async fn check_out(
        &self,
        auth: Auth,
        /// The booking
        booking_id: Path<Uuid>,
    ) -> ApiResult<Json<Booking>> {
        actions::act(&self.0, auth.user_id, booking_id.0, &Action::CheckOut).await
    }

    /// Report that the guest did not come
    ///
    /// By the host while the booking is `confirmed`, from the time of check-in until that of check-out: before that 409
    /// `too_early`, afterwards 409 `stay_over`. The booking is `no_show` from then on, for good: nothing is paid back, the
    /// nights that are left can be booked again, the guest is told, and neither side can review the stay. Reporting it
    /// again changes nothing.
    #[oai(
        path = "/bookings/:booking_id/no-show",
        method = "post",
        operation_id = "report_no_show"
    )]
    pub(crate) async fn report_no_show(
        &self,
        auth: Auth,
        /// The booking
        booking_id: Path<Uuid>,
        body: OptionalJsonBody<Reason>,
    ) -> ApiResult<Json<Booking>> {
        let reason = reason_of(body)?;
        actions::act(&self.0, auth.user_id, booking_id.0, &Action::ReportNoShow(reason)).await
    }

    /// Approve a request to book
    ///
    /// By the host while the booking is `pending_approval`, 24 hours at most. It is confirmed and the card is charged.
    #[oai(
        path = "/bookings/:booking_id/approve",
        method = "post",
        operation_id = "approve_booking"
    )]
    pub(crate) async fn approve(
        &self,
        auth: Auth,
        /// The booking
        booking_id: Path<Uuid>,
    ) -> ApiResult<Json<Booking>> {
        actions::act(&self.0, auth.user_id, booking_id.0, &Action::Approve).await
    }

    /// Decline a request to book
    ///
    /// By the host while the booking is `pending_approval`. The nights are free again and the card is released.
    #[oai(
        path = "/bookings/:booking_id/decline",
        method = "post",
        operation_id = "decline_booking"
    )]
    pub(crate) async fn decline(
        &self,
        auth: Auth,
        /// The booking
        booking_id: Path<Uuid>,
        body: OptionalJsonBody<Reason>,
    ) -> ApiResult<Json<Booking>> {
        let reason = reason_of(body)?;
        actions::act(&self.0, auth.user_id, booking_id.0, &Action::Decline(reason)).await
    }

    /// Ask what cancelling would pay back
    ///
    /// At this instant, for the side you stand on: line by line, with the rule and until when it holds. Changes nothing.
    #[oai(
        path = "/bookings/:booking_id/cancellation-quote",
        method = "get",
        operation_id = "quote_cancellation"
    )]
    pub(crate) async fn cancellation_quote(
        &self,
        auth: Auth,
        /// The booking
        booking_id: Path<Uuid>,
    ) -> ApiResult<Json<CancellationQuote>> {
        reads::cancellation_quote(&self.0, auth.user_id, booking_id.0).await
    }
}

const DAY_RANGE: &str = "must be a day of the years 1 to 9999";

pub(crate) fn default_side() -> Side {
    Side::Guest
}

fn prefer_example() -> Option<String> {
    Some("wait=10".to_owned())
}

/// Refuses days that a list cannot be narrowed by.
pub(crate) fn check_days(from: Option<NaiveDate>, to: Option<NaiveDate>) -> ApiResult<()> {
    Checks::new()
        .optional("from", from.as_ref(), |day| is_calendar_day(*day), DAY_RANGE)
        .optional("to", to.as_ref(), |day| is_calendar_day(*day), DAY_RANGE)
        .optional(
            "to",
            from.zip(to).as_ref(),
            |(from, to)| from <= to,
            "must not be before from",
        )
        .finish()
}

/// What a date of four-digit years can name; chrono knows days that Postgres does not.
fn is_calendar_day(day: NaiveDate) -> bool {
    use chrono::Datelike;
    (1..=9999).contains(&day.year())
}

fn clock_time(text: &str) -> ApiResult<chrono::NaiveTime> {
    chrono::NaiveTime::parse_from_str(text, "%H:%M").map_err(|_| {
        let error = crate::problem::FieldError::new("arrival_time", "must be a time such as 18:30");
        ApiError::invalid(vec![error])
    })
}

fn reason_of(body: OptionalJsonBody<Reason>) -> ApiResult<Option<String>> {
    let reason = body.into_inner().reason.map(|reason| reason.trim().to_owned());
    Checks::new()
        .text("reason", reason.as_deref().unwrap_or_default(), 0, 500)
        .finish()?;
    Ok(reason.filter(|reason| !reason.is_empty()))
}
