//! The properties of the demo data: a city's neighbourhoods, homes and prices, put into words.

use std::{collections::HashSet, sync::LazyLock};

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, NaiveTime, TimeDelta, Utc};
use chrono_tz::Tz;
use roost_shared::{
    money::Currency,
    properties::{CancellationPolicy, PropertyDetails, PropertyStatus, PropertyTerms, rules},
    reviews::Ratings,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Person, dice::Dice};

/// Ten cities make 210 properties.
const PER_CITY: usize = 21;

/// A city and who lets there.
#[derive(Debug, Deserialize)]
pub struct City {
    name: String,
    country: String,
    time_zone: Tz,
    currency: Currency,
    /// What a night costs in the smallest and in the largest home.
    nightly_minor: [i64; 2],
    /// Prices are multiples of this.
    step_minor: i64,
    cleaning_minor: [i64; 2],
    homes: Vec<Home>,
    neighbourhoods: Vec<Neighbourhood>,
    pub hosts: Vec<Person>,
}

#[derive(Clone, Debug, Deserialize)]
struct Home {
    name: String,
    bedrooms: i32,
}

#[derive(Debug, Deserialize)]
struct Neighbourhood {
    name: String,
    latitude: f64,
    longitude: f64,
    text: String,
}

/// A sentence and the amenity that it speaks of.
#[derive(Debug, Deserialize)]
struct Comfort {
    amenity: String,
    text: String,
}

#[derive(Debug, Deserialize)]
struct Feature {
    title: String,
    #[serde(flatten)]
    comfort: Comfort,
}

#[derive(Debug, Deserialize)]
pub struct Phrases {
    adjectives: Vec<String>,
    homes: Vec<Home>,
    features: Vec<Feature>,
    openings: Vec<String>,
    rooms: Vec<Vec<String>>,
    comforts: Vec<Comfort>,
    closings: Vec<Comfort>,
    house_rules: Vec<String>,
    pub cancellations: Vec<String>,
    pub messages: Vec<String>,
}

/// The sentences everything is put together from.
pub fn phrases() -> Result<&'static Phrases> {
    static PHRASES: LazyLock<serde_json::Result<Phrases>> =
        LazyLock::new(|| serde_json::from_str(include_str!("phrases.json")));
    PHRASES
        .as_ref()
        .map_err(|error| anyhow::anyhow!("phrases.json: {error}"))
}

/// A property and what the seed still needs to know of it.
pub struct Listing {
    pub terms: PropertyTerms,
    details: PropertyDetails,
    /// How good a stay is, in hundredths of a star.
    pub quality: i64,
    /// Of a hundred guests so many write a review; nobody, if the property is new.
    pub eagerness: i64,
    created_at: DateTime<Utc>,
}

/// As the table has it.
#[derive(Serialize)]
pub struct PropertyRow<'a> {
    id: Uuid,
    host_id: Uuid,
    #[serde(flatten)]
    details: &'a PropertyDetails,
    rating_hundredths: i32,
    review_count: i32,
    version: i32,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl Listing {
    pub fn row(&self, ratings: &Ratings) -> PropertyRow<'_> {
        PropertyRow {
            id: self.terms.id,
            host_id: self.terms.host_id,
            details: &self.details,
            rating_hundredths: ratings.overall.mean_hundredths(),
            review_count: ratings.overall.count(),
            version: 1,
            created_at: self.created_at,
            updated_at: self.created_at,
        }
    }
}

/// A city's properties, dealt out to its hosts in turn.
pub fn of_city(city: &City, hosts: &[Uuid], dice: &mut Dice, now: DateTime<Utc>) -> Result<Vec<Listing>> {
    let mut titles = HashSet::new();
    let mut listings = Vec::new();
    for (place, host_id) in (0..PER_CITY).zip(hosts.iter().cycle()) {
        let neighbourhood = &city.neighbourhoods[place % city.neighbourhoods.len()];
        let details = loop {
            let details = describe(city, neighbourhood, dice)?;
            if titles.insert(details.title.clone()) {
                break details;
            }
        };
        let wrong = rules::violations(&details);
        ensure!(
            wrong.is_empty(),
            "{} is not as a property should be: {wrong:?}",
            details.title
        );
        listings.push(list(city, details, *host_id, dice, now));
    }
    Ok(listings)
}

fn list(city: &City, details: PropertyDetails, host_id: Uuid, dice: &mut Dice, now: DateTime<Utc>) -> Listing {
    let created_at = now - TimeDelta::hours(dice.among(24 * 260, 24 * 900));
    // One in ten is new and has no reviews yet.
    let eagerness = if dice.percent(10) { 0 } else { dice.among(55, 95) };
    Listing {
        terms: PropertyTerms {
            id: dice.id(created_at),
            host_id,
            status: details.status,
            title: details.title.clone(),
            city: details.city.clone(),
            currency: details.currency,
            nightly_rate_minor: details.nightly_rate_minor,
            cleaning_fee_minor: details.cleaning_fee_minor,
            min_nights: details.min_nights,
            max_nights: details.max_nights,
            max_guests: details.max_guests,
            time_zone: city.time_zone,
            check_in_from: details.check_in_from,
            check_out_by: details.check_out_by,
            instant_book: details.instant_book,
            cancellation_policy: details.cancellation_policy,
        },
        details,
        quality: if eagerness == 0 { 0 } else { dice.among(402, 498) },
        eagerness,
        created_at,
    }
}

