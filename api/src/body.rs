//! JSON request bodies. Stricter than plain serde_json: a key given twice, and a NUL that Postgres could not hold,
//! are refused before a handler sees them; and where no body is read, one that says something is.

use std::ops::Deref;

use bytes::Bytes;
use poem::{FromRequest, Request, RequestBody};
use poem_openapi::payload::{Json, ParsePayload, Payload};
use poem_openapi::registry::{MetaMediaType, MetaRequest, MetaSchema, MetaSchemaRef, Registry};
use poem_openapi::types::{ParseFromJSON, ToJSON, Type};
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions};
use serde_json::{Value, json};

use crate::error::{ApiError, ApiResult};
use crate::problem::FieldError;
use crate::{schema, strict_json};

/// The body of a request, parsed as `T`, with the bytes it came as.
#[derive(Debug)]
pub struct JsonBody<T> {
    value: T,
    raw: Bytes,
}

impl<T> JsonBody<T> {
    /// The parsed body.
    pub fn into_inner(self) -> T {
        self.value
    }

    /// A body that came as something else than JSON, under the same rules.
    ///
    /// # Errors
    /// 400 `invalid_body`.
    pub fn of(value: &T) -> ApiResult<Self>
    where
        T: ParseFromJSON + ToJSON + 'static,
    {
        let json = value.to_json().unwrap_or_default();
        let raw = serde_json::to_vec(&json).map_err(ApiError::internal)?.into();
        let value = checked(json)?;
        Ok(Self { value, raw })
    }

    /// The bytes it came as: see [`crate::idempotency::Idempotency::begin`].
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }
}

impl<T> Deref for JsonBody<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<'a, T: ParseFromJSON + 'static> ApiExtractor<'a> for JsonBody<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        T::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        Some(MetaRequest {
            description: None,
            content: vec![MetaMediaType {
                content_type: "application/json",
                schema: T::schema_ref(),
            }],
            required: <Json<T> as ParsePayload>::IS_REQUIRED,
        })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _options: ExtractParamOptions<Self::ParamType>,
    ) -> poem::Result<Self> {
        if !is_json(request.content_type()) {
            return Err(not_json().into());
        }
        let raw = <Bytes as FromRequest>::from_request(request, body).await?;
        let value = checked(parsed(&raw)?)?;
        Ok(Self { value, raw })
    }
}

fn is_json(content_type: Option<&str>) -> bool {
    content_type.is_some_and(Json::<Value>::check_content_type)
}

fn not_json() -> ApiError {
    ApiError::new(
        http::StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media_type",
        "Send the body as Content-Type: application/json.",
    )
}

fn parsed(raw: &[u8]) -> ApiResult<Value> {
    strict_json::parse(raw)
        .map_err(|error| ApiError::bad_request("invalid_json", format!("The body is not usable JSON: {error}.")))
}

/// A body where none is read: there must be none, or `{}`. What a client writes there it means to be heeded.
///
/// # Errors
/// 400 `invalid_body` with the fields, 400 `invalid_json`, 415 `unsupported_media_type`.
pub fn says_nothing(content_type: Option<&str>, raw: &[u8]) -> ApiResult<()> {
    if raw.is_empty() {
        return Ok(());
    }
    if !is_json(content_type) {
        return Err(not_json());
    }
    let violations = schema::violations_of_nothing(&parsed(raw)?);
    if violations.is_empty() {
        return Ok(());
    }
    Err(ApiError::bad_request("invalid_body", "").with_errors(violations))
}

/// The value as a `T`, if the schema and the validators allow it.
fn checked<T: ParseFromJSON + 'static>(value: Value) -> ApiResult<T> {
    let violations = schema::violations::<T>(&value);
    if !violations.is_empty() {
        return Err(ApiError::bad_request("invalid_body", "").with_errors(violations));
    }
    T::parse_from_json(Some(value)).map_err(|error| refused_by_parser(error.message()))
}

/// A body that may be left out: `T` with nothing said then.
#[derive(Debug)]
pub struct OptionalJsonBody<T>(T);

impl<T> OptionalJsonBody<T> {
    /// A body that came as something else than JSON, under the same rules.
    ///
    /// # Errors
    /// 400 `invalid_body`.
    pub fn of(value: &T) -> ApiResult<Self>
    where
        T: ParseFromJSON + ToJSON + 'static,
    {
        JsonBody::of(value).map(|body| Self(body.value))
    }

