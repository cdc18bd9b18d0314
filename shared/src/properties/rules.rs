//! What a property may be: the limits of every field. Pure.

use chrono_tz::Tz;

use super::PropertyDetails;
use super::pricing::{PriceError, amounts};

/// The lengths of a title, in characters.
pub const TITLE_LENGTH: (usize, usize) = (5, 120);
/// The longest description and the longest house rules, in characters.
pub const MAX_TEXT_LENGTH: usize = 5_000;
/// The longest name of a city, in characters. The longest in use has about 170.
pub const MAX_CITY_LENGTH: usize = 200;
/// The highest nightly rate and cleaning fee, in minor units.
pub const MAX_AMOUNT_MINOR: i64 = 50_000_000;
/// The longest stay that a property can take.
pub const MAX_NIGHTS: i32 = 365;
/// The most people that a property can take.
pub const MAX_GUESTS: i32 = 50;
/// The most bedrooms and bathrooms.
pub const MAX_ROOMS: i32 = 50;
/// The most beds.
pub const MAX_BEDS: i32 = 100;
/// The most amenities of one property.
pub const MAX_AMENITIES: usize = 50;

/// The amenities that there are.
pub const AMENITIES: &[&str] = &[
    "air_conditioning",
    "baby_bath",
    "balcony",
    "barbecue",
    "bathtub",
    "beach_access",
    "bed_linen",
    "bicycles",
    "board_games",
    "breakfast",
    "cable_tv",
    "carbon_monoxide_alarm",
    "ceiling_fan",
    "coffee_maker",
    "cot",
    "desk",
    "dishwasher",
    "dryer",
    "elevator",
    "ev_charger",
    "fire_extinguisher",
    "fire_pit",
    "fireplace",
    "first_aid_kit",
    "free_parking",
    "freezer",
    "garden",
    "gym",
    "hair_dryer",
    "heating",
    "high_chair",
    "hot_tub",
    "hot_water",
    "iron",
    "kayak",
    "kitchen",
    "lake_access",
    "long_stays",
    "luggage_storage",
    "microwave",
    "mosquito_net",
    "mountain_view",
    "oven",
    "paid_parking",
    "patio",
    "pets_allowed",
    "piano",
    "pool",
    "private_entrance",
    "refrigerator",
    "sauna",
    "sea_view",
    "security_cameras",
    "self_check_in",
    "shampoo",
    "ski_access",
    "smoke_alarm",
    "smoking_allowed",
    "sound_system",
    "step_free_access",
    "stove",
    "toaster",
    "towels",
    "tv",
    "washing_machine",
    "waterfront",
    "wifi",
];

/// A field that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The field.
    pub field: &'static str,
    /// What is wrong with it, to be read after its name.
    pub message: String,
}

impl Violation {
    /// `message` completes a sentence that begins with the field.
    #[must_use]
    pub fn new(field: &'static str, message: impl Into<String>) -> Self {
        Self {
            field,
            message: message.into(),
        }
    }
}

/// Everything that is wrong with `details`; nothing when they can be kept.
#[must_use]
pub fn violations(details: &PropertyDetails) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut must = |holds: bool, field, message: String| {
        if !holds {
            found.push(Violation::new(field, message));
        }
    };
    let length = |text: &str| text.chars().count();

    let (shortest, longest) = TITLE_LENGTH;
    let title = length(details.title.trim());
    must(
        (shortest..=longest).contains(&title),
        "title",
        format!("must have {shortest} to {longest} characters"),
    );
    must(is_line(&details.title), "title", "must be one line".to_owned());
    for (field, text) in [
        ("description", &details.description),
        ("house_rules", &details.house_rules),
    ] {
        must(
            length(text) <= MAX_TEXT_LENGTH,
            field,
            format!("must have {MAX_TEXT_LENGTH} characters or fewer"),
        );
        must(
            is_text(text),
            field,
            "must have no control characters but line ends and tabs".to_owned(),
        );
    }
    let city = length(details.city.trim());
    must(
        (1..=MAX_CITY_LENGTH).contains(&city),
        "city",
        format!("must have 1 to {MAX_CITY_LENGTH} characters"),
    );
    must(is_line(&details.city), "city", "must be one line".to_owned());
    must(
        is_country(&details.country),
        "country",
        "must be an upper-case ISO 3166-1 alpha-2 code such as DE".to_owned(),
    );
    must(
        (-90.0..=90.0).contains(&details.latitude),
        "latitude",
        "must be from -90 to 90".to_owned(),
    );
    must(
        (-180.0..=180.0).contains(&details.longitude),
        "longitude",
        "must be from -180 to 180".to_owned(),
    );
    must(
        details.time_zone.parse::<Tz>().is_ok(),
        "time_zone",
        "must be an IANA time zone such as Europe/Berlin".to_owned(),
    );
    must(
        (1..=MAX_AMOUNT_MINOR).contains(&details.nightly_rate_minor),
        "nightly_rate_minor",
        format!("must be from 1 to {MAX_AMOUNT_MINOR}"),
    );
    must(
        (0..=MAX_AMOUNT_MINOR).contains(&details.cleaning_fee_minor),
        "cleaning_fee_minor",
        format!("must be from 0 to {MAX_AMOUNT_MINOR}"),
    );
    for (field, value, low, high) in [
        ("max_guests", details.max_guests, 1, MAX_GUESTS),
        ("bedrooms", details.bedrooms, 0, MAX_ROOMS),
        ("beds", details.beds, 1, MAX_BEDS),
        ("bathrooms", details.bathrooms, 0, MAX_ROOMS),
        ("min_nights", details.min_nights, 1, MAX_NIGHTS),
        ("max_nights", details.max_nights, 1, MAX_NIGHTS),
    ] {
        must(
            (low..=high).contains(&value),
            field,
            format!("must be from {low} to {high}"),
        );
    }
    must(
        details.min_nights <= details.max_nights,
        "max_nights",
        "must not be less than min_nights".to_owned(),
    );
    found.extend(amenity_violations(&details.amenities));
    // A property that nobody could pay for is a mistake in an amount.
    if found.is_empty() {
        found.extend(price_violation(details));
    }
    found
}

