//! Properties: listing, finding, changing and archiving them.

pub(crate) mod input;
mod limits;
pub(crate) mod search;
pub(crate) mod view;

use bytes::Bytes;
use chrono::NaiveDate;
use poem::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use poem::{IntoResponse, Response};
use poem_openapi::param::{Header, Path, Query};
use poem_openapi::registry::{MetaHeader, MetaMediaType, MetaResponse, MetaResponses, Registry};
use poem_openapi::types::{ParseFromJSON, Type};
use poem_openapi::{ApiResponse, OpenApi};
use roost_shared::bookings;
use roost_shared::properties::rules::Violation;
use roost_shared::properties::{self, Property, PropertyError, public_json};
use uuid::Uuid;

use self::input::{NewProperty, PropertyPatch};
use self::search::SearchQuery;
use self::view::PropertyView;
use super::Tag;
use super::several::Several;
use super::users::NoContent;
use crate::auth::{Auth, MaybeAuth};
use crate::body::JsonBody;
use crate::error::{ApiError, ApiResult};
use crate::etag;
use crate::idempotency::{Begun, Created, Idempotency};
use crate::page::{self, PageRequest, Paged};
use crate::problem::FieldError;
use crate::state::AppState;

pub(crate) use self::limits::state_limits;
pub use self::view::{CancellationPolicy, PropertyStatus};

/// Operations on properties.
pub struct PropertiesApi(pub AppState);

#[OpenApi(tag = "Tag::Properties")]
impl PropertiesApi {
    /// List a property
    ///
    /// Makes a property of yours, a draft unless `status` says `listed`. Only hosts do this.
    #[oai(path = "/properties", method = "post", operation_id = "create_property")]
    pub(crate) async fn create(
        &self,
        auth: Auth,
        idempotency: Idempotency,
        body: JsonBody<NewProperty>,
    ) -> ApiResult<Created<PropertyView>> {
        let raw = body.raw().clone();
        let details = body.into_inner().into_details().map_err(PropertyError::Invalid)?;
        let mut work = match idempotency.begin(&self.0, &auth.scope(), &raw).await? {
            Begun::Replay(stored) => return Ok(stored.into()),
            Begun::Work(work) => work,
        };
        let property = properties::create(work.tx(), auth.user_id, details).await?;
        let location = format!("/properties/{}", property.id);
        let tag = etag::of(property.version);
        work.tagged(&tag)
            .created(&location, &PropertyView::from(property))
            .await
    }