fn describe(city: &City, neighbourhood: &Neighbourhood, dice: &mut Dice) -> Result<PropertyDetails> {
    let phrases = phrases()?;
    let homes: Vec<&Home> = city.homes.iter().chain(&phrases.homes).collect();
    let home = *dice.pick(&homes).context("no homes")?;
    let adjective = dice.pick(&phrases.adjectives).context("no adjectives")?;
    let feature = dice.pick(&phrases.features).context("no features")?;
    let (comforts, closing) = (
        several(dice, &phrases.comforts, 2),
        dice.pick(&phrases.closings).context("no closings")?,
    );
    let opening = dice.pick(&phrases.openings).context("no openings")?;
    let rooms = &phrases.rooms[usize::try_from(home.bedrooms)?.min(phrases.rooms.len() - 1)];
    let room = dice.pick(rooms).context("no rooms")?;

    let vowel = home.name.starts_with(['a', 'e', 'i', 'o', 'u']) && !home.name.starts_with("one");
    let article = if vowel { "an" } else { "a" };
    let opening = opening
        .replace("{A}", &capitalised(article))
        .replace("{a}", article)
        .replace("{home}", &home.name)
        .replace("{hood}", &neighbourhood.name)
        .replace("{city}", &city.name);
    let told: Vec<&str> = [room.as_str(), &feature.comfort.text]
        .into_iter()
        .chain(comforts.iter().map(|comfort| comfort.text.as_str()))
        .collect();
    let description = format!(
        "{opening} {}\n\n{}\n\n{}",
        neighbourhood.text,
        told.join(" "),
        closing.text
    );

    let spoken_of = [&feature.comfort, closing].into_iter().chain(comforts);
    let mut amenities: Vec<String> = [
        "wifi",
        "hot_water",
        "heating",
        "smoke_alarm",
        "kitchen",
        "bed_linen",
        "towels",
    ]
    .map(str::to_owned)
    .to_vec();
    amenities.extend(spoken_of.map(|comfort| comfort.amenity.clone()));
    if feature.comfort.amenity == "cot" {
        amenities.push("high_chair".to_owned());
    }
    for sometimes in [
        "washing_machine",
        "coffee_maker",
        "hair_dryer",
        "iron",
        "microwave",
        "paid_parking",
        "elevator",
    ] {
        if dice.percent(35) {
            amenities.push(sometimes.to_owned());
        }
    }
    amenities.sort_unstable();
    amenities.dedup();

    let min_nights = *dice.pick(&[1, 1, 2, 2, 2, 3]).context("no lengths")?;
    let sofa = i32::from(dice.percent(40));
    Ok(PropertyDetails {
        title: format!("{adjective} {} {} in {}", home.name, feature.title, neighbourhood.name),
        description,
        city: city.name.clone(),
        country: city.country.clone(),
        // A street or two from the middle of the neighbourhood.
        latitude: rounded(neighbourhood.latitude + dice.between(-0.004, 0.004)),
        longitude: rounded(neighbourhood.longitude + dice.between(-0.004, 0.004)),
        time_zone: city.time_zone.name().to_owned(),
        currency: city.currency,
        nightly_rate_minor: price(city.nightly_minor, home.bedrooms, city.step_minor, dice),
        cleaning_fee_minor: price(city.cleaning_minor, home.bedrooms, city.step_minor, dice),
        max_guests: 2 * home.bedrooms.max(1) + sofa,
        bedrooms: home.bedrooms,
        beds: home.bedrooms.max(1) + sofa,
        bathrooms: if home.bedrooms > 2 { 2 } else { 1 },
        amenities,
        house_rules: several(dice, &phrases.house_rules, 3)
            .into_iter()
            .cloned()
            .collect::<Vec<_>>()
            .join(" "),
        check_in_from: on_the_hour(dice.among(14, 17))?,
        check_out_by: on_the_hour(dice.among(10, 12))?,
        min_nights,
        max_nights: *dice.pick(&[14, 21, 28, 60, 90]).context("no lengths")?,
        // A third of the hosts want to be asked first.
        instant_book: dice.percent(67),
        cancellation_policy: *dice
            .pick(&[
                CancellationPolicy::Flexible,
                CancellationPolicy::Moderate,
                CancellationPolicy::Moderate,
                CancellationPolicy::Limited,
                CancellationPolicy::Firm,
            ])
            .context("no policies")?,
        status: PropertyStatus::Listed,
    })
}

/// The more bedrooms the dearer, with a tenth of the range to the whim of the host.
fn price([low, high]: [i64; 2], bedrooms: i32, step: i64, dice: &mut Dice) -> i64 {
    let range = high - low;
    let by_size = range * i64::from(bedrooms) / 4;
    let exact = low + by_size + dice.among(0, range / 5);
    exact / step * step
}

/// `count` of them, each once, in their own order.
fn several<'a, T>(dice: &mut Dice, all: &'a [T], count: usize) -> Vec<&'a T> {
    let mut left: Vec<&T> = all.iter().collect();
    while left.len() > count {
        let last = i64::try_from(left.len() - 1).unwrap_or(0);
        left.remove(usize::try_from(dice.among(0, last)).unwrap_or(0));
    }
    left
}

/// Five digits: about a metre.
fn rounded(degrees: f64) -> f64 {
    (degrees * 1e5).round() / 1e5
}

fn on_the_hour(hour: i64) -> Result<NaiveTime> {
    NaiveTime::from_hms_opt(u32::try_from(hour)?, 0, 0).context("no such hour")
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
