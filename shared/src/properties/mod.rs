//! What hosts let: the listings, what a stay costs and which nights are free.
//!
//! Operations: [`create`], [`get`], [`update`], [`archive`], [`archive_all_of`], [`quote_stay`], [`search::search`].
//! [`terms`] is what a booking needs to know of a property, read under a lock. Pure rules: [`rules`], [`pricing`],
//! [`stay`], [`quote`].
//! [`cache`] is the format in which the API and the worker share rendered properties.

pub mod cache;
pub mod pricing;
pub mod property;
pub mod quote;
pub mod rules;
pub mod search;
pub mod stay;
pub mod terms;

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::db::Tx;
use crate::ids;
use crate::jobs::catalogue::WarmCache;
use crate::users::{self, Role};

use pricing::PriceError;
use quote::{Quote, QuoteKey};
use rules::Violation;
use stay::{Stay, StayRefusal, property_today};

pub use property::{Property, PropertyDetails, public_json};
#[cfg(test)]
pub(crate) use terms::terms_for_tests;
pub use terms::{CancellationPolicy, PropertyStatus, PropertyTerms, get_terms, lock_terms};

/// Why an operation on a property was refused.
#[derive(Debug, thiserror::Error)]
pub enum PropertyError {
    /// Not there, or not for this user to see.
    #[error("there is no such property")]
    NoSuchProperty,
    /// Only the host may change a property.
    #[error("only the host of a property may change it")]
    NotYours,
    /// Only hosts list properties.
    #[error("only an account with the role host lists properties")]
    NotAHost,
    /// The account was deleted.
    #[error("the account was deleted")]
    AccountDeleted,
    /// Somebody changed it since the caller read it.
    #[error("the property was changed meanwhile: it is at version {current}")]
    VersionConflict {
        /// The version it is at.
        current: i32,
    },
    /// An archived property stays as it is.
    #[error("an archived property cannot be changed")]
    Archived,
    /// Guests are still to come.
    #[error("{count} bookings with nights to come stand, the next from {next}")]
    FutureBookings {
        /// How many.
        count: i64,
        /// The first day of the next.
        next: NaiveDate,
    },
    /// Fields that are not as they should be.
    #[error("the property is not as it should be")]
    Invalid(Vec<Violation>),
    /// Postgres.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Creates a property of `host_id`.
///
/// # Errors
/// [`PropertyError::NotAHost`], [`PropertyError::AccountDeleted`], [`PropertyError::Invalid`] or the database's.
pub async fn create(tx: &mut Tx, host_id: Uuid, details: PropertyDetails) -> Result<Property, PropertyError> {
    match users::lock_role(tx, host_id).await? {
        Some(Role::Host) => {}
        Some(Role::Guest) => return Err(PropertyError::NotAHost),
        None => return Err(PropertyError::AccountDeleted),
    }
    let details = accepted(details)?;
    let now = tx.now();
    let property = Property {
        id: ids::new(now),
        host_id,
        details,
        rating_hundredths: 0,
        review_count: 0,
        version: 1,
        created_at: now,
        updated_at: now,
    };
    let details = &property.details;
    sqlx::query!(
        "INSERT INTO properties (id, host_id, title, description, city, country, latitude, longitude, time_zone, currency,
             nightly_rate_minor, cleaning_fee_minor, max_guests, bedrooms, beds, bathrooms, amenities, house_rules, check_in_from,
             check_out_by, min_nights, max_nights, instant_book, cancellation_policy, status, version, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, 1, $26, $26)",
        property.id,
        property.host_id,
        details.title,
        details.description,
        details.city,
        details.country,
        details.latitude,
        details.longitude,
        details.time_zone,
        details.currency.code(),
        details.nightly_rate_minor,
        details.cleaning_fee_minor,
        details.max_guests,
        details.bedrooms,
        details.beds,
        details.bathrooms,
        &details.amenities,
        details.house_rules,
        details.check_in_from,
        details.check_out_by,
        details.min_nights,
        details.max_nights,
        details.instant_book,
        details.cancellation_policy.name(),
        details.status.name(),
        now,
    )
    .execute(tx.conn())
    .await?;
    Ok(property)
}

macro_rules! select_property {
    () => {
        "SELECT id, host_id, title, description, city, country, latitude, longitude, time_zone, currency, \
         nightly_rate_minor, cleaning_fee_minor, max_guests, bedrooms, beds, bathrooms, amenities, house_rules, \
         check_in_from, check_out_by, min_nights, max_nights, instant_book, cancellation_policy, status, \
         rating_hundredths, review_count, version, created_at, updated_at FROM properties "
    };
}
use select_property;

