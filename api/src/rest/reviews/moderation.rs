//! What moderators do with reviews. `roost-api grant-moderator` makes one.

use async_graphql::{InputObject, SimpleObject};
use chrono::{DateTime, Utc};
use poem::http::Uri;
use poem_openapi::param::{Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};
use roost_shared::db::Retries;
use roost_shared::reviews::{self, OpenReport, ReportFilter, ReportPosition, ReviewError};
use uuid::Uuid;

use super::objects::{NewReport, ReportReason, Review};
use crate::auth::Auth;
use crate::body::JsonBody;
use crate::error::{ApiError, ApiResult};
use crate::page::{PageRequest, Paged};
use crate::rest::Tag;
use crate::rest::users::NoContent;
use crate::state::AppState;
use crate::validate::Checks;

/// Operations of moderators.
pub struct ModerationApi(pub AppState);

/// Why a moderator decides so.
#[derive(Clone, Debug, Object, InputObject)]
#[oai(deny_unknown_fields, example)]
pub struct DecisionReason {
    /// 1 to 500 characters; the author of a review that is hidden or shown again reads it
    #[oai(validator(min_length = 1, max_length = 500))]
    pub reason: String,
}

impl Example for DecisionReason {
    fn example() -> Self {
        Self {
            reason: "It tells the code of the front door.".to_owned(),
        }
    }
}

impl DecisionReason {
    fn checked(&self) -> ApiResult<&str> {
        Checks::new().text("reason", &self.reason, 1, 500).finish()?;
        Ok(self.reason.trim())
    }
}

/// A complaint that nobody has decided about.
#[derive(Clone, Debug, Object, SimpleObject)]
#[oai(example)]
pub struct ReviewReport {
    /// Who complains
    pub reporter_id: Uuid,
    /// Of what kind
    pub reason: ReportReason,
    /// In words: plain text, escape it where markup is read
    pub details: Option<String>,
    /// When
    pub reported_at: DateTime<Utc>,
    /// What it is about
    pub review: Review,
}

impl Example for ReviewReport {
    fn example() -> Self {
        Self {
            reporter_id: Uuid::from_u128(0x019a_b6c8_6f5e_7c3a_9d0e_2f4f_1f6f_0a11),
            reason: NewReport::example().reason,
            details: NewReport::example().details,
            reported_at: DateTime::UNIX_EPOCH + chrono::Duration::days(22_000),
            review: Review::example(),
        }
    }
}

impl ReviewReport {
    pub(crate) fn seen_by(report: OpenReport, moderator_id: Uuid) -> Self {
        Self {
            reporter_id: report.reporter_id,
            reason: report.reason.into(),
            details: report.details,
            reported_at: report.reported_at,
            review: Review::seen_by(report.review, Some(moderator_id)),
        }
    }
}

/// What the list is ordered by.
pub(crate) type Key = (DateTime<Utc>, Uuid, Uuid);

/// The key of a report.
pub(crate) fn key(row: &OpenReport) -> Key {
    (row.reported_at, row.review.id, row.reporter_id)
}

/// What the list shows, for a page.
///
/// # Errors
/// 404 `not_found` for those who are no moderators, 503 without Postgres.
pub(crate) async fn find(
    state: &AppState,
    auth: &Auth,
    reason: Option<ReportReason>,
    review_id: Option<Uuid>,
    page: &PageRequest<Key>,
) -> ApiResult<Vec<OpenReport>> {
    let filter = ReportFilter {
        reason: reason.map(reviews::ReportReason::from),
        review_id,
        after: page
            .after()
            .map(|(reported_at, review_id, reporter_id)| ReportPosition {
                reported_at: *reported_at,
                review_id: *review_id,
                reporter_id: *reporter_id,
            }),
    };
    let mut conn = state.db.pool().acquire().await?;
    match reviews::open_reports(&mut conn, auth.user_id, &filter, page.fetch()).await {
        Err(ReviewError::NotModerator) => Err(ApiError::not_found("list")),
        found => Ok(found?),
    }
}

/// What a moderator may decide about a review's visibility.
#[derive(Clone, Copy)]
enum Visibility {
    Hidden,
    Shown,
}

