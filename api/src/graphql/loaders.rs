//! What fields read by id, gathered: one statement for all that a request asks of a kind, whatever its number.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use async_graphql::dataloader::{DataLoader, HashMapCache, Loader};
use async_graphql::{Context, Result};
use roost_shared::bookings::{self, Booking, TimelineEntry};
use roost_shared::payments::{self, Attempt, Payment, Refund};
use roost_shared::properties::{self, Property};
use roost_shared::reviews::{self, Review};
use roost_shared::users::{self, User};
use sqlx::PgPool;
use uuid::Uuid;

use super::batches::Wanted;
use super::caller::rows;
use crate::error::ApiError;
use crate::state::AppState;

/// Reads rows. Who may see them is asked by the field that shows them.
pub struct Rows(PgPool);

/// A loader for one operation, and what it wants read. What it has read it does not read again.
pub fn for_operation(state: &AppState) -> (DataLoader<Rows, HashMapCache>, Wanted) {
    let (rows, wanted) = (Rows(state.db.pool().clone()), Wanted::default());
    let batches = wanted.clone();
    let loader = DataLoader::with_cache(rows, move |batch| batches.add(batch), HashMapCache::default());
    // Batches are not timed: see `super::batches`.
    (loader.delay(Duration::ZERO), wanted)
}

/// To be called before a change: what was read by an earlier field of the request may be out of date after it.
pub fn forget(ctx: &Context<'_>) -> Result<()> {
    let rows = rows(ctx)?;
    rows.clear::<UserId>();
    rows.clear::<PropertyId>();
    rows.clear::<BookingId>();
    rows.clear::<TimelineOf>();
    rows.clear::<LatestPaymentOf>();
    rows.clear::<AttemptsOf>();
    rows.clear::<RefundsOf>();
    rows.clear::<ReviewsOf>();
    Ok(())
}

/// A user.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct UserId(pub Uuid);

/// A property.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PropertyId(pub Uuid);

/// A booking.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct BookingId(pub Uuid);

/// What happened to a booking.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TimelineOf(pub Uuid);

/// The newest payment of a booking.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LatestPaymentOf(pub Uuid);

/// What was asked of Stripe for a payment.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct AttemptsOf(pub Uuid);

/// What was paid back of a payment.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RefundsOf(pub Uuid);

/// What was written about a booking.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReviewsOf(pub Uuid);

impl Loader<UserId> for Rows {
    type Value = User;
    type Error = ApiError;

    async fn load(&self, keys: &[UserId]) -> Result<HashMap<UserId, User>, ApiError> {
        let ids = ids(keys, |key| key.0);
        let users = users::find_many(&self.0, &ids).await?;
        Ok(users.into_iter().map(|user| (UserId(user.id), user)).collect())
    }
}

impl Loader<PropertyId> for Rows {
    type Value = Property;
    type Error = ApiError;

    async fn load(&self, keys: &[PropertyId]) -> Result<HashMap<PropertyId, Property>, ApiError> {
        let ids = ids(keys, |key| key.0);
        let mut conn = self.0.acquire().await?;
        let found = properties::get_many(&mut conn, &ids).await?;
        Ok(by_key(found, |property| PropertyId(property.id)))
    }
}

impl Loader<BookingId> for Rows {
    type Value = Booking;
    type Error = ApiError;

    async fn load(&self, keys: &[BookingId]) -> Result<HashMap<BookingId, Booking>, ApiError> {
        let ids = ids(keys, |key| key.0);
        let found = bookings::get_many(&self.0, &ids).await?;
        Ok(by_key(found, |booking| BookingId(booking.id)))
    }
}

impl Loader<TimelineOf> for Rows {
    type Value = Vec<TimelineEntry>;
    type Error = ApiError;

    async fn load(&self, keys: &[TimelineOf]) -> Result<HashMap<TimelineOf, Self::Value>, ApiError> {
        let ids = ids(keys, |key| key.0);
        let found = bookings::timelines(&self.0, &ids).await?;
        Ok(found
            .into_iter()
            .map(|(id, entries)| (TimelineOf(id), entries))
            .collect())
    }
}

impl Loader<LatestPaymentOf> for Rows {
    type Value = Payment;
    type Error = ApiError;

    async fn load(&self, keys: &[LatestPaymentOf]) -> Result<HashMap<LatestPaymentOf, Payment>, ApiError> {
        let ids = ids(keys, |key| key.0);
        let found = payments::latest_of_each(&mut *self.0.acquire().await?, &ids).await?;
        Ok(by_key(found, |payment| LatestPaymentOf(payment.booking_id)))
    }
}

impl Loader<AttemptsOf> for Rows {
    type Value = Vec<Attempt>;
    type Error = ApiError;

    async fn load(&self, keys: &[AttemptsOf]) -> Result<HashMap<AttemptsOf, Self::Value>, ApiError> {
        let ids = ids(keys, |key| key.0);
        let found = payments::attempts_of_each(&self.0, &ids).await?;
        Ok(found
            .into_iter()
            .map(|(id, attempts)| (AttemptsOf(id), attempts))
            .collect())
    }
}

impl Loader<RefundsOf> for Rows {
    type Value = Vec<Refund>;
    type Error = ApiError;

    async fn load(&self, keys: &[RefundsOf]) -> Result<HashMap<RefundsOf, Self::Value>, ApiError> {
        let ids = ids(keys, |key| key.0);
        let found = payments::refunds_of_each(&self.0, &ids).await?;
        Ok(found
            .into_iter()
            .map(|(id, refunds)| (RefundsOf(id), refunds))
            .collect())
    }
}

impl Loader<ReviewsOf> for Rows {
    type Value = Vec<Review>;
    type Error = ApiError;

    async fn load(&self, keys: &[ReviewsOf]) -> Result<HashMap<ReviewsOf, Self::Value>, ApiError> {
        let ids = ids(keys, |key| key.0);
        let mut found: HashMap<ReviewsOf, Vec<Review>> = HashMap::new();
        for review in reviews::live_of_each(&self.0, &ids).await? {
            found.entry(ReviewsOf(review.booking_id)).or_default().push(review);
        }
        Ok(found)
    }
}

fn ids<K>(keys: &[K], id: impl Fn(&K) -> Uuid) -> Vec<Uuid> {
    keys.iter().map(id).collect()
}

fn by_key<K: Eq + Hash, R>(rows: Vec<R>, key: impl Fn(&R) -> K) -> HashMap<K, R> {
    rows.into_iter().map(|row| (key(&row), row)).collect()
}
