//! The rows of reviews, their windows and the sums of stars.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool, Postgres, QueryBuilder};
use uuid::Uuid;

use super::rules::{Histogram, Ratings, Side, Stars};
use crate::db::Tx;

/// A review as it stands.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct Review {
    /// The review.
    pub id: Uuid,
    /// The stay it is about.
    pub booking_id: Uuid,
    /// Where that was.
    pub property_id: Uuid,
    /// Who wrote it.
    pub side: Side,
    /// Who wrote it.
    pub author_id: Uuid,
    /// Their name in full; empty if the account was deleted.
    pub author_name: String,
    /// The host, or the guest.
    pub subject_id: Uuid,
    /// The ratings.
    #[sqlx(flatten)]
    pub stars: Stars,
    /// The words.
    pub text: String,
    /// The host's answer.
    pub answer: Option<String>,
    /// When the host answered.
    pub answered_at: Option<DateTime<Utc>>,
    /// When it was written.
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    pub edited_at: Option<DateTime<Utc>>,
    /// When it became public.
    pub published_at: Option<DateTime<Utc>>,
    /// When its author took it back.
    pub deleted_at: Option<DateTime<Utc>>,
    /// When a moderator hid it.
    pub hidden_at: Option<DateTime<Utc>>,
    /// Why.
    pub hidden_reason: Option<String>,
    /// The publication, or before that the writing: what lists are ordered by.
    pub shown_at: DateTime<Utc>,
}

impl Review {
    /// Whether this user, or somebody who is not signed in, may see it: its author always, others what is published
    /// and not hidden. Reviews of guests are for those who are signed in.
    #[must_use]
    pub fn is_visible_to(&self, user_id: Option<Uuid>) -> bool {
        let public = self.published_at.is_some() && self.hidden_at.is_none();
        self.deleted_at.is_none()
            && (user_id == Some(self.author_id) || (public && (self.side == Side::Guest || user_id.is_some())))
    }
}

macro_rules! review_columns {
    () => {
        "reviews.id, booking_id, property_id, side, author_id, users.full_name AS author_name, subject_id, overall, cleanliness, \
         accuracy, check_in, communication, location, value, text, answer, answered_at, reviews.created_at, edited_at, \
         published_at, reviews.deleted_at, hidden_at, hidden_reason, shown_at "
    };
}
pub(super) use review_columns;

macro_rules! select_review {
    () => {
        concat!(
            "SELECT ",
            review_columns!(),
            "FROM reviews JOIN users ON users.id = author_id "
        )
    };
}

/// The review, whoever may see it: [`Review::is_visible_to`] says who that is.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn get(conn: &mut PgConnection, id: Uuid) -> Result<Option<Review>, sqlx::Error> {
    sqlx::query_as(concat!(select_review!(), "WHERE reviews.id = $1"))
        .bind(id)
        .fetch_optional(conn)
        .await
}

/// The review, which nobody else changes until the transaction ends.
pub(super) async fn lock_review(tx: &mut Tx, id: Uuid) -> Result<Option<Review>, sqlx::Error> {
    sqlx::query_as(concat!(
        select_review!(),
        "WHERE reviews.id = $1 FOR NO KEY UPDATE OF reviews"
    ))
    .bind(id)
    .fetch_optional(tx.conn())
    .await
}

/// What was written about these bookings and not taken back, two each at most, in no order. Who may see them is the
/// caller's to ask: [`Review::is_visible_to`].
///
/// # Errors
/// Postgres cannot be reached.
pub async fn live_of_each(pool: &PgPool, booking_ids: &[Uuid]) -> Result<Vec<Review>, sqlx::Error> {
    sqlx::query_as(concat!(
        select_review!(),
        "WHERE booking_id = ANY($1) AND reviews.deleted_at IS NULL"
    ))
    .bind(booking_ids)
    .fetch_all(pool)
    .await
}

/// What was written about a booking and not taken back: two at most.
pub(super) async fn live_of(conn: &mut PgConnection, booking_id: Uuid) -> Result<Vec<Review>, sqlx::Error> {
    sqlx::query_as(concat!(
        select_review!(),
        "WHERE booking_id = $1 AND reviews.deleted_at IS NULL"
    ))
    .bind(booking_id)
    .fetch_all(conn)
    .await
}

/// The time to write about a booking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// When it ends.
    pub closes_at: DateTime<Utc>,
    /// When it ended: what was written is public since.
    pub settled_at: Option<DateTime<Utc>>,
}

