//! Reviews in GraphQL.

use async_graphql::{Context, Object, Result};
use futures::FutureExt;
use poem_openapi::param::{Path, Query};
use roost_shared::reviews::{self, Filter};
use uuid::Uuid;

use super::caller::{app, auth, maybe_auth, viewer};
use super::connection::{Page, cost, page, replayed};
use super::input::Input;
use super::limits::CHANGE;
use super::loaders::forget;
use crate::idempotency::Idempotency;
use crate::page::PageRequest;
use crate::rest::reviews::moderation::{self, DecisionReason, ModerationApi, ReviewReport};
use crate::rest::reviews::objects::{
    NewAnswer, NewReport, NewReview, RatingSummary, ReportReason, Review, ReviewOrder, ReviewPatch, ReviewSide,
};
use crate::rest::reviews::{Key, ReviewsApi, find, key};

/// What can be read of reviews.
#[derive(Default)]
pub struct ReviewQueries;

/// What can be done with reviews.
#[derive(Default)]
pub struct ReviewMutations;

#[Object]
impl ReviewQueries {
    /// List reviews: what is public; with your own `authorId` also what you wrote and is not. What hosts wrote about
    /// guests is shown to those who are signed in. `propertyId` alone lists what guests wrote of the property: with `side` also
    /// what its host wrote
    #[allow(clippy::too_many_arguments, reason = "each is an argument of the field")]
    #[graphql(complexity = "cost(first, child_complexity)")]
    async fn reviews(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Of stays in this property")] property_id: Option<Uuid>,
        #[graphql(desc = "Written by this user")] author_id: Option<Uuid>,
        #[graphql(desc = "About this user: a host, or a guest")] subject_id: Option<Uuid>,
        #[graphql(desc = "Written by this side")] side: Option<ReviewSide>,
        #[graphql(desc = "With so many stars: 1 to 5")] rating: Option<i16>,
        #[graphql(
            default_with = "ReviewOrder::Newest",
            desc = "In which order; other than NEWEST only with propertyId, authorId or subjectId"
        )]
        sort: ReviewOrder,
        #[graphql(default = 20, desc = "How many at most: 1 to 100")] first: i32,
        #[graphql(desc = "The cursor of the last item of the page before")] after: Option<String>,
    ) -> Result<Page<Review>> {
        let request = PageRequest::<Key>::of_connection(first, after.as_deref())?;
        let viewer_id = viewer(ctx)?.map(|identity| identity.user_id);
        let filter = Filter {
            viewer_id,
            property_id,
            author_id,
            subject_id,
            side: side.map(reviews::Side::from),
            overall: rating,
            order: sort.into(),
            after: None,
        };
        let found = find(app(ctx)?, filter, &request).boxed().await?;
        Ok(page(&request, found, key, |row| Review::seen_by(row, viewer_id)))
    }

    /// A review that is public, or your own
    async fn review(&self, ctx: &Context<'_>, id: Uuid) -> Option<Result<Review>> {
        let read = async {
            let reviews = ReviewsApi(app(ctx)?.clone());
            Ok(reviews.get(maybe_auth(ctx)?, Path(id)).boxed().await?.0)
        };
        Some(read.boxed().await)
    }

    /// List the open reports of reviews, for moderators: the oldest first
    #[graphql(complexity = "cost(first, child_complexity)")]
    async fn review_reports(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Of this kind")] reason: Option<ReportReason>,
        #[graphql(desc = "Of this review")] review_id: Option<Uuid>,
        #[graphql(default = 20, desc = "How many at most: 1 to 100")] first: i32,
        #[graphql(desc = "The cursor of the last item of the page before")] after: Option<String>,
    ) -> Result<Page<ReviewReport>> {
        let request = PageRequest::<moderation::Key>::of_connection(first, after.as_deref())?;
        let auth = auth(ctx)?;
        let found = moderation::find(app(ctx)?, &auth, reason, review_id, &request)
            .boxed()
            .await?;
        Ok(page(&request, found, moderation::key, |row| {
            ReviewReport::seen_by(row, auth.user_id)
        }))
    }

    /// Sum up ratings of a property, of a host over all properties, or of a guest (for those who are signed in): exactly
    /// one of the three arguments. Null with the error `not_found` of what is not there
    async fn rating_summary(
        &self,
        ctx: &Context<'_>,
        property_id: Option<Uuid>,
        host_id: Option<Uuid>,
        guest_id: Option<Uuid>,
    ) -> Option<Result<RatingSummary>> {
        let read = async {
            let reviews = ReviewsApi(app(ctx)?.clone());
            let summary = reviews.summary(maybe_auth(ctx)?, Query(property_id), Query(host_id), Query(guest_id));
            Ok(summary.boxed().await?.0)
        };
        Some(read.boxed().await)
    }
}

