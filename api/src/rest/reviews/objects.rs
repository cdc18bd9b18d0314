//! Reviews as they look on the wire.

use async_graphql::{InputObject, SimpleObject};
use chrono::{DateTime, Utc};
use poem_openapi::types::{Example, MaybeUndefined};
use poem_openapi::{Enum, Object};
use roost_shared::reviews::{self, Category, Edit, NewReview as Command, Review as Row, Stars};
use uuid::Uuid;

use crate::patch::Change;
use crate::rest::mirror::mirror;

mirror! {
    /// Who wrote a review.
    ReviewSide of reviews::Side {
        /// The guest, about the stay
        Guest,
        /// The host, about the guest
        Host,
    }
}

mirror! {
    /// In which order reviews come; what is equal comes newest first.
    ReviewOrder of reviews::Order {
        /// The latest first
        Newest,
        /// The best first
        Highest,
        /// The worst first
        Lowest,
    }
}

mirror! {
    /// What is wrong with a review.
    ReportReason of reviews::ReportReason {
        /// It insults
        Offensive,
        /// It tells what is nobody's business
        PersonalInformation,
        /// It is not true
        Untrue,
        /// It advertises
        Spam,
        /// The details say
        Other,
    }
}

/// Stars from 1 to 5. Hosts rate guests in `cleanliness` and `communication` only.
#[derive(Clone, Debug, Default, Object, SimpleObject, InputObject)]
#[oai(deny_unknown_fields)]
#[graphql(input_name = "CategoriesInput")]
pub struct Categories {
    /// How clean it was, or was left
    #[oai(validator(minimum(value = "1"), maximum(value = "5")))]
    pub cleanliness: Option<i16>,
    /// Whether the listing told the truth
    #[oai(validator(minimum(value = "1"), maximum(value = "5")))]
    pub accuracy: Option<i16>,
    /// How the arrival went
    #[oai(validator(minimum(value = "1"), maximum(value = "5")))]
    pub check_in: Option<i16>,
    /// How easy the other side was to talk to
    #[oai(validator(minimum(value = "1"), maximum(value = "5")))]
    pub communication: Option<i16>,
    /// The neighbourhood
    #[oai(validator(minimum(value = "1"), maximum(value = "5")))]
    pub location: Option<i16>,
    /// For the money
    #[oai(validator(minimum(value = "1"), maximum(value = "5")))]
    pub value: Option<i16>,
}

impl Categories {
    fn stars(&self, overall: i16) -> Stars {
        Stars {
            overall,
            cleanliness: self.cleanliness,
            accuracy: self.accuracy,
            check_in: self.check_in,
            communication: self.communication,
            location: self.location,
            value: self.value,
        }
    }
}

impl From<Stars> for Categories {
    fn from(stars: Stars) -> Self {
        Self {
            cleanliness: stars.cleanliness,
            accuracy: stars.accuracy,
            check_in: stars.check_in,
            communication: stars.communication,
            location: stars.location,
            value: stars.value,
        }
    }
}

/// What to say of a stay or a guest.
#[derive(Clone, Debug, Object, InputObject)]
#[oai(deny_unknown_fields, example)]
pub struct NewReview {
    /// The stay, which you had or let
    pub booking_id: Uuid,
    /// Stars, 1 to 5
    #[oai(validator(minimum(value = "1"), maximum(value = "5")))]
    pub rating: i16,
    /// Stars by category, as many as you like
    pub categories: Option<Categories>,
    /// 10 to 2,000 characters
    #[oai(validator(min_length = 10, max_length = 2000))]
    pub text: String,
}

impl NewReview {
    pub(super) fn command(&self) -> Command {
        Command {
            booking_id: self.booking_id,
            stars: self.categories.clone().unwrap_or_default().stars(self.rating),
            text: self.text.trim().to_owned(),
        }
    }
}

impl Example for NewReview {
    fn example() -> Self {
        Self {
            booking_id: example_id(1),
            rating: 5,
            categories: Some(Categories {
                cleanliness: Some(5),
                location: Some(4),
                ..Categories::default()
            }),
            text: "Quiet at night, strong coffee in the morning. We would come back.".to_owned(),
        }
    }
}

/// What to change of the stars by category. What is left out stays; `null` takes a rating back.
#[derive(Clone, Debug, Default, Object, InputObject)]
#[oai(deny_unknown_fields)]
pub struct CategoriesPatch {
    /// How clean it was, or was left
    #[oai(validator(minimum(value = "1"), maximum(value = "5")))]
    pub cleanliness: Change<i16>,
    /// Whether the listing told the truth
    #[oai(validator(minimum(value = "1"), maximum(value = "5")))]
    pub accuracy: Change<i16>,
    /// How the arrival went
    #[oai(validator(minimum(value = "1"), maximum(value = "5")))]
    pub check_in: Change<i16>,
    /// How easy the other side was to talk to
    #[oai(validator(minimum(value = "1"), maximum(value = "5")))]
    pub communication: Change<i16>,
    /// The neighbourhood
    #[oai(validator(minimum(value = "1"), maximum(value = "5")))]
    pub location: Change<i16>,
    /// For the money
    #[oai(validator(minimum(value = "1"), maximum(value = "5")))]
    pub value: Change<i16>,
}

