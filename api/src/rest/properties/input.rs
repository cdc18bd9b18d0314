//! A property on the wire, as a host sends it: whole, or what is to change.

use async_graphql::InputObject;
use chrono::NaiveTime;
use poem_openapi::Object;
use poem_openapi::types::{Example, MaybeUndefined};
use roost_shared::money::Currency;
use roost_shared::properties::PropertyDetails;
use roost_shared::properties::rules::{self, Violation};

use super::view::{CancellationPolicy, PropertyStatus};
use crate::patch::Change;

/// The default of `check_in_from`.
const CHECK_IN_FROM: NaiveTime = on_the_hour(15);
/// The default of `check_out_by`.
const CHECK_OUT_BY: NaiveTime = on_the_hour(11);

const fn on_the_hour(hour: u32) -> NaiveTime {
    match NaiveTime::from_hms_opt(hour, 0, 0) {
        Some(time) => time,
        None => NaiveTime::MIN,
    }
}

/// A property to be listed.
#[derive(Clone, Debug, Object, InputObject)]
#[oai(deny_unknown_fields, example)]
pub struct NewProperty {
    /// Its name in lists: one line of 5 to 120 characters
    pub title: String,
    /// What a guest should know before booking: up to 5,000 characters. Default: empty
    pub description: Option<String>,
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
    /// Once a stay, in minor units. Default: `0`
    pub cleaning_fee_minor: Option<i64>,
    /// The most people
    pub max_guests: i32,
    /// How many bedrooms; 0 in a studio. Default: `1`
    pub bedrooms: Option<i32>,
    /// How many beds. Default: `1`
    pub beds: Option<i32>,
    /// How many bathrooms. Default: `1`
    pub bathrooms: Option<i32>,
    /// What there is, each once. Default: none
    pub amenities: Option<Vec<String>>,
    /// What you ask of guests: up to 5,000 characters. Default: empty
    pub house_rules: Option<String>,
    /// The earliest arrival on the day of check-in, `HH:MM` on the property's clock. Default: `15:00`
    pub check_in_from: Option<String>,
    /// The latest departure on the day of check-out, `HH:MM` on the property's clock. Default: `11:00`
    pub check_out_by: Option<String>,
    /// The shortest stay. Default: `1`
    pub min_nights: Option<i32>,
    /// The longest stay. Default: `365`
    pub max_nights: Option<i32>,
    /// Whether a booking is confirmed without your approval. Default: `false`
    pub instant_book: Option<bool>,
    /// What a guest who cancels gets back. Default: `flexible`
    pub cancellation_policy: Option<CancellationPolicy>,
    /// `draft`: only you see it; `listed`: everybody does, and it can be booked. Default: `draft`
    pub status: Option<PropertyStatus>,
}

impl Example for NewProperty {
    fn example() -> Self {
        Self {
            title: "A quiet flat by the canal".to_owned(),
            description: Some("Two rooms on the third floor, ten minutes on foot from the centre.".to_owned()),
            city: "Berlin".to_owned(),
            country: "DE".to_owned(),
            latitude: 52.4934,
            longitude: 13.4234,
            time_zone: "Europe/Berlin".to_owned(),
            currency: "EUR".to_owned(),
            nightly_rate_minor: 12_000,
            cleaning_fee_minor: Some(4_500),
            max_guests: 4,
            bedrooms: Some(2),
            beds: Some(3),
            bathrooms: Some(1),
            amenities: Some(vec![
                "wifi".to_owned(),
                "kitchen".to_owned(),
                "washing_machine".to_owned(),
            ]),
            house_rules: Some("No parties. Quiet after ten.".to_owned()),
            check_in_from: Some("15:00".to_owned()),
            check_out_by: Some("11:00".to_owned()),
            min_nights: Some(2),
            max_nights: Some(30),
            instant_book: Some(true),
            cancellation_policy: Some(CancellationPolicy::Moderate),
            status: Some(PropertyStatus::Listed),
        }
    }
}

impl From<PropertyDetails> for NewProperty {
    fn from(details: PropertyDetails) -> Self {
        Self {
            title: details.title,
            description: Some(details.description),
            city: details.city,
            country: details.country,
            latitude: details.latitude,
            longitude: details.longitude,
            time_zone: details.time_zone,
            currency: details.currency.code().to_owned(),
            nightly_rate_minor: details.nightly_rate_minor,
            cleaning_fee_minor: Some(details.cleaning_fee_minor),
            max_guests: details.max_guests,
            bedrooms: Some(details.bedrooms),
            beds: Some(details.beds),
            bathrooms: Some(details.bathrooms),
            amenities: Some(details.amenities),
            house_rules: Some(details.house_rules),
            check_in_from: Some(details.check_in_from.format("%H:%M").to_string()),
            check_out_by: Some(details.check_out_by.format("%H:%M").to_string()),
            min_nights: Some(details.min_nights),
            max_nights: Some(details.max_nights),
            instant_book: Some(details.instant_book),
            cancellation_policy: Some(details.cancellation_policy.into()),
            status: Some(details.status.into()),
        }
    }
}

