//! Reviews: writing one after a stay, reading what is public, and what follows publication.

pub mod moderation;
pub mod objects;
mod refusals;

use chrono::{DateTime, Utc};
use poem::http::Uri;
use poem_openapi::OpenApi;
use poem_openapi::param::{Path, Query};
use poem_openapi::payload::Json;
use roost_shared::db::Retries;
use roost_shared::reviews::rules::{ANSWER_LENGTH, TEXT_LENGTH};
use roost_shared::reviews::{self, Filter, Position, Rated, Report, Review as Row, ReviewError};
use uuid::Uuid;

use self::objects::{NewAnswer, NewReport, NewReview, RatingSummary, Review, ReviewOrder, ReviewPatch, ReviewSide};
use super::Tag;
use super::users::NoContent;
use crate::auth::{Auth, MaybeAuth};
use crate::body::JsonBody;
use crate::error::{ApiError, ApiResult};
use crate::idempotency::{Begun, Created, Idempotency};
use crate::page::{PageRequest, Paged};
use crate::problem::FieldError;
use crate::state::AppState;
use crate::validate::Checks;

/// Operations on reviews.
pub struct ReviewsApi(pub AppState);

#[OpenApi(tag = "Tag::Reviews")]
impl ReviewsApi {
    /// Write a review
    ///
    /// For guest and host of a booking that is `checked_out`, once a side, for 14 days. Nobody but you sees it before
    /// both have written or the time is over; then both are published.
    ///
    /// Refusals of its own, all 409: `wrong_state` (nobody has checked out), `review_window_closed`,
    /// `already_reviewed` with the member `review_id`.
    #[oai(path = "/reviews", method = "post", operation_id = "create_review")]
    pub(crate) async fn create(
        &self,
        auth: Auth,
        idempotency: Idempotency,
        body: JsonBody<NewReview>,
    ) -> ApiResult<Created<Review>> {
        Checks::new()
            .text("text", &body.text, TEXT_LENGTH.0, TEXT_LENGTH.1)
            .finish()?;
        let mut retries = Retries::default();
        loop {
            let mut work = match idempotency.begin(&self.0, &auth.scope(), body.raw()).await? {
                Begun::Replay(stored) => return Ok(stored.into()),
                Begun::Work(work) => work,
            };
            match reviews::write(work.tx(), auth.user_id, body.command()).await {
                Ok(review) => {
                    let location = format!("/reviews/{}", review.id);
                    return work
                        .created(&location, &Review::seen_by(review, Some(auth.user_id)))
                        .await;
                }
                Err(ReviewError::Database(error)) if retries.again(&error).await => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// List reviews
    ///
    /// What is public; with your own `author_id` also what you wrote and is not. Reviews that hosts wrote about guests
    /// are shown to those who are signed in. `property_id` alone lists what guests wrote of the property: with `side` also
    /// what its host wrote.
    #[oai(path = "/reviews", method = "get", operation_id = "list_reviews")]
    #[allow(clippy::too_many_arguments, reason = "one argument a parameter")]
    async fn list(
        &self,
        auth: MaybeAuth,
        /// Of stays in this property
        property_id: Query<Option<Uuid>>,
        /// Written by this user
        author_id: Query<Option<Uuid>>,
        /// About this user: a host, or a guest
        subject_id: Query<Option<Uuid>>,
        /// Written by this side
        side: Query<Option<ReviewSide>>,
        /// With so many stars
        #[oai(validator(minimum(value = "1"), maximum(value = "5")))]
        rating: Query<Option<i16>>,
        /// In which order; other than `newest` only with `property_id`, `author_id` or `subject_id`
        #[oai(default = "newest")]
        sort: Query<ReviewOrder>,
        /// How many at most
        #[oai(
            default = "crate::page::default_limit",
            validator(minimum(value = "1"), maximum(value = "100"))
        )]
        limit: Query<u16>,
        /// `next_cursor` of the page before
        cursor: Query<Option<String>>,
        uri: &Uri,
    ) -> ApiResult<Paged<Review>> {
        let page = PageRequest::<Key>::new(limit.0, cursor.0.as_deref(), uri)?;
        let viewer_id = auth.user_id();
        let filter = Filter {
            viewer_id,
            property_id: property_id.0,
            author_id: author_id.0,
            subject_id: subject_id.0,
            side: side.0.map(reviews::Side::from),
            overall: rating.0,
            order: sort.0.into(),
            after: None,
        };
        let found = find(&self.0, filter, &page).await?;
        Ok(page.reply(found, key, |row| Review::seen_by(row, viewer_id)))
    }

    /// Sum up ratings
    ///
    /// Of a property, of a host over all properties, or of a guest (for those who are signed in): exactly one of the
    /// three parameters. What is not published or is hidden counts nowhere. What nobody has reviewed has a count of zero;
    /// what is not there, or not for you to see, is 404.
    #[oai(path = "/reviews/summary", method = "get", operation_id = "get_rating_summary")]
    pub(crate) async fn summary(
        &self,
        auth: MaybeAuth,
        /// The property
        property_id: Query<Option<Uuid>>,
        /// The host
        host_id: Query<Option<Uuid>>,
        /// The guest
        guest_id: Query<Option<Uuid>>,
    ) -> ApiResult<Json<RatingSummary>> {
        let (rated, id) = match (property_id.0, host_id.0, guest_id.0) {
            (Some(id), None, None) => (Rated::Property, id),
            (None, Some(id), None) => (Rated::Host, id),
            (None, None, Some(id)) => (Rated::Guest, id),
            _ => {
                let message = "must be given, or host_id, or guest_id, and one of them only";
                return Err(ApiError::invalid(vec![FieldError::new("property_id", message)]));
            }
        };
        if rated == Rated::Guest && auth.user_id().is_none() {
            return Err(ApiError::unauthorized(
                "unauthorized",
                "Sign in to see how guests are rated.",
                None,
            ));
        }
        let mut conn = self.0.db.pool().acquire().await?;
        if !reviews::is_rateable(&mut conn, rated, id, auth.user_id()).await? {
            return Err(ApiError::not_found(match rated {
                Rated::Property => "property",
                Rated::Host => "host",
                Rated::Guest => "guest",
            }));
        }
        let ratings = reviews::ratings(&mut conn, rated, id).await?;
        Ok(Json(ratings.into()))
    }

    /// Read a review
    ///
    /// One that is public, or your own; a moderator also reads what is hidden.
    #[oai(path = "/reviews/:review_id", method = "get", operation_id = "get_review")]
    pub(crate) async fn get(
        &self,
        auth: MaybeAuth,
        /// The review
        review_id: Path<Uuid>,
    ) -> ApiResult<Json<Review>> {
        let viewer_id = auth.user_id();
        let mut conn = self.0.db.pool().acquire().await?;
        let review = reviews::get(&mut conn, review_id.0)
            .await?
            .ok_or(ReviewError::NoSuchReview)?;
        let visible = review.is_visible_to(viewer_id)
            || match viewer_id.filter(|_| review.hidden_at.is_some()) {
                Some(viewer_id) => reviews::is_moderator(&mut conn, viewer_id).await?,
                None => false,
            };
        if !visible {
            return Err(ReviewError::NoSuchReview.into());
        }
        Ok(Json(Review::seen_by(review, viewer_id)))
    }

    /// Change a review
    ///
    /// Your own, before it is published: afterwards 409 `review_published`, or `review_window_closed` once the time is
    /// over.
    #[oai(path = "/reviews/:review_id", method = "patch", operation_id = "update_review")]
    pub(crate) async fn edit(
        &self,
        auth: Auth,
        /// The review
        review_id: Path<Uuid>,
        body: JsonBody<ReviewPatch>,
    ) -> ApiResult<Json<Review>> {
        Checks::new()
            .text(
                "text",
                body.text.as_deref().unwrap_or("left as it is"),
                TEXT_LENGTH.0,
                TEXT_LENGTH.1,
            )
            .finish()?;
        let edit = body.into_inner().edit();
        let mut tx = self.0.db.begin().await?;
        let review = reviews::edit(&mut tx, auth.user_id, review_id.0, &edit).await?;
        tx.commit().await?;
        Ok(Json(Review::seen_by(review, Some(auth.user_id))))
    }

    /// Take a review back
    ///
    /// Your own, before it is published. You may write another one while there is time.
    #[oai(path = "/reviews/:review_id", method = "delete", operation_id = "delete_review")]
    pub(crate) async fn delete(
        &self,
        auth: Auth,
        /// The review
        review_id: Path<Uuid>,
    ) -> ApiResult<NoContent> {
        let mut tx = self.0.db.begin().await?;
        reviews::delete(&mut tx, auth.user_id, review_id.0).await?;
        tx.commit().await?;
        Ok(NoContent::Done)
    }

    /// Answer a review
    ///
    /// For the host whom a guest reviewed, once: afterwards 409 `already_answered`. Everybody reads it.
    #[oai(path = "/reviews/:review_id/answer", method = "post", operation_id = "answer_review")]
    pub(crate) async fn answer(
        &self,
        auth: Auth,
        /// The review
        review_id: Path<Uuid>,
        body: JsonBody<NewAnswer>,
    ) -> ApiResult<Json<Review>> {
        Checks::new()
            .text("text", &body.text, ANSWER_LENGTH.0, ANSWER_LENGTH.1)
            .finish()?;
        let mut tx = self.0.db.begin().await?;
        let review = reviews::answer(&mut tx, auth.user_id, review_id.0, body.text.trim()).await?;
        tx.commit().await?;
        Ok(Json(Review::seen_by(review, Some(auth.user_id))))
    }

    /// Report a review
    ///
    /// To the moderators; once, and not your own: 409 `already_reported`, 409 `own_review`.
    #[oai(path = "/reviews/:review_id/report", method = "post", operation_id = "report_review")]
    pub(crate) async fn report(
        &self,
        auth: Auth,
        /// The review
        review_id: Path<Uuid>,
        body: JsonBody<NewReport>,
    ) -> ApiResult<NoContent> {
        let reason = reviews::ReportReason::from(body.reason);
        let details = body.details.as_deref().map(str::trim).unwrap_or_default();
        let least = usize::from(reason == reviews::ReportReason::Other);
        Checks::new().text("details", details, least, 1_000).finish()?;
        let report = Report {
            reason,
            details: Some(details.to_owned()).filter(|details| !details.is_empty()),
        };
        let mut tx = self.0.db.begin().await?;
        reviews::report(&mut tx, auth.user_id, review_id.0, &report).await?;
        tx.commit().await?;
        Ok(NoContent::Done)
    }
}

/// What lists are ordered by.
pub(crate) type Key = (i16, DateTime<Utc>, Uuid);

/// The key of a review.
pub(crate) fn key(row: &Row) -> Key {
    (row.stars.overall, row.shown_at, row.id)
}

/// What a list shows, for a page.
///
/// # Errors
/// 400 `invalid_parameter`, 422 `validation_failed`, 503 without Postgres.
pub(crate) async fn find(state: &AppState, mut filter: Filter, page: &PageRequest<Key>) -> ApiResult<Vec<Row>> {
    let by_person = filter.author_id.is_some() || filter.subject_id.is_some();
    let narrowed = filter.property_id.is_some() || by_person;
    if filter.overall.is_some_and(|stars| !(1..=5).contains(&stars)) {
        let error = FieldError::new("rating", "must be 1 to 5");
        return Err(ApiError::bad_request("invalid_parameter", "").with_errors(vec![error]));
    }
    if filter.property_id.is_some() && !by_person && filter.side.is_none() {
        filter.side = Some(reviews::Side::Guest);
    }
    Checks::new()
        .field(
            "sort",
            filter.order == reviews::Order::Newest || narrowed,
            "must be newest without property_id, author_id or subject_id",
        )
        .finish()?;
    filter.after = page.after().map(|(overall, shown_at, id)| Position {
        overall: *overall,
        shown_at: *shown_at,
        id: *id,
    });
    let mut conn = state.db.pool().acquire().await?;
    Ok(reviews::list(&mut conn, &filter, page.fetch()).await?)
}

fn newest() -> ReviewOrder {
    ReviewOrder::Newest
}