impl CategoriesPatch {
    fn changes(self) -> Vec<(Category, Option<i16>)> {
        let given = [
            (Category::Cleanliness, self.cleanliness),
            (Category::Accuracy, self.accuracy),
            (Category::CheckIn, self.check_in),
            (Category::Communication, self.communication),
            (Category::Location, self.location),
            (Category::Value, self.value),
        ];
        let changes = given.into_iter().filter_map(|(category, Change(change))| match change {
            MaybeUndefined::Undefined => None,
            MaybeUndefined::Null => Some((category, None)),
            MaybeUndefined::Value(stars) => Some((category, Some(stars))),
        });
        changes.collect()
    }
}

/// What to change of a review that is not public yet. What is left out, or null, stays.
#[derive(Clone, Debug, Object, InputObject)]
#[oai(deny_unknown_fields, example, skip_serializing_if_is_none)]
pub struct ReviewPatch {
    /// Stars, 1 to 5
    #[oai(validator(minimum(value = "1"), maximum(value = "5")))]
    pub rating: Option<i16>,
    /// Stars by category; in here, `null` takes a rating back
    pub categories: Option<CategoriesPatch>,
    /// 10 to 2,000 characters
    #[oai(validator(min_length = 10, max_length = 2000))]
    pub text: Option<String>,
}

impl ReviewPatch {
    pub(super) fn edit(self) -> Edit {
        Edit {
            overall: self.rating,
            categories: self.categories.unwrap_or_default().changes(),
            text: self.text.map(|text| text.trim().to_owned()),
        }
    }
}

impl Example for ReviewPatch {
    fn example() -> Self {
        Self {
            rating: Some(4),
            categories: Some(CategoriesPatch {
                check_in: Change(MaybeUndefined::Value(3)),
                location: Change(MaybeUndefined::Null),
                ..CategoriesPatch::default()
            }),
            text: Some("Quiet at night, strong coffee, but the stairs are steep.".to_owned()),
        }
    }
}

/// What the host says to a review.
#[derive(Clone, Debug, Object, InputObject)]
#[oai(deny_unknown_fields, example)]
pub struct NewAnswer {
    /// 1 to 2,000 characters
    #[oai(validator(min_length = 1, max_length = 2000))]
    pub text: String,
}

impl Example for NewAnswer {
    fn example() -> Self {
        Self {
            text: "Thank you! The stairs keep us young.".to_owned(),
        }
    }
}

/// A complaint about a review.
#[derive(Clone, Debug, Object, InputObject)]
#[oai(deny_unknown_fields, example)]
pub struct NewReport {
    /// Of what kind
    pub reason: ReportReason,
    /// In words, for the moderators; needed with `other`
    #[oai(validator(max_length = 1000))]
    pub details: Option<String>,
}

impl Example for NewReport {
    fn example() -> Self {
        Self {
            reason: ReportReason::PersonalInformation,
            details: Some("It tells the code of the front door.".to_owned()),
        }
    }
}

/// How far a review has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum, async_graphql::Enum)]
#[oai(rename_all = "snake_case")]
pub enum ReviewState {
    /// Only its author sees it
    Unpublished,
    /// Everybody sees it
    Published,
    /// A moderator hid it; its author and moderators see it
    Hidden,
}

/// Who wrote a review, as far as that is public.
#[derive(Clone, Debug, Object, SimpleObject)]
pub struct Author {
    /// The account
    pub id: Uuid,
    /// The first word of the name; null if the account was deleted
    pub first_name: Option<String>,
}

/// What the host says to a review.
#[derive(Clone, Debug, Object, SimpleObject)]
pub struct Answer {
    /// The words
    pub text: String,
    /// When
    pub answered_at: DateTime<Utc>,
}

/// A review.
#[derive(Clone, Debug, Object, SimpleObject)]
#[oai(example)]
pub struct Review {
    /// The review
    pub id: Uuid,
    /// The stay; for its guest and host only
    pub booking_id: Option<Uuid>,
    /// Where the stay was
    pub property_id: Uuid,
    /// Who wrote it
    pub side: ReviewSide,
    /// Who wrote it
    pub author: Author,
    /// The user it is about: the host, or the guest
    pub subject_id: Uuid,
    /// How far it has come
    pub state: ReviewState,
    /// Stars, 1 to 5
    pub rating: i16,
    /// Stars by category
    pub categories: Categories,
    /// Plain text, as its author wrote it: escape it where markup is read
    pub text: String,
    /// The host's answer
    pub answer: Option<Answer>,
    /// When it was written
    pub created_at: DateTime<Utc>,
    /// When its author last changed it
    pub edited_at: Option<DateTime<Utc>>,
    /// When it became public
    pub published_at: Option<DateTime<Utc>>,
    /// Why a moderator hid it
    pub hidden_reason: Option<String>,
}

