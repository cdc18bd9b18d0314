//! The terms on which a property is let, as a booking reads them under the property's lock.

use std::collections::HashMap;

use chrono::NaiveTime;
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgRow;
use sqlx::{FromRow, PgConnection, Row};
use uuid::Uuid;

use crate::db::Tx;
use crate::money::Currency;

/// Who sees a property.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum PropertyStatus {
    /// Only its host, who is still writing it.
    Draft,
    /// Everybody; it can be booked.
    Listed,
    /// Only its host and those who booked it. For good.
    Archived,
}

impl PropertyStatus {
    /// Its name in JSON and SQL.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Listed => "listed",
            Self::Archived => "archived",
        }
    }
}

/// What a guest who cancels gets back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum CancellationPolicy {
    /// All until 24 hours before check-in.
    Flexible,
    /// All until 5 days before check-in.
    Moderate,
    /// All until 14 days before check-in, half until 7.
    Limited,
    /// All until 30 days before check-in, half until 7.
    Firm,
}

impl CancellationPolicy {
    /// Its name in JSON and SQL.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Flexible => "flexible",
            Self::Moderate => "moderate",
            Self::Limited => "limited",
            Self::Firm => "firm",
        }
    }
}

/// What a booking or a quote needs to know of a property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PropertyTerms {
    /// The property.
    pub id: Uuid,
    /// Who lets it.
    pub host_id: Uuid,
    /// Only what is listed can be booked.
    pub status: PropertyStatus,
    /// What it is called.
    pub title: String,
    /// Where it is.
    pub city: String,
    /// The currency of both amounts below.
    pub currency: Currency,
    /// One night, in minor units.
    pub nightly_rate_minor: i64,
    /// Once a stay, in minor units.
    pub cleaning_fee_minor: i64,
    /// The shortest stay.
    pub min_nights: i32,
    /// The longest stay.
    pub max_nights: i32,
    /// The most people.
    pub max_guests: i32,
    /// Whose calendar and clock its dates and times are of.
    pub time_zone: Tz,
    /// The earliest arrival on the day of check-in.
    pub check_in_from: NaiveTime,
    /// The latest departure on the day of check-out.
    pub check_out_by: NaiveTime,
    /// Whether a booking is confirmed without the host's approval.
    pub instant_book: bool,
    /// What a guest who cancels gets back.
    pub cancellation_policy: CancellationPolicy,
}

impl FromRow<'_, PgRow> for PropertyTerms {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.try_get("id")?,
            host_id: row.try_get("host_id")?,
            status: row.try_get("status")?,
            title: row.try_get("title")?,
            city: row.try_get("city")?,
            currency: row.try_get("currency")?,
            nightly_rate_minor: row.try_get("nightly_rate_minor")?,
            cleaning_fee_minor: row.try_get("cleaning_fee_minor")?,
            min_nights: row.try_get("min_nights")?,
            max_nights: row.try_get("max_nights")?,
            max_guests: row.try_get("max_guests")?,
            time_zone: time_zone(row.try_get("time_zone")?)?,
            check_in_from: row.try_get("check_in_from")?,
            check_out_by: row.try_get("check_out_by")?,
            instant_book: row.try_get("instant_book")?,
            cancellation_policy: row.try_get("cancellation_policy")?,
        })
    }
}

/// A column that holds the IANA name of a time zone.
///
/// # Errors
/// It holds something else.
pub(super) fn time_zone(name: &str) -> Result<Tz, sqlx::Error> {
    name.parse().map_err(|source| sqlx::Error::ColumnDecode {
        index: "time_zone".to_owned(),
        source: Box::new(source),
    })
}

const COLUMNS: &str = "SELECT id, host_id, status, title, city, currency, nightly_rate_minor, cleaning_fee_minor, \
                       min_nights, max_nights, max_guests, time_zone, check_in_from, check_out_by, instant_book, \
                       cancellation_policy FROM properties WHERE id = ";

/// The terms as they are now: for a quote.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn get_terms(conn: &mut PgConnection, property_id: Uuid) -> Result<Option<PropertyTerms>, sqlx::Error> {
    sqlx::QueryBuilder::new(COLUMNS)
        .push_bind(property_id)
        .build_query_as()
        .fetch_optional(conn)
        .await
}

/// The terms, and the lock that every booking of this property queues for: until the transaction ends nobody else
/// books, changes or archives it. The lock leaves foreign keys to the property free.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn lock_terms(tx: &mut Tx, property_id: Uuid) -> Result<Option<PropertyTerms>, sqlx::Error> {
    sqlx::QueryBuilder::new(COLUMNS)
        .push_bind(property_id)
        .push(" FOR NO KEY UPDATE")
        .build_query_as()
        .fetch_optional(tx.conn())
        .await
}

/// What these properties are called, by id; for lists.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn titles(conn: &mut PgConnection, property_ids: &[Uuid]) -> Result<HashMap<Uuid, String>, sqlx::Error> {
    let rows = sqlx::query!("SELECT id, title FROM properties WHERE id = ANY($1)", property_ids)
        .fetch_all(conn)
        .await?;
    Ok(rows.into_iter().map(|row| (row.id, row.title)).collect())
}

#[cfg(test)]
pub(crate) fn terms_for_tests() -> PropertyTerms {
    PropertyTerms {
        id: Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001),
        host_id: Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0002),
        status: PropertyStatus::Listed,
        title: "A quiet flat by the canal".to_owned(),
        city: "Berlin".to_owned(),
        currency: Currency::EUR,
        nightly_rate_minor: 12_000,
        cleaning_fee_minor: 4_500,
        min_nights: 1,
        max_nights: 30,
        max_guests: 4,
        time_zone: Tz::Europe__Berlin,
        check_in_from: NaiveTime::from_hms_opt(15, 0, 0).expect("a time"),
        check_out_by: NaiveTime::from_hms_opt(11, 0, 0).expect("a time"),
        instant_book: true,
        cancellation_policy: CancellationPolicy::Moderate,
    }
}