    /// Find properties
    ///
    /// Those that are listed and fit every filter, the best rated first, then by id. With `check_in` and `check_out`,
    /// only those that take a stay of this length and have these nights free. With `mine=true`, all of your own,
    /// drafts and archived ones as well.
    #[allow(clippy::too_many_arguments, reason = "each is a parameter of the query")]
    #[oai(path = "/properties", method = "get", operation_id = "list_properties")]
    async fn list(
        &self,
        auth: MaybeAuth,
        uri: &Uri,
        /// In this city; upper and lower case are the same
        #[oai(validator(max_length = 200))]
        city: Query<Option<String>>,
        /// In this country: an upper-case ISO 3166-1 alpha-2 code
        country: Query<Option<String>>,
        /// Free from this day; with `check_out`
        check_in: Query<Option<NaiveDate>>,
        /// Free until this day; with `check_in`
        check_out: Query<Option<NaiveDate>>,
        /// For so many people
        guests: Query<Option<i32>>,
        /// Let in this currency: an ISO 4217 code
        currency: Query<Option<String>>,
        /// A night costs so much or more, in minor units of the property's currency
        min_price: Query<Option<i64>>,
        /// A night costs so much or less, in minor units of the property's currency
        max_price: Query<Option<i64>>,
        /// So many bedrooms or more
        bedrooms: Query<Option<i32>>,
        /// With all of these amenities
        amenities: Query<Several<String>>,
        /// Whether a booking is confirmed without the host's approval
        instant_book: Query<Option<bool>>,
        /// Of this host
        host_id: Query<Option<Uuid>>,
        /// `true`: all of your own, drafts and archived ones as well; needs an access token
        #[oai(default)]
        mine: Query<bool>,
        /// How many at most
        #[oai(
            default = "page::default_limit",
            validator(minimum(value = "1"), maximum(value = "100"))
        )]
        limit: Query<u16>,
        /// `next_cursor` of the page before
        cursor: Query<Option<String>>,
    ) -> ApiResult<Paged<PropertyView>> {
        let page = PageRequest::<(i32, Uuid)>::new(limit.0, cursor.0.as_deref(), uri)?;
        let host_id = match (mine.0, auth.user_id()) {
            (true, None) => return Err(ApiError::unauthorized("unauthorized", "Sign in to see your own.", None)),
            (true, own) => own,
            (false, _) => host_id.0,
        };
        let query = SearchQuery {
            city: city.0,
            country: country.0,
            check_in: check_in.0,
            check_out: check_out.0,
            guests: guests.0,
            currency: currency.0,
            min_price: min_price.0,
            max_price: max_price.0,
            bedrooms: bedrooms.0,
            amenities: amenities.0.into_iter().collect(),
            instant_book: instant_book.0,
            host_id,
            mine: mine.0,
        };
        let found = query.find(&self.0, &page).await?;
        let key = |property: &Property| (property.rating_hundredths, property.id);
        Ok(page.reply(found, key, PropertyView::from))
    }

    /// Show a property
    ///
    /// A draft or an archived property is shown to its host and to guests who booked it only. `If-None-Match` with the `ETag` of an earlier reply
    /// is answered with 304 and no body while nothing has changed.
    #[oai(path = "/properties/:property_id", method = "get", operation_id = "get_property")]
    async fn show(
        &self,
        auth: MaybeAuth,
        /// The property
        property_id: Path<Uuid>,
        /// The `ETag` of an earlier reply
        #[oai(name = "If-None-Match")]
        if_none_match: Header<Option<String>>,
    ) -> ApiResult<Conditional> {
        let known = |version| etag::is_known(if_none_match.0.as_deref(), version);
        if let Some(shown) = self.0.properties.get(property_id.0).await? {
            return Ok(if known(shown.version) {
                Conditional::NotModified {
                    etag: shown.etag.clone(),
                    cache_control: PUBLIC,
                }
            } else {
                Conditional::Shown(Document {
                    json: shown.json.clone(),
                    etag: shown.etag.clone(),
                    cache_control: PUBLIC,
                })
            });
        }
        let Some(user_id) = auth.user_id() else {
            return Err(ApiError::not_found("property"));
        };
        let mut conn = self.0.db.pool().acquire().await?;
        let property = properties::get(&mut conn, property_id.0)
            .await?
            .ok_or_else(|| ApiError::not_found("property"))?;
        let visible =
            property.is_visible_to(Some(user_id)) || bookings::has_booked(&mut conn, user_id, property.id).await?;
        drop(conn);
        if !visible {
            return Err(ApiError::not_found("property"));
        }
        if known(property.version) {
            return Ok(Conditional::NotModified {
                etag: etag::of(property.version),
                cache_control: PRIVATE,
            });
        }
        Document::of(&property).map(Conditional::Shown)
    }

    /// Change a property
    ///
    /// A JSON merge patch (RFC 7396): what is left out stays, `null` sets a field back to its default where it has
    /// one. Bookings keep the price, policy and times they were made with. With `If-Match`, the change is refused (412)
    /// unless the property is still at the version you read.
    #[oai(
        path = "/properties/:property_id",
        method = "patch",
        operation_id = "update_property"
    )]
    pub(crate) async fn update(
        &self,
        auth: Auth,
        /// The property
        property_id: Path<Uuid>,
        /// The `ETag` of the version that you read
        #[oai(name = "If-Match")]
        _if_match: Header<Option<String>>,
        headers: &HeaderMap,
        body: JsonBody<PropertyPatch>,
    ) -> ApiResult<Document> {
        let patch = body.into_inner();
        let expected = etag::expected(headers);
        let mut tx = self.0.db.begin().await?;
        let change = |current| {
            let mut wanted = NewProperty::from(current);
            let mut found: Vec<_> = patch
                .apply(&mut wanted)
                .into_iter()
                .map(|field| Violation::new(field, "must not be null"))
                .collect();
            match wanted.into_details() {
                Ok(details) if found.is_empty() => return Ok(details),
                Ok(_) => {}
                Err(more) => found.extend(more),
            }
            Err(found)
        };
        let property = properties::update(&mut tx, auth.user_id, property_id.0, expected.as_deref(), change).await?;
        tx.commit().await?;
        self.0.properties.changed(property.id, property.version).await;
        Document::of(&property)
    }

    /// Archive a property
    ///
    /// Takes it off the market for good; past bookings keep it. Refused (409 `future_bookings`) while bookings with
    /// nights to come stand.
    #[oai(
        path = "/properties/:property_id",
        method = "delete",
        operation_id = "archive_property"
    )]
    pub(crate) async fn archive(
        &self,
        auth: Auth,
        /// The property
        property_id: Path<Uuid>,
        /// The `ETag` of the version that you read
        #[oai(name = "If-Match")]
        _if_match: Header<Option<String>>,
        headers: &HeaderMap,
    ) -> ApiResult<NoContent> {
        let expected = etag::expected(headers);
        let mut tx = self.0.db.begin().await?;
        let property = properties::archive(&mut tx, auth.user_id, property_id.0, expected.as_deref()).await?;
        tx.commit().await?;
        self.0.properties.changed(property.id, property.version).await;
        Ok(NoContent::Done)
    }
}

