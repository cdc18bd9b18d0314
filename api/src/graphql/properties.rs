//! Properties in GraphQL.

use async_graphql::{ComplexObject, Context, Object, Result};
use chrono::NaiveDate;
use futures::FutureExt;
use poem::http::{HeaderMap, header};
use poem_openapi::param::{Header, Path};
use roost_shared::properties::Property;
use uuid::Uuid;

use super::caller::{app, auth, identity, rows, viewer};
use super::connection::{Page, cost, page, replayed};
use super::input::Input;
use super::limits::CHANGE;
use super::loaders::{PropertyId, forget};
use super::users::public_profile;
use crate::error::ApiError;
use crate::etag;
use crate::idempotency::Idempotency;
use crate::page::PageRequest;
use crate::rest::properties::PropertiesApi;
use crate::rest::properties::input::{NewProperty, PropertyPatch};
use crate::rest::properties::search::SearchQuery;
use crate::rest::properties::view::PropertyView;
use crate::rest::users::PublicProfile;

/// What can be read of properties.
#[derive(Default)]
pub struct PropertyQueries;

/// What can be done with properties.
#[derive(Default)]
pub struct PropertyMutations;

#[ComplexObject]
impl PropertyView {
    /// Who lets it; null once the account is deleted
    async fn host(&self, ctx: &Context<'_>) -> Result<Option<PublicProfile>> {
        public_profile(ctx, self.host_id).await
    }
}

#[Object]
impl PropertyQueries {
    /// Find properties: those that are listed and fit every filter, the best rated first. With `checkIn` and
    /// `checkOut`, only those that have these nights free
    #[allow(clippy::too_many_arguments, reason = "each is an argument of the field")]
    #[graphql(complexity = "cost(first, child_complexity)")]
    async fn properties(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "In this city; upper and lower case are the same")] city: Option<String>,
        #[graphql(desc = "In this country: an upper-case ISO 3166-1 alpha-2 code")] country: Option<String>,
        #[graphql(desc = "Free from this day; with checkOut")] check_in: Option<NaiveDate>,
        #[graphql(desc = "Free until this day; with checkIn")] check_out: Option<NaiveDate>,
        #[graphql(desc = "For so many people")] guests: Option<i32>,
        #[graphql(desc = "Let in this currency: an ISO 4217 code")] currency: Option<String>,
        #[graphql(desc = "A night costs so much or more, in minor units")] min_price: Option<i64>,
        #[graphql(desc = "A night costs so much or less, in minor units")] max_price: Option<i64>,
        #[graphql(desc = "So many bedrooms or more")] bedrooms: Option<i32>,
        #[graphql(desc = "With all of these amenities")] amenities: Option<Vec<String>>,
        #[graphql(desc = "Whether a booking is confirmed without the host's approval")] instant_book: Option<bool>,
        #[graphql(desc = "Of this host")] host_id: Option<Uuid>,
        #[graphql(
            default,
            desc = "All of your own, drafts and archived ones as well; needs an access token"
        )]
        mine: bool,
        #[graphql(default = 20, desc = "How many at most: 1 to 100")] first: i32,
        #[graphql(desc = "The cursor of the last item of the page before")] after: Option<String>,
    ) -> Result<Page<PropertyView>> {
        let request = PageRequest::<(i32, Uuid)>::of_connection(first, after.as_deref())?;
        let query = SearchQuery {
            city,
            country,
            check_in,
            check_out,
            guests,
            currency,
            min_price,
            max_price,
            bedrooms,
            amenities: amenities.unwrap_or_default(),
            instant_book,
            host_id: if mine { Some(identity(ctx)?.user_id) } else { host_id },
            mine,
        };
        let found = query.find(app(ctx)?, &request).boxed().await?;
        let key = |property: &Property| (property.rating_hundredths, property.id);
        Ok(page(&request, found, key, PropertyView::from))
    }

    /// A property. A draft or an archived one is shown to its host only
    async fn property(&self, ctx: &Context<'_>, id: Uuid) -> Option<Result<PropertyView>> {
        let read = async {
            let property = seen(ctx, id).boxed().await?;
            Ok(property.ok_or_else(|| ApiError::not_found("property"))?)
        };
        Some(read.boxed().await)
    }
}

#[Object]
impl PropertyMutations {
    /// List a property of yours, a draft unless `status` says `LISTED`. Only hosts do this
    #[graphql(complexity = "CHANGE + child_complexity")]
    async fn create_property(
        &self,
        ctx: &Context<'_>,
        input: Input<NewProperty>,
        #[graphql(desc = "The same key gets the first reply again, for 24 hours")] idempotency_key: Option<String>,
    ) -> Result<PropertyView> {
        let idempotency = Idempotency::of_operation(idempotency_key.as_deref(), "createProperty")?;
        let properties = PropertiesApi(app(ctx)?.clone());
        replayed(
            ctx,
            properties
                .create(auth(ctx)?, idempotency, input.into_body())
                .boxed()
                .await?,
        )
    }

    /// Change a property. What is left out stays, null sets a field back to its default where it has one
    #[graphql(complexity = "CHANGE + child_complexity")]
    async fn update_property(
        &self,
        ctx: &Context<'_>,
        id: Uuid,
        #[graphql(desc = "Refuse (`version_mismatch`) unless the property is still at this version")]
        if_version: Option<i32>,
        input: Input<PropertyPatch>,
    ) -> Result<PropertyView> {
        forget(ctx)?;
        let properties = PropertiesApi(app(ctx)?.clone());
        let headers = if_match(if_version);
        let changed = properties
            .update(auth(ctx)?, Path(id), Header(None), &headers, input.into_body())
            .boxed()
            .await?;
        Ok(changed.view()?)
    }

    /// Archive a property: takes it off the market for good. Refused (`future_bookings`) while bookings with nights to
    /// come stand
    #[graphql(complexity = "CHANGE + child_complexity")]
    async fn archive_property(
        &self,
        ctx: &Context<'_>,
        id: Uuid,
        #[graphql(desc = "Refuse (`version_mismatch`) unless the property is still at this version")]
        if_version: Option<i32>,
    ) -> Result<bool> {
        forget(ctx)?;
        let properties = PropertiesApi(app(ctx)?.clone());
        properties
            .archive(auth(ctx)?, Path(id), Header(None), &if_match(if_version))
            .boxed()
            .await?;
        Ok(true)
    }
}

/// The property, if the caller may see it.
pub async fn seen(ctx: &Context<'_>, id: Uuid) -> Result<Option<PropertyView>> {
    let user_id = viewer(ctx)?.map(|identity| identity.user_id);
    let property = rows(ctx)?.load_one(PropertyId(id)).boxed().await?;
    let property = property.filter(|property: &Property| property.is_visible_to(user_id));
    Ok(property.map(PropertyView::from))
}

/// The version as `If-Match` has it.
fn if_match(version: Option<i32>) -> HeaderMap {
    version
        .map(|version| (header::IF_MATCH, etag::of(version)))
        .into_iter()
        .collect()
}