/// The property, whatever its status. Who may see it is the caller's to ask: [`Property::is_visible_to`].
///
/// # Errors
/// Postgres cannot be reached.
pub async fn get(conn: &mut PgConnection, id: Uuid) -> Result<Option<Property>, sqlx::Error> {
    sqlx::query_as(concat!(select_property!(), "WHERE id = $1"))
        .bind(id)
        .fetch_optional(conn)
        .await
}

/// These properties, whatever their status, in no order.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn get_many(conn: &mut PgConnection, ids: &[Uuid]) -> Result<Vec<Property>, sqlx::Error> {
    sqlx::query_as(concat!(select_property!(), "WHERE id = ANY($1)"))
        .bind(ids)
        .fetch_all(conn)
        .await
}

/// Locks the property for a change by `user_id`, who read it at one of the versions `expected`, if that was said.
async fn lock_for_change(
    tx: &mut Tx,
    user_id: Uuid,
    id: Uuid,
    expected: Option<&[i32]>,
) -> Result<Property, PropertyError> {
    let property: Option<Property> = sqlx::query_as(concat!(select_property!(), "WHERE id = $1 FOR NO KEY UPDATE"))
        .bind(id)
        .fetch_optional(tx.conn())
        .await?;
    let property = property
        .filter(|property| property.is_visible_to(Some(user_id)))
        .ok_or(PropertyError::NoSuchProperty)?;
    if property.host_id != user_id {
        return Err(PropertyError::NotYours);
    }
    if expected.is_some_and(|expected| !expected.contains(&property.version)) {
        return Err(PropertyError::VersionConflict {
            current: property.version,
        });
    }
    Ok(property)
}

/// Changes a property as `change` says, which refuses what cannot be. What was booked already stays as it was.
///
/// # Errors
/// See [`PropertyError`].
pub async fn update(
    tx: &mut Tx,
    user_id: Uuid,
    id: Uuid,
    expected: Option<&[i32]>,
    change: impl FnOnce(PropertyDetails) -> Result<PropertyDetails, Vec<Violation>>,
) -> Result<Property, PropertyError> {
    let mut property = lock_for_change(tx, user_id, id, expected).await?;
    if property.details.status == PropertyStatus::Archived {
        return Err(PropertyError::Archived);
    }
    let details = accepted(change(property.details.clone()).map_err(PropertyError::Invalid)?)?;
    if details.status == PropertyStatus::Archived {
        return Err(PropertyError::Invalid(vec![Violation {
            field: "status",
            message: "cannot be set to archived: delete the property".to_owned(),
        }]));
    }
    if details == property.details {
        return Ok(property);
    }
    let now = tx.now();
    let done = sqlx::query!(
        "UPDATE properties SET title = $3, description = $4, city = $5, country = $6, latitude = $7, longitude = $8, time_zone = $9,
             currency = $10, nightly_rate_minor = $11, cleaning_fee_minor = $12, max_guests = $13, bedrooms = $14, beds = $15,
             bathrooms = $16, amenities = $17, house_rules = $18, check_in_from = $19, check_out_by = $20, min_nights = $21,
             max_nights = $22, instant_book = $23, cancellation_policy = $24, status = $25, version = version + 1, updated_at = $26
         WHERE id = $1 AND version = $2 AND status <> 'archived'",
        id,
        property.version,
        details.title,
        details.description,
        details.city,
        details.country,
        details.latitude,
        details.longitude,
        details.time_zone,
        details.currency.code(),
        details.nightly_rate_minor,
        details.cleaning_fee_minor,
        details.max_guests,
        details.bedrooms,
        details.beds,
        details.bathrooms,
        &details.amenities,
        details.house_rules,
        details.check_in_from,
        details.check_out_by,
        details.min_nights,
        details.max_nights,
        details.instant_book,
        details.cancellation_policy.name(),
        details.status.name(),
        now,
    )
    .execute(tx.conn())
    .await?;
    property.details = details;
    changed(tx, property, done.rows_affected())
}