/// The window of a booking, if it was opened.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn window(conn: &mut PgConnection, booking_id: Uuid) -> Result<Option<Window>, sqlx::Error> {
    sqlx::query_as!(
        Window,
        "SELECT closes_at, settled_at FROM review_windows WHERE booking_id = $1",
        booking_id
    )
    .fetch_optional(conn)
    .await
}

/// The same, for whoever writes or publishes: one at a time.
pub(super) async fn lock_window(tx: &mut Tx, booking_id: Uuid) -> Result<Option<Window>, sqlx::Error> {
    sqlx::query_as!(
        Window,
        "SELECT closes_at, settled_at FROM review_windows WHERE booking_id = $1 FOR NO KEY UPDATE",
        booking_id
    )
    .fetch_optional(tx.conn())
    .await
}

/// In which order a list comes. What is equal comes newest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// The latest first.
    #[default]
    Newest,
    /// The best first.
    Highest,
    /// The worst first.
    Lowest,
}

/// Where a page ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Stars of the last one.
    pub overall: i16,
    /// When it was shown.
    pub shown_at: DateTime<Utc>,
    /// Its id.
    pub id: Uuid,
}

/// What a list of reviews is narrowed to.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Who asks: their own unpublished ones are in the list of what they wrote, and nobody else's are anywhere.
    pub viewer_id: Option<Uuid>,
    /// Of this property.
    pub property_id: Option<Uuid>,
    /// Written by this user.
    pub author_id: Option<Uuid>,
    /// About this user.
    pub subject_id: Option<Uuid>,
    /// By this side.
    pub side: Option<Side>,
    /// With so many stars.
    pub overall: Option<i16>,
    /// In which order.
    pub order: Order,
    /// From here on.
    pub after: Option<Position>,
}

/// A page of reviews.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn list(conn: &mut PgConnection, filter: &Filter, limit: i64) -> Result<Vec<Review>, sqlx::Error> {
    query(select_review!(), filter, limit)
        .build_query_as()
        .fetch_all(conn)
        .await
}

/// How Postgres would find a page, line by line.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn plan(conn: &mut PgConnection, filter: &Filter, limit: i64) -> Result<Vec<String>, sqlx::Error> {
    query(concat!("EXPLAIN ", select_review!()), filter, limit)
        .build_query_scalar()
        .fetch_all(conn)
        .await
}

/// Only the conditions that are asked for, so that each shape finds its index.
fn query(select: &'static str, filter: &Filter, limit: i64) -> QueryBuilder<Postgres> {
    let mut query = QueryBuilder::new(select);
    let own = filter.author_id.is_some() && filter.author_id == filter.viewer_id;
    query.push(if own {
        "WHERE reviews.deleted_at IS NULL"
    } else {
        "WHERE published_at IS NOT NULL AND hidden_at IS NULL AND reviews.deleted_at IS NULL"
    });
    if filter.viewer_id.is_none() {
        query.push(" AND side = 'guest'");
    }
    let ids = [
        (" AND property_id = ", filter.property_id),
        (" AND author_id = ", filter.author_id),
        (" AND subject_id = ", filter.subject_id),
    ];
    for (condition, id) in ids {
        if let Some(id) = id {
            query.push(condition).push_bind(id);
        }
    }
    if let Some(side) = filter.side {
        query.push(" AND side = ").push_bind(side.name());
    }
    if let Some(overall) = filter.overall {
        query.push(" AND overall = ").push_bind(overall);
    }
    if let Some(after) = filter.after {
        let by_stars = match filter.order {
            Order::Newest => None,
            Order::Highest => Some(" AND overall <= "),
            Order::Lowest => Some(" AND overall >= "),
        };
        if let Some(condition) = by_stars {
            query.push(condition).push_bind(after.overall);
            query.push(" AND (overall <> ").push_bind(after.overall).push(" OR ");
        } else {
            query.push(" AND (");
        }
        query.push("(shown_at, reviews.id) < (").push_bind(after.shown_at);
        query.push(", ").push_bind(after.id).push("))");
    }
    query.push(match filter.order {
        Order::Newest => " ORDER BY shown_at DESC, reviews.id DESC LIMIT ",
        Order::Highest => " ORDER BY overall DESC, shown_at DESC, reviews.id DESC LIMIT ",
        Order::Lowest => " ORDER BY overall, shown_at DESC, reviews.id DESC LIMIT ",
    });
    query.push_bind(limit);
    query
}

