//! Reading bookings, at once or once their card has answered.

use poem::{IntoResponse, Response};
use poem_openapi::ApiResponse;
use poem_openapi::payload::Json;
use poem_openapi::registry::{MetaHeader, MetaMediaType, MetaResponse, MetaResponses, Registry};
use poem_openapi::types::{ToJSON, Type};
use roost_shared::bookings::{self, Booking as Row, BookingError};
use roost_shared::db;
use roost_shared::payments;
use roost_shared::properties::terms;
use sqlx::PgConnection;
use std::collections::HashMap;
use std::time::Duration;
use uuid::Uuid;

use super::cancellation::CancellationQuote;
use super::objects::{Booking, BookingSummary, Parts};
use crate::error::{ApiError, ApiResult};
use crate::page::{PageRequest, Paged};
use crate::prefer::{APPLIED_HEADER, Wait};
use crate::state::AppState;

/// A `T` whose reply may have been held.
#[derive(Debug)]
pub struct Held<T> {
    body: T,
    wait: Option<Wait>,
}

impl<T> Held<T> {
    /// What it says.
    pub fn into_inner(self) -> T {
        self.body
    }
}

impl<T: ToJSON> IntoResponse for Held<T> {
    fn into_response(self) -> Response {
        let mut response = Json(self.body).into_response();
        if let Some(wait) = self.wait {
            response.headers_mut().insert(APPLIED_HEADER, wait.applied());
        }
        response
    }
}

impl<T: ToJSON + Type> ApiResponse for Held<T> {
    fn meta() -> MetaResponses {
        MetaResponses {
            responses: vec![MetaResponse {
                description: "The booking",
                status: Some(200),
                status_range: None,
                content: vec![MetaMediaType {
                    content_type: "application/json",
                    schema: T::schema_ref(),
                }],
                headers: vec![MetaHeader {
                    name: APPLIED_HEADER.as_str().to_uppercase(),
                    description: Some(
                        "`wait=N`: how long the reply would have been held at most, if asked to be".to_owned(),
                    ),
                    required: false,
                    deprecated: false,
                    schema: String::schema_ref(),
                }],
            }],
        }
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

/// One booking, for its guest and host.
pub async fn one(state: &AppState, user_id: Uuid, booking_id: Uuid, wait: Option<Wait>) -> ApiResult<Held<Booking>> {
    if let Some(wait) = wait {
        // A stranger is told at once.
        let booking = bookings::get(&mut *state.db.pool().acquire().await?, booking_id).await?;
        booking
            .filter(|booking| is_party(booking, user_id))
            .ok_or(BookingError::NoSuchBooking)?;
        settled(state, booking_id, wait.duration()).await;
    }
    let body = view(state, user_id, booking_id).await?;
    Ok(Held { body, wait })
}

/// The booking as it is now, for its guest and host.
pub async fn view(state: &AppState, user_id: Uuid, booking_id: Uuid) -> ApiResult<Booking> {
    // One snapshot, so that booking, payment and timeline tell the same story.
    let mut snapshot = db::snapshot(state.db.pool()).await?;
    let booking = bookings::get(&mut snapshot, booking_id)
        .await?
        .filter(|booking| is_party(booking, user_id))
        .ok_or(BookingError::NoSuchBooking)?;
    let parts = complete(&mut snapshot, booking).await?;
    snapshot.commit().await?;
    Ok(parts.seen_by(user_id))
}

/// Reads what belongs to a booking.
pub async fn complete(conn: &mut PgConnection, booking: Row) -> Result<Parts, sqlx::Error> {
    Ok(Parts {
        payment: payments::latest_of(conn, booking.id).await?,
        property_title: title(conn, booking.property_id).await?,
        timeline: bookings::timeline(conn, booking.id).await?,
        booking,
    })
}

/// What a property is called.
async fn title(conn: &mut PgConnection, property_id: Uuid) -> Result<String, sqlx::Error> {
    let mut titles = terms::titles(conn, &[property_id]).await?;
    Ok(titles.remove(&property_id).unwrap_or_default())
}

/// Returns once the booking's next step is not up to our jobs any more, the time is up, or the server stops.
pub async fn settled(state: &AppState, booking_id: Uuid, longest: Duration) {
    let mut changes = state.announcements.of(booking_id);
    let watch = async {
        loop {
            match bookings::progress(state.db.pool(), booking_id).await {
                Ok(Some(progress)) if progress.is_transient() => changes.next().await,
                // A failure is the caller's to see when it reads the booking.
                _ => return,
            }
        }
    };
    tokio::select! {
        () = watch => {}
        () = tokio::time::sleep(longest) => {}
        () = state.stopping.cancelled() => {}
    }
}

/// A page of a user's bookings: three statements, whatever its length.
pub async fn list(
    state: &AppState,
    user_id: Uuid,
    filter: &bookings::Filter,
    page: PageRequest<Uuid>,
) -> ApiResult<Paged<BookingSummary>> {
    let mut conn = state.db.pool().acquire().await?;
    let rows = bookings::list(&mut conn, user_id, filter).await?;
    let ids: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
    let mut property_ids: Vec<Uuid> = rows.iter().map(|row| row.property_id).collect();
    property_ids.sort_unstable();
    property_ids.dedup();
    let payments = payments::latest_of_each(&mut conn, &ids).await?;
    let states: HashMap<Uuid, payments::PaymentState> = payments
        .into_iter()
        .map(|payment| (payment.booking_id, payment.state))
        .collect();
    let titles = terms::titles(&mut conn, &property_ids).await?;
    Ok(page.reply(
        rows,
        |row| row.id,
        |row| {
            let title = titles.get(&row.property_id).cloned().unwrap_or_default();
            let payment_state = states.get(&row.id).copied();
            BookingSummary::new(&row, title, payment_state)
        },
    ))
}

/// What cancelling now would pay back.
pub async fn cancellation_quote(
    state: &AppState,
    user_id: Uuid,
    booking_id: Uuid,
) -> ApiResult<Json<CancellationQuote>> {
    let booking = bookings::get(&mut *state.db.pool().acquire().await?, booking_id)
        .await?
        .filter(|booking| is_party(booking, user_id))
        .ok_or(BookingError::NoSuchBooking)?;
    quote_cancellation(state, user_id, &booking).map(Json)
}

/// What cancelling now would pay back to one of the booking's two sides.
pub fn quote_cancellation(state: &AppState, user_id: Uuid, booking: &Row) -> ApiResult<CancellationQuote> {
    if !booking.state.can_be_cancelled() {
        return Err(ApiError::from(BookingError::WrongState {
            state: booking.state,
            verb: "cancelled",
        }));
    }
    let now = state.clock.now();
    bookings::ensure_not_over(booking, now)?;
    let by_host = booking.host_id == user_id;
    Ok(CancellationQuote::new(booking, by_host, now))
}

/// Whether the user is the booking's guest or host.
pub fn is_party(booking: &Row, user_id: Uuid) -> bool {
    booking.guest_id == user_id || booking.host_id == user_id
}
