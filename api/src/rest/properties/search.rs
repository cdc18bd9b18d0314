//! The parameters of the list, checked.

use chrono::{DateTime, Days, NaiveDate, TimeDelta, Utc};
use roost_shared::money::Currency;
use roost_shared::properties::Property;
use roost_shared::properties::rules::{
    AMENITIES, MAX_AMENITIES, MAX_CITY_LENGTH, MAX_GUESTS, MAX_NIGHTS, MAX_ROOMS, is_country, is_line,
};
use roost_shared::properties::search::{self, Position, Search};
use roost_shared::properties::stay::{MAX_DAYS_AHEAD, Stay};
use uuid::Uuid;

use crate::error::ApiResult;
use crate::page::PageRequest;
use crate::state::AppState;
use crate::validate::Checks;

/// As it came.
pub(crate) struct SearchQuery {
    pub city: Option<String>,
    pub country: Option<String>,
    pub check_in: Option<NaiveDate>,
    pub check_out: Option<NaiveDate>,
    pub guests: Option<i32>,
    pub currency: Option<String>,
    pub min_price: Option<i64>,
    pub max_price: Option<i64>,
    pub bedrooms: Option<i32>,
    pub amenities: Vec<String>,
    pub instant_book: Option<bool>,
    pub host_id: Option<Uuid>,
    pub mine: bool,
}

impl SearchQuery {
    /// What fits, for a page.
    ///
    /// # Errors
    /// 422 `validation_failed`, 503 without Postgres.
    pub async fn find(self, state: &AppState, page: &PageRequest<(i32, Uuid)>) -> ApiResult<Vec<Property>> {
        let mut search = self.into_search(state.clock.now())?;
        search.after = page.after().map(|(rating_hundredths, id)| Position {
            rating_hundredths: *rating_hundredths,
            id: *id,
        });
        let mut conn = state.db.pool().acquire().await?;
        Ok(search::search(&mut conn, &search, page.fetch()).await?)
    }

    /// The search, from its first page on.
    ///
    /// # Errors
    /// 422 `validation_failed`.
    fn into_search(self, now: DateTime<Utc>) -> ApiResult<Search> {
        // Somewhere on earth it is still, or already, another day; each property judges by its own at the booking.
        let first_today = (now - TimeDelta::hours(12)).date_naive();
        let last_today = (now + TimeDelta::hours(14)).date_naive();
        let latest = last_today
            .checked_add_days(Days::new(MAX_DAYS_AHEAD))
            .unwrap_or(NaiveDate::MAX);
        let currency: Option<Currency> = self.currency.as_deref().and_then(|code| code.parse().ok());
        let stay = self
            .check_in
            .zip(self.check_out)
            .map(|(check_in, check_out)| Stay::new(check_in, check_out));
        let unknown_amenity = self
            .amenities
            .iter()
            .find(|amenity| !AMENITIES.contains(&amenity.as_str()));
        Checks::new()
            .optional(
                "city",
                self.city.as_ref(),
                |city| (1..=MAX_CITY_LENGTH).contains(&city.trim().chars().count()) && is_line(city),
                &format!("must be one line of 1 to {MAX_CITY_LENGTH} characters"),
            )
            .optional(
                "country",
                self.country.as_ref(),
                |code| is_country(code),
                "must be an upper-case ISO 3166-1 alpha-2 code such as DE",
            )
            .field(
                "currency",
                self.currency.is_none() || currency.is_some(),
                "must be an upper-case ISO 4217 code such as EUR",
            )
            .field(
                "check_in",
                self.check_in.is_some() || self.check_out.is_none(),
                "must be given with check_out",
            )
            .field(
                "check_out",
                self.check_out.is_some() || self.check_in.is_none(),
                "must be given with check_in",
            )
            .optional(
                "check_in",
                self.check_in.as_ref(),
                |day| *day >= first_today,
                "is in the past",
            )
            .optional(
                "check_out",
                self.check_out.as_ref(),
                |day| *day <= latest,
                &format!("must be at most {MAX_DAYS_AHEAD} days from today"),
            )
            .optional(
                "check_out",
                stay.as_ref(),
                |stay| stay.nights() > 0,
                "must be after check_in",
            )
            .optional(
                "check_out",
                stay.as_ref(),
                |stay| stay.nights() <= i64::from(MAX_NIGHTS),
                &format!("must be at most {MAX_NIGHTS} nights after check_in"),
            )
            .optional(
                "guests",
                self.guests.as_ref(),
                |guests| (1..=MAX_GUESTS).contains(guests),
                &format!("must be from 1 to {MAX_GUESTS}"),
            )
            .optional(
                "min_price",
                self.min_price.as_ref(),
                |price| *price >= 0,
                "must not be negative",
            )
            .optional(
                "max_price",
                self.max_price.as_ref(),
                |price| *price >= 0,
                "must not be negative",
            )
            .optional(
                "max_price",
                self.min_price.zip(self.max_price).as_ref(),
                |(least, most)| least <= most,
                "must not be less than min_price",
            )
            .optional(
                "bedrooms",
                self.bedrooms.as_ref(),
                |rooms| (0..=MAX_ROOMS).contains(rooms),
                &format!("must be from 0 to {MAX_ROOMS}"),
            )
            .field(
                "amenities",
                self.amenities.len() <= MAX_AMENITIES && unknown_amenity.is_none(),
                "must be amenities that a property can have",
            )
            .finish()?;
        Ok(Search {
            city: self.city,
            country: self.country,
            stay,
            guests: self.guests,
            currency,
            min_price: self.min_price,
            max_price: self.max_price,
            bedrooms: self.bedrooms,
            amenities: self.amenities,
            instant_book: self.instant_book,
            host_id: self.host_id,
            unlisted_too: self.mine,
            after: None,
        })
    }
}
