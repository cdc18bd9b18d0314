//! Quotes: what a stay costs and how it can be cancelled, promised for a quarter of an hour.

use async_graphql::{InputObject, SimpleObject};
use chrono::{DateTime, NaiveDate, Utc};
use poem_openapi::payload::Json;
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};
use roost_shared::properties::stay::Stay;
use roost_shared::properties::{self, Offer, QuoteRefusal};
use uuid::Uuid;

use super::Tag;
use super::bookings::refusals::stay_refused;
use super::prices::{LineKind, PriceLine};
use super::properties::CancellationPolicy;
use crate::body::JsonBody;
use crate::error::{ApiError, ApiResult};
use crate::problem::FieldError;
use crate::state::AppState;

/// Operations on quotes.
pub struct QuotesApi(pub AppState);

/// A stay to be priced.
#[derive(Clone, Debug, Object, InputObject)]
#[oai(deny_unknown_fields, example)]
pub struct QuoteRequest {
    /// Where
    pub property_id: Uuid,
    /// The day of arrival, in the property's calendar: today or later
    pub check_in: NaiveDate,
    /// The day of departure: after `check_in`
    pub check_out: NaiveDate,
    /// How many people
    #[oai(validator(minimum(value = "1")))]
    pub guests: i32,
}

impl Example for QuoteRequest {
    fn example() -> Self {
        Self {
            property_id: Uuid::from_u128(0x019a_b6c8_6f5e_7c3a_9d0e_2f4f_1f6f_0b22),
            check_in: DateTime::UNIX_EPOCH.date_naive() + chrono::Days::new(20_700),
            check_out: DateTime::UNIX_EPOCH.date_naive() + chrono::Days::new(20_703),
            guests: 2,
        }
    }
}

/// A price, and the token that a booking shows to get it.
#[derive(Clone, Debug, Object, SimpleObject)]
#[oai(example)]
pub struct Quote {
    /// Where
    pub property_id: Uuid,
    /// The day of arrival
    pub check_in: NaiveDate,
    /// The day of departure
    pub check_out: NaiveDate,
    /// How many nights
    pub nights: i64,
    /// How many people
    pub guests: i32,
    /// ISO 4217, of all amounts
    pub currency: String,
    /// What the total is made of
    pub lines: Vec<PriceLine>,
    /// The sum of the lines, in minor units: what the guest pays
    pub total_minor: i64,
    /// Whether the nights are free as yet. A quote reserves nothing
    pub available: bool,
    /// Whether a booking is confirmed without the host's approval
    pub instant_book: bool,
    /// What a guest who cancels gets back
    pub cancellation_policy: CancellationPolicy,
    /// For `quote_token` of `POST /bookings`: a booking with it costs exactly `total_minor` and has this cancellation policy
    pub token: String,
    /// Until when the token is good: 15 minutes
    pub expires_at: DateTime<Utc>,
}

impl Example for Quote {
    fn example() -> Self {
        let request = QuoteRequest::example();
        let line = |kind, label: &str, quantity, unit_minor, amount_minor| PriceLine {
            kind,
            label: label.to_owned(),
            quantity,
            unit_minor,
            amount_minor,
        };
        Self {
            property_id: request.property_id,
            check_in: request.check_in,
            check_out: request.check_out,
            nights: 3,
            guests: request.guests,
            currency: "EUR".to_owned(),
            lines: vec![
                line(LineKind::Nights, "3 nights", 3, 12_000, 36_000),
                line(LineKind::CleaningFee, "Cleaning fee", 1, 4_500, 4_500),
                line(LineKind::GuestServiceFee, "Guest service fee", 1, 4_860, 4_860),
            ],
            total_minor: 45_360,
            available: true,
            instant_book: true,
            cancellation_policy: CancellationPolicy::Moderate,
            token: "v1.eyJwcm9wZXJ0eV9pZCI6IjAxOWFiNmM4….Yx3…".to_owned(),
            expires_at: DateTime::UNIX_EPOCH + chrono::Duration::days(20_690),
        }
    }
}

impl From<Offer> for Quote {
    fn from(offer: Offer) -> Self {
        let quote = offer.quote;
        Self {
            property_id: quote.property_id,
            check_in: quote.stay.check_in,
            check_out: quote.stay.check_out,
            nights: quote.stay.nights(),
            guests: quote.guests,
            currency: quote.price.currency.code().to_owned(),
            lines: quote.price.lines.into_iter().map(PriceLine::from).collect(),
            total_minor: quote.price.total_minor,
            available: offer.available,
            instant_book: offer.instant_book,
            cancellation_policy: offer.cancellation_policy.into(),
            token: offer.token,
            expires_at: quote.expires_at,
        }
    }
}

#[OpenApi(tag = "Tag::Properties")]
impl QuotesApi {
    /// Price a stay
    ///
    /// Says what a stay costs, line by line, and what a guest who cancels gets back, and promises both for 15 minutes.
    /// Needs no account, reserves nothing and keeps nothing: asked again, it prices again.
    #[oai(path = "/quotes", method = "post", operation_id = "create_quote")]
    pub(crate) async fn create(&self, body: JsonBody<QuoteRequest>) -> ApiResult<Json<Quote>> {
        let state = &self.0;
        let stay = Stay::new(body.check_in, body.check_out);
        let offer = properties::quote_stay(
            &mut *state.db.pool().acquire().await?,
            &state.quote_key,
            state.clock.now(),
            body.property_id,
            stay,
            body.guests,
        )
        .await?;
        Ok(Json(offer.into()))
    }
}

impl From<QuoteRefusal> for ApiError {
    fn from(refusal: QuoteRefusal) -> Self {
        match refusal {
            QuoteRefusal::NoSuchProperty => Self::not_found("property"),
            QuoteRefusal::StayRefused(refusals) => stay_refused(&refusals),
            QuoteRefusal::Price(error) => Self::invalid(vec![FieldError::new("check_out", error.to_string())]),
            QuoteRefusal::Token(error) => Self::internal(error),
            QuoteRefusal::Database(error) => error.into(),
        }
    }
}
