//! A property on the wire, as everybody gets it.

use async_graphql::SimpleObject;
use chrono::{DateTime, Utc};
use poem_openapi::Object;
use poem_openapi::types::Example;
use roost_shared::properties::{self, Property};
use uuid::Uuid;

use crate::rest::mirror::mirror;

mirror! {
    /// Who sees a property.
    PropertyStatus of properties::PropertyStatus {
        /// Only its host, who is still writing it
        Draft,
        /// Everybody; it can be booked
        Listed,
        /// Only its host, and those who booked it; for good
        Archived,
    }
}

mirror! {
    /// What a guest who cancels gets back.
    CancellationPolicy of properties::CancellationPolicy {
        /// All until 24 hours before check-in; later the first night is kept
        Flexible,
        /// All until 5 days before check-in; later the first night and half of the rest is kept
        Moderate,
        /// All until 14 days before check-in, half until 7, then nothing
        Limited,
        /// All until 30 days before check-in, half until 7, then nothing
        Firm,
    }
}

/// A property as everybody sees it.
#[derive(Clone, Debug, PartialEq, Object, SimpleObject)]
#[oai(rename = "Property", deny_unknown_fields, example)]
#[graphql(name = "Property", complex)]
pub struct PropertyView {
    /// The property
    pub id: Uuid,
    /// Who lets it
    pub host_id: Uuid,
    /// Its name in lists: one line of 5 to 120 characters
    pub title: String,
    /// What a guest should know before booking: up to 5,000 characters
    pub description: String,
    /// The city, as written there or in English
    pub city: String,
    /// ISO 3166-1 alpha-2, in upper case
    pub country: String,
    /// Degrees north
    pub latitude: f64,
    /// Degrees east
    pub longitude: f64,
    /// The IANA time zone that its dates and times are of
    pub time_zone: String,
    /// ISO 4217, of both amounts
    pub currency: String,
    /// One night, in minor units: 12000 is 120.00 EUR, or 12000 JPY
    pub nightly_rate_minor: i64,
    /// Once a stay, in minor units
    pub cleaning_fee_minor: i64,
    /// The most people
    pub max_guests: i32,
    /// How many bedrooms; 0 in a studio
    pub bedrooms: i32,
    /// How many beds
    pub beds: i32,
    /// How many bathrooms
    pub bathrooms: i32,
    /// What there is, each once
    pub amenities: Vec<String>,
    /// What the host asks of guests: up to 5,000 characters
    pub house_rules: String,
    /// The earliest arrival on the day of check-in, `HH:MM` on the property's clock
    pub check_in_from: String,
    /// The latest departure on the day of check-out, `HH:MM` on the property's clock
    pub check_out_by: String,
    /// The shortest stay
    pub min_nights: i32,
    /// The longest stay
    pub max_nights: i32,
    /// Whether a booking is confirmed without the host's approval
    pub instant_book: bool,
    /// What a guest who cancels gets back
    pub cancellation_policy: CancellationPolicy,
    /// `draft`: only its host sees it; `listed`: everybody does, and it can be booked
    pub status: PropertyStatus,
    /// The mean of its reviews, 1 to 5 stars; null without reviews
    pub rating: Option<f64>,
    /// How many reviews
    pub review_count: i32,
    /// Counts the changes of anything shown here, from 1; the `ETag` in quotes
    pub version: i32,
    /// When it was created
    pub created_at: DateTime<Utc>,
    /// When it last changed
    pub updated_at: DateTime<Utc>,
}

impl Example for PropertyView {
    fn example() -> Self {
        let day = DateTime::UNIX_EPOCH + chrono::Duration::days(20_600);
        Self {
            id: Uuid::from_u128(0x019a_b6c8_6f5e_7c3a_9d0e_2f4f_1f6f_0b22),
            host_id: Uuid::from_u128(0x019a_b6c8_6f5e_7c3a_9d0e_2f4f_1f6f_0a11),
            title: "A quiet flat by the canal".to_owned(),
            description: "Two rooms on the third floor, ten minutes on foot from the centre.".to_owned(),
            city: "Berlin".to_owned(),
            country: "DE".to_owned(),
            latitude: 52.4934,
            longitude: 13.4234,
            time_zone: "Europe/Berlin".to_owned(),
            currency: "EUR".to_owned(),
            nightly_rate_minor: 12_000,
            cleaning_fee_minor: 4_500,
            max_guests: 4,
            bedrooms: 2,
            beds: 3,
            bathrooms: 1,
            amenities: vec!["wifi".to_owned(), "kitchen".to_owned(), "washing_machine".to_owned()],
            house_rules: "No parties. Quiet after ten.".to_owned(),
            check_in_from: "15:00".to_owned(),
            check_out_by: "11:00".to_owned(),
            min_nights: 2,
            max_nights: 30,
            instant_book: true,
            cancellation_policy: CancellationPolicy::Moderate,
            status: PropertyStatus::Listed,
            rating: Some(4.87),
            review_count: 23,
            version: 3,
            created_at: day,
            updated_at: day,
        }
    }
}

impl From<Property> for PropertyView {
    fn from(property: Property) -> Self {
        let rating = property.rating();
        let details = property.details;
        Self {
            id: property.id,
            host_id: property.host_id,
            title: details.title,
            description: details.description,
            city: details.city,
            country: details.country,
            latitude: details.latitude,
            longitude: details.longitude,
            time_zone: details.time_zone,
            currency: details.currency.code().to_owned(),
            nightly_rate_minor: details.nightly_rate_minor,
            cleaning_fee_minor: details.cleaning_fee_minor,
            max_guests: details.max_guests,
            bedrooms: details.bedrooms,
            beds: details.beds,
            bathrooms: details.bathrooms,
            amenities: details.amenities,
            house_rules: details.house_rules,
            check_in_from: details.check_in_from.format("%H:%M").to_string(),
            check_out_by: details.check_out_by.format("%H:%M").to_string(),
            min_nights: details.min_nights,
            max_nights: details.max_nights,
            instant_book: details.instant_book,
            cancellation_policy: details.cancellation_policy.into(),
            status: details.status.into(),
            rating,
            review_count: property.review_count,
            version: property.version,
            created_at: property.created_at,
            updated_at: property.updated_at,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use poem_openapi::types::{ParseFromJSON, ToJSON};
    use roost_shared::properties::public_json;
    use serde_json::Value;

    use super::*;
    use crate::rest::properties::input::NewProperty;

    pub fn property() -> Property {
        let details = NewProperty::example().into_details().unwrap();
        Property {
            id: Uuid::from_u128(1),
            host_id: Uuid::from_u128(2),
            details,
            rating_hundredths: 487,
            review_count: 23,
            version: 3,
            created_at: DateTime::UNIX_EPOCH + chrono::Duration::microseconds(1_700_000_000_123_456),
            updated_at: DateTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn the_cached_json_is_the_documented_one() {
        for rating_hundredths in [487, 0] {
            let property = Property {
                rating_hundredths,
                ..property()
            };
            let cached: Value = serde_json::from_slice(&public_json(&property).unwrap()).unwrap();
            // Unknown and missing fields are refused here.
            let parsed = PropertyView::parse_from_json(Some(cached.clone())).unwrap();
            assert_eq!(parsed, PropertyView::from(property.clone()));
            assert_eq!(parsed.to_json(), Some(cached));
        }
    }
}
