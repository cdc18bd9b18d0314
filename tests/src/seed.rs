//! Demo data: hosts and their properties in ten cities, guests, and the bookings they made of each other.
//!
//! Made by a fixed seed, so every clone shows the same; dates are relative to today, and with them the ids, which begin with a time. `cities.json`, `guests.json`,
//! `phrases.json` and `reviews.json` hold the texts. [`listings`] makes the properties, [`stays`] what was booked and paid, [`reviews`] what was said about it.

mod dice;
mod listings;
mod reviews;
mod stays;

use std::fmt;

use anyhow::{Context, Result};
use chrono::{DateTime, TimeDelta, Utc};
use roost_shared::{clock::Clock, users::Passwords};
use serde::{Deserialize, Serialize};
use sqlx::{Connection, PgConnection, Postgres, QueryBuilder, types::Json};
use uuid::Uuid;

use self::{
    dice::Dice,
    listings::{City, Listing},
    reviews::Guestbook,
    stays::History,
};
use crate::{dev::DemoLogin, services::random_hex};

/// The host and the guest to sign in with; nobody knows the password of the others.
const DEMO_HOST: &str = "ines.andorinha@example.com";
const DEMO_GUEST: &str = "wren.kestrel@example.com";
const DEMO_PASSWORD: &str = "stay-a-while-longer";

/// What the database holds after seeding.
#[derive(Clone, Debug, Default)]
pub struct SeedReport {
    pub users: i64,
    pub properties: i64,
    pub bookings: i64,
    /// Accounts to sign in with: one of each role, or none in a database that was filled by somebody else.
    pub logins: Vec<DemoLogin>,
}

impl fmt::Display for SeedReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} users, {} properties, {} bookings",
            self.users, self.properties, self.bookings
        )
    }
}

/// Fills an empty, migrated database. A second call changes nothing, and neither does one on a database that holds
/// somebody else's users.
pub async fn seed(database_url: &str) -> Result<SeedReport> {
    let mut connection = PgConnection::connect(database_url)
        .await
        .context("connecting to seed")?;
    let mut tx = connection.begin().await?;
    // Whoever comes second waits and then finds the data.
    sqlx::query("SELECT pg_advisory_xact_lock(hashtext('roost.seed'))")
        .execute(&mut *tx)
        .await?;
    let empty: bool = sqlx::query_scalar("SELECT NOT EXISTS (SELECT 1 FROM users)")
        .fetch_one(&mut *tx)
        .await?;
    if empty {
        fill(&mut tx, Clock::default().now()).await?;
    }
    tx.commit().await?;
    if empty {
        // The planner should not wait for autovacuum to notice.
        sqlx::query("ANALYZE").execute(&mut connection).await?;
    }
    report(&mut connection).await
}

async fn report(connection: &mut PgConnection) -> Result<SeedReport> {
    let (users, properties, bookings) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM users), (SELECT count(*) FROM properties), (SELECT count(*) FROM bookings)",
    )
    .fetch_one(&mut *connection)
    .await?;
    let mut logins = Vec::new();
    for (role, email) in [("guest", DEMO_GUEST), ("host", DEMO_HOST)] {
        let there: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM users WHERE email = $1)")
            .bind(email)
            .fetch_one(&mut *connection)
            .await?;
        if there {
            logins.push(DemoLogin {
                role: role.to_owned(),
                email: email.to_owned(),
                password: DEMO_PASSWORD.to_owned(),
            });
        }
    }
    Ok(SeedReport {
        users,
        properties,
        bookings,
        logins,
    })
}

/// Somebody of the data files.
#[derive(Clone, Debug, Deserialize)]
struct Person {
    name: String,
    email: String,
    locale: String,
}