/// Takes a property off the market for good. Its past bookings keep referring to it.
///
/// # Errors
/// See [`PropertyError`]; archiving what is archived is no error.
pub async fn archive(
    tx: &mut Tx,
    user_id: Uuid,
    id: Uuid,
    expected: Option<&[i32]>,
) -> Result<Property, PropertyError> {
    let mut property = lock_for_change(tx, user_id, id, expected).await?;
    if property.details.status == PropertyStatus::Archived {
        return Ok(property);
    }
    let now = tx.now();
    let today = property_today(now, terms::time_zone(&property.details.time_zone)?);
    // Bookings are made under the same lock, so none comes in between. Nights that the host blocked by cancelling
    // stand in nobody's way.
    let ahead = sqlx::query!(
        r#"SELECT count(*) AS "count!", min(lower(stay)) AS next FROM bookings
           WHERE property_id = $1 AND stay && daterange($2, NULL) AND state IN ('held', 'pending_approval', 'confirmed', 'checked_in')"#,
        id,
        today,
    )
    .fetch_one(tx.conn())
    .await?;
    if let Some(next) = ahead.next {
        return Err(PropertyError::FutureBookings {
            count: ahead.count,
            next,
        });
    }
    let done = sqlx::query!(
        "UPDATE properties SET status = 'archived', version = version + 1, updated_at = $3
         WHERE id = $1 AND version = $2 AND status <> 'archived'",
        id,
        property.version,
        now,
    )
    .execute(tx.conn())
    .await?;
    property.details.status = PropertyStatus::Archived;
    changed(tx, property, done.rows_affected())
}

/// Takes everything of a host off the market, for one who leaves; returns the ids, with the versions they are at now.
/// Bookings of these properties wait until the transaction ends; ask for open ones after this, not before.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn archive_all_of(tx: &mut Tx, host_id: Uuid) -> Result<Vec<(Uuid, i32)>, sqlx::Error> {
    let now = tx.now();
    let archived = sqlx::query!(
        "UPDATE properties SET status = 'archived', version = version + 1, updated_at = $2
         WHERE host_id = $1 AND status <> 'archived' RETURNING id, version",
        host_id,
        now,
    )
    .fetch_all(tx.conn())
    .await?;
    for property in &archived {
        tx.enqueue(&WarmCache {
            property_id: property.id,
        });
    }
    Ok(archived.into_iter().map(|row| (row.id, row.version)).collect())
}

/// The property after a change of `rows` rows. The cache has to learn of it even if this process dies.
fn changed(tx: &mut Tx, mut property: Property, rows: u64) -> Result<Property, PropertyError> {
    if rows == 0 {
        return Err(PropertyError::VersionConflict {
            current: property.version,
        });
    }
    property.version += 1;
    property.updated_at = tx.now();
    tx.enqueue(&WarmCache {
        property_id: property.id,
    });
    Ok(property)
}

fn accepted(mut details: PropertyDetails) -> Result<PropertyDetails, PropertyError> {
    for line in [&mut details.title, &mut details.city] {
        *line = line.trim().to_owned();
    }
    let violations = rules::violations(&details);
    if violations.is_empty() {
        Ok(details)
    } else {
        Err(PropertyError::Invalid(violations))
    }
}

/// Why a stay gets no quote.
#[derive(Debug, thiserror::Error)]
pub enum QuoteRefusal {
    /// Not there, or not listed.
    #[error("there is no such property")]
    NoSuchProperty,
    /// What speaks against the stay.
    #[error("the property does not take this stay")]
    StayRefused(Vec<StayRefusal>),
    /// No price.
    #[error(transparent)]
    Price(#[from] PriceError),
    /// The token could not be written.
    #[error(transparent)]
    Token(#[from] serde_json::Error),
    /// Postgres.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// A quote, and what else a guest wants to know before booking by it.
#[derive(Clone, Debug)]
pub struct Offer {
    /// The price and the policy, and until when they are good.
    pub quote: Quote,
    /// What a booking shows to get both.
    pub token: String,
    /// Whether the nights are free as yet. A quote reserves nothing.
    pub available: bool,
    /// What a guest who cancels gets back.
    pub cancellation_policy: CancellationPolicy,
    /// Whether a booking is confirmed without the host's approval.
    pub instant_book: bool,
}

/// Prices a stay and promises the price and the cancellation policy for a quarter of an hour.
///
/// # Errors
/// See [`QuoteRefusal`].
pub async fn quote_stay(
    conn: &mut PgConnection,
    key: &QuoteKey,
    now: DateTime<Utc>,
    property_id: Uuid,
    stay: Stay,
    guests: i32,
) -> Result<Offer, QuoteRefusal> {
    let terms = get_terms(conn, property_id)
        .await?
        .filter(|terms| terms.status == PropertyStatus::Listed)
        .ok_or(QuoteRefusal::NoSuchProperty)?;
    stay::check(&terms, property_today(now, terms.time_zone), stay, guests).map_err(QuoteRefusal::StayRefused)?;
    let price = pricing::price(&terms, stay.check_in, stay.check_out, guests)?;
    let available = search::nights_are_free(conn, property_id, stay).await?;
    let (quote, token) = quote::issue(key, now, &terms, stay, guests, price)?;
    Ok(Offer {
        quote,
        token,
        available,
        cancellation_policy: terms.cancellation_policy,
        instant_book: terms.instant_book,
    })
}