impl From<PropertyError> for ApiError {
    fn from(error: PropertyError) -> Self {
        match error {
            PropertyError::NoSuchProperty => Self::not_found("property"),
            PropertyError::NotAHost => Self::forbidden("Only an account with the role host lists properties."),
            PropertyError::AccountDeleted => Self::account_deleted(),
            PropertyError::NotYours => Self::forbidden("Only the host of a property may change it."),
            PropertyError::VersionConflict { current } => Self::precondition_failed(format!(
                "The property was changed meanwhile: it is at version {current}. Read it again."
            )),
            PropertyError::Archived => {
                Self::conflict("property_archived", "An archived property cannot be changed.")
            }
            PropertyError::FutureBookings { count, next } => Self::conflict(
                "future_bookings",
                format!("Bookings with nights to come stand: {count}, the next from {next}. Cancel them first, or let them end."),
            )
            .with_member("count", count.into())
            .with_member("next_check_in", next.to_string().into()),
            PropertyError::Invalid(violations) => Self::invalid(
                violations
                    .into_iter()
                    .map(|violation| FieldError::new(violation.field, violation.message))
                    .collect(),
            ),
            PropertyError::Database(error) => error.into(),
        }
    }
}

/// Everybody may keep it, and asks each time whether it is still good.
const PUBLIC: HeaderValue = HeaderValue::from_static("public, no-cache");
/// Only the host and those who booked it see it.
const PRIVATE: HeaderValue = HeaderValue::from_static("private, no-cache");

/// A property as it was rendered, for the cache or just now.
#[derive(Debug)]
pub struct Document {
    json: Bytes,
    etag: HeaderValue,
    cache_control: HeaderValue,
}

impl Document {
    /// What it says.
    ///
    /// # Errors
    /// It is not a property, which does not happen.
    pub(crate) fn view(&self) -> ApiResult<PropertyView> {
        let json = serde_json::from_slice(&self.json).map_err(ApiError::internal)?;
        PropertyView::parse_from_json(Some(json)).map_err(|error| ApiError::internal(error.message()))
    }

    fn of(property: &Property) -> ApiResult<Self> {
        Ok(Self {
            json: public_json(property).map_err(ApiError::internal)?,
            etag: etag::of(property.version),
            cache_control: if property.is_public() { PUBLIC } else { PRIVATE },
        })
    }
}

impl IntoResponse for Document {
    fn into_response(self) -> Response {
        let mut response = Response::builder().body(self.json);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CACHE_CONTROL, self.cache_control);
        headers.insert(header::ETAG, self.etag);
        response
    }
}

impl ApiResponse for Document {
    fn meta() -> MetaResponses {
        MetaResponses {
            responses: vec![MetaResponse {
                description: "The property",
                status: Some(200),
                status_range: None,
                content: vec![MetaMediaType {
                    content_type: "application/json",
                    schema: PropertyView::schema_ref(),
                }],
                headers: vec![etag_header()],
            }],
        }
    }

    fn register(registry: &mut Registry) {
        PropertyView::register(registry);
    }
}

fn etag_header() -> MetaHeader {
    MetaHeader {
        name: "ETAG".to_owned(),
        description: Some("The version, for `If-Match` and `If-None-Match`".to_owned()),
        required: true,
        deprecated: false,
        schema: String::schema_ref(),
    }
}

/// The property, unless the client has it already.
#[derive(Debug)]
pub enum Conditional {
    /// Something the client does not have.
    Shown(Document),
    /// What the client has is still good.
    NotModified {
        /// Its tag.
        etag: HeaderValue,
        /// Who may keep it.
        cache_control: HeaderValue,
    },
}

impl IntoResponse for Conditional {
    fn into_response(self) -> Response {
        match self {
            Self::Shown(document) => document.into_response(),
            Self::NotModified { etag, cache_control } => {
                let mut response = StatusCode::NOT_MODIFIED.into_response();
                response.headers_mut().insert(header::CACHE_CONTROL, cache_control);
                response.headers_mut().insert(header::ETAG, etag);
                response
            }
        }
    }
}

impl ApiResponse for Conditional {
    fn meta() -> MetaResponses {
        let mut meta = Document::meta();
        meta.responses.push(MetaResponse {
            description: "Not changed since the version in If-None-Match",
            status: Some(304),
            status_range: None,
            content: Vec::new(),
            headers: vec![etag_header()],
        });
        meta
    }

    fn register(registry: &mut Registry) {
        Document::register(registry);
    }
}