fn price_violation(details: &PropertyDetails) -> Option<Violation> {
    let shortest = amounts(
        details.currency,
        details.nightly_rate_minor,
        details.cleaning_fee_minor,
        i64::from(details.min_nights),
    );
    match shortest {
        Ok(_) => None,
        Err(PriceError::NotCharged(currency)) => Some(Violation::new(
            "currency",
            format!("must be one in which cards are charged, which {currency} is not"),
        )),
        Err(PriceError::TooLow(least)) => Some(Violation::new(
            "nightly_rate_minor",
            format!("makes the shortest stay cost less than {least}, the least that can be charged"),
        )),
        Err(PriceError::TooHigh(most)) => Some(Violation::new(
            "nightly_rate_minor",
            format!("makes the shortest stay cost more than {most}, the most that can be charged at once"),
        )),
        // min_nights has a rule of its own.
        Err(PriceError::NoNights) => None,
    }
}

fn amenity_violations(amenities: &[String]) -> Vec<Violation> {
    let mut found = Vec::new();
    if amenities.len() > MAX_AMENITIES {
        found.push(Violation::new("amenities", format!("must be {MAX_AMENITIES} or fewer")));
        return found;
    }
    for (position, amenity) in amenities.iter().enumerate() {
        if !AMENITIES.contains(&amenity.as_str()) {
            let shown: String = amenity.chars().take(40).collect();
            found.push(Violation::new(
                "amenities",
                format!("has the unknown amenity {shown:?}"),
            ));
        } else if amenities[..position].contains(amenity) {
            found.push(Violation::new("amenities", format!("has {amenity} twice")));
        }
    }
    found
}

/// Whether `code` is a country of ISO 3166-1, in upper case.
#[must_use]
pub fn is_country(code: &str) -> bool {
    COUNTRIES.binary_search(&code).is_ok()
}