/// Whose stars are summed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rated {
    /// A property, by its guests.
    Property,
    /// A host, by the guests of all properties.
    Host,
    /// A guest, by hosts.
    Guest,
}

impl Rated {
    const fn name(self) -> &'static str {
        match self {
            Self::Property => "property",
            Self::Host => "host",
            Self::Guest => "guest",
        }
    }
}

struct RatingsRow {
    overall: Vec<i32>,
    cleanliness: Vec<i32>,
    accuracy: Vec<i32>,
    check_in: Vec<i32>,
    communication: Vec<i32>,
    location: Vec<i32>,
    value: Vec<i32>,
}

impl From<RatingsRow> for Ratings {
    fn from(row: RatingsRow) -> Self {
        let histogram = |counts: Vec<i32>| Histogram(counts.try_into().unwrap_or_default());
        Self {
            overall: histogram(row.overall),
            cleanliness: histogram(row.cleanliness),
            accuracy: histogram(row.accuracy),
            check_in: histogram(row.check_in),
            communication: histogram(row.communication),
            location: histogram(row.location),
            value: histogram(row.value),
        }
    }
}

macro_rules! select_ratings {
    ($($tail:tt)*) => {
        sqlx::query_as!(
            RatingsRow,
            r#"SELECT overall::int[] AS "overall!", cleanliness::int[] AS "cleanliness!", accuracy::int[] AS "accuracy!",
                check_in::int[] AS "check_in!", communication::int[] AS "communication!", location::int[] AS "location!", value::int[] AS "value!"
               FROM ratings "# + $($tail)*
        )
    };
}

/// The sums of published stars; all zero for somebody nobody has rated.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn ratings(conn: &mut PgConnection, rated: Rated, subject_id: Uuid) -> Result<Ratings, sqlx::Error> {
    let row = select_ratings!("WHERE subject = $1 AND subject_id = $2", rated.name(), subject_id)
        .fetch_optional(conn)
        .await?;
    Ok(row.map(Ratings::from).unwrap_or_default())
}

/// Whether there is something of this kind whose sums `viewer_id` may read: a property that is listed, that somebody has
/// reviewed, or of one's own; a host; a user.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn is_rateable(
    conn: &mut PgConnection,
    rated: Rated,
    subject_id: Uuid,
    viewer_id: Option<Uuid>,
) -> Result<bool, sqlx::Error> {
    match rated {
        Rated::Property => {
            sqlx::query_scalar!(
                r#"SELECT EXISTS (
                       SELECT FROM properties WHERE id = $1 AND (status = 'listed' OR review_count > 0 OR host_id = $2)) AS "there!""#,
                subject_id,
                viewer_id
            )
            .fetch_one(conn)
            .await
        }
        Rated::Host | Rated::Guest => {
            sqlx::query_scalar!(
                r#"SELECT EXISTS (
                       SELECT FROM users WHERE id = $1 AND deleted_at IS NULL AND (role = 'host' OR $2)) AS "there!""#,
                subject_id,
                rated == Rated::Guest
            )
            .fetch_one(conn)
            .await
        }
    }
}

/// The sums, which nobody else changes until the transaction ends.
pub(super) async fn lock_ratings(tx: &mut Tx, rated: Rated, subject_id: Uuid) -> Result<Ratings, sqlx::Error> {
    sqlx::query!(
        "INSERT INTO ratings (subject, subject_id) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        rated.name(),
        subject_id
    )
    .execute(tx.conn())
    .await?;
    let row = select_ratings!(
        "WHERE subject = $1 AND subject_id = $2 FOR NO KEY UPDATE",
        rated.name(),
        subject_id
    )
    .fetch_one(tx.conn())
    .await?;
    Ok(row.into())
}

pub(super) async fn write_ratings(
    tx: &mut Tx,
    rated: Rated,
    subject_id: Uuid,
    ratings: &Ratings,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE ratings SET overall = $3::int[], cleanliness = $4::int[], accuracy = $5::int[], check_in = $6::int[],
             communication = $7::int[], location = $8::int[], value = $9::int[]
         WHERE subject = $1 AND subject_id = $2",
        rated.name(),
        subject_id,
        &ratings.overall.0[..],
        &ratings.cleanliness.0[..],
        &ratings.accuracy.0[..],
        &ratings.check_in.0[..],
        &ratings.communication.0[..],
        &ratings.location.0[..],
        &ratings.value.0[..],
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}
