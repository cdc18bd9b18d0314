//! A property as its host describes it and as the API shows it.

use bytes::Bytes;
use chrono::{DateTime, NaiveTime, Utc};
use serde::{Serialize, Serializer};
use uuid::Uuid;

use super::{CancellationPolicy, PropertyStatus};
use crate::money::Currency;

/// What the host says of a property, and may change. [`super::rules`] has the limits.
#[derive(Clone, Debug, PartialEq, Serialize, sqlx::FromRow)]
pub struct PropertyDetails {
    /// Its name in lists.
    pub title: String,
    /// What a guest should know before booking.
    pub description: String,
    /// The city, as written there or in English.
    pub city: String,
    /// ISO 3166-1 alpha-2.
    pub country: String,
    /// Degrees north.
    pub latitude: f64,
    /// Degrees east.
    pub longitude: f64,
    /// The IANA name of the zone that its dates and times are of.
    pub time_zone: String,
    /// Of both amounts.
    pub currency: Currency,
    /// One night, in minor units.
    pub nightly_rate_minor: i64,
    /// Once a stay, in minor units.
    pub cleaning_fee_minor: i64,
    /// The most people.
    pub max_guests: i32,
    /// How many bedrooms; none in a studio.
    pub bedrooms: i32,
    /// How many beds.
    pub beds: i32,
    /// How many bathrooms.
    pub bathrooms: i32,
    /// Of [`super::rules::AMENITIES`].
    pub amenities: Vec<String>,
    /// What the host asks of guests.
    pub house_rules: String,
    /// The earliest arrival on the day of check-in.
    #[serde(serialize_with = "hours_and_minutes")]
    pub check_in_from: NaiveTime,
    /// The latest departure on the day of check-out.
    #[serde(serialize_with = "hours_and_minutes")]
    pub check_out_by: NaiveTime,
    /// The shortest stay.
    pub min_nights: i32,
    /// The longest stay.
    pub max_nights: i32,
    /// Whether a booking is confirmed without the host's approval.
    pub instant_book: bool,
    /// What a guest who cancels gets back.
    pub cancellation_policy: CancellationPolicy,
    /// Who sees it.
    pub status: PropertyStatus,
}

/// A property. Its JSON is what the API shows of it.
#[derive(Clone, Debug, PartialEq, Serialize, sqlx::FromRow)]
pub struct Property {
    /// The property.
    pub id: Uuid,
    /// Who lets it.
    pub host_id: Uuid,
    /// What the host says of it.
    #[sqlx(flatten)]
    #[serde(flatten)]
    pub details: PropertyDetails,
    /// The mean of its reviews in hundredths of a star; 0 without reviews.
    #[serde(rename = "rating", serialize_with = "stars")]
    pub rating_hundredths: i32,
    /// How many reviews.
    pub review_count: i32,
    /// Counts, from 1, the changes of anything that is shown here.
    pub version: i32,
    /// When it was created.
    #[serde(serialize_with = "rfc3339")]
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    #[serde(serialize_with = "rfc3339")]
    pub updated_at: DateTime<Utc>,
}

impl Property {
    /// The mean of its reviews in stars; none without reviews.
    #[must_use]
    pub fn rating(&self) -> Option<f64> {
        (self.rating_hundredths != 0).then(|| f64::from(self.rating_hundredths) / 100.0)
    }

    /// Whether everybody may see it.
    #[must_use]
    pub fn is_public(&self) -> bool {
        self.details.status == PropertyStatus::Listed
    }

    /// Whether this user, or somebody who is not signed in, may see it.
    #[must_use]
    pub fn is_visible_to(&self, user_id: Option<Uuid>) -> bool {
        self.is_public() || user_id == Some(self.host_id)
    }
}

/// The JSON of a property, ready to be sent and to be cached.
///
/// # Errors
/// Never in practice: a coordinate that is not a number has no JSON, and the database refuses those.
pub fn public_json(property: &Property) -> Result<Bytes, serde_json::Error> {
    serde_json::to_vec(property).map(Bytes::from)
}

fn hours_and_minutes<S: Serializer>(time: &NaiveTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&time.format("%H:%M"))
}

/// As the API writes all its instants.
fn rfc3339<S: Serializer>(instant: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&instant.to_rfc3339())
}

fn stars<S: Serializer>(hundredths: &i32, serializer: S) -> Result<S::Ok, S::Error> {
    if *hundredths == 0 {
        serializer.serialize_none()
    } else {
        serializer.serialize_f64(f64::from(*hundredths) / 100.0)
    }
}

#[cfg(test)]
pub(crate) fn property_for_tests() -> Property {
    let terms = super::terms_for_tests();
    Property {
        id: terms.id,
        host_id: terms.host_id,
        details: PropertyDetails {
            title: terms.title,
            description: "Two rooms on the third floor.".to_owned(),
            city: terms.city,
            country: "DE".to_owned(),
            latitude: 52.4934,
            longitude: 13.4234,
            time_zone: terms.time_zone.name().to_owned(),
            currency: terms.currency,
            nightly_rate_minor: terms.nightly_rate_minor,
            cleaning_fee_minor: terms.cleaning_fee_minor,
            max_guests: terms.max_guests,
            bedrooms: 2,
            beds: 3,
            bathrooms: 1,
            amenities: vec!["wifi".to_owned(), "kitchen".to_owned()],
            house_rules: "No parties.\nQuiet after ten.".to_owned(),
            check_in_from: terms.check_in_from,
            check_out_by: terms.check_out_by,
            min_nights: terms.min_nights,
            max_nights: terms.max_nights,
            instant_book: terms.instant_book,
            cancellation_policy: terms.cancellation_policy,
            status: terms.status,
        },
        rating_hundredths: 487,
        review_count: 23,
        version: 3,
        created_at: DateTime::UNIX_EPOCH,
        updated_at: DateTime::UNIX_EPOCH,
    }
}