impl Review {
    /// As `viewer_id` may see it.
    pub(crate) fn seen_by(row: Row, viewer_id: Option<Uuid>) -> Self {
        let party = viewer_id == Some(row.author_id) || viewer_id == Some(row.subject_id);
        let state = match (row.published_at, row.hidden_at) {
            (None, _) => ReviewState::Unpublished,
            (Some(_), None) => ReviewState::Published,
            (Some(_), Some(_)) => ReviewState::Hidden,
        };
        Self {
            id: row.id,
            booking_id: party.then_some(row.booking_id),
            property_id: row.property_id,
            side: row.side.into(),
            author: Author {
                id: row.author_id,
                first_name: row.author_name.split_whitespace().next().map(str::to_owned),
            },
            subject_id: row.subject_id,
            state,
            rating: row.stars.overall,
            categories: row.stars.into(),
            text: row.text,
            answer: row
                .answer
                .zip(row.answered_at)
                .map(|(text, answered_at)| Answer { text, answered_at }),
            created_at: row.created_at,
            edited_at: row.edited_at,
            published_at: row.published_at,
            hidden_reason: row.hidden_reason,
        }
    }
}

impl Example for Review {
    fn example() -> Self {
        let at = DateTime::UNIX_EPOCH + chrono::Duration::days(22_000);
        Self {
            id: example_id(2),
            booking_id: Some(example_id(1)),
            property_id: example_id(3),
            side: ReviewSide::Guest,
            author: Author {
                id: example_id(4),
                first_name: Some("Ada".to_owned()),
            },
            subject_id: example_id(5),
            state: ReviewState::Published,
            rating: 5,
            categories: NewReview::example().categories.unwrap_or_default(),
            text: NewReview::example().text,
            answer: Some(Answer {
                text: NewAnswer::example().text,
                answered_at: at,
            }),
            created_at: at,
            edited_at: None,
            published_at: Some(at),
            hidden_reason: None,
        }
    }
}

/// How many published reviews gave so many stars.
#[derive(Clone, Debug, Object, SimpleObject)]
pub struct RatingHistogram {
    /// One star
    pub one: i32,
    /// Two stars
    pub two: i32,
    /// Three stars
    pub three: i32,
    /// Four stars
    pub four: i32,
    /// Five stars
    pub five: i32,
}

/// The means by category; null where nobody rated it.
#[derive(Clone, Debug, Object, SimpleObject)]
pub struct CategoryMeans {
    /// How clean it was, or was left
    pub cleanliness: Option<f64>,
    /// Whether the listing told the truth
    pub accuracy: Option<f64>,
    /// How the arrival went
    pub check_in: Option<f64>,
    /// How easy the other side was to talk to
    pub communication: Option<f64>,
    /// The neighbourhood
    pub location: Option<f64>,
    /// For the money
    pub value: Option<f64>,
}

/// What published reviews say of a property, a host or a guest, in figures.
#[derive(Clone, Debug, Object, SimpleObject)]
#[oai(example)]
pub struct RatingSummary {
    /// How many reviews
    pub review_count: i32,
    /// The mean in stars; null without reviews
    pub rating: Option<f64>,
    /// How many gave so many stars
    pub histogram: RatingHistogram,
    /// The means by category
    pub categories: CategoryMeans,
}

impl Example for RatingSummary {
    fn example() -> Self {
        Self {
            review_count: 3,
            rating: Some(4.67),
            histogram: RatingHistogram {
                one: 0,
                two: 0,
                three: 0,
                four: 1,
                five: 2,
            },
            categories: CategoryMeans {
                cleanliness: Some(5.0),
                accuracy: Some(4.5),
                check_in: None,
                communication: None,
                location: Some(4.67),
                value: Some(4.33),
            },
        }
    }
}

impl From<reviews::Ratings> for RatingSummary {
    fn from(ratings: reviews::Ratings) -> Self {
        let mean = |histogram: reviews::Histogram| {
            (histogram.count() > 0).then(|| f64::from(histogram.mean_hundredths()) / 100.0)
        };
        let [one, two, three, four, five] = ratings.overall.0;
        Self {
            review_count: ratings.overall.count(),
            rating: mean(ratings.overall),
            histogram: RatingHistogram {
                one,
                two,
                three,
                four,
                five,
            },
            categories: CategoryMeans {
                cleanliness: mean(ratings.cleanliness),
                accuracy: mean(ratings.accuracy),
                check_in: mean(ratings.check_in),
                communication: mean(ratings.communication),
                location: mean(ratings.location),
                value: mean(ratings.value),
            },
        }
    }
}

fn example_id(number: u128) -> Uuid {
    Uuid::from_u128(0x019a_b6c8_6f5e_7c3a_9d0e_2f4f_1f6f_0b00 + number)
}