#[OpenApi(tag = "Tag::Reviews")]
impl ModerationApi {
    /// List open reports
    ///
    /// For moderators, to others there is no such list: 404. The oldest first. A report is open until a moderator
    /// hides its review, shows it again, or dismisses its reports.
    #[oai(path = "/reviews/reports", method = "get", operation_id = "list_review_reports")]
    async fn reports(
        &self,
        auth: Auth,
        /// Of this kind
        reason: Query<Option<ReportReason>>,
        /// Of this review
        review_id: Query<Option<Uuid>>,
        /// How many at most
        #[oai(
            default = "crate::page::default_limit",
            validator(minimum(value = "1"), maximum(value = "100"))
        )]
        limit: Query<u16>,
        /// `next_cursor` of the page before
        cursor: Query<Option<String>>,
        uri: &Uri,
    ) -> ApiResult<Paged<ReviewReport>> {
        let page = PageRequest::<Key>::new(limit.0, cursor.0.as_deref(), uri)?;
        let found = find(&self.0, &auth, reason.0, review_id.0, &page).await?;
        Ok(page.reply(found, key, |row| ReviewReport::seen_by(row, auth.user_id)))
    }

    /// Dismiss the reports of a review
    ///
    /// For moderators, but not the review's author or whom it is about (403 `own_case`). The review stays as it is, and its
    /// reports are no longer open.
    #[oai(
        path = "/reviews/:review_id/reports/dismiss",
        method = "post",
        operation_id = "dismiss_review_reports"
    )]
    pub(crate) async fn dismiss(
        &self,
        auth: Auth,
        /// The review
        review_id: Path<Uuid>,
        body: JsonBody<DecisionReason>,
    ) -> ApiResult<NoContent> {
        let reason = body.checked()?;
        let mut tx = self.0.db.begin().await?;
        reviews::dismiss_reports(&mut tx, auth.user_id, review_id.0, reason).await?;
        tx.commit().await?;
        Ok(NoContent::Done)
    }

    /// Hide a review
    ///
    /// For moderators, but not the review's author or whom it is about (403 `own_case`). The review is gone for everybody but
    /// its author and moderators, its stars count no longer, and its reports are no longer open. Its author is told, with the
    /// reason.
    #[oai(path = "/reviews/:review_id/hide", method = "post", operation_id = "hide_review")]
    pub(crate) async fn hide(
        &self,
        auth: Auth,
        /// The review
        review_id: Path<Uuid>,
        body: JsonBody<DecisionReason>,
    ) -> ApiResult<Json<Review>> {
        self.decide(&auth, review_id.0, body.checked()?, Visibility::Hidden)
            .await
    }

    /// Show a hidden review again
    ///
    /// For moderators, but not the review's author or whom it is about (403 `own_case`); to others a hidden review is not there:
    /// 404. Its stars count again, and its author is told, with the reason.
    #[oai(path = "/reviews/:review_id/unhide", method = "post", operation_id = "unhide_review")]
    pub(crate) async fn unhide(
        &self,
        auth: Auth,
        /// The review
        review_id: Path<Uuid>,
        body: JsonBody<DecisionReason>,
    ) -> ApiResult<Json<Review>> {
        self.decide(&auth, review_id.0, body.checked()?, Visibility::Shown)
            .await
    }
}

impl ModerationApi {
    async fn decide(&self, auth: &Auth, review_id: Uuid, reason: &str, wanted: Visibility) -> ApiResult<Json<Review>> {
        let mut retries = Retries::default();
        loop {
            let mut tx = self.0.db.begin().await?;
            let decided = match wanted {
                Visibility::Hidden => reviews::hide(&mut tx, auth.user_id, review_id, reason).await,
                Visibility::Shown => reviews::unhide(&mut tx, auth.user_id, review_id, reason).await,
            };
            match decided {
                Ok(review) => {
                    tx.commit().await?;
                    return Ok(Json(Review::seen_by(review, Some(auth.user_id))));
                }
                Err(ReviewError::Database(error)) if retries.again(&error).await => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