impl NewProperty {
    /// What it says, with the defaults filled in.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn into_details(self) -> Result<PropertyDetails, Vec<Violation>> {
        let mut found = Vec::new();
        // What cannot be read is replaced, so that the other fields are still looked at.
        let currency = self.currency.parse().unwrap_or_else(|_| {
            found.push(Violation::new(
                "currency",
                "must be an upper-case ISO 4217 code such as EUR",
            ));
            Currency::EUR
        });
        let mut time = |field, given: Option<String>, default| match given {
            None => default,
            Some(text) => hours_and_minutes(&text).unwrap_or_else(|| {
                found.push(Violation::new(field, "must be a time of day such as 15:00"));
                default
            }),
        };
        let check_in_from = time("check_in_from", self.check_in_from, CHECK_IN_FROM);
        let check_out_by = time("check_out_by", self.check_out_by, CHECK_OUT_BY);
        let details = PropertyDetails {
            title: self.title,
            description: self.description.unwrap_or_default(),
            city: self.city,
            country: self.country,
            latitude: self.latitude,
            longitude: self.longitude,
            time_zone: self.time_zone,
            currency,
            nightly_rate_minor: self.nightly_rate_minor,
            cleaning_fee_minor: self.cleaning_fee_minor.unwrap_or(0),
            max_guests: self.max_guests,
            bedrooms: self.bedrooms.unwrap_or(1),
            beds: self.beds.unwrap_or(1),
            bathrooms: self.bathrooms.unwrap_or(1),
            amenities: self.amenities.unwrap_or_default(),
            house_rules: self.house_rules.unwrap_or_default(),
            check_in_from,
            check_out_by,
            min_nights: self.min_nights.unwrap_or(1),
            max_nights: self.max_nights.unwrap_or(rules::MAX_NIGHTS),
            instant_book: self.instant_book.unwrap_or(false),
            cancellation_policy: self.cancellation_policy.unwrap_or(CancellationPolicy::Flexible).into(),
            status: self.status.unwrap_or(PropertyStatus::Draft).into(),
        };
        found.extend(rules::violations(&details));
        if found.is_empty() { Ok(details) } else { Err(found) }
    }
}

/// `HH:MM` and nothing else.
fn hours_and_minutes(text: &str) -> Option<NaiveTime> {
    let shaped = text.len() == 5
        && text
            .bytes()
            .enumerate()
            .all(|(at, byte)| if at == 2 { byte == b':' } else { byte.is_ascii_digit() });
    NaiveTime::parse_from_str(text, "%H:%M").ok().filter(|_| shaped)
}

/// What to change of a property. What is left out stays; `null` brings a default back.
#[derive(Clone, Debug, Default, Object, InputObject)]
#[oai(deny_unknown_fields, example)]
pub struct PropertyPatch {
    /// Its name in lists: one line of 5 to 120 characters
    pub title: Change<String>,
    /// What a guest should know before booking: up to 5,000 characters
    pub description: Change<String>,
    /// The city, as written there or in English
    pub city: Change<String>,
    /// ISO 3166-1 alpha-2, in upper case
    pub country: Change<String>,
    /// Degrees north
    pub latitude: Change<f64>,
    /// Degrees east
    pub longitude: Change<f64>,
    /// The IANA time zone that its dates and times are of
    pub time_zone: Change<String>,
    /// ISO 4217, of both amounts
    pub currency: Change<String>,
    /// One night, in minor units: 12000 is 120.00 EUR, or 12000 JPY
    pub nightly_rate_minor: Change<i64>,
    /// Once a stay, in minor units
    pub cleaning_fee_minor: Change<i64>,
    /// The most people
    pub max_guests: Change<i32>,
    /// How many bedrooms; 0 in a studio
    pub bedrooms: Change<i32>,
    /// How many beds
    pub beds: Change<i32>,
    /// How many bathrooms
    pub bathrooms: Change<i32>,
    /// What there is, each once
    pub amenities: Change<Vec<String>>,
    /// What you ask of guests: up to 5,000 characters
    pub house_rules: Change<String>,
    /// The earliest arrival on the day of check-in, `HH:MM` on the property's clock
    pub check_in_from: Change<String>,
    /// The latest departure on the day of check-out, `HH:MM` on the property's clock
    pub check_out_by: Change<String>,
    /// The shortest stay
    pub min_nights: Change<i32>,
    /// The longest stay
    pub max_nights: Change<i32>,
    /// Whether a booking is confirmed without your approval
    pub instant_book: Change<bool>,
    /// What a guest who cancels gets back
    pub cancellation_policy: Change<CancellationPolicy>,
    /// `draft`: only you see it; `listed`: everybody does, and it can be booked
    pub status: Change<PropertyStatus>,
}

impl Example for PropertyPatch {
    fn example() -> Self {
        Self {
            nightly_rate_minor: Change(MaybeUndefined::Value(13_500)),
            max_nights: Change(MaybeUndefined::Null),
            ..Self::default()
        }
    }
}