/// One line of text. Control characters, the zero that Postgres cannot keep among them, are none.
#[must_use]
pub fn is_line(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

fn is_text(text: &str) -> bool {
    !text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t'))
}

/// The officially assigned codes of ISO 3166-1 alpha-2, in order.
const COUNTRIES: [&str; 249] = [
    "AD", "AE", "AF", "AG", "AI", "AL", "AM", "AO", "AQ", "AR", "AS", "AT", "AU", "AW", "AX", "AZ", "BA", "BB", "BD",
    "BE", "BF", "BG", "BH", "BI", "BJ", "BL", "BM", "BN", "BO", "BQ", "BR", "BS", "BT", "BV", "BW", "BY", "BZ", "CA",
    "CC", "CD", "CF", "CG", "CH", "CI", "CK", "CL", "CM", "CN", "CO", "CR", "CU", "CV", "CW", "CX", "CY", "CZ", "DE",
    "DJ", "DK", "DM", "DO", "DZ", "EC", "EE", "EG", "EH", "ER", "ES", "ET", "FI", "FJ", "FK", "FM", "FO", "FR", "GA",
    "GB", "GD", "GE", "GF", "GG", "GH", "GI", "GL", "GM", "GN", "GP", "GQ", "GR", "GS", "GT", "GU", "GW", "GY", "HK",
    "HM", "HN", "HR", "HT", "HU", "ID", "IE", "IL", "IM", "IN", "IO", "IQ", "IR", "IS", "IT", "JE", "JM", "JO", "JP",
    "KE", "KG", "KH", "KI", "KM", "KN", "KP", "KR", "KW", "KY", "KZ", "LA", "LB", "LC", "LI", "LK", "LR", "LS", "LT",
    "LU", "LV", "LY", "MA", "MC", "MD", "ME", "MF", "MG", "MH", "MK", "ML", "MM", "MN", "MO", "MP", "MQ", "MR", "MS",
    "MT", "MU", "MV", "MW", "MX", "MY", "MZ", "NA", "NC", "NE", "NF", "NG", "NI", "NL", "NO", "NP", "NR", "NU", "NZ",
    "OM", "PA", "PE", "PF", "PG", "PH", "PK", "PL", "PM", "PN", "PR", "PS", "PT", "PW", "PY", "QA", "RE", "RO", "RS",
    "RU", "RW", "SA", "SB", "SC", "SD", "SE", "SG", "SH", "SI", "SJ", "SK", "SL", "SM", "SN", "SO", "SR", "SS", "ST",
    "SV", "SX", "SY", "SZ", "TC", "TD", "TF", "TG", "TH", "TJ", "TK", "TL", "TM", "TN", "TO", "TR", "TT", "TV", "TW",
    "TZ", "UA", "UG", "UM", "US", "UY", "UZ", "VA", "VC", "VE", "VG", "VI", "VN", "VU", "WF", "WS", "YE", "YT", "ZA",
    "ZM", "ZW",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::properties::property::property_for_tests;

    fn fields(change: impl FnOnce(&mut PropertyDetails)) -> Vec<&'static str> {
        let mut details = property_for_tests().details;
        change(&mut details);
        violations(&details)
            .into_iter()
            .map(|violation| violation.field)
            .collect()
    }

    #[test]
    fn what_is_within_the_limits_is_accepted() {
        assert_eq!(fields(|_| {}), [""; 0]);
        assert_eq!(
            fields(|details| {
                details.title = "Haus ß".to_owned();
                details.description = "é".repeat(MAX_TEXT_LENGTH);
                (details.latitude, details.longitude) = (-90.0, 180.0);
                (details.bedrooms, details.bathrooms, details.cleaning_fee_minor) = (0, 0, 0);
                (details.min_nights, details.max_nights) = (MAX_NIGHTS, MAX_NIGHTS);
                details.nightly_rate_minor = 1;
                details.amenities = AMENITIES[..MAX_AMENITIES]
                    .iter()
                    .map(|amenity| (*amenity).to_owned())
                    .collect();
            }),
            [""; 0]
        );
    }

    #[test]
    fn every_field_has_its_limits() {
        type Change = fn(&mut PropertyDetails);
        let changes: [(&str, Change); 32] = [
            ("title", |details| details.title = "Flat".to_owned()),
            ("title", |details| details.title = format!("  Flat{}", " ".repeat(9))),
            ("title", |details| details.title = "x".repeat(121)),
            ("title", |details| details.title = "Two\nlines".to_owned()),
            ("description", |details| details.description = "x".repeat(5_001)),
            ("description", |details| details.description = "\0".to_owned()),
            ("house_rules", |details| details.house_rules = "\u{7}".to_owned()),
            ("city", |details| details.city = " ".to_owned()),
            ("city", |details| details.city = "x".repeat(201)),
            ("country", |details| details.country = "de".to_owned()),
            ("country", |details| details.country = "XX".to_owned()),
            ("latitude", |details| details.latitude = 90.000_1),
            ("latitude", |details| details.latitude = f64::NAN),
            ("longitude", |details| details.longitude = -180.5),
            ("time_zone", |details| details.time_zone = "Berlin".to_owned()),
            ("nightly_rate_minor", |details| details.nightly_rate_minor = 0),
            ("nightly_rate_minor", |details| details.nightly_rate_minor = i64::MAX),
            ("cleaning_fee_minor", |details| details.cleaning_fee_minor = -1),
            ("max_guests", |details| details.max_guests = 0),
            ("max_guests", |details| details.max_guests = MAX_GUESTS + 1),
            ("bedrooms", |details| details.bedrooms = -1),
            ("beds", |details| details.beds = 0),
            ("bathrooms", |details| details.bathrooms = i32::MAX),
            ("min_nights", |details| details.min_nights = 0),
            ("max_nights", |details| details.max_nights = 366),
            ("max_nights", |details| {
                (details.min_nights, details.max_nights) = (7, 6);
            }),
            ("amenities", |details| details.amenities = vec!["helipad".to_owned()]),
            ("amenities", |details| details.amenities = vec!["wifi".to_owned(); 2]),
            ("amenities", |details| details.amenities = vec!["wifi".to_owned(); 51]),
            ("nightly_rate_minor", |details| {
                (details.nightly_rate_minor, details.min_nights, details.max_nights) = (50_000_000, 2, 2);
            }),
            ("time_zone", |details| details.time_zone = String::new()),
            ("country", |details| details.country = String::new()),
        ];
        for (number, (field, change)) in changes.into_iter().enumerate() {
            assert_eq!(fields(change), [field], "{number}");
        }
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once() {
        let found = fields(|details| {
            details.title = String::new();
            details.country = String::new();
            details.beds = 0;
        });
        assert_eq!(found, ["title", "country", "beds"]);
    }

    #[test]
    fn the_lists_are_in_order_and_hold_nothing_twice() {
        assert!(AMENITIES.is_sorted_by(|one, next| one < next));
        assert!(COUNTRIES.is_sorted_by(|one, next| one < next));
    }
}