    /// The parsed body.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<'a, T: ParseFromJSON + Default + 'static> ApiExtractor<'a> for OptionalJsonBody<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        T::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        JsonBody::<T>::request_meta().map(|meta| MetaRequest {
            required: false,
            ..meta
        })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        options: ExtractParamOptions<Self::ParamType>,
    ) -> poem::Result<Self> {
        let raw = <Bytes as FromRequest>::from_request(request, body).await?;
        if raw.is_empty() {
            return Ok(Self(T::default()));
        }
        let mut body = RequestBody::new(raw.into());
        let body: JsonBody<T> = JsonBody::from_request(request, &mut body, options).await?;
        Ok(Self(body.into_inner()))
    }
}

/// The body of a one-click unsubscription, which mail programs send as a form (RFC 8058, 3.2) and the button of our
/// page sends empty. The link says all there is to say, so nothing is read of it.
#[derive(Debug)]
pub struct OneClick;

const FORMS: [&str; 2] = ["application/x-www-form-urlencoded", "multipart/form-data"];

impl<'a> ApiExtractor<'a> for OneClick {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];

    type ParamType = ();
    type ParamRawType = ();

    fn request_meta() -> Option<MetaRequest> {
        let form = || {
            let mut form = MetaSchema::new("object");
            form.properties = vec![("List-Unsubscribe", String::schema_ref())];
            form.additional_properties = Some(Box::new(String::schema_ref()));
            form
        };
        Some(MetaRequest {
            description: Some("As mail programs send it, or nothing"),
            content: FORMS
                .iter()
                .map(|content_type| MetaMediaType {
                    content_type,
                    schema: MetaSchemaRef::Inline(Box::new(form())),
                })
                .collect(),
            required: false,
        })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _options: ExtractParamOptions<Self::ParamType>,
    ) -> poem::Result<Self> {
        let content_type = request.content_type();
        let media_type = content_type.and_then(|kind| kind.split(';').next()).unwrap_or_default();
        if !FORMS.contains(&media_type.trim().to_ascii_lowercase().as_str()) {
            let raw = <Bytes as FromRequest>::from_request(request, body).await?;
            says_nothing(content_type, &raw)?;
        }
        Ok(Self)
    }
}

/// A JSON body that is not parsed: its bytes, for whoever has to check their signature.
#[derive(Debug)]
pub struct RawJson(Bytes);

impl Deref for RawJson {
    type Target = Bytes;

    fn deref(&self) -> &Bytes {
        &self.0
    }
}

impl<'a> ApiExtractor<'a> for RawJson {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];

    type ParamType = ();
    type ParamRawType = ();

    fn request_meta() -> Option<MetaRequest> {
        Some(MetaRequest {
            description: None,
            content: vec![MetaMediaType {
                content_type: "application/json",
                schema: MetaSchemaRef::Inline(Box::new(MetaSchema {
                    example: Some(json!({
                        "id": "evt_1TVxYz2eZvKYlo2C0a1b2c3d", "object": "event", "api_version": "2026-09-30.endive",
                        "created": 1_900_800_000, "livemode": false, "type": "payment_intent.succeeded",
                        "data": {"object": {"id": "pi_3TVxYz2eZvKYlo2C1a2b3c4d", "object": "payment_intent"}},
                    })),
                    ..MetaSchema::new("object")
                })),
            }],
            required: true,
        })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _options: ExtractParamOptions<Self::ParamType>,
    ) -> poem::Result<Self> {
        Ok(Self(<Bytes as FromRequest>::from_request(request, body).await?))
    }
}

/// What the schema check let pass: patterns and types with rules of their own. The message names the field if it was
/// a validator that refused.
fn refused_by_parser(message: &str) -> ApiError {
    let validator = message
        .split_once("field `")
        .and_then(|(_, rest)| rest.split_once("` verification failed. "));
    match validator {
        Some((field, rule)) => ApiError::bad_request("invalid_body", "")
            .with_errors(vec![FieldError::new(field, format!("does not satisfy {rule}"))]),
        None => ApiError::bad_request("invalid_body", message),
    }
}