impl PropertyPatch {
    /// Changes `wanted` as this says. Returns the fields that are null and must not be.
    pub fn apply(self, wanted: &mut NewProperty) -> Vec<&'static str> {
        let mut nulls = Vec::new();
        set(&mut nulls, "title", &mut wanted.title, self.title);
        set_or_unset(&mut wanted.description, self.description);
        set(&mut nulls, "city", &mut wanted.city, self.city);
        set(&mut nulls, "country", &mut wanted.country, self.country);
        set(&mut nulls, "latitude", &mut wanted.latitude, self.latitude);
        set(&mut nulls, "longitude", &mut wanted.longitude, self.longitude);
        set(&mut nulls, "time_zone", &mut wanted.time_zone, self.time_zone);
        set(&mut nulls, "currency", &mut wanted.currency, self.currency);
        set(
            &mut nulls,
            "nightly_rate_minor",
            &mut wanted.nightly_rate_minor,
            self.nightly_rate_minor,
        );
        set_or_unset(&mut wanted.cleaning_fee_minor, self.cleaning_fee_minor);
        set(&mut nulls, "max_guests", &mut wanted.max_guests, self.max_guests);
        set_or_unset(&mut wanted.bedrooms, self.bedrooms);
        set_or_unset(&mut wanted.beds, self.beds);
        set_or_unset(&mut wanted.bathrooms, self.bathrooms);
        set_or_unset(&mut wanted.amenities, self.amenities);
        set_or_unset(&mut wanted.house_rules, self.house_rules);
        set_or_unset(&mut wanted.check_in_from, self.check_in_from);
        set_or_unset(&mut wanted.check_out_by, self.check_out_by);
        set_or_unset(&mut wanted.min_nights, self.min_nights);
        set_or_unset(&mut wanted.max_nights, self.max_nights);
        set_or_unset(&mut wanted.instant_book, self.instant_book);
        set_or_unset(&mut wanted.cancellation_policy, self.cancellation_policy);
        set_or_unset(&mut wanted.status, self.status);
        nulls
    }
}

/// A field without a default cannot be null.
fn set<T>(nulls: &mut Vec<&'static str>, name: &'static str, field: &mut T, change: Change<T>) {
    match change.0 {
        MaybeUndefined::Undefined => {}
        MaybeUndefined::Null => nulls.push(name),
        MaybeUndefined::Value(value) => *field = value,
    }
}

fn set_or_unset<T>(field: &mut Option<T>, change: Change<T>) {
    match change.0 {
        MaybeUndefined::Undefined => {}
        MaybeUndefined::Null => *field = None,
        MaybeUndefined::Value(value) => *field = Some(value),
    }
}

#[cfg(test)]
mod tests {
    use poem_openapi::types::ParseFromJSON;
    use roost_shared::properties;
    use serde_json::json;

    use super::super::view::tests::property;
    use super::*;

    #[test]
    fn what_is_left_out_has_its_default() {
        let least = json!({
            "title": "A flat", "city": "Tokyo", "country": "JP", "latitude": 35.6, "longitude": 139.7,
            "time_zone": "Asia/Tokyo", "currency": "JPY", "nightly_rate_minor": 9_800, "max_guests": 2,
        });
        let new = NewProperty::parse_from_json(Some(least)).unwrap();
        let details = new.into_details().unwrap();
        assert_eq!(details.status, properties::PropertyStatus::Draft);
        assert_eq!((details.min_nights, details.max_nights), (1, 365));
        assert_eq!(details.check_in_from.to_string(), "15:00:00");
        assert!(!details.instant_book);
    }

    #[test]
    fn a_patch_changes_what_it_names_and_null_brings_the_default_back() {
        let patch = json!({"title": "Another name", "house_rules": null, "min_nights": null, "city": null, "beds": 5});
        let patch = PropertyPatch::parse_from_json(Some(patch)).unwrap();
        let before = property().details;
        let mut wanted = NewProperty::from(before.clone());
        assert_eq!(patch.apply(&mut wanted), ["city"]);
        let after = wanted.into_details().unwrap();
        let expected = PropertyDetails {
            title: "Another name".to_owned(),
            house_rules: String::new(),
            min_nights: 1,
            beds: 5,
            ..before
        };
        assert_eq!(after, expected);
    }

    #[test]
    fn what_cannot_be_read_is_refused_together_with_what_breaks_a_limit() {
        let wrong = NewProperty {
            currency: "eur".to_owned(),
            check_in_from: Some("3 pm".to_owned()),
            check_out_by: Some("24:00".to_owned()),
            beds: Some(0),
            ..NewProperty::example()
        };
        let fields: Vec<_> = wrong
            .into_details()
            .unwrap_err()
            .into_iter()
            .map(|violation| violation.field)
            .collect();
        assert_eq!(fields, ["currency", "check_in_from", "check_out_by", "beds"]);
        for text in ["15:00", "00:00", "23:59"] {
            assert!(hours_and_minutes(text).is_some(), "{text}");
        }
        for text in ["", "5:00", "15:0", "+5:00", "15:60", "15:00:00", "15.00", " 5:00"] {
            assert!(hours_and_minutes(text).is_none(), "{text}");
        }
    }
}