#[Object]
impl ReviewMutations {
    /// Write a review, for guest and host of a booking that is `CHECKED_OUT`, once a side, for 14 days. Refusals of its
    /// own: `wrong_state`, `review_window_closed`, `already_reviewed`
    #[graphql(complexity = "CHANGE + child_complexity")]
    async fn create_review(
        &self,
        ctx: &Context<'_>,
        input: Input<NewReview>,
        #[graphql(desc = "The same key gets the first reply again, for 24 hours")] idempotency_key: Option<String>,
    ) -> Result<Review> {
        let idempotency = Idempotency::of_operation(idempotency_key.as_deref(), "createReview")?;
        let reviews = acting(ctx)?;
        replayed(
            ctx,
            reviews
                .create(auth(ctx)?, idempotency, input.into_body())
                .boxed()
                .await?,
        )
    }

    /// Change a review of yours before it is published
    #[graphql(complexity = "CHANGE + child_complexity")]
    async fn update_review(&self, ctx: &Context<'_>, id: Uuid, input: Input<ReviewPatch>) -> Result<Review> {
        Ok(acting(ctx)?
            .edit(auth(ctx)?, Path(id), input.into_body())
            .boxed()
            .await?
            .0)
    }

    /// Take a review of yours back before it is published
    #[graphql(complexity = "CHANGE + child_complexity")]
    async fn delete_review(&self, ctx: &Context<'_>, id: Uuid) -> Result<bool> {
        acting(ctx)?.delete(auth(ctx)?, Path(id)).boxed().await?;
        Ok(true)
    }

    /// Answer a review, for the host whom a guest reviewed, once
    #[graphql(complexity = "CHANGE + child_complexity")]
    async fn answer_review(&self, ctx: &Context<'_>, id: Uuid, input: Input<NewAnswer>) -> Result<Review> {
        Ok(acting(ctx)?
            .answer(auth(ctx)?, Path(id), input.into_body())
            .boxed()
            .await?
            .0)
    }

    /// Report a review to the moderators, once, and not your own
    #[graphql(complexity = "CHANGE + child_complexity")]
    async fn report_review(&self, ctx: &Context<'_>, id: Uuid, input: Input<NewReport>) -> Result<bool> {
        acting(ctx)?
            .report(auth(ctx)?, Path(id), input.into_body())
            .boxed()
            .await?;
        Ok(true)
    }

    /// Hide a review, for moderators. Its author is told, with the reason
    #[graphql(complexity = "CHANGE + child_complexity")]
    async fn hide_review(&self, ctx: &Context<'_>, id: Uuid, input: Input<DecisionReason>) -> Result<Review> {
        Ok(moderating(ctx)?
            .hide(auth(ctx)?, Path(id), input.into_body())
            .boxed()
            .await?
            .0)
    }

    /// Show a hidden review again, for moderators. Its author is told, with the reason
    #[graphql(complexity = "CHANGE + child_complexity")]
    async fn unhide_review(&self, ctx: &Context<'_>, id: Uuid, input: Input<DecisionReason>) -> Result<Review> {
        Ok(moderating(ctx)?
            .unhide(auth(ctx)?, Path(id), input.into_body())
            .boxed()
            .await?
            .0)
    }

    /// Dismiss the reports of a review, for moderators
    #[graphql(complexity = "CHANGE + child_complexity")]
    async fn dismiss_review_reports(&self, ctx: &Context<'_>, id: Uuid, input: Input<DecisionReason>) -> Result<bool> {
        moderating(ctx)?
            .dismiss(auth(ctx)?, Path(id), input.into_body())
            .boxed()
            .await?;
        Ok(true)
    }
}

fn acting(ctx: &Context<'_>) -> Result<ReviewsApi> {
    forget(ctx)?;
    Ok(ReviewsApi(app(ctx)?.clone()))
}

fn moderating(ctx: &Context<'_>) -> Result<ModerationApi> {
    forget(ctx)?;
    Ok(ModerationApi(app(ctx)?.clone()))
}