#[derive(Serialize)]
struct UserRow {
    id: Uuid,
    email: String,
    password_hash: String,
    full_name: String,
    role: &'static str,
    locale: String,
    email_verified_at: DateTime<Utc>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

async fn fill(connection: &mut PgConnection, now: DateTime<Utc>) -> Result<()> {
    let mut dice = Dice::new();
    let cities: Vec<City> = serde_json::from_str(include_str!("seed/cities.json")).context("cities.json")?;
    let people: Vec<Person> = serde_json::from_str(include_str!("seed/guests.json")).context("guests.json")?;

    let passwords = Passwords::new()?;
    let hashes = Hashes {
        demo: passwords.hash(DEMO_PASSWORD.to_owned()).await?,
        unknown: passwords.hash(random_hex()).await?,
    };
    let mut users = Vec::new();
    let mut listings = Vec::new();
    for city in &cities {
        let hosts: Vec<Uuid> = city
            .hosts
            .iter()
            .map(|host| add_user(&mut users, host, "host", &hashes, &mut dice, now))
            .collect();
        listings.extend(listings::of_city(city, &hosts, &mut dice, now)?);
    }
    let guests: Vec<Uuid> = people
        .iter()
        .map(|guest| add_user(&mut users, guest, "guest", &hashes, &mut dice, now))
        .collect();

    let mut history = History::new(&guests, now);
    for listing in &listings {
        history.live_through(listing, &mut dice)?;
    }

    let guestbook = write_reviews(&listings, &mut history, &mut dice, now)?;

    insert(connection, "users", &users).await?;
    let properties: Vec<_> = listings
        .iter()
        .map(|listing| listing.row(&guestbook.ratings_of(listing.terms.id)))
        .collect();
    insert(connection, "properties", &properties).await?;
    history.write(connection).await?;
    guestbook.write(connection).await
}

/// Lets those who travelled, and their hosts, say how it was.
fn write_reviews(
    listings: &[Listing],
    history: &mut History,
    dice: &mut Dice,
    now: DateTime<Utc>,
) -> Result<Guestbook> {
    let mut guestbook = Guestbook::new(now);
    for departure in std::mem::take(&mut history.departures) {
        let listing = listings
            .iter()
            .find(|listing| listing.terms.id == departure.property_id)
            .context("a stay nowhere")?;
        if let Some(at) = guestbook.close(listing, &departure, dice)? {
            history.reviewed(departure.booking_id, at);
        }
    }
    Ok(guestbook)
}

struct Hashes {
    demo: String,
    unknown: String,
}

fn add_user(
    users: &mut Vec<UserRow>,
    person: &Person,
    role: &'static str,
    hashes: &Hashes,
    dice: &mut Dice,
    now: DateTime<Utc>,
) -> Uuid {
    // Everybody was there before the first booking.
    let created_at = now - TimeDelta::hours(dice.among(24 * 950, 24 * 1_600));
    let id = dice.id(created_at);
    let known = [DEMO_HOST, DEMO_GUEST].contains(&person.email.as_str());
    users.push(UserRow {
        id,
        email: person.email.clone(),
        password_hash: if known { &hashes.demo } else { &hashes.unknown }.clone(),
        full_name: person.name.clone(),
        role,
        locale: person.locale.clone(),
        email_verified_at: created_at + TimeDelta::minutes(dice.among(1, 50)),
        created_at,
        updated_at: created_at,
    });
    id
}

/// Inserts rows whose fields are named like the columns, in one statement.
async fn insert<T: Serialize>(connection: &mut PgConnection, table: &'static str, rows: &[T]) -> Result<()> {
    let Some(first) = rows.first() else { return Ok(()) };
    let first = serde_json::to_value(first)?;
    let columns: Vec<&str> = first
        .as_object()
        .context("a row is an object")?
        .keys()
        .map(String::as_str)
        .collect();
    let columns = columns.join(", ");
    QueryBuilder::<Postgres>::new(format!(
        "INSERT INTO {table} ({columns}) SELECT {columns} FROM jsonb_populate_recordset(NULL::{table}, "
    ))
    .push_bind(Json(rows))
    .push(")")
    .build()
    .execute(connection)
    .await
    .with_context(|| format!("inserting {table}"))?;
    Ok(())
}
