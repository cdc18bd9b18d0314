//! Finding properties: the public list and a host's own, the best rated first.
//!
//! Every shape of the query walks an index of migration 2 in the order of the list and stops after a page; whether
//! the nights are free is asked of the exclusion constraint's index, one property at a time.

use sqlx::{PgConnection, Postgres, QueryBuilder};
use uuid::Uuid;

use super::stay::Stay;
use super::{Property, select_property};
use crate::money::Currency;

/// The states of bookings that hold nights, as the exclusion constraint `bookings_no_overlap` lists them. Literals,
/// so that the planner sees that the constraint's index serves.
macro_rules! holds_nights {
    () => {
        "state IN ('held', 'pending_approval', 'confirmed', 'checked_in', 'checked_out', 'completed', 'cancelled_by_host')"
    };
}

/// What is looked for. Without a filter: everything that is listed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Search {
    /// Only in this city, whatever its case.
    pub city: Option<String>,
    /// Only in this country.
    pub country: Option<String>,
    /// Only those that take a stay of this length and are free then.
    pub stay: Option<Stay>,
    /// Only those that take so many people.
    pub guests: Option<i32>,
    /// Only those let in this currency.
    pub currency: Option<Currency>,
    /// Only those whose night costs so much or more, in minor units of their currency.
    pub min_price: Option<i64>,
    /// Only those whose night costs so much or less, in minor units of their currency.
    pub max_price: Option<i64>,
    /// Only those with so many bedrooms.
    pub bedrooms: Option<i32>,
    /// Only those that have all of these.
    pub amenities: Vec<String>,
    /// Only those that confirm without the host's approval, or only the others.
    pub instant_book: Option<bool>,
    /// Only those of this host.
    pub host_id: Option<Uuid>,
    /// Drafts and archived ones as well: for a host's own list.
    pub unlisted_too: bool,
    /// Only what comes after this one.
    pub after: Option<Position>,
}

/// The place of a property in the order of every list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Its rating, the highest first,
    pub rating_hundredths: i32,
    /// then its id.
    pub id: Uuid,
}

impl Position {
    /// The place of `property`.
    #[must_use]
    pub const fn of(property: &Property) -> Self {
        Self {
            rating_hundredths: property.rating_hundredths,
            id: property.id,
        }
    }
}

/// Up to so many guests most properties take, so that a page is found soon on the way through the best rated.
const SMALL_GROUP: i32 = 6;

/// The first `limit` properties that fit.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn search(conn: &mut PgConnection, search: &Search, limit: i64) -> Result<Vec<Property>, sqlx::Error> {
    // How many properties a price, an amenity or a large group leaves depends on the value, so these searches are
    // planned each time; a plan kept for a narrow one would read the whole table for a wide one.
    let plan_is_kept = search.min_price.is_none()
        && search.max_price.is_none()
        && search.amenities.is_empty()
        && search.guests.is_none_or(|guests| guests <= SMALL_GROUP);
    statement("", search, limit)
        .build_query_as()
        .persistent(plan_is_kept)
        .fetch_all(conn)
        .await
}

/// How Postgres would run a search: the lines of its `EXPLAIN`.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn plan(conn: &mut PgConnection, search: &Search, limit: i64) -> Result<Vec<String>, sqlx::Error> {
    statement("EXPLAIN ", search, limit)
        .build_query_scalar()
        .fetch_all(conn)
        .await
}

fn statement(prefix: &'static str, search: &Search, limit: i64) -> QueryBuilder<Postgres> {
    let mut sql = QueryBuilder::new(prefix);
    // The inner query asks for nothing that its index does not hold, so that only the rows of the page are read.
    sql.push(concat!(
        select_property!(),
        "JOIN (SELECT id FROM properties AS property WHERE "
    ));
    where_matches(&mut sql, search);
    sql.push(" ORDER BY (-rating_hundredths), id LIMIT ")
        .push_bind(limit)
        .push(") AS found USING (id) ORDER BY (-rating_hundredths), id");
    sql
}

fn where_matches(sql: &mut QueryBuilder<Postgres>, search: &Search) {
    sql.push(if search.unlisted_too {
        "true"
    } else {
        "status = 'listed'"
    });
    if let Some(city) = &search.city {
        sql.push(" AND lower(city) = lower(")
            .push_bind(city.trim().to_owned())
            .push(")");
    }
    if let Some(country) = &search.country {
        sql.push(" AND country = ").push_bind(country.clone());
    }
    if let Some(host_id) = search.host_id {
        sql.push(" AND host_id = ").push_bind(host_id);
    }
    if let Some(guests) = search.guests {
        sql.push(" AND max_guests >= ").push_bind(guests);
    }
    if let Some(currency) = search.currency {
        sql.push(" AND currency = ").push_bind(currency.code());
    }
    if let Some(least) = search.min_price {
        sql.push(" AND nightly_rate_minor >= ").push_bind(least);
    }
    if let Some(most) = search.max_price {
        sql.push(" AND nightly_rate_minor <= ").push_bind(most);
    }
    if let Some(bedrooms) = search.bedrooms {
        sql.push(" AND bedrooms >= ").push_bind(bedrooms);
    }
    if !search.amenities.is_empty() {
        sql.push(" AND amenities @> ").push_bind(search.amenities.clone());
    }
    if let Some(instant_book) = search.instant_book {
        sql.push(" AND instant_book = ").push_bind(instant_book);
    }
    if let Some(stay) = search.stay {
        let nights = i32::try_from(stay.nights()).unwrap_or(i32::MAX);
        sql.push(" AND min_nights <= ").push_bind(nights);
        sql.push(" AND max_nights >= ").push_bind(nights);
        sql.push(concat!(
            " AND NOT EXISTS (SELECT FROM bookings WHERE bookings.property_id = property.id AND ",
            holds_nights!(),
            " AND bookings.stay && daterange("
        ));
        sql.push_bind(stay.check_in)
            .push(", ")
            .push_bind(stay.check_out)
            .push("))");
    }
    if let Some(after) = search.after {
        sql.push(" AND (-rating_hundredths, id) > (")
            .push_bind(after.rating_hundredths.saturating_neg())
            .push(", ")
            .push_bind(after.id)
            .push(")");
    }
}

/// Whether nobody holds a night of `stay`.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn nights_are_free(conn: &mut PgConnection, property_id: Uuid, stay: Stay) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(concat!(
        "SELECT NOT EXISTS (SELECT FROM bookings WHERE property_id = $1 AND ",
        holds_nights!(),
        " AND stay && daterange($2, $3))"
    ))
    .bind(property_id)
    .bind(stay.check_in)
    .bind(stay.check_out)
    .fetch_one(conn)
    .await
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_states_that_hold_nights_are_those_of_the_exclusion_constraint() {
        let migration = include_str!("../../../migrations/0003_bookings.sql");
        let squeezed = migration.split_whitespace().collect::<Vec<_>>().join(" ");
        let constraint = holds_nights!().replace("IN (", "IN ( ");
        assert!(squeezed.contains(&constraint), "{constraint}");
    }
}
