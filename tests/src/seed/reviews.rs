//! What guests and hosts wrote about each other after their stays, and what the stars add up to, as the platform
//! publishes and counts them. Stays of the last two weeks can still be reviewed.

use std::{collections::BTreeMap, sync::LazyLock};

use anyhow::{Context, Result};
use chrono::{DateTime, TimeDelta, Utc};
use roost_shared::{
    jobs::{
        Job,
        catalogue::{PublishReviews, RemindReviewers},
    },
    reviews::{Ratings, Side, Stars, rules},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{dice::Dice, insert, listings::Listing, stays::Departure};

#[derive(Deserialize)]
struct Words {
    /// By stars, from one to five.
    of_stays: [Vec<String>; 5],
    of_guests: [Vec<String>; 5],
    answers: Vec<String>,
}

static WORDS: LazyLock<serde_json::Result<Words>> =
    LazyLock::new(|| serde_json::from_str(include_str!("reviews.json")));

#[derive(Serialize)]
struct WindowRow {
    booking_id: Uuid,
    opened_at: DateTime<Utc>,
    closes_at: DateTime<Utc>,
    settled_at: Option<DateTime<Utc>>,
}

#[derive(Serialize)]
struct ReviewRow {
    id: Uuid,
    booking_id: Uuid,
    property_id: Uuid,
    side: Side,
    author_id: Uuid,
    subject_id: Uuid,
    overall: i16,
    cleanliness: Option<i16>,
    accuracy: Option<i16>,
    check_in: Option<i16>,
    communication: Option<i16>,
    location: Option<i16>,
    value: Option<i16>,
    text: String,
    answer: Option<String>,
    answered_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    published_at: Option<DateTime<Utc>>,
}

#[derive(Serialize)]
struct RatingsRow {
    subject: &'static str,
    subject_id: Uuid,
    overall: [i32; 5],
    cleanliness: [i32; 5],
    accuracy: [i32; 5],
    check_in: [i32; 5],
    communication: [i32; 5],
    location: [i32; 5],
    value: [i32; 5],
}

#[derive(Serialize)]
struct JobRow {
    id: Uuid,
    kind: &'static str,
    queue: &'static str,
    priority: i16,
    args: Value,
    max_attempts: i32,
    state: &'static str,
    run_at: DateTime<Utc>,
}

/// Everything that was written so far.
pub struct Guestbook {
    now: DateTime<Utc>,
    windows: Vec<WindowRow>,
    reviews: Vec<ReviewRow>,
    sums: BTreeMap<(&'static str, Uuid), Ratings>,
    jobs: Vec<JobRow>,
}

impl Guestbook {
    pub fn new(now: DateTime<Utc>) -> Self {
        Self {
            now,
            windows: Vec::new(),
            reviews: Vec::new(),
            sums: BTreeMap::new(),
            jobs: Vec::new(),
        }
    }

    pub async fn write(&self, connection: &mut PgConnection) -> Result<()> {
        let sums: Vec<_> = self
            .sums
            .iter()
            .map(|(subject, sums)| ratings_row(*subject, sums))
            .collect();
        insert(connection, "review_windows", &self.windows).await?;
        insert(connection, "reviews", &self.reviews).await?;
        insert(connection, "ratings", &sums).await?;
        insert(connection, "jobs", &self.jobs).await
    }

    /// What a property's guests gave it.
    pub fn ratings_of(&self, property_id: Uuid) -> Ratings {
        self.sums.get(&("property", property_id)).copied().unwrap_or_default()
    }

    /// Lets both sides of an ended stay write, or not. Returns when it was published, if anything was.
    pub fn close(
        &mut self,
        listing: &Listing,
        departure: &Departure,
        dice: &mut Dice,
    ) -> Result<Option<DateTime<Utc>>> {
        let closes_at = rules::closes_at(departure.at, listing.terms.time_zone);
        let by_guest = self.review(listing, departure, Side::Guest, listing.eagerness, dice)?;
        let by_host = self.review(listing, departure, Side::Host, 60, dice)?;
        let mut written: Vec<ReviewRow> = [by_guest, by_host].into_iter().flatten().collect();
        let last = written.iter().map(|review| review.created_at).max();
        let settled_at = match last {
            Some(last) if written.len() == 2 => Some(last + TimeDelta::seconds(1)),
            _ => Some(closes_at).filter(|closes_at| *closes_at <= self.now),
        };
        for review in &mut written {
            review.published_at = settled_at;
            if let Some(published_at) = settled_at {
                self.publish(review, published_at, dice)?;
            }
        }
        let published_at = settled_at.filter(|_| !written.is_empty());
        self.reviews.append(&mut written);
        self.windows.push(WindowRow {
            booking_id: departure.booking_id,
            opened_at: departure.at,
            closes_at,
            settled_at,
        });
        if closes_at > self.now {
            self.schedule::<RemindReviewers>(departure.booking_id, closes_at - rules::REMINDER, dice);
            self.schedule::<PublishReviews>(departure.booking_id, closes_at, dice);
        }
        Ok(published_at)
    }

    fn review(
        &self,
        listing: &Listing,
        departure: &Departure,
        side: Side,
        chance: i64,
        dice: &mut Dice,
    ) -> Result<Option<ReviewRow>> {
        let created_at = departure.at + TimeDelta::minutes(dice.among(60, 13 * 24 * 60));
        let stars = match side {
            Side::Guest => stars(listing.quality, dice),
            Side::Host => Stars {
                overall: star(475, dice),
                cleanliness: Some(star(475, dice)),
                communication: Some(star(480, dice)),
                ..Stars::default()
            },
        };
        let words = WORDS.as_ref().context("reviews.json")?;
        let by_stars = match side {
            Side::Guest => &words.of_stays,
            Side::Host => &words.of_guests,
        };
        let text = by_stars
            .get(usize::try_from(stars.overall - 1)?)
            .and_then(|texts| dice.pick(texts))
            .context("no words")?;
        let id = dice.id(created_at);
        if !dice.percent(chance) || created_at > self.now - TimeDelta::seconds(2) {
            return Ok(None);
        }
        let (author_id, subject_id) = match side {
            Side::Guest => (departure.guest_id, listing.terms.host_id),
            Side::Host => (listing.terms.host_id, departure.guest_id),
        };
        Ok(Some(ReviewRow {
            id,
            booking_id: departure.booking_id,
            property_id: listing.terms.id,
            side,
            author_id,
            subject_id,
            overall: stars.overall,
            cleanliness: stars.cleanliness,
            accuracy: stars.accuracy,
            check_in: stars.check_in,
            communication: stars.communication,
            location: stars.location,
            value: stars.value,
            text: text.clone(),
            answer: None,
            answered_at: None,
            created_at,
            published_at: None,
        }))
    }

    fn publish(&mut self, review: &mut ReviewRow, published_at: DateTime<Utc>, dice: &mut Dice) -> Result<()> {
        let subjects = match review.side {
            Side::Guest => vec![("property", review.property_id), ("host", review.subject_id)],
            Side::Host => vec![("guest", review.subject_id)],
        };
        let stars = Stars {
            overall: review.overall,
            cleanliness: review.cleanliness,
            accuracy: review.accuracy,
            check_in: review.check_in,
            communication: review.communication,
            location: review.location,
            value: review.value,
        };
        for subject in subjects {
            self.sums.entry(subject).or_default().add(&stars, 1);
        }
        let answered_at = published_at + TimeDelta::minutes(dice.among(30, 5 * 24 * 60));
        let words = WORDS.as_ref().context("reviews.json")?;
        // Thanks for the good, regret for the rest.
        let answers = if review.overall > 3 { [0, 2] } else { [1, 3] };
        let answer = dice.pick(&answers).and_then(|place| words.answers.get(*place));
        if dice.percent(30) && review.side == Side::Guest && answered_at < self.now {
            review.answer = answer.cloned();
            review.answered_at = Some(answered_at);
        }
        Ok(())
    }

    fn schedule<J: Job>(&mut self, booking_id: Uuid, at: DateTime<Utc>, dice: &mut Dice) {
        if at <= self.now {
            return;
        }
        self.jobs.push(JobRow {
            id: dice.id(self.now),
            kind: J::KIND,
            queue: J::QUEUE.name(),
            priority: J::PRIORITY,
            args: json!({"booking_id": booking_id}),
            max_attempts: J::MAX_ATTEMPTS,
            state: "scheduled",
            run_at: at,
        });
    }
}

/// What a guest gives a place of that quality, in hundredths of a star.
fn stars(quality: i64, dice: &mut Dice) -> Stars {
    let overall = star(quality, dice);
    let mut category = |quality| Some(star(quality, dice));
    Stars {
        overall,
        cleanliness: category(quality + 10),
        accuracy: category(quality),
        check_in: category(quality + 15),
        communication: category(quality + 10),
        location: category(quality),
        value: category(quality - 15),
    }
}

fn star(quality: i64, dice: &mut Dice) -> i16 {
    // Now and then something goes wrong.
    let mishap = if dice.percent(6) { dice.among(80, 280) } else { 0 };
    let hundredths = quality + dice.among(-110, 60) - mishap;
    i16::try_from(((hundredths + 50) / 100).clamp(1, 5)).unwrap_or(5)
}

fn ratings_row((subject, subject_id): (&'static str, Uuid), ratings: &Ratings) -> RatingsRow {
    RatingsRow {
        subject,
        subject_id,
        overall: ratings.overall.0,
        cleanliness: ratings.cleanliness.0,
        accuracy: ratings.accuracy.0,
        check_in: ratings.check_in.0,
        communication: ratings.communication.0,
        location: ratings.location.0,
        value: ratings.value.0,
    }
}
